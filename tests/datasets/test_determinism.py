"""Every dataset: a clip follows from the seed, the epoch and its number."""

import pytest
import torch
from torch.utils.data import DataLoader

from autogaze.datasets.augmentation import Augmentation
from autogaze.datasets.camera import CameraClips, CameraSettings
from autogaze.datasets.clip import ClipKey, TrainingClip, collate
from autogaze.datasets.composed import ComposedClips, CompositionSettings
from autogaze.datasets.decoded import DecodedClips, save_decoded
from autogaze.datasets.mixture import MixedClips
from autogaze.datasets.procedural import ProceduralClips, ProceduralSettings
from autogaze.datasets.video_windows import VideoWindows, Window
from tests.clips import make_video
from tests.datasets.pictures import make_pictures, some_frames

T, SIDE = 4, 32
CAMERA = CameraSettings(clip_len=T, side=SIDE)
PROCEDURAL = ProceduralSettings(clip_len=T, side=SIDE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    make_pictures(root / "photos")
    (root / "videos" / "train").mkdir(parents=True)
    for name in ("a", "b"):
        make_video(root / "videos" / "train" / f"{name}.mp4", 30)
    clips = [TrainingClip(some_frames(seed=seed), f"clip {seed}") for seed in range(3)]
    save_decoded(clips, root / "decoded.safetensors")
    return root


def build(kind, folder, seed=0):
    if kind == "camera":
        return CameraClips([folder / "photos"], CAMERA, seed=seed)
    if kind == "composed":
        return ComposedClips([folder / "photos"], CompositionSettings(CAMERA), seed=seed)
    if kind == "procedural":
        return ProceduralClips(5, PROCEDURAL, seed=seed)
    if kind == "decoded":
        paths = [folder / "decoded.safetensors"]
        return DecodedClips(paths, augmentation=Augmentation(), seed=seed)
    if kind == "videos":
        window = Window(T, random=True)
        return VideoWindows([folder / "videos"], window=window, side=SIDE, seed=seed)
    parts = [build("camera", folder), build("procedural", folder)]
    return MixedClips(parts, [1, 2], num_clips=12, seed=seed)


KINDS = ("camera", "composed", "procedural", "decoded", "videos", "mixture")
every_kind = pytest.mark.parametrize("kind", KINDS)


def frames_of(dataset, epoch):
    return [dataset[ClipKey(epoch, number)].frames for number in range(len(dataset))]


def same(some, others):
    return all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


@every_kind
def test_clips_have_their_shape(kind, folder):
    found = frames_of(build(kind, folder), 0)
    assert found
    for frames in found:
        assert frames.shape == (T, 3, SIDE, SIDE)
        assert frames.dtype == torch.uint8


@every_kind
def test_seed_epoch_and_number_decide(kind, folder):
    first = frames_of(build(kind, folder), 1)
    assert same(first, frames_of(build(kind, folder), 1))
    assert not same(first, frames_of(build(kind, folder), 2))
    assert not same(first, frames_of(build(kind, folder, seed=1), 1))


@every_kind
def test_order_and_other_random_numbers_do_not_matter(kind, folder):
    dataset = build(kind, folder)
    wanted = frames_of(dataset, 3)
    torch.manual_seed(1234)
    for number in reversed(range(len(dataset))):
        torch.rand(7)
        dataset[ClipKey(5, number)]
        assert torch.equal(dataset[ClipKey(3, number)].frames, wanted[number])


@every_kind
def test_a_number_alone_is_one_of_epoch_0(kind, folder):
    dataset = build(kind, folder)
    assert torch.equal(dataset[1].frames, dataset[ClipKey(0, 1)].frames)


@pytest.mark.parametrize("kind", ["procedural", "videos"])
def test_worker_processes_change_nothing(kind, folder):
    dataset = build(kind, folder)
    keys = [ClipKey(2, number) for number in range(len(dataset))]
    alone = collate([dataset[key] for key in keys])
    loader = DataLoader(dataset, batch_size=1, sampler=keys, num_workers=2, collate_fn=collate)
    found = list(loader)
    assert [batch.names[0] for batch in found] == list(alone.names)
    assert torch.equal(torch.cat([batch.frames for batch in found]), alone.frames)


@pytest.mark.parametrize("kind", ["camera", "composed", "procedural"])
def test_fixed_clips_are_the_same_in_every_epoch(kind, folder):
    dataset = build(kind, folder)
    dataset.fixed = True
    assert same(frames_of(dataset, 0), frames_of(dataset, 1))
