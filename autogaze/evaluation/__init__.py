"""Measurements users can repeat: warm-up, medians, and the arithmetic floor beside every time."""
