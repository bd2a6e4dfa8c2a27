"""Teacher-forced scoring: log-probabilities of given gazes, and the losses predicted after them.

Probabilities are of one of two distributions. *As released*: over all V + 1 ids, at temperature 1,
nothing masked. *Of the policy that sampled*: over the patches that could be drawn in that slot (EOS
and the frame's earlier patches left out), of logits divided by the temperature.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from autogaze.errors import SelectorError
from autogaze.models.autogaze.decoder import GazeDecoder
from autogaze.models.autogaze.packing import PackedRows
from autogaze.models.autogaze.rows import GazeRows


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
    decoder: GazeDecoder,
    vision_tokens: Float[Tensor, "B T tokens C"],
    rows: GazeRows,
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
    decoder: GazeDecoder,
    vision_tokens: Float[Tensor, "B T tokens C"],
    rows: GazeRows,
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
