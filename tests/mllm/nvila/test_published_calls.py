"""What the published checkpoint's code takes from this package, called as it does, beside our own.

Its processor calls the selector with lists of ratios and the tower's scales; its model nests the
encoder as `vision_tower` and gives it padded gazes. Both are written out here; with the same
weights they give what `autogaze.mllm.nvila` gives.
"""

import subprocess
import sys

import numpy as np
import pytest
import torch
from einops import rearrange
from PIL import Image
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from autogaze.datasets.video_utils import transform_video_for_pytorch
from autogaze.geometry import PatchPyramid
from autogaze.mllm.nvila import AutoGazeMLLMConfig, AutoGazeMLLMProcessor
from autogaze.models.autogaze import AutoGaze, AutoGazeConfig, AutoGazeImageProcessor
from autogaze.selectors.learned import Learned
from autogaze.vision_encoders.siglip.configuration_siglip import SiglipVisionConfig
from autogaze.vision_encoders.siglip.modeling_siglip import SiglipVisionModel
from tests.mllm.nvila.tiny import LLM, TOWER, make_frames, make_model, make_tokenizer

SCALES = [56, 112, 196, 392]
RATIOS = [0.02] + [0.01] * 15
HD_TOWER = {**TOWER, "scales": "56+112+196+392", "image_size": 448, "num_hidden_layers": 2}
TILES, SHUFFLE, VIDEO = 2, 9, 2


@pytest.fixture(scope="module")
def selector_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("AutoGaze")
    torch.manual_seed(0)
    narrow = {"hidden_dim": 32}
    decoder = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    decoder |= {"num_attention_heads": 2, "initializer_range": 0.3}
    config = AutoGazeConfig(
        gaze_model_config={
            "vision_model_config": {**narrow, "out_dim": 32},
            "connector_config": narrow,
            "gaze_decoder_config": decoder,
        }
    )
    AutoGaze(config).save_pretrained(folder)
    AutoGazeImageProcessor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def frames():
    """16 frames of two tiles, which no resizing touches."""
    return make_frames(16, 392, 784)


@pytest.fixture(scope="module")
def published(selector_folder, frames):
    """The dict, by the published processor's calls."""
    selector = AutoGaze.from_pretrained(selector_folder).eval()
    processor = AutoGazeImageProcessor.from_pretrained(selector_folder, size=(392, 392))
    side = processor.size["height"]
    num_frames = selector.config.max_num_frames
    assert (side, num_frames) == (392, 16)
    tiles = [
        [Image.fromarray(frame[:, left : left + side]) for frame in frames]
        for left in range(0, TILES * side, side)
    ]
    video = torch.stack(
        [transform_video_for_pytorch([np.array(x) for x in tile], processor) for tile in tiles]
    )
    gazes = []
    with torch.inference_mode():
        for clip in video.split(1):  # max_batch_size_autogaze
            gazes.append(
                selector(
                    {"video": clip},
                    gazing_ratio=RATIOS,
                    task_loss_requirement=0.6,
                    target_scales=SCALES,
                    target_patch_size=14,
                )
            )
    # Frames of the clips are padded to the same number of slots.
    slots = torch.stack([gaze["num_gazing_each_frame"] for gaze in gazes]).max(0).values
    positions = torch.zeros(TILES, int(slots.sum()), dtype=torch.long)
    is_padding = torch.ones(TILES, int(slots.sum()), dtype=torch.bool)
    for row, gaze in enumerate(gazes):
        own, start, end = gaze["num_gazing_each_frame"].tolist(), 0, 0
        for count, wide in zip(own, slots.tolist(), strict=True):
            positions[row, end : end + count] = gaze["gazing_pos"][0, start : start + count]
            is_padding[row, end : end + count] = gaze["if_padded_gazing"][0, start : start + count]
            start, end = start + count, end + wide
    positions = positions.masked_fill(is_padding, 0)
    pixels = torch.from_numpy(np.stack([[np.array(x) for x in tile] for tile in tiles]))
    small = [
        Image.fromarray(frame).resize((side, side), Image.Resampling.BICUBIC) for frame in frames
    ]
    thumbs = torch.from_numpy(np.stack([np.array(small[index]) for index in (0, 8)]))
    everything = torch.arange(1060).expand(2, -1)
    return {
        "pixel_values_videos_tiles": [pixels.permute(0, 1, 4, 2, 3).float() / 127.5 - 1],
        "pixel_values_videos_thumbnails": [thumbs.permute(0, 3, 1, 2)[:, None].float() / 127.5 - 1],
        "num_spatial_tiles_each_video": [TILES],
        "gazing_info": {
            "gazing_pos_tiles": [positions],
            "num_gazing_each_frame_tiles": [slots.repeat(TILES, 1)],
            "if_padded_gazing_tiles": [is_padding],
            "gazing_pos_thumbnails": [everything],
            "num_gazing_each_frame_thumbnails": [torch.full((2, 1), 1060)],
            "if_padded_gazing_thumbnails": [torch.zeros(2, 1060, dtype=torch.bool)],
        },
    }


class StandInConfig(PretrainedConfig):
    model_type = "nvila_stand_in"
    sub_configs = {"vision_config": SiglipVisionConfig}  # noqa: RUF012 - as transformers does

    def __init__(self, text_config=None, vision_config=None, max_batch_size_siglip=1, **options):
        self.text_config = AutoGazeMLLMConfig(text_config).text_config
        self.vision_config = SiglipVisionConfig(**(vision_config or {}))
        self.max_batch_size_siglip = max_batch_size_siglip
        super().__init__(**options)


class StandIn(PreTrainedModel):
    config_class = StandInConfig
    base_model_prefix = ""

    def __init__(self, config):
        super().__init__(config)
        width = config.vision_config.hidden_size
        self.vision_tower = SiglipVisionModel(config.vision_config)
        self.mm_projector = nn.Sequential(
            nn.LayerNorm(9 * width),
            nn.Linear(9 * width, 3 * width),
            nn.GELU(),
            nn.LayerNorm(3 * width),
            nn.Linear(3 * width, 3 * width),
            nn.GELU(),
            nn.Linear(3 * width, config.text_config.hidden_size),
        )
        self.llm = AutoModelForCausalLM.from_config(config.text_config)
        self.post_init()

    def tower(self, pixels, positions, counts, is_padding):
        states = []
        for start in range(0, len(pixels), self.config.max_batch_size_siglip):
            here = slice(start, start + self.config.max_batch_size_siglip)
            outputs = self.vision_tower(
                pixel_values=pixels[here],
                gazing_info={
                    "gazing_pos": positions[here],
                    "num_gazing_each_frame": counts[0],
                    "if_padded_gazing": is_padding[here],
                },
                output_hidden_states=True,
                return_dict=True,
            )
            states.append(outputs.hidden_states[-2])
        return torch.cat(states)

    def encode(self, inputs):
        info, tokens = inputs["gazing_info"], []
        for name, joined in (("tiles", True), ("thumbnails", False)):
            counts = info[f"num_gazing_each_frame_{name}"][0]
            is_padding = info[f"if_padded_gazing_{name}"][0]
            states = self.tower(
                inputs[f"pixel_values_videos_{name}"][0],
                info[f"gazing_pos_{name}"][0],
                counts,
                is_padding,
            )
            frames = states.split(counts[0].tolist(), dim=1)
            padding = is_padding.split(counts[0].tolist(), dim=1)
            for frame, padded in zip(frames, padding, strict=True):
                clips = [clip[~pad] for clip, pad in zip(frame, padded, strict=True)]
                for kept in [torch.cat(clips)] if joined else clips:
                    filled = torch.cat([kept, kept[-1:].repeat(-len(kept) % 9, 1)])
                    tokens.append(rearrange(filled, "(n s) c -> n (s c)", s=9))
        return self.mm_projector(torch.cat(tokens))


@pytest.fixture(scope="module")
def ours():
    return make_model(config=AutoGazeMLLMConfig(LLM, HD_TOWER, video_token_id=VIDEO))


def test_the_published_model_code_gives_what_ours_gives(published, ours, tmp_path):
    ours.save_pretrained(tmp_path)  # under the published names
    config = StandInConfig(LLM, ours.config.vision_config.to_dict())
    assert config.vision_config.scales == "56+112+196+392"
    model, info = StandIn.from_pretrained(tmp_path, config=config, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    weights = ours.state_dict()
    assert all(value.equal(weights[name]) for name, value in model.state_dict().items())
    with torch.inference_mode():
        expected = model.eval().encode(published)
        ids = torch.tensor([[VIDEO] * len(expected) + [5, 6]])
        embeds = model.llm.get_input_embeddings()(ids)
        embeds[0, : len(expected)] = expected
        logits = model.llm(inputs_embeds=embeds).logits
        answer = model.llm.generate(inputs_embeds=embeds, max_new_tokens=5, do_sample=False)
        own = ours(input_ids=ids, **published).logits
    torch.testing.assert_close(own, logits, rtol=1e-4, atol=1e-3)
    generated = ours.generate(input_ids=ids, **published, max_new_tokens=5, do_sample=False)
    assert generated[0, : ids.shape[1]].tolist() == ids[0].tolist()
    assert generated[0, ids.shape[1] :].tolist() == answer[0].tolist()


@pytest.mark.parametrize("kind", ["own", "dict"])
def test_our_processor_gives_what_the_published_calls_give(
    kind, published, ours, selector_folder, frames
):
    processor = AutoGazeMLLMProcessor(
        make_tokenizer(),
        num_video_frames=16,
        num_video_frames_thumbnail=2,
        gazing_ratio_tile=RATIOS,
        task_loss_requirement_tile=0.6,
        gazing_ratio_thumbnail=1,
        task_loss_requirement_thumbnail=None,
        autogaze_model_id=str(selector_folder),
    )
    inputs = processor(text="<vila/video> word1", videos=frames, published=kind == "dict")
    assert isinstance(processor.selector, Learned)
    info = published["gazing_info"]
    if kind == "dict":
        for name, values in inputs["gazing_info"].items():
            assert values[0].equal(info[name][0]), name
        for name in ("tiles", "thumbnails"):
            pixels = inputs[f"pixel_values_videos_{name}"][0]
            expected = published[f"pixel_values_videos_{name}"][0]
            # Pillow and PyTorch round some pixels differently.
            assert (pixels - expected).abs().max() <= 2.1 / 127.5
            assert (pixels - expected).abs().mean() < 1e-3
        assert inputs["num_spatial_tiles_each_video"] == [TILES]
    else:
        gaze = inputs["gazed_videos"][0].gaze
        kept = ~info["if_padded_gazing_tiles"][0]
        assert gaze.num_patches == int(kept.sum())
        clip = info["gazing_pos_tiles"][0] % PatchPyramid(tuple(SCALES), 14).num_patches
        assert gaze.ids.equal(clip[kept])
    with torch.inference_mode():
        logits = ours(**inputs).logits
        ids = inputs["input_ids"]
        expected = ours(input_ids=ids, **published).logits
    torch.testing.assert_close(logits, expected, rtol=0.02, atol=0.2)


@pytest.mark.slow  # most of it imports, in the other process
def test_transformers_learns_of_our_classes_with_these_imports_only():
    code = (
        "from transformers import AutoModel\n"
        "from transformers.models.auto.configuration_auto import CONFIG_MAPPING\n"
        "import autogaze\n"
        "print('autogaze' in CONFIG_MAPPING)\n"
        "import autogaze.models.autogaze\n"
        "print('autogaze' in CONFIG_MAPPING)\n"
        "import autogaze.vision_encoders, autogaze.mllm\n"
        "print('nvila' in CONFIG_MAPPING, 'autogaze_mllm' in CONFIG_MAPPING)\n"
        "import autogaze.mllm.nvila\n"
        "print('nvila' in CONFIG_MAPPING, 'autogaze_mllm' in CONFIG_MAPPING)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "False", "False", "True", "True"]
