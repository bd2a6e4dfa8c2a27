"""The options that a training runs with, kept in its checkpoints.

So that going on from one can say what is different now, and knows which algorithm made it.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autogaze.errors import CheckpointError
from autogaze.training.options import AlgorithmOptions, TrainerOptions

FILE = "options.json"

OF_THE_LAUNCH = {
    "trainer": (
        *("exp_name", "exp_folder", "resume", "val_only", "num_workers", "device", "tracker"),
        *("log_nsteps", "save_nsteps", "val_nsteps", "val_clips", "val_ratios", "val_pictures"),
        *("gaze_weights", "task_weights", "shared_positions"),  # a checkpoint's are taken
    )
}
"""Options that change nothing in a training that goes on, group by group."""


@dataclass(frozen=True)
class Settings:
    """What a training was set up with.

    Attributes:
        groups: options by group (`trainer`, `algorithm`, and where they are known `dataset`,
            `model` and `task`), as JSON has them.
    """

    groups: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        trainer: TrainerOptions,
        algorithm: AlgorithmOptions,
        config: Mapping[str, Any] | None = None,
    ) -> "Settings":
        """Those of a training; of the other groups, what its configuration says."""
        own = {"trainer": asdict(trainer), "algorithm": asdict(algorithm)}
        return cls(json.loads(json.dumps({**(config or {}), **own}, default=str)))

    @classmethod
    def load(cls, checkpoint: Path) -> "Settings | None":
        """What a checkpoint was made with; None where it does not say.

        Raises:
            CheckpointError: the file is damaged.
        """
        path = checkpoint / FILE
        if not path.is_file():
            return None
        try:
            settings = cls(json.loads(path.read_text()))
            _ = settings.algorithm, settings.teaches
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise CheckpointError(f"{path}: not the options of a training: {error!r}") from error
        return settings

    def save(self, checkpoint: Path) -> None:
        """Write them into a checkpoint's folder."""
        (checkpoint / FILE).write_text(json.dumps(self.groups, indent=2) + "\n")

    @property
    def algorithm(self) -> str:
        """Its name."""
        return str(self.groups["algorithm"]["name"])

    @property
    def teaches(self) -> bool:
        """Whether a selector learns."""
        return bool(self.groups["trainer"]["train_gaze"])

    def differences(self, earlier: "Settings") -> list[str]:
        """What is set otherwise than it was: `trainer.lr=0.1 (was 0.5)`."""
        found = []
        for group in self.groups.keys() & earlier.groups.keys():
            now, was = (dict(_flat(one.groups[group], group)) for one in (self, earlier))
            left_out = {f"{group}.{name}" for name in OF_THE_LAUNCH.get(group, ())}
            # These two always have all options: what is missing was unknown to a program then.
            complete = group in ("trainer", "algorithm")
            names = now.keys() & was.keys() if complete else now.keys() | was.keys()
            for name in names - left_out:
                if now.get(name) != was.get(name):
                    found.append(f"{name}={_said(now.get(name))} (was {_said(was.get(name))})")
        return sorted(found)


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Options with their whole names."""
    if isinstance(value, Mapping) and value:
        for inner, part in value.items():
            yield from _flat(part, f"{name}.{inner}")
    else:
        yield name, value


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
