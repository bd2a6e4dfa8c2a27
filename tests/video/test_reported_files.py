"""Files that users reported, and others of their kinds: the right frames at the right times."""

import os
import shutil
import sys
from fractions import Fraction
from types import SimpleNamespace
from unittest.mock import Mock

import av
import numpy as np
import pytest
import torch
from av.codec.context import Flags
from av.container import InputContainer
from PIL import Image

from autogaze.cli.app import app
from autogaze.datasets.decoding import PyAVVideo
from autogaze.datasets.video_utils import read_video_pyav
from autogaze.datasets.video_windows import VideoWindows, Window
from autogaze.errors import CorruptVideoError, VideoError
from autogaze.gaze import Gaze
from autogaze.pipeline import GazedVideo
from autogaze.rendering.plot import BudgetPlot
from autogaze.selectors import registry
from autogaze.video.container import open_container
from autogaze.video.reader import Video
from autogaze.video.structure import shown_frames
from tests.video.remux import remux

DURATIONS = [1000, 100, 2000, 50, 10, 3000]
STARTS = [0, 1.0, 1.1, 3.1, 3.15, 3.16]


def times(path, **options):
    return [frame.timestamp for frame in Video(path).frames(**options)]


def run(*arguments):
    """The exit code of a command."""
    with pytest.raises(SystemExit) as ended:
        app([str(argument) for argument in arguments], standalone_mode=True)
    return ended.value.code


@pytest.fixture(scope="module")
def shades():
    return [Image.new("RGB", (64, 48), (40 * number, 0, 0)) for number in range(6)]


# One gaze of one file (d02)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(320, 180), (192, 112)])
def test_codec_gives_one_gaze_of_a_file_with_b_frames(folder, encode, picture, size):
    frames = [picture(number, *size) for number in range(12)]
    path = encode(folder / f"gaze{size[0]}.mp4", frames, bf="3", g="25")
    selector = registry.load("codec")
    gazes = [selector.gaze_video(path, ratio=0.1, tiles="one").ids for _ in range(200)]
    assert all(torch.equal(gaze, gazes[0]) for gaze in gazes)


# Timestamps of AVI, whose packets carry none (d03)


@pytest.mark.parametrize("bf", ["0", "1", "2", "3"])
@pytest.mark.parametrize("copied", [True, False])
def test_avi_shows_frame_k_at_k_over_the_rate(folder, encode, picture, bf, copied):
    frames = [picture(number) for number in range(30)]
    path = folder / f"{copied}{bf}.avi"
    if copied:
        remux(encode(folder / f"for_avi{bf}.mp4", frames, fps=25, bf=bf), path)
    else:
        encode(path, frames, fps=25, bf=bf, g="10")
    video = Video(path)
    assert (video.info.num_frames, video.count_frames()) == (30, 30)
    assert video.info.fps == pytest.approx(25)
    assert times(path) == pytest.approx(np.arange(30) / 25, abs=1e-6)
    assert video.end == 0
    assert [frame.index for frame in video.frames(fps=5)] == [0, 5, 10, 15, 20, 25]
    assert video.end == pytest.approx(1.2)


def test_an_overlay_of_an_avi_with_b_frames(folder, encode, picture, tmp_path):
    path = encode(folder / "o.avi", [picture(k) for k in range(20)], fps=25, bf="2", g="10")
    code = run("gaze", path, "--selector", "random", "--overlay", tmp_path / "overlay.mp4")
    assert code == 0
    assert times(tmp_path / "overlay.mp4") == pytest.approx(np.arange(20) / 25, abs=1e-4)


# Animations, whole and with their durations (d04, d08)


def test_an_animated_avif_that_pillow_does_not_read_is_refused(folder, monkeypatch):
    """FFmpeg would read its first picture, and nobody would know."""
    path = folder / "moving.avif"
    first = b"\0\0\0\x14ftypavis\0\0\0\0avis"
    path.write_bytes(first)
    monkeypatch.setattr("av.open", lambda *_, **__: Mock(spec=InputContainer))
    Image.init()  # which registers formats once, and not again below
    reader = type("AvifImageFile", (), {"__module__": "plugin"})
    for formats, has_decoder in (({"PNG": None}, True), ({"AVIF": (reader, None)}, False)):
        monkeypatch.setattr(Image, "OPEN", formats)
        monkeypatch.setitem(sys.modules, "plugin", SimpleNamespace(SUPPORTED=has_decoder))
        with pytest.raises(VideoError, match=r"moving\.avif.*pillow>=11\.3"):
            open_container(path)
    monkeypatch.setitem(sys.modules, "plugin", SimpleNamespace(SUPPORTED=True))
    with pytest.raises(CorruptVideoError, match=r"moving\.avif"):
        open_container(path)  # Pillow could not read it before


@pytest.mark.parametrize("suffix", ["avif", "webp", "gif", "png"])
def test_animations_are_read_whole(folder, shades, suffix):
    if f".{suffix}" not in Image.registered_extensions():
        pytest.skip(f"this Pillow writes no {suffix}")
    path = folder / f"shades.{suffix}"
    shades[0].save(path, save_all=True, append_images=shades[1:], duration=DURATIONS, loop=0)
    video = Video(path)
    assert not video.info.is_image
    assert video.count_frames() == 6
    frames = list(video.frames())
    assert [frame.timestamp for frame in frames] == pytest.approx(STARTS, abs=1e-3)
    assert video.end == pytest.approx(6.16, abs=1e-3)
    for frame, shade in zip(frames, shades, strict=True):
        assert np.abs(frame.pixels.astype(int) - np.asarray(shade)).max() <= 6
    assert [frame.index for frame in video.frames(start=1.05, end=3.12, fps=2)] == [1, 2]
    assert [frame.index for frame in video.frames(first=2, last=4)] == [2, 3, 4]
    assert [frame.index for frame in video.frames(start=3.155)] == [5]


def test_a_transparent_animation_is_composited_on_black(folder):
    frames = [Image.new("RGBA", (32, 32), (200, 100, 50, alpha)) for alpha in (0, 128, 255)]
    path = folder / "clear.webp"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=40, lossless=True)
    levels = [int(frame.pixels[0, 0, 0]) for frame in Video(path).frames()]
    assert levels == [0, 100, 200]


def test_pages_of_a_tiff_are_frames(folder, picture):
    path = folder / "pages.tiff"
    pages = [Image.fromarray(picture(number)) for number in range(5)]
    pages[0].save(path, save_all=True, append_images=[*pages[1:4], pages[4].resize((32, 24))])
    video = Video(path)
    frames = list(video.frames())
    assert (video.info.num_frames, len(frames)) == (5, 5)
    assert [frame.timestamp for frame in frames] == pytest.approx(np.arange(5) / 25)
    for frame in frames[:4]:
        np.testing.assert_array_equal(frame.pixels, picture(frame.index))
    assert frames[4].pixels.shape == (48, 64, 3)  # as frames of a video that change their size


def test_a_damaged_page_is_named_and_can_be_skipped(folder, picture):
    path = folder / "torn.tiff"
    pages = [Image.fromarray(picture(number)) for number in range(3)]
    pages[0].save(path, save_all=True, append_images=pages[1:], compression="tiff_lzw")
    with Image.open(path) as image:
        image.seek(2)
        offset = image.tag_v2[273][0]
    data = bytearray(path.read_bytes())
    data[offset : offset + 300] = b"\xff" * 300
    path.write_bytes(data)
    video = Video(path)
    with pytest.raises(CorruptVideoError, match=r"torn\.tiff: frame 2 "):
        list(video.frames())
    assert [frame.index for frame in video.frames(skip_corrupt=True)] == [0, 1]
    assert video.num_corrupt == 1


@pytest.mark.parametrize("largest", [1.0, 0.5, 255.0])
def test_float_tiffs_have_a_range(folder, largest):
    ramp = np.linspace(0, largest, 64 * 48, dtype=np.float32).reshape(48, 64)
    path = folder / f"float{largest}.tiff"
    Image.fromarray(ramp).save(path)
    (frame,) = Video(path).frames()
    expected = ramp * (255 if largest <= 1 else 1)
    assert np.abs(frame.pixels[..., 0] - expected).max() <= 0.51


@pytest.mark.parametrize("value", [-0.5, 300.0, np.nan])
def test_floats_without_a_range_are_refused(folder, value):
    ramp = np.zeros((8, 8), np.float32)
    ramp[3, 3] = value
    Image.fromarray(ramp).save(folder / "any.tiff")
    with pytest.raises(VideoError, match=r"any\.tiff: .*\[0, 1\]"):
        list(Video(folder / "any.tiff").frames())


# Names (d06), and what is no file


@pytest.mark.parametrize("name", ["2024-01-01T10:00:00.mp4", "http:x.mp4", "a%03d:b.mkv"])
def test_names_with_a_colon(tmp_path, encode, picture, monkeypatch, name):
    encode(tmp_path / "plain.mp4", [picture(k) for k in range(3)])
    os.rename(tmp_path / "plain.mp4", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(times(name)) == len(times(f"./{name}")) == len(times(tmp_path / name)) == 3
    assert run("gaze", name, "--selector", "random", "--overlay", "over:lay.mp4") == 0
    assert len(times("over:lay.mp4")) == 3


def test_pipes_and_devices_are_named_for_what_they_are(tmp_path, plain):
    os.mkfifo(tmp_path / "fifo.mp4")
    for path in (tmp_path / "fifo.mp4", "/dev/null"):
        with pytest.raises(VideoError, match="pipe or a device"):
            Video(path)
    assert run("info", tmp_path / "fifo.mp4") == run("gaze", tmp_path / "fifo.mp4") == 2


@pytest.mark.parametrize("url", ["http://host/a.mp4", "rtsp://host:554/live"])
def test_urls_are_refused_as_they_were_given(url):
    with pytest.raises(VideoError) as caught:
        Video(url)
    assert str(caught.value).startswith(f"{url}: ")
    assert run("gaze", url) == run("info", url) == 2


def test_a_file_of_this_machine_may_be_a_uri(tmp_path, plain):
    """It is the file itself, so it is not overwritten either."""
    video = shutil.copy(plain, tmp_path / "video.mp4")
    uri, out = video.as_uri(), tmp_path / "gaze.safetensors"
    few = ("--selector", "random", "--tiles", "one", "--end", "0.2")
    assert run("gaze", uri, "--out", out, *few) == run("info", uri) == 0
    assert Gaze.load(out.as_uri()).source.path == str(video)
    assert next(iter(GazedVideo(uri, Gaze.load(out)))).frames.shape[1] == 2
    assert run("measure", uri, out.as_uri()) == 0
    assert run("gaze", uri, "--overlay", video, *few) == run("gaze", f"{uri}.gone") == 2


def test_sound_with_a_cover_has_no_video(folder):
    path = folder / "cover.mp3"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("mp3", rate=44100)
        cover = container.add_stream("png")
        cover.width, cover.height, cover.pix_fmt = 64, 48, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8))))
        container.mux(cover.encode(None))
        silence = np.zeros((2, 1152), np.int16)
        for number in range(20):
            frame = av.AudioFrame.from_ndarray(silence, format="s16p", layout="stereo")
            frame.sample_rate, frame.pts = 44100, 1152 * number
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    with pytest.raises(VideoError, match="only audio and a cover picture"):
        Video(path)
    assert len(list(Video(path, stream=0).frames())) == 1  # it can be asked for


# Recordings that were joined (d07)


@pytest.fixture(scope="module")
def recording(folder, encode, picture):
    frames = [picture(number) for number in range(25)]
    return encode(folder / "one.ts", frames, fps=25, bf="2", g="10")


@pytest.mark.parametrize("parts", [2, 3])
def test_joined_recordings(folder, recording, parts):
    path = folder / f"{parts}_joined.ts"
    path.write_bytes(recording.read_bytes() * parts)
    one = [frame.pixels for frame in Video(recording).frames()]
    video = Video(path)
    frames = list(video.frames())
    assert video.count_frames() == len(frames) == 25 * parts
    assert [frame.timestamp for frame in frames] == pytest.approx(np.arange(25 * parts) / 25)
    for frame in frames:
        np.testing.assert_array_equal(frame.pixels, one[frame.index % 25])
    assert len(list(video.frames(skip_corrupt=True))) == 25 * parts
    assert video.num_corrupt == 0
    for start in (0.3, 1.0, 1.3):
        late = list(video.frames(start=start))
        assert [frame.index for frame in late] == list(range(round(25 * start + 0.49), 25 * parts))


def test_joined_recordings_of_different_days(folder, recording):
    later = remux(recording, folder / "later.ts", 5000)
    path = folder / "days.ts"
    path.write_bytes(recording.read_bytes() + later.read_bytes())
    assert times(path) == pytest.approx(np.arange(50) / 25, abs=1e-4)
    path.write_bytes(later.read_bytes() + recording.read_bytes())
    assert times(path) == pytest.approx(np.arange(50) / 25, abs=1e-4)


def noise_packets(encode, path, num_frames) -> tuple[bytes, list[int]]:
    """A recording of noise, and where the packets of its frames begin in it."""
    shape = (num_frames, 48, 64, 3)
    noise = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    encode(path, list(noise), fps=25, bf="0", g="5")
    with av.open(str(path)) as container:
        positions = [packet.pos for packet in container.demux(video=0) if packet.size]
    return path.read_bytes(), positions


def test_the_frame_that_a_joint_cuts_is_named(folder, encode):
    data, positions = noise_packets(encode, folder / "for_cut.ts", 10)
    for number, num_packets in ((6, 1), (7, 3)):
        path = folder / f"cut{number}_joined.ts"
        path.write_bytes(data[: positions[number] + 188 * num_packets] + data)
        video = Video(path)
        with pytest.raises(CorruptVideoError, match=f"frame {number} "):
            list(video.frames())
        given = [frame.index for frame in video.frames(skip_corrupt=True)]
        assert given == [*range(number), *range(number + 1, number + 11)]
        assert video.num_corrupt == 1


def test_packets_that_are_missing_inside_a_recording_are_no_joint(folder, encode):
    data, positions = noise_packets(encode, folder / "noise.ts", 20)
    dropped = positions[7] + 2 * 188
    path = folder / "dropped.ts"
    path.write_bytes(data[:dropped] + data[dropped + 188 :])
    video = Video(path)
    given = []
    with pytest.raises(CorruptVideoError, match="frame 7 "):
        given.extend(video.frames())
    assert [frame.index for frame in given] == list(range(7))
    intact = [frame.index for frame in video.frames(skip_corrupt=True)]
    assert 7 not in intact
    assert {*range(7), *range(10, 20)} <= set(intact)
    assert video.num_corrupt >= 1


# The last frame's duration (d08)


@pytest.mark.parametrize("name", ["end.mp4", "end.mkv", "end.webm", "end.mov"])
def test_the_last_frame_lasts(folder, encode, picture, name):
    path = folder / name
    codec = "libvpx-vp9" if name.endswith("webm") else "libx264"
    milliseconds = [0, 1000, 1100, 3100, 3150, 3160]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.flags |= Flags.frame_duration
        for number, (start, duration) in enumerate(zip(milliseconds, DURATIONS, strict=True)):
            frame = av.VideoFrame.from_ndarray(picture(number))
            frame.pts, frame.time_base, frame.duration = start, Fraction(1, 1000), duration
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    video = Video(path)
    assert [frame.timestamp for frame in video.frames()] == pytest.approx(STARTS, abs=2e-3)
    assert video.end == pytest.approx(6.16, abs=2e-3)
    list(video.frames(end=4))
    assert video.end == 4
    list(video.frames(last=1))
    assert video.end == pytest.approx(1.1, abs=2e-3)


def test_reports_and_overlays_last_as_long(folder, shades, tmp_path, capsys):
    import json

    path = folder / "lasts.gif"
    shades[0].save(path, save_all=True, append_images=shades[1:], duration=DURATIONS, loop=0)
    overlay, canvas = tmp_path / "overlay.mp4", tmp_path / "canvas.mp4"
    saved = tmp_path / "gaze.safetensors"
    options = ["--overlay", overlay, "--reconstruction", canvas, "--out", saved, "--json"]
    assert run("gaze", path, "--selector", "random", *options) == 0
    assert json.loads(capsys.readouterr().out)["seconds"] == pytest.approx(6.16, abs=1e-3)
    for written in (overlay, canvas):
        assert Video(written).info.duration == pytest.approx(6.16, abs=1e-3)
    assert run("info", saved, "--json") == 0
    assert json.loads(capsys.readouterr().out)["to_second"] == pytest.approx(6.16, abs=1e-3)
    gaze = Gaze.load(saved)
    assert gaze.source.end == pytest.approx(6.16, abs=1e-3)
    assert gaze.frames(0, 2).source.end == gaze.source.timestamps[2]
    with BudgetPlot(tmp_path / "plot.png") as plot:
        for chunk in GazedVideo(path, gaze):
            plot.add(chunk)
    assert plot.edges() == pytest.approx([*STARTS, 6.16], abs=1e-3)
    options = ["--start", "1.05", "--end", "4", "--json"]
    assert run("gaze", path, "--selector", "random", *options) == 0
    assert json.loads(capsys.readouterr().out)["seconds"] == pytest.approx(4 - 1.1, abs=1e-3)


# Frames that an edit list hides (d11), and clocks of the day


@pytest.fixture(scope="module")
def trimmed(folder, encode, picture):
    frames = [picture(number) for number in range(40)]
    whole = encode(
        folder / "untrimmed.mp4", frames, fps=25, bf="2", g="20", **{"x264-params": "scenecut=0"}
    )
    (folder / "cut" / "train").mkdir(parents=True)
    return remux(whole, folder / "cut" / "train" / "cut.mp4", Fraction(-1, 2))


def test_hidden_frames_are_not_counted(trimmed, capsys):
    import json

    video = Video(trimmed)
    shown = len(list(video.frames()))
    assert shown == 27
    assert video.info.num_frames == video.count_frames() == shown_frames(trimmed) == shown
    assert PyAVVideo(trimmed).num_frames == shown
    assert run("info", trimmed, "--json") == 0
    assert json.loads(capsys.readouterr().out)["frames"] == shown


@pytest.mark.parametrize("window", [Window(8, random=True), Window(8, every=True), Window(27)])
def test_training_windows_lie_in_what_is_shown(trimmed, folder, window):
    clips = VideoWindows([folder / "cut"], "train", window=window, side=32)
    assert len(clips) == (3 if window.every else 1)
    from autogaze.datasets.clip import ClipKey, TrainingClip

    for epoch in range(30 if window.random else 1):
        for number in range(len(clips)):
            assert isinstance(clips[ClipKey(epoch, number)], TrainingClip)


def test_a_sheet_has_eight_columns_whatever_the_header_says(folder, encode, picture, trimmed):
    frames = [picture(number) for number in range(40)]
    whole = encode(folder / "sheet.mp4", frames, fps=25)
    clock = remux(whole, folder / "clock.mkv", 1_700_000_000)
    irregular = encode(
        folder / "slow_end.mkv",
        frames,
        milliseconds=[20 * k + 300 * max(0, k - 30) for k in range(40)],
    )
    assert Video(clock).info.num_frames == 40
    assert Video(clock).info.duration == pytest.approx(1.6, abs=1e-3)
    widths = set()
    for path in (whole, trimmed, clock, irregular):
        sheet = folder / "sheet.png"
        assert run("gaze", path, "--selector", "random", "--tiles", "one", "--sheet", sheet) == 0
        with Image.open(sheet) as image:
            widths.add(image.width)
    assert len(widths) == 1


# read_video_pyav reads what the reader reads (d12)


def test_read_video_pyav_reads_as_the_reader(folder, encode, picture):
    frames = [picture(number) for number in range(20)]
    whole = encode(folder / "read.mp4", frames, fps=25)
    clear = np.full((48, 64, 4), 235, np.uint8)
    clear[..., 3] = 0
    paths = [
        whole,
        remux(whole, folder / "read.h264"),
        remux(whole, folder / "late.ts", 50_000),
        remux(whole, folder / "wrap.ts", 95_442),
        remux(whole, folder / "late.mkv", 7),
        remux(whole, folder / "trimmed.mp4", Fraction(-1, 4)),
        encode(folder / "b.avi", frames, fps=25, bf="2"),
        encode(folder / "clear.webm", [clear] * 5, codec="libvpx-vp9", pixel_format="yuva420p"),
    ]
    for path in paths:
        want = [frame.pixels for frame in Video(path).frames()]
        with av.open(str(path)) as container:
            next(container.demux(video=0))  # wherever it stands
            np.testing.assert_array_equal(read_video_pyav(container, [3, 0]), [want[3], want[0]])
            with pytest.raises(VideoError, match=f"frame {len(want)} .* {len(want)} frames"):
                read_video_pyav(container, [0, len(want)])
        with path.open("rb") as file, av.open(file) as container:
            np.testing.assert_array_equal(read_video_pyav(container, [3, 0]), [want[3], want[0]])


# Several streams


def two_streams(path, default, sizes=((64, 48), (32, 24))):
    with av.open(str(path), "w") as container:
        streams = []
        for number, (width, height) in enumerate(sizes):
            stream = container.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            if default is not None:
                flag = av.stream.Disposition.default if number == default else 0
                stream.disposition = av.stream.Disposition(flag)
            streams.append(stream)
        for stream, (width, height) in zip(streams, sizes, strict=True):
            for _ in range(3):
                container.mux(stream.encode(av.VideoFrame(width, height, "yuv420p")))
            container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(("default", "width"), [(0, 64), (1, 32)])
def test_the_default_stream_is_taken(folder, default, width):
    path = two_streams(folder / f"default{default}.mkv", default)
    video = Video(path)
    assert (video.info.width, video.info.stream, video.info.num_streams) == (width, default, 2)
    assert {frame.pixels.shape[1] for frame in video.frames()} == {width}


def test_the_largest_stream_is_taken_where_none_is_the_default(folder):
    path = two_streams(folder / "programs.ts", None, ((32, 24), (64, 48)))
    assert Video(path).info.width == 64


def test_a_stream_can_be_chosen(folder, capsys):
    import json

    path = two_streams(folder / "choice.mkv", 0)
    for stream, width in ((0, 64), (1, 32)):
        video = Video(path, stream=stream)
        assert [frame.pixels.shape[1] for frame in video.frames()] == [width] * 3
        assert [frame.index for frame in video.frames(start=0.15)] == [2]
        gaze = registry.load("random").gaze_video(path, stream=stream, ratio=0.1)
        assert gaze.source.tiles.width == width
        assert run("info", path, "--stream", stream, "--json") == 0
        assert json.loads(capsys.readouterr().out)["size"].startswith(f"{width} x ")
        assert run("gaze", path, "--stream", stream, "--selector", "random", "--json") == 0
        assert json.loads(capsys.readouterr().out)["width"] == width
        assert next(PyAVVideo(path, stream=stream).frames()).shape[1] == width
    for number in (2, -1):
        with pytest.raises(VideoError, match=f"no video stream {number} .*2"):
            Video(path, stream=number)
    assert run("gaze", path, "--stream", 2, "--selector", "random") == 2


@pytest.mark.parametrize(
    ("default", "stream", "recorded"),
    [(0, 1, 1), (1, 0, 0), (0, 0, None), (1, 1, None), (1, None, None)],
)
def test_a_gaze_names_the_stream_it_was_made_at(folder, capsys, default, stream, recorded):
    import json

    path = two_streams(folder / "named.mkv", default, ((64, 48), (64, 48)))
    out = folder / "named.safetensors"
    option = [] if stream is None else ["--stream", stream]
    assert run("gaze", path, *option, "--selector", "change", "--ratio", 0.1, "--out", out) == 0
    gaze = Gaze.load(out)
    assert gaze.source.stream == recorded
    assert gaze.frames(1, 3).source.stream == recorded  # parts are of the same stream
    capsys.readouterr()
    assert run("info", out, "--json") == 0
    assert json.loads(capsys.readouterr().out).get("stream") == recorded
    used = default if stream is None else stream
    assert GazedVideo(path, gaze)._video.info.stream == used
    assert GazedVideo(path, gaze, stream=1 - used)._video.info.stream == 1 - used
    assert run("measure", path, out) == 0


def test_measuring_needs_no_stream_where_the_gaze_names_it(folder, capsys):
    path = two_streams(folder / "sizes.mkv", 0)
    out = folder / "sizes.safetensors"
    registry.load("change").gaze_video(path, stream=1, ratio=0.1).save(out)
    assert run("measure", path, out) == 0
    assert run("measure", path, out, "--stream", 0) == 2  # of another size
    single = two_streams(folder / "single.mkv", 0, ((32, 24),))
    assert run("measure", single, out) == 2
    assert "no video stream 1" in capsys.readouterr().err
    assert GazedVideo(single, Gaze.load(out), stream=0)._video.info.stream == 0


# Pixels that are not square, and high dynamic range


def anamorphic(path, aspect, rotation=0, codec="libx264"):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(4):
            pixels = np.zeros((48, 64, 3), np.uint8)
            pixels[:, 8 * number :] = 200
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("aspect", "rotation", "size"),
    [
        (Fraction(2), 0, (128, 48)),
        (Fraction(1, 2), 0, (32, 48)),
        (Fraction(8, 9), 0, (57, 48)),
        (Fraction(2), 90, (48, 128)),
        (Fraction(100), 0, (64, 48)),  # a mistake
        (Fraction(446, 445), 0, (64, 48)),  # of a rounded size
    ],
)
@pytest.mark.parametrize("name", ["wide.mp4", "wide.mkv"])
def test_pixels_are_made_square(folder, aspect, rotation, size, name):
    path = anamorphic(folder / name, aspect, rotation if name.endswith("mp4") else 0)
    if rotation and name.endswith("mkv"):
        size = size[::-1]
    video = Video(path)
    assert (video.info.width, video.info.height) == size
    frames = list(video.frames())
    assert frames[0].pixels.shape == (size[1], size[0], 3)
    bright = [float((frame.pixels > 100).mean()) for frame in frames]
    assert bright == pytest.approx([1, 0.875, 0.75, 0.625], abs=0.02)


def test_motion_of_pixels_that_are_not_square(folder):
    path = anamorphic(folder / "moved.mp4", Fraction(2))
    fields = [frame.motion for frame in Video(path).frames(motion=True)]
    assert {(field.width, field.height, field.block) for field in fields} == {(128, 48, (16, 8))}
    gaze = registry.load("codec").gaze_video(path, ratio=0.1, tiles="one")
    assert gaze.num_frames == 4


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_high_dynamic_range_is_tone_mapped(folder, transfer, name, capsys):
    path = folder / f"{name}.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 16, "yuv420p10le"
        context = stream.codec_context
        context.color_trc, context.color_primaries, context.colorspace = transfer, 9, 9
        context.color_range = 1
        frame = av.VideoFrame(64, 16, "yuv420p10le")
        ramp = np.linspace(64, 940, 64).round().astype("<u2")
        for plane, row in zip(
            frame.planes, [ramp, np.full(32, 512), np.full(32, 512)], strict=True
        ):
            values = np.zeros((plane.height, plane.line_size // 2), "<u2")
            values[:, : len(row)] = row
            plane.update(values.tobytes())
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    video = Video(path)
    assert video.info.hdr == name
    (frame,) = video.frames()
    line = frame.pixels[8].astype(int)
    assert (np.ptp(line, axis=1) <= 2).all()  # grey stays grey
    assert (np.diff(line[:, 0]) >= 0).all()
    assert line[0, 0] <= 2
    assert line[-1, 0] >= 250
    # Diffuse white, 203 cd/m2, is at 58 % of PQ and at 75 % of HLG: white in SDR, not grey.
    white = 0.58 if transfer == 16 else 0.75
    assert line[round(63 * white), 0] > 225
    assert run("info", path) == 0
    assert name in capsys.readouterr().out


def test_open_container_names_the_file(folder):
    with pytest.raises(VideoError, match="no such file"):
        open_container(folder / "not there.mp4")
