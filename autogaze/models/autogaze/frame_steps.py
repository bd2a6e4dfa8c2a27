"""What happens around the decoder in every frame: its tokens are laid out, patches taken, limits applied.

The state of the rows is tensors whose shapes never change (`FrameRows`). In PyTorch's operators here,
which any device has. Each is a kernel on a GPU, and takes longer to be launched than to run:
`triton_steps.py` has the same in three kernels.
"""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autogaze.models.autogaze.decoder import FusedDecoder
from autogaze.models.autogaze.sampling import likeliest_in_turn


@dataclass(frozen=True)
class FrameRows:
    """What is known of R rows; the steps of a frame write it.

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


class FrameSteps:
    """The steps of a frame besides `StaticDecoder.feed`.

    Args:
        fused: the weights.
        sequential: whether `decode_positions` are (`AutoGazeConfig`).
    """

    def __init__(self, fused: FusedDecoder, num_tokens: int, *, sequential: bool) -> None:
        self.fused, self.sequential = fused, sequential
        self.num_slots = fused.config.num_multi_token_pred
        self.num_patches = fused.config.vocab_size - 1
        with torch.inference_mode(False):
            count = max(self.num_slots, num_tokens)
            self.numbers = torch.arange(1, count + 1, device=fused.device)
            self.slots = torch.arange(self.num_slots, device=fused.device)

    def begin(self, rows: FrameRows, vision: Float[Tensor, "B tokens C"], capacity: int) -> None:
        """Lay out what a frame feeds: ids of the frame before, then its tokens.

        Args:
            vision: the tokens of the first rows.
            capacity: slots of the cache; its number is where padding is written.
        """
        K = self.num_slots
        rows.frame_tokens[:, :K].copy_(self.fused.embed(rows.unfed))
        rows.frame_tokens[: len(vision), K:].copy_(vision)
        ends = rows.last[:, None] + rows.valid.cumsum(1)
        after = ends[:, -1:] + self.numbers[: vision.shape[1]]
        rows.frame_places[:, :K].copy_(torch.where(rows.valid, ends, capacity))
        rows.frame_places[:, K:].copy_(torch.where(rows.present[:, None], after, capacity))
        rows.ends.copy_(after[:, -1])
        rows.going.copy_(rows.present)
        rows.left.copy_(rows.caps)
        for part in (rows.taken, rows.kept, rows.turns, rows.counts):
            part.zero_()

    def heads(
        self, hidden: Float[Tensor, "R C"]
    ) -> tuple[Float[Tensor, "R K V"], Float[Tensor, "R K"]]:
        """Logits of patches, and predicted losses."""
        return self._split(torch.mm(hidden, self.fused.all_heads))

    def _split(self, both: Float[Tensor, "R outputs"]) -> tuple[Tensor, Tensor]:
        K, V = self.num_slots, self.num_patches
        return both[:, : K * V].unflatten(1, (K, V)), both[:, K * V :]

    def block(
        self,
        rows: FrameRows,
        logits: Float[Tensor, "R K V"] | None,
        losses: Float[Tensor, "R K"],
        capacity: int,
        *,
        first: bool,
        weighted: bool = False,
    ) -> None:
        """Take a block's patches, apply caps and thresholds to them, and lay out what is fed next.

        Args:
            logits: None where `rows.ids` are taken already.
            first: whether it is the frame's first block.
            weighted: whether `rows.log_weights` are added to them.
        """
        if logits is not None:
            if weighted:
                logits = logits + rows.log_weights[:, None]
            torch.cat(likeliest_in_turn(logits, rows.taken), 1, out=rows.ids)
            rows.taken.scatter_(1, rows.ids, True)
        K, going = self.num_slots, rows.going[:, None]
        following = self.numbers[:K]
        room = (following <= rows.left) & going
        stops = (losses <= rows.thresholds) & room
        if first:
            rows.last.copy_(rows.ends)
            stops[:, 0].fill_(False)  # every frame takes a patch
        keeps = torch.gt(room, stops)  # room, and no stop
        # The loss that is left is predicted by the slot that stops, by that behind the cap, or the last.
        ends = stops | (following > rows.left.clamp(max=K - 1))
        slot = ends.view(torch.uint8).argmax(1, keepdim=True)
        left = losses.gather(1, slot)[:, 0]
        torch.where(rows.going, left, rows.predicted, out=rows.predicted)
        goes_on = keeps.all(1) & (rows.left[:, 0] > K)
        # Rows that take no part write behind their own blocks, where nothing is kept.
        slots = rows.turns[:, None] * K + self.slots
        rows.chosen.scatter_(1, slots, rows.ids)
        rows.kept.scatter_(1, slots, keeps)
        torch.where(going, rows.ids, rows.unfed, out=rows.unfed)
        # None of a row that goes on: it is fed next.
        rows.valid.copy_(torch.where(going, keeps > goes_on[:, None], rows.valid))
        self._lay_out(rows, goes_on[:, None], capacity)
        rows.last.add_(goes_on, alpha=K)
        rows.counts.scatter_add_(0, rows.turns, goes_on.long())
        rows.turns.add_(rows.going)
        rows.going.copy_(goes_on)
        rows.left.sub_(K)

    def _lay_out(self, rows: FrameRows, goes_on: Tensor, capacity: int) -> None:
        """The block as it is fed to the rows that go on."""
        following = self.numbers[: self.num_slots]
        embedding, ids = self.fused.embedding, rows.ids.view(-1)
        torch.index_select(embedding, 0, ids, out=rows.tokens.view(len(ids), -1))
        rows.places.copy_(torch.where(goes_on, rows.last[:, None] + following, capacity))
        if not self.sequential:  # the last ones of the frame
            torch.add(rows.ends[:, None] - self.num_slots, following, out=rows.positions)
