"""The page of `autogaze demo`."""
