"""Configurations that `python -m autogaze.train --config-name ...` knows."""
