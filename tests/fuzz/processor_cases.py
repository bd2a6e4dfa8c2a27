"""`GazedProcessor`: calls with wrong text, videos, images, gazes and options; changed files."""

import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

import autogaze
from autogaze.gaze import Gaze
from autogaze.mllm.gaze_settings import GazeSettings
from tests.fuzz.material import VIDEOS, Material
from tests.fuzz.mutation import VALUES, arrays, change_bytes, change_values, to_json
from tests.fuzz.outcomes import attempt, one_of
from tests.mllm.tiny_processor import checkpoint

VIDEO = "<|vision_start|><|video_pad|><|vision_end|> What moves ?"
IMAGE = "<|vision_start|><|image_pad|><|vision_end|> What moves ?"
OPTIONS = (*GazeSettings.names(), *GazeSettings.names(), "generator", "do_sample_frames")
OPTIONS += ("video_metadata", "padding", "padding_side", "return_tensors", "add_special_tokens")


@functools.cache
def _tiny() -> tuple[Any, np.ndarray, Gaze]:
    """A tiny processor, frames, and a gaze at them."""
    with tempfile.TemporaryDirectory() as folder:
        path = checkpoint(Path(folder) / "qwen3", "qwen3_vl")
        processor = autogaze.GazedProcessor.from_pretrained(path, selector="change", ratio=0.2)
    frames = np.random.default_rng(0).integers(0, 255, (4, 32, 48, 3), dtype=np.uint8)
    made = processor(text=VIDEO, videos=[frames], video_metadata=[{"fps": 2}])
    return processor, frames, made.gazes[0]


def gazed_processor(material: Material, folder: Path, random: Random) -> str:
    """A wrong argument of a processor's call, or a changed file of one."""
    kinds = (_call, _call, _call, _conversation, _placeholders, _video, _saved_gaze, _files)
    return random.choice(kinds)(material, folder, random)


def _call(material: Material, folder: Path, random: Random) -> str:
    value = random.choice((*arrays(), *arrays(), *VALUES))
    processor, frames, gaze = _tiny()
    image = Image.fromarray(frames[0])

    def call(**changes: Any) -> Any:
        return processor(**{"text": VIDEO, "videos": [frames], **changes})

    option = random.choice(OPTIONS)
    details = {"fps": 2, "frames_indices": [0, 1, 2, 3], "total_num_frames": 8}
    detail = random.choice(list(details))
    calls: list[Callable[[], Any]] = [
        lambda: call(text=value),
        lambda: call(text=[VIDEO, value]),
        lambda: call(videos=value),
        lambda: call(videos=[value]),
        lambda: call(text=[VIDEO] * 2, videos=[[frames], value]),
        lambda: call(videos=[[*frames, value]]),
        lambda: call(text=IMAGE, videos=None, images=value),
        lambda: call(text=[IMAGE] * 2, videos=None, images=[image, value]),
        lambda: call(images=value),
        lambda: call(gaze=value),
        lambda: call(gaze=[value]),
        lambda: call(gaze=lambda grid: value),
        lambda: call(gaze=[gaze, value]),
        lambda: call(gaze=gaze, ratio=value),
        lambda: call(**{option: value}),
        lambda: call(**{option: value}),
        lambda: call(**{option: value}),
        lambda: call(**{str(value)[:20]: 1}),
        lambda: call(video_metadata=[{**details, detail: value}]),
        lambda: call(video_metadata=[{**details, detail: [value] * 4}]),
        lambda: autogaze.GazedProcessor(value),
        lambda: autogaze.GazedProcessor(processor.stock, value),
        lambda: autogaze.GazedProcessor(processor.stock, **{random.choice(OPTIONS): value}),
        lambda: autogaze.GazedProcessor.from_pretrained(value),
        lambda: processor.save_pretrained(value),
    ]
    if isinstance(value, str | Path):
        calls.pop()  # a folder that could be written
    return one_of(calls, (option, value), random)


def _conversation(material: Material, folder: Path, random: Random) -> str:
    processor, _, _ = _tiny()
    parts = [
        {"type": "video", "video": str(material.folder / "a.mp4")},
        {"type": "image", "image": str(material.folder / "a.png")},
        {"type": "text", "text": "What moves ?"},
    ]
    messages: Any = [
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "word3"},
        {"role": "user", "content": "What ?"},
    ]
    messages = change_values(messages, random)[0]
    tokenize = random.random() < 0.7
    return attempt(
        lambda: processor.apply_chat_template(
            messages, tokenize=tokenize, return_dict=True, num_frames=2
        )
    )


def _placeholders(material: Material, folder: Path, random: Random) -> str:
    """Prompts with any placeholders and videos and images of any numbers."""
    processor, frames, _ = _tiny()
    words = ("<|video_pad|>", "<|image_pad|>", "<|vision_start|>", "<|vision_end|>", "word5", "")
    rows = [
        " ".join(random.choices(words, k=random.randrange(6))) for _ in range(random.choice((1, 2)))
    ]
    image = Image.fromarray(frames[0])
    videos = [frames] * random.randrange(3)
    images = [image] * random.randrange(3)
    return attempt(lambda: processor(text=rows, videos=videos or None, images=images or None))


def _video(material: Material, folder: Path, random: Random) -> str:
    """A damaged file as a video or an image."""
    processor, _, _ = _tiny()
    name = random.choice(VIDEOS)
    path = folder / f"wrong{Path(name).suffix}"
    path.write_bytes(change_bytes((material.folder / name).read_bytes(), random))
    skip = random.random() < 0.5
    if random.random() < 0.3:
        return attempt(lambda: processor(text=IMAGE, images=path, skip_corrupt=skip), path.name)
    return attempt(
        lambda: processor(text=VIDEO, videos=path, skip_corrupt=skip), path.name, "frames of"
    )


def _saved_gaze(material: Material, folder: Path, random: Random) -> str:
    """A gaze of another video, grid or number of frames, from a file that may be damaged."""
    processor, frames, gaze = _tiny()
    path = folder / "wrong.safetensors"
    if random.random() < 0.5:
        gaze = autogaze.gaze_video(
            material.folder / random.choice(VIDEOS), selector="centre", ratio=0.1, max_tiles=4
        )
    gaze.save(path)
    if random.random() < 0.4:
        path.write_bytes(change_bytes(path.read_bytes(), random))
    video = frames if random.random() < 0.5 else material.folder / random.choice(VIDEOS)
    units = random.choice(("finest", "scales", "union"))
    return attempt(
        lambda: processor(
            text=VIDEO,
            videos=[video],
            gaze=path,
            units=units,
            max_vision_tokens=random.choice((1, 20)),
        )
    )


def _files(material: Material, folder: Path, random: Random) -> str:
    """A checkpoint's processor files, of which one is changed or taken away."""
    target = checkpoint(folder / "wrong", random.choice(("qwen3_vl", "qwen2_5_vl")))
    files = sorted(path for path in target.iterdir() if path.suffix == ".json")
    path = random.choice(files)
    choice = random.randrange(6)
    if choice == 0:
        path.unlink()
    elif choice == 1:
        path.write_bytes(change_bytes(path.read_bytes(), random))
    else:
        path.write_text(to_json(change_values(json.loads(path.read_text()), random)[0]))
    frames = _tiny()[1]

    def use() -> None:
        processor = autogaze.GazedProcessor.from_pretrained(target, selector="centre", ratio=0.1)
        processor(text=VIDEO, videos=[frames], video_metadata=[{"fps": 2}])

    return attempt(use)
