"""Prompts without the placeholders of dropped units, at the positions of the dense prompt.

A row of a prompt is text and blocks of placeholder tokens, one after another. `read_rows` finds them in
a dense prompt, `assemble` writes them as token ids, positions and masks; `Context` says whether they fit
into an LLM.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from autogaze.errors import MLLMError
from autogaze.mllm.checks import counted
from autogaze.mllm.units import KeptUnits, UnitGrid

Kind = Literal["video", "image"]


@dataclass(frozen=True)
class VisualBlock:
    """Placeholders that stand together: units of some tubelets of one video or image.

    Args:
        visual: which one, in the order in which they begin in the batch.
        first, end: its tubelets [first, end).
        token: the placeholder's id.
        trailing: placeholders after the units that are always kept, such as LLaVA's newline.
    """

    visual: int
    first: int
    end: int
    token: int
    trailing: int = 0


Row = Sequence[Int[Tensor, " _"] | VisualBlock]


@runtime_checkable
class PositionRule(Protocol):
    """How the tokens of a block are placed, and where the text after it goes on."""

    @property
    def dimensions(self) -> int:
        """Position indices per token: 1, or 3 for time, row and column."""
        ...

    def place(
        self, block: VisualBlock, kept: KeptUnits, start: int
    ) -> tuple[Int[Tensor, "P K"], int]:
        """Positions of the kept units of a block that begins at `start`, and the next position."""
        ...


def sequence_lengths(row: Row, grid: UnitGrid) -> tuple[int, float]:
    """Length of a prompt with one video of this grid, all of it kept, and how much of it a tubelet is.

    A tubelet's text counts, where it has any. Both are in tokens of the dense prompt.
    """
    length, starts = 0, []
    for part in row:
        if isinstance(part, VisualBlock):
            starts.append(length)
            length += (part.end - part.first) * grid.dense_units + part.trailing
        else:
            length += len(part)
    if len(starts) < 2:  # all in one block
        return length, float(grid.dense_units)
    return length, (starts[-1] - starts[0]) / (len(starts) - 1)


@dataclass(frozen=True)
class SequencePositions:
    """Position = index in the dense prompt (LLaVA-OneVision, SmolVLM, InternVL)."""

    dimensions: int = 1

    def place(
        self, block: VisualBlock, kept: KeptUnits, start: int
    ) -> tuple[Int[Tensor, "P K"], int]:
        index, length = dense_index(block, kept)
        return (start + index)[None], start + length


@dataclass(frozen=True)
class MRopePositions:
    """Time, row and column of a unit (M-RoPE of Qwen2-VL and its successors).

    Args:
        intervals: time between tubelets of every visual in positions; empty where a block holds
            one tubelet, whose time is that of its start.
        time_advances: text after a video goes on behind its last time as well, not only behind
            its rows and columns (transformers 4).
    """

    intervals: tuple[float, ...] = ()
    time_advances: bool = False
    dimensions: int = 3

    def place(
        self, block: VisualBlock, kept: KeptUnits, start: int
    ) -> tuple[Int[Tensor, "P K"], int]:
        chosen = slice(kept.offsets[block.first], kept.offsets[block.end])
        interval = self.intervals[block.visual] if self.intervals else 1.0
        # As transformers rounds: a product in single precision, then cut.
        times = (torch.arange(block.end - block.first) * interval).long()
        row, column = kept.dense_places[chosen].unbind(-1)
        time = times[kept.tubelet[chosen] - block.first]
        extent = max(kept.grid.dense)
        if self.time_advances:
            extent = max(extent, int(times[-1]) + 1)
        return start + torch.stack([time, row, column]), start + extent


@dataclass(frozen=True, eq=False)
class CompactPrompt:
    """A batch of prompts that hold the kept units only; rows are padded to one length.

    Args:
        input_ids: (B, L) token ids.
        attention_mask: (B, L) 0 where a row is padded.
        position_ids: (P, B, L) positions of the tokens in the dense prompt; 0 in padding.
        visual_mask: (B, L) True at placeholders, in the order of the features that replace them.
        dense_index: (B, L) index of each token in its dense row without padding; -1 in padding.
        next_position: (B,) position of the first generated token.
        dense_lengths: tokens of every dense row.
    """

    input_ids: Int[Tensor, "B L"]
    attention_mask: Int[Tensor, "B L"]
    position_ids: Int[Tensor, "P B L"]
    visual_mask: Bool[Tensor, "B L"]
    dense_index: Int[Tensor, "B L"]
    next_position: Int[Tensor, " B"]
    dense_lengths: tuple[int, ...]

    def to(self, device: torch.device | str) -> "CompactPrompt":
        """The same on another device."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {name: x.to(device) for name, x in tensors.items() if isinstance(x, Tensor)}
        return replace(self, **moved)  # type: ignore[arg-type]

    def gather(
        self, dense: Int[Tensor, "B D"], attention_mask: Int[Tensor, "B D"], fill: int
    ) -> Int[Tensor, "B L"]:
        """Values that stand beside the dense prompt, such as labels, at the tokens that are left."""
        compact = torch.full_like(self.input_ids, fill, dtype=dense.dtype)
        for row, index in enumerate(self.dense_index):
            real = dense[row][attention_mask[row].bool()]
            compact[row, index >= 0] = real.to(compact.device)[index[index >= 0]]
        return compact


def side_of_padding(attention_mask: Int[Tensor, "B L"]) -> str:
    """Side on which rows are padded: "right" where one ends in padding, else "left"."""
    return "right" if bool((attention_mask[:, 0] > attention_mask[:, -1]).any()) else "left"


def assemble(
    rows: Sequence[Row],
    visuals: Sequence[KeptUnits],
    rule: PositionRule,
    *,
    pad_id: int = 0,
    padding_side: str = "left",
) -> CompactPrompt:
    """Write rows as token ids at the positions of the dense prompt.

    Args:
        rows: text ids (one-dimensional tensors) and blocks, in their order.
        visuals: what is kept of every video and image, in the order of `VisualBlock.visual`.
        rule: positions of the units.
        pad_id: token id of padding.
        padding_side: "left" for generation, "right" as trainers pad.
    """
    written = [_write(row, visuals, rule) for row in rows]
    longest = max(ids.numel() for ids, *_ in written)

    def padded(parts: Sequence[Tensor], value: int) -> Tensor:
        out = parts[0].new_full((len(parts), *parts[0].shape[:-1], longest), value)
        for number, part in enumerate(parts):
            length = part.shape[-1]
            where = slice(longest - length, None) if padding_side == "left" else slice(length)
            out[number, ..., where] = part
        return out

    ids, masks, positions, indices, following, dense_lengths = zip(*written, strict=True)
    return CompactPrompt(
        input_ids=padded(ids, pad_id),
        attention_mask=padded([torch.ones_like(row) for row in ids], 0),
        position_ids=padded(positions, 0).transpose(0, 1).contiguous(),
        visual_mask=padded(masks, False),
        dense_index=padded(indices, -1),
        next_position=torch.tensor(following),
        dense_lengths=dense_lengths,
    )


def _write(
    row: Row, visuals: Sequence[KeptUnits], rule: PositionRule
) -> tuple[Tensor, Tensor, Tensor, Tensor, int, int]:
    """Ids, visual mask, positions and dense indices of a row, its next position and dense length."""
    ids, masks, positions, indices = [], [], [], []
    position = length = 0
    for piece in row:
        if isinstance(piece, VisualBlock):
            kept = visuals[piece.visual]
            placed, position = rule.place(piece, kept, position)
            index, piece_length = dense_index(piece, kept)
            piece_ids = torch.full((placed.shape[1],), piece.token)
        else:
            piece_ids = piece.cpu().long()
            piece_length = piece_ids.numel()
            index = torch.arange(piece_length)
            placed = (position + index).expand(rule.dimensions, -1)
            position += piece_length
        ids.append(piece_ids)
        masks.append(torch.full(piece_ids.shape, isinstance(piece, VisualBlock)))
        positions.append(placed)
        indices.append(length + index)
        length += piece_length
    if not ids:
        raise MLLMError("a prompt of the batch is empty")
    placed = torch.cat(positions, dim=1)
    following = int(placed.max()) + 1 if placed.numel() else 0
    return torch.cat(ids), torch.cat(masks), placed, torch.cat(indices), following, length


def dense_index(block: VisualBlock, kept: KeptUnits) -> tuple[Int[Tensor, " K"], int]:
    """Index of every placeholder that is left of a block's dense ones, and how many those are."""
    chosen = slice(kept.offsets[block.first], kept.offsets[block.end])
    row, column = kept.dense_places[chosen].unbind(-1)
    tubelet = kept.tubelet[chosen] - block.first
    index = tubelet * kept.grid.dense_units + row * kept.grid.dense[1] + column
    num_dense = (block.end - block.first) * kept.grid.dense_units
    trailing = torch.arange(num_dense, num_dense + block.trailing)
    return torch.cat([index, trailing]), num_dense + block.trailing


@dataclass(frozen=True)
class Context:
    """Positions that an LLM takes.

    Args:
        limit: of the prompt with every unit, and the answer.
        new_tokens: of the answer.
    """

    limit: int
    new_tokens: int = 0

    def check(
        self,
        length: int,
        *,
        tokens: int | None = None,
        frames: int | None = None,
        per_frame: float = 1.0,
        any_size: bool = False,
    ) -> None:
        """Raise `MLLMError` where a prompt is too long.

        Args:
            length: of the prompt with every unit, in positions.
            tokens: that are left of it, if that is known.
            frames: of its only video; None where positions are not counted by frames.
            per_frame: positions that a frame takes, its text included.
            any_size: whether the model takes smaller frames too.
        """
        last = length + self.new_tokens
        if last <= self.limit:
            return
        fewer = "take fewer frames (max_frames; --frames of commands)"
        if frames is not None:
            fits = frames - math.ceil((last - self.limit) / per_frame)
            fewer += f": about {fits} of these {frames} fit" if fits > 0 else ": not even one fits"
        if any_size:
            fewer += ", or smaller ones (resolution='stock', which a ratio brings too)"
        left = "" if tokens is None else f"the prompt has {tokens} tokens, and "
        raise MLLMError(
            f"{left}with {counted(self.new_tokens, 'new token')} the prompt's positions reach {last}; the LLM "
            f"takes {self.limit}. Positions are those of the prompt with every unit, whatever is "
            f"kept: {fewer}"
        )


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
