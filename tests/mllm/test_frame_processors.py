"""GazedProcessor for families to which frames are images, beside their untouched processors."""

import json
import os
import subprocess
import sys
import types

import pytest
import torch
from PIL import Image

import autogaze
from autogaze.errors import MLLMError
from autogaze.mllm import GazedProcessor, KeptUnits, UnitGrid
from autogaze.mllm.answering import VideoMLLM
from autogaze.mllm.frames import PatchFormat, cut_squares, resize_frames
from autogaze.mllm.processor_adapter import Sampling
from autogaze.mllm.registry import adapter_of, processor_adapter_of
from autogaze.mllm.smolvlm import spelt
from autogaze.mllm.stock_processor import of_checkpoint
from autogaze.mllm.viewing import Viewing
from tests.clips import make_video
from tests.mllm import stock_outputs
from tests.mllm.tiny_frame_processors import CLASSES, IMAGES, checkpoint
from tests.mllm.tiny_frames import FRAME_FAMILIES

UNITS = {"llava_onevision": 9, "smolvlm": 16, "internvl": 16}
"""Of a frame of the tiny models."""


@pytest.fixture(scope="module", params=CLASSES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames")
    for name in CLASSES:
        checkpoint(folder / name, name)
    make_video(folder / "wide.mp4", 12, 48, 32, fps=4)
    make_video(folder / "tall.mp4", 9, 32, 56, fps=4)
    return folder


@pytest.fixture(scope="module")
def folder(root, family):
    return root / family


@pytest.fixture(scope="module")
def model(family):
    return FRAME_FAMILIES[family].build()


@pytest.fixture(scope="module")
def stock(root):
    """What the untouched processors make, in a process with a stand-in for torchvision."""
    stock_outputs.stand_in(root / "stand_in")
    path = [str(root / "stand_in"), *filter(None, sys.path), os.getcwd()]
    done = subprocess.run(
        [sys.executable, "-m", "tests.mllm.stock_outputs", str(root), str(root / "out.pt")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return torch.load(root / "out.pt", weights_only=True)


def call_of(case, root):
    """A case of `stock_outputs` as arguments of a GazedProcessor: decoded videos, files of images."""
    given = stock_outputs.visuals(root)
    call = {key: case[key] for key in ("text", "num_frames", "fps") if key in case}
    if "videos" in case:
        call["videos"] = [given[name] for name in case["videos"]]
        call["video_metadata"] = [stock_outputs.metadata(name) for name in case["videos"]]
    if "images" in case:
        call["images"] = [
            [root / f"{one}.png" for one in row] if isinstance(row, list) else root / f"{row}.png"
            for row in case["images"]
        ]
    return call


@pytest.mark.slow  # most of it imports, in the other process
def test_everything_kept_is_what_the_untouched_processor_makes(root, folder, family, model, stock):
    processor = GazedProcessor.from_pretrained(folder, selector=None)
    gazed = autogaze.gazed_mllm(model)
    for name, case in stock_outputs.texts(family).items():
        expected = stock[f"{family}: {name}"]
        inputs = processor(**call_of(case, root))
        assert torch.equal(inputs["input_ids"], expected["input_ids"]), name
        assert torch.equal(inputs["attention_mask"], expected["attention_mask"]), name
        dense = {key: expected[key] for key in expected if key != "token_type_ids"}
        with torch.no_grad():
            found, untouched = gazed(**inputs).logits, model(**dense).logits
        torch.testing.assert_close(found, untouched, atol=1e-4, rtol=0)
        if name not in ("three frames", "images"):
            continue
        written = gazed.generate(**inputs, max_new_tokens=4)
        assert torch.equal(written, model.generate(**dense, max_new_tokens=4))
    for image, text in zip((False, True), stock[f"{family}: chats"], strict=True):
        conversation = stock_outputs.conversation(image)
        assert processor.apply_chat_template(conversation, add_generation_prompt=not image) == text


@pytest.mark.slow
def test_kept_units_are_those_of_the_dense_input(root, folder, family, model, stock):
    processor = GazedProcessor.from_pretrained(folder)
    gazed = autogaze.gazed_mllm(model)
    dense = stock[f"{family}: three frames"]
    dense = {key: dense[key] for key in dense if key != "token_type_ids"}
    grid = adapter_of(model).dense(dense)["video"][0].grid
    mask = torch.rand(grid.tubelets, grid.num_units, generator=torch.manual_seed(0)) < 0.3
    mask[0, 0], mask[1] = True, False
    kept = KeptUnits.from_mask(grid, mask)
    call = call_of(stock_outputs.texts(family)["three frames"], root)
    inputs = processor(**call, gaze=[kept])
    compact = gazed.compact(**dense, kept=[kept])
    assert torch.equal(inputs["input_ids"], compact.prompt.input_ids)
    assert torch.equal(inputs["gazed"].prompt.position_ids, compact.prompt.position_ids)
    with torch.no_grad():
        torch.testing.assert_close(
            gazed(**inputs).logits, gazed(gazed=compact).logits, atol=1e-4, rtol=0
        )


def test_the_prompt_is_shorter_by_what_was_dropped(root, folder, family, model):
    processor = GazedProcessor.from_pretrained(folder, selector="random", ratio=0.5)
    text = "a <video> b <video>?"
    videos = [root / "wide.mp4", root / "tall.mp4"]
    gazed = autogaze.gazed_mllm(model)
    for units, most in (("finest", UNITS[family] // 2), ("union", UNITS[family])):
        inputs = processor(text=text, videos=videos, units=units, num_frames=2)
        whole = processor(text=text, videos=videos, selector=None, num_frames=2)
        report = inputs.report
        dropped = sum(visual.dense_units - visual.kept_units for visual in report.visuals)
        assert whole["input_ids"].shape[1] - inputs["input_ids"].shape[1] == dropped
        assert report.dense_tokens == whole.report.tokens == (whole["input_ids"].shape[1],)
        assert report.tokens == (inputs["input_ids"].shape[1],)
        for visual in report.visuals:
            assert (visual.num_frames, visual.dense_units) == (2, 2 * UNITS[family])
            assert visual.kept_units <= 2 * most
            assert visual.width == visual.height == {"llava_onevision": 22}.get(family, 32)
        with torch.no_grad():
            assert bool(gazed(**inputs).logits.isfinite().all())


def test_batches_are_their_rows(root, folder, family, model):
    processor = GazedProcessor.from_pretrained(folder, selector="random", ratio=0.4)
    image = IMAGES[family]
    Image.new("RGB", (30, 20), "orange").save(root / "orange.png")
    texts = ["what <video>?", f"a {image} b <video> c <video>", "what?"]
    videos = [[root / "wide.mp4"], [root / "tall.mp4", root / "wide.mp4"], []]
    images = [[], [root / "orange.png"], []]
    side = "right" if family == "internvl" else "left"
    seed = torch.Generator().manual_seed(0)
    batch = processor(images, texts, videos, num_frames=2, padding_side=side, generator=seed)
    gazed = autogaze.gazed_mllm(model)
    given = iter(visual.kept for visual in batch["gazed"].visuals if visual.kind == "video")
    with torch.no_grad():
        logits = gazed(**batch).logits
        for row, text in enumerate(texts):
            kept = [next(given) for _ in videos[row]]
            one = processor(images[row], text, videos[row], gaze=kept, num_frames=2)
            real = batch["attention_mask"][row].bool()
            assert torch.equal(batch["input_ids"][row][real], one["input_ids"][0])
            single = gazed(**one).logits[0]
            torch.testing.assert_close(logits[row][real], single, atol=1e-4, rtol=0)


def test_files_and_frames_are_one(root, folder):
    from autogaze.video import Video

    processor = GazedProcessor.from_pretrained(folder, selector=None)
    frames = [torch.from_numpy(frame.pixels) for frame in Video(root / "tall.mp4").frames()]
    about = {"fps": 4.0, "duration": 9 / 4}
    decoded = processor(
        text="<video>?", videos=[torch.stack(frames)], video_metadata=about, num_frames=3
    )
    of_file = processor(text="<video>?", videos=root / "tall.mp4", num_frames=3)
    assert torch.equal(decoded["input_ids"], of_file["input_ids"])
    one, two = (made["gazed"].visuals[0].pixels for made in (decoded, of_file))
    assert torch.equal(one, two)


def test_a_gaze_is_saved_and_used_again(root, folder, tmp_path):
    processor = GazedProcessor.from_pretrained(folder, selector="change", ratio=0.5, num_frames=4)
    first = processor(text="<video>?", videos=root / "wide.mp4")
    first.gazes[0].save(tmp_path / "gaze")
    again = processor(text="<video>?", videos=root / "wide.mp4", gaze=tmp_path / "gaze")
    assert torch.equal(again["input_ids"], first["input_ids"])
    assert torch.equal(again["gazed"].visuals[0].kept.ids, first["gazed"].visuals[0].kept.ids)
    less = processor(text="<video>?", videos=root / "wide.mp4", gaze=first.gazes[0], ratio=0.2)
    assert less["input_ids"].shape[1] < first["input_ids"].shape[1]
    with pytest.raises(MLLMError, match="32 x 56"):
        processor(text="<video>?", videos=root / "tall.mp4", gaze=first.gazes[0])


def test_a_number_of_tokens(root, folder):
    processor = GazedProcessor.from_pretrained(folder, max_vision_tokens=11, num_frames=3)
    inputs = processor(text="<video> <video>", videos=[root / "wide.mp4", root / "tall.mp4"])
    assert 2 <= sum(visual.kept_units for visual in inputs.report.visuals) <= 11
    assert len(inputs.gazes) == 2


def test_conversations(root, folder, family, model):
    processor = GazedProcessor.from_pretrained(folder, selector="random", ratio=0.5)
    part = {"type": "video", "video": str(root / "wide.mp4")}
    messages = [{"role": "user", "content": [part, {"type": "text", "text": "what?"}]}]
    inputs = processor.apply_chat_template(
        [messages, messages[:1]], tokenize=True, return_dict=True, add_generation_prompt=True
    )
    # SmolVLM's settings name a rate and a number for conversations; the others take every frame.
    frames = 3 if family == "smolvlm" else 12
    assert [visual.num_frames for visual in inputs.report.visuals] == [frames, frames]
    assert len(processor(text="<video>", videos=root / "wide.mp4").gazes[0].source.timestamps) == 12
    if family == "smolvlm":
        answer = autogaze.gazed_mllm(model).generate(**inputs, max_new_tokens=2)
        assert answer.shape == (2, inputs["input_ids"].shape[1] + 2)


def test_saved_and_around_a_processor_that_is_loaded(root, folder, family, tmp_path):
    processor = GazedProcessor.from_pretrained(folder, selector="random", ratio=0.5, num_frames=2)
    processor.save_pretrained(tmp_path / "saved")
    loaded = GazedProcessor.from_pretrained(tmp_path / "saved")
    assert loaded.settings == processor.settings
    assert loaded.stock.own == processor.stock.own
    parts = processor.stock
    video, image = (
        types.SimpleNamespace(to_dict=lambda values=values: dict(values))
        for values in (parts.video, parts.image)
    )
    fields = {"tokenizer": parts.tokenizer, "video_processor": video, "image_processor": image}
    made = type(CLASSES[family], (types.SimpleNamespace,), {})(**fields, **parts.own)
    wrapped = GazedProcessor(made, "random", ratio=0.5, num_frames=2)
    rows = [
        one(text="a <video>", videos=root / "wide.mp4", generator=torch.manual_seed(1))
        for one in (processor, loaded, wrapped)
    ]
    assert all(torch.equal(row["input_ids"], rows[0]["input_ids"]) for row in rows)


def test_answers(root, folder, family, model, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    model.save_pretrained(tmp_path)
    answering = VideoMLLM.load(tmp_path)
    viewing = Viewing("greedy", 0.25, num_frames=3)
    answer = answering.ask(root / "wide.mp4", "what moves?", viewing, max_new_tokens=3)
    assert answer.num_tokens == 3
    assert answer.kept_units <= 3 * (UNITS[family] // 4)
    assert (
        answer.dense_prompt_tokens - answer.prompt_tokens == answer.dense_units - answer.kept_units
    )
    assert answer.seen.num_patches == answer.kept_units


def test_options_of_the_hub_are_taken(root, family):
    options = {"subfolder": family, "force_download": True, "proxies": None}
    processor = GazedProcessor.from_pretrained(root, **options, trust_remote_code=False)
    assert processor.stock.model_type == family
    with pytest.raises(MLLMError, match="trust_remote_code"):
        GazedProcessor.from_pretrained(root, **options, trust_remote_code=True)


class TestRefusals:
    def test_placeholders_that_do_not_count(self, root, folder, family):
        processor = GazedProcessor.from_pretrained(folder)
        for text in ("what?", "<video> <video>"):
            with pytest.raises(MLLMError, match="<video>"):
                processor(text=text, videos=root / "wide.mp4")
        with pytest.raises(MLLMError, match=IMAGES[family]):
            processor(text=f"{IMAGES[family]} <video>", videos=root / "wide.mp4")

    def test_a_prompt_that_is_too_long(self, root, folder, model):
        processor = GazedProcessor.from_pretrained(folder, ratio=0.1)
        text = "<video>" * 5
        inputs = processor(text=text, videos=[root / "wide.mp4"] * 5)
        with pytest.raises(MLLMError, match="fewer frames"):
            autogaze.gazed_mllm(model)(**inputs)

    def test_more_frames_than_there_are(self, root, folder, family):
        processor = GazedProcessor.from_pretrained(folder, num_frames=40)
        if family == "smolvlm":  # to which a number of frames is the most
            report = processor(text="<video>", videos=root / "wide.mp4").report
            assert report.visuals[0].num_frames == 3  # at the rate of its settings
            return
        with pytest.raises(MLLMError, match="40 frames"):
            processor(text="<video>", videos=root / "wide.mp4")

    def test_several_sizes_of_units(self, root, folder):
        processor = GazedProcessor.from_pretrained(folder, units="scales")
        with pytest.raises(MLLMError, match=r"whole tiles.*units='finest'"):
            processor(text="<video>", videos=root / "wide.mp4")

    @pytest.mark.parametrize(
        "settings",
        [{"do_center_crop": True}, {"do_normalize": False}, {"resample": 4}, {"size": {"height": 8, "width": 9}}],
        ids=str,
    )  # fmt: skip
    def test_settings_of_another_preparation(self, settings, root, family, tmp_path):
        if family == "smolvlm" and "size" in settings:  # which squares frames afterwards
            settings = {"max_image_size": 8}
        folder = checkpoint(tmp_path, family, **settings)
        with pytest.raises(MLLMError, match=next(iter(settings))):
            GazedProcessor.from_pretrained(folder)(text="<video>", videos=root / "wide.mp4")

    def test_units_that_are_no_square(self, root, tmp_path):
        folder = checkpoint(tmp_path, "smolvlm")
        text = (folder / "processor_config.json").read_text()
        (folder / "processor_config.json").write_text(text.replace(": 16", ": 15"))
        with pytest.raises(MLLMError, match="image_seq_len=15"):
            GazedProcessor.from_pretrained(folder)(text="<video>", videos=root / "wide.mp4")

    def test_kept_units_of_another_grid(self, root, folder):
        processor = GazedProcessor.from_pretrained(folder)
        kept = KeptUnits.everything(UnitGrid(12, ((2, 2),)))
        with pytest.raises(MLLMError, match="kept units are of"):
            processor(text="<video>", videos=root / "wide.mp4", gaze=kept)


@pytest.mark.parametrize("total", [1, 2, 7, 33, 300, 5000])
@pytest.mark.parametrize("asked", [{}, {"num_frames": 5}, {"fps": 1.5}], ids=str)
def test_sampled_frames_are_the_stock_ones(root, total, asked):
    from transformers.models.llava_onevision.video_processing_llava_onevision import (
        LlavaOnevisionVideoProcessor,
    )
    from transformers.video_utils import VideoMetadata

    about = VideoMetadata(total_num_frames=total, fps=25.0, duration=total / 25)
    llava, smolvlm, internvl = (
        processor_adapter_of(of_checkpoint(root / name)).sample for name in CLASSES
    )
    sampling = Sampling(**asked, every=False)
    if asked.get("num_frames", 0) > total:
        with pytest.raises(MLLMError, match="5 frames"):
            llava(total, 25.0, sampling)
    else:
        found = llava(total, 25.0, sampling)
        if not asked:  # all, and transformers 4 fails
            assert found == list(range(total))
        elif "fps" not in asked or total > 25:  # of which the stock one takes none
            stock = types.SimpleNamespace(num_frames=None, fps=None)
            expected = LlavaOnevisionVideoProcessor.sample_frames(stock, about, **asked)
            assert found == expected.tolist()
            step = total / len(expected)
            middles = torch.arange(step / 2, total, step).int().tolist()
            assert internvl(total, 25.0, sampling) == middles
    found = smolvlm(total, 25.0, sampling)
    try:
        from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor
    except ImportError:  # transformers 4 without torchvision
        assert found == sorted(set(found))
        return
    usual = types.SimpleNamespace(num_frames=3, fps=1)
    assert found == SmolVLMVideoProcessor.sample_frames(usual, about, **asked).tolist()


def test_coarser_patches_are_cut_from_smaller_frames():
    frames = torch.randint(0, 256, (2, 3, 22, 22), dtype=torch.uint8)
    form = PatchFormat(patch=4, merge=1, tubelet=1, mean=(0.0, 0.0, 0.0), std=(1.0, 0.5, 1.0))
    tubelet, index = torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1 + 7])
    pixels = cut_squares(frames, [1, 5], tubelet, index, form)
    small = resize_frames(frames, 4, 4)
    expected = torch.stack([small[0], small[1], frames[1, :, 4:8, 8:12]]) / 255
    expected[:, 1] *= 2
    torch.testing.assert_close(pixels, expected)


def test_numbers_in_words():
    expected = {
        1: "one",
        15: "fifteen",
        64: "sixty-four",
        100: "one hundred",
        128: "one hundred and twenty-eight",
        1024: "one thousand and twenty-four",
        2300: "two thousand, three hundred",
        20000: "twenty thousand",
    }
    assert {number: spelt(number) for number in expected} == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [("rescale_factor", 1 / 127.5), ("do_normalize", False), ("do_center_crop", True)],
)
def test_settings_that_are_not_honoured(tmp_path, family, name, value):
    folder = checkpoint(tmp_path / family, family, rescale_factor=0.00392156862745098)
    GazedProcessor.from_pretrained(folder)
    with pytest.raises(MLLMError, match=name):
        GazedProcessor.from_pretrained(checkpoint(folder, family, **{name: value}))


def test_older_settings_of_smolvlm_come_first(tmp_path):
    folder = checkpoint(tmp_path / "smolvlm", "smolvlm", num_frames=7, fps=5)
    adapter = processor_adapter_of(of_checkpoint(folder))
    assert adapter.default_sampling(adapter.settings("video")) == (3, 1)
    checkpoint(folder, "smolvlm", num_frames=7, fps=5, video_sampling=None)
    adapter = processor_adapter_of(of_checkpoint(folder))
    assert adapter.default_sampling(adapter.settings("video")) == (7, 5)


@pytest.mark.parametrize("size", [{"height": 64}, {"width": 64}, {"shortest_edge": 64}])
def test_sizes_of_smolvlm_that_are_none(tmp_path, root, size):
    folder = checkpoint(tmp_path / "smolvlm", "smolvlm", size=size)
    with pytest.raises(MLLMError, match="size of the video processor"):
        GazedProcessor.from_pretrained(folder)(text="<video>", videos=root / "wide.mp4")


@pytest.mark.parametrize("file", ["config.json", "processor_config.json"])
def test_patches_that_llava_drops(tmp_path, file):
    folder = checkpoint(tmp_path / "llava", "llava_onevision")
    values = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**values, "vision_feature_select_strategy": "default"}))
    with pytest.raises(MLLMError, match="vision_feature_select_strategy"):
        GazedProcessor.from_pretrained(folder)


def test_models_of_llava_that_drop_patches():
    model = FRAME_FAMILIES["llava_onevision"].build()
    model.config.vision_feature_select_strategy = "default"
    with pytest.raises(MLLMError, match="vision_feature_select_strategy"):
        adapter_of(model)
