"""Tiny random multimodal LLMs of the real classes, and dense inputs for them: Qwen's, and all."""

import functools
import inspect
from typing import Any

import pytest
import torch
import transformers

from tests.mllm.tiny_frames import FRAME_FAMILIES
from tests.mllm.tiny_models import (
    END,
    IMAGE,
    PAD,
    START,
    TEXT,
    TOKENS,
    VIDEO,
    Family,
    Video,
    random_model,
)


def qwen3_vl() -> Any:
    config = transformers.Qwen3VLConfig(
        text_config={
            **TEXT,
            "rope_scaling": {
                "rope_type": "default",
                "mrope_section": [2, 1, 1],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": 4,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 4,
            "out_hidden_size": 32,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0, 2],
        },
        **TOKENS,
    )
    return random_model(transformers.Qwen3VLForConditionalGeneration, config)


def qwen2_5_vl() -> Any:
    config = transformers.Qwen2_5_VLConfig(
        text_config={
            **TEXT,
            "rope_scaling": {"rope_type": "default", "mrope_section": [2, 1, 1]},
        },
        vision_config={
            "depth": 4,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 4,
            "out_hidden_size": 32,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 16,
            "fullatt_block_indexes": [1, 3],
            "tokens_per_second": 2,
        },
        **TOKENS,
    )
    return random_model(transformers.Qwen2_5_VLForConditionalGeneration, config)


def qwen3_5() -> Any:
    config = transformers.Qwen3_5Config(
        text_config={
            **TEXT,
            "num_hidden_layers": 4,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 1.0,
                "mrope_section": [2, 1, 1],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 4,
            "out_hidden_size": 32,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 16,
        },
        **TOKENS,
    )
    return random_model(transformers.Qwen3_5ForConditionalGeneration, config)


def takes_token_types() -> bool:
    """Whether this version of transformers asks which tokens are placeholders."""
    known = inspect.signature(transformers.Qwen2_5_VLModel.get_rope_index).parameters
    return "mm_token_type_ids" in known


def skip_where_time_stands_still(name: str) -> None:
    """Skip a test where the untouched Qwen2.5-VL places all frames of a video at one time."""
    if name == "qwen2_5_vl" and (5, 3) <= tuple(
        map(int, transformers.__version__.split(".")[:2])
    ) < (5, 8):
        pytest.skip("needs transformers 5.8, which places frames of Qwen2.5-VL at different times")


def qwen_rows(rows: list[list[int | Video]], timestamps: bool) -> dict[str, Any]:
    """A dense input of a Qwen model: every row is text ids and videos."""
    generator = torch.Generator().manual_seed(1)
    ids: list[list[int]] = []
    found: dict[bool, list[Video]] = {False: [], True: []}
    for row in rows:
        out: list[int] = []
        for piece in row:
            if isinstance(piece, int):
                out.append(piece)
                continue
            found[piece.image].append(piece)
            token = IMAGE if piece.image else VIDEO
            units = piece.rows * piece.columns
            blocks = piece.tubelets if timestamps else 1
            for block in range(blocks):
                if timestamps and not piece.image:
                    out += [20 + block, 30]  # a timestamp
                out += [START, *[token] * (units * piece.tubelets // blocks), END]
        ids.append(out)
    longest = max(map(len, ids))
    padded = torch.tensor([[PAD] * (longest - len(row)) + row for row in ids])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ids])
    inputs: dict[str, Any] = {"input_ids": padded, "attention_mask": mask}
    for image, name, grid in (
        (False, "pixel_values_videos", "video_grid_thw"),
        (True, "pixel_values", "image_grid_thw"),
    ):
        videos = found[image]
        if videos:
            sizes = [[v.tubelets, v.rows * 2, v.columns * 2] for v in videos]
            inputs[grid] = torch.tensor(sizes)
            patches = sum(t * h * w for t, h, w in sizes)
            inputs[name] = torch.randn(patches, 3 * 2 * 4 * 4, generator=generator)
    if not timestamps and found[False]:
        inputs["second_per_grid_ts"] = torch.tensor([v.seconds for v in found[False]])
    if takes_token_types():
        types = (padded == IMAGE).int() + 2 * (padded == VIDEO).int()
        inputs["mm_token_type_ids"] = types
    return inputs


FAMILIES = {
    "qwen2_5_vl": Family(
        qwen2_5_vl,
        functools.partial(qwen_rows, timestamps=False),
        Video(3, 3, 5, seconds=0.7),
        Video(2, 4, 2, seconds=2.5),
        Video(1, 2, 3, image=True),
    ),
    "qwen3_vl": Family(
        qwen3_vl,
        functools.partial(qwen_rows, timestamps=True),
        Video(3, 3, 5),
        Video(2, 4, 2),
        Video(1, 2, 3, image=True),
    ),
}
if hasattr(transformers, "Qwen3_5Config"):
    FAMILIES["qwen3_5"] = Family(
        qwen3_5,
        functools.partial(qwen_rows, timestamps=True),
        Video(3, 3, 5),
        Video(2, 4, 2),
        Video(1, 2, 3, image=True),
    )
FAMILIES.update(FRAME_FAMILIES)
