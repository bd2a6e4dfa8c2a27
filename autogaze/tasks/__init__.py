"""Tasks: reconstruction losses of frames under a gaze, and the rewards of selectors."""
