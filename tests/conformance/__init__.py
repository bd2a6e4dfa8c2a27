"""Numbers that an exact implementation reproduces, from two sources in one form.

`frozen` lies beside this file: made by make.py with this project's own code and weights drawn
at random, so that every checkout can be checked. The others are folders of numbers of the
released implementation, in `$AUTOGAZE_CONFORMANCE` or `../shared/conformance`; where they are
absent their tests are skipped.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

from tests.conformance import make

FROZEN = "frozen-"


@dataclass(frozen=True)
class Numbers:
    """What one folder holds: configuration, calls, tensors by name."""

    config: dict
    cases: dict[str, dict]
    tensors: dict[str, Tensor]

    def call(self, case: str) -> dict:
        """Arguments of a call of the selector."""
        return {key: value for key, value in self.cases[case].items() if key != "note"}

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names start with `prefix`, without it."""
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(prefix)
        }


def conformance_folder() -> Path | None:
    """`$AUTOGAZE_CONFORMANCE`, or `../shared/conformance` beside the project."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "conformance"
    folder = Path(os.environ.get("AUTOGAZE_CONFORMANCE", beside))
    return folder if folder.is_dir() else None


def cases_of(name: str) -> list[str]:
    """Names of the calls of a folder; a single placeholder where it is absent."""
    if name.startswith(FROZEN):
        return list(make.frozen()[name.removeprefix(FROZEN)]["cases"])
    folder = conformance_folder()
    if folder is None:
        return ["absent"]
    return list(json.loads((folder / name / "cases.json").read_text()))


def load_numbers(name: str) -> Numbers:
    """`frozen-NAME`, or a folder of the released implementation's numbers; else skip the test."""
    if name.startswith(FROZEN):
        return Numbers(*make.load(name.removeprefix(FROZEN)))
    folder = conformance_folder()
    if folder is None:
        pytest.skip("no numbers of the released implementation: set AUTOGAZE_CONFORMANCE")
    read = {
        file: json.loads((folder / name / file).read_text())
        for file in ("config.json", "cases.json")
        if (folder / name / file).exists()
    }
    tensors = load_file(folder / name / "cases.safetensors")
    weights = folder / name / "model.safetensors"
    if weights.exists():
        tensors |= {f"weights.{key}": value for key, value in load_file(weights).items()}
    return Numbers(read.get("config.json", {}), read.get("cases.json", {}), tensors)
