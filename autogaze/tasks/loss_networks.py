"""The frozen networks that losses compare features of.

From the parameters in a published `videomae.pt`, whose shapes say everything but the
number of heads (64 channels each, as in all models of these families), so that nothing
need be fetched; or from the Hugging Face hub.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from autogaze.errors import CheckpointError

State = Mapping[str, Tensor]

DINOV2_REG = "facebook/dinov2-with-registers-base"
SIGLIP2 = "google/siglip2-base-patch16-224"
HEAD_WIDTH = 64


def load_dinov2_reg(state: State | None = None) -> Any:
    """DINOv2 with registers.

    Raises:
        CheckpointError: parameters of something else, or a hub that cannot be reached.
    """
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    if state is None:
        return _fetch(Dinov2WithRegistersModel, DINOV2_REG)
    try:
        width = state["embeddings.cls_token"].shape[-1]
        patch = state["embeddings.patch_embeddings.projection.weight"].shape[-1]
        cells = state["embeddings.position_embeddings"].shape[1] - 1
        config = Dinov2WithRegistersConfig(
            hidden_size=width,
            num_hidden_layers=_count(state, "encoder.layer."),
            num_attention_heads=max(1, width // HEAD_WIDTH),
            mlp_ratio=state["encoder.layer.0.mlp.fc1.weight"].shape[0] // width,
            image_size=round(cells**0.5) * patch,
            patch_size=patch,
            num_register_tokens=state["embeddings.register_tokens"].shape[1],
        )
    except KeyError as error:
        raise CheckpointError(f"the dinov2_reg network has no {error}") from None
    return _fill(Dinov2WithRegistersModel, config, state)


def load_siglip2(state: State | None = None) -> Any:
    """SigLIP2's vision part.

    Raises:
        CheckpointError: parameters of something else, or a hub that cannot be reached.
    """
    from transformers import SiglipVisionConfig, SiglipVisionModel

    if state is None:
        return _fetch(SiglipVisionModel, SIGLIP2)
    state = {name.removeprefix("vision_model."): value for name, value in state.items()}
    try:
        intermediate, width = state["encoder.layers.0.mlp.fc1.weight"].shape
        patch = state["embeddings.patch_embedding.weight"].shape[-1]
        config = SiglipVisionConfig(
            hidden_size=width,
            num_hidden_layers=_count(state, "encoder.layers."),
            num_attention_heads=max(1, width // HEAD_WIDTH),
            intermediate_size=intermediate,
            image_size=round(len(state["embeddings.position_embedding.weight"]) ** 0.5) * patch,
            patch_size=patch,
            vision_use_head="head.probe" in state,
        )
    except KeyError as error:
        raise CheckpointError(f"the siglip2 network has no {error}") from None
    # transformers 4 keeps the model one level down.
    if any(name.startswith("vision_model.") for name in SiglipVisionModel(config).state_dict()):
        state = {f"vision_model.{name}": value for name, value in state.items()}
    return _fill(SiglipVisionModel, config, state)


def _count(state: State, prefix: str) -> int:
    """How many numbered layers there are."""
    numbers = [int(name.split(".")[2]) for name in state if name.startswith(prefix)]
    return 1 + max(numbers, default=-1)


def _fill(kind: Any, config: Any, state: State) -> Any:
    """A network of these parameters; transformers translates names between its versions."""
    network, found = kind.from_pretrained(
        None, config=config, state_dict=dict(state), output_loading_info=True
    )
    missing, unexpected = sorted(found["missing_keys"]), sorted(found["unexpected_keys"])
    if missing or unexpected or found["mismatched_keys"]:
        raise CheckpointError(
            f"not the parameters of a {kind.__name__}: missing {missing[:3]}, unexpected "
            f"{unexpected[:3]}, of another shape {sorted(map(str, found['mismatched_keys']))[:3]}"
        )
    return network


def _fetch(kind: Any, name: str) -> Any:
    try:
        return kind.from_pretrained(name)
    except (OSError, ValueError) as error:
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{name} is neither in the checkpoint nor can it be fetched from the Hugging Face "
            f"hub ({cause}); download it once where there is a network, or leave it out of loss_type"
        ) from error
