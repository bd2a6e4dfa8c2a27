"""Gazing at whole clips and streams, in micro-batches that fit a memory budget."""

import math
from collections.abc import Iterator
from typing import Any
from weakref import finalize

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autogaze.errors import SelectorError
from autogaze.models.autogaze.configuration import AutoGazeConfig
from autogaze.models.autogaze.decoding import GazeState
from autogaze.models.autogaze.gaze_model import GazeModel, resize_clip
from autogaze.models.autogaze.hook import rules_of
from autogaze.models.autogaze.inhibition import InhibitionOfReturn, new_inhibition
from autogaze.models.autogaze.limits import Caps, FrameLimits, Threshold, frame_limits
from autogaze.models.autogaze.rows import GazeRows
from autogaze.models.autogaze.sampling import Sampling
from autogaze.models.autogaze.static_shapes import StaticGazeState, trimmed, window_of
from autogaze.utils.copying import CopiedDeeply
from autogaze.utils.device import free_memory, without_autocast
from autogaze.utils.kernels import power_of_two

DEFAULT_MEMORY_BUDGET = 1 << 30
"""Bytes that gazing at one micro-batch of clips may take on a CPU, and at least on a GPU."""

PIXELS_AT_ONCE = 64
"""Frames whose patches' pixels are cut out together on a GPU: 50 MB."""

SHARE_OF_FREE_MEMORY = 0.5
"""Of a GPU's free memory that one micro-batch may take: its use is estimated, and others come."""

_NEW_STREAM = "start a new stream: call `stream` again, or the model without past_key_values"


class ClipStream(CopiedDeeply):
    """Gazing at B clips as their frames arrive; a whole clip is one step of a stream.

    A copy goes on by itself, with the same weights.

    Args:
        num_clips: B; every step brings the same clips' next frames.
        num_frames: frames to allocate caches for; more may come.
        cap: patches per frame to allocate caches for; None for all.
        memory_budget: bytes a micro-batch may take; None: `memory_budget` of the model's device.
        repetitions: rows per clip; row = repetition * B + clip.
        static_shapes: see `autogaze.models.autogaze.static_shapes`.
        once: there will be one step only; its states are given back, one micro-batch after another.
    """

    shared_by_copies = ("model", "config", "decoder", "static_states")

    def __init__(
        self,
        model: GazeModel,
        config: AutoGazeConfig,
        num_clips: int,
        *,
        num_frames: int = 1,
        cap: int | None = None,
        memory_budget: int | None = None,
        repetitions: int = 1,
        static_shapes: bool = False,
        once: bool = False,
    ) -> None:
        self.model, self.config, self.pyramid = model, config, config.pyramid
        self.decoder = model.gaze_decoder.fused()
        self.precisions = _precisions(model)
        self.hook = model.hook
        self.num_clips = num_clips
        self.num_rows = num_clips * repetitions
        self.num_frames = 0
        self.static_shapes, self.once = static_shapes, once
        self.static_states = model.static_states
        tokens = model.connector.pos_embed.shape[0] + (cap or self.pyramid.num_patches)
        self.capacity = tokens * num_frames
        positions = model.connector.pos_embed
        sizes = config, positions.dtype, self.capacity, num_frames
        least = DEFAULT_MEMORY_BUDGET if memory_budget is None else memory_budget
        self.batch = micro_batch(*sizes, least, static_shapes=static_shapes)
        if memory_budget is None and self.batch < self.num_rows:  # to ask a GPU takes a while
            budget = budget_of(positions.device, model.static_states.num_bytes)
            self.batch = micro_batch(*sizes, budget, static_shapes=static_shapes)
        self.states: list[GazeState | StaticGazeState] = []  # one per micro-batch
        self.inhibitions: list[InhibitionOfReturn] = []  # likewise, if the config asks for it

    def step(
        self,
        video: Float[Tensor, "B T 3 H W"],
        *,
        caps: Caps | None = None,
        threshold: Threshold | None = None,
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
    ) -> GazeRows:
        """Gaze at the next T frames of every clip, in the weights' precision and without gradients.

        Args:
            video: normalised; resized if it is not of the model's size.
            caps: the most patches each of the T frames may take; (rows, T) where rows differ.
            threshold: stop a frame where the predicted loss is at most this; (rows,) where
                rows differ, or (rows, T).
        """
        if video.shape[0] != self.num_clips:
            raise SelectorError(
                f"this stream is of {self.num_clips} clips, got frames of {video.shape[0]}"
            )
        T = video.shape[1]
        limits = frame_limits(
            caps,
            threshold.to(video.device) if isinstance(threshold, Tensor) else threshold,
            num_rows=self.num_rows,
            num_frames=T,
            num_patches=self.pyramid.num_patches,
        )
        limits = [self._ruled(self.num_frames + t, each, video) for t, each in enumerate(limits)]
        parts = []
        with torch.no_grad(), without_autocast(video.device):
            for index, start in enumerate(range(0, self.num_rows, self.batch)):
                rows = slice(start, min(start + self.batch, self.num_rows))
                if self.once:
                    self._drop_micro_batches()
                    index = 0
                if index == len(self.states):
                    self._add_micro_batch(rows.stop - rows.start)
                parts.append(self._gaze(index, rows, video, limits, sampling))
        if self.once:
            self._drop_micro_batches()
        self.num_frames += T
        return GazeRows.cat(parts)

    def check_model(self, model: GazeModel, config: AutoGazeConfig) -> None:
        """Raise `SelectorError` unless this is the model that began the stream, where it was then.

        A copy of the model with the same weights may go on, as after unpickling.
        """
        if model is not self.model:
            same_settings = _settings(config) == _settings(self.config)
            if not (same_settings and _same_weights(model, self.model)):
                raise SelectorError(
                    "this stream was begun by a model with other weights or settings; go on with "
                    f"that model, or {_NEW_STREAM}"
                )
            self.model = model  # comparing all weights again would take longer than a frame
        now = _precisions(model), model.connector.pos_embed.device
        before = self.precisions, self.decoder.device
        if now != before:
            was, moved = (
                f"{', '.join(map(str, dict.fromkeys(dtypes)))} on {device}"
                for dtypes, device in (before, now)
            )
            raise SelectorError(
                f"this stream was begun in {was}, and its model has moved to {moved} since; "
                f"{_NEW_STREAM}"
            )

    def _ruled(self, frame: int, limits: FrameLimits, video: Tensor) -> FrameLimits:
        """The limits of a frame, narrowed by the model's hook."""
        if self.hook is None:
            return limits
        return rules_of(self.hook, frame).narrow(
            limits,
            num_clips=self.num_clips,
            num_patches=self.pyramid.num_patches,
            device=video.device,
        )

    def _gaze(
        self,
        index: int,
        rows: slice,
        video: Float[Tensor, "B T 3 H W"],
        limits: list[FrameLimits],
        sampling: Sampling,
    ) -> GazeRows:
        """Gaze at the next frames of one micro-batch."""
        state = self.states[index]
        clips, clip_of_row = self._clips_of(rows, video)  # (seen, T, 3, S, S), (rows,) or None
        tokens, state.history = self.model.vision_tokens(clips, state.history)
        frames = []
        pixels_of_frames = self._patch_pixels(index, clips)
        for t, limit in enumerate(limit.of_rows(rows) for limit in limits):
            log_weights = None
            if self.inhibitions:
                pixels = _of_rows(next(pixels_of_frames), clip_of_row)
                log_weights = self.inhibitions[index].log_weights(pixels)
            slots = state.gaze_frame(
                _of_rows(tokens[:, t], clip_of_row),
                limit,
                sampling.for_frame(
                    self.num_frames + t,
                    rows,
                    self.num_rows,
                    limit.log_weights(log_weights),
                    device=video.device,
                ),
            )
            if self.inhibitions:
                self.inhibitions[index].update(pixels, slots.ids, slots.kept)
            frames.append(slots)
        frames = trimmed(frames, self.decoder.config.num_multi_token_pred)
        return GazeRows.of_frames(self.pyramid, frames)

    def _patch_pixels(
        self, index: int, clips: Float[Tensor, "seen T 3 S S"]
    ) -> Iterator[Float[Tensor, "seen V values"]]:
        """Pixels of every frame's patches; on a GPU of several at once, since each takes twenty launches."""
        at_once = 1 if clips.device.type == "cpu" else max(1, PIXELS_AT_ONCE // len(clips))
        for some in clips.split(at_once, dim=1):
            yield from self.inhibitions[index].pixels(some).unbind(1)

    def _clips_of(
        self, rows: slice, video: Float[Tensor, "B T 3 H W"]
    ) -> tuple[Float[Tensor, "seen T 3 S S"], Int[Tensor, " rows"] | None]:
        """The clips of a slice of rows, each once and resized, and the index of each row's clip.

        The latter is None where every row has a clip of its own.
        """
        side = self.model.config.input_img_size
        if self.num_rows == self.num_clips:
            return resize_clip(video[rows], side), None
        clips = torch.arange(rows.start, rows.stop) % self.num_clips
        seen, clip_of_row = clips.unique(return_inverse=True)
        return resize_clip(video[seen.to(video.device)], side), clip_of_row.to(video.device)

    def _add_micro_batch(self, num_rows: int) -> None:
        """Make the state of the next micro-batch of rows."""
        full_change = self.config.inhibition_of_return
        if full_change is not None:
            device = self.model.connector.pos_embed.device
            self.inhibitions.append(new_inhibition(self.pyramid, full_change, device))
        positions = self.config.decode_positions
        if not self.static_shapes:
            self.states.append(GazeState(self.decoder, num_rows, self.capacity, positions))
            return
        state = self.static_states.lend(
            self.decoder,
            num_rows,
            self.capacity,
            sequential=positions == "sequential",
            # Fused weights of a model in training change before a graph could be replayed.
            record=not self.model.training,
        )
        state.reset(num_rows)
        self.states.append(state)
        if not self.once:  # others may have it as soon as nobody can go on with this stream
            finalize(self, self.static_states.give_back, state).atexit = False

    def _drop_micro_batches(self) -> None:
        """Give the states back that there are."""
        for state in self.states:
            if isinstance(state, StaticGazeState):
                self.static_states.give_back(state)
        self.states.clear()
        self.inhibitions.clear()


def _precisions(model: GazeModel) -> tuple[torch.dtype, ...]:
    """Those of the parts that a stream holds states of; they may differ."""
    parts = model.vision_model, model.connector, model.gaze_decoder
    return tuple(next(part.parameters()).dtype for part in parts)


def _settings(config: AutoGazeConfig) -> tuple[Any, ...]:
    return config.pyramid, config.inhibition_of_return, config.decode_positions


def _same_weights(model: GazeModel, other: GazeModel) -> bool:
    pair = model.state_dict(), other.state_dict()
    kinds = [{name: (w.shape, w.dtype, w.device) for name, w in state.items()} for state in pair]
    return kinds[0] == kinds[1] and all(
        weight.equal(pair[1][name]) for name, weight in pair[0].items()
    )


def check_video(video: Tensor) -> None:
    """Raise `SelectorError` unless these are finite, normalised frames (B, T, 3, H, W)."""
    if video.ndim != 5 or video.shape[2] != 3 or 0 in video.shape:
        raise SelectorError(
            f"expected a video of (clips, frames, 3, height, width), got {tuple(video.shape)}"
        )
    if not video.is_floating_point():
        raise SelectorError(
            f"expected normalised floats (see AutoGazeImageProcessor), got {video.dtype}"
        )
    # A NaN or infinity makes the sum one too; testing every value takes ten times as long.
    if video.device.type == "cpu" and not math.isfinite(
        float(video.detach().sum(dtype=torch.float32))
    ):
        raise SelectorError("the video has NaN or infinite values")


def _of_rows(parts: Tensor, clip_of_row: Int[Tensor, " rows"] | None) -> Tensor:
    """Repeat what there is per clip for the clip's rows."""
    return parts if clip_of_row is None else parts[clip_of_row]


def budget_of(device: torch.device, reusable: int = 0) -> int:
    """Bytes that one micro-batch may take on a device.

    Args:
        reusable: bytes that are allocated already, and free for it.
    """
    free = free_memory(device)
    if free is None:
        return DEFAULT_MEMORY_BUDGET
    return max(DEFAULT_MEMORY_BUDGET, int(SHARE_OF_FREE_MEMORY * (free + reusable)))


def micro_batch(
    config: AutoGazeConfig,
    dtype: torch.dtype,
    capacity: int,
    num_frames: int,
    memory_budget: int,
    *,
    static_shapes: bool = False,
) -> int:
    """Clips that can be gazed at together within `memory_budget` bytes, at least 1.

    Counts the cache, the resized frames, the stem's feature maps, and the pixels that inhibition
    of return compares: together nearly all that a clip needs. With static shapes also the widest
    mask and the activations under it, and the batch is a power of two.
    """
    model = config.gaze_model_config
    decoder, stem = model.gaze_decoder_config, model.vision_model_config
    slots = power_of_two(capacity) if static_shapes else capacity
    cache = 2 * decoder.num_hidden_layers * decoder.num_key_value_heads * decoder.head_dim * slots
    frame = 3 * model.input_img_size**2
    features = model.connector_config.num_tokens * stem.hidden_dim * (3 + 2 * stem.depth)
    clip = (cache + num_frames * (2 * frame + features)) * dtype.itemsize
    if config.inhibition_of_return is not None:
        # Last gaze, current frame, and their difference, at every scale.
        clip += 3 * 3 * sum(scale**2 for scale in config.pyramid.scales) * torch.float32.itemsize
    if not static_shapes:
        return max(1, memory_budget // clip)
    tokens = model.connector_config.num_tokens + decoder.num_multi_token_pred
    widths = 8 * decoder.hidden_size + 4 * decoder.intermediate_size
    clip += tokens * (2 * window_of(capacity, slots) * dtype.itemsize + widths * 4)
    clips = max(1, memory_budget // clip)
    return 1 << (clips.bit_length() - 1)
