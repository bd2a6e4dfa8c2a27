"""Sampling, sizes and timestamps of Qwen's processors, beside the stock ones where they run."""

from types import SimpleNamespace

import pytest
import torch
import transformers
from transformers.video_utils import VideoMetadata

from autogaze.errors import MLLMError
from autogaze.mllm.processor_adapter import FrameTimes, Sampling
from autogaze.mllm.registry import processor_adapter_of
from autogaze.mllm.stock_processor import of_checkpoint
from autogaze.mllm.units import KeptUnits, UnitGrid
from tests.mllm.tiny_processor import checkpoint

FIVE = transformers.__version__.startswith("5.")


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processors")
    return {
        name: processor_adapter_of(of_checkpoint(checkpoint(folder / name, name)))
        for name in ("qwen3_vl", "qwen2_5_vl")
    }


@pytest.mark.parametrize("total", [4, 5, 33, 300, 2000])
@pytest.mark.parametrize("asked", [{}, {"fps": 1.0}, {"num_frames": 4}, {"fps": 30.0}])
def test_sampled_frames_of_qwen3_vl_are_the_stock_ones(adapters, total, asked):
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

    stock = SimpleNamespace(fps=2, min_frames=4, max_frames=768, num_frames=None)
    metadata = VideoMetadata(total_num_frames=total, fps=25.0)
    expected = Qwen3VLVideoProcessor.sample_frames(stock, metadata, **asked)
    assert adapters["qwen3_vl"].sample(total, 25.0, Sampling(**asked)) == expected.tolist()


def test_sampled_frames_of_qwen2_5_vl(adapters):
    sample = adapters["qwen2_5_vl"].sample
    assert sample(100, 10.0, Sampling(num_frames=4)) == [0, 25, 50, 75]
    assert sample(100, 10.0, Sampling(num_frames=7)) == sample(100, 10.0, Sampling(num_frames=8))
    assert sample(100, 10.0, Sampling(fps=1)) == list(range(0, 100, 10))
    assert sample(100, 10.0, Sampling()) == list(range(0, 100, 5))
    assert sample(1, None, Sampling()) == [0]
    assert sample(3, 1.0, Sampling(every=True)) == [0, 1, 2]
    with pytest.raises(MLLMError, match="8 frames"):
        sample(7, 1.0, Sampling(num_frames=8))


def test_a_file_may_say_that_frames_are_not_sampled(tmp_path):
    folder = checkpoint(tmp_path / "qwen3", "qwen3_vl", do_sample_frames=False)
    sample = processor_adapter_of(of_checkpoint(folder)).sample
    assert sample(30, 10.0, Sampling()) == list(range(30))
    assert len(sample(30, 10.0, Sampling(every=False))) == 6
    assert len(sample(30, 10.0, Sampling(num_frames=5))) == 5


@pytest.mark.parametrize("bad", [{"num_frames": 0}, {"fps": 0}, {"num_frames": 2, "fps": 1.0}])
def test_sampling_that_cannot_be(bad):
    with pytest.raises(MLLMError):
        Sampling(**bad)


@pytest.mark.skipif(
    not hasattr(transformers.Qwen3VLProcessor, "replace_video_token"),
    reason="a method of transformers 5.10",
)
@pytest.mark.parametrize("count", [6, 7])
def test_timestamps_are_the_stock_ones(adapters, count):
    from transformers import Qwen3VLProcessor

    indices = [3 * number for number in range(count)]
    stock = SimpleNamespace(
        video_processor=SimpleNamespace(merge_size=2, temporal_patch_size=2),
        vision_start_token="<|vision_start|>",
        vision_end_token="<|vision_end|>",
        video_token="<|video_pad|>",
        _calculate_timestamps=lambda *given: Qwen3VLProcessor._calculate_timestamps(None, *given),
    )
    tubelets = (count + 1) // 2
    inputs = {
        "video_grid_thw": torch.tensor([[tubelets, 2, 2]]),
        "video_metadata": [VideoMetadata(total_num_frames=30, fps=8.0, frames_indices=indices[:])],
    }
    kept = KeptUnits.everything(UnitGrid(tubelets, ((1, 1),)))
    times = FrameTimes(tuple(index / 8.0 for index in indices), 8.0, 30)
    expansion = adapters["qwen3_vl"].expand("video", kept, times)
    assert expansion.text == Qwen3VLProcessor.replace_video_token(stock, inputs, 0)
    assert expansion.blocks == tuple((n, n + 1, 0) for n in range(tubelets))


def test_seconds_between_tubelets_of_qwen2_5_vl(adapters):
    times = FrameTimes(tuple(map(float, range(10))), rate=10.0, source_frames=100)
    # transformers 4 assumes two frames per second where no rate is asked for.
    assert adapters["qwen2_5_vl"].interval("video", times) == (2.0 if FIVE else 1.0)
    assert adapters["qwen2_5_vl"].interval("image", times) is None
    assert adapters["qwen3_vl"].interval("video", times) is None


def test_sizes_follow_the_settings(tmp_path):
    plain = processor_adapter_of(of_checkpoint(checkpoint(tmp_path / "a", "qwen3_vl")))
    assert plain.frame_size("video", 100, 60, 8, native=False) == (96, 64)
    assert plain.frame_size("video", 100, 60, 8, native=True) == (96, 64)
    size = {"shortest_edge": 64, "longest_edge": 8 * 32 * 16}
    small = checkpoint(tmp_path / "b", "qwen3_vl", size=size)
    adapter = processor_adapter_of(of_checkpoint(small))
    assert adapter.frame_size("video", 100, 60, 8, native=False) == (24, 16)
    assert adapter.frame_size("image", 100, 60, 1, native=False) == (96, 64)
    capped = checkpoint(tmp_path / "c", "qwen3_vl", cap_pixels_per_frame=True, max_video_tokens=6)
    adapter = processor_adapter_of(of_checkpoint(capped))
    assert adapter.frame_size("video", 100, 60, 8, native=False) == (24, 8)


def test_folders_without_a_processor(tmp_path):
    with pytest.raises(MLLMError, match=r"preprocessor_config\.json"):
        of_checkpoint(tmp_path)
    folder = checkpoint(tmp_path / "odd", "qwen3_vl")
    (folder / "config.json").write_text('{"model_type": "odd_vl"}')
    with pytest.raises(MLLMError, match="qwen3_vl_moe"):
        processor_adapter_of(of_checkpoint(folder))
    (folder / "preprocessor_config.json").write_text("{")
    with pytest.raises(MLLMError, match="JSON"):
        of_checkpoint(folder)
