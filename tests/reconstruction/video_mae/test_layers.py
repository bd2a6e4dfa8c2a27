"""The parts of a VideoMAE: position tables and cells."""

import math

import torch

from autogaze.reconstruction.video_mae.layers import (
    DecoderCells,
    grid_positions,
    resized_1d,
    resized_2d,
)
from tests.reconstruction.video_mae.material import SMALL, some_gaze


def test_decoder_cells_hold_everything_once():
    gaze = some_gaze(seed=3)
    cells = DecoderCells.of(gaze, [1], torch.device("cpu"))
    V = SMALL.pyramid.num_patches
    assert cells.lengths[:, 1].tolist() == [V, V]
    assert torch.equal(cells.lengths[:, [0, 2, 3]], gaze.lengths[:, [0, 2, 3]])
    assert torch.equal(cells.ids[cells.gazed], gaze.ids)
    assert len(cells.gazed.unique()) == gaze.num_patches
    whole = cells.ids[cells.is_target].view(2, V)
    assert torch.equal(whole, torch.arange(V).expand(2, V))


def test_position_tables():
    # ViT-MAE's layout: sines and cosines of the column, then of the row.
    table = grid_positions(16, 24)
    assert not table[0].any()
    for cell in range(16):
        row, column = divmod(cell, 4)
        rates = [10000 ** (-k / 6) for k in range(6)]
        wanted = [
            function(place * rate)
            for place in (column, row)
            for function in (math.sin, math.cos)
            for rate in rates
        ]
        torch.testing.assert_close(table[cell + 1], torch.tensor(wanted))


def test_resized_tables():
    table = grid_positions(16, 24)[1:]
    assert resized_2d(table, 4) is table
    assert resized_2d(table, 2).shape == (4, 24)
    assert resized_1d(table, 4).shape == (4, 24)
