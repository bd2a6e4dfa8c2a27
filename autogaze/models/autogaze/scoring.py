"""Teacher-forced scoring: log-probabilities of given gazes, and the losses predicted after them.

Probabilities are of one of two distributions. *As released*: over all V + 1 ids, at temperature 1,
nothing masked. *Of the policy that sampled*: over the patches that could be drawn in that slot (EOS
and the frame's earlier patches left out), of logits divided by the temperature.

A row's sequence is, frame by frame, the vision tokens and then the gazes. Its padding is moved to its
end, where the causal mask hides it, so that positions are 0, 1, 2, ... and attention needs no other
mask (`PackedRows`). All of that follows from `GazeRows.kept`, on the host: a GPU is not waited for.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from autogaze.errors import SelectorError
from autogaze.models.autogaze.decoder import GazeDecoder
from autogaze.models.autogaze.rows import GazeRows
from autogaze.utils.device import sent

ALIGNED = 64
"""Sequences are of a multiple of this: cuDNN's attention is planned anew for every length, in 0.1 s."""

READ_ALIGNED = 16
"""Numbers of states are a multiple of this: kernels take blocks of queries."""


@dataclass(frozen=True)
class PackedRows:
    """R sequences of N positions with G gazes, and P states of each that something is read from.

    What is flat counts through all rows: positions are row * N + position, slots row * S + slot,
    states row * P + number.

    Attributes:
        length: N.
        tokens: flat positions of all vision tokens, then of all gazes, row by row.
        slots: flat slot of every gaze.
        states: positions of the states, in order; 0 for those that a row has too few of.
        before: flat state just before each gaze's block.
        head: which of the K heads scores the gaze there.
        after, after_head: flat state and head that predict the loss after each gaze.
    """

    length: int
    tokens: Int[Tensor, " all"]
    slots: Int[Tensor, " G"]
    states: Int[Tensor, "R P"]
    before: Int[Tensor, " G"]
    head: Int[Tensor, " G"]
    after: Int[Tensor, " G"]
    after_head: Int[Tensor, " G"]

    @classmethod
    def of(cls, rows: GazeRows, num_tokens: int, K: int) -> "PackedRows":
        """The layout of these rows, of `num_tokens` vision tokens per frame and blocks of K gazes."""
        kept, (R, S), T = rows.host_kept, rows.ids.shape, len(rows.slots)
        widths = torch.tensor(rows.slots, dtype=torch.long)
        frame_of_slot = torch.arange(T).repeat_interleave(widths)
        counts = kept.new_zeros(R, T, dtype=torch.long)
        counts.index_add_(1, frame_of_slot, kept.long())
        ends = (counts + num_tokens).cumsum(1)
        starts = ends - counts - num_tokens  # (R, T)
        # At least one position, so that no kernel is asked for nothing.
        longest = max(1, int(ends[:, -1].max())) if R and T else 1
        N = -(-longest // ALIGNED) * ALIGNED

        row, slot = kept.nonzero().unbind(1)
        frame = frame_of_slot[slot]
        rank = slot - (widths.cumsum(0) - widths)[frame]
        # A threshold may leave slots out in the middle of a block.
        earlier = kept.long().cumsum(1) - kept.long()  # (R, S), in all frames
        first = starts[row, frame] + num_tokens - (counts.cumsum(1) - counts)[row, frame]
        own = first + earlier[row, slot]
        before = first + earlier[row, slot - rank % K] - 1
        is_full = rank % K == K - 1
        after = torch.where(is_full, own, before)
        read = torch.zeros(R, N, dtype=torch.bool)
        read[row, before] = True
        read[row, after] = True
        number = read.long().cumsum(1) - 1
        most = max(1, int(number[:, -1].max()) + 1) if R else 1
        P = -(-most // READ_ALIGNED) * READ_ALIGNED
        states = torch.zeros(R, P, dtype=torch.long)
        read_row, position = read.nonzero().unbind(1)
        states[read_row, number[read_row, position]] = position
        parts = [
            (starts + N * torch.arange(R)[:, None]).flatten(),
            own + N * row,
            row * S + slot,
            states.flatten(),
            row * P + number[row, before],
            rank % K,
            row * P + number[row, after],
            (rank + 1) % K,
        ]
        # In one message.
        device = rows.ids.device
        moved = sent(torch.cat(parts), device).split([len(part) for part in parts])
        first_tokens, gazes, slots, flat_states, *others = moved
        vision = first_tokens[:, None] + torch.arange(num_tokens, device=device)
        tokens = torch.cat([vision.flatten(), gazes])
        return cls(N, tokens, slots, flat_states.view(R, P), *others)

    def sequence(
        self, vision: Float[Tensor, "R T tokens C"], gazes: Float[Tensor, "G C"]
    ) -> Float[Tensor, "R N C"]:
        """Tokens in their places, padding as zeros."""
        R, C = len(vision), vision.shape[-1]
        tokens = torch.cat([vision.reshape(-1, C), gazes])
        empty = tokens.new_zeros(R * self.length, C)
        return empty.index_copy_(0, self.tokens, tokens).view(R, self.length, C)

    def vision(self, hidden: Float[Tensor, "R N C"], T: int) -> Float[Tensor, "R T tokens C"]:
        """States of the vision tokens."""
        R, _, C = hidden.shape
        count = len(self.tokens) - len(self.slots)
        return hidden.flatten(0, 1).index_select(0, self.tokens[:count]).view(R, T, -1, C)

    def of_gazes(self, values: Shaped[Tensor, "R S *V"]) -> Shaped[Tensor, "G *V"]:
        """What there is for every slot, for the gazes alone."""
        return values.flatten(0, 1).index_select(0, self.slots)

    def to_slots(self, values: Float[Tensor, "G *C"], rows: GazeRows) -> Float[Tensor, "R S *C"]:
        """What there is for the gazes, in their slots, and zeros elsewhere."""
        shape = rows.ids.shape
        empty = values.new_zeros(shape.numel(), *values.shape[1:])
        return empty.index_copy_(0, self.slots, values).unflatten(0, shape)


@dataclass(frozen=True)
class Scores:
    """Scores of B rows with S slots each; 0 in padded slots.

    Attributes:
        log_probs: log-probability of each gaze; as released, log(p + 1e-8).
        predicted_losses: the reconstruction loss predicted after each gaze.
        vision_states: final hidden state of every vision token; None unless asked for.
        entropy: of the distribution of each gaze in nats, without a graph; None unless asked for.
    """

    log_probs: Float[Tensor, "B S"]
    predicted_losses: Float[Tensor, "B S"]
    vision_states: Float[Tensor, "B T tokens C"] | None = None
    entropy: Float[Tensor, "B S"] | None = None


def score(
    decoder: GazeDecoder,
    vision_tokens: Float[Tensor, "B T tokens C"],
    rows: GazeRows,
    targets: Float[Tensor, "B S V"] | None = None,
    *,
    temperature: float | None = None,
    entropy: bool = False,
    vision_states: bool = False,
) -> Scores:
    """Teacher-forced pass over whole clips; differentiable.

    The i-th gaze of a frame is scored by head i mod K of the state just before its
    block started. The loss after it is head (i + 1) mod K of that same state, or of
    the gaze's own state where it ends a block. In `decoding`, head i + 1 predicts the loss
    *before* gaze i + 1; here the same number is the loss *after* gaze i.

    Args:
        rows: the gazes, S slots in all.
        targets: a distribution over all patches in the place of each gaze; `log_probs` are
            then the means of the patches' own, weighted by these.
        temperature: that the gazes were sampled at, for probabilities of the policy that sampled;
            None for those as released.
        entropy, vision_states: whether they are computed.

    Raises:
        SelectorError: gazes that do not fit the video, a temperature that is not positive or one
            that comes with targets.
    """
    if temperature is not None and (temperature <= 0 or targets is not None):
        raise SelectorError(
            f"temperature={temperature} must be above 0, and has no meaning with targets"
        )
    packed = _packed(decoder, vision_tokens, rows)
    states, vision = _states(decoder, vision_tokens, rows, packed, vision_states)  # (R * P, C)
    K, eos = decoder.config.num_multi_token_pred, decoder.config.vocab_size - 1
    logits, losses = decoder.heads(states)  # (R * P, K, V + 1), (R * P, K)
    ids = packed.of_gazes(rows.ids)
    proposed = packed.before * K + packed.head
    # In half precision a probability has two or three digits: too few for its logarithm.
    exact = torch.promote_types(logits.dtype, torch.float32)
    if temperature is not None:
        scaled = logits.flatten(0, 1).index_select(0, proposed)[:, :eos].to(exact) / temperature
        taken = packed.of_gazes(taken_before(rows))  # (G, V)
        policy = scaled.masked_fill(taken, -torch.inf).log_softmax(-1)
        logs = policy.gather(-1, ids[:, None])[:, 0]
        probs = policy.detach().exp()
    else:
        every = logits.softmax(-1, dtype=exact).flatten(0, 1)  # (R * P * K, V + 1)
        probs = every.index_select(0, proposed) if entropy or targets is not None else every
        if targets is None:
            logs = (every.flatten().index_select(0, proposed * (eos + 1) + ids) + 1e-8).log()
        else:
            logs = (packed.of_gazes(targets) * (probs[:, :eos] + 1e-8).log()).sum(-1)
    spread = torch.special.entr(probs.detach()).sum(-1) if entropy else None
    after = losses.flatten().index_select(0, packed.after * K + packed.after_head)
    return Scores(
        packed.to_slots(logs, rows),
        packed.to_slots(after, rows),
        vision,
        None if spread is None else packed.to_slots(spread, rows),
    )


def taken_before(rows: GazeRows) -> Bool[Tensor, "B S V"]:
    """True for the patches that were gazed at earlier in a slot's own frame."""
    parts, V = [], rows.pyramid.num_patches
    ids, kept = (each.split(rows.slots, 1) for each in (rows.ids, rows.kept))
    for of_frame, real in zip(ids, kept, strict=True):
        patches = torch.where(real, of_frame, 0)[..., None]
        chosen = torch.zeros(*patches.shape[:2], V, dtype=torch.int16, device=real.device)
        chosen.scatter_(2, patches, real[..., None].to(chosen.dtype))
        parts.append(chosen.cumsum(1, dtype=chosen.dtype) > chosen)
    return torch.cat(parts, 1)


def loss_states(
    decoder: GazeDecoder, vision_tokens: Float[Tensor, "B T tokens C"], rows: GazeRows
) -> tuple[Float[Tensor, "B S C"], Int[Tensor, " S"]]:
    """The hidden states that `score` predicts losses from, and which of the K heads reads each.

    Arguments as of `score`; states are 0 in padded slots.
    """
    packed = _packed(decoder, vision_tokens, rows)
    states, _ = _states(decoder, vision_tokens, rows, packed, vision_states=False)
    read = packed.to_slots(states.index_select(0, packed.after), rows)
    slots = torch.tensor(rows.slots)
    rank = torch.arange(sum(rows.slots)) - (slots.cumsum(0) - slots).repeat_interleave(slots)
    heads = (rank + 1) % decoder.config.num_multi_token_pred
    return read, heads.to(states.device)


def embed_sequence(
    decoder: GazeDecoder, vision_tokens: Float[Tensor, "B T tokens C"], rows: GazeRows
) -> tuple[Float[Tensor, "B N C"], Bool[Tensor, "B N"]]:
    """Input embeddings of the decoder: each frame's vision tokens, then the patches chosen in it.

    Returns:
        The sequence, padded slots as EOS; and False where padding is.

    Raises:
        SelectorError: gazes that do not fit the video.
    """
    _check_fits(vision_tokens, rows)
    B, T, num_tokens = vision_tokens.shape[:3]
    ids, kept, slots = rows.ids, rows.kept, rows.slots
    eos = decoder.config.vocab_size - 1
    embedded = decoder.model.embed_tokens(torch.where(kept, ids, eos)).split(slots, 1)
    sequence = torch.cat([x for t in range(T) for x in (vision_tokens[:, t], embedded[t])], 1)
    vision = kept.new_ones(B, num_tokens)
    valid = torch.cat([x for part in kept.split(slots, 1) for x in (vision, part)], 1)
    return sequence, valid


def _check_fits(vision_tokens: Float[Tensor, "B T tokens C"], rows: GazeRows) -> None:
    """Raise SelectorError for gazes that do not fit the video."""
    (B, T), ids, slots = vision_tokens.shape[:2], rows.ids, rows.slots
    if len(slots) != T or sum(slots) != ids.shape[1] or ids.shape[0] != B:
        raise SelectorError(
            f"gazes of {ids.shape[0]} clips, {len(slots)} frames and {sum(slots)} slots "
            f"({ids.shape[1]} given) do not fit a video of {B} clips and {T} frames"
        )


def _packed(
    decoder: GazeDecoder, vision_tokens: Float[Tensor, "R T tokens C"], rows: GazeRows
) -> PackedRows:
    """Where the tokens of these rows lie.

    Raises:
        SelectorError: gazes that do not fit the video.
    """
    _check_fits(vision_tokens, rows)
    return PackedRows.of(rows, vision_tokens.shape[2], decoder.config.num_multi_token_pred)


def _states(
    decoder: GazeDecoder,
    vision_tokens: Float[Tensor, "R T tokens C"],
    rows: GazeRows,
    packed: PackedRows,
    vision_states: bool,
) -> tuple[Float[Tensor, "states C"], Float[Tensor, "R T tokens C"] | None]:
    """Final hidden states that something is read from, and those of the vision tokens if asked for."""
    gazes = decoder.model.embed_tokens(packed.of_gazes(rows.ids))
    sequence = packed.sequence(vision_tokens, gazes)
    if not vision_states:  # the last layer has nothing else to do
        return decoder(sequence, packed.states).flatten(0, 1), None
    hidden = decoder(sequence)
    index = packed.states[..., None].expand(-1, -1, hidden.shape[-1])
    return hidden.gather(1, index).flatten(0, 1), packed.vision(hidden, vision_tokens.shape[1])
