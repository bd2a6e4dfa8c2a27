"""Tasks written for the published package: `forward(inputs, gaze_outputs) -> dict`."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.data import default_collate

from autogaze.datasets.clip import repeat_extra
from autogaze.errors import TrainingError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.models.autogaze.gaze_model import normalise
from autogaze.tasks.base import Task, TaskOutput
from autogaze.utils.device import moved

OURS = ("loss", "reward")
"""Figures that validation logs for every task; a published task's own of these names get a prefix."""


def is_published(module: Any) -> bool:
    """Whether the `forward` of a module, or of a class of modules, takes `inputs, gaze_outputs`."""
    kind = module if isinstance(module, type) else type(module)
    if not issubclass(kind, nn.Module):
        return False
    names = [name for name in inspect.signature(kind.forward).parameters if name != "self"]
    return names[:2] == ["inputs", "gaze_outputs"]


class PublishedTask(Task):
    """A module of the published interface as a task.

    Its `inputs` hold `video`, (B, T, 3, S, S) normalised as for the selector; `video_for_task`, the
    same frames by the module's `transform` (as `video` where that is None); `group_size` where a
    group of gazes per clip is rewarded; and the clips' extra values, as PyTorch collates them. Its
    `gaze_outputs` are the padded dict of `Gaze.padded`, N slots a clip. A group is scored in one
    call, so frames that the module draws at random are the same for all of it.

    Of what it returns are read

    - `loss`: whose mean trains the module. (B,), or any shape that begins with B, or one number.
    - `reward`: (B, F) or (B,). The negative loss by default.
    - `traj_len_each_reward`: the F numbers of slots up to each reward, which lies at the end of a
      frame. By default the rewards are of the last F frames; one is credited to all gazes.
    - `task_losses` and `task_losses_mask`: (B, N) what the selector learns to predict, and where.
    - `metrics`: figures by name, one number or (B,), whose means validation logs.

    Args:
        pyramid, recon_sample_rate: see `Task`; the latter is the module's own affair.

    Raises:
        TrainingError: the module's `gaze_model_kwargs` ask for what only `model` options give.
    """

    def __init__(
        self, module: nn.Module, pyramid: PatchPyramid, recon_sample_rate: float = 1.0
    ) -> None:
        super().__init__(pyramid, recon_sample_rate)
        self.module = module
        self.metric = type(module).__name__
        self._check_gaze_model_kwargs()

    @property
    def transform(self) -> Any:
        """The module's image processor, or None."""
        return getattr(self.module, "transform", None)

    def forward(
        self,
        frames: Float[Tensor, "B T 3 S S"],
        gaze: Gaze,
        scored: Sequence[int],
        extra: Mapping[str, Any] | None = None,
    ) -> TaskOutput:
        return self.of_groups(frames, [gaze], scored, extra)[0]

    def of_groups(
        self,
        frames: Float[Tensor, "B T 3 S S"],
        gazes: Sequence[Gaze],
        scored: Sequence[int],
        extra: Mapping[str, Any] | None = None,
    ) -> list[TaskOutput]:
        for gaze in gazes:
            self.check_fit(frames, gaze)
        G, B = len(gazes), len(frames)
        inputs = self._inputs(frames, extra or {}, G)
        joined = gazes[0] if G == 1 else Gaze.cat_clips(gazes)
        whole = self._scored(inputs, joined.padded())
        return [_rows(whole, slice(g * B, (g + 1) * B)) for g in range(G)]

    def _inputs(self, frames: Tensor, extra: Mapping[str, Any], G: int) -> dict[str, Any]:
        """Inputs of the module: G repetitions of the clips, repetition by repetition."""
        video = normalise(frames)
        videos = {"video": video, "video_for_task": video}
        if "video_for_task" in extra:
            del videos["video_for_task"]
        elif self.transform is not None:
            videos["video_for_task"] = self._transformed(frames)
        repeated = repeat_extra({**videos, **extra}, G)
        inputs = {name: _collated(value, frames.device) for name, value in repeated.items()}
        return inputs if G == 1 else {**inputs, "group_size": G}

    def _transformed(self, frames: Tensor) -> Tensor:
        # PyAV comes with this module, and training on decoded frames does without.
        from autogaze.datasets.video_utils import transform_video_for_pytorch

        pixels = (frames * 255).round().to(torch.uint8).permute(0, 1, 3, 4, 2).cpu().numpy()
        clips = [transform_video_for_pytorch(clip, self.transform) for clip in pixels]
        return torch.stack(clips).to(frames.device)

    def _scored(self, inputs: dict[str, Any], gaze_outputs: dict[str, Any]) -> TaskOutput:
        """One call of the module, and what it returned."""
        video, slots = inputs["video"], gaze_outputs["num_gazing_each_frame"]
        _B, T = video.shape[:2]
        output = self.module(inputs, gaze_outputs)
        if not isinstance(output, Mapping) or not set(OURS) & output.keys():
            got = sorted(output) if isinstance(output, Mapping) else type(output).__name__
            raise TrainingError(
                f"{self.metric}.forward(inputs, gaze_outputs) must return a dict with a loss or a "
                f"reward, got {got}"
            )
        reward = self._values("reward", output.get("reward"), video)
        losses = self._values("loss", output.get("loss"), video)
        if reward is None and losses is not None and losses.shape[1] > T:
            losses = losses.mean(1, keepdim=True)  # of no frames, but tokens or pixels
        leading: Any = losses if reward is None else reward  # one of the two is there
        F = leading.shape[1]
        if losses is None:
            losses = -leading
        elif losses.shape[1] != F:
            losses = losses.mean(1, keepdim=True).expand(-1, F)
        frames = self._frames(output.get("traj_len_each_reward"), F, slots)
        terms = {}
        for name, value in (output.get("metrics") or {}).items():
            values = self._values(f"metrics[{name!r}]", value, video)
            if values is not None:  # their means are logged
                name = f"own_{name}" if name in OURS else name
                terms[name] = values.float().mean(1, keepdim=True).expand(-1, F)
        targets = _to_predict(output, gaze_outputs, frames, losses)
        return TaskOutput(frames, losses, terms=terms, own_reward=reward, losses_to_predict=targets)

    def _values(self, name: str, value: Any, video: Tensor) -> Float[Tensor, "B n"] | None:
        """A value of the dict, per clip; one number counts for every clip alike."""
        if value is None:
            return None
        B, values = len(video), torch.as_tensor(value, device=video.device)
        if values.ndim == 0:
            return values.expand(B, 1)
        if len(values) != B or not values.numel():
            raise TrainingError(
                f"{self.metric}: {name} must be one number, or of the {B} clips, got shape "
                f"{tuple(values.shape)}"
            )
        return values.reshape(B, -1)

    def _frames(self, lengths: Any, F: int, slots: Int[Tensor, " T"]) -> tuple[int, ...]:
        """The frames at whose ends the F rewards lie."""
        T, ends = len(slots), slots.cumsum(0).tolist()
        if lengths is None:
            if F > T:
                raise TrainingError(
                    f"{self.metric}: expected rewards of at most {T} frames, got {F}"
                )
            return tuple(range(T - F, T))
        numbers = [int(length) for length in lengths]
        if len(numbers) != F or not set(numbers) <= set(ends):
            raise TrainingError(
                f"{self.metric}: traj_len_each_reward must be the number of slots up to the end of "
                f"a frame, {sorted(set(ends))}, for each of {F} rewards; got {numbers}"
            )
        return tuple(ends.index(number) for number in numbers)

    def _check_gaze_model_kwargs(self) -> None:
        """The published trainer calls the selector with these; here `model` says how it gazes."""
        asked = dict(getattr(self.module, "gaze_model_kwargs", None) or {})
        scales, patch_size = asked.pop("target_scales", None), asked.pop("target_patch_size", None)
        if scales is not None:
            patch_size = self.pyramid.patch_size if patch_size is None else int(patch_size)
            wanted = scales if isinstance(scales, str) else "+".join(map(str, scales))
            own = "+".join(map(str, self.pyramid.scales))
            if (wanted, patch_size) != (own, self.pyramid.patch_size):
                raise TrainingError(
                    f"{self.metric} asks for gazes at scales {wanted} in patches of {patch_size} "
                    f"pixels, and model.scales make {own} in patches of {self.pyramid.patch_size}; "
                    "they must be the same"
                )
        if asked:
            raise TrainingError(
                f"{self.metric}.gaze_model_kwargs: {', '.join(sorted(asked))} cannot be given with "
                "a task; how the selector gazes is set by the options of `model`"
            )


def _to_predict(
    output: Mapping[str, Any],
    gaze_outputs: Mapping[str, Any],
    frames: tuple[int, ...],
    losses: Float[Tensor, "B F"],
) -> Float[Tensor, "B F"] | None:
    """Means of `task_losses` over the marked slots of each frame; None where there are none."""
    values = output.get("task_losses")
    if values is None:
        return None
    mask = output.get("task_losses_mask")
    kept = ~gaze_outputs["if_padded_gazing"]
    marked = kept if mask is None else kept & (mask > 0)
    if values.shape != kept.shape or marked.shape != kept.shape:
        raise TrainingError(
            f"task_losses and task_losses_mask must be of (clips, slots) = {tuple(kept.shape)}, got "
            f"{tuple(values.shape)} and {tuple(marked.shape)}"
        )
    slots = gaze_outputs["num_gazing_each_frame"].tolist()
    values = values.detach().float().where(marked, 0.0).split(slots, 1)
    counts = [part.sum(1) for part in marked.split(slots, 1)]
    found = [values[t].sum(1) / counts[t].clamp(min=1) for t in frames]
    known = torch.stack([counts[t] > 0 for t in frames], 1)
    return torch.where(known, torch.stack(found, 1), losses.detach().float())


def _rows(output: TaskOutput, rows: slice) -> TaskOutput:
    """Of some clips."""
    reward, targets = output.own_reward, output.losses_to_predict
    return TaskOutput(
        output.frames,
        output.losses[rows],
        terms={name: values[rows] for name, values in output.terms.items()},
        own_reward=None if reward is None else reward[rows],
        losses_to_predict=None if targets is None else targets[rows],
    )


def _collated(value: Any, device: torch.device) -> Any:
    """What PyTorch makes of the clips' values where they are no numbers; lists of what it refuses."""
    if not isinstance(value, tuple):
        return value
    try:
        return moved(default_collate(list(value)), device)
    except (TypeError, RuntimeError):
        return list(value)
