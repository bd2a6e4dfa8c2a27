"""Measurements: cost of selecting and encoding, fidelity of features, quality of selectors."""
