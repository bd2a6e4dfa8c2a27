"""`autogaze eval`: answers of multimodal LLMs that see all of a video, or little of it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from autogaze.cli.bench import (
    Decoder,
    Device,
    Dtype,
    method_option,
    repeated,
    subject_option,
)
from autogaze.cli.command import SOME_FAILED, Command, PrintJson, log
from autogaze.errors import EvaluationError, OutputError
from autogaze.utils.files import check_output_folder

if TYPE_CHECKING:
    from autogaze.evaluation.answers.answering import (
        Answerer,
        AnswererMaker,
        AnswererOptions,
        Condition,
    )
    from autogaze.evaluation.answers.questions import QuestionSet
    from autogaze.evaluation.answers.report import AnswersReport
    from autogaze.evaluation.answers.run import Failure

budget_option = partial(typer.Option, rich_help_panel="Conditions to compare")


@dataclass(frozen=True)
class EvalHLVid(Command):
    """Answer the questions of HLVid, or of any set in its form, with all and with few tokens.

    Every answer is on the disk before the next question is asked: a run that was stopped goes on
    when the same command is given again.
    """

    data: Annotated[
        str,
        subject_option(
            metavar="FOLDER|FILE",
            help="HLVid's folder, or any .parquet, .jsonl or .csv with the columns video_path, question, answer.",
        ),
    ]
    model: Annotated[
        str, subject_option(metavar="FOLDER|HUB-ID", help="A multimodal LLM that takes a gaze.")
    ]
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="Answers, report and plots; made if it is not there.",
            rich_help_panel="Files to write",
        ),
    ]
    videos: Annotated[
        str | None,
        subject_option(
            metavar="FOLDER", help="Where its videos are.", show_default="beside the set"
        ),
    ] = None
    questions: Annotated[
        int | None, subject_option(min=1, help="Only the first N of the set.", show_default="all")
    ] = None
    answerer: Annotated[
        str | None,
        subject_option(
            metavar="FILE",
            help="A Python file whose load_answerer(model, options) loads a model of your own.",
            show_default="the models of this package",
        ),
    ] = None
    selectors: Annotated[
        list[str],
        budget_option(
            "--selector",
            metavar="NAME|FOLDER|HUB-ID",
            help="Any of `autogaze selectors`, or a checkpoint; repeat for more.",
        ),
    ] = repeated("greedy")
    ratios: Annotated[
        list[float],
        budget_option(
            "--ratio",
            help="Share of units kept, in (0, 1], the same for all; repeat for more.",
            show_default="0.1, without --max-vision-tokens",
        ),
    ] = repeated()
    max_vision_tokens: Annotated[
        list[int],
        budget_option(
            min=1,
            help="Or the most vision tokens of a prompt; repeat for more.",
            show_default="none",
        ),
    ] = repeated()
    dense: Annotated[bool, budget_option(help="Also with everything kept.")] = True
    controls: Annotated[
        bool, budget_option(help="Also random, centre and uniform, at the same budgets.")
    ] = True
    frames: Annotated[
        int | None,
        method_option(
            min=1,
            help="At most so many frames of every video, at even distances; all of a shorter one.",
            show_default="the model's own number; LLaVA-OneVision, InternVL: 32",
        ),
    ] = None
    units: Annotated[
        Literal["finest", "scales", "union"],
        method_option(help="How a gaze becomes units of the model."),
    ] = "finest"
    seed: Annotated[int, method_option(help="Of random gazes, and of intervals.")] = 0
    decoder: Decoder = "auto"
    device: Device = "auto"
    dtype: Dtype = "float32"
    plot: Annotated[bool, method_option(help="Draw plots; needs matplotlib.")] = True
    json: PrintJson = False

    def __post_init__(self) -> None:
        from autogaze.rendering.plot_style import require_matplotlib

        self._conditions()
        self._options()
        check_output_folder(self.out, "--out")
        if self.plot:
            require_matplotlib("drawing plots (--no-plot goes without)")

    def _conditions(self) -> "tuple[Condition, ...]":
        from autogaze.evaluation.answers.answering import CONTROLS, plan_conditions

        ratios = self.ratios or ([] if self.max_vision_tokens else [0.1])
        planned = plan_conditions(
            self.selectors,
            ratios,
            self.max_vision_tokens,
            dense=self.dense,
            controls=CONTROLS if self.controls else (),
        )
        if not planned:
            raise EvaluationError("nothing to compare: give --selector, --controls or --dense")
        return planned

    def _options(self) -> "AnswererOptions":
        from autogaze.evaluation.answers.answering import AnswererOptions

        return AnswererOptions(
            self.frames, self.units, self.device, self.dtype, self.seed, self.decoder
        )

    def _settings(self) -> Mapping[str, Any]:
        """All that answers depend on, besides the set and the condition."""
        from autogaze.evaluation.answers.answering import MAX_NEW_TOKENS, model_identity

        options = asdict(self._options())
        del options["device"]  # of the session
        if self.decoder == "auto":  # follows from the device
            del options["decoder"]
        answerer = {} if self.answerer is None else {"answerer": Path(self.answerer).name}
        model = {"model": model_identity(self.model), "max_new_tokens": MAX_NEW_TOKENS}
        return {**model, **answerer, **options}

    def run(self) -> int:
        from autogaze.evaluation.answers.answering import describe_session
        from autogaze.evaluation.answers.questions import load_questions
        from autogaze.evaluation.answers.report import make_report
        from autogaze.evaluation.answers.run import evaluate, read_runs
        from autogaze.evaluation.selectors import check_motion_needed, check_selectors
        from autogaze.utils.device import DeviceOptions
        from autogaze.utils.progress import ProgressBar

        check_selectors(self.selectors)
        check_motion_needed(self.selectors, decoder=self.decoder)
        DeviceOptions.parse(self.device, self.dtype)
        questions = load_questions(self.data, self.videos)
        if self.questions is not None:
            questions = questions.first(self.questions)
        conditions, settings = self._conditions(), self._settings()
        answers = self.out / "answers"
        try:
            self.out.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(f"--out {self.out}: cannot be made: {error.strerror}") from error
        steps = len(conditions) * len(questions.questions)
        with ProgressBar(steps, "answers", "answering") as bar:
            failures = evaluate(
                questions,
                conditions,
                self._answerer(),
                answers,
                settings,
                lambda: describe_session(self.device),
                bar.advance,
            )
        runs = read_runs(answers, settings, questions)
        report = make_report(questions, settings, runs, failures, self.seed)
        self._tell(questions, failures)
        if report is None:
            raise EvaluationError(
                f"{questions.name}: no question was answered under every condition; the answers that there are "
                f"stay in {answers}"
            )
        self._write(report)
        return SOME_FAILED if questions.missing or any(failures.values()) else 0

    def _answerer(self) -> "Any":
        """A function from a condition to what answers under it; loads the model when first called."""
        from autogaze.evaluation.answers.answering import load_answerer, load_answerer_of

        loaded: list[AnswererMaker] = []

        def answerer(condition: "Condition") -> "Answerer":
            if not loaded:
                load = load_answerer if self.answerer is None else load_answerer_of(self.answerer)
                loaded.append(load(self.model, self._options()))
            return loaded[0](condition)

        return answerer

    def _tell(self, questions: "QuestionSet", failures: "Mapping[str, list[Failure]]") -> None:
        """What is missing or failed, on stderr."""
        from autogaze.evaluation.answers.run import group_failures

        for video in questions.missing:
            log.error("error: %s: there is no such video; its questions are left out", video)
        for group in group_failures(failures):
            where = group.where(len(failures))
            log.error("error: %s: question %s", where, group.told)

    def _write(self, report: "AnswersReport") -> None:
        """The report's files, together or not at all; then the tables, or JSON, on stdout."""
        from autogaze.cli.report import print_json, results_console
        from autogaze.evaluation.answers.plots import plot_accuracy, plot_seconds
        from autogaze.evaluation.answers.tables import print_report, to_markdown
        from autogaze.utils.files import all_or_none, write_json, write_text

        with all_or_none():
            write_json(self.out / "report.json", report.to_json())
            write_text(self.out / "report.md", to_markdown(report))
            if self.plot:
                plot_accuracy(report, self.out / "accuracy.png")
                plot_seconds(report, self.out / "seconds.png")
        if self.json:
            print_json({k: v for k, v in report.to_json().items() if k != "answers"})
        else:
            print_report(report, results_console())
