"""Clips decoded beforehand, for machines without PyAV."""

import pytest
import torch
from safetensors.torch import save_file

from autogaze.datasets.clip import TrainingClip, UnreadableClip
from autogaze.datasets.decoded import DecodedClips, save_decoded
from autogaze.errors import TrainingError
from tests.datasets.pictures import some_frames


def test_round_trip(tmp_path):
    clips = [TrainingClip(some_frames(seed=n), f"set/train/{n}.mp4") for n in range(4)]
    assert save_decoded(clips[:3], tmp_path / "a.safetensors") == 3
    assert save_decoded(iter(clips[3:]), tmp_path / "b.safetensors") == 1
    found = DecodedClips([tmp_path / "a.safetensors", tmp_path / "b.safetensors"])
    assert len(found) == 4
    for number, clip in enumerate(clips):
        assert found[number].name == clip.name
        assert torch.equal(found[number].frames, clip.frames)


def test_a_file_that_breaks_after_it_was_opened_makes_its_clips_unreadable(tmp_path):
    path = tmp_path / "a.safetensors"
    save_decoded([TrainingClip(some_frames(), "set/train/0.mp4")], path)
    found = DecodedClips([path])
    path.write_bytes(b"nothing of the kind")
    clip = found[0]
    assert isinstance(clip, UnreadableClip)
    assert clip.name == "set/train/0.mp4"
    assert "a.safetensors" in clip.cause


def test_other_files_are_refused(tmp_path):
    with pytest.raises(TrainingError, match=r"none\.safetensors: no such"):
        DecodedClips([tmp_path / "none.safetensors"])
    with pytest.raises(TrainingError, match="no clips in"):
        DecodedClips([])
    with pytest.raises(TrainingError, match=r"x\.safetensors: no clips"):
        save_decoded([], tmp_path / "x.safetensors")
    path = tmp_path / "bad.safetensors"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(TrainingError, match=r"bad\.safetensors: not .*decoded clips"):
        DecodedClips([path])
    frames = some_frames()[None]
    contents = [
        ({"frames": frames}, None),
        ({"pixels": frames}, {"names": '["a"]'}),
        ({"frames": frames}, {"names": '["a", "b"]'}),
        ({"frames": frames}, {"names": "1"}),
        ({"frames": frames}, {"names": "[1"}),
        ({"frames": frames[0]}, {"names": '["a"]'}),
    ]
    for tensors, metadata in contents:
        save_file(tensors, path, metadata=metadata)
        with pytest.raises(TrainingError, match=r"bad\.safetensors: not .*decoded clips"):
            DecodedClips([path])
