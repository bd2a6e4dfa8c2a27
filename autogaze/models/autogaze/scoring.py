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
from autogaze.models.autogaze.rows import GazeRows


@dataclass(frozen=True)
class Scores:
    """Scores of B rows with S slots each; undefined in padded slots.

    Attributes:
        log_probs: log-probability of each gaze; as released, log(p + 1e-8).
        predicted_losses: the reconstruction loss predicted after each gaze.
        vision_states: final hidden state of every vision token.
        entropy: of the distribution of each gaze in nats, without a graph; None unless asked for.
    """

    log_probs: Float[Tensor, "B S"]
    predicted_losses: Float[Tensor, "B S"]
    vision_states: Float[Tensor, "B T tokens C"]
    entropy: Float[Tensor, "B S"] | None = None


def score(
    decoder: GazeDecoder,
    vision_tokens: Float[Tensor, "B T tokens C"],
    rows: GazeRows,
    targets: Float[Tensor, "B S V"] | None = None,
    *,
    temperature: float | None = None,
    entropy: bool = False,
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
        entropy: whether it is computed.

    Raises:
        SelectorError: gazes that do not fit the video, a temperature that is not positive or one
            that comes with targets.
    """
    sequence = _forward(decoder, vision_tokens, rows)
    hidden, rank = sequence.hidden, sequence.rank  # (B, N, C), (S,)
    ids, kept, slots = rows.ids, rows.kept, rows.slots
    K, eos = decoder.config.num_multi_token_pred, decoder.config.vocab_size - 1
    starts, block = torch.unique(sequence.before, return_inverse=True)
    # (B, blocks, K, V + 1), (B, blocks, K)
    logits, losses = decoder.heads(hidden[:, starts.to(hidden.device)])
    head = (rank % K).to(hidden.device)
    block = block.to(hidden.device)
    # In half precision a probability has two or three digits: too few for its logarithm.
    exact = torch.promote_types(logits.dtype, torch.float32)
    if temperature is not None:
        if temperature <= 0 or targets is not None:
            raise SelectorError(
                f"temperature={temperature} must be above 0, and has no meaning with targets"
            )
        scaled = logits[:, block, head, :eos].to(exact) / temperature  # (B, S, V)
        taken = taken_before(rows)
        policy = scaled.masked_fill(taken, -torch.inf).log_softmax(-1)
        logs = policy.gather(-1, torch.where(kept, ids, 0)[..., None])[..., 0]
        probs = policy.detach().exp()
    else:
        probs = logits.softmax(-1, dtype=exact)[:, block, head]  # (B, S, V + 1)
        if targets is None:
            logs = (probs.gather(-1, torch.where(kept, ids, eos)[..., None])[..., 0] + 1e-8).log()
        else:
            logs = (targets * (probs[..., :eos] + 1e-8).log()).sum(-1)
    spread = torch.special.entr(probs.detach()).sum(-1) if entropy else None
    after = torch.where(
        sequence.ends_block.to(hidden.device),
        decoder.predicted_losses(hidden[:, sequence.own.to(hidden.device)])[..., 0],
        losses[:, block, (head + 1) % K],
    )
    num_tokens = vision_tokens.shape[2]
    ends_of_vision = [num_tokens * (t + 1) + sum(slots[:t]) for t in range(len(slots))]
    # (B, T, tokens, C)
    states = torch.stack([hidden[:, end - num_tokens : end] for end in ends_of_vision], 1)
    return Scores(logs, after, states, spread)


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

    Arguments as of `score`; states are undefined in padded slots.
    """
    sequence = _forward(decoder, vision_tokens, rows)
    hidden, device = sequence.hidden, sequence.hidden.device
    position = torch.where(sequence.ends_block, sequence.own, sequence.before)
    heads = (sequence.rank + 1) % decoder.config.num_multi_token_pred
    return hidden[:, position.to(device)], heads.to(device)


@dataclass(frozen=True)
class _Sequence:
    """Hidden states of whole sequences, and the positions of slots in them.

    Attributes:
        hidden: final hidden states of all tokens.
        own: position of every slot in the sequence.
        before: position of the token before its block.
        rank: index of the slot in its frame.
        ends_block: whether it is the last slot of a full block.
    """

    hidden: Float[Tensor, "B N C"]
    own: Int[Tensor, " S"]
    before: Int[Tensor, " S"]
    rank: Int[Tensor, " S"]
    ends_block: Bool[Tensor, " S"]


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
    B, T, num_tokens = vision_tokens.shape[:3]
    ids, kept, slots = rows.ids, rows.kept, rows.slots
    if len(slots) != T or sum(slots) != ids.shape[1] or ids.shape[0] != B:
        raise SelectorError(
            f"gazes of {ids.shape[0]} clips, {len(slots)} frames and {sum(slots)} slots "
            f"({ids.shape[1]} given) do not fit a video of {B} clips and {T} frames"
        )
    eos = decoder.config.vocab_size - 1
    embedded = decoder.model.embed_tokens(torch.where(kept, ids, eos)).split(slots, 1)
    sequence = torch.cat([x for t in range(T) for x in (vision_tokens[:, t], embedded[t])], 1)
    vision = kept.new_ones(B, num_tokens)
    valid = torch.cat([x for part in kept.split(slots, 1) for x in (vision, part)], 1)
    return sequence, valid


def _forward(
    decoder: GazeDecoder,
    vision_tokens: Float[Tensor, "B T tokens C"],
    rows: GazeRows,
) -> _Sequence:
    T, num_tokens = vision_tokens.shape[1:3]
    K = decoder.config.num_multi_token_pred
    sequence, valid = embed_sequence(decoder, vision_tokens, rows)
    hidden = _run(decoder, sequence, valid)  # (B, N, C)

    slots = torch.tensor(rows.slots)
    index = torch.arange(sum(rows.slots))
    first = slots.cumsum(0) - slots
    frame = torch.arange(T).repeat_interleave(slots)
    rank = index - first[frame]
    own = index + num_tokens * (frame + 1)
    return _Sequence(hidden, own, own - rank % K - 1, rank, rank % K == K - 1)


def _run(
    decoder: GazeDecoder, sequence: Float[Tensor, "B N C"], valid: Bool[Tensor, "B N"]
) -> Float[Tensor, "B N C"]:
    """Hidden states of `sequence`, in which no token attends to one that is not `valid`.

    Padding is moved to each row's end, where the causal mask hides it, so that positions are
    0, 1, 2, ... and attention needs no other mask.
    """
    if bool(valid.all()):
        return decoder(sequence)
    order = (~valid).long().argsort(dim=1, stable=True)
    packed = sequence.gather(1, order[..., None].expand_as(sequence))
    hidden = decoder(packed)
    return hidden.gather(1, order.argsort(1)[..., None].expand_as(hidden))
