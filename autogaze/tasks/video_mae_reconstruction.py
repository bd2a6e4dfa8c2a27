"""VideoMAE reconstruction as a task: the judge that published selectors were trained with."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from autogaze.errors import CheckpointError
from autogaze.gaze import Gaze
from autogaze.reconstruction.video_mae import VideoMAE, VideoMAEConfig
from autogaze.tasks.base import Task, TaskOutput
from autogaze.tasks.frame_losses import IMAGENET_MEAN, IMAGENET_STD, FrameLosses, Normalise

PUBLISHED_PREFIX = "mae."
"""What names start with in the published `videomae.pt`, a state dict of its whole task."""


class VideoMAEReconstruction(Task):
    """Loss of a frame: the weighted terms between it and what VideoMAE makes of the gaze.

    Args:
        mae: the reconstruction model; its scales are the task's.
        losses: the terms (AutoGaze, section 3.2: l1 + 0.3 dinov2_reg + 0.3 siglip2).
        recon_sample_rate: see `Task`.
        name: of the judge, in figures.
    """

    def __init__(
        self,
        mae: VideoMAE,
        losses: FrameLosses,
        recon_sample_rate: float = 0.125,
        name: str = "VideoMAE",
    ) -> None:
        super().__init__(mae.config.pyramid, recon_sample_rate)
        self.judge = name
        self.mae = mae
        self.losses = losses
        self.normalise = Normalise(IMAGENET_MEAN, IMAGENET_STD)

    def forward(
        self, frames: Float[Tensor, "B T 3 S S"], gaze: Gaze, judged: Sequence[int]
    ) -> TaskOutput:
        self.check_fit(frames, gaze)
        chosen = list(judged)
        made = self.normalise.undo(self.mae(self.normalise(frames), gaze, chosen))
        losses, terms = self.losses(made, frames[:, chosen])
        shown = made.detach().clamp(0, 1)
        return TaskOutput(tuple(chosen), losses, shown, terms if len(terms) > 1 else ())


def load_video_mae(path: str | Path, config: VideoMAEConfig) -> VideoMAE:
    """A VideoMAE from a state dict: safetensors, or a pickle read with `weights_only`.

    Accepts names as they are, under `mae.` as published (frozen loss networks beside
    them are left out), and image MAEs, whose missing scale and time embeddings start
    as they were initialised.

    Raises:
        CheckpointError: no such file, or parameters that do not fit.
    """
    path = Path(path)
    state = _mae_part(read_state(path))
    model = VideoMAE(config)
    own = model.state_dict()
    new = {"scale_embed", "time_embed", "decoder_scale_embed"}
    missing = [name for name in own if name not in state and name.split(".")[-1] not in new]
    unexpected = [name for name in state if name not in own]
    wrong = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if missing or unexpected or wrong:
        raise CheckpointError(
            f"{path}: not a VideoMAE of this configuration: missing {missing[:3]}, "
            f"unexpected {unexpected[:3]}, of another shape {wrong[:3]} "
            f"({len(missing)}, {len(unexpected)} and {len(wrong)} in all)"
        )
    model.load_state_dict(state, strict=False)
    return model


def read_state(path: Path) -> dict[str, Tensor]:
    """Tensors of a checkpoint file, by name; nothing in it is ever executed."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint file")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise CheckpointError(f"{path}: cannot be read: {error}") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds, none of them documented
        raise CheckpointError(f"{path}: cannot be read as a state dict: {error}") from error
    if not isinstance(state, Mapping) or not all(isinstance(x, Tensor) for x in state.values()):
        raise CheckpointError(f"{path}: holds {type(state).__name__}, not a state dict")
    return dict(state)


def _mae_part(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The parameters of the VideoMAE itself, under its own names."""
    if any(name.startswith(PUBLISHED_PREFIX) for name in state):
        state = {
            name.removeprefix(PUBLISHED_PREFIX): value
            for name, value in state.items()
            if name.startswith(PUBLISHED_PREFIX)
        }
    return {
        name: value for name, value in state.items() if name.split(".")[0] in ("vit", "decoder")
    }
