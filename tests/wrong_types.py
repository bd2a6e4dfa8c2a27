"""Calls with values of wrong types, each of which must be refused in the package's own words.

Run as a program, without the suite's hook that checks annotations: prints the calls that ended
otherwise as JSON.
"""

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

import autogaze
from autogaze import Gaze, PatchPyramid
from autogaze.clips import Clips
from autogaze.errors import AutoGazeError
from autogaze.reconstruction.canvas import canvas_losses, reconstruct
from autogaze.selectors.change import Change
from autogaze.selectors.codec import Codec
from autogaze.selectors.controls import Centre, Random
from autogaze.selectors.greedy import Greedy
from autogaze.selectors.learned import Learned
from autogaze.selectors.run_length import RunLength
from autogaze.vision_encoders.siglip import SiglipVisionConfig, SiglipVisionModel
from tests.models.autogaze.tiny import tiny_model
from tests.vision_encoders.families import FAMILIES, SMALL

PYRAMID = PatchPyramid((32, 64), 16)
CLIPS = torch.rand(1, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
warnings.simplefilter("ignore")

FRAMES: dict[str, Any] = {
    "None": None,
    "text": "video.mp4",
    "bytes": b"1234",
    "number": 3,
    "dict": {"video": CLIPS},
    "set": {1, 2},
    "object": object(),
    "generator": (frame for frame in CLIPS),
    "no frames": [],
    "numbers": [[0.1, 0.2], [0.3, 0.4]],
    "sizes differ": [np.zeros((64, 64, 3), np.uint8), np.zeros((32, 32, 3), np.uint8)],
    "types differ": [np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64, 3))],
    "four lists deep": [[[[CLIPS[0, 0]]]]],
    "texts": np.array([["a", "b"]]),
    "objects": np.array([None, {}], dtype=object),
    "integers": np.zeros((1, 2, 3, 64, 64), np.int64),
    "booleans": np.zeros((1, 2, 3, 64, 64), bool),
    "complex array": np.zeros((1, 2, 3, 64, 64), complex),
    "dates": np.zeros((1, 2, 3, 64, 64), "datetime64[s]"),
    "scalar": np.float32(0.5),
    "empty array": np.zeros((0,)),
    "2-D": torch.zeros(64, 64),
    "6-D": torch.zeros(1, 1, 1, 3, 64, 64),
    "four channels": torch.zeros(1, 2, 4, 64, 64),
    "not square": torch.zeros(1, 2, 3, 64, 48),
    "no clips": torch.zeros(0, 2, 3, 64, 64),
    "no frames in it": torch.zeros(1, 0, 3, 64, 64),
    "int64": torch.zeros(1, 2, 3, 64, 64, dtype=torch.int64),
    "bool": torch.zeros(1, 2, 3, 64, 64, dtype=torch.bool),
    "complex": torch.zeros(1, 2, 3, 64, 64, dtype=torch.complex64),
    "meta": torch.zeros(1, 2, 3, 64, 64, device="meta"),
    "sparse": CLIPS.to_sparse(),
    "sparse rows": torch.eye(4).to_sparse_csr(),
    "nested": torch.nested.nested_tensor([CLIPS[0, 0], CLIPS[0, 0]]),
    "quantized": torch.quantize_per_tensor(CLIPS, 0.1, 0, torch.quint8),
    "out of range": 2 * CLIPS + 1,
    "below range": CLIPS - 1,
    "NaN": torch.full_like(CLIPS, torch.nan),
}
PIXELS_OF_ANY_RANGE = ("out of range", "below range")  # encoders take normalised frames
RATIOS: list[Any] = [
    *("0.1", b"x", {}, {0.1}, [], [[0.1]], ["a"], [None], object(), True, 0, 1.5, -1, 1j),
    *(float("nan"), np.zeros((2, 2)), np.array("a"), np.array([True]), torch.zeros(1, 2)),
    *(torch.tensor(True), torch.tensor(1j), torch.zeros(2, device="meta"), [0.1, 2.0], np.inf),
    torch.eye(2).to_sparse(),
]
LOSSES: list[Any] = [
    *("0.1", b"x", {}, [0.1], [], object(), True, -1, 1j, float("nan"), float("inf")),
    *(np.zeros(2), torch.zeros(2), torch.tensor(True), torch.zeros((), device="meta")),
]
PYRAMIDS: list[Any] = [(32, 64), "32+64", 16, {"scales": (32, 64)}, object(), [PYRAMID]]
GENERATORS: list[Any] = [0, "seed", np.random.default_rng(0), object()]


def selectors() -> list[Any]:
    made = [cls(PYRAMID) for cls in (Greedy, RunLength, Change, Codec, Random, Centre)]
    return [*made, Learned(tiny_model())]


def clip_of(selector: Any, frames: Any) -> Any:
    return Clips(frames, torch.ones(1, 2, 4, 4)) if selector.needs_motion else frames


def calls() -> Iterator[tuple[str, Callable[[], Any]]]:
    """A name and a call for every case."""
    model, gaze = tiny_model(), Greedy(PYRAMID).select(CLIPS, ratio=0.2)
    encoder = autogaze.gazed(FAMILIES["siglip"].model())
    sizes = {"image_size": 64, "patch_size": 16, "scales": "32+64", **SMALL}
    siglip = SiglipVisionModel(SiglipVisionConfig(**sizes)).eval()
    for name, frames in FRAMES.items():
        for selector in selectors():
            yield (
                f"{selector.name}.select({name})",
                lambda s=selector, f=frames: s.select(clip_of(s, f)),
            )
            yield (
                f"{selector.name} stream.step({name})",
                lambda s=selector, f=frames: s.stream(ratio=0.1).step(clip_of(s, f)),
            )
        yield f"Clips({name})", lambda f=frames: Clips(f).check_range() or Greedy(PYRAMID).select(f)
        yield f"canvas_losses({name})", lambda f=frames: canvas_losses(f, gaze)
        yield f"reconstruct({name})", lambda f=frames: reconstruct(f, gaze)
        if name not in PIXELS_OF_ANY_RANGE:
            yield f"gazed({name})", lambda f=frames: encoder(f, gaze)
            if name != "not square":  # the published encoder takes frames of any size
                yield f"siglip({name})", lambda f=frames: siglip(f, gaze.padded())
            if name not in ("dict", "not square"):  # a dict of a video is what it takes
                yield f"AutoGaze({name})", lambda f=frames: model({"video": f}, gazing_ratio=0.5)
        if not isinstance(frames, torch.Tensor | type(None)):
            yield f"Clips(motion={name})", lambda f=frames: Clips(CLIPS, f)
        yield f"canvas_losses(gaze={name})", lambda f=frames: canvas_losses(CLIPS, f)
        yield f"gazed(gaze={name})", lambda f=frames: encoder(CLIPS, f)
        if frames is not None:  # it means no gaze
            yield f"siglip(gaze={name})", lambda f=frames: siglip(CLIPS, f)
            yield f"AutoGaze(gaze={name})", lambda f=frames: model(CLIPS, gazing_info=f)
    for selector in selectors():
        clip = clip_of(selector, CLIPS)
        for ratio in RATIOS:
            yield (
                f"{selector.name}.select(ratio={ratio!r})",
                lambda s=selector, c=clip, r=ratio: s.select(c, ratio=r),
            )
            yield (
                f"{selector.name}.stream(ratio={ratio!r})",
                lambda s=selector, r=ratio: s.stream(ratio=r),
            )
        for loss in LOSSES:
            yield (
                f"{selector.name}.select(loss={loss!r})",
                lambda s=selector, c=clip, v=loss: s.select(c, loss=v),
            )
        for generator in GENERATORS:
            yield (
                f"{selector.name}.select(generator={generator!r})",
                lambda s=selector, c=clip, g=generator: s.select(c, ratio=0.1, generator=g),
            )
    for cls in (Greedy, RunLength, Change, Codec, Random, Centre):
        for pyramid in PYRAMIDS:
            yield f"{cls.__name__}(pyramid={pyramid!r})", lambda c=cls, p=pyramid: c(p)
    for value in ("a", None, {}, [1], 1j, float("nan"), -1, object()):
        yield f"RunLength(threshold={value!r})", lambda v=value: RunLength(PYRAMID, threshold=v)
        yield f"RunLength(since={value!r})", lambda v=value: RunLength(PYRAMID, since=v)
        yield f"Change(quantile={value!r})", lambda v=value: Change(PYRAMID, quantile=v)
        yield f"Codec(threshold={value!r})", lambda v=value: Codec(PYRAMID, threshold=v)
        yield f"Learned(temperature={value!r})", lambda v=value: Learned(model, temperature=v)
        yield f"Learned({value!r})", lambda v=value: Learned(v)
    for parts in (None, [None], [1, 2], "ab", [gaze, {}], {}):
        yield f"Gaze.cat_frames({parts!r})", lambda p=parts: Gaze.cat_frames(p)
        yield f"Gaze.cat_clips({parts!r})", lambda p=parts: Gaze.cat_clips(p)


def main() -> None:
    wrong, count = [], 0
    for name, call in calls():
        count += 1
        try:
            outcome = f"no error: {str(call())[:80]}"
        except AutoGazeError as error:
            outcome = None if str(error).strip() else "no words"
        except Exception as error:  # what the test is about
            outcome = f"{type(error).__name__}: {str(error)[:120]}"
        if outcome is not None:
            wrong.append(f"{name}: {outcome}")
    json.dump({"count": count, "wrong": wrong}, sys.stdout)


if __name__ == "__main__":
    main()
