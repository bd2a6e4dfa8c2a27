"""Output of `AutoGaze.forward`: the padded dict, with scores that are computed when first read."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from autogaze.errors import SelectorError
from autogaze.gaze import Gaze
from autogaze.models.autogaze.scoring import Scores
from autogaze.models.autogaze.streaming import ClipStream

SCORED = ("log_action_probs", "task_loss_prediction")


class AutoGazeOutput(dict):
    """The padded dict of AutoGaze's users, its keys also as attributes, and the ragged `gaze`.

    `log_action_probs` and `task_loss_prediction` cost a pass over the whole clip, as much as
    gazing itself: it runs when one of them is first read (in training at once, to keep the graph).
    """

    def __init__(
        self, values: dict[str, Any], gaze: Gaze, score: Callable[[], Scores] | None = None
    ) -> None:
        super().__init__(values)
        self.gaze = gaze
        self._score = score

    def __missing__(self, key: str) -> Any:
        if key in SCORED and self._score is not None:
            scores, self._score = self._score(), None
            self["log_action_probs"] = scores.log_probs
            self["task_loss_prediction"] = scores.predicted_losses
            return self[key]
        raise KeyError(key)

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else default  # noqa: SIM401 - get is what we define

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or (key in SCORED and self._score is not None)

    def __getattr__(self, key: str) -> Any:
        try:
            return self[key]
        except KeyError:
            raise AttributeError(key) from None


@dataclass(frozen=True)
class PastGaze:
    """`past_key_values`: a stream after `num_frames` frames.

    The cache is written in place, so only the newest past can be continued.
    """

    stream: ClipStream
    num_frames: int

    def resume(self) -> ClipStream:
        """The stream, to be fed the next frames.

        Raises:
            SelectorError: the stream has been fed more frames since.
        """
        if self.stream.num_frames != self.num_frames:
            raise SelectorError(
                f"this past_key_values ends at frame {self.num_frames}, but its cache has gone on "
                f"to frame {self.stream.num_frames}; pass the newest one (a stream has no way back)"
            )
        return self.stream

    def views(self) -> dict[str, Any]:
        """The four caches that AutoGaze's users pass on, all of them views of this state."""
        states, embed = self.stream.states, self.stream.decoder.embed_tokens
        return {
            "past_key_values": self,
            "past_input_embeds": [[embed(ids) for ids in s.unfed_ids] for s in states],
            "past_attention_mask": [_attention_mask(state.lengths) for state in states],
            "past_conv_values": [state.history for state in states],
        }


def _attention_mask(lengths: list[int]) -> Tensor:
    """(rows, longest) ones where a row's cache holds a token."""
    return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
