"""Names that users import stay where they are: a release that moves one breaks their code."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import autogaze

ROOT = Path(__file__).resolve().parents[1]

# The package's own names.
OWN = {
    "autogaze": [
        "AutoGazeError",
        "Clips",
        "Gaze",
        "GazeWriter",
        "GazedProcessor",
        "GazedVisionModel",
        "PatchPyramid",
        "Selector",
        "Source",
        "TileGrid",
        "__version__",
        "gaze_video",
        "gazed",
        "gazed_mllm",
        "list_encoders",
        "list_mllms",
        "list_selectors",
        "load",
        "register_encoder",
        "register_mllm",
        "stream_video",
    ],
    "autogaze.vision_encoders": [
        "EncoderAdapter",
        "GazedOutput",
        "GazedVisionModel",
        "gazed",
        "list_encoders",
        "register_encoder",
    ],
    "autogaze.video": [
        "ChunkReader",
        "Frame",
        "Video",
        "VideoChunk",
        "VideoInfo",
        "VideoWriter",
        "cut_tiles",
        "plan_tiles",
        "stitch_tiles",
    ],
    "autogaze.rendering": [
        "BudgetPlot",
        "ContactSheet",
        "OverlayVideo",
        "ReconstructionVideo",
        "Rendering",
    ],
    "autogaze.models.autogaze.hook": ["FrameRules"],
    "autogaze.reconstruction.canvas": ["canvas_losses"],
    "autogaze.reconstruction.video_mae": [
        "VideoMAE",
        "VideoMAEConfig",
        "load_video_mae",
        "save_video_mae",
    ],
}
# What AutoGaze's users import (docs/switching.md).
KNOWN = {
    "autogaze.models.autogaze": [
        "AutoGaze",
        "AutoGazeConfig",
        "AutoGazeImageProcessor",
        "ConnectorConfig",
        "GazeDecoderConfig",
        "GazeModelConfig",
        "VisionModelConfig",
    ],
    "autogaze.models.autogaze.autogaze": ["AutoGaze"],
    "autogaze.models.autogaze.modeling_autogaze": [
        "AutoGaze",
        "AutoGazeModel",
        "Connector",
        "ShallowVideoConvNet",
    ],
    "autogaze.models.autogaze.configuration_autogaze": [
        "AutoGazeConfig",
        "ConnectorConfig",
        "GazeDecoderConfig",
        "GazeModelConfig",
        "VisionModelConfig",
    ],
    "autogaze.models.autogaze.processing_autogaze": ["AutoGazeImageProcessor"],
    "autogaze.vision_encoders.siglip": ["SiglipConfig", "SiglipVisionConfig", "SiglipVisionModel"],
    "autogaze.vision_encoders.siglip.modeling_siglip": [
        "SiglipPreTrainedModel",
        "SiglipVisionModel",
        "SiglipVisionTransformer",
    ],
    "autogaze.vision_encoders.siglip.configuration_siglip": [
        "SiglipConfig",
        "SiglipTextConfig",
        "SiglipVisionConfig",
    ],
    "autogaze.datasets": ["VideoFolder", "collate"],
    "autogaze.datasets.video_folder": ["VideoFolder"],
    "autogaze.datasets.collate": ["collate_fn", "process_gazing_info"],
    "autogaze.datasets.video_utils": [
        "get_relative_video_path",
        "process_video_frames",
        "read_video_pyav",
        "sample_frame_indices",
        "transform_video_for_pytorch",
    ],
    "autogaze.utils": [
        "AverageScalarMeter",
        "UnNormalize",
        "dump_cfg",
        "format_kwargs",
        "get_gazing_pos_from_gazing_mask",
        "get_scheduled_temperature",
        "move_inputs_to_cuda",
        "plot_grad_norms",
        "seed_everything",
        "seed_worker",
        "suppress_logging",
        "suppress_print",
        "suppress_wandb",
        "unwrap_model",
    ],
    "autogaze.algorithms": ["GRPO", "NTP", "Dummy"],
    "autogaze.algorithms.dummy": ["Dummy"],
    "autogaze.algorithms.grpo": ["GRPO", "grpo_loss"],
    "autogaze.algorithms.ntp": ["NTP", "ntp_loss"],
    "autogaze.algorithms.rollout": ["Rollout"],
    "autogaze.tasks.canvas_reconstruction": ["CanvasReconstruction"],
    "autogaze.tasks.video_mae_reconstruction": ["VideoMAEReconstruction"],
    "autogaze.tasks.video_mae_reconstruction.configuration_video_mae": ["VideoMAEConfig"],
    "autogaze.tasks.video_mae_reconstruction.modeling_video_mae": ["VideoMAE"],
    "autogaze.tasks.video_mae_reconstruction.task_video_mae_reconstruction": [
        "VideoMAEReconstruction"
    ],
    "autogaze.tasks.video_mae_reconstruction.visualize_video_mae_reconstruction": [
        "VisualizeReconstruction"
    ],
    "autogaze.tasks.siglip_video_feature_reconstruction": ["SiglipVideoFeatureReconstruction"],
    "autogaze.trainer": ["Trainer"],
    "autogaze.train": ["main", "train"],
}
# Names of the published package without a counterpart, and a word of what their error says to use.
ABSENT = {
    "autogaze.models.autogaze.modeling_autogaze": {
        "AutoGazeOutput": "log_action_probs",
        "Conv3dBlockForStreaming": "CausalConv3d",
        "NoEosTokenLogitsProcessor": "hook",
        "NoRepeatTokensLogitsProcessor": "hook",
    },
    "autogaze.models.autogaze.modeling_llama_multi_token_pred": {
        "CausalLMOutputWithPast": "GazeDecoder",
        "LlamaForCausalLM_MultiTokenPred": "GazeDecoder",
    },
    "autogaze.tasks.video_mae_reconstruction.configuration_video_mae": {
        "ViTMAEConfig": "VideoMAEConfig"
    },
    "autogaze.tasks.video_mae_reconstruction.modeling_video_mae": {
        "ViTMAEDecoder": "VideoMAE",
        "ViTMAEForPreTraining": "VideoMAEReconstruction",
        "ViTMAEForPreTrainingOutput": "VideoMAEReconstruction",
        "ViTMAELayer": "VideoMAE",
        "ViTMAEModel": "VideoMAE",
        "ViTMAEPreTrainedModel": "VideoMAE",
    },
}
PUBLIC = [
    (module, name) for paths in (OWN, KNOWN) for module, names in paths.items() for name in names
]


@pytest.mark.parametrize(("module", "name"), PUBLIC)
def test_the_name_is_there(module, name):
    assert getattr(importlib.import_module(module), name) is not None


@pytest.mark.parametrize(
    ("module", "name", "instead"),
    [(module, *names) for module, absent in ABSENT.items() for names in absent.items()],
)
def test_a_name_without_a_counterpart_says_what_to_use(module, name, instead):
    with pytest.raises(ImportError, match=rf"{name} .*{instead}"):
        exec(f"from {module} import {name}")
    page = (ROOT / "docs" / "switching.md").read_text()
    assert f"`{name}`" in page or f"`{module}`" in page
    with pytest.raises(AttributeError, match="nonsense"):
        _ = importlib.import_module(module).nonsense


@pytest.mark.parametrize("module", ["autogaze.algorithms", "autogaze.utils"])
def test_lazy_names_are_told_apart_from_others(module):
    assert sorted(importlib.import_module(module).__all__) == sorted(KNOWN[module])
    with pytest.raises(AttributeError, match="nonsense"):
        _ = importlib.import_module(module).nonsense


IMPORT = """
import sys
for words in sys.argv[1:]:
    for name in [name for name in sys.modules if name.partition(".")[0] == "autogaze"]:
        del sys.modules[name]
    exec(words)
"""


def test_a_known_path_can_be_the_first_import():
    """In a fresh interpreter, so that no circle is hidden by what others imported before."""
    words = [
        f"from {module} import {', '.join(KNOWN[module])}"
        for module in ("autogaze.algorithms", "autogaze.datasets", "autogaze.utils")
    ]
    subprocess.run([sys.executable, "-c", IMPORT, *words], check=True, cwd=ROOT)


@pytest.mark.parametrize("module", sorted(KNOWN))
def test_the_page_for_switchers_lists_it(module):
    assert f"`{module}`" in (ROOT / "docs" / "switching.md").read_text()


def test_all_is_the_list_above():
    assert sorted(autogaze.__all__) == sorted(OWN["autogaze"])
    assert set(autogaze.__all__) <= set(dir(autogaze))


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="gaze_movie"):
        _ = autogaze.gaze_movie


@pytest.mark.parametrize(("old", "new"), [("open_video", "Video"), ("read_chunks", "ChunkReader")])
def test_old_names_work_for_one_release(old, new):
    video = importlib.import_module("autogaze.video")
    with pytest.warns(DeprecationWarning, match=new):
        assert getattr(video, old) is getattr(video, new)


@pytest.mark.parametrize("page", ["README.md", "docs/switching.md", "docs/encoders.md"])
def test_names_in_the_documentation_are_listed(page):
    text = (ROOT / page).read_text()
    named = {("autogaze", name) for name in re.findall(r"\bautogaze\.(\w+)\(", text)}
    for module, names in re.findall(r"^from (autogaze[\w.]*) import ([\w, ]+)", text, re.MULTILINE):
        named |= {(module, name.strip()) for name in names.split(",")}
    assert named
    assert named <= set(PUBLIC)


@pytest.mark.parametrize("name", ["MotionField", "NEW_CONTENT", "motion_map"])
def test_names_that_moved_to_motion_work_on_with_a_warning(name):
    video = importlib.import_module("autogaze.video")
    motion = importlib.import_module("autogaze.video.motion")
    with pytest.warns(DeprecationWarning, match=name):
        assert getattr(video, name) is getattr(motion, name)
