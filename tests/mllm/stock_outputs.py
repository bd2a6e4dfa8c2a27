"""What the untouched processors of frame families make: run by a test, beside a stand-in for torchvision.

    python -m tests.mllm.stock_outputs FOLDER OUT

transformers' video processors import torchvision, of which they use little; where it is not
installed, `stand_in` writes that little: resizing is PyTorch's, as in torchvision.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from tests.mllm.tiny_frame_processors import CLASSES, IMAGES

FRAMES = {"wide": (12, 32, 48), "tall": (9, 56, 32)}
RATE = 4.0


def texts(family: str) -> dict[str, dict[str, Any]]:
    """Calls by name: text, videos, images (names of each) and options."""
    image = IMAGES[family]
    cases: dict[str, dict[str, Any]] = {
        "three frames": {"text": "What <video> moves?", "videos": ["wide"], "num_frames": 3},
        "two a second": {"text": "What <video> moves?", "videos": ["tall"], "fps": 2},
        "videos": {"text": "a <video> b <video>?", "videos": ["wide", "tall"], "num_frames": 2},
        "an image": {"text": f"{image} what?", "images": [["still"]]},
        "a small image": {"text": f"{image} what?", "images": [["small"]]},
        "images": {"text": f"a {image} b {image}", "images": [["still", "small"]]},
        "flat images": {"text": f"a {image} b {image}", "images": ["still", "small"]},
    }
    if family != "smolvlm":  # of which transformers 4 takes videos or images
        cases["both"] = {
            "text": f"a {image} <video>?",
            "videos": ["tall"],
            "images": [["still"]],
            "num_frames": 2,
        }
    return cases


def visuals(folder: Path) -> dict[str, Any]:
    """Decoded videos and images by name; images are files, too."""
    generator = torch.Generator().manual_seed(0)
    made: dict[str, Any] = {}
    for name, (count, height, width) in FRAMES.items():
        shape = (count, 3, height, width)
        made[name] = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    for name, (height, width) in {"still": (40, 24), "small": (20, 22)}.items():
        pixels = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{name}.png")
        made[name] = Image.fromarray(pixels.numpy())
    return made


def metadata(name: str) -> dict[str, Any]:
    count = FRAMES[name][0]
    return {
        "total_num_frames": count,
        "fps": RATE,
        "duration": count / RATE,
        "frames_indices": list(range(count)),
    }


def conversation(image: bool) -> list[dict[str, Any]]:
    first = {"type": "image"} if image else {"type": "text", "text": "Look: "}
    parts = [first, {"type": "video"}, {"type": "text", "text": "What moves?"}]
    said = [{"type": "text", "text": "A square."}]
    return [{"role": "user", "content": parts}, {"role": "assistant", "content": said}]


def stand_in(folder: Path) -> None:
    """Modules that stand for torchvision and num2words where they are not installed."""
    for package, (version, modules) in _PACKAGES.items():
        if importlib.util.find_spec(package) is not None:
            continue
        about = f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
        files = {**modules, f"{package}-{version}.dist-info/METADATA": about}
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)


_INTERPOLATION = """
from enum import Enum

class InterpolationMode(Enum):
    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"
"""
_FUNCTIONAL = """
import torch
from torchvision.transforms import InterpolationMode

def grayscale_to_rgb(image):
    return image

def resize(image, size, interpolation, antialias=True):
    size = tuple(size)
    if tuple(image.shape[-2:]) == size:
        return image
    flat = image.reshape(-1, *image.shape[-3:])
    made = torch.nn.functional.interpolate(
        flat, size=size, mode=interpolation.value, antialias=antialias
    )
    return made.reshape(*image.shape[:-2], *size)

def normalize(image, mean, std, inplace=False):
    mean, std = (torch.as_tensor(x, dtype=image.dtype)[:, None, None] for x in (mean, std))
    return (image - mean) / std

def pad(image, padding, fill=0, padding_mode="constant"):
    left, top, right, bottom = padding
    return torch.nn.functional.pad(image, (left, right, top, bottom), value=fill)

def pil_to_tensor(image):
    raise NotImplementedError
"""
_PACKAGES = {
    "torchvision": (
        "0.28.0",
        {
            "torchvision/__init__.py": "",
            "torchvision/io/__init__.py": "",
            "torchvision/transforms/__init__.py": _INTERPOLATION,
            "torchvision/transforms/functional.py": _FUNCTIONAL,
            "torchvision/transforms/v2/__init__.py": "",
            "torchvision/transforms/v2/functional.py": _FUNCTIONAL,
        },
    ),
    "num2words": (
        "0.5.14",
        {"num2words.py": "from autogaze.mllm.smolvlm import spelt as num2words\n"},
    ),
}


def main(folder: Path, out: Path) -> None:
    from transformers import AutoImageProcessor, AutoProcessor, __version__

    is_4 = __version__.startswith("4.")
    given = visuals(folder)
    outputs: dict[str, Any] = {}
    for family in CLASSES:
        # Without torchvision images are resized by Pillow, of which the stand-in knows nothing.
        options = {"use_fast": False} if is_4 else {"backend": "pil"}
        processor = AutoProcessor.from_pretrained(folder / family)
        processor.image_processor = AutoImageProcessor.from_pretrained(folder / family, **options)
        for name, case in texts(family).items():
            call = {key: case[key] for key in ("num_frames", "fps") if key in case}
            if "videos" in case:
                call["do_sample_frames"] = True
                call["video_metadata"] = [metadata(video) for video in case["videos"]]
                videos = [given[video] for video in case["videos"]]
                call["videos"] = [videos] if is_4 and family == "smolvlm" else videos
            if "images" in case:
                call["images"] = [
                    [given[one] for one in row] if isinstance(row, list) else given[row]
                    for row in case["images"]
                ]
            made = processor(text=[case["text"]], return_tensors="pt", **call)
            outputs[f"{family}: {name}"] = {
                key: value for key, value in made.items() if isinstance(value, torch.Tensor)
            }
        outputs[f"{family}: chats"] = [
            processor.apply_chat_template(conversation(image), add_generation_prompt=not image)
            for image in (False, True)
        ]
    torch.save(outputs, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
