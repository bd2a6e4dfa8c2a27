"""Recorded calls give what unrecorded ones give, whatever changes between them.

A tape that replays operators stands for CUDA graphs: like these it sees no Python.
"""

import copy
import pickle

import pytest
import torch

from autogaze import Gaze, GazedVisionModel, PatchPyramid, gazed
from autogaze.errors import EncoderError
from autogaze.vision_encoders import patches
from autogaze.vision_encoders.graphs import MAX_GRAPHS, EncoderGraphs
from tests.tape import Tape
from tests.vision_encoders.families import FAMILIES, assert_close, random_frames, random_gaze

PYRAMID = PatchPyramid((32, 64), 16)


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "may_wait", lambda device: False)


def recorded(name: str = "siglip", **options) -> tuple[GazedVisionModel, GazedVisionModel, Tape]:
    """A gazed model whose calls are recorded, the same one without, and the tape."""
    model, tape = FAMILIES[name].model(), Tape()
    encoder = gazed(model, **options)
    encoder.graphs = EncoderGraphs(tape)
    return encoder, gazed(model, **options), tape


def random_ids(like: Gaze, seed: int) -> Gaze:
    """Other patches, as many in every frame."""
    generator = torch.Generator().manual_seed(seed)
    counts = like.lengths.flatten().tolist()
    ids = [torch.randperm(PYRAMID.num_patches, generator=generator)[:n] for n in counts]
    return Gaze(PYRAMID, torch.cat(ids), like.lengths)


def assert_same(found, expected) -> None:
    assert_close(found.last_hidden_state, expected.last_hidden_state, 1e-6)
    for one, other in (
        (found.pooler_output, expected.pooler_output),
        (found.prefix_hidden_state, expected.prefix_hidden_state),
    ):
        assert (one is None) == (other is None)
        if other is not None:
            assert_close(one, other, 1e-6)


@pytest.mark.parametrize(
    "name", ["siglip", "siglip2-naflex", "dinov2-registers", "dinov3", "smolvlm", "internvl"]
)
@pytest.mark.parametrize("attn_type", ["block_causal", "frame_independent"])
def test_replays_are_the_calls_themselves(name, attn_type):
    encoder, plain, tape = recorded(name, attn_type=attn_type)
    like = random_gaze(PYRAMID, 2, 3)
    kept = []
    for seed in range(3):
        frames, gaze = random_frames(2, 3, seed=seed), random_ids(like, seed)
        with torch.inference_mode() if seed % 2 else torch.no_grad():
            found, expected = encoder(frames, gaze), plain(frames, gaze)
        assert_same(found, expected)
        kept.append((found, expected))
    assert (tape.num_recorded, tape.num_replayed) == (1, 3)
    for found, expected in kept:  # later replays wrote over none of them
        assert_same(found, expected)


@torch.no_grad()
def test_every_shape_is_recorded_once_and_the_oldest_is_dropped():
    encoder, plain, tape = recorded()
    frames = random_frames(1, 2)

    def call(count: int, **options) -> None:
        gaze = random_ids(Gaze(PYRAMID, torch.arange(count + 1), torch.tensor([[1, count]])), count)
        assert_same(encoder(frames, gaze, **options), plain(frames, gaze))

    for count in (3, 4, 3, 4):
        call(count)
    assert tape.num_recorded == 2
    call(3, output_hidden_states=True)
    assert tape.num_recorded == 3
    for count in range(5, 5 + MAX_GRAPHS):
        call(count)
    assert tape.num_recorded == 3 + MAX_GRAPHS
    call(3)
    assert tape.num_recorded == 4 + MAX_GRAPHS


@torch.no_grad()
def test_hidden_states_come_along():
    encoder, plain, _ = recorded("dinov2")
    frames, gaze = random_frames(1, 2), random_gaze(PYRAMID, 1, 2)
    for _ in range(2):
        found = encoder(frames, gaze, output_hidden_states=True).hidden_states
        expected = plain(frames, gaze, output_hidden_states=True).hidden_states
        assert len(found) == len(expected) == 3
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other, 1e-6)


def test_weights_that_change_or_move_are_those_of_the_next_call():
    encoder, plain, tape = recorded()
    frames, gaze = random_frames(1, 2), random_gaze(PYRAMID, 1, 2)

    def check(times: int) -> None:
        with torch.no_grad():  # a new twin, which keeps no positions
            assert_same(encoder(frames, gaze), gazed(plain.model)(frames, gaze))
        assert tape.num_recorded == times

    check(1)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    encoder(frames, gaze).pooler_output.square().mean().backward()  # not recorded
    optimizer.step()
    check(1)  # written in place, positions among them: the graph reads them where they lie
    state = {key: value + 0.1 for key, value in encoder.model.state_dict().items()}
    encoder.model.load_state_dict(state)
    check(1)
    for parameter in encoder.parameters():
        parameter.data.mul_(0.9)
    check(1)
    plain.model.to(torch.bfloat16)  # by the model that shares them
    plain.model.to(torch.float32)
    check(2)
    encoder.to(torch.float64).to(torch.float32)
    check(3)


def test_what_cannot_be_recorded_runs_as_it_is():
    encoder, plain, tape = recorded(max_tokens=1)
    frames, gaze = random_frames(2, 3), random_gaze(PYRAMID, 2, 3)
    out = encoder(frames, gaze).pooler_output
    out.sum().backward()
    assert out.requires_grad
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            encoder(frames, gaze)
        encoder.train()
        encoder(frames, gaze)
        encoder.eval()
        assert tape.num_recorded == 0
        many = random_gaze(PYRAMID, 9, 1)  # every clip is a batch
        assert_same(encoder(random_frames(9, 1), many), plain(random_frames(9, 1), many))
        assert tape.num_recorded == 0
        assert_same(encoder(frames, gaze), plain(frames, gaze))
    assert tape.num_recorded == 1


@torch.no_grad()
def test_inputs_are_checked_on_every_call():
    encoder, plain, tape = recorded(empty_frames="hold")
    frames, gaze = random_frames(1, 2), Gaze(PYRAMID, torch.arange(4), torch.tensor([[4, 0]]))
    assert_same(encoder(frames, gaze), plain(frames, gaze))
    with pytest.raises(EncoderError, match="48 x 48"):
        encoder(random_frames(1, 2, 48), gaze)
    with pytest.raises(EncoderError, match="NaN"):
        encoder(torch.full_like(frames, float("nan")), gaze)
    assert tape.num_recorded == 1


def test_copies_have_no_graphs():
    encoder, _, tape = recorded()
    frames, gaze = random_frames(1, 2), random_gaze(PYRAMID, 1, 2)
    with torch.no_grad():
        encoder(frames, gaze)
    assert tape.num_recorded == 1
    for twin in (copy.deepcopy(encoder.graphs), pickle.loads(pickle.dumps(encoder.graphs))):
        assert twin.recorder is None
    assert not any("graphs" in key for key in encoder.state_dict())


@torch.no_grad()
def test_a_model_that_asks_for_values_cannot_be_recorded():
    class Capture(Tape):
        """As CUDA does where a stream that is recorded has to be waited for."""

        def _record(self, operations):
            raise RuntimeError("operation not permitted when stream is capturing")

    encoder, _, _ = recorded()
    encoder.graphs = EncoderGraphs(Capture())
    with pytest.raises(EncoderError, match=r"SiglipVision.*not permitted when stream"):
        encoder(random_frames(1, 2), random_gaze(PYRAMID, 1, 2))


def test_a_cpu_has_no_graphs(tmp_path):
    model = FAMILIES["vit"].model()
    with pytest.raises(EncoderError, match=r"CUDA GPU.*cpu.*device='cuda'"):
        gazed(model, graphs=True)
    model.save_pretrained(tmp_path)
    with pytest.raises(EncoderError, match=r"CUDA GPU.*cpu"):
        GazedVisionModel.from_pretrained(tmp_path, graphs=True)
    encoder = gazed(model)
    assert encoder.graphs is None
    encoder.graphs = EncoderGraphs()  # as of a model that was moved to a CPU afterwards
    with pytest.raises(EncoderError, match=r"CUDA GPU.*cpu"), torch.no_grad():
        encoder(random_frames(1, 2), random_gaze(PYRAMID, 1, 2))
