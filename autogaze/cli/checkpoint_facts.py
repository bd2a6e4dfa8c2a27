"""Facts of a checkpoint folder for `autogaze info`, read without PyTorch, whose import takes seconds.

Only checkpoints in which all is as it should be are described here. Whatever else is in a
folder is left to `autogaze.load`, which takes more forms and says what is wrong.
"""

import json
import math
import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from autogaze.checks import MAX_PATCHES, MAX_SCALES, MAX_SIDE, is_finite

Facts = dict[str, Any]
Shapes = dict[str, tuple[int, ...]]

_OPTIONS = {
    "architectures",
    "attn_mode",
    "decode_positions",
    "dtype",
    "gaze_model_config",
    "gazing_ratio_config",
    "gazing_ratio_each_frame_config",
    "has_task_loss_requirement_during_inference",
    "has_task_loss_requirement_during_training",
    "inhibition_of_return",
    "max_batch_size",
    "max_num_frames",
    "model_type",
    "num_vision_tokens_each_frame",
    "scales",
    "task_loss_requirement_config",
    "torch_dtype",
    "transformers_version",
    "use_flash_attn",
}
"""Options of `config.json` that are known here; transformers reads others too."""


class _UnusualError(Exception):
    """A checkpoint that is not described here."""


def checkpoint_facts(folder: Path) -> Facts | None:
    """Facts of a checkpoint; None if it is damaged, or of a form that is not known here."""
    import numpy as np
    from safetensors import safe_open

    try:
        config = json.loads((folder / "config.json").read_text())
        if (folder / "adapter_config.json").exists():
            return None
        facts, shapes = _read_config(config)
        with safe_open(folder / "model.safetensors", framework="np") as file:
            _require((file.metadata() or {}).get("format") == "pt")
            _require(set(file.keys()) == set(shapes))
            for name, shape in shapes.items():
                stored = file.get_slice(name)
                _require(tuple(stored.get_shape()) == shape)
                _require(stored.get_dtype() in ("F16", "F32"))
            for name in shapes:
                _require(bool(np.isfinite(file.get_tensor(name)).all()))
    except Exception:  # files and values may be wrong in any of many ways
        return None
    return facts


def _require(condition: bool) -> None:
    if not condition:
        raise _UnusualError


def _read_config(config: Mapping[str, Any]) -> tuple[Facts, Shapes]:
    """Facts, and the shapes of all weights by name; raises errors of any kind."""
    model = config["gaze_model_config"]
    stem, decoder = model["vision_model_config"], model["gaze_decoder_config"]
    tokens = model["connector_config"]["num_tokens"]
    patch_size = _count(stem["kernel_size"])
    _require(re.fullmatch(r"[0-9]{1,9}(\+[0-9]{1,9})*", config["scales"]) is not None)
    scales = [int(scale) for scale in config["scales"].split("+")]
    patches = sum((scale // patch_size) ** 2 for scale in scales)
    threshold = config["task_loss_requirement_config"]["fixed"]["task_loss_requirement"]
    inhibition = config.get("inhibition_of_return")
    flags = [name for name in config if name.startswith("has_task_loss_requirement_during_")]
    _require(
        config["model_type"] == "autogaze"
        and set(config) <= _OPTIONS
        and all(config.get(name) in (None, "float32") for name in ("dtype", "torch_dtype"))
        and all(isinstance(config[name], bool) for name in flags)
        and all(isinstance(config[name], dict) for name in config if name.endswith("_config"))
        and all(
            isinstance(config[name], kind)
            for name, kind in (("attn_mode", str), ("use_flash_attn", bool))
            if name in config
        )
        and config.get("decode_positions", "as_released") in ("as_released", "sequential")
        and (inhibition is None or (is_finite(inhibition) and inhibition > 0))
        and is_finite(threshold)
        and config.get("max_batch_size") is None
        and _count(config["max_num_frames"]) > 0
        and len(scales) <= MAX_SCALES
        and all(lower < higher for lower, higher in pairwise(scales))
        and not any(scale % patch_size for scale in scales)
        and 0 < scales[0] <= scales[-1] <= MAX_SIDE
        and patches == config["num_vision_tokens_each_frame"] <= MAX_PATCHES
        and decoder["vocab_size"] == patches + 1
        and _count(model["input_img_size"]) % patch_size == 0
        and tokens == (model["input_img_size"] // patch_size) ** 2
        and stem["temporal_patch_size"] == 1
        and _count(stem["trunk_spatial_kernel_size"]) % 2 == 1
        and stem["out_dim"] == model["connector_config"]["hidden_dim"] == decoder["hidden_size"]
        and _positive(decoder, "rms_norm_eps", "initializer_range", "max_position_embeddings")
        and _rope_is_known(decoder)
    )
    facts = {
        "kind": "checkpoint",
        "selector": "learned",
        "pyramid": f"{'+'.join(map(str, scales))} / {patch_size}",
        "patches_per_frame": patches,
        "metric": "predicted",
        "judge": "predicted",
        "default_loss": float(threshold),
    }
    return facts, _stem_shapes(stem, tokens) | _decoder_shapes(decoder)


def _count(value: Any) -> int:
    """A value that is a whole number in [1, 65536]."""
    if type(value) is not int or not 1 <= value <= 2**16:
        raise _UnusualError
    return value


def _positive(options: Mapping[str, Any], *names: str) -> bool:
    return all(is_finite(options[name]) and options[name] > 0 for name in names)


def _rope_is_known(decoder: Mapping[str, Any]) -> bool:
    """Whether RoPE is that of Llama 3, as transformers 4 or 5 writes it."""
    rope = decoder.get("rope_parameters")
    if rope is None:
        rope = {**decoder["rope_scaling"], "rope_theta": decoder["rope_theta"]}
    factors = "low_freq_factor", "high_freq_factor"
    return (
        rope["rope_type"] == "llama3"
        and _positive(rope, "rope_theta", "factor", *factors, "original_max_position_embeddings")
        and rope[factors[0]] != rope[factors[1]]
    )


def _stem_shapes(stem: Mapping[str, Any], tokens: int) -> Shapes:
    """Weights of the vision stem and the position embedding."""
    width, out, patch = (_count(stem[name]) for name in ("hidden_dim", "out_dim", "kernel_size"))
    time, space = (_count(stem[f"trunk_{axis}_kernel_size"]) for axis in ("temporal", "spatial"))
    shapes: Shapes = {
        "temporal_conv.weight": (width, 3, 1, patch, patch),
        "temporal_conv.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
        "out_proj.weight": (out, width, 1, 1, 1),
        "out_proj.bias": (out,),
    }
    for block in range(_layers(stem["depth"])):
        shapes[f"blocks.{block}.conv3d.weight"] = (width, width, time, space, space)
        shapes[f"blocks.{block}.conv3d.bias"] = (width,)
    named = {f"gazing_model.vision_model.{name}": shape for name, shape in shapes.items()}
    return {**named, "gazing_model.connector.pos_embed": (tokens, out)}


def _decoder_shapes(decoder: Mapping[str, Any]) -> Shapes:
    """Weights of the gaze decoder."""
    width, inner, heads, shared, size, block = (
        _count(decoder[name])
        for name in (
            "hidden_size",
            "intermediate_size",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "num_multi_token_pred",
        )
    )
    _require(heads % shared == 0 and size % 2 == 0)
    vocabulary = decoder["vocab_size"]
    shapes: Shapes = {
        "lm_head.weight": (block * vocabulary, width),
        "task_loss_prediction_head.weight": (block, width),
        "model.embed_tokens.weight": (vocabulary, width),
        "model.norm.weight": (width,),
    }
    layer: Shapes = {
        "self_attn.q_proj.weight": (heads * size, width),
        "self_attn.k_proj.weight": (shared * size, width),
        "self_attn.v_proj.weight": (shared * size, width),
        "self_attn.o_proj.weight": (width, heads * size),
        "mlp.gate_proj.weight": (inner, width),
        "mlp.up_proj.weight": (inner, width),
        "mlp.down_proj.weight": (width, inner),
        "input_layernorm.weight": (width,),
        "post_attention_layernorm.weight": (width,),
    }
    for number in range(_layers(decoder["num_hidden_layers"])):
        shapes |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
    _require(sum(map(math.prod, shapes.values())) <= 2**29)
    return {f"gazing_model.gaze_decoder.{name}": shape for name, shape in shapes.items()}


def _layers(value: Any) -> int:
    _require(_count(value) <= 256)
    return int(value)
