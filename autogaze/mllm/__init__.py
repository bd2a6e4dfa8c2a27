"""Gazed multimodal LLMs: vision encoder and prompt pay only for the units that a gaze kept."""
