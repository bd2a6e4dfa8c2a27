"""Label files: gaze labels in AutoGaze's JSON format.

A dict from a clip's name to `gazing_pos`, the chosen ids of every frame numbered over the clip
(id + V * frame), and `task_losses`, the frame's loss after each of them. The name of a clip is
the last three parts of its file's path and, unless it is 0, its first frame:
`dataset/train/file.mp4#32`. Longer paths in a file count by their last three parts.
"""

import glob
import gzip
import json
import logging
import math
import os
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from autogaze.checks import whole, why_absent
from autogaze.datasets.clip import GazeLabels, LabelCoverage
from autogaze.errors import TrainingError, first_line
from autogaze.utils.files import replacing

log = logging.getLogger("autogaze.datasets")


def short_name(path: Path) -> str:
    """The last three parts of a file's absolute path, `dataset/split/file.mp4`."""
    return "/".join(Path(os.path.abspath(path)).parts[-3:])


def shortened(name: str) -> str:
    """The last three parts of a clip's name in a label file."""
    return "/".join(name.split("/")[-3:])


def label_paths(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    """The files that names, separated by commas, and patterns stand for; see `LabelFile.load_all`.

    Raises:
        TrainingError: no name at all, or a pattern that matches nothing.
    """
    if isinstance(paths, str | Path):
        whole = Path(paths)
        parts: Sequence[str | Path] = [whole] if os.path.exists(whole) else str(paths).split(",")
    else:
        parts = paths
    found: list[Path] = []
    for part in map(str, parts):
        name = os.path.expanduser(part.strip())
        if not name:
            continue
        if os.path.exists(name) or not glob.has_magic(name):
            found.append(Path(name))
        elif matched := sorted(glob.glob(name, recursive=True)):
            found += map(Path, matched)
        else:
            raise TrainingError(f"{name}: no label file has such a name")
    if not found:
        raise TrainingError(f"{paths!r} names no label file")
    return list(dict.fromkeys(found))


def read_entries(path: Path) -> dict[str, Any]:
    """What a label file says of each clip, unchecked, by the names that stand in it.

    Raises:
        TrainingError: no such file, or it is not a dict in JSON, zipped where its name ends in `.gz`.
    """
    try:
        packed = path.read_bytes()
        content = json.loads(gzip.decompress(packed) if path.suffix == ".gz" else packed)
    except FileNotFoundError:
        raise TrainingError(f"{path}: {why_absent(path, 'label file')}") from None
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise TrainingError(f"{path}: cannot be read as JSON: {first_line(error)}") from error
    if not isinstance(content, dict) or not content:
        kind = "an empty one" if content == {} else type(content).__name__
        raise TrainingError(f"{path}: expected a dict of labelled clips, got {kind}")
    return content


def window_name(video: str, start: int) -> str:
    """Name of the clip of a video that begins with frame `start`."""
    return f"{video}#{start}" if start else video


@dataclass(frozen=True)
class LabelFile:
    """The labels of many clips, of one file.

    Attributes:
        clips: labels by the clips' names.
    """

    path: Path
    clips: Mapping[str, GazeLabels]

    @classmethod
    def load(cls, path: str | Path, num_patches: int) -> "LabelFile":
        """Read a label file, unzipped where its name ends in `.gz`.

        Args:
            num_patches: V, the number of ids per frame.

        Raises:
            TrainingError: no such file, not of this form, or of another pyramid.
        """
        path = Path(path)
        clips: dict[str, GazeLabels] = {}
        for name, entry in read_entries(path).items():
            short, labels = shortened(name), parse_labels(f"{path}: {name}", entry, num_patches)
            if clips.setdefault(short, labels) != labels:
                raise TrainingError(
                    f"{path}: {name} and another clip have different labels and the same name, "
                    f"{short}: rename one of their folders"
                )
        return cls(path, clips)

    @classmethod
    def load_all(cls, paths: str | Path | Sequence[str | Path], num_patches: int) -> "LabelFile":
        """Read one or several label files as one; of clips in several, the last labels are taken.

        Args:
            paths: a list, or names separated by commas; `*`, `?` and `[...]` match names of files.
            num_patches: see `load`.

        Raises:
            TrainingError: see `load`; or nothing is matched.
        """
        files = [cls.load(path, num_patches) for path in label_paths(paths)]
        if len(files) == 1:
            return files[0]
        clips: dict[str, GazeLabels] = {}
        for file in files:
            changed = [name for name in file.clips if clips.get(name, file[name]) != file[name]]
            if changed:
                log.warning(
                    "%s: %d clips, such as %s, have other labels than in the files before it; "
                    "its own are taken",
                    *(file.path, len(changed), changed[0]),
                )
            clips |= file.clips
        return cls(Path(",".join(str(file.path) for file in files)), clips)

    def save(self, num_patches: int) -> None:
        """Write the file whole or not at all, gzipped where its name ends in `.gz`."""
        content = {
            name: {
                "gazing_pos": [
                    [id + frame * num_patches for id in ids] for frame, ids in enumerate(labels.ids)
                ],
                "task_losses": [list(losses) for losses in labels.losses],
            }
            for name, labels in sorted(self.clips.items())
        }
        packed = json.dumps(content).encode()
        if self.path.suffix == ".gz":
            packed = gzip.compress(packed, mtime=0)
        with replacing(self.path) as temporary:
            temporary.write_bytes(packed)

    def starts(self, video: str) -> Sequence[int]:
        """First frames of a video's labelled clips, ascending."""
        return self._starts.get(video, ())

    @cached_property
    def _starts(self) -> Mapping[str, Sequence[int]]:
        starts: dict[str, list[int]] = {}
        for name in self.clips:
            video, mark, number = name.rpartition("#")
            if not (mark and number.isdecimal()):
                video, number = name, "0"
            starts.setdefault(video, []).append(int(number))
        return {video: sorted(found) for video, found in starts.items()}

    def choose(self, names: Sequence[str], clip_len: int) -> tuple[list[int], LabelCoverage]:
        """Indices of the labelled clips among some names, and their coverage.

        Raises:
            TrainingError: none is labelled, or one for another number of frames.
        """
        found = [number for number, name in enumerate(names) if name in self.clips]
        if not found:
            raise self.none_of(names)
        labelled = [names[number] for number in found]
        self.check_length(labelled, clip_len)
        return found, self.coverage(names, labelled)

    def none_of(self, names: Sequence[str]) -> TrainingError:
        """The error of a dataset that has none of the labelled clips."""
        return TrainingError(
            f"{self.path} labels none of the {len(names)} clips found, such as {names[0]}; it "
            f"labels {next(iter(self.clips), 'nothing')}. A video is known by the last three parts "
            "of its path, a drawn clip also by its options and seed: name the label file of these "
            "clips in dataset.gt_gazing_pos_paths, or make one with `autogaze label`"
        )

    def coverage(self, found: Sequence[str], labelled: Collection[str]) -> LabelCoverage:
        """How many of the names found are labelled."""
        known = set(labelled)
        missing = [name for name in found if name not in known]
        return LabelCoverage(
            str(self.path), len(found), len(found) - len(missing), next(iter(missing), None)
        )

    def check_length(self, names: Iterable[str], clip_len: int) -> None:
        """Raise TrainingError where one of these clips is not labelled for `clip_len` frames."""
        for name in names:
            labelled = len(self.clips[name].ids)
            if labelled != clip_len:
                raise TrainingError(
                    f"{self.path}: {name} is labelled for {labelled} frames, but clips have "
                    f"{clip_len}; use dataset.clip_len={labelled}"
                )

    def __getitem__(self, name: str) -> GazeLabels:
        return self.clips[name]

    def __len__(self) -> int:
        return len(self.clips)


def parse_labels(what: str, entry: Any, num_patches: int) -> GazeLabels:
    """A clip's labels in the form of label files: a dict of `gazing_pos` and perhaps `task_losses`.

    Args:
        what: whose they are, for errors.
        num_patches: V.

    Raises:
        TrainingError: labels of another form, or of another pyramid.
    """
    try:
        ids = tuple(
            tuple(_number(position) - frame * num_patches for position in chosen)
            for frame, chosen in enumerate(entry["gazing_pos"])
        )
        losses = tuple(
            tuple(_finite(loss) for loss in chosen) for chosen in entry.get("task_losses") or ()
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TrainingError(
            f"{what}: labels must hold gazing_pos, and perhaps task_losses, as one list of numbers "
            f"per frame: {error!r}"
        ) from None
    if not ids:
        raise TrainingError(f"{what} has no frames")
    for frame, chosen in enumerate(ids):
        wrong = [id for id in chosen if not 0 <= id < num_patches]
        if wrong:
            first, end = frame * num_patches, (frame + 1) * num_patches
            raise TrainingError(
                f"{what} gazes at position {wrong[0] + first} in frame {frame}, whose positions, "
                f"numbered over the clip, are [{first}, {end}): the labels were made for another "
                f"pyramid than the model's, which has {num_patches} patches per frame"
            )
        if len(set(chosen)) != len(chosen):
            raise TrainingError(f"{what} gazes twice at a patch of frame {frame}")
    counts, known = [len(frame) for frame in ids], [len(frame) for frame in losses]
    if losses and known != counts:
        raise TrainingError(
            f"{what} must have one loss per patch, got {counts} patches and {known} losses"
        )
    return GazeLabels(ids, losses)


def _number(position: Any) -> int:
    number = whole(position)
    if number is None:
        raise ValueError(f"{position!r} is no position")
    return number


def _finite(loss: Any) -> float:
    if not math.isfinite(loss):
        raise ValueError(f"{loss!r} is no loss")
    return float(loss)
