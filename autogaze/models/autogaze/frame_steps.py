"""What happens around the decoder in every frame: its tokens are laid out, patches taken, limits applied.

In PyTorch's operators here, which any device has. Each is a kernel on a GPU, and takes longer to be
launched than to run: `triton_steps.py` has the same in three kernels.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from autogaze.models.autogaze.decoder import FusedDecoder
from autogaze.models.autogaze.frame_rows import FrameRows
from autogaze.models.autogaze.sampling import likeliest_in_turn


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
