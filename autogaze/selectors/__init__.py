"""Selectors: one protocol, one file each."""
