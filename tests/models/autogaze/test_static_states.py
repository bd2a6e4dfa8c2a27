"""States of fixed shape: recorded once, used again, and never part of a model's copies."""

import copy
import gc
import io
import pickle
import subprocess
import sys

import pytest
import torch

from autogaze import Gaze
from autogaze.models.autogaze import AutoGaze, static_shapes
from autogaze.models.autogaze.sampling import FrameSampling, Sampling
from autogaze.models.autogaze.static_shapes import StaticStates
from autogaze.utils.cuda_graphs import Recorder
from tests.gazes import same
from tests.models.autogaze.tiny import threshold_of, tiny_model, tiny_video
from tests.tape import Tape

CAPS = [9, 5, 9]


def static_model(recorder: Recorder | None = None, **changes) -> AutoGaze:
    model = tiny_model(**changes)
    model.static_shapes = True
    states_of(model).recorder = recorder
    return model


def states_of(model: AutoGaze) -> StaticStates:
    return model.gazing_model.static_states


@pytest.mark.parametrize("stop", [False, True])
@pytest.mark.parametrize("options", [{}, {"inhibition_of_return": 0.05}])
def test_replayed_operators_give_the_gazes_of_the_ragged_loop(stop, options, monkeypatch):
    monkeypatch.setattr(static_shapes, "WINDOW", 32)
    ragged, tape = tiny_model(**options), Tape()
    model, counts = static_model(tape, **options), []
    for seed in (0, 1, 0, 1):
        video = tiny_video(3, 3, seed)
        threshold = threshold_of(ragged, video) if stop else None
        expected = ragged.generate(video, caps=CAPS, threshold=threshold).to_gaze()
        found = model.generate(video, caps=CAPS, threshold=threshold).to_gaze()
        assert same(found, expected)
        torch.testing.assert_close(found.predicted_losses, expected.predicted_losses)
        counts.append(tape.num_recorded)
    # Another clip may stop later, and only then needs what was not recorded for the first one.
    assert counts[1] == counts[3]
    assert stop or counts[0] == counts[3]
    assert tape.num_replayed > counts[3]


def test_a_second_call_of_equal_shape_records_nothing():
    model = static_model()
    model.generate(tiny_video(5, 3), caps=CAPS)
    recorder = states_of(model).recorder
    first = recorder.num_recorded
    assert first > 0
    for clips, seed in ((5, 1), (7, 2), (8, 3)):  # all of them are eight rows
        model.generate(tiny_video(clips, 3, seed), caps=CAPS)
    assert recorder.num_recorded == first
    model.generate(tiny_video(9, 3), caps=CAPS)
    assert recorder.num_recorded > first


def test_rows_that_are_left_go_on_in_a_smaller_state(monkeypatch):
    monkeypatch.setattr(static_shapes, "ASK_EVERY", 1)
    model, video = tiny_model(K=2), tiny_video(9, 3)
    thresholds = torch.full((9, 3), 1e9)
    thresholds[4] = thresholds[7, 1] = -1e9  # the others stop at once
    expected = model.generate(video, threshold=thresholds).to_gaze()
    assert expected.lengths[4].tolist() == [20] * 3
    tape = Tape()
    states = states_of(model)
    model.static_shapes, states.recorder = True, tape
    rooms = []
    give_back = states.give_back
    monkeypatch.setattr(
        states, "give_back", lambda state: rooms.append(state.room) or give_back(state)
    )
    for _ in range(2):
        assert same(model.generate(video, threshold=thresholds).to_gaze(), expected)
    assert rooms == [1, 2, 1, 16] * 2
    stream = model.stream(9)
    parts = [
        model.generate(frame, threshold=thresholds[:, t : t + 1], stream=stream).to_gaze()
        for t, frame in enumerate(video.split(1, 1))
    ]
    assert same(Gaze.cat_frames(parts), expected)


def test_slots_are_those_of_the_ragged_loop_however_seldom_the_host_asks(monkeypatch):
    model, video = tiny_model(K=2), tiny_video(4, 4)
    threshold = threshold_of(model, video)
    expected = model.generate(video, threshold=threshold).to_padded()
    model.static_shapes = True
    for every in (1, 3, 100):
        monkeypatch.setattr(static_shapes, "ASK_EVERY", every)
        found = model.generate(video, threshold=threshold).to_padded()
        for key in ("num_gazing_each_frame", "if_padded_gazing"):
            assert found[key].equal(expected[key])


def test_states_belong_to_no_copy_of_the_model():
    model, video = static_model(), tiny_video(2, 3)
    names = set(tiny_model().state_dict())
    expected = model.generate(video, caps=CAPS).to_gaze()
    assert states_of(model).num_bytes > 0
    assert set(model.state_dict()) == names
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert states_of(other).num_bytes == 0
        assert states_of(other) is not states_of(model)
        assert same(other.generate(video, caps=CAPS).to_gaze(), expected)
    saved = io.BytesIO()
    torch.save(model, saved)
    assert saved.tell() < 2 * sum(p.nbytes for p in model.parameters()) + 200_000


def test_states_of_another_stream_are_not_lent(monkeypatch):
    """What was asked for there may still be going on in them."""
    model, video, streams = static_model(), tiny_video(1, 2), []
    expected = model.generate(video, caps=[4, 4]).to_gaze()
    monkeypatch.setattr(static_shapes, "stream_number", lambda device: streams[-1])
    made = []
    for stream in (0, 7, 0, 7):
        streams.append(stream)
        assert same(model.generate(video, caps=[4, 4]).to_gaze(), expected)
        made.append(states_of(model).num_bytes)
    assert made == [made[0], *[2 * made[0]] * 3]


@pytest.mark.parametrize("move", [lambda model: model.double(), lambda model: model.to("cpu")])
def test_states_are_dropped_when_weights_move(move):
    model = static_model()
    model.generate(tiny_video(1, 2), caps=[4, 4])
    assert states_of(model).num_bytes > 0
    move(model)
    assert states_of(model).num_bytes == 0
    assert states_of(model).recorder is None


def test_a_stream_keeps_its_state_until_it_ends():
    model, video = static_model(), tiny_video(2, 3)
    expected = model.generate(video, caps=CAPS).to_gaze()
    stream = model.stream(2, num_frames=3)
    parts = [model.generate(video[:, :1], caps=CAPS[:1], stream=stream).to_gaze()]
    state = stream.states[0]
    assert same(model.generate(video, caps=CAPS).to_gaze(), expected)  # in another state
    parts.append(model.generate(video[:, 1:], caps=CAPS[1:], stream=stream).to_gaze())
    assert same(Gaze.cat_frames(parts), expected)
    twin = copy.deepcopy(stream)
    del stream
    gc.collect()
    another = model.stream(2, num_frames=3)
    another.step(video, caps=CAPS)
    assert another.states[0] is state
    assert twin.states[0] is not state


def test_what_was_not_a_number_is_forgotten():
    model, video = static_model(), tiny_video(1, 3)
    expected = model.generate(video, caps=CAPS).to_gaze()
    model.stream(1, num_frames=3, once=True).step(video * float("nan"), caps=CAPS)
    assert same(model.generate(video, caps=CAPS).to_gaze(), expected)


def test_numbers_drawn_on_the_device_do_not_depend_on_the_batch(monkeypatch):
    """As on a GPU, with a GPU's numbers."""
    for_frame = Sampling.for_frame
    monkeypatch.setattr(
        Sampling,
        "for_frame",
        lambda *args, device, **kwargs: for_frame(*args, device=torch.device("meta"), **kwargs),
    )
    model, video = static_model(Tape()), tiny_video(3, 3)

    def gaze(rows: list[int], seeds: tuple[int, ...] = (5, 6, 7)) -> Gaze:
        sampling = Sampling(2.0, row_seeds=tuple(seeds[row] for row in rows))
        return model.generate(video[rows], caps=CAPS, sampling=sampling).to_gaze()

    together = gaze([0, 1, 2])
    for row in range(3):
        assert same(gaze([row]), together[row])
    assert not same(gaze([0, 1, 2], (8, 9, 10)), together)
    first, second = (
        model.generate(
            video, caps=CAPS, sampling=Sampling(2.0, torch.Generator().manual_seed(seed))
        ).to_gaze()
        for seed in (1, 1)
    )
    assert same(first, second)
    assert not same(first, together)


COMPILED = """
import torch
from tests.gazes import same
from tests.models.autogaze.tiny import tiny_model, tiny_video

model, video = tiny_model(), tiny_video(2, 2)
model.static_shapes = True
expected = model.generate(video, caps=[6, 6]).to_gaze()
compile = torch.compile
torch.compile = lambda function, **options: compile(function, backend="eager", **options)
model.compiled = True
for _ in range(2):
    assert same(model.generate(video, caps=[6, 6]).to_gaze(), expected)
counters = torch._dynamo.utils.counters
assert counters["stats"]["unique_graphs"] == 2 and not counters["graph_break"], counters
"""


@pytest.mark.slow
def test_compiled_steps_give_the_same_gazes():
    """Traced whole, and run by PyTorch itself; without this process's shape checks."""
    subprocess.run([sys.executable, "-c", COMPILED], check=True, timeout=300)


def test_device_sampling_is_static_and_host_sampling_is_not():
    assert FrameSampling().is_static
    assert FrameSampling(1.0, seeds=(1,)).is_static
    assert not FrameSampling(1.0, torch.Generator()).is_static
