"""The virtual camera stays on its photograph; compositions and procedural clips move."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autogaze.datasets.camera import CameraClips, CameraPath, CameraSettings, draw_path, render
from autogaze.datasets.clip import ClipKey, TrainingClip, UnreadableClip
from autogaze.datasets.composed import ComposedClips, CompositionSettings, compose
from autogaze.datasets.procedural import ProceduralClips, ProceduralSettings
from autogaze.errors import TrainingError
from autogaze.utils.seeding import seeded
from tests.datasets.pictures import make_pictures


@given(
    seed=st.integers(0, 10**6),
    width=st.integers(40, 400),
    height=st.integers(40, 400),
    turn=st.sampled_from([0.0, 10.0, 90.0, 360.0]),
    view=st.sampled_from([(0.3, 0.9), (1.0, 1.0), (0.1, 0.2)]),
    pan=st.sampled_from([0.0, 0.8, 5.0]),
)
@settings(deadline=None, max_examples=200)
def test_views_never_leave_the_picture(seed, width, height, turn, view, pan):
    chosen = CameraSettings(max_turn=turn, min_view=view[0], max_view=view[1], max_pan=pan)
    path = draw_path(width, height, chosen, seeded(seed))
    corners = torch.tensor([[-1.0, -1], [-1, 1], [1, -1], [1, 1]]) / 2
    for centre, size, angle in zip(path.centre, path.size, path.turn, strict=True):
        cos, sin = math.cos(angle), math.sin(angle)
        turned = corners @ torch.tensor([[cos, sin], [-sin, cos]]) * size + centre
        assert size > 0
        assert turned.min() >= -1e-2
        assert (turned <= torch.tensor([width, height]) + 1e-2).all()


def test_a_view_shows_what_is_under_it():
    picture = torch.randint(256, (3, 40, 60), dtype=torch.uint8)
    still = CameraPath(torch.tensor([[30.0, 16.0]]), torch.tensor([16.0]), torch.zeros(1))
    assert torch.equal(render(picture, still, 16)[0], picture[:, 8:24, 22:38])
    # A quarter turn: what was on the right is on top.
    turned = CameraPath(still.centre, still.size, torch.tensor([math.pi / 2]))
    assert torch.equal(render(picture, turned, 16)[0], picture[:, 8:24, 22:38].rot90(1, (1, 2)))


def test_a_large_view_is_averaged_where_it_stands():
    # 7 x 3 + 1 pixels: the last column and row fit into no average of 3.
    picture = torch.zeros(3, 22, 22, dtype=torch.uint8)
    picture[:, :3, 18:21] = 240
    whole = CameraPath(torch.tensor([[10.5, 10.5]]), torch.tensor([21.0]), torch.zeros(1))
    shown = render(picture, whole, 7)[0, 0]
    assert shown[0, 6] == 240
    assert shown.sum(dtype=torch.long) == 240


def test_photographs_are_filmed_in_motion(tmp_path):
    still = CameraSettings(clip_len=3, side=32, max_pan=0, max_zoom=1, max_turn=0)
    clip = CameraClips([make_pictures(tmp_path)], still)[0].frames
    assert torch.equal(clip[0], clip[2])
    moving = CameraSettings(clip_len=3, side=32)
    clip = CameraClips([tmp_path], moving)[0].frames
    assert not torch.equal(clip[0], clip[1])


def test_several_clips_per_picture_differ(tmp_path):
    clips = CameraClips(
        [make_pictures(tmp_path, 2)], CameraSettings(clip_len=2, side=16), clips_per_picture=3
    )
    assert len(clips) == 6
    photographs = [clips[number].name.partition("#")[0] for number in range(6)]
    assert photographs[0] == photographs[2] != photographs[1]
    assert not torch.equal(clips[0].frames, clips[2].frames)


@pytest.mark.parametrize("kind", [CameraClips, ComposedClips])
def test_names_tell_clips_apart(tmp_path, kind):
    make_pictures(tmp_path, 2)
    still = CameraSettings(clip_len=2, side=16)
    still = still if kind is CameraClips else CompositionSettings(still)
    clips = kind([tmp_path], still, clips_per_picture=2)
    names = [clips[ClipKey(epoch, n)].name for epoch in (0, 1) for n in range(4)]
    assert len(set(names)) == 8
    assert [clips.name(n) for n in range(4)] == names[:4]
    again = kind([tmp_path], still, clips_per_picture=2)
    assert again.name(0) == clips.name(0)
    for other in (kind([tmp_path], still, seed=1), kind([tmp_path])):
        assert other.name(0) != clips.name(0)


@pytest.mark.parametrize("kind", [CameraClips, ComposedClips])
def test_pictures_in_memory_are_those_on_disk(tmp_path, kind):
    make_pictures(tmp_path, 2)
    (tmp_path / "9.jpg").write_bytes(b"\xff\xd8 nothing")
    plain, cached = (
        kind([tmp_path], clips_per_picture=2),
        kind([tmp_path], clips_per_picture=2, cache=True),
    )
    wanted = [plain[number] for number in range(6)]
    for path in tmp_path.iterdir():
        path.unlink()
    for number, clip in enumerate(wanted):
        if isinstance(clip, TrainingClip):
            assert torch.equal(cached[number].frames, clip.frames)
        else:
            assert cached[number] == clip
    assert any(isinstance(clip, UnreadableClip) for clip in wanted)
    assert any(isinstance(clip, TrainingClip) for clip in wanted)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (CameraSettings, {"min_view": 0.9, "max_view": 0.3}, "got 0.9 and 0.3"),
        (CameraSettings, {"max_zoom": 0.5}, "max_zoom must be at least 1"),
        (CompositionSettings, {"max_cutouts": 0}, "at least 1, got 0"),
        (CompositionSettings, {"min_size": 0.0}, "0 < min_size"),
        (CompositionSettings, {"max_growth": 0.5}, "max_growth must be at least 1"),
        (ProceduralSettings, {"max_shapes": 0}, "max_shapes must be at least 1"),
        (ProceduralSettings, {"max_speed": -1.0}, "must not be negative"),
    ],
)
def test_settings_that_describe_nothing_are_refused(kind, options, message):
    with pytest.raises(TrainingError, match=message):
        kind(**options)


def test_cutouts_move_over_the_background():
    ground = torch.full((3, 80, 80), 50, dtype=torch.uint8)
    others = [torch.full((3, 60, 60), 200, dtype=torch.uint8)]
    chosen = CompositionSettings(CameraSettings(clip_len=4, side=64))
    for seed in range(8):
        frames = compose(ground, others, chosen, seeded(seed))
        assert frames.unique().min() >= 50
        assert frames.unique().max() <= 200
        covered = (frames > 125).float().mean((1, 2, 3))
        assert covered.max() > 0.003  # something lies there
        assert covered.max() < 0.5  # and not everywhere
        softened = ((frames > 60) & (frames < 190)).any()
        assert softened  # edges are soft


def test_still_cutouts_on_a_still_background_stand_still():
    chosen = CompositionSettings(
        CameraSettings(clip_len=3, side=32, max_pan=0, max_zoom=1, max_turn=0),
        max_speed=0,
        max_turn=0,
        max_growth=1,
    )
    pictures = [torch.randint(256, (3, 50, 50), dtype=torch.uint8) for _ in range(2)]
    frames = compose(pictures[0], pictures[1:], chosen, seeded(0))
    assert torch.equal(frames[0], frames[2])


@pytest.mark.parametrize("kind", [CameraClips, ComposedClips])
def test_bad_pictures_are_reported_and_none_at_all_refused(tmp_path, kind):
    with pytest.raises(TrainingError, match=r"no pictures .* in .*nowhere"):
        kind([tmp_path / "nowhere"])
    make_pictures(tmp_path, 1)
    (tmp_path / "9.jpg").write_bytes(b"\xff\xd8 nothing")
    clips = kind([tmp_path])
    found = [clips[number] for number in range(len(clips))]
    bad = [clip for clip in found if isinstance(clip, UnreadableClip)]
    assert bad
    assert all(clip.name.endswith("/9.jpg") and "9.jpg" in clip.cause for clip in bad)


def test_procedural_clips_have_things_that_move():
    clips = ProceduralClips(6, ProceduralSettings(clip_len=4, side=48))
    moved = [clips[n].frames[0].ne(clips[n].frames[3]).float().mean() for n in range(6)]
    assert min(moved) > 0.01
    assert isinstance(clips[0], TrainingClip)
    # Half of the clips have a still background: most of their pixels stay.
    assert min(moved) < 0.6 < max(moved)
