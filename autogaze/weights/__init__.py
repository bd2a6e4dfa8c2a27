"""Weights that come with the package, in float16; what they are is in the README.md beside.

They were trained from nothing on data that may be given away, and are Apache-2.0.
"""

from pathlib import Path

SELECTOR = Path(__file__).parent / "selector"
"""The learned selector: a folder for `AutoGaze.from_pretrained`."""
