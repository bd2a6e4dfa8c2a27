"""`autogaze answer`: a multimodal LLM answers a question about a video, gazed, dense, or both."""

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from autogaze.checks import is_number, whole
from autogaze.cli.command import DECODER_HELP, Command, Device, PrintJson
from autogaze.cli.report import figures_table, print_json, results_console
from autogaze.errors import AutoGazeError, OutputError
from autogaze.utils.files import all_or_none, check_output
from autogaze.video.decoders import DecoderName, check_decoder

if TYPE_CHECKING:  # heavy, so imported where the work begins
    import torch

    from autogaze.gaze import Gaze
    from autogaze.mllm.answering import VideoAnswer, VideoMLLM
    from autogaze.mllm.viewing import Viewing

what_option = partial(typer.Option, rich_help_panel="What the model sees")

STAGES = ("decode", "select", "encode", "prefill", "generate")


@dataclass(frozen=True)
class AnswerCommand(Command):
    """Ask a multimodal LLM about a video, of which it sees what a selector chose."""

    video: Annotated[str, typer.Argument(metavar="VIDEO", help="Anything that ffmpeg decodes.")]
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What to answer.")]
    model: Annotated[
        str, typer.Option(metavar="FOLDER|HUB-ID", help="Of a multimodal LLM; see docs/mllm.md.")
    ]
    selector: Annotated[
        str | None,
        what_option(
            metavar="NAME|FOLDER|HUB-ID",
            help="A name from `autogaze selectors`, or weights.",
            show_default="greedy; NVILA: its own",
        ),
    ] = None
    ratio: Annotated[
        float | None,
        what_option(help="Keep at most this share of every tubelet's units, in (0, 1]."),
    ] = None
    loss: Annotated[
        float | None,
        what_option(help="Choose units of a frame until its loss is at most this."),
    ] = None
    max_vision_tokens: Annotated[
        int | None, what_option(help="Keep at most so many units of the whole video.")
    ] = None
    frames: Annotated[
        int | None,
        what_option(
            help="At most so many frames, at even distances; all of a shorter video.",
            show_default="what the model's files say; LLaVA-OneVision, InternVL: 32",
        ),
    ] = None
    units: Annotated[
        Literal["finest", "scales", "union"], what_option(help="How patches become units.")
    ] = "finest"
    decoder: Annotated[DecoderName, what_option(help=DECODER_HELP)] = "auto"
    seed: Annotated[int | None, what_option(help="Seed of random choices.")] = None
    dense: Annotated[bool, what_option("--dense", help="See everything: the untouched model.")] = (
        False
    )
    compare: Annotated[
        bool, what_option("--compare", help="Answer twice, gazed and dense, and compare the costs.")
    ] = False
    max_new_tokens: Annotated[int, typer.Option(help="The most tokens of the answer.")] = 128
    overlay: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A video (.mp4) of the frames seen, what was kept outlined."
        ),
    ] = None
    device: Device = "auto"
    dtype: Annotated[
        str,
        typer.Option(help="Of the model: auto (as it was saved), float32, float16 or bfloat16."),
    ] = "auto"
    json: PrintJson = False

    def __post_init__(self) -> None:
        budgets = [b for b in (self.ratio, self.loss, self.max_vision_tokens) if b is not None]
        if self.dense and (budgets or self.selector is not None or self.compare or self.overlay):
            raise AutoGazeError(
                "--dense sees everything: leave out --selector, --ratio, --loss, "
                "--max-vision-tokens, --overlay and --compare"
            )
        if self.dense and self.units != "finest":
            raise AutoGazeError(f"--dense sees everything: leave out --units {self.units}")
        if self.ratio is not None and not (is_number(self.ratio) and 0 < self.ratio <= 1):
            raise AutoGazeError(f"--ratio must be in (0, 1], got {self.ratio}")
        for name in ("max_vision_tokens", "frames", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None and (whole(value) or 0) < 1:
                option = "--" + name.replace("_", "-")
                raise AutoGazeError(f"{option} must be a whole number of at least 1, got {value}")
        if not self.question.strip():
            raise AutoGazeError("the question is empty")
        check_decoder(self.decoder)
        if self.overlay is not None:
            check_output(self.overlay, ".mp4", "--overlay")
            if os.path.realpath(self.overlay) == os.path.realpath(self.video):
                raise OutputError(
                    f"--overlay {self.overlay}: is the video itself, choose another file"
                )

    def run(self) -> None:
        from autogaze.mllm.answering import VideoMLLM
        from autogaze.mllm.viewing import UNIFORM
        from autogaze.utils.device import DeviceOptions

        if self.overlay is not None and self.selector == UNIFORM:
            raise AutoGazeError(
                f"--overlay: {UNIFORM} keeps whole tubelets without gazing, so there are no patches "
                "to outline; leave --overlay out, or name another selector"
            )

        as_saved = self.dtype == "auto"
        place = DeviceOptions.parse(self.device, "float32" if as_saved else self.dtype)
        dtype = self.dtype if as_saved else place.dtype
        model = VideoMLLM.load(self.model, device=place.device, dtype=dtype)
        if self.overlay is not None and self.selector is None and not model.selects:
            raise AutoGazeError(
                f"--overlay: the processor of {self.model} was saved without a selector and keeps "
                "everything, so there is nothing to outline; name one with --selector"
            )
        answers = {name: self._ask(model, name, viewing) for name, viewing in self._viewings()}
        if self.overlay is not None:
            gaze = answers["gazed"].seen
            if gaze is None:
                raise AutoGazeError("--overlay: no selector ran, so there is nothing to outline")
            write_overlay(self.video, gaze, self.overlay, self.decoder, place.device)
        notes = notes_on(answers)
        if self.json:
            printed = {name: as_json(answer) for name, answer in answers.items()}
            print_json({**printed, **({"notes": notes} if notes else {})})
        else:
            results_console().print(costs_table(answers))
            for note in notes:
                results_console().print(f"Note: {note}", highlight=False)

    def _viewings(self) -> Iterator[tuple[str, "Viewing"]]:
        """What is seen, by name."""
        from autogaze.mllm.viewing import Viewing

        if not self.dense:
            budgets = self.ratio, self.loss, self.max_vision_tokens
            yield (
                "gazed",
                Viewing(self.selector, *budgets, self.frames, self.units, decoder=self.decoder),
            )
        if self.dense or self.compare:
            yield "dense", Viewing(num_frames=self.frames, dense=True, decoder=self.decoder)

    def _ask(self, model: "VideoMLLM", name: str, viewing: "Viewing") -> "VideoAnswer":
        """The answer, streamed unless JSON is printed."""
        from transformers import TextStreamer

        from autogaze.utils.seeding import generator_of

        streamer = None
        if not self.json:
            if self.compare:
                results_console().print(f"[bold]{name}[/bold]")
            streamer = TextStreamer(
                model.processor.tokenizer, skip_prompt=True, skip_special_tokens=True
            )
        generator = None if self.seed is None else generator_of(self.seed)
        return model.ask(
            self.video,
            self.question,
            viewing,
            max_new_tokens=self.max_new_tokens,
            streamer=streamer,
            generator=generator,
        )


def write_overlay(
    video: str, gaze: "Gaze", path: Path, decoder: DecoderName, device: "torch.device"
) -> None:
    """The frames that were seen, with what was kept outlined and the rest dimmed."""
    from autogaze.pipeline import GazedVideo
    from autogaze.rendering import OverlayVideo

    shown = GazedVideo(video, gaze, decoder=decoder, device=device)
    times = () if gaze.source is None else gaze.source.timestamps
    lasts = times[-1] - times[0] if len(times) > 1 else 0.0
    rate = (len(times) - 1) / lasts if lasts else 1.0
    with all_or_none(), OverlayVideo(path, rate) as rendering:
        for chunk in shown:
            rendering.add(chunk)


def as_json(answer: "VideoAnswer") -> dict[str, Any]:
    """An answer and its costs; seconds by stage."""
    fields = (
        "text",
        "num_tokens",
        "prompt_tokens",
        "dense_prompt_tokens",
        "kept_units",
        "dense_units",
    )
    return {
        **{name: getattr(answer, name) for name in fields},
        "ratio": answer.ratio,
        "frame_size": answer.frame_size,
        "seconds": {**dataclasses.asdict(answer.seconds), "total": answer.seconds.total},
    }


def notes_on(answers: dict[str, "VideoAnswer"]) -> list[str]:
    """What has to be known before answers are compared."""
    sizes = {name: answer.frame_size for name, answer in answers.items()}
    if None in sizes.values() or len(set(sizes.values())) < 2:
        return []
    told = ", ".join(f"{name} {size[0]} x {size[1]}" for name, size in sizes.items() if size)
    return [
        f"the model's frames differ in size ({told} pixels): with --max-vision-tokens alone they are "
        "as large as the video's, else as the checkpoint's settings bound them. Units, tokens and "
        "seconds are not of the same frames; with --ratio too, both are of the checkpoint's size."
    ]


def costs_table(answers: dict[str, "VideoAnswer"]) -> Any:
    """Tokens and seconds by stage, a row per answer."""
    table = figures_table("", "units kept", "share", "prompt tokens", *STAGES, "total s")
    for name, answer in answers.items():
        seconds = [f"{getattr(answer.seconds, stage):.2f}" for stage in STAGES]
        table.add_row(
            name,
            f"{answer.kept_units:,} of {answer.dense_units:,}",
            f"{answer.ratio:.1%}",
            f"{answer.prompt_tokens:,} of {answer.dense_prompt_tokens:,}",
            *seconds,
            f"{answer.seconds.total:.2f}",
        )
    return table
