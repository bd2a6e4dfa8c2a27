"""VideoMAE checkpoints: folders, files and image MAEs read, folders written.

A folder holds `config.json` and weights: our own (`save_video_mae`), or an image MAE's as
transformers writes it, which becomes a video model with new scale and time embeddings. A file
is a state dict (`videomae.pt` as published, or safetensors), which does not tell the number of
heads: its configuration is given or stands beside it.

By which statistics the frames that it was trained on were normalised is said in
`preprocessor_config.json`, as transformers' video processors read it. ViT-MAE's files name ImageNet's
mean and deviation and no rescaling; the published training takes them with the defaults of
`VivitImageProcessor`, which rescales to [-1, 1] first. So the published VideoMAE, whose file says
nothing, saw

    (rgb / 127.5 - 1 - mean) / std,    rgb in [0, 255]

about -6.5 to 2.6, and its `l1` is twice that of [0, 1] normalised by the same mean and deviation.
"""

import json
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from autogaze.checks import describe_value, is_finite
from autogaze.errors import AutoGazeError, CheckpointError, OutputError
from autogaze.reconstruction.video_mae.configuration import VideoMAEConfig
from autogaze.reconstruction.video_mae.modeling import VideoMAE
from autogaze.utils.checkpoints import (
    State,
    check_shapes,
    config_file,
    load_strictly,
    read_config,
    read_json,
    read_state,
    shapes,
    under_prefix,
    without_wrappers,
)
from autogaze.utils.files import all_or_none, make_folder, replacing
from autogaze.utils.hub import CONFIG, WEIGHTS, find_checkpoint
from autogaze.utils.normalization import IMAGENET, PixelStatistics

PUBLISHED_PREFIX = "mae."
"""Prefix of the parameters in the published `videomae.pt`, a state dict of its whole task."""

OUR_TYPE, IMAGE_TYPE = "autogaze_video_mae", "vit_mae"

VIDEO_PARAMETERS = (
    "vit.embeddings.scale_embed",
    "vit.embeddings.time_embed",
    "decoder.decoder_scale_embed",
    "decoder.time_embed",
)
"""Parameters that an image MAE lacks."""

# Parameter names of image MAEs as the versions of transformers write them.
_RENAMED = (
    (r"^vit\.layers\.", "vit.encoder.layer."),
    (r"^decoder\.decoder_encoder\.layer\.", "decoder.decoder_layers."),
    (r"\.attention\.q_proj\.", ".attention.attention.query."),
    (r"\.attention\.k_proj\.", ".attention.attention.key."),
    (r"\.attention\.v_proj\.", ".attention.attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)


def load_video_mae(
    source: str | Path, config: VideoMAEConfig | None = None, **changes: Any
) -> VideoMAE:
    """A VideoMAE from a folder, a checkpoint file or the Hugging Face hub.

    Args:
        source: a folder with `config.json` and weights; a state dict's file; or a hub id
            such as "facebook/vit-mae-large".
        config: its shape; by default that of the source's `config.json`.
        changes: values of the configuration to use instead, e.g. `scales`, of image MAEs.

    Raises:
        CheckpointError: nothing there, no configuration, or parameters that do not fit it.
    """
    checkpoint = find_checkpoint(source)
    config = choose_config(checkpoint, config, changes)
    return with_weights(config, read_weights(checkpoint), checkpoint)


def choose_config(
    checkpoint: Path, config: VideoMAEConfig | None, changes: Mapping[str, Any]
) -> VideoMAEConfig:
    """The shape of a checkpoint's model; see `load_video_mae`."""
    if config is not None:
        if changes:
            raise CheckpointError(
                f"give a configuration or changes to it, not both: {sorted(changes)}"
            )
        return config
    try:
        return VideoMAEConfig.of({**read_mae_config(checkpoint), **changes})
    except AutoGazeError as error:
        if str(checkpoint) in str(error):
            raise
        raise type(error)(f"{checkpoint}: {error}") from error


def with_weights(config: VideoMAEConfig, state: State, checkpoint: Path) -> VideoMAE:
    """A VideoMAE of this shape with the weights of a checkpoint, `state`.

    Raises:
        CheckpointError: see `load_video_mae`.
    """
    # A config.json may ask for any sizes: the weights must fit before memory is taken for them.
    own_state = video_mae_state(state)
    with torch.device("meta"):
        own = shapes(VideoMAE(config).state_dict())
    names = _loaded_names(own, own_state)
    check_shapes(own, shapes(own_state), checkpoint, names=names, hint=_SHAPE_HINT)
    model = VideoMAE(config)
    load_weights(model, state, checkpoint)
    return model


def load_weights(model: VideoMAE, state: State, checkpoint: Path) -> None:
    """Load a checkpoint's weights; of an image MAE, all but the embeddings that only videos need.

    Args:
        state: all tensors of the checkpoint.
        checkpoint: where they come from, for errors.

    Raises:
        CheckpointError: see `load_video_mae`; the model is then as it was.
    """
    state = video_mae_state(state)
    names = _loaded_names(model.state_dict(), state)
    load_strictly(model, state, checkpoint, names=names, hint=_SHAPE_HINT)


_SHAPE_HINT = (
    "Leave the shape (task.recon_model_config) to its config.json, or give the one that it was "
    "trained with"
)


def _loaded_names(own: Iterable[str], state: Container[str]) -> list[str]:
    """The parameters that a checkpoint must hold."""
    is_image_mae = not any(name in state for name in VIDEO_PARAMETERS)
    return [name for name in own if not (is_image_mae and name in VIDEO_PARAMETERS)]


def save_video_mae(
    model: VideoMAE,
    folder: str | Path,
    *,
    half: bool = False,
    statistics: PixelStatistics = IMAGENET,
    **recipe: Any,
) -> None:
    """Write `config.json`, `preprocessor_config.json` and `model.safetensors`, all or none.

    Args:
        model: what to write.
        folder: made if it is not there.
        half: round weights to float16; they are loaded as float32 all the same.
        statistics: by which the frames that it was trained on were normalised.
        recipe: further values of `config.json`, such as the `loss_type` and `loss_weights` that
            it was trained with.

    Raises:
        OutputError: it cannot be written, or its weights are too large for float16; an older
            checkpoint stays.
    """
    folder = Path(folder)
    make_folder(folder, parents=True)
    content = {"model_type": OUR_TYPE, **asdict(model.config), **recipe}
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    if half:
        state = {name: value.half() for name, value in state.items()}
        for name, value in state.items():
            if value.isinf().any():
                raise OutputError(f"{folder}: {name} is too large for float16; write float32")
    pixels = processor_settings(statistics, model.config.pyramid.side)
    with all_or_none():
        for name, values in ((CONFIG, content), (PROCESSOR, pixels)):
            with replacing(folder / name) as temporary:
                temporary.write_text(json.dumps(values, indent=2) + "\n")
        with replacing(folder / WEIGHTS) as temporary:
            try:
                save_file(state, temporary, metadata={"format": "pt"})
            except SafetensorError as error:  # a full disk, in safetensors' own words
                raise OutputError(f"{folder / WEIGHTS}: cannot be written: {error}") from error


def statistics_of(checkpoint: Path, state: State) -> PixelStatistics | None:
    """By which statistics the frames that a checkpoint was trained on were normalised.

    Args:
        state: all tensors of the checkpoint.

    Returns:
        Those of its `preprocessor_config.json`. Without that file, which version 0.1.0 did not
        write, this package's own checkpoints have ImageNet's statistics; of others it is None.

    Raises:
        CheckpointError: a file that cannot be read.
    """
    if (found := read_statistics(checkpoint)) is not None:
        return found
    is_own = not under_prefix(state, PUBLISHED_PREFIX) and config_file(checkpoint).is_file()
    return IMAGENET if is_own and read_config(checkpoint).get("model_type") == OUR_TYPE else None


def read_mae_config(checkpoint: Path) -> dict[str, Any]:
    """The values of a VideoMAE's or ViT-MAE's `config.json`.

    Raises:
        CheckpointError: there is none, or it is of another model or an unsupported variant.
    """
    values = read_config(checkpoint)
    kind = values.get("model_type", OUR_TYPE)
    if kind not in (OUR_TYPE, IMAGE_TYPE):
        raise CheckpointError(
            f"{checkpoint}: is neither a VideoMAE's nor a ViT-MAE's, but that of {kind!r}"
        )
    if values.get("hidden_act", "gelu") != "gelu" or not values.get("qkv_bias", True):
        raise CheckpointError(
            f"{checkpoint}: only GELU and biased queries, keys and values are supported"
        )
    if values.get("from_canvas"):
        raise CheckpointError(
            f"{checkpoint}: from_canvas is no longer supported; train a VideoMAE without it"
        )
    return values


def read_weights(checkpoint: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, without the names of wrappers (`wrapper_prefix`).

    Raises:
        CheckpointError: no weights, or none that can be read.
    """
    parts = ("vit.", "decoder.", PUBLISHED_PREFIX)
    return without_wrappers(read_state(checkpoint), lambda name: name.startswith(parts))


def video_mae_state(state: State) -> dict[str, Tensor]:
    """The VideoMAE's own parameters under our names, among all tensors of a checkpoint."""
    own = {}
    for name, value in (under_prefix(state, PUBLISHED_PREFIX) or state).items():
        if name.split(".")[0] in ("vit", "decoder"):
            for pattern, ours in _RENAMED:
                name = re.sub(pattern, ours, name)
            own[name] = value
    return own


PROCESSOR = "preprocessor_config.json"

PUBLISHED_PIXELS = PixelStatistics.of_rescaled(IMAGENET.mean, IMAGENET.std, 1 / 127.5, offset=True)
"""Of the published VideoMAE, and of every ViT-MAE in the published training."""

_HALF = (0.5, 0.5, 0.5)


def read_statistics(checkpoint: Path) -> PixelStatistics | None:
    """The statistics of a checkpoint's `preprocessor_config.json`; None where there is no such file.

    Args:
        checkpoint: a folder, or a file that `preprocessor_config.json` may lie beside.

    Raises:
        CheckpointError: the file cannot be read, or holds values that make no sense.
    """
    file = config_file(checkpoint).with_name(PROCESSOR)
    if not file.is_file():
        return None
    # What the file leaves out is as in `VivitImageProcessor`.
    given = {name: value for name, value in read_json(file).items() if value is not None}
    factor, offset = 1.0, False  # pixels as they are, 0 to 255
    if _flag(file, given, "do_rescale"):
        factor, offset = given.get("rescale_factor", 1 / 127.5), _flag(file, given, "offset")
        if not (is_finite(factor) and factor > 0):
            raise _wrong(file, "rescale_factor", "a number above 0", factor)
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if _flag(file, given, "do_normalize"):
        mean, std = (_channels(file, given, name) for name in ("image_mean", "image_std"))
        if min(std) <= 0:
            raise _wrong(file, "image_std", "numbers above 0", list(std))
    return PixelStatistics.of_rescaled(mean, std, float(factor), offset=offset)


def processor_settings(statistics: PixelStatistics, side: int) -> dict[str, Any]:
    """The content of a `preprocessor_config.json` for square frames of this side."""
    return {
        "image_processor_type": "VivitImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": side},
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "offset": False,
        "do_normalize": True,
        "image_mean": list(statistics.mean),
        "image_std": list(statistics.std),
    }


def _flag(file: Path, given: dict[str, Any], name: str) -> bool:
    value = given.get(name, True)
    if not isinstance(value, bool):
        raise _wrong(file, name, "true or false", value)
    return value


def _channels(file: Path, given: dict[str, Any], name: str) -> tuple[float, float, float]:
    value = given.get(name, _HALF)
    channels = [value] * 3 if is_finite(value) else value
    if not isinstance(channels, list | tuple) or len(channels) != 3:
        raise _wrong(file, name, "one number or three", value)
    if not all(is_finite(number) for number in channels):
        raise _wrong(file, name, "finite numbers", value)
    red, green, blue = (float(number) for number in channels)
    return red, green, blue


def _wrong(file: Path, name: str, wanted: str, value: object) -> CheckpointError:
    return CheckpointError(f"{file}: {name} must be {wanted}, got {describe_value(value)}")
