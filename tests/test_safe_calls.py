"""The same gaze in every numeric mode and for every way of swapping weights (issue 16, section 8)."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import autogaze
from autogaze import Gaze, PatchPyramid
from autogaze.clips import Clips
from autogaze.errors import GeometryError
from autogaze.gaze_io import GazeWriter
from autogaze.models.autogaze import AutoGaze
from autogaze.reconstruction.canvas import canvas_losses, reconstruct
from autogaze.selectors.base import Selector
from autogaze.selectors.change import Change
from autogaze.selectors.codec import Codec
from autogaze.selectors.controls import Centre, Random
from autogaze.selectors.greedy import Greedy
from autogaze.selectors.learned import Learned
from autogaze.selectors.run_length import RunLength
from autogaze.source import Source, TileGrid
from tests.gazes import same
from tests.models.autogaze.tiny import tiny_model, tiny_video
from tests.selectors.clips import random_clips
from tests.vision_encoders.families import FAMILIES, random_frames, random_gaze

PYRAMID = PatchPyramid((32, 64), 16)
MAKERS: dict[str, Callable[[], Selector]] = {
    "greedy": lambda: Greedy(PYRAMID),
    "run-length": lambda: RunLength(PYRAMID),
    "change": lambda: Change(PYRAMID),
    "codec": lambda: Codec(PYRAMID),
    "learned": lambda: Learned(tiny_model()),
    "learned, sampled": lambda: Learned(tiny_model(), temperature=1.0),
    "learned, another grid": lambda: Learned(
        tiny_model(), pyramid=PatchPyramid((56, 112), 14, crop=True)
    ),
    "learned, fixed shapes": lambda: fixed_shapes(),
    "learned, inhibited": lambda: Learned(tiny_model(inhibition_of_return=0.05)),
    "random": lambda: Random(PYRAMID),
    "centre": lambda: Centre(PYRAMID),
}
every_selector = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
HALVES = (torch.bfloat16, torch.float16)


def fixed_shapes() -> Learned:
    model = tiny_model()
    model.static_shapes = True
    return Learned(model)


def clips_of(selector: Selector, frames: int = 4) -> Clips:
    generator = torch.Generator().manual_seed(1)
    grid = selector.pyramid.grids[-1]
    motion = 4 * torch.rand(2, frames, grid, grid, generator=generator)
    return Clips(random_clips(selector.pyramid, 2, frames, seed=1), motion)


def select(selector: Selector, clips: Clips | Tensor) -> Gaze:
    return selector.select(clips, ratio=0.3, generator=torch.Generator().manual_seed(3))


# Autocast.


@every_selector
@pytest.mark.parametrize("dtype", HALVES)
def test_autocast_changes_no_gaze(make: Callable[[], Selector], dtype: torch.dtype) -> None:
    selector = make()
    clips = clips_of(selector)
    expected = select(selector, clips)
    with torch.autocast("cpu", dtype):
        assert same(select(selector, clips), expected)
        stream = selector.stream(ratio=0.3, generator=torch.Generator().manual_seed(3))
        pieces = [stream.step(clips.frame(index)) for index in range(clips.num_frames)]
        last = stream.finish()
    assert same(Gaze.cat_frames(pieces if last is None else [*pieces, last]), expected)


@pytest.mark.parametrize("dtype", HALVES)
def test_autocast_changes_no_canvas(dtype: torch.dtype) -> None:
    clips = random_clips(PYRAMID, 2, 3, seed=0)
    gaze = Greedy(PYRAMID).select(clips, loss=0.1)
    expected = canvas_losses(clips, gaze)
    with torch.autocast("cpu", dtype):
        assert canvas_losses(clips, gaze).equal(expected)
        assert canvas_losses(clips, gaze).dtype == torch.float32


@pytest.mark.parametrize("name", FAMILIES)
def test_gazed_encoders_under_autocast_are_the_model_under_autocast(name: str) -> None:
    family = FAMILIES[name]
    model, pyramid = family.model(), family.pyramid()
    frames, gaze = random_frames(2, 3, pyramid.side), random_gaze(pyramid, 2, 3)
    encoder = autogaze.gazed(model)
    with torch.no_grad():
        exact = encoder(frames, gaze).last_hidden_state
        with torch.autocast("cpu", torch.bfloat16):
            rounded = encoder(frames, gaze).last_hidden_state
    assert rounded.isfinite().all()
    assert (rounded - exact).norm() < 0.1 * exact.norm()


# Gradients.


@every_selector
def test_frames_that_require_grad_are_gazed_at(make: Callable[[], Selector]) -> None:
    selector = make()
    clips = clips_of(selector)
    expected = select(selector, clips)
    leaf = clips.frames.clone().requires_grad_(True)
    for frames in (leaf, leaf * 1.0, leaf.to(torch.float32)[:, :]):
        gaze = select(selector, Clips(frames, clips.motion))
        assert same(gaze, expected)
        assert gaze.losses is None or not gaze.losses.requires_grad


def test_the_canvas_of_frames_that_require_grad() -> None:
    clips = random_clips(PYRAMID, 1, 3, seed=0)
    gaze = Greedy(PYRAMID).select(clips, loss=0.1)
    made = reconstruct(clips.clone().requires_grad_(True), gaze)
    assert made.losses.equal(canvas_losses(clips, gaze))
    assert not made.frames.requires_grad


@pytest.mark.parametrize("name", FAMILIES)
def test_gazed_encoders_pass_gradients_to_frames(name: str) -> None:
    family = FAMILIES[name]
    pyramid = family.pyramid()
    frames = random_frames(1, 2, pyramid.side).requires_grad_(True)
    with torch.inference_mode():  # a gaze that was made there is used in training
        gaze = random_gaze(pyramid, 1, 2)
    autogaze.gazed(family.model())(frames, gaze).last_hidden_state.square().sum().backward()
    assert frames.grad is not None
    assert frames.grad.isfinite().all()
    assert bool(frames.grad.any())


# Weights that change after a first gaze.


def average_in(model: nn.Module, other: nn.Module) -> None:
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        mine.data.copy_(theirs.data)


def one_entry(model: nn.Module, other: nn.Module) -> None:
    """Swap two rows of one weight: sums and addresses stay."""
    weight = dict(model.named_parameters())["gazing_model.gaze_decoder.lm_head.weight"]
    weight.data[[0, 1]] = weight.data[[1, 0]]


def through_numpy(model: nn.Module, other: nn.Module) -> None:
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        mine.detach().numpy()[:] = theirs.detach().numpy()


def data_swapped(model: nn.Module, other: nn.Module) -> None:
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        mine.data = theirs.data.clone()


def loaded(model: nn.Module, other: nn.Module) -> None:
    model.load_state_dict(other.state_dict(), assign=True)


@pytest.mark.parametrize(
    "change", [average_in, one_entry, through_numpy, data_swapped, loaded], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("static", [False, True])
def test_changed_weights_are_used(
    change: Callable[[nn.Module, nn.Module], None], inference: bool, static: bool
) -> None:
    model, other, video = tiny_model(0), tiny_model(1), tiny_video(2, 3)
    model.static_shapes = static
    with torch.inference_mode(inference):
        before = model({"video": video}, gazing_ratio=0.5)["gazing_pos"]
        change(model, other)
        after = model({"video": video}, gazing_ratio=0.5)["gazing_pos"]
        fresh = AutoGaze(model.config).eval()
        fresh.load_state_dict(model.state_dict())
        expected = fresh({"video": video}, gazing_ratio=0.5)["gazing_pos"]
    assert not before.equal(expected)
    assert after.equal(expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_gazed_encoders_use_changed_weights(name: str) -> None:
    family = FAMILIES[name]
    model, pyramid = family.model(0), family.pyramid()
    frames, gaze = random_frames(1, 2, pyramid.side), random_gaze(pyramid, 1, 2)
    encoder = autogaze.gazed(model)
    other = family.model(1)
    with torch.no_grad():
        encoder(frames, gaze)
        average_in(model, other)
        found = encoder(frames, gaze).last_hidden_state
        expected = autogaze.gazed(other)(frames, gaze).last_hidden_state
    assert found.equal(expected)


# Inference mode.


@every_selector
@pytest.mark.parametrize("inside_first", [True, False])
def test_streams_cross_inference_mode(make: Callable[[], Selector], inside_first: bool) -> None:
    selector = make()
    clips = clips_of(selector, frames=5)
    expected = select(selector, clips)
    stream = selector.stream(ratio=0.3, generator=torch.Generator().manual_seed(3))
    pieces = []
    for index in range(clips.num_frames):
        with torch.inference_mode((index % 2 == 0) == inside_first):
            pieces.append(stream.step(clips.frame(index)))
    last = stream.finish()
    assert same(Gaze.cat_frames(pieces if last is None else [*pieces, last]), expected)


@pytest.mark.parametrize("attention", ["torch", None])
@pytest.mark.parametrize("static", [True, False])
def test_caches_grow_outside_of_the_inference_mode_they_were_made_in(
    static: bool, attention: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if attention is not None:
        monkeypatch.setenv("AUTOGAZE_ATTENTION", attention)
    model, video = tiny_model(), tiny_video(1, 6)
    model.static_shapes = static
    expected = model.generate(video, caps=[9] * 6).to_gaze()
    stream = model.stream(1, num_frames=1, cap=9)
    gazes = []
    for index, frame in enumerate(video.split(1, dim=1)):
        with torch.inference_mode(index % 2 == 0):
            gazes.append(stream.step(frame, caps=[9]).to_gaze())
    assert same(Gaze.cat_frames(gazes), expected)


# Copies of a stream.


COPIES: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda stream: pickle.loads(pickle.dumps(stream)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@every_selector
@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES.keys())
def test_a_stream_that_has_stepped_and_its_copy_go_on_independently(
    make: Callable[[], Selector], duplicate: Callable[[Any], Any]
) -> None:
    selector = make()
    clips = clips_of(selector, frames=5)
    expected = select(selector, clips)
    streams = [selector.stream(ratio=0.3, generator=torch.Generator().manual_seed(3))]
    pieces: list[list[Gaze]] = [[streams[0].step(clips.frame(0)), streams[0].step(clips.frame(1))]]
    streams.append(duplicate(streams[0]))
    pieces.append(list(pieces[0]))
    for index in range(2, clips.num_frames):
        for stream, seen in zip(streams, pieces, strict=True):
            seen.append(stream.step(clips.frame(index)))
    for stream, seen in zip(streams, pieces, strict=True):
        last = stream.finish()
        assert same(Gaze.cat_frames(seen if last is None else [*seen, last]), expected)
    if duplicate is not COPIES["pickle"]:
        assert streams[1].selector is selector  # with the same weights


# Caps with another grid.


@pytest.mark.parametrize("cap", [1, 2, 3, 4, 5, 7, 80])
def test_the_cap_holds_with_another_grid(cap: int) -> None:
    target = PatchPyramid((56, 112), 14, crop=True)  # 2 x 2 tiles, 80 patches
    selector = Learned(tiny_model(), pyramid=target)
    clips = random_clips(target, 2, 4, seed=0)
    ratio = cap / target.num_patches
    gaze = selector.select(clips, ratio=ratio)
    most = int(ratio * target.num_patches)
    assert gaze.lengths.max() <= most
    assert gaze.lengths.min() >= 1
    if cap <= 4:
        assert (gaze.lengths == most).all()
    stream = selector.stream(ratio=ratio)
    pieces = [stream.step(clips[:, index : index + 1]) for index in range(4)]
    assert same(Gaze.cat_frames(pieces), gaze)


def test_tiles_take_turns_under_a_cap_below_their_number() -> None:
    target = PatchPyramid((56, 112), 14, crop=True)
    gaze = Learned(tiny_model(), pyramid=target).select(
        random_clips(target, 1, 4, seed=0), ratio=1 / target.num_patches
    )
    boxes = gaze.rectangles()
    tiles = (boxes[:, 1] // 56 * 2 + boxes[:, 0] // 56).tolist()
    assert sorted(tiles) == [0, 1, 2, 3]


def test_a_ratio_of_1_with_a_coarse_grid_finer_than_ours() -> None:
    target = PatchPyramid((48, 64), 16)  # 25 patches on one tile, the model has 20
    gaze = Learned(tiny_model(), pyramid=target).select(
        random_clips(target, 1, 1, seed=0), ratio=1.0
    )
    assert gaze.num_patches == 4 + 16


# Parts of a gaze.


def chunked_gaze(frames: int, chunk: int) -> tuple[Tensor, Gaze]:
    clips = random_clips(PYRAMID, 2, frames, seed=4)
    selector = Greedy(PYRAMID)
    parts = [selector.select(part, ratio=0.2) for part in clips.split(chunk, dim=1)]
    numbers = tuple(range(frames))
    tiles = TileGrid(128, 64, 2, 1, 64, 128, 64)
    source = Source(tiles, tuple(map(float, numbers)), numbers, chunk)
    return clips, replace(Gaze.cat_frames(parts), source=source)


@pytest.mark.parametrize(("start", "stop"), [(0, 11), (4, 11), (2, 11), (3, 5), (5, 7), (8, 8)])
def test_a_part_of_a_gaze_restarts_the_canvas_where_its_chunks_start(start: int, stop: int) -> None:
    clips, gaze = chunked_gaze(11, 4)
    part = gaze.frames(start, stop)
    assert part.source is not None
    assert part.source.chunk_starts == tuple(at - start for at in (0, 4, 8) if start <= at < stop)
    losses = canvas_losses(clips[:, start:stop], part)
    first_border = min(-(-start // 4) * 4, stop)  # from here on all is as in the whole
    assert losses[:, first_border - start :].equal(canvas_losses(clips, gaze)[:, first_border:stop])


@pytest.mark.parametrize("cuts", [(3,), (4,), (1, 2, 9), (5, 6, 7, 8)])
def test_parts_joined_are_the_whole(cuts: tuple[int, ...], tmp_path: Path) -> None:
    clips, gaze = chunked_gaze(11, 4)
    edges = (0, *cuts, 11)
    parts = [gaze.frames(a, b) for a, b in pairwise(edges)]
    joined = Gaze.cat_frames(parts)
    assert same(joined, gaze)
    assert canvas_losses(clips, joined).equal(canvas_losses(clips, gaze))
    for number, part in enumerate(parts):  # and each by itself survives a file
        part.save(tmp_path / f"{number}.safetensors")
        assert same(Gaze.load(tmp_path / f"{number}.safetensors"), part)
    with GazeWriter(tmp_path / "joined.safetensors") as writer:
        for part in parts:
            writer.add(part)
    assert same(Gaze.load(tmp_path / "joined.safetensors"), gaze)


def test_two_ranges_of_a_video_joined_keep_their_borders() -> None:
    clips, gaze = chunked_gaze(11, 4)
    first, second = gaze.frames(0, 6), gaze.frames(8, 11)
    joined = Gaze.cat_frames([first, second])
    assert joined.source is not None
    assert joined.source.chunk_starts == (0, 4, 6)
    seen = torch.cat([clips[:, :6], clips[:, 8:]], 1)
    whole = canvas_losses(clips, gaze)
    assert canvas_losses(seen, joined).equal(torch.cat([whole[:, :6], whole[:, 8:]], 1))


def test_starts_that_cannot_be() -> None:
    _, gaze = chunked_gaze(4, 4)
    assert gaze.source is not None
    for starts in ((-1,), (4,), (2, 1), (1, 1)):
        with pytest.raises(GeometryError):
            replace(gaze.source, starts=starts)


# What a gaze checks.


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("ids", [[3, 3], [-1, 0], [0, 20], [0, 5, 0]])
def test_ids_are_checked_on_every_device(device: str, ids: list[int]) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU here")
    with pytest.raises(GeometryError):
        Gaze(PYRAMID, torch.tensor(ids, device=device), torch.tensor([[len(ids)]]))
    with torch.inference_mode(), pytest.raises(GeometryError):
        Gaze(PYRAMID, torch.tensor(ids, device=device), torch.tensor([[len(ids)]]))


def test_a_copied_model_gazes_alike() -> None:
    model, video = tiny_model(), tiny_video(1, 2)
    expected = model.generate(video, caps=[5, 5]).to_gaze()
    assert same(copy.deepcopy(model).generate(video, caps=[5, 5]).to_gaze(), expected)
