"""Which decoder reads a video file: PyAV, or torchcodec where it is wanted and there.

Neither is imported before it is needed, so that names can be checked without PyTorch.
"""

from functools import cache
from typing import TYPE_CHECKING, Any, Literal, get_args

from autogaze.checks import describe_value, is_one_of
from autogaze.errors import MissingExtraError, VideoError, first_line

if TYPE_CHECKING:
    import torch

DecoderName = Literal["auto", "pyav", "torchcodec"]
"""auto: torchcodec where frames go to a CUDA GPU, it is installed and can; else PyAV."""


@cache
def unavailable() -> str | None:
    """Why torchcodec cannot be used in this process; None where it can."""
    try:
        import torchcodec.decoders  # noqa: F401 - only whether it is there
    except ImportError:
        return "it is not installed: pip install 'autogaze[torchcodec]'"
    except Exception as error:  # FFmpeg's shared libraries are missing, or PyTorch is another one
        return f"it cannot be loaded ({first_line(error)})"
    return None


def check_decoder(decoder: Any) -> None:
    """Raise for a decoder that cannot be had, whatever the file.

    Raises:
        VideoError: no `DecoderName`, or torchcodec is asked for and cannot be loaded.
        MissingExtraError: it is asked for and not installed.
    """
    if not is_one_of(decoder, get_args(DecoderName)):
        raise VideoError(
            f"the decoder must be auto, pyav or torchcodec, got {describe_value(decoder)}"
        )
    if decoder == "torchcodec" and (cause := unavailable()) is not None:
        if "not installed" in cause:
            raise MissingExtraError("torchcodec", "torchcodec", "decoding by torchcodec")
        raise VideoError(f"torchcodec is asked for, but {cause}; leave decoder at auto")


def is_wanted(decoder: DecoderName, device: "torch.device | None") -> bool:
    """Whether torchcodec is to be tried for frames that go to a device; raises as `check_decoder`.

    On a CPU PyAV is as fast, and sees damage that torchcodec conceals.
    """
    check_decoder(decoder)
    if decoder == "auto":
        return device is not None and device.type == "cuda" and unavailable() is None
    return decoder == "torchcodec"
