import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autogaze import Gaze, PatchPyramid
from autogaze.errors import AutoGazeError, GeometryError, OutputError
from autogaze.gaze_checks import count_distinct, frames_by_search
from autogaze.source import Source, TileGrid
from tests.gazes import SMALL, gazes, same

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.cuda,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
        ],
    ),
]


def tiled_source(frames: int) -> Source:
    """A 100 x 60 video on 2 x 1 tiles of 64 pixels, the right and lower edge padded."""
    grid = TileGrid(100, 60, columns=2, rows=1, side=64, content_width=100, content_height=60)
    return Source(grid, tuple(t / 10 for t in range(frames)), tuple(range(frames)), path="a.mp4")


@given(gazes())
def test_padded_and_back(gaze):
    padded = gaze.padded()
    slots = padded["num_gazing_each_frame"]
    assert slots.tolist() == gaze.lengths.max(0).values.tolist()
    assert padded["gazing_pos"].shape == (gaze.num_clips, int(slots.sum()))
    back = Gaze.from_padded(padded, gaze.pyramid, losses=gaze.losses, metric=gaze.metric)
    assert same(back, gaze)


@given(gazes())
def test_ids_in_padded_slots_are_never_read(gaze):
    padded = gaze.padded()
    padded["gazing_pos"][padded["if_padded_gazing"]] = -12345
    back = Gaze.from_padded(padded, gaze.pyramid, losses=gaze.losses, metric=gaze.metric)
    assert same(back, gaze)


@given(gazes())
def test_masks_hold_exactly_the_ids(gaze):
    joined = torch.cat(gaze.masks(), -1)
    assert joined.equal(gaze.mask)
    for clip in range(gaze.num_clips):
        for frame in range(gaze.num_frames):
            chosen = joined[clip, frame].nonzero()[:, 0]
            assert chosen.equal(gaze.frame(clip, frame).sort().values)
    again = Gaze.from_mask(gaze.pyramid, gaze.mask)
    assert again.mask.equal(gaze.mask)
    assert again.lengths.equal(gaze.lengths)


@given(gazes(), st.data())
def test_cutting_in_time_and_joining_again(gaze, data):
    cut = data.draw(st.integers(0, gaze.num_frames))
    parts = [gaze.frames(0, cut), gaze.frames(cut, gaze.num_frames)]
    assert same(Gaze.cat_frames(parts), gaze)
    assert same(Gaze.cat_clips(list(gaze)), gaze)


@given(gazes())
def test_files_keep_every_value(tmp_path_factory, gaze):
    path = tmp_path_factory.mktemp("gaze") / "a.safetensors"
    gaze.save(path)
    assert same(Gaze.load(path), gaze)


def test_files_keep_the_source(tmp_path):
    gaze = Gaze(SMALL, torch.tensor([0, 5]), torch.tensor([[1, 0], [1, 0]]), source=tiled_source(2))
    gaze.save(tmp_path / "a.safetensors")
    assert same(Gaze.load(tmp_path / "a.safetensors"), gaze)


def test_rectangles_are_pixels_of_the_source():
    # Id 1 is the coarse patch at the top right, id 19 the fine one at the bottom right.
    gaze = Gaze(SMALL, torch.tensor([1, 1, 19]), torch.tensor([[1], [2]]), source=tiled_source(1))
    assert gaze.rectangles().tolist() == [[32, 0, 64, 32], [96, 0, 100, 32], [100, 48, 100, 60]]


def test_everything_is_everything():
    gaze = Gaze.everything(PatchPyramid(), 2, 3)
    assert gaze.ratio == 1
    assert bool(gaze.mask.all())


def test_prints_its_shape_and_not_its_tensors():
    text = repr(Gaze.everything(PatchPyramid(), 2, 3))
    assert text == (
        "Gaze(clips=2, frames=3, patches=1590, ratio=1.0000, pyramid=32+64+112+224 / 16)"
    )


def test_the_metric_under_its_old_name():
    gaze = Gaze.from_mask(SMALL, torch.zeros(1, 1, 20, dtype=torch.bool), metric="canvas")
    with pytest.warns(DeprecationWarning, match="metric"):
        assert gaze.judge == "canvas"


def test_gazes_that_do_not_belong_together_are_not_joined():
    with pytest.raises(GeometryError, match="no gazes"):
        Gaze.cat_frames([])
    one, two = Gaze.everything(SMALL, 1, 2), Gaze.everything(SMALL, 2, 3)
    with pytest.raises(GeometryError, match=r"\[1, 2\]"):
        Gaze.cat_frames([one, two])
    with pytest.raises(GeometryError, match=r"\[2, 3\]"):
        Gaze.cat_clips([one, two])
    with pytest.raises(GeometryError, match=r"32\+64\+112\+224"):
        Gaze.cat_clips([one, Gaze.everything(PatchPyramid(), 1, 2)])


@given(st.lists(st.integers(0, 19), min_size=1), st.sampled_from([20, 10_000]))
def test_distinct_numbers_are_counted_by_a_table_and_by_sorting(numbers, num_slots):
    assert int(count_distinct(torch.tensor(numbers), num_slots)) == len(set(numbers))


def test_is_frozen():
    gaze = Gaze.everything(SMALL, 1, 1)
    with pytest.raises(AttributeError):
        gaze.ids = gaze.ids


@pytest.mark.parametrize(
    ("ids", "lengths", "words"),
    [
        ([0, 20], [[2]], r"\[0, 20\), got ids from 0 to 20"),
        ([-1], [[1]], "got ids from -1"),
        ([3, 3], [[2]], r"patch 3 .*twice.*frame 0 .*clip 0"),
        # So few of all patches that they are sorted.
        ([3, 3], [[0, 0], [0, 2]], r"patch 3 .*twice.*frame 1 .*clip 1"),
        ([1, 2], [[3]], r"lengths .*\b3 patches.*\b2 ids"),
        ([1, 2], [[3, -1]], r"lengths .*\b2 ids"),
    ],
)
@pytest.mark.parametrize("device", DEVICES)
def test_impossible_gazes_are_refused(ids, lengths, words, device):
    for where in ("cpu", device):
        with pytest.raises(GeometryError, match=words):
            Gaze(SMALL, torch.tensor(ids, device=device), torch.tensor(lengths, device=where))


@pytest.mark.parametrize("device", DEVICES)
def test_the_same_id_may_come_in_other_frames(device):
    gaze = Gaze(
        SMALL, torch.tensor([3, 3], device=device), torch.tensor([[1, 0, 1]], device=device)
    )
    assert gaze.lengths.tolist() == [[1, 0, 1]]
    assert gaze.lengths.device.type == "cpu"
    assert gaze.frame_of_patch.tolist() == [0, 2]
    assert gaze.frame_of_patch.device == gaze.device


@given(gazes())
def test_frames_are_found_without_waiting_for_their_counts(gaze):
    found = frames_by_search(gaze.lengths.flatten(), gaze.num_patches)
    assert found.equal(gaze.frame_of_patch)


def test_patches_that_nobody_counts_lie_behind_the_last_frame():
    assert frames_by_search(torch.tensor([1, 0, 2]), 5).tolist() == [0, 2, 2, 3, 3]


def test_a_gaze_of_another_pyramid_is_refused():
    padded = Gaze.everything(SMALL, 1, 2).padded()
    with pytest.raises(GeometryError, match=r"20 patches.*265"):
        Gaze.from_padded(padded, PatchPyramid())
    del padded["if_padded_gazing"]
    with pytest.raises(GeometryError, match="no 'if_padded_gazing'"):
        Gaze.from_padded(padded, SMALL)


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(AutoGazeError, match=r"missing\.safetensors: no such"):
        Gaze.load(tmp_path / "missing.safetensors")
    (tmp_path / "text").write_text("not a gaze")
    with pytest.raises(AutoGazeError, match=r"/text: .*\breadable\b"):
        Gaze.load(tmp_path / "text")
    from safetensors.torch import save_file

    save_file({"ids": torch.zeros(1)}, tmp_path / "other")
    with pytest.raises(AutoGazeError, match=r"/other: .*\bautogaze\.gaze version 1\b"):
        Gaze.load(tmp_path / "other")


def test_saving_leaves_nothing_half_written(tmp_path, monkeypatch):
    gaze = Gaze.everything(SMALL, 1, 1)
    gaze.save(tmp_path / "a.safetensors")
    before = (tmp_path / "a.safetensors").read_bytes()

    def full(writer, file):  # the header and the lengths are written by then
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("autogaze.gaze_io.GazeWriter._copy_ids", full)
    with pytest.raises(OutputError, match=r"a\.safetensors: .*No space left"):
        gaze.save(tmp_path / "a.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
    assert (tmp_path / "a.safetensors").read_bytes() == before
    with pytest.raises(OutputError, match="does not exist"):
        gaze.save(tmp_path / "nowhere" / "a.safetensors")
