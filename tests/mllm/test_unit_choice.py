"""How much is kept: saved gazes, numbers of tokens, mappings of patches to units."""

import pytest
import torch
from PIL import Image

from autogaze import GazedProcessor, PatchPyramid, gaze_video, gazed_mllm, load
from autogaze.errors import AutoGazeError, MLLMError, VideoError
from tests.clips import make_video
from tests.mllm import tiny
from tests.mllm.tiny_processor import checkpoint

VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    make_video(folder / "a.mp4", 12, 96, 64, fps=4)
    make_video(folder / "b.mp4", 8, 64, 48, fps=4)
    pixels = torch.randint(0, 256, (16, 24, 3), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(folder / "still.png")
    return folder


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    folder = checkpoint(tmp_path_factory.mktemp("checkpoint"), "qwen3_vl")
    return GazedProcessor.from_pretrained(folder, selector="greedy", ratio=0.2)


def test_a_cap_counts_the_units_of_a_tubelet(files, processor):
    inputs = processor(text=VIDEO, videos=files / "a.mp4", num_frames=8)
    kept = inputs["gazed"].visuals[0].kept
    assert kept.grid.dense == (8, 12)
    assert max(kept.lengths) == int(0.2 * 96)
    assert min(kept.lengths) >= 1
    answer = gazed_mllm(tiny.qwen3_vl()).generate(**inputs, max_new_tokens=2)
    assert answer.shape[1] == inputs["input_ids"].shape[1] + 2


@pytest.mark.parametrize("form", ["gaze", "file", "kept"])
def test_what_was_selected_before_is_kept_again(files, processor, tmp_path, form):
    first = processor(text=VIDEO, videos=files / "a.mp4", num_frames=7)
    gaze, kept = first.gazes[0], first["gazed"].visuals[0].kept
    assert gaze.source.frame_indices == (0, 2, 4, 6, 7, 9, 11)
    assert gaze.source.path == str(files / "a.mp4")
    given = {"gaze": gaze, "kept": kept, "file": tmp_path / "a.gaze"}[form]
    if form == "file":
        gaze.save(given)
    asked = {"num_frames": 7} if form == "kept" else {}
    again = processor(text=VIDEO, videos=files / "a.mp4", gaze=given, selector=None, **asked)
    assert torch.equal(again["input_ids"], first["input_ids"])
    assert torch.equal(again["gazed"].visuals[0].pixels, first["gazed"].visuals[0].pixels)
    if form != "kept":
        less = processor(text=VIDEO, videos=files / "a.mp4", gaze=given, ratio=0.05)
        assert set(less["gazed"].visuals[0].kept.lengths) == {int(0.05 * 96)}


def test_a_gaze_at_a_file_decides_frames_and_their_size(files, processor):
    selector = load("greedy", pyramid=PatchPyramid((224,), 16))
    gaze = gaze_video(files / "a.mp4", selector=selector, ratio=0.1, fps=2, tiles="resize")
    inputs = processor(text=VIDEO, videos=files / "a.mp4", gaze=gaze)
    kept = inputs["gazed"].visuals[0].kept
    tiles = gaze.source.tiles
    assert kept.grid.tubelets == -(-gaze.num_frames // 2)
    assert kept.grid.dense == (14 * tiles.rows, 14 * tiles.columns)


def test_a_gaze_of_another_video(files, processor):
    gaze = processor(text=VIDEO, videos=files / "a.mp4").gazes[0]
    with pytest.raises(MLLMError, match="96 x 64"):
        processor(text=VIDEO, videos=files / "b.mp4", gaze=gaze)
    faster = make_video(files / "faster.mp4", 12, 96, 64, fps=8)
    with pytest.raises(VideoError, match="shows frame"):
        processor(text=VIDEO, videos=faster, gaze=gaze)
    other = make_video(files / "other.mp4", 12, 96, 64, fps=4)  # of the same size and times
    changed = bytearray(other.read_bytes())
    other.write_bytes(changed + b"\0" * 8)
    with pytest.raises(MLLMError, match=r"other\.mp4.*a\.mp4"):
        processor(text=VIDEO, videos=other, gaze=gaze)
    short = make_video(files / "short.mp4", 4, 96, 64, fps=4)
    with pytest.raises(AutoGazeError):
        processor(text=VIDEO, videos=short, gaze=gaze)
    with pytest.raises(MLLMError, match="int"):
        processor(text=VIDEO, videos=files / "a.mp4", gaze=3)


def test_a_number_of_tokens_is_that_of_a_prompt(files, processor):
    texts = [f"What {VIDEO} ? {IMAGE} {VIDEO}", f"What {VIDEO}"]
    videos = [[files / "a.mp4", files / "b.mp4"], [files / "b.mp4"]]
    images = [[files / "still.png"], []]
    inputs = processor(images, texts, videos, max_vision_tokens=40, loss=0.001)
    kept = [(visual.kind, visual.kept.num_units) for visual in inputs["gazed"].visuals]
    assert [kind for kind, _ in kept] == ["video", "image", "video", "video"]
    counts = [count for _, count in kept]
    assert counts[1] == 6
    assert sum(counts[:3]) == 40 >= counts[3]
    # The larger video gets more.
    assert counts[0] > counts[2] > 0
    assert inputs["gazed"].prompt.visual_mask.sum(1).tolist() == [40, counts[3]]


def test_with_a_number_of_tokens_frames_are_as_large_as_their_source(files, tmp_path):
    size = {"shortest_edge": 64, "longest_edge": 8 * 32 * 24}
    folder = checkpoint(tmp_path / "small", "qwen3_vl", size=size)
    processor = GazedProcessor.from_pretrained(folder, selector="random", max_vision_tokens=30)
    sizes = {}
    for name, options in {
        "native": {},
        "stock": {"resolution": "stock"},
        "ratio": {"ratio": 0.1},
    }.items():
        report = processor(text=VIDEO, videos=files / "a.mp4", num_frames=8, **options).report
        sizes[name] = report.visuals[0].width, report.visuals[0].height
        assert name == "ratio" or report.visuals[0].kept_units <= 30
    assert sizes["native"] == (96, 64)
    assert sizes["stock"] == sizes["ratio"] == (32, 16)


def test_tokens_that_images_use_up(files, processor):
    with pytest.raises(MLLMError, match="6 units"):
        processor([files / "still.png"], f"{IMAGE} {VIDEO}", [files / "a.mp4"], max_vision_tokens=6)
    alone = processor([files / "still.png"], IMAGE, max_vision_tokens=6)
    assert alone.report.visuals[0].kept_units == 6


def test_scales_are_grids_of_units(files, processor):
    pyramid = PatchPyramid((64, 128, 224), 16)
    inputs = processor(
        text=VIDEO,
        videos=files / "a.mp4",
        num_frames=4,
        units="scales",
        ratio=0.1,
        selector=load("greedy", pyramid=pyramid),
    )
    kept = inputs["gazed"].visuals[0].kept
    assert kept.grid.grids == ((4, 4), (8, 8), (14, 14))
    assert (inputs.report.visuals[0].width, inputs.report.visuals[0].height) == (112, 112)
    assert max(kept.lengths) <= int(0.1 * 14 * 14)
    model = gazed_mllm(tiny.qwen3_vl())
    with torch.no_grad():
        assert bool(model(**inputs).logits.isfinite().all())


def test_a_selector_by_motion(files, processor):
    inputs = processor(text=VIDEO, videos=files / "a.mp4", selector="codec", ratio=0.2)
    assert max(inputs["gazed"].visuals[0].kept.lengths) <= int(0.2 * 96)
    frames = torch.zeros(4, 3, 16, 16, dtype=torch.uint8)
    about = [{"fps": 2.0}]
    with pytest.raises(AutoGazeError, match="motion"):
        processor(text=VIDEO, videos=[frames], video_metadata=about, selector="codec", ratio=0.2)
