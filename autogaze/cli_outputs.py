"""Where `autogaze gaze` writes: one file a kind for one video, folders for several."""

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from autogaze.errors import OutputError
from autogaze.files import check_writable

SUFFIXES = {
    "out": ".safetensors",
    "overlay": ".overlay.mp4",
    "sheet": ".sheet.png",
    "reconstruction": ".reconstruction.mp4",
    "plot": ".plot.png",
}
"""What a file is called in a folder: the video's name without its ending, then this."""


@dataclass(frozen=True)
class Job:
    """One video and the files to write about it: kind -> path."""

    video: str
    files: Mapping[str, Path]


def plan_jobs(videos: Sequence[str], outputs: Mapping[str, str | None]) -> list[Job]:
    """Give every video its files, and check that all of them can be written.

    Args:
        videos: the inputs.
        outputs: kind -> what the user gave. A value with `{name}` in it is filled with
            each video's name; a folder (or anything, with several videos) holds
            `NAME` + the kind's suffix; else it is the one video's file.

    Raises:
        OutputError: not writable, or two files would get the same path.
    """
    given = {kind: value for kind, value in outputs.items() if value is not None}
    jobs = [
        Job(
            video,
            {kind: _path(kind, value, video, len(videos) > 1) for kind, value in given.items()},
        )
        for video in videos
    ]
    owners: dict[Path, str] = {}
    for job in jobs:
        for path in job.files.values():
            check_writable(path)
            real = path.resolve()
            if real == Path(job.video).resolve():
                raise OutputError(f"{path}: is the input video itself, choose another file")
            if real in owners:
                raise OutputError(
                    f"{path}: would be written twice, for {owners[real]} and for {job.video}; "
                    "choose another folder or file name"
                )
            owners[real] = job.video
    return jobs


@contextmanager
def all_or_none(files: Mapping[str, Path]) -> Iterator[dict[str, Path]]:
    """Yield a temporary path for each file; rename them all if the block succeeds.

    Raises:
        OutputError: a file cannot be written; the message names it, not its
            temporary path.
    """
    token = secrets.token_hex(4)
    temporary = {
        kind: path.with_name(f".{path.stem}.{token}{path.suffix}") for kind, path in files.items()
    }
    try:
        yield temporary
        for kind, path in files.items():
            try:
                os.replace(temporary[kind], path)
            except OSError as error:
                raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
    except OutputError as error:
        message = str(error)
        for kind, path in files.items():
            message = message.replace(str(temporary[kind]), str(path))
        raise OutputError(message) from error
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)


def _path(kind: str, value: str, video: str, several: bool) -> Path:
    name = Path(video).stem
    if "{name}" in value:
        return Path(value.replace("{name}", name))
    path = Path(value)
    if not (several or path.is_dir() or value.endswith(os.sep)):
        return path
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be made a folder for the files of several videos: "
            f"{error.strerror or error}"
        ) from error
    return path / f"{name}{SUFFIXES[kind]}"
