"""Gaze labels: greedy searches under a reconstruction metric, and the files they are made in."""
