"""What users' code reads, replaces and passes of the published model, beside its call.

Thin adapters: `AutoGaze` and `GazeModel` do the work. The readers of arguments (`read_ratio`, ...) turn
what users give into limits.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from autogaze.checks import describe_value, is_dense, is_finite, whole
from autogaze.clips import FramesLike, Ratio, as_frames, check_generator
from autogaze.errors import GeometryError, SelectorError
from autogaze.gaze import Gaze
from autogaze.gaze_checks import is_integers, shape
from autogaze.geometry import PatchPyramid
from autogaze.models.autogaze.configuration import AutoGazeConfig
from autogaze.models.autogaze.decoding import ConvHistory
from autogaze.models.autogaze.gaze_model import GazeModel
from autogaze.models.autogaze.limits import Caps, draw_mean_ratio, draw_threshold, share_out
from autogaze.models.autogaze.output import PAST, SCORED, PastGaze, resume
from autogaze.models.autogaze.rows import GazeRows
from autogaze.models.autogaze.sampling import Sampling
from autogaze.models.autogaze.scoring import embed_sequence
from autogaze.models.autogaze.streaming import ClipStream, check_video


def _of_config(name: str) -> Any:
    """A property that reads and writes a setting of the model's config."""

    def read(model: Any) -> Any:
        return getattr(model.config, name)

    def write(model: Any, value: Any) -> None:
        setattr(model.config, name, value)

    return property(read, write, doc=f"`config.{name}`.")


class PublishedAttributes:
    """Settings, and the methods that draw ratio and threshold for a call without limits.

    Replace a method on a model (`model.get_gazing_ratio = lambda: 0.1`) or a setting, and
    calls follow.
    """

    config: AutoGazeConfig
    training: bool

    attn_mode = _of_config("attn_mode")
    max_num_frames = _of_config("max_num_frames")
    max_batch_size = _of_config("max_batch_size")
    gazing_ratio_config = _of_config("gazing_ratio_config")
    gazing_ratio_each_frame_config = _of_config("gazing_ratio_each_frame_config")
    task_loss_requirement_config = _of_config("task_loss_requirement_config")
    has_task_loss_requirement_during_training = _of_config(
        "has_task_loss_requirement_during_training"
    )
    has_task_loss_requirement_during_inference = _of_config(
        "has_task_loss_requirement_during_inference"
    )
    frame_sampling_rate = 1

    @property
    def pyramid(self) -> PatchPyramid:
        return self.config.pyramid

    @property
    def scales(self) -> list[int]:
        """Sides of the patch pyramid, ascending."""
        return list(self.pyramid.scales)

    @property
    def num_vision_tokens_each_frame(self) -> int:
        """Patches per frame, V."""
        return self.config.num_vision_tokens_each_frame

    def get_task_loss_requirement(
        self,
        video: Any = None,
        sync_across_ranks: bool = True,
        force_sampling: bool = False,
        *,
        generator: torch.Generator | None = None,
    ) -> float | Tensor | None:
        """The threshold of a call that gives no limits: a number, (B, T), or None for none.

        The first three arguments are the published ones and are ignored: the config decides.
        """
        return draw_threshold(self.config, training=self.training, generator=generator)

    def get_gazing_ratio(
        self, sync_across_ranks: bool = True, *, generator: torch.Generator | None = None
    ) -> float | None:
        """The mean ratio of such a call; None where the threshold alone decides."""
        return draw_mean_ratio(self.config, training=self.training, generator=generator)

    def get_gazing_ratio_each_frame(
        self,
        inputs: Any,
        video: Any,
        gazing_ratio_mean: float | None,
        num_frames: int,
        temperature: float = 1.0,
        use_cache: bool = False,
        *,
        generator: torch.Generator | None = None,
    ) -> Ratio | None:
        """A mean ratio shared out over frames: one number for all of them, or one per frame.

        Of the published arguments only the mean and the number of frames are used.
        """
        return share_out(
            self.config, gazing_ratio_mean, num_frames, training=self.training, generator=generator
        )

    def get_mask_from_gazing_pos(
        self,
        video: Float[Tensor, "B T 3 H W"] | FramesLike,
        gazing_pos: Int[Tensor, "B N"],
        if_padded_gazing: Shaped[Tensor, "B N"],
    ) -> list[Float[Tensor, "B T cells"]]:
        """1 where a patch is gazed at, one mask per scale.

        Args:
            video: whose number of frames the masks have.
            gazing_pos: ids numbered over the clip.
            if_padded_gazing: padded slots, which are left out.
        """
        is_video = isinstance(video, Tensor | np.ndarray) and video.ndim == 5
        frames: Any = video if is_video else as_frames(video)  # lists and arrays would be copied
        T, V = frames.shape[1], self.pyramid.num_patches
        ids, padded = _tensor(gazing_pos), _tensor(if_padded_gazing)
        if (
            not (is_integers(ids) and ids.ndim == 2 and is_dense(padded))
            or ids.shape != padded.shape
        ):
            raise GeometryError(
                "expected integers gazing_pos (clips, slots), and if_padded_gazing of that shape, "
                f"got {shape(ids)} and {shape(padded)}"
            )
        kept = ~padded.bool()
        ids = torch.where(kept, ids, 0).long()
        # On a CPU only: elsewhere that would make the device wait.
        on_cpu = ids.device.type == "cpu"
        if on_cpu and ids.numel() and not (ids.min() >= 0 and ids.max() < T * V):
            raise GeometryError(
                f"patch ids of {T} frames lie in [0, {T * V}), got {int(ids.min())} to {int(ids.max())}"
            )
        mask = torch.zeros(len(ids), T * V, device=ids.device)
        mask.scatter_reduce_(1, ids, kept.to(mask), "amax")
        return list(mask.unflatten(1, (T, V)).split(self.pyramid.cells, -1))


class PublishedGazeModel(GazeModel):
    """`AutoGaze.gazing_model`: the network, and the published ways to run it.

    `AutoGaze.forward` does not go through `generate`: to change what is chosen set `hook`.
    """

    def __init__(self, config: AutoGazeConfig) -> None:
        super().__init__(config.gaze_model_config)
        self.selector_config = config

    @property
    def num_multi_token_pred(self) -> int:
        """Patches proposed at once, K."""
        return self.gaze_decoder.config.num_multi_token_pred

    @property
    def num_vision_tokens_each_frame(self) -> int:
        """Patches per frame, V."""
        return self.config.num_vision_tokens_each_frame

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "logits_processor":
            raise SelectorError(
                "logits are not processed here: set gazing_model.hook to rules of allowed patches, "
                "budgets and early stopping (autogaze.models.autogaze.hook)"
            )
        super().__setattr__(name, value)

    def embed(
        self,
        video: Float[Tensor, "B T 3 H W"] | FramesLike,
        gazing_info: Any = None,
        past_conv_values: ConvHistory | None = None,
    ) -> dict[str, Any]:
        """Input embeddings of the decoder: each frame's vision tokens, followed by its gazes.

        Args:
            gazing_info: a padded dict; None or empty: vision tokens alone.
            past_conv_values: as an earlier call returned.

        Returns:
            `inputs_embeds` (B, N, C), `attention_mask` (B, N), 0 at padding, and
            `past_conv_values`.
        """
        video = read_video(video)
        tokens, history = self.vision_tokens(video, past_conv_values)  # (B, T, tokens, C)
        info = read_gazing_info(gazing_info, video.device)
        if info is None:
            sequence = tokens.flatten(1, 2)
            valid = torch.ones(sequence.shape[:2], dtype=torch.bool, device=sequence.device)
        else:
            rows = GazeRows.of_padded(info, self.selector_config.pyramid)
            sequence, valid = embed_sequence(self.gaze_decoder, tokens, rows)
        return {
            "inputs_embeds": sequence,
            "attention_mask": valid.long(),
            "past_conv_values": history,
        }

    @torch.no_grad()
    def generate(
        self,
        video: Float[Tensor, "B T 3 H W"] | FramesLike,
        max_gaze_tokens_each_frame: Any = None,
        task_loss_requirement: float | Tensor | None = None,
        do_sample: bool = False,
        temperature: Any = 1.0,
        use_cache: bool = False,
        past_key_values: PastGaze | None = None,
        past_inputs_embeds: Any = None,
        past_attention_mask: Any = None,
        past_conv_values: Any = None,
        *,
        generator: torch.Generator | None = None,
    ) -> dict[str, Any]:
        """Gaze at a video, without scores.

        Args:
            max_gaze_tokens_each_frame: the most patches per frame: one number, one per frame, or
                (B, T); None: all.
            task_loss_requirement: stopping threshold, a number or (B, T).
            do_sample, temperature: sample at a temperature; else the likeliest patches.

        Returns:
            `gazing_pos`, `if_padded_gazing`, `num_gazing_each_frame`, `gazing_mask`,
            `task_loss_requirement` (B, T) or None, and the four caches, None without `use_cache`.
        """
        video = read_video(video)
        B, T = video.shape[:2]
        threshold = read_requirement(task_loss_requirement, B, T)
        stream = resume(
            past_key_values, (past_inputs_embeds, past_attention_mask, past_conv_values)
        )
        if stream is None:
            stream = ClipStream(
                self,
                self.selector_config,
                B,
                num_frames=T,
                static_shapes=self.connector.pos_embed.device.type == "cuda",
                once=not use_cache,
            )
        else:
            stream.check_model(self, self.selector_config)
        rows = stream.step(
            video,
            caps=read_caps(max_gaze_tokens_each_frame, T),
            threshold=threshold,
            sampling=read_sampling(temperature if do_sample else 0.0, generator),
        )
        padded = rows.to_padded()
        names = ("gazing_pos", "if_padded_gazing", "num_gazing_each_frame", "gazing_mask")
        past = PastGaze(stream, stream.num_frames).views() if use_cache else dict.fromkeys(PAST)
        requirement = {"task_loss_requirement": as_table(threshold, video)}
        return {name: padded[name] for name in names} | requirement | past


def complete(gazing_info: dict[str, Any], gaze: Gaze) -> dict[str, Any]:
    """The padded dict of given gazes, with the keys that they lack."""
    padded = gaze.padded()
    names = ("gazing_mask", "scales", "frame_sampling_rate", "num_vision_tokens_each_frame")
    return {
        **{name: padded[name] for name in names},
        "has_task_loss_requirement": False,
        **{key: value for key, value in gazing_info.items() if value is not None},
    }


def read_video(video: Any) -> Float[Tensor, "B T 3 H W"]:
    """A normalised video: a tensor (B, T, 3, H, W), or another form that `as_frames` takes.

    Raises:
        SelectorError: something else, integers, or NaN.
    """
    frames = as_frames(video)
    video = video if isinstance(video, Tensor) else frames
    check_video(video)
    return video


def read_ratio(ratio: Any) -> Ratio | None:
    """A cap as a share of all patches: a number, or one per frame, in [0, 1].

    Values above 1 mean all patches. A share of 0 is taken as it is: every frame gazes at one
    patch at least.

    Args:
        ratio: a number or a list, tensor or array of them; None.

    Raises:
        SelectorError: something else, negative or not finite.
    """
    given = ratio.tolist() if isinstance(ratio, Tensor | np.ndarray | np.generic) else ratio
    if given is None:
        return None
    shares = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    shares = [_number(share) for share in shares]
    if not shares or not all(is_finite(share) and share >= 0 for share in shares):
        raise SelectorError(
            f"gazing_ratio must be a number of at least 0, or one for each frame; got {ratio!r}"
        )
    shares = [min(float(share), 1.0) for share in shares]
    return shares if isinstance(given, Sequence) else shares[0]


def read_caps(caps: Any, num_frames: int) -> Caps | None:
    """The most patches per frame: a number, one per frame or one per clip and frame, or None."""
    if caps is None:
        return None
    number = whole(_number(caps))
    if number is not None:
        return [number] * num_frames
    values: Any = None if isinstance(caps, str) else _tensor(caps)
    are_numbers = is_dense(values) and values.ndim in (1, 2) and values.dtype != torch.bool
    if not are_numbers or (values.device.type == "cpu" and not (values == values.long()).all()):
        raise SelectorError(
            "max_gaze_tokens_each_frame must be a whole number, one per frame or (clips, frames), "
            f"got {describe_value(caps)}"
        )
    return values.long().tolist() if values.ndim == 1 else values.long()


def read_requirement(
    requirement: Any, num_clips: int, num_frames: int
) -> float | Float[Tensor, "B T"] | None:
    """A stopping threshold: one number, or one per clip and frame.

    Args:
        requirement: a number, or what broadcasts to (B, T) and has two axes; None.

    Raises:
        SelectorError: another shape, or NaN.
    """
    if requirement is None:
        return None
    shape = (num_clips, num_frames)
    try:
        values = torch.as_tensor(requirement, dtype=torch.float32)
        if values.ndim not in (0, 2) or isinstance(requirement, bool) or values.isnan().any():
            raise ValueError
        table = values.expand(shape)
    except (OverflowError, RuntimeError, TypeError, ValueError):
        got = tuple(requirement.shape) if hasattr(requirement, "shape") else repr(requirement)
        raise SelectorError(
            f"task_loss_requirement must be a number or (clips, frames) = {shape}, got {got}"
        ) from None
    # A number may have more digits than float32.
    return float(requirement) if values.ndim == 0 else table


def read_sampling(temperature: Any, generator: torch.Generator | None) -> Sampling:
    """Sampling at a temperature, a number or a tensor of one.

    Raises:
        SelectorError: something else, negative or not finite; or another kind of generator.
    """
    check_generator(generator)
    number = _number(temperature)
    if not (is_finite(number) and number >= 0):
        raise SelectorError(
            f"temperature must be a finite number of at least 0, got {describe_value(temperature)}"
        )
    return Sampling(number, generator)


def read_gazing_info(gazing_info: Any, device: torch.device) -> dict[str, Any] | None:
    """Gazes to score; None where there are none.

    Args:
        gazing_info: a mapping whose tensors may be arrays or lists too, and whose
            `num_gazing_each_frame` may be (B, T) where it is the same for all clips.
        device: of the tensors that arrays and lists become; the video's.

    Raises:
        SelectorError: no mapping.
    """
    if gazing_info is None:
        return None
    if not isinstance(gazing_info, Mapping):
        raise SelectorError(
            "gazing_info must be the padded dict of a gaze, got "
            f"{type(gazing_info).__name__}; gazing_ratio is the argument after it"
        )
    # Old scores would hide the new ones, and may cost a pass to read.
    info = {key: gazing_info[key] for key in gazing_info if key not in SCORED}
    names = ("gazing_pos", "if_padded_gazing", "num_gazing_each_frame")
    here = [key for key in names if isinstance(info.get(key), np.ndarray | list | tuple)]
    info |= {key: _tensor(info[key]) for key in here}
    counts = info.get("num_gazing_each_frame")
    if isinstance(counts, Tensor):
        listed = isinstance(gazing_info["num_gazing_each_frame"], list | tuple)
        if listed and counts.is_floating_point() and (counts.frac() == 0).all():
            counts = counts.long()
        if counts.ndim == 2 and len(counts) and (counts == counts[:1]).all():
            counts = counts[0]
        info["num_gazing_each_frame"] = counts
    moved = {key: info[key].to(device) for key in here if isinstance(info[key], Tensor)}
    return {**info, **moved} or None


def _tensor(values: Any) -> Any:
    """Values as a tensor; themselves where they are none, for the checks that follow."""
    try:
        return torch.as_tensor(values)
    except (RuntimeError, TypeError, ValueError):
        return values


def _number(value: Any) -> Any:
    """The number in a tensor or array of one; any other value as it is."""
    is_one = isinstance(value, Tensor | np.ndarray) and value.ndim == 0
    return value.item() if is_one else value


def per_row(
    threshold: float | Float[Tensor, "B T"] | None, rows_per_clip: int
) -> float | Float[Tensor, "rows T"] | None:
    """Thresholds of rows that follow one another for each clip, as tiles do."""
    if isinstance(threshold, Tensor):
        return threshold.repeat_interleave(rows_per_clip, 0)
    return threshold


def as_table(
    threshold: float | Float[Tensor, "B T"] | None, video: Tensor
) -> Float[Tensor, "B T"] | None:
    """A threshold as (B, T) on the device of `video` (B, T, ...)."""
    if threshold is None:
        return None
    if isinstance(threshold, Tensor):
        return threshold.to(video.device)
    return torch.full(tuple(video.shape[:2]), threshold, device=video.device)
