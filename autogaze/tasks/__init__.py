"""What a gaze is good for: tasks judge gazes, and their judgement trains selectors."""
