"""The tables of an evaluation, in the terminal and as Markdown."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from autogaze.evaluation.answers.answering import DENSE, STAGES
from autogaze.evaluation.answers.report import BASELINE, AnswersReport, Row
from autogaze.evaluation.bootstrap import ALL, Estimate
from autogaze.evaluation.tables import TextTable, changes, print_tables


def print_report(report: AnswersReport, console: Console) -> None:
    """The tables, and how to read them."""
    print_tables(console, make_tables(report), report.notes)


def to_markdown(report: AnswersReport) -> str:
    """Tables, notes, the answers without a letter, settings and versions."""
    parts = [f"# Answers to {report.questions.name}\n"]
    parts += [table.markdown() for table in make_tables(report)]
    parts.append("\n".join(f"- {note}" for note in report.notes) + "\n")
    if lines := [_without_letters(report, row) for row in report.rows if row.no_letter]:
        parts.append("**Answers without a letter**\n\n" + "\n".join(lines) + "\n")
    parts.append("**Settings**\n\n" + _list(report.settings))
    parts += ["**Session**\n\n" + _list(session) for session in report.sessions]
    return "\n".join(parts)


def make_tables(report: AnswersReport) -> list[TextTable]:
    """Accuracy and differences; accuracy by category; cost."""
    rules = changes([row.condition.budget for row in report.rows])
    return [
        _accuracy(report, rules),
        *([_categories(report, rules)] if len(report.groups) > 1 else []),
        _cost(report, rules),
    ]


def _accuracy(report: AnswersReport, rules: tuple[int, ...]) -> TextTable:
    rows = [
        (
            row.condition.name,
            f"{row.cost.prompt_tokens:.0f}",
            percent(row.accuracy[ALL]),
            points(report.difference(row.condition.name, DENSE)),
            points(report.difference(row.condition.name, f"{BASELINE} {row.condition.budget}")),
            str(len(row.no_letter)),
        )
        for row in report.rows
    ]
    header = (
        *("condition", "tokens", "accuracy", f"minus {DENSE}", f"minus {BASELINE}", "no letter"),
    )
    return TextTable("Accuracy in %, and differences in points", header, rows, rules)


def _categories(report: AnswersReport, rules: tuple[int, ...]) -> TextTable:
    groups = report.groups[1:]
    rows = [
        (row.condition.name, *(percent(row.accuracy[group]) for group in groups))
        for row in report.rows
    ]
    return TextTable("Accuracy by category in %", ("condition", *groups), rows, rules)


def _cost(report: AnswersReport, rules: tuple[int, ...]) -> TextTable:
    rows = []
    for row in report.rows:
        cost = row.cost
        kept = "" if cost.kept is None else f"{100 * cost.kept:.1f} %"
        memory = "" if cost.peak_memory is None else f"{cost.peak_memory / 2**30:.2f}"
        rows.append(
            (
                row.condition.name,
                f"{cost.dense_prompt_tokens:.0f}",
                f"{cost.prompt_tokens:.0f}",
                kept,
                *(f"{cost.seconds[stage]:.2f}" for stage in STAGES),
                f"{cost.total_seconds:.2f}",
                memory,
            )
        )
    header = ("condition", "dense tokens", "tokens", "units kept", *STAGES, "seconds", "peak GiB")
    return TextTable(
        "Tokens of the prompt, and seconds by stage, per question", header, rows, rules
    )


def percent(estimate: Estimate) -> str:
    """A share in per cent, with its interval."""
    return f"{100 * estimate.mean:.1f}" + estimate.brackets(lambda end: f"{100 * end:.1f}", " to ")


def points(estimate: Estimate | None) -> str:
    """A difference of shares in points, with its interval."""
    if estimate is None:
        return ""
    show = f"{100 * estimate.mean:+.1f}"
    return show + estimate.brackets(lambda end: f"{100 * end:+.1f}", " to ")


def _without_letters(report: AnswersReport, row: Row) -> str:
    answers = report.runs[row.condition.name].answers
    said = ", ".join(f"{key}: {_code(answers[key].text)}" for key in row.no_letter)
    return f"- {row.condition.name}: {said}"


def _code(text: str) -> str:
    """A text as Markdown's code, on one line, in which nothing has a meaning."""
    line = " ".join(text.split()).replace("`", "'")
    return f"`{line}`" if line else "(nothing)"


def _list(values: Mapping[str, Any]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in values.items()) + "\n"
