"""Report of `autogaze corpus`: facts of a run or a dry run, for JSON and as a table."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autogaze.corpus.run import Outcome
    from autogaze.corpus.survey import Survey

Facts = dict[str, Any]
Words = Callable[[Mapping[str, Any]], Iterator[tuple[str, str]]]


def run_facts(outcome: "Outcome", num_inputs: int, out: str) -> Facts:
    """What a run did, and what is done in all.

    Of the inputs as many are done before, failed before, done now, failed now or not done, as there
    are. `_in_all` sums over those that are done, before or now.
    """
    failed_before = sum(entry.failed for entry in outcome.before)
    failed_now = sum(entry.failed for entry in outcome.entries)
    new = [entry for entry in outcome.entries if not entry.failed]
    every = [entry for entry in (*outcome.before, *new) if not entry.failed]
    return {
        "videos": num_inputs,
        "done_before": len(outcome.before) - failed_before,
        "failed_before": failed_before,
        "done_now": len(new),
        "failed_now": failed_now,
        "failed": failed_before + failed_now,
        "not_done": num_inputs - len(outcome.before) - len(outcome.entries),
        "clips": sum(entry.rows for entry in new),
        "frames": sum(entry.frames for entry in new),
        "video_seconds": round(sum(entry.duration for entry in new), 3),
        "clips_in_all": sum(entry.rows for entry in every),
        "frames_in_all": sum(entry.frames for entry in every),
        "video_seconds_in_all": round(sum(entry.duration for entry in every), 3),
        "seconds": round(outcome.seconds, 3),
        "gazing_seconds": round(outcome.gazing, 3),
        "videos_per_second": round(len(new) / outcome.seconds, 3) if new else None,
        "out": out,
    }


def survey_facts(found: "Survey", done: int, failed: int, to_do: int, out: str) -> Facts:
    """How many videos there are, how long and how large, and how many are done.

    Args:
        failed: before, because of the file.
    """
    return {
        "videos": done + failed + to_do,
        "missing": found.missing,
        "done": done,
        "failed_before": failed,
        "to_do": to_do,
        "bytes": found.size,
        "seconds": None if found.seconds is None else round(found.seconds, 3),
        "estimated": found.estimated,
        "measured": found.measured,
        "unreadable": found.unreadable,
        "out": out,
    }


def run_words(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The facts of a run as rows of a table: name and value."""
    for name in ("videos", "done_before", "failed_before", "done_now", "failed_now", "not_done"):
        yield name.replace("_", " "), f"{facts[name]:,}"
    yield "clips of this run", f"{facts['clips']:,}"
    yield "frames of this run", f"{facts['frames']:,}"
    yield "video of this run", duration(facts["video_seconds"])
    if facts["done_before"]:
        yield "clips in all", f"{facts['clips_in_all']:,}"
        yield "frames in all", f"{facts['frames_in_all']:,}"
        yield "video in all", duration(facts["video_seconds_in_all"])
    yield "time of this run", duration(facts["seconds"])
    if facts["videos_per_second"] is not None:
        yield "of it gazing", duration(facts["gazing_seconds"])
        yield "videos per second", f"{facts['videos_per_second']:,} of the time of this run"
    yield "out", facts["out"]


def survey_words(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The facts of a dry run as rows of a table; unknown ones are left out."""
    yield "videos", f"{facts['videos']:,}"
    yield "missing", f"{facts['missing']:,}"
    yield "done before", f"{facts['done']:,}"
    yield "failed before", f"{facts['failed_before']:,}"
    yield "to do", f"{facts['to_do']:,}"
    yield "size", f"{facts['bytes']:,} bytes ({facts['bytes'] / 2**30:.2f} GiB)"
    if facts["seconds"] is not None:
        about = "about " if facts["estimated"] else ""
        yield "length of videos", f"{about}{duration(facts['seconds'])}, played; not the run's time"
    there = facts["videos"] - facts["missing"]
    yield "measured", f"{facts['measured']:,} of {there:,}"
    if facts["unreadable"]:
        yield "cannot be read", f"{facts['unreadable']:,}, of no length"
    if left := there - facts["measured"] - facts["unreadable"]:
        yield "not measured", f"{left:,}, taken to be like those that were"
    yield "out", facts["out"]


def duration(seconds: float) -> str:
    """A time in seconds; from a minute on also in hours, minutes and seconds, rounded alike."""
    seconds = round(seconds, 1)
    text = f"{seconds:,.1f} s"
    if seconds < 60:
        return text
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{text} ({hours}:{minutes:02}:{left:02} h)"
