"""Equality with the released behaviour, on the numbers in `shared/conformance`."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from autogaze.models.autogaze import AutoGaze, AutoGazeImageProcessor
from tests.conformance import conformance_folder

GAZE_MODELS = ["gaze-tiny-a", "gaze-tiny-b", "gaze-tiny-gqa", "gaze-full"]


def cases_of(name: str) -> list[str]:
    """Names of a folder's cases; a single placeholder where the data is absent."""
    folder = conformance_folder()
    if folder is None:
        return ["data absent"]
    return list(json.loads((folder / name / "cases.json").read_text()))


@pytest.fixture(scope="module")
def folder() -> Path:
    found = conformance_folder()
    if found is None:
        pytest.skip(
            "no conformance data: set AUTOGAZE_CONFORMANCE or put it at ../shared/conformance"
        )
    return found


@pytest.fixture(scope="module")
def loaded(folder):
    """Models and tensors by folder name, loaded once."""
    kept = {}

    def load(name):
        if name not in kept:
            model = AutoGaze.from_pretrained(folder / name).eval()
            cases = json.loads((folder / name / "cases.json").read_text())
            kept[name] = model, cases, load_file(folder / name / "cases.safetensors")
        return kept[name]

    return load


def assert_same_gazes(output, tensors, case):
    padding = tensors[f"{case}.if_padded_gazing"]
    assert (
        output["num_gazing_each_frame"].tolist()
        == tensors[f"{case}.num_gazing_each_frame"].tolist()
    )
    assert output["if_padded_gazing"].equal(padding)
    expected = tensors[f"{case}.gazing_pos"]
    assert output["gazing_pos"][~padding].equal(expected[~padding])
    for level, mask in enumerate(output["gazing_mask"]):
        assert mask.equal(tensors[f"{case}.gazing_mask.{level}"])


CASES = [(name, case) for name in GAZE_MODELS for case in cases_of(name) if case != "streaming"]


@pytest.mark.parametrize(("name", "case"), CASES)
def test_gazes_and_scores_are_the_released_ones(loaded, name, case):
    model, cases, tensors = loaded(name)
    call = {key: value for key, value in cases[case].items() if key != "note"}
    video = tensors.get(f"{case}.video", tensors["video"]).float()
    with torch.inference_mode():
        output = model({"video": video}, **call)
        assert_same_gazes(output, tensors, case)
        if f"{case}.log_action_probs" in tensors:
            real = ~tensors[f"{case}.if_padded_gazing"]
            for key in ("log_action_probs", "task_loss_prediction"):
                expected = tensors[f"{case}.{key}"][real]
                torch.testing.assert_close(output[key][real], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", GAZE_MODELS)
def test_streaming_through_the_known_caches(loaded, name):
    model, cases, tensors = loaded(name)
    call = {key: value for key, value in cases["streaming"].items() if key != "note"}
    V = model.num_vision_tokens_each_frame
    past, positions, padding, counts = {}, [], [], []
    for index, frame in enumerate(tensors["video"][:1].unbind(1)):
        with torch.inference_mode():
            output = model(
                {"video": frame[:, None]}, generate_only=True, use_cache=True, **call, **past
            )
        past = {
            "past_key_values": output["past_key_values"],
            "past_inputs_embeds": output["past_input_embeds"],
            "past_attention_mask": output["past_attention_mask"],
            "past_conv_values": output["past_conv_values"],
        }
        positions.append(output["gazing_pos"] + V * index)
        padding.append(output["if_padded_gazing"])
        counts.append(int(output["num_gazing_each_frame"][0]))
    real = ~tensors["streaming.if_padded_gazing"]
    assert counts == tensors["streaming.num_gazing_each_frame"].tolist()
    assert torch.cat(padding, 1).equal(~real)
    assert torch.cat(positions, 1)[real].equal(tensors["streaming.gazing_pos"][real])


@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize("mode", ["shortest_edge", "square"])
def test_preprocessing(folder, index, mode):
    tensors = load_file(folder / "processor" / "cases.safetensors")
    size = {"shortest_edge": 224} if mode == "shortest_edge" else {"height": 224, "width": 224}
    processor = AutoGazeImageProcessor(size=size)
    frames = list(tensors[f"{index}.frames"].numpy())
    values = processor(frames, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(values, tensors[f"{index}.{mode}"], rtol=0, atol=1e-5)
