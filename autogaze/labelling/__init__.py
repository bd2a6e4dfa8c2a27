"""Gaze labels: greedy searches with a judge, and the file that they are kept in."""
