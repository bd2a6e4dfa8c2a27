"""Little collections of videos, and corpora of them made in this process, without Ray."""

from collections.abc import Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from autogaze.corpus.folder import CorpusFolder
from autogaze.corpus.inputs import find_inputs
from autogaze.corpus.run import Outcome, plan_shards, run_corpus
from autogaze.corpus.settings import CorpusSettings
from autogaze.corpus.storage import Input
from autogaze.corpus.worker import Job, ShardResult, ShardWorker
from autogaze.gaze import Gaze
from tests.clips import make_video

CENTRE = CorpusSettings("centre", ratio=0.02, tiles="one")
"""Settings that take next to no time."""


def make_collection(folder: Path, count: int, corrupt: Sequence[int] = ()) -> Path:
    """Videos of 17 to 20 frames, and files with their names that are none."""
    folder.mkdir(parents=True, exist_ok=True)
    lengths = [make_video(folder / f"length{n}.mp4", n, 64, 48) for n in range(17, 21)]
    kinds = [path.read_bytes() for path in lengths]
    for path in lengths:
        path.unlink()
    for number in range(count):
        content = b"no video" if number in corrupt else kinds[number % len(kinds)]
        (folder / f"{number:05}.mp4").write_bytes(content)
    return folder


def make_corpus(
    out: Path,
    *inputs: str | Path,
    settings: CorpusSettings = CENTRE,
    size: int = 3,
    **options: Any,
) -> Outcome:
    """What `autogaze corpus` makes, in this process; options are those of `run_corpus`."""
    overwrite = options.pop("overwrite", False)
    found = find_inputs([str(each) for each in inputs])
    with CorpusFolder(out, settings, overwrite=overwrite) as corpus:
        return run_corpus(found, corpus, partial(gaze_here, size=size), **options)


def gaze_here(
    inputs: Sequence[Input], corpus: CorpusFolder, size: int = 3
) -> Generator[ShardResult, None, None]:
    """The shards of some inputs, one after the other in this process."""
    job = Job(str(corpus.scratch), corpus.settings, "cpu")
    worker = ShardWorker(job)
    for task in plan_shards(inputs, corpus.settings, 1, size):
        yield ShardResult.from_row(worker(task.to_row()))


def same_gaze(one: Gaze, other: Gaze) -> bool:
    """Whether all fields are equal."""
    plain = ("pyramid", "ordered", "metric", "source")
    tensors = ("ids", "lengths", "losses", "predicted_losses")
    return all(getattr(one, name) == getattr(other, name) for name in plain) and all(
        a is b if a is None or b is None else torch.equal(a, b)
        for a, b in ((getattr(one, name), getattr(other, name)) for name in tensors)
    )
