"""What the benchmarks of encoders are asked for: refused, where it cannot be, before anything slow."""

from pathlib import Path

import av
import pytest
import torch
import transformers as tf
from typer.testing import CliRunner, Result

from autogaze.cli.app import app
from autogaze.errors import AutoGazeError, EncoderError, GeometryError, VideoError
from autogaze.evaluation.encode_job import EncodeJob
from autogaze.evaluation.encoders import run_adapter_files
from autogaze.evaluation.fidelity_job import FidelityJob
from tests.clips import make_video, moving_square
from tests.evaluation import tiny

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


pytestmark = pytest.mark.usefixtures("own_encoder_registry")


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


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["bench", *(str(argument) for argument in arguments)])


# Motion.


def test_codec_without_motion_vectors_is_refused_while_parsing(hevc):
    with pytest.raises(VideoError, match=r"hevc decoder exports no motion vectors.*h264"):
        EncodeJob.parse(video=hevc, selectors=["greedy", "codec"])
    with pytest.raises(VideoError, match="hevc decoder exports no motion vectors"):
        FidelityJob.parse(videos=[hevc], selectors=["codec"])
    EncodeJob.parse(video=hevc, selectors=["greedy"])
    FidelityJob.parse(videos=[hevc], selectors=["greedy"])


def test_codec_without_motion_vectors_ends_every_command_at_once(hevc, monkeypatch):
    def slow(*_, **__):
        raise RuntimeError("something slow was begun")

    for name in ("encode.load_encoder", "fidelity.load_encoder", "select._measure"):
        monkeypatch.setattr(f"autogaze.evaluation.{name}", slow)
    for words in (
        ["encode", "--video"],
        ["fidelity"],
        ["select", "--selector", "greedy", "--video"],
    ):
        done = run(*words, hevc, "--selector", "codec")
        assert done.exit_code == 2, done.output
        assert "exports no motion vectors" in done.stderr


def test_rates_and_tiles_of_fidelity_are_checked_while_parsing(video):
    with pytest.raises(GeometryError, match="diagonal"):
        FidelityJob.parse(videos=[video], tiles="diagonal")
    with pytest.raises(VideoError, match="fps"):
        FidelityJob.parse(videos=[video], fps=0.0)


# Encoders.


@pytest.mark.parametrize(
    "parse",
    [
        lambda folder, video: EncodeJob.parse(video=video, encoders=["dinov2-base", folder]),
        lambda folder, video: FidelityJob.parse(videos=[video], encoder=folder),
    ],
)
def test_an_encoder_without_adapter_is_refused_while_parsing(parse, video, tmp_path):
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
    words = (*command, video, "--selector", "run-length", *encoder)
    refused = run(*words)
    assert refused.exit_code == 2
    assert "no adapter for models of type 'deit'" in refused.stderr
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
    words = ("fidelity", video, "--selector", "run-length", *encoder, "--adapter", file)
    refused = run(*words)
    assert refused.exit_code == 2
    assert "the adapter Partial that was registered for 'deit' fails" in refused.stderr
    assert "has no attribute 'patch_embedding'" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("nowhere.py", None, "there is no such file"),
        ("notes.txt", "hello", "must end in .py"),
        ("broken.py", "import torch\n1 / 0", "cannot be run: ZeroDivisionError: division by zero"),
    ],
)
def test_adapter_files_that_cannot_be_run(name, text, said, tmp_path: Path):
    file = tmp_path / name
    if text is not None:
        file.write_text(text)
    with pytest.raises(AutoGazeError, match=f"--adapter {file}: .*{said}"):
        run_adapter_files([str(file)])
