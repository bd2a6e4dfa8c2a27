"""The table of tokens in docs/mllm.md is what the recipe gives."""

import re
from pathlib import Path

import torch

from autogaze import PatchPyramid
from autogaze.clips import frame_caps
from autogaze.mllm.nvila.frames import plan_grid
from autogaze.mllm.nvila.gazed_video import token_rows
from autogaze.mllm.nvila.selection import CHUNK

PAGE = Path(__file__).resolve().parents[3] / "docs" / "mllm.md"
ROW = re.compile(r"^\| (\d+) frames, (\d+) x (\d+) \| (\d+) \| ([\d,]+) \| ([\d,]+) \|$", re.M)
PYRAMID = PatchPyramid((56, 112, 196, 392), 14)
THUMBNAILS = 64


def tokens(num_frames: int, tiles: int, caps: list[int]) -> int:
    chunk = len(token_rows(torch.tensor([caps] * tiles), 9))
    thumbnails = len(token_rows(torch.full((1, THUMBNAILS), PYRAMID.num_patches), 9))
    return num_frames // CHUNK * chunk + thumbnails


def test_documented_tokens():
    rows = ROW.findall(PAGE.read_text())
    assert len(rows) == 3
    for row in rows:
        frames, width, height, tiles, dense, gazed = (int(cell.replace(",", "")) for cell in row)
        assert plan_grid(width, height, PYRAMID.side, 48).num_tiles == tiles
        assert tokens(frames, tiles, [PYRAMID.num_patches] * CHUNK) == dense
        caps = frame_caps([0.2] + [0.06] * 15, CHUNK, PYRAMID.num_patches)
        assert tokens(frames, tiles, caps) == gazed
