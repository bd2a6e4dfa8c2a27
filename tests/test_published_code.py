"""Code written for the published package, run unchanged but for names of checkpoints.

The calls of its quick start for vision encoders, and those that the published NVILA-HD-Video
checkpoint's code makes, on folders of random weights.
"""

import av
import numpy as np
import pytest
import torch
import transformers
from einops import rearrange
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from autogaze import PatchPyramid
from autogaze.datasets.collate import collate_fn
from autogaze.datasets.video_utils import (
    process_video_frames,
    read_video_pyav,
    sample_frame_indices,
    transform_video_for_pytorch,
)
from autogaze.models.autogaze import AutoGaze, AutoGazeConfig, AutoGazeImageProcessor
from autogaze.utils import get_gazing_pos_from_gazing_mask
from autogaze.vision_encoders.siglip import SiglipVisionModel
from autogaze.vision_encoders.siglip.configuration_siglip import SiglipVisionConfig
from autogaze.vision_encoders.siglip.modeling_siglip import SiglipVisionModel as NestedSiglip
from tests.auto_classes import auto_image_processor
from tests.vision_encoders.families import SMALL

HD = PatchPyramid((56, 112, 196, 392), 14)  # 1060 patches per frame


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Folders with a selector of the published scales, and SigLIPs of 224/16 and 384/14 pixels."""
    folder = tmp_path_factory.mktemp("hub")
    torch.manual_seed(0)
    narrow = {"hidden_dim": 32}
    selector = AutoGaze(
        AutoGazeConfig(
            gaze_model_config={
                "vision_model_config": {**narrow, "out_dim": 32},
                "connector_config": narrow,
                "gaze_decoder_config": {
                    "hidden_size": 32,
                    "intermediate_size": 32,
                    "num_hidden_layers": 1,
                    "num_attention_heads": 2,
                    "initializer_range": 0.3,
                },
            }
        )
    )
    selector.save_pretrained(folder / "AutoGaze")
    AutoGazeImageProcessor().save_pretrained(folder / "AutoGaze")
    for name, side, patch in (("siglip-224", 224, 16), ("siglip-384", 384, 14)):
        config = transformers.SiglipVisionConfig(image_size=side, patch_size=patch, **SMALL)
        transformers.SiglipVisionModel(config).save_pretrained(folder / name)
        transformers.SiglipImageProcessor(size={"height": side, "width": side}).save_pretrained(
            folder / name
        )
    return folder


@pytest.fixture(scope="module")
def video_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "example_input.mp4"
    generator = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height = 160, 120
        for _ in range(16):
            pixels = (
                generator.integers(0, 255, (15, 20, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            )
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def quick_start(checkpoints, video_file):
    """The first block: a video, read and preprocessed, and the selector."""
    transform = AutoGazeImageProcessor.from_pretrained(checkpoints / "AutoGaze", size=(224, 224))
    model = AutoGaze.from_pretrained(checkpoints / "AutoGaze").eval()
    container = av.open(str(video_file))
    raw_video = read_video_pyav(
        container=container, indices=list(range(model.config.max_num_frames))
    )
    container.close()
    return raw_video, transform_video_for_pytorch(raw_video, transform)[None], model


def test_the_quick_start_for_an_encoder_of_the_selectors_grid(quick_start, checkpoints):
    raw_video, video, model = quick_start
    with torch.inference_mode():
        gaze_outputs = model({"video": video}, gazing_ratio=0.05, task_loss_requirement=0.7)
    transform = auto_image_processor().from_pretrained(checkpoints / "siglip-224")
    siglip = SiglipVisionModel.from_pretrained(
        checkpoints / "siglip-224", scales=model.config.scales, attn_implementation="sdpa"
    )
    pixels = transform_video_for_pytorch(raw_video, transform)[None]
    assert pixels.shape == (1, 16, 3, 224, 224)
    outputs = siglip(pixels, gazing_info=gaze_outputs)
    slots = gaze_outputs["gazing_pos"].shape[1]
    assert outputs.last_hidden_state.shape == (1, slots, 48)
    assert outputs.pooler_output.shape == (1, 48)
    kept = [
        features[~is_padding]
        for features, is_padding in zip(
            outputs.last_hidden_state, gaze_outputs["if_padded_gazing"], strict=True
        )
    ]
    assert len(kept[0]) == int((~gaze_outputs["if_padded_gazing"]).sum())
    assert kept[0].abs().sum(1).min() > 0


def test_the_quick_start_for_an_encoder_of_another_grid(quick_start, checkpoints):
    """The encoder's own processor makes frames of 384 pixels, its scales end at 392."""
    raw_video, _, model = quick_start
    transform = AutoGazeImageProcessor.from_pretrained(checkpoints / "AutoGaze", size=(392, 392))
    video = transform_video_for_pytorch(raw_video[:4], transform)[None]
    with torch.inference_mode():
        gaze = model(
            {"video": video},
            gazing_ratio=0.02,
            task_loss_requirement=0.7,
            target_scales=[56, 112, 196, 392],
            target_patch_size=14,
        )
    siglip = SiglipVisionModel.from_pretrained(
        checkpoints / "siglip-384", scales="56+112+196+392", attn_implementation="sdpa"
    )
    transform = auto_image_processor().from_pretrained(checkpoints / "siglip-384")
    pixels = transform_video_for_pytorch(raw_video[:4], transform)[None]
    assert pixels.shape == (1, 4, 3, 384, 384)
    outputs = siglip(pixels, gazing_info=gaze)
    assert outputs.last_hidden_state.shape == (1, gaze["gazing_pos"].shape[1], 48)
    assert outputs.last_hidden_state.isfinite().all()


def test_the_quick_start_for_large_videos(quick_start, checkpoints):
    _, _, model = quick_start
    siglip = SiglipVisionModel.from_pretrained(checkpoints / "siglip-224", scales="32+64+112+224")
    video = torch.randn(1, 4, 3, 448, 448)
    chunks = rearrange(video, "B (nt t) C (nh h) (nw w) -> (B nt nh nw) t C h w", t=2, h=224, w=224)
    with torch.inference_mode():
        gaze = model({"video": chunks}, gazing_ratio=0.02, task_loss_requirement=0.7)
    outputs = siglip(chunks, gazing_info=gaze)
    assert outputs.last_hidden_state.shape[:2] == gaze["gazing_pos"].shape
    assert len(gaze["gazing_pos"]) == 8


def test_the_quick_start_for_streams(quick_start):
    _, video, model = quick_start
    video = video[:, :4]
    outputs = []
    past_inputs_embeds = past_attention_mask = past_key_values = past_conv_values = None
    with torch.inference_mode():
        gaze_outputs = model({"video": video}, gazing_ratio=0.05)
        for t in range(video.shape[1]):
            output = model(
                {"video": video[:, t : t + 1]},
                gazing_ratio=0.05,
                generate_only=True,
                use_cache=True,
                past_key_values=past_key_values,
                past_inputs_embeds=past_inputs_embeds,
                past_attention_mask=past_attention_mask,
                past_conv_values=past_conv_values,
            )
            outputs.append(output)
            past_key_values = output["past_key_values"]
            past_inputs_embeds = output["past_input_embeds"]
            past_attention_mask = output["past_attention_mask"]
            past_conv_values = output["past_conv_values"]
    positions = [
        output["gazing_pos"] + model.num_vision_tokens_each_frame * t
        for t, output in enumerate(outputs)
    ]
    assert torch.allclose(gaze_outputs["gazing_pos"], torch.cat(positions, dim=1))


def test_patches_of_ones_own_choice(quick_start, checkpoints):
    """Users make the dict from a mask of all patches, and the encoder reads it."""
    mask = torch.zeros(1, 2 * 265, dtype=torch.long)
    mask[0, [3, 7, 265, 300]] = 1
    gazing_pos, if_padded_gazing = get_gazing_pos_from_gazing_mask(mask)
    gaze = {
        "gazing_pos": gazing_pos,
        "if_padded_gazing": if_padded_gazing,
        "num_gazing_each_frame": mask.reshape(1, 2, 265)[0].sum(dim=-1),
    }
    siglip = SiglipVisionModel.from_pretrained(checkpoints / "siglip-224", scales="32+64+112+224")
    outputs = siglip(quick_start[1][:, :2], gazing_info=gaze)
    assert outputs.last_hidden_state.shape == (1, 4, 48)


def test_a_loader_of_clips(video_file):
    """The published data set's way: sample, read, cut to length, transform, collate."""
    transform = transformers.VivitImageProcessor(size={"height": 32, "width": 32})
    transform.do_center_crop = False
    clips = []
    for rate in (1, 4):
        container = av.open(str(video_file))
        indices = sample_frame_indices(
            clip_len=6,
            frame_sample_rate=rate,
            seg_len=container.streams.video[0].frames,
            random_sample_frame=False,
        )
        video = process_video_frames(read_video_pyav(container, indices), 6)
        container.close()
        clips.append({"video": transform_video_for_pytorch(video, transform), "is_valid": True})
    batch = collate_fn(clips)
    assert batch["video"].shape == (2, 6, 3, 32, 32)
    assert batch["is_valid"].all()


# NVILA-HD-Video: a processor that gazes at tiles, and a model that nests the encoder.


class NvilaConfig(PretrainedConfig):
    model_type = "nvila_test"
    sub_configs = {"vision_config": SiglipVisionConfig}  # noqa: RUF012 - as transformers does

    def __init__(self, vision_config=None, max_batch_size_siglip=1, **options):
        self.vision_config = SiglipVisionConfig(**(vision_config or {}))
        self.max_batch_size_siglip = max_batch_size_siglip
        super().__init__(**options)


class Nvila(PreTrainedModel):
    config_class = NvilaConfig
    base_model_prefix = "llm"

    def __init__(self, config):
        super().__init__(config)
        self.vision_tower = NestedSiglip(config.vision_config)
        width = config.vision_config.hidden_size * 9
        self.mm_projector = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 16))
        self.post_init()

    def _init_weights(self, module):
        pass

    def encode(self, pixels, positions, counts, is_padding):
        """Second-to-last states of the slots that are no padding, frame after frame."""
        features = []
        step = self.config.max_batch_size_siglip
        for start in range(0, len(pixels), step):
            here = slice(start, start + step)
            outputs = self.vision_tower(
                pixels[here],
                gazing_info={
                    "gazing_pos": positions[here],
                    "num_gazing_each_frame": counts[0],
                    "if_padded_gazing": is_padding[here],
                },
                output_hidden_states=True,
                return_dict=True,
            )
            features.append(outputs.hidden_states[-2])
        features = torch.cat(features)  # (clips, slots, C)
        tokens = []
        starts = counts[0].cumsum(0) - counts[0]
        for frame, count in enumerate(counts[0].tolist()):
            slots = slice(int(starts[frame]), int(starts[frame]) + count)
            kept = torch.cat(
                [f[slots][~p[slots]] for f, p in zip(features, is_padding, strict=True)]
            )
            if missing := -len(kept) % 9:
                kept = torch.cat([kept, kept[-1:].repeat(missing, 1)])
            tokens.append(rearrange(kept, "(n s) c -> n (s c)", s=9))
        return self.mm_projector(torch.cat(tokens))


def test_the_published_multimodal_model(quick_start, checkpoints, tmp_path):
    raw_video, _, _ = quick_start
    selector = AutoGaze.from_pretrained(checkpoints / "AutoGaze").eval()
    frames = selector.config.max_num_frames
    processor = AutoGazeImageProcessor.from_pretrained(checkpoints / "AutoGaze", size=(392, 392))
    assert frames == 16
    assert processor.size["height"] == 392

    # Processor: tiles of 392 pixels, gazed at by a list of ratios.
    video = transform_video_for_pytorch(raw_video, processor)[None]
    with torch.inference_mode():
        gaze = selector(
            {"video": video},
            gazing_ratio=[0.02] + [0.01] * 15,
            task_loss_requirement=0.6,
            target_scales=[56, 112, 196, 392],
            target_patch_size=14,
        )
    counts = gaze["num_gazing_each_frame"].tolist()
    assert len(counts) == 16
    # Ids ascend within a frame; padding is 0.
    positions = gaze["gazing_pos"].masked_fill(gaze["if_padded_gazing"], 0)
    every = torch.tensor([counts])
    # Thumbnails see everything, without the selector.
    thumbnails = torch.randn(2, 1, 3, 392, 392)
    everything = torch.arange(HD.num_patches).expand(2, -1)

    # Model: the encoder as a part, under the names of the published checkpoint.
    config = NvilaConfig(
        {
            "image_size": 448,
            "patch_size": 14,
            "scales": "56+112+196+392",
            "attn_type": "block_causal",
            "vision_use_head": False,
            **SMALL,
        }
    )
    made = Nvila(config).eval()
    assert any(n.startswith("vision_tower.vision_model.encoder") for n in made.state_dict())
    made.save_pretrained(tmp_path)
    model, info = Nvila.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert isinstance(model.config.vision_config, SiglipVisionConfig)
    assert model.config.vision_config.scales == "56+112+196+392"
    model.eval()
    with torch.inference_mode():
        tiles = model.encode(
            torch.randn(1, 16, 3, 392, 392), positions, every, gaze["if_padded_gazing"]
        )
        thumbs = model.encode(
            thumbnails,
            everything,
            torch.full((2, 1), HD.num_patches),
            torch.zeros(2, HD.num_patches, dtype=torch.bool),
        )
        weights = made.state_dict()
        assert all(value.equal(weights[name]) for name, value in model.state_dict().items())
    real = ~gaze["if_padded_gazing"][0]
    per_frame = [int(part.sum()) for part in real.split(counts)]
    assert len(tiles) == sum(-(-count // 9) for count in per_frame)
    assert len(thumbs) == -(-2 * HD.num_patches // 9)
    assert torch.cat([tiles, thumbs]).isfinite().all()
