"""A gaze made before is used at its own video only."""

import itertools
import shutil

import pytest

from autogaze.errors import MLLMError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.mllm.processor_adapter import Sampling
from autogaze.mllm.registry import processor_adapter_of
from autogaze.mllm.same_video import check_file
from autogaze.mllm.sampled_video import FrameSource
from autogaze.mllm.stock_processor import of_checkpoint
from autogaze.source import Source, TileGrid
from tests.clips import make_video
from tests.mllm import tiny_frame_processors, tiny_processor


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_video(tmp_path_factory.mktemp("same") / "v.mp4", 4, 64, 48, fps=4)


def gaze_at(path):
    tiles = TileGrid(64, 48, 2, 2, 32, 64, 48)
    gaze = Gaze.everything(PatchPyramid((32,), 16), 4, 4)
    source = Source(tiles, (0.0, 0.25, 0.5, 0.75), (0, 1, 2, 3), path=path and str(path))
    return Gaze(gaze.pyramid, gaze.ids, gaze.lengths, source=source)


@pytest.mark.parametrize("change", ["size", "start", "end"])
def test_another_video(path, tmp_path, change):
    content = bytearray(path.read_bytes())
    if change == "size":
        content += b"\0"
    else:
        content[0 if change == "start" else -1] ^= 1
    other = tmp_path / path.name
    other.write_bytes(content)
    with pytest.raises(MLLMError) as error:
        check_file(gaze_at(other), FrameSource(path))
    assert str(other) in str(error.value)
    assert str(path) in str(error.value)


def test_copies_moved_files_and_gazes_without_a_path(path, tmp_path):
    copy = shutil.copy(path, tmp_path / "copy.mp4")
    for made in (path, copy, tmp_path / "gone.mp4", None):
        check_file(gaze_at(made), FrameSource(path))


def sampled(path, numbers, rate=4, size=(64, 48), end=None):
    tiles = TileGrid(*size, 2, 2, 32, 64, 48)
    gaze = Gaze.everything(PatchPyramid((32,), 16), 4, len(numbers))
    seconds = tuple(number / rate for number in numbers)
    source = Source(tiles, seconds, tuple(numbers), path=str(path), end=end)
    return Gaze(gaze.pyramid, gaze.ids, gaze.lengths, source=source)


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    return make_video(tmp_path_factory.mktemp("long") / "v.mp4", 60, 64, 48, fps=4)


@pytest.mark.parametrize(
    "numbers", [(2, 7, 12, 17), (0, 6, 13, 19), (0, 5, 10, 15), (4, 15), range(20)]
)
def test_a_name_in_another_folder_is_no_proof(numbers, long, tmp_path, monkeypatch):
    gaze = sampled("v.mp4", numbers)
    monkeypatch.chdir(long.parent)
    for name in ("v.mp4", long):
        with pytest.raises(MLLMError, match="has 60 frames"):
            check_file(gaze, FrameSource(name))
    check_file(sampled("v.mp4", numbers, end=5.0), FrameSource(long))  # a part
    short = make_video(tmp_path / "short.mp4", 20, 64, 48, fps=4)
    check_file(gaze, FrameSource(short))  # of which "v.mp4" here cannot be the original
    with pytest.raises(MLLMError, match="another video"):
        check_file(sampled(long, numbers), FrameSource(short))


def test_a_relative_name_that_leads_to_another_candidate(path, tmp_path, monkeypatch):
    monkeypatch.chdir(path.parent)
    other = tmp_path / "other.mp4"
    other.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(MLLMError, match="another video"):
        check_file(gaze_at("v.mp4"), FrameSource(other))


@pytest.mark.parametrize("family", ["llava_onevision", "smolvlm", "internvl", "qwen3_vl"])
def test_whatever_a_family_samples_is_of_its_video(family, tmp_path):
    make = tiny_processor.checkpoint if family == "qwen3_vl" else tiny_frame_processors.checkpoint
    adapter = processor_adapter_of(of_checkpoint(make(tmp_path / family, family)))
    sample = adapter.sample
    for total, rate in itertools.product((1, 2, 3, 7, 59, 60, 61, 300, 1999), (4.0, 23.976, 29.97)):
        video = object.__new__(FrameSource)  # no such file
        video.path, video.num_frames, video.rate = tmp_path / "v.mp4", total, rate
        for most in (1, 2, 3, 5, 8, 33, 256):
            check_file(
                sampled(tmp_path / "gone.mp4", adapter.sample_most(total, most), rate), video
            )
        counts = [{"num_frames": count} for count in (1, 2, 3, 5, 8, 33, 256) if count <= total]
        rates = [{"fps": fps} for fps in (0.3, 1.0, 2.0, 24.0)]
        for asked in ({}, {"every": False}, {"every": True}, *counts, *rates):
            try:
                numbers = sample(total, rate, Sampling(**asked))
            except MLLMError:  # at more than the video's own rate
                continue
            if numbers[-1] >= total:  # single precision of transformers 4; cannot be read
                continue
            check_file(sampled(tmp_path / "gone.mp4", numbers, rate), video)
