"""Layout of packed tokens: frames of any length without padding, and their attention pattern.

The tokens of all clips are one sequence, clip-major and frame-major. Projections and MLPs run
over it once; only attention depends on where frames and clips begin.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, wraps
from itertools import accumulate, chain, pairwise
from typing import Literal, TypeVar, cast, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from autogaze.errors import EncoderError
from autogaze.utils.device import sent

AttentionType = Literal["block_causal", "causal", "bidirectional", "frame_independent"]
"""Which tokens a token sees: those of its own and earlier frames; itself and earlier ones;
those of the whole clip; those of its own frame."""
ATTENTION_TYPES: tuple[str, ...] = get_args(AttentionType)


def check_attention_type(attn_type: str) -> None:
    """Raise EncoderError for a name that is none of `ATTENTION_TYPES`."""
    if attn_type not in ATTENTION_TYPES:
        raise EncoderError(
            f"unknown attention type {attn_type!r}; known are {', '.join(ATTENTION_TYPES)}"
        )


KEPT_LAYOUTS = 16
"""Layouts that are kept for later calls, with what was made for them."""

T = TypeVar("T")


def _kept(compute: "Callable[[TokenLayout], T]") -> "cached_property[T]":
    """A cached property whose tensors serve every mode: those made in inference mode would not."""

    @wraps(compute)
    def in_every_mode(layout: "TokenLayout") -> T:
        with torch.inference_mode(False):
            return compute(layout)

    return cached_property(in_every_mode)


def kept_by_layout(compute: "Callable[[TokenLayout], T]") -> "Callable[[TokenLayout], T]":
    """A function of a layout whose result lives as long as the layout, as `_kept` properties do.

    CUDA graphs read its tensors at their addresses, so they must not go before a graph's layout.
    """

    @wraps(compute)
    def kept(layout: "TokenLayout") -> T:
        if kept not in layout.made:
            with torch.inference_mode(False):
                made = compute(layout)
            layout.made.setdefault(kept, made)  # what another thread made meanwhile may be recorded
        return cast(T, layout.made[kept])

    return kept


@dataclass(frozen=True)
class SegmentGroup:
    """Segments (frames or clips) of equal lengths, for one batched call of attention.

    Attributes:
        index: (segments * length,) positions in the sequence, segment by segment.
        frames: tokens of the frames of each segment, equal for all of them.
        segments: indices of these segments, ascending.
    """

    index: slice | Int[Tensor, " n"]
    frames: tuple[int, ...]
    segments: tuple[int, ...]

    @property
    def length(self) -> int:
        """Tokens of one segment."""
        return sum(self.frames)

    def gather(self, tokens: Float[Tensor, "*heads N C"]) -> Float[Tensor, "*heads G n C"]:
        """The segments' tokens as a batch; a view where they are neighbours."""
        return tokens[..., self.index, :].unflatten(-2, (len(self.segments), self.length))


@dataclass(frozen=True, eq=False)
class TokenLayout:
    """One packed sequence of tokens.

    Args:
        lengths: number of patch tokens of every frame of every clip, (clips, frames).
        attn_type: which tokens a token sees.
        device: of index tensors.
        num_prefix: class and register tokens of every frame.
        backend: of attention, see `attention.packed_attention`.

    Attributes:
        made: what `kept_by_layout` functions have made of it.
    """

    lengths: tuple[tuple[int, ...], ...]
    attn_type: AttentionType
    device: torch.device
    num_prefix: int = 0
    backend: str = "auto"
    made: dict[Hashable, object] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def clip_frames(self) -> tuple[tuple[int, ...], ...]:
        """Tokens of every frame, prefix included, one tuple per clip."""
        return tuple(tuple(n + self.num_prefix for n in clip) for clip in self.lengths)

    @cached_property
    def frame_lengths(self) -> tuple[int, ...]:
        """Tokens of every frame, prefix included."""
        return tuple(chain.from_iterable(self.clip_frames))

    @cached_property
    def num_tokens(self) -> int:
        return sum(self.frame_lengths)

    @_kept
    def prefix_index(self) -> Int[Tensor, "frames P"]:
        """Positions of every frame's class and register tokens: the first of the frame.

        Under causal attention the last, since a token sees only those before it.
        """
        return sent(self._prefix_positions, self.device)

    @_kept
    def _prefix_positions(self) -> Int[Tensor, "frames P"]:
        """`prefix_index` on the host."""
        edges = torch.tensor([0, *accumulate(self.frame_lengths)])
        starts = edges[1:] - self.num_prefix if self.attn_type == "causal" else edges[:-1]
        return starts[:, None] + torch.arange(self.num_prefix)

    @_kept
    def patch_index(self) -> Int[Tensor, " N"]:
        """Positions of the patch tokens, in the order of the gaze."""
        return sent(self._patch_positions, self.device)

    @_kept
    def _patch_positions(self) -> Int[Tensor, " N"]:
        """`patch_index` on the host."""
        is_patch = torch.ones(self.num_tokens, dtype=torch.bool)
        is_patch[self._prefix_positions.flatten()] = False
        return is_patch.nonzero()[:, 0]

    @_kept
    def from_patches(self) -> Int[Tensor, " N"]:
        """Where each token of the sequence is when all patches are laid before all prefixes."""
        places = torch.cat([self._patch_positions, self._prefix_positions.flatten()])
        return sent(places.argsort(), self.device)

    @_kept
    def groups(self) -> tuple[SegmentGroup, ...]:
        """The segments within which attention happens, grouped by length."""
        if self.attn_type == "frame_independent":
            return tuple(self._groups([(n,) for n in self.frame_lengths]))
        return tuple(self._groups(self.clip_frames))

    @_kept
    def from_groups(self) -> Int[Tensor, " N"]:
        """Where each token of the sequence is when the groups are laid one after another."""
        starts = (0, *accumulate(self._segment_lengths))
        order = [number for group in self.groups for number in group.segments]
        places = torch.cat([torch.arange(starts[n], starts[n + 1]) for n in order])
        return sent(places.argsort(), self.device)

    @cached_property
    def num_groups(self) -> int:
        """How many `groups` there are, without making them."""
        if self.attn_type == "block_causal":
            return len({frames for frames in self.clip_frames if sum(frames)})
        return len(set(self._segment_lengths) - {0})

    @cached_property
    def _segment_lengths(self) -> tuple[int, ...]:
        """Tokens of every segment within which attention happens."""
        if self.attn_type == "frame_independent":
            return self.frame_lengths
        return tuple(map(sum, self.clip_frames))

    def _groups(self, segments: Sequence[tuple[int, ...]]) -> Iterator[SegmentGroup]:
        """Segments, given by the tokens of their frames, grouped; empty ones are left out."""
        members: dict[tuple[int, ...], list[int]] = {}
        for number, frames in enumerate(segments):
            if sum(frames):
                # Unless attention is block-causal, only the length counts.
                key = frames if self.attn_type == "block_causal" else (sum(frames),)
                members.setdefault(key, []).append(number)
        starts = list(accumulate((sum(frames) for frames in segments), initial=0))
        for frames, numbers in members.items():
            index: slice | Tensor
            if all(starts[a + 1] == starts[b] for a, b in pairwise(numbers)):  # neighbours
                index = slice(starts[numbers[0]], starts[numbers[-1] + 1])
            else:
                parts = [torch.arange(starts[number], starts[number + 1]) for number in numbers]
                index = sent(torch.cat(parts), self.device)
            yield SegmentGroup(index, frames, tuple(numbers))


@lru_cache(maxsize=KEPT_LAYOUTS)
def token_layout(
    lengths: tuple[tuple[int, ...], ...],
    attn_type: AttentionType,
    device: torch.device,
    num_prefix: int = 0,
    backend: str = "auto",
) -> TokenLayout:
    """The layout of these arguments, kept with its index tensors and masks for later calls."""
    return TokenLayout(lengths, attn_type, device, num_prefix, backend)
