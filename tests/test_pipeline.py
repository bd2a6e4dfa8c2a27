"""The main job: any video in, one gaze out, chunk by chunk or whole."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import autogaze
from autogaze import gaze_video, pipeline, stream_video
from autogaze.clips import Clips
from autogaze.errors import AutoGazeError, GeometryError, SelectorError, VideoError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.pipeline import GazeStream
from autogaze.reconstruction.canvas import canvas_losses
from autogaze.rendering.summary import Tally
from autogaze.selectors.base import Selector
from autogaze.selectors.controls import Centre
from autogaze.selectors.greedy import Greedy
from autogaze.video.chunks import ChunkReader
from tests.clips import make_video

SMALL = PatchPyramid((16, 32), 8)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("video") / "square.mp4", 20, 96, 64)


def frames_of(path: Path, side: int, **options: object) -> torch.Tensor:
    """(tiles, T, 3, S, S) of the whole video."""
    reader = ChunkReader(path, side=side, **options)  # type: ignore[arg-type]
    return torch.cat([chunk.clips.frames for chunk in reader], dim=1)


def test_whole_video(video: Path) -> None:
    gaze = gaze_video(video, ratio=0.2)
    assert gaze.pyramid == PatchPyramid()
    assert gaze.lengths.shape == (1, 20)
    assert gaze.source is not None
    assert gaze.source.path == str(video)
    assert gaze.source.frame_indices == tuple(range(20))
    assert gaze.source.timestamps == pytest.approx([index / 10 for index in range(20)])
    assert int(gaze.lengths.max()) <= int(0.2 * 265)
    assert gaze.metric == "canvas"


def test_losses_are_what_the_saved_gaze_leaves(video: Path, tmp_path: Path) -> None:
    for selector in (Greedy(SMALL), Centre(SMALL)):
        gaze = gaze_video(video, selector=selector, ratio=0.1, tiles="3x2")
        gaze.save(tmp_path / "gaze.safetensors")
        loaded = Gaze.load(tmp_path / "gaze.safetensors")
        assert loaded.metric == "canvas"
        measured = canvas_losses(frames_of(video, 32, tiles="3x2"), loaded)
        assert loaded.losses is not None
        torch.testing.assert_close(loaded.losses, measured, rtol=0, atol=1e-5)


def test_a_predicted_loss_is_not_passed_off_as_measured(video: Path) -> None:
    class Boaster(Centre):
        name = "boaster"

        def select(self, clips: Clips, **settings: object) -> Gaze:  # type: ignore[override]
            gaze = super().select(clips, **settings)  # type: ignore[arg-type]
            return replace(gaze, losses=torch.zeros(gaze.lengths.shape), metric="predicted")

    gaze = gaze_video(video, selector=Boaster(SMALL), ratio=0.1)
    assert gaze.metric == "canvas"
    assert gaze.losses is not None
    assert float(gaze.losses.min()) > 0.001


def test_stream_is_the_whole_in_chunks(video: Path) -> None:
    pieces = list(stream_video(video, selector=Greedy(SMALL), loss=0.05, tiles="2x1"))
    assert [piece.num_frames for piece in pieces] == [16, 4]
    whole = gaze_video(video, selector=Greedy(SMALL), loss=0.05, tiles="2x1")
    joined = Gaze.cat_frames(pieces)
    assert joined.ids.equal(whole.ids)
    assert joined.lengths.equal(whole.lengths)
    assert joined.source == whole.source


def test_selectors_know_both(video: Path) -> None:
    selector = Greedy(SMALL)
    whole = selector.gaze_video(video, ratio=0.1)
    assert Gaze.cat_frames(list(selector.stream_video(video, ratio=0.1))).ids.equal(whole.ids)


def test_the_selectors_side_decides(video: Path) -> None:
    gaze = gaze_video(video, selector=Greedy(PatchPyramid((32, 64), 16)), ratio=0.5)
    assert gaze.source is not None
    assert gaze.source.tiles.side == 64


def test_tiles_go_in_small_batches(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    class Counting(Greedy):
        def select(self, clips: Clips, **settings: object) -> Gaze:  # type: ignore[override]
            seen.append(clips.num_clips)
            return super().select(clips, **settings)  # type: ignore[arg-type]

    whole = gaze_video(video, selector=Counting(SMALL), ratio=0.1, tiles="4x2")
    assert seen == [8, 8]
    seen.clear()
    monkeypatch.setattr(pipeline, "MAX_TILES", 3)
    parts = gaze_video(video, selector=Counting(SMALL), ratio=0.1, tiles="4x2")
    assert seen == [3, 3, 2] * 2
    assert parts.ids.equal(whole.ids)
    seen.clear()
    monkeypatch.setattr(Counting, "cpu_batch", 5)  # as a selector whose clips take much memory
    assert gaze_video(video, selector=Counting(SMALL), ratio=0.1, tiles="4x2").ids.equal(whole.ids)
    assert seen == [5, 3] * 2


def test_options_reach_the_reader(video: Path) -> None:
    gaze = gaze_video(video, selector=Greedy(SMALL), ratio=0.1, fps=5.0, start=0.5, end=1.5)
    assert gaze.source is not None
    assert gaze.num_frames == 5
    assert all(0.5 <= time < 1.5 for time in gaze.source.timestamps)
    assert (
        gaze_video(video, selector=Greedy(SMALL), ratio=0.1, tiles="pad", max_tiles=2).num_clips
        <= 2
    )


def test_codec_gets_its_motion(video: Path) -> None:
    gaze = gaze_video(video, selector="codec", ratio=0.1)
    assert gaze.num_frames == 20
    assert gaze.num_patches > 0


def test_a_generator_makes_chance_repeatable(video: Path) -> None:
    def draw(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return gaze_video(video, selector="random", ratio=0.1, generator=generator).ids

    assert draw(1).equal(draw(1))
    assert not draw(1).equal(draw(2))


def test_times_and_canvas(video: Path) -> None:
    stream = GazeStream(
        video, selector=Greedy(SMALL), ratio=1.0, tiles="3x2", keep_canvas=True, preview=48
    )
    assert stream.num_frames == 20
    assert stream.fps == 10
    for chunk in stream:
        assert chunk.canvas_frames.equal(chunk.frames)  # everything may be looked at
        assert chunk.pixels is not None
        assert chunk.pixels.shape[1:] == (32, 48, 3)
    times = stream.times
    assert min(times.decode, times.tile, times.select, times.reconstruct) > 0
    plain = next(iter(GazeStream(video, selector=Greedy(SMALL), ratio=0.1)))
    with pytest.raises(AutoGazeError, match="keep_canvas"):
        _ = plain.canvas_frames


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"fps": 5.0}, (5, 10)),
        ({"fps": 100.0}, (10, 20)),
        ({"start": 0.5}, (10, 15)),
        ({"start": 0.5, "end": 1.0}, (10, 5)),
        ({"end": 99.0}, (10, 20)),
    ],
)
def test_how_many_frames_will_come(
    video: Path, options: dict[str, float], expected: tuple[int, int]
) -> None:
    stream = GazeStream(video, selector=Greedy(SMALL), ratio=0.1, **options)  # type: ignore[arg-type]
    assert (stream.fps, stream.num_frames) == expected
    assert sum(chunk.gaze.num_frames for chunk in stream) == expected[1]


def test_the_target_is_a_canvas_loss_or_none(video: Path) -> None:
    assert GazeStream(video, Greedy(), loss=0.07).target == 0.07
    assert GazeStream(video, Greedy()).target == Greedy.default_loss
    assert GazeStream(video, Greedy(), ratio=0.1).target is None

    class Foreseeing(Greedy):
        metric = "predicted"

    assert GazeStream(video, selector=Foreseeing(), loss=0.07).target is None


@pytest.mark.parametrize(
    ("options", "seconds"),
    [({}, 2.0), ({"fps": 5.0}, 2.0), ({"start": 0.5, "end": 1.0}, 0.5), ({"end": 0.1}, 0.1)],
)
def test_the_last_frame_lasts_too(video: Path, options: dict[str, float], seconds: float) -> None:
    stream, tally = GazeStream(video, selector=Centre(SMALL), **options), Tally()  # type: ignore[arg-type]
    for chunk in stream:
        tally.add(chunk)
    assert tally.summary(stream, 0.0, 1.0, {}).seconds == pytest.approx(seconds, abs=1e-3)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"ratio": 0.0}, SelectorError, "ratio"),
        ({"ratio": 1.5}, SelectorError, "ratio"),
        ({"loss": -1.0}, SelectorError, "loss"),
        ({"selector": "greddy"}, SelectorError, "did you mean 'greedy'"),
        ({"tiles": "many"}, GeometryError, "tiles must be"),
        ({"fps": -1.0}, VideoError, "fps"),
        ({"selector": "random", "loss": 0.1}, SelectorError, "random"),
    ],
)
def test_bad_settings_are_refused_at_once(
    video: Path, options: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        stream_video(video, **options)  # type: ignore[arg-type]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"none\.mp4"):
        gaze_video(tmp_path / "none.mp4")


def test_import_is_light() -> None:
    import subprocess
    import sys

    code = "import autogaze, sys; print(sorted({'torch', 'transformers', 'av'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_public_names() -> None:
    assert set(autogaze.__all__) <= set(dir(autogaze))
    for name in autogaze.__all__:
        assert getattr(autogaze, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = autogaze.nothing
    assert issubclass(Greedy, Selector)


class Crowded(Greedy):
    """A selector whose device holds at most so many tiles at once."""

    def __init__(self, holds: int) -> None:
        super().__init__(SMALL)
        self.holds, self.asked = holds, list[int]()

    def select(self, clips: Clips, **options: object) -> Gaze:  # type: ignore[override]
        self.asked.append(clips.num_clips)
        if clips.num_clips > self.holds:
            raise torch.OutOfMemoryError("out of memory")
        return super().select(clips, **options)  # type: ignore[arg-type]


def test_tiles_are_halved_once_where_memory_is_too_small(video: Path) -> None:
    selector = Crowded(holds=4)
    gaze = gaze_video(video, selector=selector, ratio=0.1, tiles="3x2")
    assert selector.asked == [6, 3, 3, 3, 3]  # of two chunks
    expected = gaze_video(video, selector=Greedy(SMALL), ratio=0.1, tiles="3x2")
    assert gaze.ids.equal(expected.ids)


@pytest.mark.parametrize(("holds", "tiles"), [(2, "3x2"), (0, "1x1")])
def test_memory_that_is_too_small_for_half_is_an_error(video: Path, holds: int, tiles: str) -> None:
    with pytest.raises(AutoGazeError, match=r"memory .*max.tiles"):
        gaze_video(video, selector=Crowded(holds), ratio=0.1, tiles=tiles)


def test_random_patches_are_the_same_after_halving(
    video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gazed(selector: Selector) -> Gaze:
        generator = torch.Generator().manual_seed(3)
        return gaze_video(video, selector=selector, ratio=0.1, tiles="3x2", generator=generator)

    expected = gazed(autogaze.load("random", pyramid=SMALL))
    select = Selector.select
    failed: list[bool] = []

    def fails_once(self: Selector, clips: Clips, **options: object) -> Gaze:
        gaze = select(self, clips, **options)  # type: ignore[arg-type]
        if not failed:
            failed.append(True)
            raise torch.OutOfMemoryError("out of memory")
        return gaze

    monkeypatch.setattr(Selector, "select", fails_once)
    assert gazed(autogaze.load("random", pyramid=SMALL)).ids.equal(expected.ids)


def test_frames_go_to_a_gpu_as_bytes_from_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a quarter of the bytes is copied, and nobody waits for them."""
    done: list[object] = []
    clips = Clips(torch.zeros(1, 2, 3, 32, 32, dtype=torch.uint8))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: done.append("pinned") or self)

    def to(self: torch.Tensor, device: torch.device, **options: object) -> torch.Tensor:
        done.append((self.dtype, device.type, options))
        return self

    monkeypatch.setattr(torch.Tensor, "to", to)
    clips.to(torch.device("cuda"))
    assert done == ["pinned", (torch.uint8, "cuda", {"non_blocking": True})]


def test_a_gpu_takes_as_many_tiles_as_its_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = Clips(torch.zeros(1, 16, 3, 32, 32, dtype=torch.uint8))
    gpu = torch.device("cuda")
    for free, expected in ((2**10, 16), (2**34, 3640), (None, 16)):
        monkeypatch.setattr(pipeline, "free_memory", lambda _, free=free: free)
        assert pipeline.tiles_at_once(gpu, clips) == expected
    assert pipeline.tiles_at_once(None, clips) == 16
