"""A tiny training as a process of its own, for tests that kill it or start several.

`python -m tests.training.run FOLDER '{"kinds": ["ntp"], "die_while_saving": 2, ...}'`
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

import autogaze.training.logging
from autogaze.trainer import leave_group
from tests.training.tiny import tiny_trainer


def die_at_save(number: int) -> None:
    """From now on the save of this number writes half a file and kills the process."""
    real, count = torch.save, 0

    def save(state, path):
        nonlocal count
        count += 1
        if count == number:
            Path(path).write_bytes(b"half of an optimizer")
            os.kill(os.getpid(), signal.SIGKILL)
        real(state, path)

    torch.save = save


def main() -> None:
    torch.set_num_threads(1)
    # As in all tests of training but those of the curves: they take longer than the rest.
    autogaze.training.logging.draw_curves = lambda *_: False
    folder, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    if number := options.pop("die_while_saving", 0):
        die_at_save(number)
    kinds = options.pop("kinds")
    for kind in kinds:
        tiny_trainer(kind, folder / kind, **options).fit()
    leave_group()


if __name__ == "__main__":
    main()
