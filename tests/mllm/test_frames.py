import importlib
from functools import partial

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn.functional import interpolate

from autogaze.errors import MLLMError
from autogaze.mllm.frames import (
    PatchFormat,
    bounded_size,
    check_aspect,
    clip_size,
    cut_units,
    native_size,
)
from autogaze.mllm.units import KeptUnits, UnitGrid

FORM = PatchFormat(4, 2, 2, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))


def layout(patch):
    return PatchFormat(patch, 2, 2, FORM.mean, FORM.std)


def frames(count, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), generator=generator).byte()


def dense(video, rows, columns, form=FORM):
    """All patches of a clip, in raster order of tubelets, units and patches, one by one."""
    size = (rows * form.unit, columns * form.unit)
    sized = interpolate(video, size=size, mode="bicubic", antialias=True).double() / 255
    mean, std = (torch.tensor(x).double()[:, None, None] for x in (form.mean, form.std))
    sized = (sized - mean) / std
    if len(sized) % form.tubelet:
        sized = torch.cat([sized, sized[-1:]])
    out = []
    for t in range(0, len(sized), form.tubelet):
        for row in range(rows):
            for column in range(columns):
                for y in range(form.merge):
                    for x in range(form.merge):
                        top = (row * form.merge + y) * form.patch
                        left = (column * form.merge + x) * form.patch
                        area = slice(top, top + form.patch), slice(left, left + form.patch)
                        part = sized[t : t + form.tubelet, :, area[0], area[1]]
                        out.append(part.transpose(0, 1).flatten())
    return torch.stack(out)


@pytest.mark.parametrize("count", [4, 5])
def test_everything_kept_is_the_dense_preparation(count):
    video = frames(count, 31, 45)
    kept = KeptUnits.everything(UnitGrid((count + 1) // 2, ((3, 5),)))
    rows = cut_units(video, kept, FORM)
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.double(), dense(video, 3, 5), atol=2e-6, rtol=0)


@pytest.mark.parametrize("unit", [28, 32, 48, 56, 64, 96])
@pytest.mark.parametrize(("height", "width"), [(17, 17), (2, 400), (55, 300), (49, 9800), (1, 200)])
def test_every_frame_has_a_unit(unit, height, width):
    """Whatever bounds a file has, 0 pixels too."""
    form = PatchFormat(unit // 2, 2, 2, FORM.mean, FORM.std)
    for size in (
        bounded_size(height, width, form, 0, 768 * 28**2),
        clip_size(height, width, 1, form, 0, 768 * 28**2),
        native_size(height, width, unit),
    ):
        assert all(side >= unit and side % unit == 0 for side in size)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))
def test_kept_units_are_rows_of_the_dense_preparation(seed, count, rows, columns):
    video = frames(count, 20, 30, seed % 1000)
    grid = UnitGrid((count + 1) // 2, ((rows, columns),))
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(grid.tubelets, grid.num_units, generator=generator) < 0.4
    mask[0, 0] = True
    kept = KeptUnits.from_mask(grid, mask)
    every = dense(video, rows, columns).unflatten(0, (-1, 4))
    expected = every[mask.flatten()].flatten(0, 1)
    torch.testing.assert_close(cut_units(video, kept, FORM).double(), expected, atol=2e-6, rtol=0)


def test_a_chunk_of_tubelets_gives_its_rows_of_the_whole():
    video = frames(7, 24, 32)
    grid = UnitGrid(4, ((3, 4),))
    kept = KeptUnits.from_lists(grid, [[3, 1], [], [0, 11], [5]])
    whole = cut_units(video, kept, FORM)
    parts = [cut_units(video[:4], kept.between(0, 2), FORM)]
    parts.append(cut_units(video[4:], kept.between(2, 4), FORM))
    assert torch.equal(torch.cat(parts), whole)


def test_grids_of_units_are_frames_of_their_own_sizes():
    video = frames(4, 32, 32)
    grid = UnitGrid(2, ((1, 2), (2, 4)))
    kept = KeptUnits.from_lists(grid, [[1, 2, 9], [0]])
    coarse, fine = dense(video, 1, 2), dense(video, 2, 4)
    by_unit = [coarse[4:8], fine[0:4], fine[28:32], coarse[8:12]]
    rows = cut_units(video, kept, FORM).double()
    torch.testing.assert_close(rows, torch.cat(by_unit), atol=2e-6, rtol=0)


@pytest.mark.parametrize("count", [2, 5])
def test_frames_of_another_number_of_tubelets_are_refused(count):
    kept = KeptUnits.everything(UnitGrid(2, ((1, 1),)))
    with pytest.raises(MLLMError, match=f"{count} frames"):
        cut_units(frames(count, 8, 8), kept, FORM)


def test_sizes_of_qwen_frames():
    # Figures of the stock processors' rule for one frame and for a whole clip.
    frame = partial(bounded_size, form=layout(14), min_pixels=128 * 28**2, max_pixels=768 * 28**2)
    assert frame(1080, 1920) == (560, 1008)
    assert frame(100, 100) == (336, 336)
    assert frame(1, 200) == (28, 4480)  # below a unit
    clip = partial(clip_size, form=layout(16), min_pixels=128 * 32**2, max_pixels=24576 * 32**2)
    assert clip(1080, 1920, 128) == (320, 576)
    assert clip(2160, 3840, 256) == (224, 416)
    assert clip(3584, 3584, 1024) == (128, 128)
    assert clip(1080, 1920, 4) == (1088, 1920)
    assert clip(1080, 1920, 1) == clip(1080, 1920, 2)  # shorter than a tubelet
    assert clip(1, 200, 2) == (32, 6400)
    assert native_size(1080, 1920, 32) == (1088, 1920)
    assert native_size(9, 20, 32) == (32, 64)


def stock_module():
    """The module of the stock image processor that needs no torchvision."""
    family = "transformers.models.qwen2_vl.image_processing"
    has_two = hasattr(transformers, "Qwen2VLImageProcessorPil")
    return importlib.import_module(f"{family}_pil_qwen2_vl" if has_two else f"{family}_qwen2_vl")


def test_a_strip_is_refused():
    with pytest.raises(MLLMError, match="2010 x 10"):
        check_aspect(10, 2010)


def test_pixels_are_those_of_the_image_processor():
    generator = np.random.default_rng(0)
    picture = generator.integers(0, 256, (90, 130, 3), dtype=np.uint8)
    stock = stock_module()
    stock_class = getattr(stock, "Qwen2VLImageProcessorPil", None) or stock.Qwen2VLImageProcessor
    processor = stock_class(min_pixels=28 * 28, max_pixels=28 * 28 * 9)
    made = processor(Image.fromarray(picture), return_tensors="pt")
    form = PatchFormat(14, 2, 2, tuple(processor.image_mean), tuple(processor.image_std))
    height, width = bounded_size(90, 130, form, 28 * 28, 28 * 28 * 9)
    assert made["image_grid_thw"].tolist() == [[1, height // 14, width // 14]]
    kept = KeptUnits.everything(UnitGrid(1, ((height // 28, width // 28),)))
    rows = cut_units(torch.from_numpy(picture).permute(2, 0, 1)[None], kept, form)
    off = (rows - made["pixel_values"]).abs().unflatten(1, (3, -1))
    levels = off * torch.tensor(form.std)[:, None] * 255
    assert float(levels.max()) <= 1.001  # Pillow rounds between its two passes
