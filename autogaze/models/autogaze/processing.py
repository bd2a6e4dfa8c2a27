"""Preprocessing of RGB frames: resizing and normalisation as in training.

The arguments are those of transformers' video processors (`VivitImageProcessor`), each of them
for all calls in the constructor, or for one call. `FrameTransform` checks their values.
"""

import logging
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

# Not from `transformers`, where several versions hide it unless torchvision is installed.
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from autogaze.errors import SelectorError
from autogaze.models.autogaze.configuration import AutoGazeConfig
from autogaze.models.autogaze.frame_transform import Frame, FrameTransform, read_videos
from autogaze.utils.normalization import IMAGENET

log = logging.getLogger("autogaze.preprocessing")


class AutoGazeImageProcessor(BaseImageProcessor):
    """Image processor: resizes, scales to [-1, 1], then normalises by ImageNet's statistics.

    Args:
        do_resize: resize frames to `size`. Pillow does it, in 8 bits: floats in [0, 1] are rounded
            down to 255ths on the way, as transformers does; other floats are resized as they are.
        size: {"shortest_edge": n} keeps the aspect ratio, {"height": h, "width": w}
            does not; a number means the shortest edge, a pair height and width.
        resample: Pillow's filter, a number or `PIL.Image.Resampling`.
        do_center_crop, crop_size: cut the middle out of frames, or pad them with zeros; a number
            means a square.
        do_rescale, rescale_factor: multiply values by the factor.
        offset: subtract 1 afterwards; without rescaling it has no effect.
        do_normalize, image_mean, image_std: (value - mean) / std, of the rescaled values; one
            number, or one per channel.

    Raises:
        SelectorError: a value that makes no sense, or an argument that does not exist.
    """

    model_input_names = ["pixel_values"]  # noqa: RUF012 - as transformers declares it

    def __init__(
        self,
        do_resize: Any = True,
        size: Any = None,
        resample: Any = Image.Resampling.BILINEAR,
        do_center_crop: Any = False,
        crop_size: Any = None,
        do_rescale: Any = True,
        rescale_factor: Any = 1 / 127.5,
        offset: Any = True,
        do_normalize: Any = True,
        image_mean: Any = None,
        image_std: Any = None,
        **others: Any,
    ) -> None:
        _refuse(key for key in others if key not in _SERVICE and not key.startswith("_"))
        super().__init__(**others)
        # Attributes of these names, which transformers saves as preprocessor_config.json.
        self.__dict__ |= FrameTransform(
            do_resize=do_resize,
            size={"shortest_edge": 224} if size is None else size,
            resample=resample,
            do_center_crop=do_center_crop,
            crop_size={"height": 224, "width": 224} if crop_size is None else crop_size,
            do_rescale=do_rescale,
            rescale_factor=rescale_factor,
            offset=offset,
            do_normalize=do_normalize,
            image_mean=IMAGENET.mean if image_mean is None else image_mean,
            image_std=IMAGENET.std if image_std is None else image_std,
        ).__dict__

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """A processor of saved settings, some of them replaced by keyword arguments."""
        wants_unused = kwargs.pop("return_unused_kwargs", False)
        given = {key: kwargs.pop(key) for key in _NAMES & kwargs.keys()}
        if not wants_unused:
            _refuse(key for key in kwargs if key not in _LOADING and not key.startswith("_"))
        # Files of other versions name options that are not set as null.
        saved = {key: value for key, value in image_processor_dict.items() if value is not None}
        processor = cls(**{**saved, **given})
        return (processor, kwargs) if wants_unused else processor

    def __call__(  # type: ignore[override] # the base demands images and lists its own options
        self, images: Any = None, *args: Any, **kwargs: Any
    ) -> BatchFeature:
        """`preprocess`; frames may be given as `images=` or `videos=` too."""
        if images is None:
            return self.preprocess(*args, **kwargs)
        return self.preprocess(images, *args, **kwargs)

    def preprocess(
        self,
        videos: Any = None,
        do_resize: Any = None,
        size: Any = None,
        resample: Any = None,
        do_center_crop: Any = None,
        crop_size: Any = None,
        do_rescale: Any = None,
        rescale_factor: Any = None,
        offset: Any = None,
        do_normalize: Any = None,
        image_mean: Any = None,
        image_std: Any = None,
        return_tensors: Any = None,
        data_format: Any = "channels_first",
        input_data_format: Any = None,
        *,
        images: Any = None,
        **unknown: Any,
    ) -> BatchFeature:
        """Frames to `pixel_values`.

        Args:
            videos: one frame; a list, array or tensor of frames (a video); or a list, array or
                tensor of videos. A frame is a PIL image, or (H, W, 3) or (3, H, W) of integers in
                [0, 255] or floats: in [0, 255] too, or in [0, 1] with `do_rescale=False`.
            do_resize, ..., image_std: as of the constructor, for this call.
            return_tensors: "pt" for a tensor, "np" for an array; None for nested lists.
            data_format: of the result, "channels_first" or "channels_last"; None for the frames'.
            input_data_format: of the frames; None tells it from their shapes.
            images: another name of `videos`.

        Returns:
            pixel_values: (B, T, 3, h, w), where one video is B = 1; without `return_tensors` a
            list of videos, each a list of (3, h, w) arrays. They are float32; with neither
            rescaling nor normalisation what the frames were.

        Raises:
            SelectorError: frames or arguments of another kind; frames of several sizes, or videos
                of several lengths, that should become one tensor.
        """
        _refuse(unknown)
        if (videos is None) == (images is None):
            raise SelectorError(
                "give frames once: processor(frames), videos=frames or images=frames"
            )
        if offset and do_rescale is False:
            raise SelectorError("offset=True needs do_rescale=True: it shifts rescaled values")
        given = {
            "do_resize": do_resize,
            "size": size,
            "resample": resample,
            "do_center_crop": do_center_crop,
            "crop_size": crop_size,
            "do_rescale": do_rescale,
            "rescale_factor": rescale_factor,
            "offset": offset,
            "do_normalize": do_normalize,
            "image_mean": image_mean,
            "image_std": image_std,
        }
        options = FrameTransform(
            **{key: getattr(self, key) if value is None else value for key, value in given.items()}
        )
        _check_choice("return_tensors", return_tensors, ("pt", "np"))
        _check_choice("data_format", data_format, ("channels_first", "channels_last"))
        _check_choice("input_data_format", input_data_format, ("channels_first", "channels_last"))
        clips = read_videos(videos if images is None else images, input_data_format)
        if options.do_rescale and all(_in_unit_range(clip) for clip in clips):
            log.warning(
                "rescaling frames that lie in [0, 1] already; give do_rescale=False to leave them"
            )
        values = [[_laid_out(frame, options, data_format) for frame in clip] for clip in clips]
        if return_tensors is None:
            return BatchFeature({"pixel_values": values})
        array = _stacked(values)
        return BatchFeature(
            {"pixel_values": torch.from_numpy(array) if return_tensors == "pt" else array}
        )


_NAMES = {field.name for field in fields(FrameTransform)}
_SERVICE = {
    "auto_map",
    "feature_extractor_type",
    "image_processor_type",
    "processor_class",
    "transformers_version",
}
"""What transformers writes into preprocessor_config.json about the file itself."""
_LOADING = {"backend", "code_revision", "trust_remote_code", "use_fast"}
"""Arguments of `from_pretrained` that transformers hands on."""


def _refuse(unknown: Any) -> None:
    names = sorted(unknown)
    if names:
        raise SelectorError(
            f"unknown argument{'s' if len(names) > 1 else ''} {', '.join(names)}; "
            f"known: {', '.join(sorted(_NAMES))}"
        )


def _check_choice(name: str, value: Any, known: tuple[str, ...]) -> None:
    """Raise SelectorError unless `value` is None or one of `known`."""
    if value is not None and value not in known:
        raise SelectorError(f"{name} must be None or one of {', '.join(known)}; got {value!r}")


def _in_unit_range(clip: Sequence[Frame]) -> bool:
    """Whether all frames of a clip are floats in [0, 1], and not all black."""
    floats = [frame.pixels for frame in clip if frame.pixels.dtype != np.uint8]
    if len(floats) < len(clip):
        return False
    high = max(float(pixels.max()) for pixels in floats)
    return 0 < high <= 1 and min(float(pixels.min()) for pixels in floats) >= 0


def _laid_out(frame: Frame, options: FrameTransform, data_format: str | None) -> np.ndarray:
    """A preprocessed frame, channels where they are asked for."""
    values = options.apply(frame.pixels)
    first = frame.channels_first if data_format is None else data_format == "channels_first"
    return np.ascontiguousarray(values.transpose(2, 0, 1)) if first else values


def _stacked(values: list[list[np.ndarray]]) -> np.ndarray:
    """(B, T, ...) of videos of equal shape."""
    lengths = sorted({len(clip) for clip in values})
    shapes = sorted({frame.shape for clip in values for frame in clip})
    if len(lengths) > 1 or len(shapes) > 1:
        raise SelectorError(
            f"videos of {lengths} frames with preprocessed frames of shapes {shapes} do not fit one "
            'tensor: give size={"height": h, "width": w} or do_center_crop=True for equal frames, '
            "cut videos to one length, or leave return_tensors out"
        )
    return np.stack([np.stack(clip) for clip in values])


AutoImageProcessor.register(
    AutoGazeConfig, slow_image_processor_class=AutoGazeImageProcessor, exist_ok=True
)
