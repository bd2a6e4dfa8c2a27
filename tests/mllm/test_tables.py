"""The tables of tokens and memory in docs/mllm.md are what the processors make."""

import pytest

import autogaze
from autogaze.mllm.registry import processor_adapter_of
from scripts import mllm_tables
from scripts.mllm_tables import LLM, PAGE, RATIOS, Stock, Video
from tests.clips import make_video
from tests.mllm import tiny_frame_processors, tiny_processor


def test_the_page_has_the_tables_of_the_script():
    page = PAGE.read_text()
    assert mllm_tables.written(page) == page, "run python scripts/mllm_tables.py --write"


@pytest.mark.parametrize("model_type", ["qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("resolution", ["native", "stock"])
@pytest.mark.parametrize("ratio", RATIOS)
def test_a_processor_makes_what_a_row_says(tmp_path, model_type, resolution, ratio):
    make_video(tmp_path / "video.mp4")
    folder = tiny_processor.checkpoint(tmp_path / "model", model_type)
    processor = autogaze.GazedProcessor.from_pretrained(
        folder, selector="random", ratio=ratio, resolution=resolution, num_frames=6
    )
    inputs = processor(text="<|video_pad|> What moves", videos=str(tmp_path / "video.mp4"))
    (made,) = inputs.report.visuals

    width, height = 96, 64  # of the file
    settings = processor_adapter_of(processor.stock).settings("video")
    row = Stock("", LLM("", 2, 2, 8), model_type, settings, native=resolution == "native").encode(
        Video(6, width, height)
    )
    assert row.frames == f"{made.width} x {made.height}"
    assert row.costs[1.0].tokens == made.dense_units
    assert row.costs[ratio].tokens == made.kept_units
    pixels = inputs["gazed"].visuals[0].pixels
    assert row.costs[ratio].pixel_bytes == pixels.numel() * pixels.element_size()


@pytest.mark.parametrize("model_type", tiny_frame_processors.CLASSES)
@pytest.mark.parametrize("ratio", RATIOS)
def test_a_processor_of_a_frame_family_makes_what_a_row_says(tmp_path, model_type, ratio):
    make_video(tmp_path / "video.mp4", 6)
    folder = tiny_frame_processors.checkpoint(tmp_path / "model", model_type)
    processor = autogaze.GazedProcessor.from_pretrained(folder, selector="random", ratio=ratio)
    inputs = processor(text="<video> what", videos=str(tmp_path / "video.mp4"))
    (made,) = inputs.report.visuals
    stock = processor.stock
    row = Stock("", LLM("", 2, 2, 8), model_type, stock.video, stock.own).encode(Video(6, 96, 64))
    always = 1 if model_type == "llava_onevision" else 0  # its newline
    assert row.frames == f"{made.width} x {made.height}"
    assert row.costs[1.0].tokens == made.dense_units + always
    assert row.costs[ratio].tokens == made.kept_units + always
    pixels = inputs["gazed"].visuals[0].pixels
    size = pixels.numel() * pixels.element_size()
    if model_type == "llava_onevision" and ratio < 1:  # whose units may share patches
        assert size <= row.costs[ratio].pixel_bytes
    else:
        assert size == row.costs[ratio].pixel_bytes


def test_keys_and_values_of_a_token():
    """Qwen3-VL-8B: 36 layers of 8 heads of 128, twice, in 16 bits: 144 kB."""
    assert LLM("Qwen3-VL-8B", 36, 8, 128).bytes_per_token == 36 * 8 * 128 * 2 * 2 == 147_456
