"""Whole clips and streams through the gazing loop, in micro-batches that fit in memory."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from autogaze.errors import SelectorError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.models.autogaze.cuda_graphs import StaticState
from autogaze.models.autogaze.decoding import GazeState, Picking, Slots
from autogaze.models.autogaze.grid_adaptation import resize_clip
from autogaze.models.autogaze.inhibition import ReturnMemory, patch_pixels
from autogaze.models.autogaze.limits import Caps, ClipLimits, FrameLimits, Threshold

if TYPE_CHECKING:
    from autogaze.models.autogaze.modeling import AutoGaze

DEFAULT_MEMORY_BUDGET = 1 << 30
"""Bytes that gazing at one micro-batch of clips may take."""


@dataclass(frozen=True)
class Generation:
    """What gazing at T frames gave, frame by frame, with its padding.

    Attributes:
        pyramid: what the ids mean.
        frames: the slots of each frame, every one (B, k_t).
    """

    pyramid: PatchPyramid
    frames: tuple[Slots, ...]

    def to_gaze(self) -> Gaze:
        """The same without padding."""
        lengths = torch.stack([frame.kept.sum(1) for frame in self.frames], 1)
        ids = torch.cat([frame.ids for frame in self.frames], 1)
        kept = torch.cat([frame.kept for frame in self.frames], 1)
        return Gaze(self.pyramid, ids[kept], lengths)

    def to_padded(self) -> dict[str, Any]:
        """The dict AutoGaze's users know, with the slots exactly as they were generated."""
        V = self.pyramid.num_patches
        positions = [
            torch.where(frame.kept, frame.ids, V) + V * index
            for index, frame in enumerate(self.frames)
        ]
        kept = torch.cat([frame.kept for frame in self.frames], 1)
        padded = self.to_gaze().padded()
        padded["gazing_pos"] = torch.cat(positions, 1)
        padded["if_padded_gazing"] = ~kept
        padded["num_gazing_each_frame"] = torch.tensor(
            [frame.ids.shape[1] for frame in self.frames], device=kept.device
        )
        return padded

    @classmethod
    def cat(cls, parts: Sequence["Generation"]) -> "Generation":
        """Join micro-batches: frames are padded to the longest among them."""
        if len(parts) == 1:
            return parts[0]
        frames = []
        for slots in zip(*(part.frames for part in parts), strict=True):
            longest = max(slot.ids.shape[1] for slot in slots)
            ids = [F.pad(slot.ids, (0, longest - slot.ids.shape[1])) for slot in slots]
            kept = [F.pad(slot.kept, (0, longest - slot.kept.shape[1])) for slot in slots]
            frames.append(Slots(torch.cat(ids), torch.cat(kept)))
        return cls(parts[0].pyramid, tuple(frames))


class ClipStream:
    """Gazing at B clips as their frames arrive; the one state that streaming has.

    Args:
        model: the selector.
        num_clips: B; every step brings the same clips' next frames.
        num_frames: frames expected, to make room for; more may come.
        cap: the most patches a frame is expected to take, to make room for.
        memory_budget: bytes a micro-batch may take.
        repetitions: gaze so many times at every clip: B rows after B rows, so that
            row = repetition * B + clip.
    """

    def __init__(
        self,
        model: "AutoGaze",
        num_clips: int,
        *,
        num_frames: int = 1,
        cap: int | None = None,
        memory_budget: int = DEFAULT_MEMORY_BUDGET,
        repetitions: int = 1,
    ) -> None:
        self.model = model
        self.num_clips = num_clips
        self.num_rows = num_clips * repetitions
        self.num_frames = 0
        self.decoding = model.decoding()
        vision_tokens = model.config.gaze_model_config.connector_config.num_tokens
        tokens = vision_tokens + (cap or model.pyramid.num_patches)
        self.capacity = tokens * num_frames
        self.batch = micro_batch(model, self.capacity, num_frames, memory_budget)
        self.states: list[GazeState | StaticState] = []
        self.memories: list[ReturnMemory] = []  # one a state, where return is inhibited

    def step(
        self,
        video: Float[Tensor, "B T 3 S S"],
        *,
        caps: Caps | None = None,
        threshold: Threshold | None = None,
        picking: Picking = Picking(),  # noqa: B008 - frozen
    ) -> Generation:
        """Gaze at the next T frames of every clip.

        Args:
            video: normalised; resized if it is not of the model's size.
            caps: patches each of the T frames may take at most; (rows, T) where rows differ.
            threshold: stop a frame where the predicted loss is at most this; (rows,) where
                rows differ.
        """
        if video.shape[0] != self.num_clips:
            raise SelectorError(
                f"this stream watches {self.num_clips} clips, got frames of {video.shape[0]}"
            )
        if picking.log_weights is not None:
            raise SelectorError("Picking.log_weights are a stream's own; give none")
        T = video.shape[1]
        limits = ClipLimits.of(
            caps,
            threshold.to(video.device) if isinstance(threshold, Tensor) else threshold,
            num_rows=self.num_rows,
            num_frames=T,
            num_patches=self.model.pyramid.num_patches,
        )
        parts = []
        for index, start in enumerate(range(0, self.num_rows, self.batch)):
            rows = slice(start, min(start + self.batch, self.num_rows))
            if index == len(self.states):
                self._start(rows.stop - rows.start)
            state = self.states[index]
            clips, place = self._clips_of(rows, video)
            tokens, state.history = self.model.see(clips, state.history)
            frames = []
            for t in range(T):
                pixels = None
                if self.memories:
                    pixels = _rows(patch_pixels(clips[:, t], self.model.pyramid), place)
                frames.append(
                    self._gaze_frame(
                        index,
                        _rows(tokens[:, t], place),
                        pixels,
                        limits.frame(t, rows),
                        picking.of_frame(self.num_frames + t, rows, self.num_rows),
                    )
                )
            parts.append(Generation(self.model.pyramid, tuple(frames)))
        self.num_frames += T
        return Generation.cat(parts)

    def _clips_of(
        self, rows: slice, video: Float[Tensor, "B T 3 H W"]
    ) -> tuple[Float[Tensor, "seen T 3 S S"], Int[Tensor, " rows"] | None]:
        """The clips that some rows gaze at, each once and resized; which of them every row does.

        The latter is None where every row has a clip of its own.
        """
        side = self.model.config.gaze_model_config.input_img_size
        if self.num_rows == self.num_clips:
            return resize_clip(video[rows], side), None
        clips = torch.arange(rows.start, rows.stop) % self.num_clips
        seen, place = clips.unique(return_inverse=True)
        return resize_clip(video[seen.to(video.device)], side), place.to(video.device)

    def _gaze_frame(
        self,
        index: int,
        tokens: Float[Tensor, "rows tokens C"],
        pixels: Float[Tensor, "rows V values"] | None,
        limits: FrameLimits,
        picking: Picking,
    ) -> Slots:
        """The next frame of a micro-batch; what it shows is remembered where that counts."""
        state = self.states[index]
        if pixels is None:
            return state.gaze_frame(tokens, limits, picking)
        memory = self.memories[index]
        picking = replace(picking, log_weights=memory.log_weights(pixels))
        slots = state.gaze_frame(tokens, limits, picking)
        memory.remember(pixels, slots.ids, slots.kept)
        return slots

    def _start(self, num_rows: int) -> None:
        """Make the state of the next micro-batch of rows."""
        full_change = self.model.config.inhibition_of_return
        if full_change is not None:
            self.memories.append(ReturnMemory(self.model.pyramid, full_change))
        if not self.model.static_shapes:
            self.states.append(GazeState(self.decoding, num_rows, self.capacity))
            return
        # Of weights that learn, a graph is out of date before it has been replayed.
        graphs = self.model.device.type == "cuda" and not self.model.training
        self.states.append(StaticState(self.decoding, num_rows, self.capacity, graphs=graphs))


def _rows(parts: Tensor, place: Int[Tensor, " rows"] | None) -> Tensor:
    """Of every clip, for every row."""
    return parts if place is None else parts[place]


def micro_batch(model: "AutoGaze", capacity: int, num_frames: int, memory_budget: int) -> int:
    """Clips that can be gazed at together within `memory_budget` bytes, at least 1.

    Counted are the cache, the resized frames, the stem's feature maps, and what patches
    have shown where return is inhibited: together nearly all that a clip needs.
    """
    config = model.config.gaze_model_config
    decoder, stem = config.gaze_decoder_config, config.vision_model_config
    cache = (
        2 * decoder.num_hidden_layers * decoder.num_key_value_heads * decoder.head_dim * capacity
    )
    frame = 3 * config.input_img_size**2
    features = config.connector_config.num_tokens * stem.hidden_dim * (3 + 2 * stem.depth)
    clip = (cache + num_frames * (2 * frame + features)) * model.dtype.itemsize
    if model.config.inhibition_of_return is not None:
        # Then, now, and their difference, of every scale.
        clip += 3 * 3 * sum(scale**2 for scale in model.pyramid.scales) * torch.float32.itemsize
    return max(1, memory_budget // clip)
