"""Where `autogaze gaze` writes: one file a kind for one video, folders for several."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autogaze.errors import OutputError
from autogaze.utils.files import check_writable

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


def check_endings(videos: Sequence[str], outputs: Mapping[str, str | None]) -> None:
    """Raise `OutputError` if a file's name does not say what will be in it.

    Args:
        videos: the inputs.
        outputs: kind -> what the user gave; folders are fine.
    """
    several = len(videos) > 1
    for kind, value in outputs.items():
        if value is None:
            continue
        ending = Path(f"NAME{SUFFIXES[kind]}").suffix
        fits = Path(value).suffix.lower() == ending
        template = "{name}" in value
        if several and fits and not template and not Path(value).is_dir():
            raise OutputError(
                f"--{kind} {value}: is one file for {len(videos)} videos; give a folder, or a "
                f"path with {{name}} in it, such as {{name}}{SUFFIXES[kind]}"
            )
        if fits or (_is_folder(value, several) and not template):
            continue
        raise OutputError(
            f"--{kind} {value}: the name must end in {ending}, or be a folder that is there "
            f"(or ends in {os.sep})"
        )


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
    owners: dict[Path, tuple[str, str]] = {}
    for job in jobs:
        for kind, path in job.files.items():
            check_writable(path)
            real = path.resolve()
            if real == Path(job.video).resolve():
                raise OutputError(f"{path}: is the input video itself, choose another file")
            if real in owners:
                raise OutputError(f"{path}: {_clash(owners[real], (kind, job.video))}")
            owners[real] = kind, job.video
    return jobs


def _clash(first: tuple[str, str], second: tuple[str, str]) -> str:
    """Why two files get the same path, and what to do."""
    (kind, video), (other_kind, other) = first, second
    if kind != other_kind:
        return f"would be written twice, by --{kind} and by --{other_kind}; give them two names"
    if Path(video).resolve() == Path(other).resolve():
        again = f"twice, as {video} and as {other}" if video != other else f"{video} twice"
        return f"would be written twice: the same video is given {again}; once is enough"
    return (
        f"would be written twice, for {video} and for {other}, which have the same name; "
        "run them one by one, with another folder each"
    )


def _is_folder(value: str, several: bool) -> bool:
    return several or Path(value).is_dir() or value.endswith(os.sep)


def _path(kind: str, value: str, video: str, several: bool) -> Path:
    name = Path(video).stem
    if "{name}" in value:
        return Path(value.replace("{name}", name))
    path = Path(value)
    if not _is_folder(value, several):
        return path
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be made a folder: {error.strerror or error}") from error
    return path / f"{name}{SUFFIXES[kind]}"
