"""Training of selectors and of reconstruction models."""
