"""Changes of cells by the C kernel are PyTorch's, bit for bit."""

import numpy as np
import pytest
import torch

from autogaze import PatchPyramid
from autogaze.selectors import finest_cells
from autogaze.selectors.finest_cells import cell_changes, changes_by_torch, changes_kernel
from autogaze.utils.normalization import IMAGENET

DEFAULT = PatchPyramid()
STD = torch.tensor(IMAGENET.std).view(3, 1, 1)
NEEDS_KERNEL = pytest.mark.skipif(
    changes_kernel(DEFAULT) is None,
    reason="no kernel here: PyTorch does the work",
)


def frames(clips: int, side: int, noise: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two frames of every clip, that differ by at most `noise`."""
    rng = np.random.default_rng(clips)
    first = rng.integers(0, 256, (clips, 3, side, side))
    second = np.clip(first + rng.integers(-noise, noise + 1, first.shape), 0, 255)
    return torch.from_numpy(first.astype(np.uint8)), torch.from_numpy(second.astype(np.uint8))


@NEEDS_KERNEL
@pytest.mark.parametrize("clips", [1, 2, 5])
@pytest.mark.parametrize("noise", [0, 3, 255])
@pytest.mark.parametrize("std", [None, STD])
def test_equal_to_pytorchs(clips, noise, std):
    one, other = frames(clips, DEFAULT.side, noise)
    kernel = changes_kernel(DEFAULT)
    expected = changes_by_torch(one, other, DEFAULT, std)
    assert torch.equal(kernel(one, other, std), expected)
    assert torch.equal(cell_changes(one, other, DEFAULT, std), expected)


@NEEDS_KERNEL
def test_any_strides_and_several_threads():
    one, other = frames(4, DEFAULT.side, 9)
    expected = changes_by_torch(one, other, DEFAULT, STD)
    turned = one.transpose(2, 3).contiguous().transpose(2, 3)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(cell_changes(turned, other, DEFAULT, STD), expected)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("pyramid", [PatchPyramid((16, 32), 8), PatchPyramid((14, 56), 14)])
def test_pyramids_whose_sums_differ_are_left_to_pytorch(pyramid):
    one, other = frames(3, pyramid.side, 9)
    found = cell_changes(one, other, pyramid, STD)
    assert torch.equal(found, changes_by_torch(one, other, pyramid, STD))


def test_another_result_is_no_kernel(monkeypatch):
    def wrong(frames, others, pyramid, std):
        return changes_by_torch(frames, others, pyramid, std) + 1e-6

    monkeypatch.setattr(finest_cells, "changes_by_torch", wrong)
    assert changes_kernel.__wrapped__(DEFAULT) is None


def test_floats_are_left_to_pytorch():
    one, other = (picture.float() / 255 for picture in frames(2, DEFAULT.side, 9))
    assert torch.equal(
        cell_changes(one, other, DEFAULT), changes_by_torch(one, other, DEFAULT, None)
    )
