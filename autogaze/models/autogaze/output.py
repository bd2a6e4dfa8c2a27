"""Output of `AutoGaze.forward`: the padded dict, with scores that are computed when first read."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from autogaze.errors import SelectorError
from autogaze.gaze import Gaze
from autogaze.models.autogaze.scoring import Scores
from autogaze.models.autogaze.streaming import ClipStream
from autogaze.utils.device import moved

SCORED = ("log_action_probs", "task_loss_prediction")
PAST = ("past_key_values", "past_input_embeds", "past_attention_mask", "past_conv_values")
KEYS = (
    "gazing_pos",
    "if_padded_gazing",
    "num_gazing_each_frame",
    "gazing_mask",
    "scales",
    "frame_sampling_rate",
    "num_vision_tokens_each_frame",
    *SCORED,
    "task_loss_requirement",
    "has_task_loss_requirement",
    *PAST,
)
"""The published keys. All of them are present; values that a call did not compute are None."""


class AutoGazeOutput(dict):
    """The padded dict of AutoGaze's users, its keys also as attributes, and the ragged `gaze`.

    `log_action_probs` and `task_loss_prediction` cost a pass over the whole clip, as much as
    gazing itself: it runs when one of them is first read, be it by `dict(output)` or `items()`
    (in training at once, to keep the graph).

    Args:
        values: the keys that were computed.
        score: computes the scores; None: there are none.
    """

    def __init__(
        self, values: Any = (), gaze: Gaze | None = None, score: Callable[[], Scores] | None = None
    ) -> None:
        super().__init__(dict.fromkeys(KEYS))
        super().update(values)
        self._gaze = gaze
        self._score = score

    @property
    def gaze(self) -> Gaze:
        """The gaze without padding.

        Raises:
            SelectorError: this is a copy that was made key by key, which does not say the patch size.
        """
        if self._gaze is None:
            raise SelectorError(
                "this copy of an output has only its keys: use output.to(device), output.copy() or "
                "Gaze.from_padded(output, pyramid)"
            )
        device = self["gazing_pos"].device
        if self._gaze.device != device:
            self._gaze = self._gaze.to(device)
        return self._gaze

    def settle(self) -> None:
        """Compute the scores, if there are some that have not been computed."""
        if self._score is not None:
            scores = self._score()
            self._score = None
            for key, value in zip(SCORED, (scores.log_probs, scores.predicted_losses), strict=True):
                if super().__getitem__(key) is None:
                    self[key] = value

    def to(self, device: Any, non_blocking: Any = False) -> "AutoGazeOutput":
        """The output with its tensors on a device; `past_key_values` stays on the model's.

        Args:
            device: a `torch.device`, or what names one.

        Raises:
            SelectorError: a dtype, in which ids would be rounded.
        """
        dtypes = [each for each in (device, non_blocking) if isinstance(each, torch.dtype)]
        if dtypes:
            raise SelectorError(f"an output moves to a device and keeps its types, got {dtypes[0]}")
        moved_score = None
        if self._score is not None:
            moved_score = partial(_scores_on, device, self._score)
        return AutoGazeOutput(
            moved(dict(super().items()), device, non_blocking=non_blocking),
            self._gaze,  # follows when it is read
            moved_score,
        )

    def __getitem__(self, key: str) -> Any:
        if key in SCORED:
            self.settle()
        return super().__getitem__(key)

    def __missing__(self, key: str) -> Any:
        if key == "past_inputs_embeds":  # as the argument that takes it is called
            return self["past_input_embeds"]
        raise KeyError(key)

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else default  # noqa: SIM401 - get is what we define

    def __getattr__(self, key: str) -> Any:
        try:
            return self[key]
        except KeyError:
            raise AttributeError(key) from None

    # What reads all values computes the scores. `__iter__` is here so that `dict(output)` does not
    # copy the table behind our back.

    def __iter__(self) -> Iterator[str]:
        return super().__iter__()

    def items(self) -> Any:
        self.settle()
        return super().items()

    def values(self) -> Any:
        self.settle()
        return super().values()

    def pop(self, key: str, *default: Any) -> Any:
        if key in SCORED:
            self.settle()
        return super().pop(key, *default)

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key in SCORED:
            self.settle()
        return super().setdefault(key, default)

    def __or__(self, other: Any) -> Any:
        self.settle()
        return super().__or__(other)

    def copy(self) -> "AutoGazeOutput":
        return AutoGazeOutput(dict(super().items()), self._gaze, self._score)

    def __deepcopy__(self, memo: dict[int, Any]) -> "AutoGazeOutput":
        values = deepcopy(dict(super().items()), memo)
        return AutoGazeOutput(values, deepcopy(self._gaze, memo), self._score)

    def __reduce__(self) -> tuple[Any, ...]:
        return AutoGazeOutput, (dict(self), self._gaze)


def _scores_on(device: torch.device | str | int, score: Callable[[], Scores]) -> Scores:
    scores = score()
    return replace(scores, **moved(vars(scores), device))


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

    @torch.no_grad()
    def views(self) -> dict[str, Any]:
        """The four caches that AutoGaze's users pass on, all of them views of this state."""
        states, embed = self.stream.states, self.stream.decoder.embed_tokens
        return {
            "past_key_values": self,
            "past_input_embeds": [[embed(ids) for ids in s.unfed_ids] for s in states],
            "past_attention_mask": [_attention_mask(state.lengths) for state in states],
            "past_conv_values": [state.history for state in states],
        }


def resume(past: PastGaze | None, views: tuple[Any, ...]) -> ClipStream | None:
    """The stream behind `past_key_values`; None where a call starts a new one.

    Args:
        views: the three other caches, which say nothing that `past` does not.

    Raises:
        SelectorError: caches of another kind, or an outdated past.
    """
    if past is None:
        if any(view is not None for view in views):
            raise SelectorError("past caches given without past_key_values; pass all four on")
        return None
    if not isinstance(past, PastGaze):
        raise SelectorError(
            f"past_key_values must be what an earlier call returned, got {type(past).__name__}"
        )
    return past.resume()


def _attention_mask(lengths: list[int]) -> Tensor:
    """(rows, longest) ones where a row's cache holds a token."""
    return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
