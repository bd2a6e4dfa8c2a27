"""`VideoMAEReconstruction` with the published arguments, calls and parameter names.

Trainings of the package's own have `autogaze.tasks.video_mae.VideoMAETask`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import VivitImageProcessor

from autogaze.checks import describe_value, is_dense
from autogaze.errors import CheckpointError, TrainingError, first_line, warn_renamed
from autogaze.gaze import Gaze
from autogaze.gaze_checks import is_integers, padded_fields, shape
from autogaze.reconstruction.video_mae import VideoMAEConfig
from autogaze.reconstruction.video_mae.checkpoint import (
    PROCESSOR,
    PUBLISHED_PIXELS,
    processor_settings,
    video_mae_state,
)
from autogaze.tasks.losses import LOSSES, PUBLIC_NETWORKS, FrameLosses, PixelLoss
from autogaze.tasks.video_mae import VideoMAETask
from autogaze.tasks.video_mae_reconstruction.visualize_video_mae_reconstruction import (
    VisualizeReconstruction,
)
from autogaze.utils.checkpoints import config_file, under_prefix
from autogaze.utils.hub import find_checkpoint
from autogaze.utils.normalization import IMAGENET, PixelStatistics

ALWAYS_TRUE = ("scale_embed", "time_embed", "causal")
"""Options of `recon_model_config` that name what every VideoMAE here has."""


class VideoMAEReconstruction(nn.Module):
    """Losses and rewards of gazes: how well a VideoMAE reconstructs frames from them.

    Args:
        recon_model: a folder, a file or a hub id of a VideoMAE or ViT-MAE.
        recon_model_config: a mapping with `loss_type` and `loss_weights` ("l1+siglip2", "1+0.3"; by
            default those of the checkpoint's config.json), `max_num_frames` and other values of
            `VideoMAEConfig`, and `dinov2_reg_loss_config` and `siglip2_loss_config`, whose `model` is the
            folder or hub id of a loss network.
        scales: of the gazes, "32+64+112+224".
        recon_sample_rate: share of a clip's frames that a call reconstructs; at least one frame is.
        attn_mode: has no effect: attention is PyTorch's own.

    Attributes:
        mae: the VideoMAE; the frozen loss networks are parts of it, under their terms' names. So parameters
            have the names of the published `videomae.pt`, which `load_state_dict` takes from any
            version of transformers.
        transform: the image processor that makes `video_for_task`: that of the checkpoint's
            preprocessor_config.json. Without that file it is as for the published VideoMAE: pixels in [-1, 1]
            are normalised by ImageNet's statistics.
        visualize_methods: what `visualize` calls.
        gaze_model_kwargs: what a selector must be called with for gazes of these scales.

    Raises:
        TrainingError: options that do not fit, or that have no counterpart.
        CheckpointError: weights or networks that cannot be found or do not fit.
    """

    def __init__(
        self,
        recon_model: str | Path,
        recon_model_config: Mapping[str, Any] | None = None,
        scales: str | int = "32+64+112+224",
        recon_sample_rate: float = 0.125,
        attn_mode: str = "sdpa",
    ) -> None:
        super().__init__()
        task = VideoMAETask.from_checkpoint(
            recon_model,
            recon_sample_rate=recon_sample_rate,
            scales=str(scales),
            **_options(recon_model_config or {}),
        )
        self.recon_sample_rate = recon_sample_rate
        self.pyramid = task.pyramid
        self.scales = list(task.pyramid.scales)
        self.transform = _image_processor(recon_model, task)
        self.mae = task.mae
        for name, term in task.losses.terms.items():
            if isinstance(network := getattr(term, "network", None), nn.Module):
                self.mae.add_module(name, network)
        # Not a part of this module, so that every network has one name.
        object.__setattr__(self, "_losses", task.losses)
        self.visualize_methods: list[Callable[..., Any]] = [VisualizeReconstruction()]
        self.gaze_model_kwargs = {
            "target_scales": self.scales,
            "target_patch_size": self.mae.config.patch_size,
        }
        self.register_load_state_dict_pre_hook(_translate_names)

    _losses: FrameLosses

    @classmethod
    def from_checkpoint(cls, source: str | Path, **options: Any) -> VideoMAETask:
        """Former name of `autogaze.tasks.video_mae.VideoMAETask.from_checkpoint`."""
        warn_renamed("VideoMAEReconstruction.from_checkpoint", "VideoMAETask.from_checkpoint")
        return VideoMAETask.from_checkpoint(source, **options)

    def train(self, mode: bool = True) -> "VideoMAEReconstruction":
        """The loss networks are frozen and never train."""
        super().train(mode)
        self._losses.train(mode)
        return self

    def forward(self, inputs: Mapping[str, Any], gaze_outputs: Mapping[str, Any]) -> dict[str, Any]:
        """Loss, reward and metrics of some gazes.

        Args:
            inputs: holds `video_for_task`, (B, T, 3, S, S) as `transform` makes it.
            gaze_outputs: padded gazes (`autogaze.Gaze.padded`), N slots per clip.

        Returns:
            - `outputs`: of `forward_output`.
            - `loss` (B,): of the clips.
            - `reward` (B, F): the negative loss of every reconstructed frame, without a graph.
            - `traj_len_each_reward` (F,): slots up to the end of each.
            - `task_losses`, `task_losses_mask` (B, N): what a selector learns to predict, and where.
            - `metrics`: `reconstruction_loss` and `avg_gazing_ratio_per_frame`.
        """
        outputs = self.forward_output(inputs, gaze_outputs)
        loss, task_losses, mask = self.loss(inputs, gaze_outputs, outputs)
        reward, lengths = self.reward(inputs, gaze_outputs, outputs)
        return {
            "outputs": outputs,
            "loss": loss,
            "reward": reward,
            "traj_len_each_reward": lengths,
            "task_losses": task_losses,
            "task_losses_mask": mask,
            "metrics": self.metric(inputs, gaze_outputs, outputs),
        }

    def forward_output(
        self,
        inputs: Mapping[str, Any],
        gaze_outputs: Mapping[str, Any],
        frame_idx_to_reconstruct: Int[Tensor, " F"] | Sequence[int] | None = None,
    ) -> dict[str, Any]:
        """Reconstructions of F frames, their losses, and numbers of gazes.

        Args:
            frame_idx_to_reconstruct: numbers of the frames; by default a share of
                `recon_sample_rate` of them, drawn by PyTorch's global generator.

        Raises:
            GeometryError: gazes or frames of other sizes than the model's.
            TrainingError: no `video_for_task`, or numbers of frames that are none.
        """
        video = self._video(inputs)
        T = video.shape[1]
        gaze = Gaze.from_padded(gaze_outputs, self.pyramid)
        _, is_padding, slots = padded_fields(gaze_outputs)
        if frame_idx_to_reconstruct is None:
            frames = torch.randperm(T)[: max(1, int(T * self.recon_sample_rate))]
        else:
            frames = _frame_numbers(frame_idx_to_reconstruct)
        chosen = frames.tolist()
        made = self.mae(video, gaze, chosen)
        losses = self._frame_losses(made, video[:, chosen])
        per_slot, mask = _at_the_ends(losses, is_padding, slots.tolist(), chosen)
        return {
            "reconstruction": made,
            "reconstruction_loss": losses.mean(1),
            "reconstruction_loss_each_reconstruction_frame": losses,
            "reconstruction_loss_each_gazing_token": per_slot,
            "reconstruction_loss_each_gazing_token_mask": mask,
            "num_gazing_before_each_reconstruction_frame": slots.cumsum(0)[frames].to(
                is_padding.device
            ),
            "num_non_padded_gazing_at_each_reconstruction_frame": gaze.lengths.to(video.device)[
                :, frames.to(video.device)
            ],
            "frame_idx_to_reconstruct": frames.to(video.device),
            "image_mean": self.transform.image_mean,
            "image_std": self.transform.image_std,
            "rescale_factor": self.transform.rescale_factor,
            "scales": self.scales,
        }

    def loss(
        self, inputs: Mapping[str, Any], gaze_outputs: Mapping[str, Any], outputs: Mapping[str, Any]
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, "B N"], Float[Tensor, "B N"]]:
        """Loss of the clips; loss at every slot, and where it is known."""
        each = "reconstruction_loss_each_gazing_token"
        return outputs["reconstruction_loss"], outputs[each], outputs[f"{each}_mask"]

    def reward(
        self, inputs: Mapping[str, Any], gaze_outputs: Mapping[str, Any], outputs: Mapping[str, Any]
    ) -> tuple[Float[Tensor, "B F"], Int[Tensor, " F"]]:
        """Rewards of the reconstructed frames, and the slots up to the end of each."""
        losses = outputs["reconstruction_loss_each_reconstruction_frame"]
        return -losses.detach(), outputs["num_gazing_before_each_reconstruction_frame"]

    def metric(
        self, inputs: Mapping[str, Any], gaze_outputs: Mapping[str, Any], outputs: Mapping[str, Any]
    ) -> dict[str, Float[Tensor, ""]]:
        """Mean loss, and the share of all patches that were gazed at."""
        B, T = inputs["video_for_task"].shape[:2]
        gazed = (~gaze_outputs["if_padded_gazing"].bool()).sum()
        return {
            "reconstruction_loss": outputs["reconstruction_loss"].mean(),
            "avg_gazing_ratio_per_frame": gazed / (B * T * self.pyramid.num_patches),
        }

    def visualize(
        self,
        inputs: Mapping[str, Any],
        gaze_outputs: Mapping[str, Any],
        task_outputs: Mapping[str, Any],
        rl_outputs: Mapping[str, Any] | None = None,
    ) -> None:
        """Call each of `visualize_methods`; see `VisualizeReconstruction`."""
        for method in self.visualize_methods:
            method(inputs, gaze_outputs, task_outputs, rl_outputs)

    def _video(self, inputs: Any) -> Float[Tensor, "B T 3 S S"]:
        """`video_for_task`, in the precision of the weights."""
        video: Any = inputs.get("video_for_task") if isinstance(inputs, Mapping) else None
        if not (is_dense(video) and video.is_floating_point() and video.ndim == 5):
            got = describe_value(inputs if video is None else video)
            if isinstance(video, Tensor):
                got = shape(video)
            elif video is None and isinstance(inputs, Mapping):
                got = f"only {', '.join(map(str, inputs)) or 'an empty dict'}"
            raise TrainingError(
                "inputs must hold video_for_task, floats (B, T, 3, S, S) as the task's transform makes "
                f"them, got {got}"
            )
        return video.to(next(self.mae.vit.parameters()).dtype)

    def _frame_losses(
        self, made: Float[Tensor, "B F 3 S S"], real: Float[Tensor, "B F 3 S S"]
    ) -> Float[Tensor, "B F"]:
        """The weighted sum of the terms; `l1` is that of the pixels as `transform` makes them."""
        total = made.new_zeros(made.shape[:2])
        for term, weight in zip(self._losses.terms.values(), self._losses.weights, strict=True):
            if isinstance(term, PixelLoss):
                found = (made - real).abs().mean((2, 3, 4))
            else:
                pair = (self._rgb(video).flatten(0, 1) for video in (made, real))
                found = term(*pair).unflatten(0, made.shape[:2])
            total = total + weight * found
        return total

    def _rgb(self, video: Float[Tensor, "B F 3 S S"]) -> Float[Tensor, "B F 3 S S"]:
        """Pixels in [0, 1] of those that `transform` makes."""
        made_by: Any = self.transform
        if made_by.do_normalize:
            statistics = PixelStatistics(tuple(made_by.image_mean), tuple(made_by.image_std))
            video = statistics.denormalise(video)
        if made_by.do_rescale:
            video = (video + 1 if made_by.offset else video) / made_by.rescale_factor
        return video / 255


def _frame_numbers(given: Any) -> Int[Tensor, " F"]:
    """Numbers of frames in any form that PyTorch takes, on the CPU."""
    try:
        numbers = torch.as_tensor(given).cpu()
    except (RuntimeError, TypeError, ValueError):
        numbers = None
    # No numbers at all are refused by the model.
    if numbers is None or numbers.ndim != 1 or (numbers.numel() and not is_integers(numbers)):
        raise TrainingError(
            "frame_idx_to_reconstruct must be whole numbers of frames, one after another, got "
            f"{shape(given)}"
        )
    return numbers


def _options(given: Any) -> dict[str, Any]:
    """`recon_model_config` as options of `VideoMAETask.from_checkpoint`."""
    if not isinstance(given, Mapping):
        raise TrainingError(f"recon_model_config must be a mapping, got {describe_value(given)}")
    shape = {field.name for field in fields(VideoMAEConfig)} - {"scales"}
    networks = {f"{term}_loss_config": term for term in PUBLIC_NETWORKS}
    options: dict[str, Any] = {}
    for name, value in given.items():
        if value is None or name == "l1_loss_config":
            continue
        if name in networks:
            if source := _network(name, value):
                options.setdefault("loss_networks", {})[networks[name]] = source
        elif name in ALWAYS_TRUE:
            if value is not True:
                raise TrainingError(
                    f"recon_model_config.{name} must be true, got {describe_value(value)}: no "
                    "VideoMAE is without"
                )
        elif name in ("loss_type", "loss_weights") or name in shape:
            options[name] = str(value) if name == "loss_weights" else value
        elif name == "revision":
            raise _no_revision(name)
        else:
            known = sorted({"loss_type", "loss_weights", *shape, *networks, *ALWAYS_TRUE})
            raise TrainingError(
                f"recon_model_config.{name} is unknown; known are {', '.join(known)}"
            )
    return options


def _network(name: str, given: Any) -> str | None:
    """The folder or hub id of a loss network."""
    if not isinstance(given, Mapping):
        raise TrainingError(
            f"recon_model_config.{name} must be a mapping with model, got {describe_value(given)}"
        )
    if given.get("revision") is not None:
        raise _no_revision(f"{name}.revision")
    source = given.get("model")
    return None if source is None else str(source)


def _no_revision(name: str) -> TrainingError:
    return TrainingError(
        f"recon_model_config.{name} is not taken: download that revision, and give its folder"
    )


def _image_processor(source: str | Path, task: VideoMAETask) -> VivitImageProcessor:
    """That of a checkpoint, for square frames of the task's side."""
    checkpoint = find_checkpoint(source)
    side, pixels = task.pyramid.side, task.statistics
    size: dict[str, Any] = {
        "size": {"shortest_edge": side},
        "crop_size": {"height": side, "width": side},
    }
    if not config_file(checkpoint).with_name(PROCESSOR).is_file():
        if pixels == PUBLISHED_PIXELS:  # in the published form, whose attributes users read
            return VivitImageProcessor(
                image_mean=list(IMAGENET.mean), image_std=list(IMAGENET.std), **size
            )
        return VivitImageProcessor(**processor_settings(pixels, side))
    try:
        return VivitImageProcessor.from_pretrained(config_file(checkpoint).parent, **size)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{checkpoint}: its {PROCESSOR} cannot be read ({first_line(error)})"
        ) from error


def _at_the_ends(
    losses: Float[Tensor, "B F"],
    is_padding: Bool[Tensor, "B N"],
    slots: Sequence[int],
    frames: Sequence[int],
) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N"]]:
    """Losses at the last gaze of each reconstructed frame and at the padding behind it, and a mask."""
    masks = []
    values = []
    for frame, padded in enumerate(is_padding.split(list(slots), 1)):
        mask = losses.new_zeros(padded.shape)
        value = mask
        if frame in frames:
            mask = F.pad(padded[:, 1:], (0, min(1, padded.shape[1])), value=True).to(losses)
            value = mask * losses[:, frames.index(frame), None]
        masks.append(mask)
        values.append(value)
    return torch.cat(values, 1), torch.cat(masks, 1)


def _translate_names(
    module: VideoMAEReconstruction, state: dict[str, Any], prefix: str, *_: Any
) -> None:
    """Parameters under the names that this version of transformers gives them, before they are loaded."""
    head = f"{prefix}mae."
    given = {name.removeprefix(head): state.pop(name) for name in [*state] if name.startswith(head)}
    found = dict(video_mae_state(given))
    networks = dict(module.mae.named_children())
    for name, value in given.items():
        part = name.partition(".")[0]
        if part not in networks:
            found[name] = value  # left for PyTorch to report
    for term in module._losses.terms:
        if term in networks and (own := under_prefix(given, f"{term}.")):
            if own.keys() != networks[term].state_dict().keys():
                own = LOSSES[term](own).network.state_dict()  # type: ignore[union-attr]
            found |= {f"{term}.{name}": value for name, value in own.items()}
    state.update({f"{head}{name}": value for name, value in found.items()})
