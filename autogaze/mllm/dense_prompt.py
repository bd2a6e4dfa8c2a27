"""Dense prompts, with a placeholder for every unit, read as text and blocks of placeholders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from autogaze.errors import MLLMError
from autogaze.mllm.prompt import Row, VisualBlock
from autogaze.mllm.units import KeptUnits

Kind = Literal["video", "image"]


@dataclass(frozen=True)
class Placeholder:
    """The token that stands for units of one kind of visual in a dense prompt.

    Args:
        token: its id.
        kind: what its units belong to.
        trailing: tokens after a visual's last unit that are always kept.
    """

    token: int
    kind: Kind
    trailing: int = 0


def read_rows(
    input_ids: Int[Tensor, "B L"],
    attention_mask: Int[Tensor, "B L"] | None,
    placeholders: Sequence[Placeholder],
    kept: Mapping[Kind, Sequence[KeptUnits]],
) -> tuple[list[Row], list[tuple[Kind, int]]]:
    """Find the blocks of placeholders in a dense prompt.

    Args:
        input_ids: the dense prompt, with a placeholder for every dense unit.
        attention_mask: 0 in padding; None without padding.
        placeholders: tokens to look for.
        kept: what is kept of every video and of every image, each in reading order.

    Returns:
        The rows, and of every visual in the order in which they begin its kind and its number
        among those of its kind.

    Raises:
        MLLMError: placeholders do not count the units of the visuals.
    """
    by_token = {placeholder.token: placeholder for placeholder in placeholders}
    order: list[tuple[Kind, int]] = []
    open_visual: dict[Kind, tuple[int, int]] = {}  # place in `order`, next tubelet
    counts: dict[Kind, int] = {placeholder.kind: 0 for placeholder in placeholders}
    rows: list[Row] = []
    for number, ids in enumerate(input_ids.cpu()):
        real = ids if attention_mask is None else ids[attention_mask[number].cpu().bool()]
        row: list[Tensor | VisualBlock] = []
        for token, run in _runs(real, by_token):
            if token is None:
                row.append(run)
                continue
            placeholder = by_token[token]
            kind, left = placeholder.kind, run.numel()
            while left:
                if kind not in open_visual:
                    if counts[kind] == len(kept.get(kind, ())):
                        raise MLLMError(
                            f"the prompt has placeholders (token {token}) for more than the "
                            f"{counts[kind]} {kind}s that were given"
                        )
                    open_visual[kind] = (len(order), 0)
                    order.append((kind, counts[kind]))
                    counts[kind] += 1
                visual, first = open_visual[kind]
                units = kept[kind][order[visual][1]]
                per_tubelet, total = units.grid.dense_units, units.grid.tubelets
                tubelets = min(left // per_tubelet, total - first)
                left -= tubelets * per_tubelet
                ends = first + tubelets == total
                trailing = placeholder.trailing if ends else 0
                left -= trailing
                if not tubelets or left < 0:
                    raise MLLMError(
                        f"{run.numel()} placeholders (token {token}) in row {number} do not count "
                        f"the units of {kind} {order[visual][1]}: {per_tubelet} per tubelet, "
                        f"{total - first} tubelets left"
                    )
                row.append(VisualBlock(visual, first, first + tubelets, token, trailing))
                if ends:
                    del open_visual[kind]
                else:
                    open_visual[kind] = (visual, first + tubelets)
        rows.append(row)
    for kind, given in kept.items():
        if counts.get(kind, 0) != len(given) or kind in open_visual:
            raise MLLMError(
                f"{len(given)} {kind}s were given, and the prompt has placeholders for "
                f"{counts.get(kind, 0) - (kind in open_visual)} whole ones"
            )
    return rows, order


def _runs(
    ids: Int[Tensor, " L"], tokens: Mapping[int, Placeholder]
) -> list[tuple[int | None, Int[Tensor, "_"]]]:
    """Runs of one placeholder token, and of text (None), in their order."""
    if not ids.numel():
        return []
    known = torch.tensor(sorted(tokens))
    label = torch.where(torch.isin(ids, known), ids, -1)
    edges = [0, *(label.diff().nonzero()[:, 0] + 1).tolist(), ids.numel()]
    return [(int(label[a]) if label[a] >= 0 else None, ids[a:b]) for a, b in pairwise(edges)]
