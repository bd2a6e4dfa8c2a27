"""Triton's decoder is PyTorch's: run by `test_triton.py` in a process whose Triton interprets."""

import pytest
import torch

from autogaze import Gaze
from autogaze.models.autogaze import static_shapes, triton_decoder
from autogaze.models.autogaze.triton_decoder import TritonDecoder
from autogaze.models.autogaze.triton_steps import TritonSteps
from tests.models.autogaze.tiny import threshold_of, tiny_model, tiny_video

CASES = [
    (torch.float32, 2, (4, 18), triton_decoder.MOST_SPLIT, 1e-5),
    (torch.float16, 4, (4,), 0, 0.02),
]


@pytest.mark.parametrize(("dtype", "kv_heads", "counts", "split", "most"), CASES)
def test_hidden_states_are_pytorchs(
    dtype: torch.dtype,
    kv_heads: int,
    counts: tuple[int, ...],
    split: int,
    most: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With products that are split, and with those that walk over channels, of two parts of attention."""
    monkeypatch.setattr(triton_decoder, "MOST_PARTS", 2)
    monkeypatch.setattr(triton_decoder, "MOST_SPLIT", split)
    decoder = tiny_model(kv_heads=kv_heads).to(dtype).gazing_model.gaze_decoder.fused()
    assert triton_decoder._difference(decoder, counts) < most


def test_gazes_are_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    model, video = tiny_model(), tiny_video(2, 2)
    threshold, caps = threshold_of(model, video), [6, 5]
    expected = model.generate(video, caps=caps, threshold=threshold).to_gaze()
    monkeypatch.setattr(triton_decoder, "MOST_PARTS", 1)
    monkeypatch.setattr(
        static_shapes,
        "new_static_decoder",
        lambda *sizes, compiled: TritonDecoder(*sizes, compiled=compiled),
    )
    monkeypatch.setattr(
        static_shapes,
        "new_frame_steps",
        lambda *sizes, sequential, compiled: TritonSteps(*sizes, sequential=sequential),
    )
    model.static_shapes = True
    found: Gaze = model.generate(video, caps=caps, threshold=threshold).to_gaze()
    assert found.ids.equal(expected.ids)
    assert found.lengths.equal(expected.lengths)
