"""One pass over a piece of video, gazed or dense, told to a meter stage by stage."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from autogaze.benchmarks.choosers import Chooser
from autogaze.benchmarks.encoder_models import MeasuredEncoder
from autogaze.benchmarks.footage import Footage
from autogaze.benchmarks.stages import Meter, Stage
from autogaze.gaze import Gaze
from autogaze.selectors.base import Clips
from autogaze.vision_encoders.adapter import EncoderAdapter
from autogaze.vision_encoders.encode import encode
from autogaze.vision_encoders.layout import TokenLayout
from autogaze.vision_encoders.registry import adapter_class


@dataclass(frozen=True)
class Seen:
    """What one pass chose.

    Attributes:
        lengths: patches of every frame of every clip.
        own: the gazes as the selector itself made them.
    """

    lengths: tuple[tuple[int, ...], ...]
    own: tuple[Gaze, ...]

    @property
    def tokens(self) -> int:
        return sum(map(sum, self.lengths))


@torch.inference_mode()
def gazed_pass(
    footage: Footage,
    encoder: MeasuredEncoder,
    chooser: Chooser,
    ratio: float | None,
    meter: Meter,
    seed: int = 0,
) -> Seen:
    """Decode, cut, choose and encode; every pass with one seed chooses the same."""
    generator = torch.Generator().manual_seed(seed)
    lengths: list[tuple[int, ...]] = []
    own = []
    for clips in footage.parts(meter, chooser.motion_grid):
        if chooser.on_device:
            clips = Clips(clips.frames.to(encoder.place.device), clips.motion)
        frames = encoder.normalised(clips.frames)
        meter.enter(Stage.SELECT)
        chosen = chooser.choose(clips, ratio, generator)
        encode_gazed(encoder, frames, chosen.gaze, meter)
        meter.stop()
        lengths += [tuple(clip) for clip in chosen.gaze.lengths.tolist()]
        own.append(chosen.own)
    meter.stop()
    return Seen(tuple(lengths), tuple(own))


def encode_gazed(
    encoder: MeasuredEncoder, frames: Float[Tensor, "B T 3 S S"], gaze: Gaze, meter: Meter
) -> object:
    """The gazed model's own way, with its embedding and its blocks told apart."""
    meter.enter(Stage.EMBED)
    twin = encoder.gazed
    return encode(_watched(twin.model, meter), frames, gaze, twin.settings)


def _watched(model: Any, meter: Meter) -> EncoderAdapter:
    """The model's adapter, which also tells when the blocks begin and when pooling is over."""
    kind = adapter_class(model.config)

    class Watched(kind):  # type: ignore[misc,valid-type]
        def enter(self, tokens: Tensor) -> Tensor:
            meter.enter(Stage.ENCODE)
            return super().enter(tokens)

        def pool(self, tokens: Tensor, layout: TokenLayout) -> Tensor | None:
            pooled = super().pool(tokens, layout)
            meter.enter(Stage.EMBED)  # of the clips that come next, if there are any
            return pooled

    return Watched(model)


@torch.inference_mode()
def dense_pass(footage: Footage, encoder: MeasuredEncoder, batch: int, meter: Meter) -> int:
    """Decode, cut, and encode every frame whole, `batch` frames at once; frames encoded."""
    count = 0
    with _blocks_told(encoder, meter):
        for clips in footage.parts(meter):
            frames = encoder.normalised(clips.frames).flatten(0, 1)
            count += len(frames)
            encode_dense(encoder, frames, batch, meter)
    meter.stop()
    return count


def encode_dense(
    encoder: MeasuredEncoder, frames: Float[Tensor, "F 3 S S"], batch: int, meter: Meter
) -> None:
    """Every frame whole, by the untouched model."""
    for some in frames.split(batch):
        meter.enter(Stage.EMBED)
        encoder.adapter.dense(some)
    meter.stop()


@contextmanager
def _blocks_told(encoder: MeasuredEncoder, meter: Meter) -> Iterator[None]:
    first = next(iter(encoder.adapter.layers))
    hook = first.register_forward_pre_hook(lambda *_: meter.enter(Stage.ENCODE))
    try:
        yield
    finally:
        hook.remove()
