"""A machine without PyAV can train, and label, from whatever needs no PyAV."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from autogaze.datasets.clip import TrainingClip
from autogaze.datasets.decoded import save_decoded
from tests.clips import make_video
from tests.datasets.pictures import make_pictures, some_frames
from tests.training.tiny import tiny_config

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import json
import sys

class NoPyAV:
    def find_spec(self, name, *rest):
        if name.partition(".")[0] == "av":
            raise ImportError("there is no PyAV here")

sys.meta_path.insert(0, NoPyAV())
import autogaze.train, autogaze.training.logging
from autogaze.cli.app import app
from autogaze.training.factory import build_trainer

autogaze.training.logging.draw_curves = lambda *_: False
config = json.loads(sys.argv[1])
state = build_trainer(config).fit()
assert state.unreadable == 0, state
app(["label", *sys.argv[2:], "--clip-len", "2", "--max-ratio", "0.03"], standalone_mode=False)
assert not any(name == "av" or name.startswith("av.") for name in sys.modules)
print("fine")
"""


@pytest.mark.slow
def test_training_and_labelling_need_no_pyav(tmp_path):
    (tmp_path / "decoded").mkdir()
    for split in ("train", "val"):
        clip = TrainingClip(some_frames(2, 64), f"{split} clip")
        save_decoded([clip], tmp_path / "decoded" / f"{split}.safetensors")
        make_pictures(tmp_path / "photos" / split, 2)
    save_decoded([TrainingClip(some_frames(2, 224), "large")], tmp_path / "large.safetensors")
    photos = str(tmp_path / "photos")
    parts = {
        "decoded": {"name": "decoded", "root": str(tmp_path / "decoded")},
        "camera": {"name": "camera", "root": photos},
        "composed": {"name": "composed", "root": photos},
        "procedural": {"name": "procedural", "num_clips": 2},
    }
    to_label = tmp_path / "large.safetensors"
    if find_spec("cv2") is not None:
        (tmp_path / "videos" / "train").mkdir(parents=True)
        to_label = make_video(tmp_path / "videos" / "train" / "a.mp4", 4)
        parts["videos"] = {"root": str(tmp_path / "videos")}
    config = tiny_config("ntp", tmp_path / "exps", max_steps=1, val_nsteps=1)
    config["dataset"] = {"name": "mixture", "clip_len": 2, "parts": parts, "greedy_labels": {}}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(config), str(to_label)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.endswith("fine\n"), done.stderr[-2000:]
    assert list((tmp_path / "exps" / "tiny" / "pictures").iterdir())
    labels = json.loads((tmp_path / "gazing_labels.json").read_text())
    assert [Path(name).name for name in labels] == [to_label.name if "videos" in parts else "large"]
    if "videos" in parts:
        assert "OpenCV decodes the videos" in done.stderr
