"""Clips decoded beforehand, for machines without PyAV."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from autogaze.datasets.clip import TrainingClip
from autogaze.datasets.decoded import DecodedClips, save_decoded
from autogaze.errors import TrainingError
from tests.datasets.pictures import make_pictures, some_frames

ROOT = Path(__file__).resolve().parents[2]


def test_round_trip(tmp_path):
    clips = [TrainingClip(some_frames(seed=n), f"set/train/{n}.mp4") for n in range(4)]
    assert save_decoded(clips[:3], tmp_path / "a.safetensors") == 3
    assert save_decoded(iter(clips[3:]), tmp_path / "b.safetensors") == 1
    found = DecodedClips([tmp_path / "a.safetensors", tmp_path / "b.safetensors"])
    assert len(found) == 4
    for number, clip in enumerate(clips):
        assert found[number].name == clip.name
        assert torch.equal(found[number].frames, clip.frames)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(TrainingError, match="no such file of decoded clips"):
        DecodedClips([tmp_path / "none.safetensors"])
    with pytest.raises(TrainingError, match="no clips in no file"):
        DecodedClips([])
    with pytest.raises(TrainingError, match="no clips to write"):
        save_decoded([], tmp_path / "x.safetensors")
    path = tmp_path / "bad.safetensors"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(TrainingError, match=r"bad.safetensors: not a file of decoded clips"):
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
        with pytest.raises(TrainingError, match="not a file of decoded clips"):
            DecodedClips([path])


WITHOUT_PYAV = """
import sys

class NoPyAV:
    def find_spec(self, name, *rest):
        if name.partition(".")[0] == "av":
            raise ImportError("there is no PyAV here")

sys.meta_path.insert(0, NoPyAV())
from autogaze.datasets.camera import CameraClips, CameraSettings
from autogaze.datasets.composed import ComposedClips, CompositionSettings
from autogaze.datasets.decoded import DecodedClips
from autogaze.datasets.procedural import ProceduralClips, ProceduralSettings
from autogaze.tasks.canvas_reconstruction import CanvasReconstruction
import autogaze.datasets.labels, autogaze.datasets.mixture, autogaze.datasets.video_folder
import autogaze.labelling.label

camera = CameraSettings(clip_len=2, side=32)
for clips in (
    DecodedClips([sys.argv[1]]),
    CameraClips([sys.argv[2]], camera),
    ComposedClips([sys.argv[2]], CompositionSettings(camera)),
    ProceduralClips(1, ProceduralSettings(clip_len=2, side=32)),
):
    assert clips[0].frames.shape[1:] == (3, 32, 32), clips
assert "av" not in sys.modules
print("fine")
"""


def test_training_data_needs_no_pyav(tmp_path):
    path = tmp_path / "clips.safetensors"
    save_decoded([TrainingClip(some_frames(), "a")], path)
    photos = make_pictures(tmp_path / "photos", 2)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PYAV, str(path), str(photos)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "fine\n", done.stderr[-2000:]
