"""GazedProcessor: prompts of files and frames, beside dense prompts written by hand."""

import pickle

import jaxtyping
import pytest
import torch
import transformers
from PIL import Image
from torch.nn.functional import interpolate

from autogaze import GazedProcessor, gazed_mllm
from autogaze.errors import (
    AutoGazeError,
    CorruptVideoError,
    MLLMError,
    SelectorError,
    VideoError,
)
from autogaze.mllm import gazed_visual
from autogaze.mllm.sampled_video import SampledVideo
from autogaze.mllm.units import KeptUnits, UnitGrid
from autogaze.video import Video
from tests.clips import make_video
from tests.mllm import tiny
from tests.mllm.tiny_processor import checkpoint, settings, tokenizer

FIVE = transformers.__version__.startswith("5.")
FAMILIES = ("qwen3_vl", "qwen2_5_vl")
VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def untyped():
    """As for users: types of arguments are checked in tests only."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    make_video(folder / "wide.mp4", 12, 48, 32, fps=4)
    make_video(folder / "tall.mp4", 9, 32, 56, fps=4)
    picture = torch.randint(0, 256, (40, 24, 3), dtype=torch.uint8)
    Image.fromarray(picture.numpy()).save(folder / "still.png")
    return folder


@pytest.fixture(scope="module")
def model(family):
    return getattr(tiny, family)()


@pytest.fixture(scope="module")
def folder(family, tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("checkpoint") / family, family)


def pixels_of(path, numbers):
    frames = [frame.pixels for frame in Video(path).frames() if frame.index in numbers]
    return torch.stack([torch.from_numpy(frame).movedim(-1, 0) for frame in frames])


def dense_rows(frames, height, width):
    """The stock preparation of a whole clip: patches of 4, units of 2 x 2, tubelets of 2."""
    sized = interpolate(frames, size=(height, width), mode="bicubic", antialias=True)
    mean = torch.tensor([0.4, 0.5, 0.6])[:, None, None]
    std = torch.tensor([0.2, 0.3, 0.25])[:, None, None]
    clip = (sized / 255 - mean) / std
    if len(clip) % 2:
        clip = torch.cat([clip, clip[-1:]])
    patches = clip.view(-1, 2, 3, height // 8, 2, 4, width // 8, 2, 4)
    patches = patches.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    thw = [len(clip) // 2, height // 4, width // 4]
    return patches.reshape(-1, 3 * 2 * 16), thw


def dense_text(family, text, grids, seconds):
    """A prompt with a placeholder per unit: grids and frames' times of its videos, in order."""
    pieces = text.split(VIDEO)
    out = pieces[0]
    for (t, h, w), times, piece in zip(grids, seconds, pieces[1:], strict=True):
        units = "<|video_pad|>" * (h * w // 4)
        if family == "qwen2_5_vl":
            body = f"<|vision_start|>{units * t}<|vision_end|>"
        else:
            body = ""
            for number in range(t):
                pair = times[2 * number : 2 * number + 2]
                mean = (pair[0] + pair[-1]) / 2
                body += f"<{mean:.1f} seconds><|vision_start|>{units}<|vision_end|>"
            if hasattr(transformers.Qwen3VLProcessor, "replace_video_token"):
                body = f"<|vision_start|>{body}<|vision_end|>"
        out += body + piece
    return out


def dense_inputs(family, text, videos):
    """What the untouched model takes; videos as (rows, grid, times)."""
    grids = [grid for _, grid, _ in videos]
    ids = tokenizer()(dense_text(family, text, grids, [times for *_, times in videos]))["input_ids"]
    inputs = {
        "input_ids": torch.tensor([ids]),
        "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
        "pixel_values_videos": torch.cat([rows for rows, *_ in videos]),
        "video_grid_thw": torch.tensor(grids),
    }
    if family == "qwen2_5_vl":
        counted = zip((12, 9), videos, strict=True)
        spans = [2 / (len(times) / total * 4) if FIVE else 1.0 for total, (*_, times) in counted]
        inputs["second_per_grid_ts"] = torch.tensor(spans)
    if tiny.takes_token_types():
        inputs["mm_token_type_ids"] = 2 * (inputs["input_ids"] == tiny.VIDEO).int()
    return inputs


SAMPLED = {
    ("qwen3_vl", "wide.mp4"): [0, 2, 4, 7, 9, 11],
    ("qwen3_vl", "tall.mp4"): [0, 3, 5, 8],
    ("qwen2_5_vl", "wide.mp4"): [0, 2, 4, 6, 8, 10],
    ("qwen2_5_vl", "tall.mp4"): [0, 2, 4, 6],
}
"""Frames at two per second of 12 and 9 frames at four, as each family takes them."""


def example(family, files, name, size):
    numbers = SAMPLED[family, name]
    rows, grid = dense_rows(pixels_of(files / name, numbers), *size)
    return rows, grid, [number / 4 for number in numbers]


TEXT = f"user What moves ? {VIDEO} Answer {VIDEO} ?"


@pytest.fixture(scope="module")
def dense(family, files):
    wide = example(family, files, "wide.mp4", (32, 48))
    tall = example(family, files, "tall.mp4", (56, 32))
    return wide, tall


def test_everything_kept_is_the_dense_prompt(family, files, folder, model, dense):
    tiny.skip_where_time_stands_still(family)
    processor = GazedProcessor.from_pretrained(folder, selector=None)
    inputs = processor(text=TEXT, videos=[files / "wide.mp4", files / "tall.mp4"])
    expected = dense_inputs(family, TEXT, dense)
    assert set(inputs) == {"input_ids", "attention_mask", "gazed"}
    assert torch.equal(inputs["input_ids"], expected["input_ids"])
    assert torch.equal(inputs["attention_mask"], expected["attention_mask"])
    gazed = gazed_mllm(model)
    with torch.no_grad():
        torch.testing.assert_close(
            gazed(**inputs).logits, model(**expected).logits, atol=1e-4, rtol=0
        )
    written = gazed.generate(**inputs, max_new_tokens=4)
    assert torch.equal(written, model.generate(**expected, max_new_tokens=4))
    assert processor.batch_decode(written)[0].startswith("user What moves ?")


def some_units(grid, seed):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(grid.tubelets, grid.num_units, generator=generator) < 0.3
    mask[0, 0], mask[1] = True, False
    return KeptUnits.from_mask(grid, mask)


def test_kept_units_are_those_of_the_dense_run(family, files, folder, model, dense):
    wide, tall = (
        some_units(UnitGrid(t, ((h // 2, w // 2),)), seed)
        for seed, (_, (t, h, w), _) in enumerate(dense)
    )
    processor = GazedProcessor.from_pretrained(folder)
    inputs = processor(
        text=TEXT, videos=[files / "wide.mp4", files / "tall.mp4"], gaze=[wide, tall]
    )
    gazed = gazed_mllm(model)
    expected = dense_inputs(family, TEXT, dense)
    compact = gazed.compact(**expected, kept=[wide, tall])
    assert torch.equal(inputs["input_ids"], compact.prompt.input_ids)
    assert torch.equal(inputs["gazed"].prompt.position_ids, compact.prompt.position_ids)
    dropped = wide.dense_units + tall.dense_units - wide.num_units - tall.num_units
    assert inputs["input_ids"].shape[1] == expected["input_ids"].shape[1] - dropped
    assert inputs.report.dense_tokens == (expected["input_ids"].shape[1],)
    assert inputs.report.tokens == (inputs["input_ids"].shape[1],)
    with torch.no_grad():
        torch.testing.assert_close(
            gazed(**inputs).logits, gazed(gazed=compact).logits, atol=1e-4, rtol=0
        )


def test_batches_are_their_rows(family, files, folder, model):
    side = {"qwen3_vl": "left", "qwen2_5_vl": "right"}[family]
    processor = GazedProcessor.from_pretrained(folder, selector="random", ratio=0.3)
    texts = [f"What {VIDEO} ?", f"user Answer What {IMAGE} moves {VIDEO} {VIDEO}", "What ?"]
    videos = [[files / "wide.mp4"], [str(files / "tall.mp4"), files / "wide.mp4"], []]
    images = [[], [files / "still.png"], []]
    seed = torch.Generator().manual_seed(0)
    batch = processor(images, texts, videos, padding_side=side, generator=seed)
    kept = [visual.kept for visual in batch["gazed"].visuals if visual.kind == "video"]
    gazed = gazed_mllm(model)
    with torch.no_grad():
        logits = gazed(**batch).logits
    given = iter(kept)
    for row, text in enumerate(texts):
        one = processor(
            images[row],
            text,
            videos[row],
            gaze=[next(given) for _ in videos[row]],
            padding="longest",
        )
        real = batch["attention_mask"][row].bool()
        assert torch.equal(batch["input_ids"][row][real], one["input_ids"][0])
        assert (not bool(real[0])) == (side == "left" and not bool(real.all()))
        with torch.no_grad():
            single = gazed(**one).logits[0]
        torch.testing.assert_close(logits[row][real], single, atol=1e-4, rtol=0)


def test_a_conversation(files, folder, model):
    processor = GazedProcessor.from_pretrained(folder, selector="random", ratio=0.25)
    part = {"type": "video", "video": str(files / "wide.mp4")}
    messages = [{"role": "user", "content": [part, {"type": "text", "text": "What moves ?"}]}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert text == f"<|im_start|>user\n{VIDEO}What moves ?<|im_end|>\n<|im_start|>assistant\n"
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, num_frames=4,
        return_tensors="pt",
    )  # fmt: skip
    report = inputs.report
    assert (report.visuals[0].num_frames, report.visuals[0].width) == (4, 48)
    assert report.visuals[0].kept_units == 2 * 6  # of 24 units, a quarter per tubelet
    assert report.ratio == 0.25
    assert "12 of 48 units kept (25.0%)" in str(report)
    assert report.seconds.decode > 0
    answer = gazed_mllm(model).generate(**inputs.to("cpu"), max_new_tokens=3)
    assert answer.shape[1] == inputs["input_ids"].shape[1] + 3
    same = {"type": "video", "url": f"file://{files / 'wide.mp4'}"}
    batch = processor.apply_chat_template(
        [messages, [{"role": "user", "content": [same]}]], tokenize=True, fps=1
    )
    assert batch.shape[0] == 2


def test_moving_to_a_precision(files, folder):
    inputs = GazedProcessor.from_pretrained(folder, selector=None)(
        text=VIDEO, videos=files / "wide.mp4"
    )
    moved = inputs.to("cpu", torch.bfloat16)
    assert moved["gazed"].visuals[0].pixels.dtype == torch.bfloat16
    assert inputs.to(device="cpu")["gazed"].visuals[0].pixels.dtype == torch.float32
    assert moved.report is inputs.report
    assert pickle.loads(pickle.dumps(inputs)).report == inputs.report


def test_saved_and_loaded_again(files, folder, tmp_path):
    processor = GazedProcessor.from_pretrained(folder, selector="random", ratio=0.5, fps=2)
    processor.save_pretrained(tmp_path / "saved")
    loaded = GazedProcessor.from_pretrained(tmp_path / "saved")
    assert loaded.settings == processor.settings
    assert (
        GazedProcessor.from_pretrained(tmp_path / "saved", loss=None, ratio=0.1).settings.ratio
        == 0.1
    )
    one, two = (
        made(text=VIDEO, videos=files / "wide.mp4", generator=torch.Generator().manual_seed(0))
        for made in (processor, loaded)
    )
    assert torch.equal(one["input_ids"], two["input_ids"])
    assert loaded.chat_template == processor.chat_template


class Settings(dict):
    """A stock video or image processor, as far as its settings go."""

    def to_dict(self):
        return dict(self)


def test_around_a_processor_that_is_loaded(files, family, folder, tmp_path):
    class Stock:
        def __init__(self):
            self.tokenizer, self.chat_template = tokenizer(), None
            self.video_processor = self.image_processor = Settings(settings())
            self.saved_in = None

        def save_pretrained(self, where):
            checkpoint(where, family)
            self.saved_in = where

    names = {"qwen3_vl": "Qwen3VLProcessor", "qwen2_5_vl": "Qwen2_5_VLProcessor"}
    stock = type(names[family], (Stock,), {})()
    wrapped = GazedProcessor(stock, None, fps=1)
    same = GazedProcessor.from_pretrained(folder, selector=None, fps=1)
    one, two = (made(text=VIDEO, videos=files / "wide.mp4") for made in (wrapped, same))
    assert torch.equal(one["input_ids"], two["input_ids"])
    assert torch.equal(one["gazed"].visuals[0].pixels, two["gazed"].visuals[0].pixels)
    wrapped.save_pretrained(tmp_path / "saved")
    assert stock.saved_in == tmp_path / "saved"
    assert GazedProcessor.from_pretrained(tmp_path / "saved").settings == wrapped.settings
    other = type("OddProcessor", (Stock,), {})()
    with pytest.raises(MLLMError, match="OddProcessor"):
        GazedProcessor(other)


def test_decoded_frames_and_what_is_known_of_them(files, family, folder):
    processor = GazedProcessor.from_pretrained(folder, selector=None)
    numbers = SAMPLED[family, "wide.mp4"]
    frames = pixels_of(files / "wide.mp4", numbers)
    about = {"fps": 4.0, "frames_indices": numbers, "total_num_frames": 12}
    one = processor(text=VIDEO, videos=[frames], video_metadata=[about])
    two = processor(text=VIDEO, videos=files / "wide.mp4")
    assert torch.equal(one["input_ids"], two["input_ids"])
    visual, other = one["gazed"].visuals[0], two["gazed"].visuals[0]
    assert torch.equal(visual.pixels, other.pixels)
    assert visual.interval == other.interval
    with pytest.warns(UserWarning, match="24 per second"):
        processor(text=VIDEO, videos=list(frames.numpy()))


BAD = {
    "too few placeholders": ({"text": "What ?", "videos": ["wide.mp4"]}, MLLMError),
    "too many placeholders": ({"text": VIDEO * 2, "videos": ["wide.mp4"]}, MLLMError),
    "an image without placeholder": ({"text": "What ?", "images": ["still.png"]}, MLLMError),
    "no text": ({"videos": ["wide.mp4"]}, MLLMError),
    "no such file": ({"text": VIDEO, "videos": ["missing.mp4"]}, VideoError),
    "a ratio above 1": ({"text": VIDEO, "videos": ["wide.mp4"], "ratio": 1.5}, ValueError),
    "no tokens": ({"text": VIDEO, "videos": ["wide.mp4"], "max_vision_tokens": 0}, MLLMError),
    "kept units of another grid": (
        {"text": VIDEO, "videos": ["wide.mp4"], "gaze": KeptUnits.everything(UnitGrid(3, ((2, 2),)))},
        MLLMError,
    ),
    "gazes for more videos": ({"text": VIDEO, "videos": ["wide.mp4"], "gaze": [None, None]}, MLLMError),
    "an unknown option": ({"text": "What ?", "truncation": True}, MLLMError),
    "more frames than there are": ({"text": VIDEO, "videos": ["wide.mp4"], "num_frames": 40}, MLLMError),
    "NumPy arrays": ({"text": "What ?", "return_tensors": "np"}, MLLMError),
    "an address": ({"text": VIDEO, "videos": ["https://localhost/a.mp4"]}, MLLMError),
    "text that is a number": ({"text": 3}, MLLMError),
    "a rule without kept units": ({"text": VIDEO, "videos": ["wide.mp4"], "gaze": [lambda _: 5]}, MLLMError),
    "a loss below 0": ({"text": "What ?", "loss": -1.0}, MLLMError),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be(case, files, folder, untyped):
    arguments, error = BAD[case]
    arguments = {
        name: [f"{files}/{file}" if "://" not in file else file for file in value]
        if name in ("videos", "images")
        else value
        for name, value in arguments.items()
    }
    processor = GazedProcessor.from_pretrained(folder, selector="random", ratio=0.5)
    with pytest.raises(error):
        processor(**arguments)


def test_what_is_no_processor(tmp_path, folder):
    with pytest.raises(MLLMError, match="from_pretrained"):
        GazedProcessor(folder)
    with pytest.raises(MLLMError, match="tokenizer"):
        GazedProcessor(object())
    with pytest.raises(MLLMError):
        GazedProcessor.from_pretrained(tmp_path / "empty")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"ratio": 0.0}, "ratio"),
        ({"loss": float("nan")}, "loss"),
        ({"loss": "0.1"}, "loss"),
        ({"num_frames": 0}, "num_frames"),
        ({"fps": -1}, "fps"),
        ({"num_frames": 4, "fps": 1}, "not both"),
        ({"skip_corrupt": "no"}, "skip_corrupt"),
        ({"decoder": "ffmpeg"}, "torchcodec"),
        ({"selector": "gredy"}, "greedy"),
        ({"raito": 0.1}, "ratio"),
        ({"trust_remote_code": True}, "trust_remote_code"),
    ],
)
def test_settings_are_checked_where_they_are_given(options, named, folder, untyped):
    with pytest.raises((MLLMError, SelectorError, VideoError), match=named):
        GazedProcessor.from_pretrained(folder, **options)


def test_what_is_of_a_machine_is_not_saved(folder, tmp_path, untyped):
    processor = GazedProcessor.from_pretrained(folder, decoder="pyav").to("cpu")
    processor.save_pretrained(tmp_path)
    assert GazedProcessor.from_pretrained(tmp_path).settings.decoder == "auto"
    for device in ("moon", 3.5, None):
        with pytest.raises(AutoGazeError):
            processor.to(device)


def test_misspelt_options_of_conversations(folder):
    processor = GazedProcessor.from_pretrained(folder)
    messages = [{"role": "user", "content": "What ?"}]
    for option, meant in (("raito", "ratio"), ("num_frame", "num_frames")):
        with pytest.raises(MLLMError, match=f"did you mean {meant}"):
            processor.apply_chat_template(messages, **{option: 1})
    template = "{{ num_frame }}"  # a name of its own
    assert processor.apply_chat_template(messages, template, num_frame=2, tools=None) == "2"


def test_lists_per_prompt_are_of_their_prompts(files, folder):
    processor = GazedProcessor.from_pretrained(folder, selector=None)
    one, two = files / "wide.mp4", files / "tall.mp4"
    texts = [VIDEO + VIDEO, "What ?"]
    with pytest.raises(MLLMError, match=r"prompt 0 has 2 placeholders.* 1 video was given"):
        processor(text=texts, videos=[[one], [two]])
    with pytest.raises(MLLMError, match="1 list for 2 prompts"):
        processor(text=texts, videos=[[one, two]])
    nested, flat = (processor(text=texts, videos=given) for given in ([[one, two], []], [one, two]))
    assert torch.equal(nested["input_ids"], flat["input_ids"])


def test_a_saved_gaze_is_not_cut_by_a_loss(files, folder):
    processor = GazedProcessor.from_pretrained(folder, selector="random", ratio=0.5)
    gaze = processor(text=VIDEO, videos=files / "wide.mp4").gazes[0]
    with pytest.raises(MLLMError, match="not by a loss"):
        processor(text=VIDEO, videos=files / "wide.mp4", gaze=gaze, loss=0.1)


@pytest.mark.parametrize(
    "asked", [{"num_frames": 8}, {"fps": 4}, {"max_frames": 8}, {"do_sample_frames": False}]
)
def test_a_saved_gaze_is_at_its_own_frames(asked, files, folder):
    processor = GazedProcessor.from_pretrained(folder, selector="random", ratio=0.5)
    first = processor(text=VIDEO, videos=files / "wide.mp4", num_frames=4)
    call = {"text": VIDEO, "videos": files / "wide.mp4", "gaze": first.gazes[0]}
    with pytest.raises(MLLMError, match=rf"{next(iter(asked))}=.* 4 here"):
        processor(**call, **asked)
    for same in ({}, {"num_frames": 4}, {"do_sample_frames": True}):
        assert torch.equal(processor(**call, **same)["input_ids"], first["input_ids"])
    first = processor(text=VIDEO, videos=files / "wide.mp4", **asked)
    again = processor(text=VIDEO, videos=files / "wide.mp4", gaze=first.gazes[0], **asked)
    assert torch.equal(again["input_ids"], first["input_ids"])


@pytest.mark.parametrize("units", ["finest", "scales"])
def test_motion_vectors_of_resized_frames(units, files, folder):
    processor = GazedProcessor.from_pretrained(folder, selector="codec", units=units, ratio=0.25)
    (visual,) = processor(text=VIDEO, videos=files / "wide.mp4").report.visuals
    assert 0 < visual.kept_units <= visual.dense_units / 4


def test_tokens_that_images_exceed(files, folder):
    processor = GazedProcessor.from_pretrained(folder, max_vision_tokens=1)
    with pytest.raises(MLLMError) as caught:
        processor(text=IMAGE, images=files / "still.png")
    assert "video may" not in str(caught.value)
    assert "0 video" not in str(caught.value)


def test_folders_that_do_not_exist():
    with pytest.raises(MLLMError, match="no such folder"):
        GazedProcessor.from_pretrained("nowhere")


def test_damage_advises_what_is_done_here(tmp_path, folder):
    make_video(tmp_path / "cut.mp4", 12, 48, 32, fps=4)
    whole = (tmp_path / "cut.mp4").read_bytes()
    middle = whole.index(b"mdat") + len(whole[whole.index(b"mdat") :]) // 3
    damaged = whole[:middle] + bytes(200) + whole[middle + 200 :]
    (tmp_path / "cut.mp4").write_bytes(damaged)
    processor = GazedProcessor.from_pretrained(folder, selector=None)
    with pytest.raises(CorruptVideoError, match="takes the frame before"):
        processor(text=VIDEO, videos=tmp_path / "cut.mp4")


@pytest.mark.parametrize("budget", [{"ratio": 0.3}, {"max_vision_tokens": 9}])
def test_frames_are_held_until_the_units_of_their_video_are_cut(budget, files, folder, monkeypatch):
    """Not until the call ends: of one video, or of one prompt where videos share its tokens."""
    videos, held = [], []

    class Watched(SampledVideo):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            videos.append(self)

        def __iter__(self):
            held.append(sum(video.bytes_held > 0 for video in videos))
            return super().__iter__()

    monkeypatch.setattr(gazed_visual, "SampledVideo", Watched)
    processor = GazedProcessor.from_pretrained(folder, selector="change", **budget)
    one, two = files / "wide.mp4", files / "tall.mp4"
    inputs = processor(text=[VIDEO, VIDEO + VIDEO], videos=[one, two, one])
    assert sum(video.bytes_held for video in videos) == 0
    # Before every reading: select and cut, of the first prompt's video, then of the other two.
    waiting = [0, 1, 0, 1, 0, 1] if "ratio" in budget else [0, 1, 0, 1, 2, 1]
    assert held == waiting
    alone = [processor(text=VIDEO, videos=[file]).gazed.visuals[0] for file in (one, two)]
    for place, visual in enumerate(alone[: 2 if "ratio" in budget else 1]):
        assert torch.equal(inputs.gazed.visuals[place].pixels, visual.pixels)
