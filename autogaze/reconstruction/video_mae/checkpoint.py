"""Reading VideoMAEs from every form they come in, and writing them as folders.

A folder holds `config.json` and weights: our own (`save_video_mae`), or an image MAE's as
transformers writes it, which becomes a video model whose scale and time embeddings are
new. A file is a state dict (`videomae.pt` as published, or safetensors) and says nothing
about heads, so its configuration is given or stands beside it.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from autogaze.errors import CheckpointError, OutputError
from autogaze.reconstruction.video_mae.configuration import VideoMAEConfig
from autogaze.reconstruction.video_mae.modeling import VideoMAE
from autogaze.selectors.registry import LEARNED
from autogaze.utils.files import all_or_none, replacing
from autogaze.weights import JUDGE

# Parameter names of image MAEs as the versions of transformers write them.

PUBLISHED_PREFIX = "mae."
"""What names start with in the published `videomae.pt`, a state dict of its whole task."""

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


def video_mae_part(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The VideoMAE's own parameters under our names, whatever else a checkpoint holds."""
    inner = without_prefix(state, PUBLISHED_PREFIX) or state
    return {
        _our_name(name): value
        for name, value in inner.items()
        if name.split(".")[0] in ("vit", "decoder")
    }


def without_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """What is named under a prefix, without it."""
    return {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }


def _our_name(name: str) -> str:
    for pattern, ours in _RENAMED:
        name = re.sub(pattern, ours, name)
    return name


CONFIG, WEIGHTS = "config.json", "model.safetensors"
OUR_TYPE, IMAGE_TYPE = "autogaze_video_mae", "vit_mae"

VIDEO_PARAMETERS = (
    "vit.embeddings.scale_embed",
    "vit.embeddings.time_embed",
    "decoder.decoder_scale_embed",
    "decoder.time_embed",
)
"""What an image MAE does not have."""


def load_video_mae(
    source: str | Path, config: VideoMAEConfig | None = None, **changes: Any
) -> VideoMAE:
    """A VideoMAE from a folder, a checkpoint file or the Hugging Face hub.

    Args:
        source: "learned", the package's own; a folder with `config.json` and weights; a
            state dict's file; or a hub id such as "facebook/vit-mae-large".
        config: its shape; what the source's `config.json` says by default.
        changes: values of the configuration to use instead, e.g. `scales`, of image MAEs.

    Raises:
        CheckpointError: nothing there, no configuration, or parameters that do not fit it.
    """
    place = find_checkpoint(source)
    if config is None:
        config = VideoMAEConfig.of({**read_config(place), **changes})
    elif changes:
        raise CheckpointError(f"give a configuration or changes to it, not both: {sorted(changes)}")
    model = VideoMAE(config)
    load_weights(model, place)
    return model


def load_weights(model: VideoMAE, source: str | Path) -> None:
    """Fill a model; the embeddings that only videos need stay as they are if there are none.

    Raises:
        CheckpointError: see `load_video_mae`; the model is then as it was.
    """
    place = find_checkpoint(source)
    state = video_mae_part(read_state(place))
    own = model.state_dict()
    is_image_mae = not any(name in state for name in VIDEO_PARAMETERS)
    expected = [name for name in own if not (is_image_mae and name in VIDEO_PARAMETERS)]
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in own]
    wrong = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in expected
        if name in state and state[name].shape != own[name].shape
    ]
    if missing or unexpected or wrong:
        faults = {"missing": missing, "unexpected": unexpected, "of another shape": wrong}
        said = [
            f"{len(names)} {fault} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for fault, names in faults.items()
            if names
        ]
        raise CheckpointError(
            f"{place}: its weights are not those of a VideoMAE of this configuration: "
            f"{'; '.join(said)}. Leave the shape (task.recon_model_config) to its config.json, or "
            "give the one that it was trained with"
        )
    model.load_state_dict(state, strict=False)


def save_video_mae(
    model: VideoMAE, folder: str | Path, *, half: bool = False, **recipe: Any
) -> None:
    """Write `config.json` and `model.safetensors`, both or neither.

    Args:
        model: what to write.
        folder: made if it is not there.
        half: round to float16, half the size; it is loaded as float32 all the same.
        recipe: more for `config.json`, such as `loss_type` and `loss_weights`: what a loss
            of this judge means.

    Raises:
        OutputError: it cannot be written, or its weights are too large for float16; what
            was there before stays.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder}: cannot be made a folder: {error.strerror or error}"
        ) from error
    content = {"model_type": OUR_TYPE, **model.config.values(), **recipe}
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    if half:
        state = {name: value.half() for name, value in state.items()}
        for name, value in state.items():
            if value.isinf().any():
                raise OutputError(f"{folder}: {name} is too large for float16; write float32")
    with all_or_none():
        with replacing(folder / CONFIG) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n")
        with replacing(folder / WEIGHTS) as temporary:
            try:
                save_file(state, temporary, metadata={"format": "pt"})
            except SafetensorError as error:  # a full disk, in safetensors' own words
                raise OutputError(f"{folder / WEIGHTS}: cannot be written: {error}") from error


def find_checkpoint(source: str | Path) -> Path:
    """Where a checkpoint is: a file or folder as it is, a hub id downloaded.

    "learned" is always the package's own, as it is among the selectors; a folder of that
    name is "./learned".
    """
    if str(source) == LEARNED:
        return JUDGE
    place = Path(source)
    if place.exists():
        return place
    owner, slash, name = str(source).partition("/")
    if not (slash and owner and name) or "/" in name or owner[0] in ".~" or place.suffix:
        raise CheckpointError(
            f"{source}: no such checkpoint file or folder (the package's own is {LEARNED!r})"
        )
    from huggingface_hub import snapshot_download

    try:
        folder = Path(
            snapshot_download(str(source), allow_patterns=["config.json", "*.safetensors"])
        )
        if not _weights(folder):
            pickled = ["config.json", "pytorch_model.bin"]
            folder = Path(snapshot_download(str(source), allow_patterns=pickled))
    except (OSError, ValueError) as error:  # every error of the hub's client is one of these
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{source}: there is no such folder here, and it cannot be fetched from the Hugging "
            f"Face hub ({cause}); give the path of a checkpoint folder or file"
        ) from error
    return folder


def config_file(place: Path) -> Path:
    """Where a checkpoint's shape is said: in its folder, or beside its file."""
    return (place if place.is_dir() else place.parent) / CONFIG


def read_config(place: Path) -> dict[str, Any]:
    """What `config.json` says, in a folder or beside a file.

    Raises:
        CheckpointError: there is none, or it is no MAE's.
    """
    file = config_file(place)
    try:
        values = json.loads(file.read_text())
    except FileNotFoundError:
        raise CheckpointError(
            f"{place}: no {CONFIG} says what shape this VideoMAE has; give its configuration"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read as JSON: {error}") from error
    kind = values.get("model_type", OUR_TYPE) if isinstance(values, dict) else None
    if kind not in (OUR_TYPE, IMAGE_TYPE):
        raise CheckpointError(f"{file}: is no VideoMAE's nor a ViT-MAE's, but that of {kind!r}")
    if values.get("hidden_act", "gelu") != "gelu" or not values.get("qkv_bias", True):
        raise CheckpointError(f"{file}: only GELU and biased queries, keys and values are known")
    return values


def read_state(place: Path) -> dict[str, Tensor]:
    """Tensors of a checkpoint, by name; nothing in it is ever executed.

    Args:
        place: a file, or a folder with one or more of weights.

    Raises:
        CheckpointError: no weights, or none that can be read.
    """
    if not place.exists():
        raise CheckpointError(f"{place}: no such checkpoint file or folder")
    files = _weights(place) if place.is_dir() else [place]
    if not files:
        raise CheckpointError(f"{place}: holds no weights ({WEIGHTS} or pytorch_model.bin)")
    state: dict[str, Tensor] = {}
    for file in files:
        state |= _read_file(file)
    return state


def _weights(folder: Path) -> list[Path]:
    for pattern in (WEIGHTS, "model-*-of-*.safetensors", "pytorch_model.bin"):
        if found := sorted(folder.glob(pattern)):
            return found
    return []


def _read_file(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: cannot be read: {error}") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:  # torch's own words advise to load it unsafely
        raise CheckpointError(
            f"{path}: cannot be read as a state dict: it is no file of tensors alone, and nothing "
            "else is loaded, since it could run code"
        ) from None
    except Exception as error:  # torch raises many kinds, none of them documented
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path}: cannot be read as a state dict: {cause}") from error
    if not isinstance(state, Mapping) or not all(isinstance(x, Tensor) for x in state.values()):
        raise CheckpointError(f"{path}: holds {type(state).__name__}, not a state dict")
    return dict(state)
