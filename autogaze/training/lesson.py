"""A lesson: gazes at some clips and what they were worth, settled before any gradient.

Learning from a batch has two parts. First every micro-batch of every process makes its
lesson, without gradients; then what they hold is counted over the whole batch, and the
losses, normalised by these counts, are summed up. So a batch teaches the same however it
is divided.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.models.autogaze.generation import Generation
from autogaze.models.autogaze.modeling import AutoGaze
from autogaze.models.autogaze.processing import normalise
from autogaze.models.autogaze.scoring import Scores, score


@dataclass(frozen=True)
class GazeRows:
    """Gazes of R rows in slots.

    Attributes:
        pyramid: what ids mean.
        ids: (R, slots) numbered from the start of their own frame, nonsense where not kept.
        kept: (R, slots) False where a slot is padding.
        slots: slots of every frame.
    """

    pyramid: PatchPyramid
    ids: Int[Tensor, "R slots"]
    kept: Bool[Tensor, "R slots"]
    slots: tuple[int, ...]

    @classmethod
    def of_gaze(cls, gaze: Gaze) -> "GazeRows":
        """A gaze, each of its clips a row."""
        padded: dict[str, Any] = gaze.padded()
        slots = tuple(padded["num_gazing_each_frame"].tolist())
        frame = torch.arange(len(slots)).repeat_interleave(torch.tensor(slots))
        ids = padded["gazing_pos"] - (gaze.pyramid.num_patches * frame).to(gaze.device)
        return cls(gaze.pyramid, ids, ~padded["if_padded_gazing"], slots)

    @classmethod
    def of_generation(cls, generation: Generation) -> "GazeRows":
        """Generated rows."""
        ids = torch.cat([frame.ids for frame in generation.frames], 1)
        kept = torch.cat([frame.kept for frame in generation.frames], 1)
        slots = tuple(frame.ids.shape[1] for frame in generation.frames)
        return cls(generation.pyramid, ids, kept, slots)

    @property
    def is_padding(self) -> Bool[Tensor, "R slots"]:
        return ~self.kept

    def ends(self, frame: int) -> int:
        """Slots up to the end of a frame."""
        return sum(self.slots[: frame + 1])

    def counts(self) -> Int[Tensor, "R T"]:
        """Gazes of every row in every frame."""
        return torch.stack([part.sum(1) for part in self.kept.split(list(self.slots), 1)], 1)

    def gaze(self, rows: slice = slice(None)) -> Gaze:
        """Some rows without padding."""
        return Gaze(self.pyramid, self.ids[rows][self.kept[rows]], self.counts()[rows])

    def see(
        self, model: AutoGaze, video: Float[Tensor, "B T 3 S S"]
    ) -> Float[Tensor, "R T tokens C"]:
        """Vision tokens of every row, seen once for all rows of a clip; differentiable.

        Args:
            video: normalised; rows are group-major, row = repetition * B + clip.
        """
        tokens, _ = model.see(video)
        return tokens.repeat(len(self.ids) // len(video), 1, 1, 1)

    def score(
        self,
        model: AutoGaze,
        tokens: Float[Tensor, "R T tokens C"],
        targets: Float[Tensor, "R slots V"] | None = None,
    ) -> Scores:
        """How likely the gazes were and what loss is predicted after each; differentiable.

        Args:
            tokens: what `see` gave.
            targets: see `autogaze.models.autogaze.scoring.score`.
        """
        return score(
            model.gazing_model.gaze_decoder, tokens, self.ids, self.kept, list(self.slots), targets
        )


@dataclass(frozen=True)
class Lesson:
    """What R rows, G for each of B clips, can teach.

    Attributes:
        frames: (B, T, 3, S, S) RGB.
        rows: the gazes, group-major: row = repetition * B + clip.
        judged: frames that the task judges.
        losses: (R, slots) the task's loss after a gaze, where known.
        losses_known: (R, slots) where it is.
        reward: (R, F) of every row at each judged frame, where the algorithm has any.
        targets: (R, slots, V) see `GazeLabels`, where labels have any.
    """

    frames: UInt8[Tensor, "B T 3 S S"]
    rows: GazeRows
    judged: tuple[int, ...]
    losses: Float[Tensor, "R slots"] | None = None
    losses_known: Bool[Tensor, "R slots"] | None = None
    reward: Float[Tensor, "R F"] | None = None
    targets: Float[Tensor, "R slots V"] | None = None

    @property
    def num_rows(self) -> int:
        return len(self.rows.ids)

    @property
    def num_gazes(self) -> int:
        return int(self.rows.kept.sum())

    @property
    def num_known(self) -> int:
        if self.losses_known is None:
            return 0
        return int((self.losses_known & self.rows.kept).sum())

    @property
    def rgb(self) -> Float[Tensor, "B T 3 S S"]:
        """Frames in [0, 1]."""
        return self.frames.float() / 255

    @property
    def video(self) -> Float[Tensor, "B T 3 S S"]:
        """Frames as the selector sees them."""
        return normalise(self.rgb)
