"""`GazedOutput`: what gazed encoding returns."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers.utils import ModelOutput

from autogaze.errors import EncoderError
from autogaze.gaze import Gaze
from autogaze.utils.device import sent


@dataclass
class GazedOutput(ModelOutput):
    """Features of N gazed patches in B clips of T frames.

    Attributes:
        last_hidden_state: (N, C), a feature for every patch in the order of `gaze.ids`,
            after the model's final norm where it has one.
        pooler_output: (B, T, C), the model's own pooling (attention head, class token)
            of every frame; None for models that pool nothing.
        prefix_hidden_state: (B, T, P, C), class and register tokens of every frame; None
            for models without.
        hidden_states: the embeddings and every layer's output, (N, C) each, when asked for.
        gaze: what was encoded, which says where each feature belongs.
    """

    last_hidden_state: Float[Tensor, "N C"]
    pooler_output: Float[Tensor, "B T C"] | None = None
    prefix_hidden_state: Float[Tensor, "B T P C"] | None = None
    hidden_states: tuple[Float[Tensor, "N C"], ...] | None = None
    gaze: Gaze | None = None

    def frame(self, clip: int, frame: int) -> Float[Tensor, "n C"]:
        """Features of one frame's patches, in the order of the gaze."""
        gaze = self._gaze
        index = range(gaze.num_clips)[clip] * gaze.num_frames + range(gaze.num_frames)[frame]
        return self.last_hidden_state[gaze.offsets[index] : gaze.offsets[index + 1]]

    def padded(self) -> tuple[Float[Tensor, "B L C"], Bool[Tensor, "B L"]]:
        """Features per clip, zero behind shorter ones, and where they are padding."""
        counts = self._gaze.lengths.sum(1)
        rows = self.last_hidden_state.split(counts.tolist())
        longest = int(counts.max()) if len(counts) else 0
        is_padding = torch.arange(longest) >= counts[:, None]
        padded = pad_sequence(rows, batch_first=True)
        return padded, sent(is_padding, padded.device)

    def frame_means(self) -> Float[Tensor, "B T C"]:
        """Mean feature of every frame's patches, for models that pool nothing themselves.

        A frame without patches has the mean of the last frame that had some.
        """
        gaze = self._gaze
        features = self.last_hidden_state.float()
        sums = features.new_zeros(gaze.lengths.numel(), features.shape[1])
        sums.index_add_(0, sent(gaze.frame_of_patch, features.device), features)
        counts = sent(gaze.lengths.flatten().clamp(min=1), features.device)
        means = (sums / counts[:, None]).to(self.last_hidden_state.dtype)
        return carry_forward(means.unflatten(0, tuple(gaze.lengths.shape)), gaze.lengths)

    @property
    def _gaze(self) -> Gaze:
        # Only ModelOutput's conventions make it optional.
        if self.gaze is None:
            raise EncoderError(
                "this output has no gaze to assign its features to frames; make it by "
                "GazedOutput(..., gaze=gaze)"
            )
        return self.gaze


def carry_forward(
    pooled: Float[Tensor, "B T C"], lengths: Int[Tensor, "B T"]
) -> Float[Tensor, "B T C"]:
    """Frames without patches take the feature of the last frame that had some."""
    if not bool((lengths == 0).any()):
        return pooled
    last = sent(last_filled(lengths), pooled.device)
    return pooled.gather(1, last[..., None].expand_as(pooled))


def last_filled(lengths: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """The last frame up to each that had patches; 0 where none had, on the host."""
    steps = torch.arange(lengths.shape[1]).expand(lengths.shape)
    return torch.where(lengths > 0, steps, 0).cummax(dim=1).values
