"""The rows of a batch in the middle of a frame, as tensors whose shapes never change."""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autogaze.models.autogaze.decoder import FusedDecoder


@dataclass(frozen=True)
class FrameRows:
    """What is known of R rows; `frame_steps` writes it.

    N = K + vision tokens of a frame; S = K times the most blocks of a frame, and K more slots.

    Attributes:
        frame_tokens, frame_places: fed with a frame: the ids not fed yet, then its vision tokens,
            and the slots of the cache that they go to.
        tokens, places, positions: of the last block, fed with the next; see `StaticDecoder.feed`.
            Positions are of a frame's last vision tokens, where they are not the places.
        last: slot of each row's last token, -1 before the first; until a frame's first block of the
            frame before.
        ends: slot of the frame's last vision token.
        present: rows that there are; False where a batch is smaller than its tensors.
        going: rows that take part in the next block.
        turns: blocks of the frame that each row took part in.
        counts: rows that went on after each block of the frame, and a number that stays 0.
        unfed, valid: ids gazed at and not fed yet, and which of them are.
        taken: patches of the frame that cannot be chosen any more.
        ids: of the last block.
        chosen, kept: of all blocks of the frame, and which of them are gazed at.
        caps, left: patches that a frame may take, and those that it still may.
        thresholds: predicted losses at which rows stop.
        predicted: the loss predicted to be left in the frame.
        log_weights: see `sampling.FrameSampling`.
    """

    frame_tokens: Float[Tensor, "R N C"]
    frame_places: Int[Tensor, "R N"]
    tokens: Float[Tensor, "R K C"]
    places: Int[Tensor, "R K"]
    positions: Int[Tensor, "R K"]
    last: Int[Tensor, " R"]
    ends: Int[Tensor, " R"]
    present: Bool[Tensor, " R"]
    going: Bool[Tensor, " R"]
    turns: Int[Tensor, " R"]
    counts: Int[Tensor, " blocks"]
    unfed: Int[Tensor, "R K"]
    valid: Bool[Tensor, "R K"]
    taken: Bool[Tensor, "R V"]
    ids: Int[Tensor, "R K"]
    chosen: Int[Tensor, "R S"]
    kept: Bool[Tensor, "R S"]
    caps: Int[Tensor, "R 1"]
    left: Int[Tensor, "R 1"]
    thresholds: Float[Tensor, "R 1"]
    predicted: Float[Tensor, " R"]
    log_weights: Float[Tensor, "R V"]

    @classmethod
    def of(cls, decoder: FusedDecoder, num_rows: int, num_tokens: int) -> "FrameRows":
        """Rows before their first frame.

        Args:
            num_tokens: vision tokens per frame.
        """
        config, R, exact = decoder.config, num_rows, decoder.exact
        K, V, C = config.num_multi_token_pred, config.vocab_size - 1, config.hidden_size
        N, blocks = K + num_tokens, -(-V // K)
        long, flag = torch.long, torch.bool

        def zeros(dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=dtype, device=decoder.device)

        with torch.inference_mode(False):  # so that every mode may write them
            return cls(
                *(zeros(exact, R, N, C), zeros(long, R, N)),
                *(zeros(exact, R, K, C), zeros(long, R, K), zeros(long, R, K)),
                *(zeros(long, R), zeros(long, R), zeros(flag, R), zeros(flag, R)),
                *(zeros(long, R), zeros(long, blocks + 1), zeros(long, R, K), zeros(flag, R, K)),
                *(zeros(flag, R, V), zeros(long, R, K)),
                *(zeros(long, R, (blocks + 1) * K), zeros(flag, R, (blocks + 1) * K)),
                *(zeros(long, R, 1), zeros(long, R, 1), zeros(exact, R, 1), zeros(exact, R)),
                zeros(torch.float32, R, V),
            )

    def reset(self, num_rows: int) -> None:
        """Forget all frames; the first so many rows are present."""
        self.last.fill_(-1)
        self.valid.fill_(False)
        self.present[:num_rows].fill_(True)
        self.present[num_rows:].fill_(False)

    def follow(self, other: "FrameRows", rows: Int[Tensor, " R"]) -> None:
        """Go on where other rows are, after one of their blocks."""
        for name in _NAMES:
            if name not in _OF_THE_FRAME:
                getattr(self, name).copy_(getattr(other, name).index_select(0, rows))
        self.counts.copy_(other.counts)

    def take_back(self, other: "FrameRows", rows: Int[Tensor, " rows"]) -> None:
        """What became of these rows elsewhere, at the end of a frame."""
        for name in ("last", "turns", "unfed", "valid", "chosen", "kept", "predicted"):
            getattr(self, name).index_copy_(0, rows, getattr(other, name))


_NAMES = tuple(field.name for field in fields(FrameRows))
_OF_THE_FRAME = ("frame_tokens", "frame_places", "caps", "counts")
