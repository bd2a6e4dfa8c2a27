"""What a gaze preserves of a video: frames rebuilt from chosen patches, and their loss."""
