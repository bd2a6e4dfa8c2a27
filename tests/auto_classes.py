"""transformers' Auto classes, as users import them."""

from typing import Any

import pytest
import transformers


def auto_image_processor() -> Any:
    """`transformers.AutoImageProcessor`; skips a test where that is a placeholder."""
    try:
        transformers.AutoImageProcessor.register  # noqa: B018 - a placeholder raises
    except ImportError:
        pytest.skip(
            "this transformers (5.5 to 5.17 do) has AutoImageProcessor only with torchvision"
        )
    return transformers.AutoImageProcessor
