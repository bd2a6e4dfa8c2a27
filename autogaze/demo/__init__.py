"""The page of `autogaze demo`: gaze at a video of one's own in a browser."""
