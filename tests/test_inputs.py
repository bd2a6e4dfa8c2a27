"""Clips in every form that people have them, and words for all that is none (issue 16, section 7)."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import autogaze
from autogaze import Gaze, PatchPyramid
from autogaze.clips import Clips, as_frames, as_ratio
from autogaze.errors import SelectorError
from autogaze.reconstruction.canvas import canvas_losses, reconstruct
from autogaze.selectors.base import Selector
from autogaze.selectors.change import Change
from autogaze.selectors.controls import Centre, Random
from autogaze.selectors.greedy import Greedy
from autogaze.selectors.learned import Learned
from autogaze.selectors.run_length import RunLength
from autogaze.video.reader import Video
from tests.gazes import same
from tests.models.autogaze.tiny import tiny_model, tiny_video
from tests.vision_encoders.families import FAMILIES, random_frames, random_gaze

PYRAMID = PatchPyramid((32, 64), 16)
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)  # one clip
CLIP = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)[None]
FORMS: dict[str, Callable[[], Any]] = {
    "tensor": lambda: CLIP,
    "tensor of one clip": lambda: CLIP[0],
    "tensor, channels last": lambda: torch.from_numpy(PIXELS),
    "array": lambda: CLIP.numpy(),
    "array of one clip, channels last": lambda: PIXELS,
    "array of one clip": lambda: PIXELS.transpose(0, 3, 1, 2),
    "array, channels last": lambda: PIXELS[None],
    "array, read only": lambda: np.frombuffer(PIXELS.tobytes(), np.uint8).reshape(PIXELS.shape),
    "array of negative strides": lambda: PIXELS[::-1].copy()[::-1],
    "list of arrays": lambda: list(PIXELS),
    "tuple of arrays": lambda: tuple(PIXELS),
    "list of arrays, channels first": lambda: list(CLIP[0].numpy()),
    "list of tensors": lambda: list(CLIP[0]),
    "list of PIL images": lambda: [Image.fromarray(frame) for frame in PIXELS],
    "list of opaque PIL images": lambda: [
        Image.fromarray(frame).convert("RGBA") for frame in PIXELS
    ],
    "list of lists of PIL images": lambda: [[Image.fromarray(frame) for frame in PIXELS]],
    "mixed list": lambda: [Image.fromarray(PIXELS[0]), PIXELS[1], torch.from_numpy(PIXELS[2])],
}
every_form = pytest.mark.parametrize("make", FORMS.values(), ids=FORMS.keys())
SELECTORS: list[Callable[[], Selector]] = [
    lambda: Greedy(PYRAMID),
    lambda: RunLength(PYRAMID),
    lambda: Change(PYRAMID),
    lambda: Learned(tiny_model()),
    lambda: Random(PYRAMID),
    lambda: Centre(PYRAMID),
]


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@every_form
@pytest.mark.parametrize("selector", SELECTORS)
def test_every_form_of_a_clip_is_selected_from(
    make: Callable[[], Any], selector: Callable[[], Selector]
) -> None:
    expected = selector().select(CLIP, ratio=0.3, generator=seeded())
    assert same(selector().select(make(), ratio=0.3, generator=seeded()), expected)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4", "longdouble"])
def test_float_arrays(dtype: str) -> None:
    unit = PIXELS / 255.0
    expected = Greedy(PYRAMID).select(CLIP.float() / 255, ratio=0.3)
    gaze = Greedy(PYRAMID).select(unit.astype(dtype), ratio=0.3)
    assert gaze.lengths.equal(expected.lengths)
    if dtype != "float16":
        assert gaze.ids.equal(expected.ids)


@pytest.mark.parametrize(
    "frame_of",
    [
        lambda index: PIXELS[index],
        lambda index: Image.fromarray(PIXELS[index]),
        lambda index: [Image.fromarray(PIXELS[index])],
        lambda index: CLIP[0, index],
        lambda index: CLIP[:, index : index + 1].numpy(),
    ],
)
def test_every_form_of_a_frame_is_a_step_of_a_stream(frame_of: Callable[[int], Any]) -> None:
    stream = Greedy(PYRAMID).stream(ratio=0.3)
    gaze = Gaze.cat_frames([stream.step(frame_of(index)) for index in range(3)])
    assert same(gaze, Greedy(PYRAMID).select(CLIP, ratio=0.3))


@every_form
def test_every_form_of_a_clip_is_measured(make: Callable[[], Any]) -> None:
    gaze = Greedy(PYRAMID).select(CLIP, ratio=0.3)
    assert canvas_losses(make(), gaze).equal(canvas_losses(CLIP, gaze))
    assert reconstruct(make(), gaze).frames.equal(reconstruct(CLIP, gaze).frames)


@pytest.mark.parametrize(
    "form", [lambda x: x.numpy(), lambda x: list(x[0]), lambda x: list(x[0].numpy()), lambda x: x]
)
def test_encoders_and_models_take_normalised_frames_in_every_form(form: Callable[..., Any]) -> None:
    family = FAMILIES["dinov2"]
    pyramid, frames = family.pyramid(), random_frames(1, 2)
    gaze, encoder = random_gaze(pyramid, 1, 2), autogaze.gazed(family.model())
    found = encoder(form(frames), gaze).last_hidden_state
    assert found.equal(encoder(frames, gaze).last_hidden_state)
    video, model = tiny_video(1, 2), tiny_model()
    expected = model({"video": video}, gazing_ratio=0.5)["gazing_pos"]
    assert Learned(model).model is model
    assert (
        model.generate(as_frames(form(video)), caps=[10, 10])
        .to_padded()["gazing_pos"]
        .equal(expected)
    )


def test_grey_palette_and_transparent_images() -> None:
    grey = Image.fromarray(PIXELS[0, ..., 0])
    assert as_frames([grey])[0, 0].equal(torch.from_numpy(PIXELS[0, ..., 0]).expand(3, 64, 64))
    colours = Image.fromarray(PIXELS[0]).quantize(16)
    found = as_frames(colours)[0, 0].permute(1, 2, 0).numpy()
    assert np.array_equal(found, np.array(colours.convert("RGB")))
    half = Image.new("RGBA", (64, 64), (200, 100, 0, 128))  # on black
    assert as_frames(half)[0, 0, :, 0, 0].tolist() == [100, 50, 0]
    for mode in ("I;16", "I", "F"):
        with pytest.raises(SelectorError, match=mode):
            as_frames([Image.new(mode, (64, 64))])


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_images_are_what_a_file_of_them_is(mode: str, tmp_path: Path) -> None:
    """Every alpha and many colours."""
    alpha, value = np.meshgrid(np.arange(256), np.arange(256))
    rgba = np.stack([value, 255 - value, value // 2, alpha], -1).astype(np.uint8)
    image = Image.fromarray(rgba)
    if mode == "P":
        image = image.quantize(200)
        image.info["transparency"] = bytes(range(200))
    image = image.convert(mode)
    image.save(tmp_path / "picture.png")
    (frame,) = Video(tmp_path / "picture.png").frames()
    found = as_frames(Image.open(tmp_path / "picture.png"))[0, 0].permute(1, 2, 0).numpy()
    assert np.array_equal(found, frame.pixels)
    if mode == "RGBA":
        wanted = np.rint(rgba[..., :3] / 255 * (rgba[..., 3:] / 255) * 255)
        assert np.abs(found - wanted).max() == 0


@pytest.mark.parametrize(
    "ratio",
    [[0.1, 0.3, 0.2], (0.1, 0.3, 0.2), np.array([0.1, 0.3, 0.2]), torch.tensor([0.1, 0.3, 0.2])],
)
@pytest.mark.parametrize("selector", SELECTORS)
def test_ratios_per_frame_in_every_form(ratio: Any, selector: Callable[[], Selector]) -> None:
    gaze = selector().select(CLIP, ratio=ratio, generator=seeded())
    assert (gaze.lengths <= torch.tensor([[2, 6, 4]])).all()
    assert same(gaze, selector().select(CLIP, ratio=[0.1, 0.3, 0.2], generator=seeded()))


@pytest.mark.parametrize("number", [np.float64(0.3), np.array(0.3), torch.tensor(0.3).double()])
def test_one_number_in_every_form(number: Any) -> None:
    assert same(Greedy(PYRAMID).select(CLIP, ratio=number), Greedy(PYRAMID).select(CLIP, ratio=0.3))
    assert same(Greedy(PYRAMID).select(CLIP, loss=number), Greedy(PYRAMID).select(CLIP, loss=0.3))


def test_a_ratio_array_of_two_dimensions_is_refused_with_the_reason() -> None:
    with pytest.raises(SelectorError, match=r"per frame.*2-D.*float64"):
        as_ratio(np.full((2, 2), 0.5))
    with pytest.raises(SelectorError, match="2 ratios"):
        Greedy(PYRAMID).select(CLIP, ratio=np.full(2, 0.5))


@pytest.mark.parametrize("selector", SELECTORS)
@pytest.mark.parametrize("value", [-0.5, 1.5, float("nan"), float("inf"), 255.0])
def test_all_selectors_refuse_values_out_of_range(
    selector: Callable[[], Selector], value: float
) -> None:
    frames = CLIP.float() / 255
    frames[0, 1, 2, 3, 4] = value
    with pytest.raises(SelectorError):
        selector().select(frames, ratio=0.3)
    with pytest.raises(SelectorError):
        selector().select(Clips(frames), ratio=0.3)
    for parts in (Clips(frames).frame(1), Clips(frames[:, 1:]).split(1)[0]):
        with pytest.raises(SelectorError):
            selector().stream(ratio=0.3).step(parts)
    in_range = Clips(frames[:, :1])
    in_range.check_range()  # which says nothing of other clips
    with pytest.raises(SelectorError):
        selector().stream(ratio=0.3).step(Clips(frames[:, 1:]))


@pytest.mark.slow
def test_wrong_types_are_refused_in_our_words() -> None:
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "tests.wrong_types"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *sys.path])},
        capture_output=True,
        text=True,
        check=True,
    )
    report = json.loads(done.stdout)
    assert report["count"] > 1000
    assert report["wrong"] == []
