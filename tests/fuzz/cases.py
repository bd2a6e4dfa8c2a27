"""The kinds of cases: each makes a wrong input and uses it."""

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

import autogaze
from autogaze.datasets.labels import LabelFile
from autogaze.errors import AutoGazeError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.labelling.shards import Shard, ShardWriter, merge, parts_folder
from autogaze.reconstruction.video_mae import load_video_mae
from autogaze.source import Source, TileGrid
from autogaze.training.factory import build_trainer
from tests.fuzz.material import VIDEOS, Material
from tests.fuzz.mllm_cases import mllm
from tests.fuzz.mutation import VALUES, arrays, change_bytes, change_values, to_json
from tests.fuzz.nvila_cases import nvila
from tests.fuzz.outcomes import WrongOutcomeError, attempt, command, one_of
from tests.fuzz.processor_cases import gazed_processor
from tests.fuzz.question_cases import questions
from tests.training.tiny import tiny_config


def gaze_file(material: Material, folder: Path, random: Random) -> str:
    data = (material.folder / "gaze.safetensors").read_bytes()
    path = folder / "wrong.safetensors"
    if random.random() < 0.35:
        path.write_bytes(change_bytes(data, random))
    else:
        path.write_bytes(_change_header(data, random))
    outcomes = [
        attempt(lambda: Gaze.load(path), path.name),
        command("info", path, "--json", names=(path.name,)),
    ]
    if random.random() < 0.3:
        video = material.folder / "a.mp4"
        outcomes.append(command("measure", video, path, "--json", names=(path.name, "a.mp4")))
    return min(outcomes)  # "clean error" stands before "ok"


def _change_header(data: bytes, random: Random) -> bytes:
    """Change values of a safetensors file's metadata, or of its tensors."""
    (size,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    entries = header["__metadata__"]
    tensors = {name: value for name, value in header.items() if name != "__metadata__"}
    choice = random.randrange(4)
    if choice == 0:
        header = {"__metadata__": entries, **change_values(tensors, random)[0]}
    elif choice == 1:
        name = random.choice(sorted(tensors))
        start, end = tensors[name]["data_offsets"]
        width = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "I16": 2}[tensors[name]["dtype"]]
        place = start + width * random.randrange(max(1, (end - start) // width))
        value = random.choice((b"\xff" * 8, b"\0" * 8, b"\0\0\0\0\0\0\xf8\x7f", b"\x01" * 8))
        if width == 4 and random.random() < 0.5:
            value = struct.pack("<f", random.choice((float("nan"), float("inf"), -1.0, 1e30)))
        body = body[:place] + value[:width] + body[place + width :]
    else:
        name = random.choice(sorted(entries))
        try:
            old = json.loads(entries[name])
        except ValueError:
            old = entries[name]
        new = change_values([old], random)[0]
        new = new[0] if isinstance(new, list) and new else new
        entries[name] = random.choice((to_json(new), to_json(new), "", "{", "[" * 2000))
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def video(material: Material, folder: Path, random: Random) -> str:
    name = random.choice(VIDEOS)
    path = folder / f"wrong{Path(name).suffix}"
    path.write_bytes(change_bytes((material.folder / name).read_bytes(), random))
    options: list[object] = ["--ratio", 0.1, "--tiles", "one", "--json"]
    if random.random() < 0.3:
        options.append("--skip-corrupt")
    if random.random() < 0.3:
        options += ["--start", random.choice((0, 0.1, 5)), "--fps", random.choice((1, 7, 100))]
    selector = random.choice(("run-length", "change", "centre"))
    outcomes = [
        command("info", path, "--json", names=(path.name,)),
        command("gaze", path, "--selector", selector, *options, names=(path.name,)),
    ]
    return min(outcomes)


def checkpoint(material: Material, folder: Path, random: Random) -> str:
    kind = random.choice(("model", "model", "mae"))
    target = folder / "wrong"
    target.mkdir()
    for path in (material.folder / kind).iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    choice = random.randrange(8)
    names = ["wrong"]
    if choice == 0:
        path = target / random.choice(("model.safetensors", "config.json"))
        path.write_bytes(change_bytes(path.read_bytes(), random))
    elif choice == 1:
        random.choice(sorted(target.iterdir())).unlink()
    elif choice == 2:
        path = target / "model.safetensors"
        path.write_bytes(_change_weights(path.read_bytes(), random))
    else:
        path = target / "config.json"
        path.write_text(to_json(change_values(json.loads(path.read_text()), random)[0]))
    if kind == "mae":
        return attempt(lambda: load_video_mae(target), *names)

    outcome = attempt(lambda: autogaze.load(str(target)), *names)
    if (
        outcome == "ok"
    ):  # finite weights may still give NaN, of which the folder's name is not known
        selector = autogaze.load(str(target))
        outcome = attempt(lambda: selector.select(torch.zeros(1, 2, 3, 64, 64), ratio=0.2))
    if random.random() < 0.2:
        outcome = min(outcome, command("info", target, "--json", names=tuple(names)))
    return outcome


def _change_weights(data: bytes, random: Random) -> bytes:
    (size,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    if random.random() < 0.5:
        place = 4 * random.randrange(len(body) // 4)
        value = struct.pack("<f", random.choice((float("nan"), float("inf"), -float("inf"))))
        return data[: 8 + size] + body[:place] + value + body[place + 4 :]
    text = json.dumps(change_values(header, random)[0]).encode()
    return struct.pack("<Q", len(text)) + text + body


GROUPS = ("algorithm", "dataset", "model", "task", "trainer")


def config(material: Material, folder: Path, random: Random) -> str:
    base = tiny_config(random.choice(("grpo", "task")), folder)
    group = random.choice((*GROUPS, "model", "model"))
    changed, _ = change_values({group: base[group]}, random)
    if not isinstance(changed, Mapping):
        changed = {}
    return attempt(
        lambda: build_trainer({**base, **changed}), *GROUPS, "num_clips", "experiments", str(folder)
    )


def labels(material: Material, folder: Path, random: Random) -> str:
    path = folder / "wrong.json"
    data = (material.folder / "labels.json").read_bytes()
    if random.random() < 0.3:
        path.write_bytes(change_bytes(data, random))
    else:
        path.write_text(to_json(change_values(json.loads(data), random)[0]))
    if random.random() < 0.5:
        return attempt(lambda: LabelFile.load(path, 20).choose(["a/b/c.mp4"], 2), path.name)
    return attempt(lambda: _shards(folder, random), "wrong.json", "x-of-x")


def _shards(folder: Path, random: Random) -> None:
    """Change a shard's journal, go on with it, and put it together."""
    out = folder / "wrong2.json"
    lines: list[Any] = [
        {"settings": {"num_patches": 20}},
        {"name": "a", "ids": [[0, 1]], "losses": [[0.5, 0.4]]},
        {"name": "b", "ids": [[2]], "losses": [[0.5]]},
        {"finished": True},
    ]
    lines = change_values(lines, random)[0]
    text = "\n".join(map(to_json, lines if isinstance(lines, list) else [lines])) + "\n"
    parts_folder(out).mkdir()
    name = random.choice(("1-of-1", "1-of-1", "1-of-1", "1-of-2", "1-of-x", "x-of-1", "1-of-0"))
    data = text.encode("utf-8", "surrogatepass")
    if random.random() < 0.3:
        data = change_bytes(data, random)
    (parts_folder(out) / f"{name}.jsonl").write_bytes(data)
    try:
        with ShardWriter(out, Shard(1, 1), {"num_patches": 20}) as writer:
            writer.done.add("c")
        merge(out)
    except AutoGazeError as error:
        if "wrong2.json" not in str(error):
            raise WrongOutcomeError(f"no name in the message: {error}") from error


def arguments(material: Material, folder: Path, random: Random) -> str:
    """A wrong argument of a function."""
    value = random.choice((*arrays(), *arrays(), *VALUES))
    pyramid = PatchPyramid((32, 64), 16)
    grid = TileGrid(64, 64, 1, 1, 64, 64, 64)
    ids, lengths = torch.tensor([0, 5, 3]), torch.tensor([[2, 1]])
    gaze = Gaze(pyramid, ids, lengths)
    clips = torch.zeros(1, 2, 3, 64, 64)
    video = material.folder / "a.mp4"
    name = random.choice(("greedy", "run-length", "change", "centre", "random"))
    selector = autogaze.load(name, pyramid=pyramid)
    calls: list[Callable[[], Any]] = [
        lambda: PatchPyramid(value, 16),
        lambda: PatchPyramid((32, 64), value),
        lambda: PatchPyramid((32, 64), 16, value),
        lambda: PatchPyramid.parse(value, 16),
        lambda: pyramid.id(value, 0, 0),
        lambda: pyramid.id(32, value, 0),
        lambda: pyramid.locate(value),
        lambda: pyramid.rectangle(value),
        lambda: pyramid.overlapping(value, 64),
        lambda: Gaze(value, ids, lengths),
        lambda: Gaze(pyramid, value, lengths),
        lambda: Gaze(pyramid, ids, value),
        lambda: Gaze(pyramid, ids, lengths, value),
        lambda: Gaze(pyramid, ids, lengths, losses=value),
        lambda: Gaze(pyramid, ids, lengths, metric=value),
        lambda: Gaze(pyramid, ids, lengths, source=value),
        lambda: Gaze.from_padded(value, pyramid),
        lambda: Gaze.from_padded({**gaze.padded(), "gazing_pos": value}, pyramid),
        lambda: Gaze.from_padded({**gaze.padded(), "if_padded_gazing": value}, pyramid),
        lambda: Gaze.from_padded({**gaze.padded(), "num_gazing_each_frame": value}, pyramid),
        lambda: Gaze.from_mask(pyramid, value),
        lambda: Gaze.cat_frames(value),
        lambda: Gaze.cat_clips([gaze, value]),
        lambda: Gaze.load(value),
        lambda: gaze.frames(value, 1),
        lambda: Source(grid, value, (0,)),
        lambda: Source(grid, (0.0,), value),
        lambda: Source(grid, (0.0,), (0,), value),
        lambda: TileGrid(value, 64, 1, 1, 64, 64, 64),
        lambda: autogaze.load(value),
        lambda: autogaze.load(str(folder), pyramid=value),
        lambda: selector.select(value),
        lambda: selector.select(clips, ratio=value),
        lambda: selector.select(clips, loss=value),
        lambda: selector.stream().step(value),
        lambda: autogaze.gaze_video(value, selector=selector, ratio=0.1),
        lambda: autogaze.gaze_video(video, selector=selector, ratio=value),
        lambda: autogaze.gaze_video(video, selector=selector, ratio=0.1, tiles=value),
        lambda: autogaze.gaze_video(video, selector=selector, ratio=0.1, max_tiles=value),
        lambda: autogaze.gaze_video(video, selector=selector, ratio=0.1, fps=value),
        lambda: autogaze.gaze_video(video, selector=selector, ratio=0.1, start=value),
        lambda: autogaze.gaze_video(video, selector=selector, ratio=0.1, end=value),
    ]
    return one_of(calls, value, random)


KINDS: dict[str, Callable[[Material, Path, Random], str]] = {
    "gaze file": gaze_file,
    "arguments": arguments,
    "video": video,
    "checkpoint": checkpoint,
    "config": config,
    "labels": labels,
    "questions": questions,
    "mllm": mllm,
    "nvila": nvila,
    "processor": gazed_processor,
}


def case(number: int, seed: int) -> tuple[str, Random]:
    """Kind and randomness of a case."""
    return list(KINDS)[number % len(KINDS)], Random(f"{seed}/{number}")


def seed_everything(random: Random) -> None:
    torch.manual_seed(random.randrange(2**31))
    np.random.seed(random.randrange(2**31))
