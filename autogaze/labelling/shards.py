"""Label files made in resumable shards: one shard per process, one line per clip.

While `labels.json` is being made, the folder `labels.json.parts` beside it holds a file per
shard. The first line has the settings of the labels; a last line cut short by a kill is
ignored. The label file itself is written whole, when all shards are done.
"""

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from autogaze.checks import describe_value, is_finite, whole
from autogaze.datasets.clip import GazeLabels
from autogaze.datasets.labels import LabelFile
from autogaze.errors import OutputError, TrainingError, first_line
from autogaze.utils.journal import Journal, difference, read_journal

Settings = Mapping[str, Any]


class Shard(NamedTuple):
    """One of several equal parts of the work, numbered from 1."""

    number: int = 1
    total: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """From "2/8".

        Raises:
            TrainingError: anything else.
        """
        number, slash, total = text.partition("/")
        short = len(text) < 20
        if not (slash and number.isdecimal() and total.isdecimal() and short):
            raise TrainingError(f"a shard must look like 2/8, got {describe_value(text)}")
        if not 1 <= int(number) <= int(total):
            raise TrainingError(
                f"shards are numbered from 1 to their total, got {describe_value(text)}"
            )
        return cls(int(number), int(total))

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"

    @property
    def file_name(self) -> str:
        return f"{self.number}-of-{self.total}.jsonl"


class ShardWriter:
    """Writer of one shard's labels, a context manager; continues a shard that was begun.

    Attributes:
        done: names of the labelled clips.
        finished: whether the whole shard is done.

    Raises:
        TrainingError: it was begun with other settings.
        OutputError: it cannot be written, or another process is writing it.
    """

    def __init__(self, out: Path, shard: Shard, settings: Settings) -> None:
        self.path = parts_folder(out) / shard.file_name
        self.settings = json.loads(json.dumps(settings))
        self.done: set[str] = set()
        self.finished = False
        self._journal = Journal(self.path, "labelling this shard", TrainingError)

    def __enter__(self) -> "ShardWriter":
        with ExitStack() as stack:
            self._resume(stack.enter_context(self._journal))
            stack.pop_all()  # it began well: the file stays open
        return self

    def __exit__(self, *_: object) -> None:
        self._journal.__exit__()

    def add(self, name: str, labels: GazeLabels) -> None:
        """Write a clip's labels to the disk."""
        self._journal.write({"name": name, "ids": labels.ids, "losses": labels.losses})
        self.done.add(name)

    def finish(self) -> None:
        """Mark the shard as done."""
        self._journal.write({"finished": True})
        self.finished = True

    def _resume(self, journal: Journal) -> None:
        entries = journal.entries
        if not entries:
            journal.write({"settings": self.settings})
            return
        begun = _settings(self.path, entries)
        if begun != self.settings:
            raise TrainingError(
                f"{self.path} was begun with {difference(begun, self.settings)}; give the same "
                "settings, another --out, or remove that folder"
            )
        self.done = {_labels(self.path, entry)[0] for entry in entries[1:] if "name" in entry}
        self.finished = any("finished" in entry for entry in entries)


def parts_folder(out: Path) -> Path:
    """The folder of a label file's shards."""
    return out.with_name(f"{out.name}.parts")


def merge(out: Path) -> LabelFile:
    """Write the label file of finished shards, and remove these.

    Raises:
        TrainingError: shards are missing, unfinished, or of different settings.
        OutputError: it cannot be written; the shards stay.
    """
    folder = parts_folder(out)
    paths = sorted(folder.glob("*-of-*.jsonl"))
    if not paths:
        raise TrainingError(f"{folder}: no shards to merge")
    totals = {_total(path) for path in paths}
    if len(totals) > 1:
        raise TrainingError(
            f"{folder}: shards of several divisions: {', '.join(map(str, sorted(totals)))}"
        )
    total = totals.pop()
    clips: dict[str, GazeLabels] = {}
    first: Settings | None = None
    for number in range(1, total + 1):
        shard = Shard(number, total)
        path = folder / shard.file_name
        entries, _ = read_journal(path, TrainingError) if os.path.isfile(path) else ([], 0)
        if not entries or "finished" not in entries[-1]:
            raise TrainingError(f"{path}: shard {shard} is not finished; run it (again) first")
        settings = _settings(path, entries)
        first = first or settings
        if settings != first:
            raise TrainingError(f"{path}: made with {difference(settings, first)} in other shards")
        clips.update(_labels(path, entry) for entry in entries[1:-1])
    num_patches = whole((first or {}).get("num_patches"))
    if num_patches is None or num_patches < 1:
        raise TrainingError(f"{folder}: its settings do not say how many patches a frame has")
    labels = LabelFile(out, clips)
    labels.save(num_patches)
    # Gone at once, so that no kill leaves some of the shards beside a finished file.
    merged = folder.with_suffix(".merged")
    folder.rename(merged)
    shutil.rmtree(merged, ignore_errors=True)
    return labels


def _total(path: Path) -> int:
    """The number of shards that a shard's file name tells."""
    number, _, total = path.stem.partition("-of-")
    try:
        return Shard.parse(f"{number}/{total}").total
    except TrainingError:
        raise TrainingError(
            f"{path}: is no shard's file, whose names are like 2-of-8.jsonl; remove it"
        ) from None


def _settings(path: Path, entries: list[dict[str, Any]]) -> Settings:
    """The settings in a shard's first line."""
    settings = entries[0].get("settings")
    if not isinstance(settings, dict):
        raise TrainingError(
            f"{path}: its first line must hold the settings of its labels, got {describe_value(settings)}; "
            "remove the file to label anew"
        )
    return settings


def _labels(path: Path, entry: Mapping[str, Any]) -> tuple[str, GazeLabels]:
    """A clip's name and labels; whether they fit a pyramid is checked when the file is used."""
    try:
        name = entry["name"]
        ids = tuple(tuple(whole(id) for id in chosen) for chosen in entry["ids"])
        losses = tuple(tuple(chosen) for chosen in entry["losses"])
        if not isinstance(name, str) or any(id is None for chosen in ids for id in chosen):
            raise TypeError("a name that is no text, or ids that are no whole numbers")
        if not all(is_finite(loss) for chosen in losses for loss in chosen):
            raise TypeError("losses that are no finite numbers")
    except (KeyError, TypeError) as error:
        raise TrainingError(
            f"{path}: the labels of {describe_value(entry.get('name'))} are damaged: {first_line(error)}; "
            "remove the file to label anew"
        ) from error
    return name, GazeLabels(ids, losses)  # type: ignore[arg-type]


def check_new(out: Path) -> None:
    """Raise OutputError where a finished label file stands already."""
    if os.path.lexists(out) and not os.path.isdir(parts_folder(out)):
        raise OutputError(f"{out}: exists already; remove it to label anew, or name another file")
