"""A run over a collection: shards are planned here, written by Ray's workers, and committed here.

Workers keep no state but their selector. A task is one shard, written under a temporary name; Ray Data repeats
the tasks of workers that die. Only this process, which holds the corpus's lock, renames shards to their final
names. So every input is in exactly one shard, whichever process is killed at whatever moment.
"""

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from autogaze.corpus.cluster import Resources, cluster, import_ray
from autogaze.corpus.folder import CorpusFolder
from autogaze.corpus.manifest import Entry, read_manifest, sort_inputs, write_tables
from autogaze.corpus.settings import CorpusSettings
from autogaze.corpus.shards import commit, remove_entries, shard_name
from autogaze.corpus.storage import Input
from autogaze.corpus.worker import Job, ShardResult, ShardTask, ShardWorker
from autogaze.errors import CorpusError, OutputError, first_line

MAX_INPUTS = 32
"""Videos per shard, at most: so many are repeated when a worker is killed."""

MAX_BYTES = 2**30
"""Bytes of the videos of a shard, at most, unless one alone is larger."""

SHARDS_PER_WORKER = 8
"""Shards per worker, at least, if there are enough videos: so all workers end at about the same time."""


@dataclass(frozen=True)
class Workers:
    """Where a run computes.

    Args:
        address: of a Ray cluster; None: this machine.
        count: workers; None: one per core, with GPUs at most `PER_GPU` per GPU.
        device: that patches are chosen on; "auto": GPUs where the cluster has any.
        shard_size: videos of a shard; None: by their number, at most `MAX_INPUTS`.
    """

    address: str | None = None
    count: int | None = None
    device: str = "auto"
    shard_size: int | None = None


PER_GPU = 8
"""Workers that share a GPU: each decodes on a CPU of its own, and they select in turn."""


@dataclass
class Outcome:
    """Outcome of a run.

    Args:
        before: entries of the inputs that were done before.
        entries: of those that were gazed at now.
        seconds: wall-clock time of the run, including the start of Ray and of workers.
        began, ended: Unix times of the start of the first shard and of the end of the last one.
    """

    before: Sequence[Entry] = ()
    entries: list[Entry] = field(default_factory=list)
    seconds: float = 0.0
    began: float = math.inf
    ended: float = -math.inf

    @property
    def failed(self) -> list[Entry]:
        """Entries of all inputs that failed, before or now."""
        return [entry for entry in (*self.before, *self.entries) if entry.failed]

    @property
    def gazing(self) -> float:
        """Wall-clock seconds from the start of the first shard to the end of the last one."""
        return max(0.0, self.ended - self.began)


def run_corpus(
    inputs: Sequence[Input],
    corpus: CorpusFolder,
    gaze: Callable[[Sequence[Input], CorpusFolder], Generator[ShardResult, None, None]],
    *,
    retry_failed: bool = False,
    begin: Callable[[int, int], None] = lambda done, to_do: None,
    advance: Callable[[Sequence[Entry]], None] = lambda entries: None,
    outcome: Outcome | None = None,
) -> Outcome:
    """Gaze at the inputs that are not done yet.

    Args:
        corpus: open for writing.
        gaze: writes the shards of some inputs, under temporary names, in any order: `gaze_on_ray` with
            its workers, in general.
        retry_failed: also those that failed before because of the file.
        begin: called once with the numbers of inputs that are done, and to be done.
        advance: called with the entries of every shard that is committed.
        outcome: filled in, also where the run is interrupted; None: a new one.

    Raises:
        OutputError: a shard cannot be written.
        CorpusError: of `gaze`, or an old shard that cannot be read.
    """
    outcome = Outcome() if outcome is None else outcome
    shards = read_manifest(corpus.path)
    found = sort_inputs(shards, inputs, retry_failed)
    outcome.before = found.done
    begin(len(found.done), len(found.to_do))
    began = time.perf_counter()
    try:
        _remove_stale(corpus, found.stale, shards)
        if found.to_do:
            with closing(gaze(found.to_do, corpus)) as results:  # workers end before the lock does
                for result in results:
                    if result.failure:
                        raise OutputError(result.failure)
                    commit(corpus.path, result.name, Path(result.temporary))
                    shards[result.name] = result.entries
                    outcome.began = min(outcome.began, result.began)
                    outcome.ended = max(outcome.ended, result.ended)
                    outcome.entries.extend(result.entries)
                    advance(result.entries)
    finally:
        outcome.seconds = time.perf_counter() - began
        write_tables(corpus.path, shards)
    return outcome


def _remove_stale(
    corpus: CorpusFolder, stale: Sequence[tuple[str, str]], shards: dict[str, Sequence[Entry]]
) -> None:
    """Remove entries and rows of inputs that have changed, before they are gazed at again."""
    by_shard: dict[str, set[str]] = {}
    for shard, path in stale:
        by_shard.setdefault(shard, set()).add(path)
    for shard, paths in by_shard.items():
        left = remove_entries(corpus.path, shard, frozenset(paths), corpus.scratch)
        if left:
            shards[shard] = left
        else:
            del shards[shard]


def gaze_on_ray(
    inputs: Sequence[Input], corpus: CorpusFolder, workers: Workers
) -> Generator[ShardResult, None, None]:
    """The shards of some inputs as Ray's workers write them.

    Raises:
        CorpusError: Ray cannot be started, or gives up.
        MissingExtraError: it is not installed.
    """
    with cluster(workers.address, workers.count) as resources:
        count, device, gpus = spread(workers, resources)
        tasks = plan_shards(inputs, corpus.settings, count, workers.shard_size)
        job = Job(str(corpus.scratch), corpus.settings, device)
        yield from map_shards(tasks, job, min(count, len(tasks)), gpus)


def spread(workers: Workers, resources: Resources) -> tuple[int, str, float]:
    """Number of workers, their device, and each one's share of a GPU.

    Raises:
        CorpusError: a GPU is asked for and there is none.
    """
    device = workers.device
    wants_gpu = device.startswith("cuda") or (device == "auto" and resources.gpus > 0)
    if not wants_gpu:
        count = min(workers.count or resources.cpus, resources.cpus)
        return max(1, count), "cpu" if device == "auto" else device, 0.0
    if ":" in device:
        raise CorpusError(f"--device {device}: Ray says which GPU a worker takes; take cuda")
    if resources.gpus == 0:
        raise CorpusError(f"--device {device}: Ray has no GPU; take auto or cpu")
    count = max(1, min(workers.count or PER_GPU * resources.gpus, resources.cpus))
    share = 1 / -(-count // resources.gpus)
    return count, "cuda", share


def plan_shards(
    inputs: Sequence[Input], settings: CorpusSettings, workers: int, size: int | None
) -> list[ShardTask]:
    """The inputs in groups, each of which becomes a shard."""
    most = size or max(1, min(MAX_INPUTS, -(-len(inputs) // (SHARDS_PER_WORKER * workers))))
    groups: list[list[Input]] = []
    room = 0
    for each in inputs:
        if not groups or len(groups[-1]) == most or each.size > room:
            groups.append([])
            room = MAX_BYTES
        groups[-1].append(each)
        room -= max(0, each.size)
    return [ShardTask(shard_name(group, settings), group) for group in groups]


def map_shards(
    tasks: Sequence[ShardTask], job: Job, workers: int, gpus: float
) -> Iterator[ShardResult]:
    """Map tasks to results by a pool of Ray's workers, in the order of completion.

    Args:
        gpus: each worker's share of a GPU.

    Raises:
        CorpusError: Ray gives up.
    """
    ray = import_ray()
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    shards = ray.data.from_items([task.to_row() for task in tasks], override_num_blocks=len(tasks))
    # Two tasks per worker, so that a worker has its next one without waiting for this process.
    pool = ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2)
    results = shards.map(
        ShardWorker, fn_constructor_args=(job, 1), compute=pool, num_cpus=1, num_gpus=gpus
    )
    try:
        for row in results.iter_rows():
            yield ShardResult.from_row(row)
    except (
        ray.exceptions.RayError,
        ray.data.exceptions.SystemException,
        ConnectionError,
    ) as error:
        raise CorpusError(f"Ray gave up: {first_line(error)}") from error
