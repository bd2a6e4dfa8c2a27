"""The image processor: every argument honoured, and equal to the transformers class it follows."""

import inspect
import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import VivitImageProcessor

from autogaze.errors import AutoGazeError
from autogaze.models.autogaze import AutoGazeImageProcessor
from tests.auto_classes import auto_image_processor

BILINEAR = Image.Resampling.BILINEAR

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
PUBLISHED = {
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": False,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": MEAN,
    "image_processor_type": "AutoGazeImageProcessor",
    "image_std": STD,
    "offset": True,
    "resample": 2,
    "rescale_factor": 0.00784313725490196,
    "size": {"shortest_edge": 224},
}


def frames_of(count=3, height=40, width=56, seed=0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def known(frames, **options) -> torch.Tensor:
    """What transformers' class makes of frames, with our defaults."""
    defaults = {"size": {"shortest_edge": 224}, "do_center_crop": False} | {
        "image_mean": MEAN,
        "image_std": STD,
    }
    processor = VivitImageProcessor(**defaults)
    return processor(list(frames), return_tensors="pt", **options)["pixel_values"]


OPTIONS = {
    "size_edge": {"size": {"shortest_edge": 20}},
    "size_square": {"size": {"height": 24, "width": 20}},
    "no_resize": {"do_resize": False},
    "nearest": {"size": {"shortest_edge": 20}, "resample": 0},
    "bicubic": {"size": {"shortest_edge": 20}, "resample": Image.Resampling.BICUBIC},
    "crop": {"do_resize": False, "do_center_crop": True, "crop_size": {"height": 21, "width": 30}},
    "crop_default": {"size": {"shortest_edge": 230}, "do_center_crop": True},
    "crop_pads": {"do_resize": False, "do_center_crop": True, "crop_size": 64},
    "no_rescale": {"do_rescale": False, "offset": False},
    "factor": {"rescale_factor": 1 / 255, "offset": False},
    "no_offset": {"offset": False},
    "no_normalize": {"do_normalize": False},
    "mean_std": {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]},
    "mean_number": {"image_mean": 0.25, "image_std": 0.5},
    "last": {"data_format": "channels_last"},
    "raw": {"do_resize": False, "do_rescale": False, "offset": False, "do_normalize": False},
}


@pytest.mark.parametrize("where", ["call", "constructor"])
@pytest.mark.parametrize("name", OPTIONS)
def test_every_argument_does_what_the_known_one_does(name, where):
    options, frames = OPTIONS[name], frames_of()
    expected = known(frames, **options)
    kept = {"data_format"} & options.keys()
    fixed = {} if where == "call" else {key: options[key] for key in options.keys() - kept}
    call = options if where == "call" else {key: options[key] for key in kept}
    found = AutoGazeImageProcessor(**fixed)(list(frames), return_tensors="pt", **call)
    assert found["pixel_values"].shape == expected.shape
    torch.testing.assert_close(found["pixel_values"], expected, rtol=0, atol=1e-6)
    if name != "last":
        plain = AutoGazeImageProcessor()(list(frames), return_tensors="pt")["pixel_values"]
        assert found["pixel_values"].shape != plain.shape or not found["pixel_values"].equal(plain)


@pytest.mark.parametrize("height_width", [(40, 56), (56, 40), (28, 28)])
@pytest.mark.parametrize("kind", ["uint8", "int64", "levels", "unit", "unit64", "half"])
@pytest.mark.parametrize("order", ["hwc", "chw"])
def test_floats_and_channels_first_give_the_known_values(kind, order, height_width):
    frames = frames_of(2, *height_width)
    options = {"size": {"shortest_edge": 28}}
    if kind in ("int64", "levels"):
        frames = frames.astype({"int64": np.int64, "levels": np.float32}[kind])
    elif kind != "uint8":
        options |= {"do_rescale": False, "offset": False}
        frames = (frames / 255).astype(
            {"unit": np.float32, "unit64": np.float64, "half": np.float16}[kind]
        )
    if order == "chw":
        frames = frames.transpose(0, 3, 1, 2)
    # Half precision is resized in single precision here.
    expected = known(frames.astype(np.float32) if kind == "half" else frames, **options)
    for given in (frames, list(frames), torch.from_numpy(frames), [*torch.from_numpy(frames)]):
        found = AutoGazeImageProcessor()(given, return_tensors="pt", **options)["pixel_values"]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_floats_between_levels_are_resized_without_rounding():
    frames = frames_of(1).astype(np.float32) * 0.731
    options = {"size": 20, "do_rescale": False, "do_normalize": False, "return_tensors": "pt"}
    found = AutoGazeImageProcessor()(frames, **options)["pixel_values"]
    rounded = AutoGazeImageProcessor()(frames.round(), **options)["pixel_values"]
    assert 0 < (found - rounded).abs().max() < 1.6
    planes = [Image.fromarray(plane).resize((28, 20), 2) for plane in frames[0].transpose(2, 0, 1)]
    assert found[0, 0].equal(torch.from_numpy(np.stack([np.asarray(plane) for plane in planes])))


@pytest.mark.parametrize(
    ("height", "width", "vertical_first"),
    [(333, 200, True), (333, 260, True), (333, 301, False), (333, 340, False), (100, 300, False)],
)
@pytest.mark.parametrize("scale", [1, 255], ids=["levels", "shares"])
def test_the_order_of_the_passes_is_that_of_pillow_13(height, width, vertical_first, scale):
    """Whichever is installed: one pass alone is the same in all."""
    levels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    first = (width, 224) if vertical_first else (224, height)
    image = Image.fromarray(levels)
    if scale != 1:  # floats are cut to levels on the way
        image = Image.fromarray((levels / 255 * 255).astype(np.uint8))
    expected = np.array(image.resize(first, BILINEAR).resize((224, 224), BILINEAR))
    processor = AutoGazeImageProcessor(
        size={"height": 224, "width": 224}, do_rescale=False, do_normalize=False
    )
    frame = levels if scale == 1 else levels / 255
    values = np.array(processor([frame])["pixel_values"][0][0]).transpose(1, 2, 0)
    np.testing.assert_allclose(values * scale, expected, atol=1e-4)


def test_the_order_and_the_defaults_of_arguments_are_the_known_ones():
    def arguments(method):
        return [
            (name, each.default)
            for name, each in inspect.signature(method).parameters.items()
            if each.kind is each.POSITIONAL_OR_KEYWORD
        ]

    ours, theirs = (
        arguments(AutoGazeImageProcessor.__init__),
        arguments(VivitImageProcessor.__init__),
    )
    assert [name for name, _ in ours] == [name for name, _ in theirs]
    other = {name for (name, own), (_, their) in zip(ours, theirs, strict=True) if own != their}
    assert other == {"do_center_crop"}
    names = [name for name, _ in arguments(AutoGazeImageProcessor.preprocess)]
    assert names == [name for name, _ in arguments(VivitImageProcessor.preprocess.__wrapped__)]
    processor = AutoGazeImageProcessor(
        False, {"height": 8, "width": 9}, 3, True, 16, True, 0.5, False
    )
    assert (processor.do_resize, processor.size, processor.resample) == (
        False,
        {"height": 8, "width": 9},
        3,
    )
    assert processor.crop_size == {"height": 16, "width": 16}
    assert (processor.rescale_factor, processor.offset) == (0.5, False)


def test_shapes_with_and_without_tensors():
    frames, processor = frames_of(3), AutoGazeImageProcessor(size=(24, 20))
    values = processor(frames, return_tensors="pt")["pixel_values"]
    assert values.shape == (1, 3, 3, 24, 20)
    assert values.dtype == torch.float32
    array = processor(frames, return_tensors="np")["pixel_values"]
    assert isinstance(array, np.ndarray)
    assert np.array_equal(array, values.numpy())
    nested = processor(frames)["pixel_values"]
    assert isinstance(nested, list)
    assert isinstance(nested[0], list)
    assert [frame.shape for frame in nested[0]] == [(3, 24, 20)] * 3
    assert np.array_equal(np.stack(nested[0]), array[0])
    assert np.array_equal(processor.preprocess(videos=frames)["pixel_values"][0], nested[0])
    assert np.array_equal(processor.preprocess(images=frames)["pixel_values"][0], nested[0])
    assert np.array_equal(processor(videos=frames)["pixel_values"][0], nested[0])
    assert processor(frames, data_format=None)["pixel_values"][0][0].shape == (24, 20, 3)
    channels_first = frames.transpose(0, 3, 1, 2)
    assert processor(channels_first, data_format=None)["pixel_values"][0][0].shape == (3, 24, 20)


def test_every_way_to_nest_frames():
    frames, processor = frames_of(4), AutoGazeImageProcessor(size=16)
    pictures = [Image.fromarray(frame) for frame in frames]
    expected = processor(frames, return_tensors="pt")["pixel_values"]  # (1, 4, ...)
    for video in (frames, list(frames), tuple(frames), torch.from_numpy(frames), pictures):
        assert processor(video, return_tensors="pt")["pixel_values"].equal(expected)
        assert processor([video], return_tensors="pt")["pixel_values"].equal(expected)
    pairs = expected.reshape(2, 2, *expected.shape[2:])
    halves = frames.reshape(2, 2, *frames.shape[1:])
    for videos in (
        halves,
        torch.from_numpy(halves),
        list(halves),
        [pictures[:2], pictures[2:]],
        [pictures[:2], halves[1]],
        [list(half) for half in halves],
    ):
        assert processor(videos, return_tensors="pt")["pixel_values"].equal(pairs)
    one = expected[:, :1]
    for frame in (pictures[0], frames[0], torch.from_numpy(frames[0]).permute(2, 0, 1)):
        assert processor(frame, return_tensors="pt")["pixel_values"].equal(one)
    grey = Image.fromarray(frames[0, ..., 0])
    alike = frames[:1, ..., :1].repeat(3, -1)
    assert processor(grey, return_tensors="pt")["pixel_values"].equal(
        processor(alike, return_tensors="pt")["pixel_values"]
    )


def test_the_order_of_channels_can_be_said():
    frame = frames_of(1, 3, 8)[0]  # (3, 8, 3): shapes do not tell
    processor = AutoGazeImageProcessor(do_resize=False)
    last = processor(frame, return_tensors="pt", input_data_format="channels_last")["pixel_values"]
    assert last.shape == (1, 1, 3, 3, 8)
    first = processor(frame, return_tensors="pt")["pixel_values"]
    assert first.shape == (1, 1, 3, 8, 3)
    assert processor(frame, return_tensors="pt", input_data_format="channels_first")[
        "pixel_values"
    ].equal(first)


def test_frames_of_several_sizes_come_in_lists_only():
    frames = [frames_of(1)[0], frames_of(1, 56, 40)[0]]
    processor = AutoGazeImageProcessor(size=20)
    assert [frame.shape for frame in processor(frames)["pixel_values"][0]] == [
        (3, 20, 28),
        (3, 28, 20),
    ]
    with pytest.raises(AutoGazeError, match=r"\(3, 20, 28\), \(3, 28, 20\)"):
        processor(frames, return_tensors="pt")
    with pytest.raises(AutoGazeError, match=r"\[2, 3\] frames"):
        processor([frames_of(2), frames_of(3)], return_tensors="np")


def test_rescaling_what_is_rescaled_is_warned_of(caplog):
    processor, frames = AutoGazeImageProcessor(size=16), frames_of(2).astype(np.float32)
    with caplog.at_level(logging.WARNING):
        processor(frames)
        processor(np.zeros_like(frames))  # black
        processor(frames / 255, do_rescale=False)
    assert not caplog.records
    processor(frames / 255)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_settings_are_saved_and_loaded_as_published(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PUBLISHED))
    processor = AutoGazeImageProcessor.from_pretrained(tmp_path)
    assert type(processor) is AutoGazeImageProcessor
    assert json.loads(processor.to_json_string()) == PUBLISHED
    assert json.loads(AutoGazeImageProcessor().to_json_string()) == PUBLISHED
    changed = AutoGazeImageProcessor.from_pretrained(tmp_path, size=(392, 392), image_std=1)
    assert changed.size["height"] == 392
    assert changed.image_std == 1
    changed.save_pretrained(tmp_path / "changed")
    again = auto_image_processor().from_pretrained(tmp_path / "changed")
    assert type(again) is AutoGazeImageProcessor
    assert again.to_dict() == changed.to_dict()
    assert again.size == {"height": 392, "width": 392}


def test_settings_that_other_versions_write_do_not_matter(tmp_path):
    extra = {"processor_class": "P", "auto_map": {}, "do_pad": None, "_valid_processor_keys": ["x"]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PUBLISHED | extra))
    processor = AutoGazeImageProcessor.from_pretrained(tmp_path)
    assert processor.size == {"shortest_edge": 224}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PUBLISHED | {"do_pad": True}))
    with pytest.raises(AutoGazeError, match="do_pad"):
        AutoGazeImageProcessor.from_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PUBLISHED))
    with pytest.raises(AutoGazeError, match="do_padd"):
        AutoGazeImageProcessor.from_pretrained(tmp_path, do_padd=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sise": 224}, "sise"),
        ({"do_flip": True, "padding": 1}, "do_flip, padding"),
        ({"size": {"longest_edge": 224}}, "longest_edge"),
        ({"size": 0}, "0"),
        ({"size": 22.5}, "22.5"),
        ({"size": (1, 2, 3)}, "1, 2, 3"),
        ({"crop_size": {"shortest_edge": 9}}, "shortest_edge"),
        ({"resample": 17}, "17"),
        ({"resample": "bilinear"}, "bilinear"),
        ({"image_mean": [0.5, 0.5]}, "image_mean"),
        ({"image_mean": "imagenet"}, "imagenet"),
        ({"image_std": [0.5, 0, 0.5]}, "image_std"),
        ({"rescale_factor": float("nan")}, "nan"),
        ({"do_resize": "false"}, "do_resize.*false"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, words):
    with pytest.raises(AutoGazeError, match=words):
        AutoGazeImageProcessor(**options)
    with pytest.raises(AutoGazeError, match=words):
        AutoGazeImageProcessor()(frames_of(1), **options)


@pytest.mark.parametrize(
    ("frames", "call", "words"),
    [
        (frames_of(1), {"return_tensors": "tf"}, "tf"),
        (frames_of(1), {"data_format": "hwc"}, "hwc"),
        (frames_of(1), {"input_data_format": "none"}, "none"),
        (frames_of(1), {"input_data_format": "channels_first"}, r"\(40, 56, 3\)"),
        (frames_of(1), {"do_rescale": False, "offset": True}, "offset"),
        (None, {}, "frames"),
        (frames_of(1), {"images": frames_of(1)}, "once"),
        ([], {}, "no frames"),
        ([[]], {}, "no frames"),
        (frames_of(0), {}, "no frames"),
        ("video.mp4", {}, "str"),
        (["frame.png"], {}, "str"),
        (7, {}, "int"),
        ({"video": frames_of(1)}, {}, "dict"),
        (np.zeros((40, 56), np.uint8), {}, r"\(40, 56\)"),
        (np.zeros((2, 40, 56, 4), np.uint8), {}, r"\(40, 56, 4\)"),
        (np.zeros((2, 0, 56, 3), np.uint8), {}, r"\(0, 56, 3\)"),
        (np.full((1, 8, 8, 3), 256), {}, "256"),
        (np.full((1, 8, 8, 3), -1), {}, "-1"),
        (np.full((1, 8, 8, 3), np.nan), {}, "NaN"),
        (np.zeros((1, 8, 8, 3), bool), {}, "bool"),
        (np.zeros((1, 1, 1, 8, 8, 3), np.uint8), {}, r"\(1, 1, 1, 8, 8, 3\)"),
        ([frames_of(1), frames_of(1)[0]], {}, "mixed"),
        ([[frames_of(1)], [frames_of(1), frames_of(1)]], {}, "deep"),
    ],
)
def test_frames_that_are_none_are_refused(frames, call, words):
    with pytest.raises(AutoGazeError, match=words):
        AutoGazeImageProcessor().preprocess(frames, **call)
