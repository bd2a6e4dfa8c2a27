"""Where selectors compute, and in which precision: named when one is loaded, moved with `to`."""

from pathlib import Path

import pytest
import torch

import autogaze
from autogaze.clips import Clips
from autogaze.errors import AutoGazeError, SelectorError
from autogaze.gaze import Gaze
from autogaze.selectors.learned import Learned
from tests.models.autogaze.tiny import tiny_model, tiny_video
from tests.selectors.clips import random_clips

CPU = torch.device("cpu")
NAMES = [name for name in autogaze.list_selectors() if name != "codec"]  # which reads motion only
WITHOUT_MODEL = [name for name in NAMES if name != "learned"]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


def test_where_a_selector_computes() -> None:
    assert autogaze.load("greedy", device="cpu").device == CPU
    assert autogaze.load("learned", device=CPU).device == CPU
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert autogaze.load("change").device == torch.device(expected)


@pytest.mark.parametrize("name", ["toaster", "cuda:99", "meta"])
def test_a_device_that_is_not_here(name: str) -> None:
    with pytest.raises(AutoGazeError, match=name):
        autogaze.load("greedy", device=name)
    with pytest.raises(AutoGazeError, match=name):
        autogaze.load("greedy").to(name)


def test_what_torch_has_and_we_do_not_is_named() -> None:
    with pytest.raises(AutoGazeError, match="float64"):
        autogaze.load("learned", device="cpu", dtype=torch.float64)
    with pytest.raises(AutoGazeError, match="meta"):
        autogaze.load("greedy", device=torch.device("meta"))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", torch.bfloat16])
def test_precision_of_the_weights(dtype: str | torch.dtype) -> None:
    selector = autogaze.load("learned", device="cpu", dtype=dtype)
    assert isinstance(selector, Learned)
    assert str(selector.model.dtype).endswith(str(dtype).rpartition(".")[2])
    assert selector.to("cpu").model.dtype == selector.model.dtype  # type: ignore[attr-defined]
    assert selector.to("cpu", "float32").model.dtype is torch.float32  # type: ignore[attr-defined]


def test_weights_keep_the_precision_they_were_saved_in(tmp_path: Path) -> None:
    tiny_model().to(torch.bfloat16).save_pretrained(tmp_path)
    assert autogaze.load(tmp_path).model.dtype is torch.bfloat16  # type: ignore[attr-defined]
    assert autogaze.load(tmp_path, dtype="float32").model.dtype is torch.float32  # type: ignore[attr-defined]


@pytest.mark.parametrize("dtype", ["float64", "int8", torch.int8])
def test_unknown_precision(dtype: str | torch.dtype) -> None:
    with pytest.raises(AutoGazeError, match=r"float32, float16, bfloat16"):
        autogaze.load("learned", dtype=dtype)


@pytest.mark.parametrize("name", [*WITHOUT_MODEL, "codec"])
def test_a_selector_without_a_model_has_no_precision(name: str) -> None:
    with pytest.raises(SelectorError, match=rf"{name}.*float16"):
        autogaze.load(name, device="cpu", dtype="float16")
    assert autogaze.load(name, device="cpu", dtype="float32").device == CPU


def test_a_precision_that_the_device_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*shape: int, **_: object) -> None:
        raise RuntimeError("not implemented for 'BFloat16'")

    monkeypatch.setattr("torch.ones", refuses)
    with pytest.raises(AutoGazeError, match=r"cpu .*bfloat16.*not implemented.*float32"):
        autogaze.load("learned", device="cpu", dtype="bfloat16")


@pytest.mark.parametrize("name", ["greedy", "learned"])
def test_of_a_whole_video(name: str, tmp_path: Path) -> None:
    from tests.clips import make_video  # PyAV, which not every machine with a GPU has

    video = make_video(tmp_path / "square.mp4", 4)
    plain = autogaze.gaze_video(video, selector=name, ratio=0.05)
    placed = autogaze.gaze_video(video, selector=name, ratio=0.05, device="cpu", dtype="float32")
    assert plain.ids.equal(placed.ids)
    loaded = autogaze.load(name)
    assert plain.ids.equal(
        autogaze.gaze_video(video, selector=loaded, device="cpu", ratio=0.05).ids
    )
    with pytest.raises(AutoGazeError, match="toaster"):
        autogaze.gaze_video(video, selector=loaded, device="toaster")
    with pytest.raises(AutoGazeError, match="toaster"):
        autogaze.stream_video(video, selector=name, device="toaster")


@pytest.mark.parametrize("name", WITHOUT_MODEL)
def test_frames_are_moved_once_and_only_where_pixels_are_read(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    selector = autogaze.load(name, device="cpu")
    clips = random_clips(selector.pyramid, 1, 3, seed=0)
    moved: list[int] = []
    to = Clips.to

    def recorded(self: Clips, device: torch.device) -> Clips:
        moved.append(self.num_frames)
        return to(self, device)

    monkeypatch.setattr(Clips, "to", recorded)
    selector.select(clips, ratio=0.05)
    assert moved.count(3) == int(selector.reads_pixels)


@needs_gpu
@pytest.mark.cuda
@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_gives_the_cpus_gazes_where_the_frames_are(name: str) -> None:
    here = autogaze.load(name, device="cpu")
    clips = random_clips(here.pyramid, 2, 3, seed=1)
    expected = here.select(clips, ratio=0.05, generator=torch.Generator().manual_seed(0))
    there = autogaze.load(name, device="cuda")
    for frames in (clips, clips.cuda()):
        gaze = there.select(frames, ratio=0.05, generator=torch.Generator().manual_seed(0))
        assert gaze.device == frames.device
        assert gaze.ids.cpu().equal(expected.ids)
    stream = there.stream(ratio=0.05, generator=torch.Generator().manual_seed(0))
    pieces = [stream.step(clips[:, index : index + 1]) for index in range(3)]
    last = stream.finish()
    whole = Gaze.cat_frames([*pieces, last] if last is not None else pieces)
    assert whole.device == CPU
    assert whole.ids.equal(expected.ids)


def test_half_precision_chooses_on_a_cpu() -> None:
    selector = Learned(tiny_model()).to("cpu", "bfloat16")
    gaze = selector.select(tiny_video(2, 3).clamp(0, 1), ratio=0.2)
    assert (gaze.num_clips, gaze.num_frames) == (2, 3)
