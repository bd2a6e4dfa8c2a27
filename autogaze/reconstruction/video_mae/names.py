"""Parameter names of image MAEs as the versions of transformers write them.

Ours are those of the published checkpoints, which transformers 4 has too. transformers 5
names modules anew, and its own files carry a third mixture.
"""

import re
from collections.abc import Mapping

from torch import Tensor

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
