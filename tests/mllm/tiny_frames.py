"""Tiny random models of the families that take frames one by one, and dense inputs for them."""

from typing import Any

import torch
import transformers

from autogaze.mllm import KeptUnits
from tests.mllm.tiny_models import IMAGE, PAD, TEXT, VIDEO, Family, Video, random_model

VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}


def llava_onevision(**options: Any) -> Any:
    """5 x 5 patches of a frame, 2 pixels left over, to 3 x 3 units."""
    config = transformers.LlavaOnevisionConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "image_size": 22,
            "patch_size": 4,
            "vision_use_head": False,
            **VISION,
        },
        text_config={"model_type": "qwen2", **TEXT},
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=[[22, 44], [44, 22], [44, 44]],
        vision_aspect_ratio="anyres_max_4",
        **options,
    )
    return random_model(transformers.LlavaOnevisionForConditionalGeneration, config)


def smolvlm() -> Any:
    config = transformers.SmolVLMConfig(
        vision_config={"image_size": 32, "patch_size": 4, **VISION},
        text_config={"model_type": "llama", **TEXT},
        image_token_id=IMAGE,
        scale_factor=2,
        pad_token_id=PAD,
        tie_word_embeddings=False,
    )
    return random_model(transformers.SmolVLMForConditionalGeneration, config)


def internvl(**options: Any) -> Any:
    config = transformers.InternVLConfig(
        vision_config={
            "image_size": [32, 32],
            "patch_size": [4, 4],
            "use_absolute_position_embeddings": True,
            "layer_scale_init_value": 0.5,
            "use_qk_norm": True,
            "use_mean_pooling": False,
            **VISION,
        },
        text_config={"model_type": "qwen2", **TEXT},
        image_token_id=IMAGE,
        **options,
    )
    return random_model(transformers.InternVLForConditionalGeneration, config)


def frame_rows(rows: list[list[int | Video]], side: int, nested: bool) -> dict[str, Any]:
    """A dense input of a model to which videos are images: every frame a block of its own.

    Args:
        rows: text ids and videos.
        side: of a frame in pixels.
        nested: frames of every row apart, filled up with zeros, or in one list.
    """
    generator = torch.Generator().manual_seed(1)
    ids: list[list[int]] = []
    counts = []
    for row in rows:
        out: list[int] = []
        for piece in row:
            if isinstance(piece, int):
                out.append(piece)
                continue
            for frame in range(piece.tubelets):
                out += [20 + frame, 30, *[IMAGE] * (piece.rows * piece.columns), 30]
        ids.append(out)
        counts.append(sum(piece.tubelets for piece in row if isinstance(piece, Video)))
    frames = torch.randn(sum(counts), 3, side, side, generator=generator)
    if nested:
        frames = torch.nn.utils.rnn.pad_sequence(list(frames.split(counts)), batch_first=True)
    return {**_padded(ids), "pixel_values": frames}


def llava_rows(rows: list[list[int | Video]]) -> dict[str, Any]:
    """A dense input of LLaVA-OneVision; images are 40 pixels high and 20 wide."""
    generator = torch.Generator().manual_seed(1)
    ids: list[list[int]] = []
    videos, images = [], 0
    for row in rows:
        out: list[int] = []
        for piece in row:
            if isinstance(piece, int):
                out.append(piece)
            elif piece.image:
                images += 1
                # 5 x 5 of the whole, and 10 x 5 of two crops with a newline behind each row.
                out += [IMAGE] * (25 + 10 * (5 + 1))
            else:
                videos.append(piece.tubelets)
                out += [VIDEO] * (piece.tubelets * 9 + 1)
        ids.append(out)
    inputs = _padded(ids)
    if videos:
        shape = (len(videos), videos[0], 3, 22, 22)
        inputs["pixel_values_videos"] = torch.randn(shape, generator=generator)
    if images:
        inputs["pixel_values"] = torch.randn(images, 3, 3, 22, 22, generator=generator)
        inputs["image_sizes"] = torch.tensor([[40, 20]] * images)
    return inputs


def _padded(ids: list[list[int]]) -> dict[str, Any]:
    """Rows of text, padded on the left."""
    longest = max(map(len, ids))
    return {
        "input_ids": torch.tensor([[PAD] * (longest - len(row)) + row for row in ids]),
        "attention_mask": torch.tensor(
            [[0] * (longest - len(row)) + [1] * len(row) for row in ids]
        ),
    }


def llava_tokens(kept: KeptUnits) -> int:
    """Patches of a video that the kept units of every frame depend on; an image's are all."""
    if kept.grid.dense != (3, 3):
        return 3 * 25
    # What each unit takes of each patch: the interpolation of one patch at a time.
    single = torch.eye(25).view(25, 1, 5, 5)
    shares = torch.nn.functional.interpolate(single, size=(3, 3), mode="bilinear").flatten(1)
    frames = kept.ids.split(kept.lengths)
    return sum(int((shares[:, units] > 1e-6).any(1).sum()) for units in frames)


def internvl_tokens(kept: KeptUnits) -> int:
    """Patches, and the class token of every frame that has some."""
    return 4 * kept.num_units + sum(length > 0 for length in kept.lengths)


FRAME_FAMILIES = {
    "llava_onevision": Family(
        llava_onevision,
        llava_rows,
        Video(3, 3, 3),
        Video(3, 3, 3),
        Video(1, 5, 17, image=True),
        llava_tokens,
    ),
    "smolvlm": Family(
        smolvlm,
        lambda rows: frame_rows(rows, side=32, nested=True),
        Video(3, 4, 4),
        Video(2, 4, 4),
        None,
    ),
    "internvl": Family(
        internvl,
        lambda rows: frame_rows(rows, side=32, nested=False),
        Video(3, 4, 4),
        Video(2, 4, 4),
        None,
        internvl_tokens,
    ),
}
