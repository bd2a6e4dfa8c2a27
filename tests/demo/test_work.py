"""A job's numbers are the command line's; limits; stopping."""

import json
import threading
import time

import av
import numpy as np
import pytest
import torch
from PIL import Image

import autogaze
from autogaze.demo.limits import LimitError, Limits
from autogaze.demo.selectors import SelectorPool
from autogaze.demo.work import Cancelled, Files, Settings, Stop, StoppableSelector, gaze_at
from autogaze.errors import AutoGazeError, GeometryError, SelectorError, VideoError
from autogaze.gaze import Gaze
from tests.cli.commands import run
from tests.clips import make_video
from tests.decoders import decoded, needs_torchcodec

__all__ = ["decoded"]

NAMES = list(autogaze.list_selectors())


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return make_video(tmp_path_factory.mktemp("video") / "square.mp4", 20)


def work(video, folder, limits=Limits(), stop=None, **settings):  # noqa: B008 - frozen
    chosen = Settings(**settings)
    selector = autogaze.load(chosen.selector)
    return gaze_at(video, chosen, selector, folder, limits=limits, stop=stop or Stop())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"selector": "greedy", "ratio": None, "loss": 0.02, "fps": 5.0},
            "--loss 0.02 --fps 5",
        ),
        (
            {"selector": "learned", "ratio": 0.05, "end": 0.4, "tiles": "2x1"},
            "--selector learned --ratio 0.05 --end 0.4 --tiles 2x1",
        ),
        (
            {"selector": "random", "ratio": 0.2, "seed": 3, "start": 0.5, "end": 1.2},
            "--selector random --ratio 0.2 --seed 3 --start 0.5 --end 1.2",
        ),
    ],
    ids=["loss", "tiles", "random"],
)
def test_numbers_are_those_of_the_command(video, tmp_path, settings, words):
    assert_as_the_command(work(video, tmp_path, **settings), video, tmp_path, words)


@pytest.fixture
def endpoints(tmp_path):
    pytest.importorskip("gradio", reason="the extra demo is not installed")
    from autogaze.demo.api import Endpoints
    from autogaze.demo.jobs import Jobs

    pool = SelectorPool(["centre", "random"])
    (tmp_path / "root").mkdir()
    return Endpoints(Jobs(tmp_path / "root", tmp_path / "root" / "examples", pool, Limits()))


def test_clients_that_name_no_selector_get_the_first_of_the_page(endpoints, video):
    import gradio

    visitor = gradio.Request(session_hash="visitor")
    found, *_ = endpoints.gaze(visitor, str(video))
    assert found["selector"] == "centre"
    for other in (None, ""):
        with pytest.raises(gradio.Error, match="name it"):
            endpoints.compare(visitor, str(video), other)


HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.m3u8", HLS),
        ("address.m3u8", HLS.replace("{}", "file://{}")),
        ("list.mp4", "ffconcat version 1.0\nfile {}\n"),
        ("list.mpd", "\n<?xml version='1.0'?><MPD><Period>{}</Period></MPD>"),
    ],
)
def test_a_visitor_cannot_have_other_files_read(endpoints, tmp_path, name, text):
    import gradio

    make_video(tmp_path / "secret.ts", 4)
    sent = tmp_path / "root" / name
    sent.write_text(text.format(tmp_path / "secret.ts"))
    visitor = gradio.Request(session_hash="visitor")
    with pytest.raises(gradio.Error, match="other files"):
        endpoints.gaze(visitor, str(sent))
    with pytest.raises(gradio.Error, match="other files"):
        endpoints.compare(visitor, str(sent), "random")


def assert_as_the_command(found, video, folder, words):
    files = "--sheet", folder / "s.png", "--out", folder / "g.safetensors"
    told = json.loads(run("gaze", video, *words.split(), "--json", *files).stdout)
    summary = json.loads(json.dumps(found.summary.to_json()))
    for name in ("frames", "kept", "total", "ratio", "loss_mean", "loss_max", "seconds", "tiles"):
        assert summary[name] == told[name], name
    ours, theirs = Gaze.load(found.files.gaze), Gaze.load(folder / "g.safetensors")
    assert torch.equal(ours.ids, theirs.ids)
    assert torch.equal(ours.lengths, theirs.lengths)


def test_numbers_and_files_of_two_chunks(video, tmp_path):
    found = work(video, tmp_path, ratio=0.1)
    assert_as_the_command(found, video, tmp_path, "--ratio 0.1")
    files = found.files
    for path in (files.video, files.overlay, files.scales, files.reconstruction):
        with av.open(str(path)) as container:
            assert sum(1 for _ in container.decode(video=0)) == 20
    with Image.open(files.sheet) as sheet:
        assert sheet.width > 500
    assert [frame.number for frame in found.frames] == list(range(20))
    assert sum(sum(frame.kept) for frame in found.frames) == sum(found.summary.kept)


@pytest.mark.parametrize("name", NAMES)
def test_a_stoppable_selector_chooses_the_same(video, name):
    selector = autogaze.load(name)
    wrapped = StoppableSelector(selector, Stop())
    frames = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (2, 5, 3, 224, 224), np.uint8)
    )
    clips = autogaze.clips.Clips(
        frames, torch.rand(2, 5, 14, 14) if selector.needs_motion else None
    )
    ours, theirs = (
        one.select(clips, ratio=0.05, generator=torch.Generator().manual_seed(1))
        for one in (wrapped, selector)
    )
    assert torch.equal(ours.ids, theirs.ids)
    assert torch.equal(ours.lengths, theirs.lengths)
    assert (ours.metric, ours.ordered) == (theirs.metric, theirs.ordered)


def test_a_stopped_job_leaves_nothing(video, tmp_path):
    stop = Stop()
    stop.set()
    with pytest.raises(Cancelled):
        work(video, tmp_path, stop=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_job_stops_within_about_a_second(tmp_path):
    video = make_video(tmp_path / "large.mp4", 48, 1280, 720, preset="ultrafast")
    out = tmp_path / "out"
    out.mkdir()
    stop, caught = Stop(), []
    chosen, selector = Settings("learned", 0.2, tiles="4x3"), autogaze.load("learned")

    def job():
        try:
            gaze_at(video, chosen, selector, out, limits=Limits(), stop=stop)
        except Cancelled:
            caught.append(time.perf_counter())

    thread = threading.Thread(target=job)
    thread.start()
    time.sleep(2)
    stop.set()
    asked = time.perf_counter()
    thread.join(timeout=30)
    assert len(caught) == 1
    assert caught[0] - asked < 2.5  # a second, where a core is free
    assert list(out.iterdir()) == []


def test_limits(video, tmp_path):
    for limits, words in (
        (Limits(seconds=1), "2.0 s"),
        (Limits(frames=10), "20 frames"),
        (Limits(megabytes=0.001), "MB"),
        (Limits(megapixels=0.001), "96 x 64"),
    ):
        with pytest.raises(LimitError, match=words):
            work(video, tmp_path, limits)
    assert list(tmp_path.iterdir()) == []
    part = work(video, tmp_path, Limits(seconds=1, frames=10), end=0.9)
    assert part.summary.frames == 9


def test_more_tiles_than_the_page_allows_are_not_made(tmp_path):
    video = make_video(tmp_path / "wide.mp4", 2, 960, 480)
    found = work(video, tmp_path, Limits(tiles=2), max_tiles=50)
    assert found.summary.tiles == (2, 1)


@pytest.mark.parametrize("name", ["frames", "tiles", "jobs", "megabytes", "seconds"])
@pytest.mark.parametrize("value", [0, -1])
def test_limits_are_above_0(name, value):
    with pytest.raises(AutoGazeError, match=name):
        Limits(**{name: value})


def test_limits_are_numbers():
    for value in (float("nan"), float("inf")):
        with pytest.raises(AutoGazeError, match="seconds"):
            Limits(seconds=value)


def test_bad_settings(video, tmp_path):
    with pytest.raises(SelectorError, match="ratio"):
        work(video, tmp_path, ratio=0.0)
    with pytest.raises(SelectorError, match="loss"):
        work(video, tmp_path, selector="run-length", loss=0.1)
    with pytest.raises(GeometryError, match="max_tiles"):
        work(video, tmp_path, max_tiles=0)
    with pytest.raises(VideoError):
        work(tmp_path / "nothing.mp4", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_long_names_are_cut(tmp_path):
    files = Files.within(tmp_path, "x" * 300)
    assert all(len(getattr(files, name).name) < 120 for name in ("gaze", "overlay", "sheet"))


def test_a_gpu_without_memory_left_is_no_defect(endpoints):
    jobs = endpoints.jobs
    message = jobs.message(torch.OutOfMemoryError("CUDA out of memory"), None)
    assert "memory" in message
    assert message != jobs.message(RuntimeError("a bolt came loose"), None)


@needs_torchcodec
def test_the_decoder_of_the_page(video, tmp_path, decoded):
    selector, options = autogaze.load("centre"), {"limits": Limits(), "stop": Stop()}
    chosen = Settings("centre", 0.1, end=0.1)
    folders = [tmp_path / name for name in ("pyav", "torchcodec")]
    runs = []
    for folder in folders:
        folder.mkdir()
        runs.append(gaze_at(video, chosen, selector, folder, decoder=folder.name, **options))
    assert [run.summary.decoder for run in runs] == ["pyav", "torchcodec"]
    assert decoded
    assert runs[0].frames == runs[1].frames
