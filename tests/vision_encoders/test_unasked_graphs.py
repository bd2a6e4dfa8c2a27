"""Calls that are recorded unasked: small ones that come again, of models whose Python does not matter.

A tape that replays operators stands for CUDA graphs: like these it sees no Python.
"""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from autogaze import Gaze, PatchPyramid, gazed
from autogaze.utils.cuda_graphs import Recorder
from autogaze.vision_encoders import graphs, patches
from autogaze.vision_encoders.attention import recorded_backends
from autogaze.vision_encoders.clip import ClipAdapter
from autogaze.vision_encoders.graphs import ENOUGH, MAX_GRAPHS, EncoderGraphs
from tests.tape import Tape
from tests.vision_encoders.families import FAMILIES, random_frames, random_gaze
from tests.vision_encoders.test_graphs import assert_same, random_ids

PYRAMID = PatchPyramid((32, 64), 16)


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "may_wait", lambda device: False)


def unasked(name: str = "siglip", recorder: Recorder | None = None, **options):
    """A gazed model as it is by default on a GPU, one that is never recorded, and the recorder."""
    model, tape = FAMILIES[name].model(), recorder or Tape()
    encoder = gazed(model, **options)
    encoder.graphs = EncoderGraphs(tape, unasked=True)
    return encoder, gazed(model, graphs=False, **options), tape


def first_mlp(encoder) -> nn.Module:
    """The MLP of a gazed model's first block."""
    return next(iter(encoder._adapter.layers)).mlp


class Calls:
    """Calls of both models with some patches in the second of two frames."""

    def __init__(self, encoder, plain) -> None:
        self.encoder, self.plain, self.made = encoder, plain, 0

    def __call__(self, count: int = 3, times: int = 1, **options) -> None:
        for _ in range(times):
            self.made += 1
            frames = random_frames(1, 2, seed=self.made)
            like = Gaze(PYRAMID, torch.arange(count + 1), torch.tensor([[1, count]]))
            gaze = random_ids(like, self.made)
            with torch.no_grad():
                found, expected = (
                    model(frames, gaze, **options) for model in (self.encoder, self.plain)
                )
            assert_same(found, expected)


def test_a_kind_of_call_is_recorded_when_it_comes_twice_in_a_row():
    encoder, plain, tape = unasked()
    call = Calls(encoder, plain)
    for count in (3, 4, 3, 4, 5):  # never twice in a row
        call(count)
    assert tape.num_recorded == 0
    call(3)
    call(3, times=3)
    assert (tape.num_recorded, tape.num_replayed) == (1, 3)
    call(4)
    call(3)
    assert (tape.num_recorded, tape.num_replayed) == (1, 4)
    call(3, output_hidden_states=True)
    assert tape.num_recorded == 1


def test_shapes_that_change_again_soon_are_recorded_ever_less():
    encoder, plain, tape = unasked()
    call = Calls(encoder, plain)
    for count in range(1, 12):
        call(count, times=3)
    assert tape.num_recorded == 3  # in the second call of two shapes, and the third call of a third
    assert encoder.graphs.patience == 4
    call(12, times=4)
    assert tape.num_recorded == 3
    call(12, times=ENOUGH)
    assert tape.num_recorded == 4
    call(13, times=1 + encoder.graphs.patience)
    assert tape.num_recorded == 5
    assert encoder.graphs.patience == 1  # the one before has paid
    assert len(encoder.graphs._graphs) <= MAX_GRAPHS


def test_large_calls_run_as_they_are(monkeypatch):
    encoder, plain, tape = unasked()
    monkeypatch.setattr(graphs, "MOST_VALUES", 4 * encoder._adapter.width)
    call = Calls(encoder, plain)
    call(4, times=3)
    assert tape.num_recorded == 0
    call(3, times=3)
    assert tape.num_recorded == 1
    encoder, plain, tape = unasked(max_tokens=2)  # every clip is a batch
    frames, gaze = random_frames(2, 3), random_gaze(PYRAMID, 2, 3)
    with torch.no_grad():
        for _ in range(3):
            assert_same(encoder(frames, gaze), plain(frames, gaze))
    assert tape.num_recorded == 0


def test_nothing_is_not_recorded():
    encoder, plain, tape = unasked(empty_frames="zero")
    gaze = Gaze(PYRAMID, torch.arange(0), torch.zeros(1, 2, dtype=torch.long))
    with torch.no_grad():
        for _ in range(3):
            found = encoder(random_frames(1, 2), gaze)
            assert found.pooler_output.equal(plain(random_frames(1, 2), gaze).pooler_output)
    assert tape.num_recorded == 0


def test_gradients_training_and_autocast_are_never_recorded():
    encoder, plain, tape = unasked()
    frames, gaze = random_frames(1, 2), random_gaze(PYRAMID, 1, 2)
    for _ in range(3):
        assert encoder(frames, gaze).pooler_output.requires_grad
    with torch.no_grad():
        for _ in range(3):
            with torch.autocast("cpu", torch.bfloat16):
                encoder(frames, gaze)
        encoder.train()
        for _ in range(3):
            encoder(frames, gaze)
    assert tape.num_recorded == 0
    encoder.eval()
    Calls(encoder, plain)(times=2)
    assert tape.num_recorded == 1


def test_hooks_run_in_every_call():
    encoder, plain, tape = unasked()
    call, seen = Calls(encoder, plain), []
    call(times=2)
    assert tape.num_recorded == 1
    layer = first_mlp(encoder)
    for register in (layer.register_forward_hook, layer.register_forward_pre_hook):
        handle = register(lambda *_: seen.append(1))
        call(times=3)
        handle.remove()
    hook = nn.modules.module.register_module_forward_hook(lambda *_: seen.append(1))
    before = len(seen)
    call(times=3)
    hook.remove()
    assert (before, tape.num_recorded, tape.num_replayed) == (6, 1, 1)
    assert len(seen) > before
    call()
    assert tape.num_replayed == 2


def test_another_module_without_weights_is_seen():
    encoder, plain, tape = unasked()
    call = Calls(encoder, plain)
    call(times=2)
    for model in (encoder, plain):
        first_mlp(model).activation_fn = nn.ReLU().eval()
    call()  # and the two agree
    assert tape.num_replayed == 1
    call(times=2)
    assert (tape.num_recorded, tape.num_replayed) == (2, 3)


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def test_weights_that_are_kept_for_a_while_are_not_recorded(monkeypatch):
    monkeypatch.setattr(graphs, "KNOWN", (*graphs.KNOWN, "tests"))
    graphs._is_known.cache_clear()
    encoder, plain, tape = unasked()
    call = Calls(encoder, plain)
    layer = first_mlp(encoder).fc1
    twin = first_mlp(plain).fc1
    for one in (layer, twin):
        parametrize.register_parametrization(one, "weight", Doubled())
        one.eval()
    with parametrize.cached():
        call(times=3)
    assert tape.num_recorded == 0
    call(times=2)
    assert tape.num_recorded == 1
    with torch.no_grad():
        for one in (layer, twin):
            one.parametrizations.weight.original.mul_(0.5)
    call()
    assert tape.num_replayed == 2
    graphs._is_known.cache_clear()


def test_a_part_in_training_mode_may_drop_out():
    encoder, plain, tape = unasked()
    call = Calls(encoder, plain)
    call(times=2)
    layer = first_mlp(encoder).train()
    call(times=3)
    assert (tape.num_recorded, tape.num_replayed) == (1, 1)
    layer.eval()
    call()
    assert tape.num_replayed == 2


class Switched(nn.Linear):
    """A layer that somebody switches, as an adapter is."""

    on = True

    def forward(self, x):
        return super().forward(x) * self.on


def test_foreign_modules_run_in_every_call():
    encoder, plain, tape = unasked()
    old = first_mlp(encoder).fc2
    switched = Switched(old.in_features, old.out_features)
    for model in (encoder, plain):
        first_mlp(model).fc2 = switched
    call = Calls(encoder, plain)
    call(times=3)
    switched.on = False  # seen, and the two agree
    call(times=3)
    assert tape.num_recorded == 0


def test_replaced_methods_foreign_adapters_and_tensors_are_seen():
    class Mine(ClipAdapter):
        pass

    class Weight(nn.Parameter):
        pass

    assert graphs.addresses_if_known(ClipAdapter(FAMILIES["clip"].model()))
    assert graphs.addresses_if_known(Mine(FAMILIES["clip"].model())) is None
    model = FAMILIES["clip"].model()
    norm = ClipAdapter(model).model.pre_layrnorm
    norm.forward = lambda x: x
    assert graphs.addresses_if_known(ClipAdapter(model)) is None
    del norm.forward
    assert graphs.addresses_if_known(ClipAdapter(model))
    norm.weight = Weight(norm.weight.detach())
    assert graphs.addresses_if_known(ClipAdapter(model)) is None


def test_all_families_are_known():
    for name, family in FAMILIES.items():
        adapter = gazed(family.model())._adapter
        found = graphs.addresses_if_known(adapter)
        assert found == graphs.addresses(adapter.model), name
        assert set(found) >= {weight.data_ptr() for weight in adapter.model.parameters()}


class Seeing(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.seen += 1
        return operator(*args, **(kwargs or {}))


class SeeingFunctions(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


def test_who_watches_operators_sees_those_of_every_call():
    encoder, plain, tape = unasked()
    call = Calls(encoder, plain)
    call(times=2)
    replayed = tape.num_replayed
    for mode in (Seeing(), SeeingFunctions()):
        with mode:
            call()
    assert tape.num_replayed == replayed


def test_another_choice_of_kernels_is_another_kind_of_call():
    encoder, plain, tape = unasked()
    call = Calls(encoder, plain)
    call(times=2)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if before == "highest" else "highest")
    try:
        call()
        assert tape.num_replayed == 1
    finally:
        torch.set_float32_matmul_precision(before)
    call()
    assert tape.num_replayed == 2


def test_precisions_under_their_new_names_are_no_error():
    matmul = torch.backends.cuda.matmul
    if not hasattr(matmul, "fp32_precision"):
        pytest.skip("this PyTorch has the old names alone")
    encoder, plain, tape = unasked()
    before = matmul.fp32_precision
    try:
        for precision in ("ieee", "tf32"):
            matmul.fp32_precision = precision
            Calls(encoder, plain)(times=2)
    finally:
        matmul.fp32_precision = before
    assert tape.num_recorded == 2


def test_weights_that_change_or_move_are_those_of_the_next_call():
    encoder, plain, tape = unasked()
    call = Calls(encoder, plain)
    call(times=2)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(0.9)
    call()
    assert (tape.num_recorded, tape.num_replayed) == (1, 2)
    encoder.to(torch.float64).to(torch.float32)
    call()
    assert tape.num_recorded == 1
    call()
    assert tape.num_recorded == 2
    encoder.reset()
    assert not encoder.graphs._graphs
    call(times=2)
    assert tape.num_recorded == 3


class Refusing(Tape):
    """As CUDA does where a stream that is recorded has to be waited for."""

    error: Exception = RuntimeError("operation not permitted when stream is capturing")
    tried = 0

    def _record(self, operations):
        self.tried += 1
        raise self.error


@pytest.mark.parametrize("error", [None, torch.OutOfMemoryError("no memory")])
def test_what_cannot_be_recorded_runs_as_it_is(error, caplog):
    encoder, plain, tape = unasked(recorder=Refusing())
    tape.error = error or tape.error
    Calls(encoder, plain)(times=5)
    assert tape.tried == 1
    assert len([one for one in caplog.records if "no longer recorded" in one.getMessage()]) == 1


def test_without_memory_for_a_recordings_inputs_it_runs_as_it_is(monkeypatch):
    def cut(*_, **__):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(graphs, "cut_packed", cut)
    encoder, plain, tape = unasked()
    Calls(encoder, plain)(times=3)
    assert tape.num_recorded == 0
    asked = gazed(encoder.model)
    asked.graphs = EncoderGraphs(Tape())
    with pytest.raises(torch.OutOfMemoryError):
        Calls(asked, plain)()


def test_a_model_on_another_gpu_is_recorded_there(monkeypatch):
    class OfGpu(Tape):
        def __init__(self, device) -> None:
            super().__init__()
            self.device = device

    monkeypatch.setattr(graphs, "CudaGraphs", OfGpu)
    before = OfGpu(torch.device("cuda", 1))
    encoder, plain, _ = unasked(recorder=before)
    call = Calls(encoder, plain)
    call(times=3)
    assert before.num_recorded == 0
    assert encoder.graphs.recorder.device == torch.device("cpu")
    assert encoder.graphs.recorder.num_replayed == 2


@torch.no_grad()
def test_backends_are_told_of_replays_too():
    encoder, _, tape = unasked()
    frames, gaze = random_frames(1, 2), random_gaze(PYRAMID, 1, 2)
    for _ in range(4):
        with recorded_backends() as backends:
            encoder(frames, gaze)
        assert backends == {"grouped"}
    assert tape.num_replayed == 3


def test_a_model_has_graphs_once_it_encodes_on_a_gpu():
    encoder, plain, _ = unasked()
    fresh = gazed(FAMILIES["siglip"].model())
    Calls(fresh, plain)(times=3)
    assert fresh.graphs is None
    moved = EncoderGraphs(unasked=True)  # as of a model that was moved to a CPU afterwards
    encoder.graphs = moved
    Calls(encoder, plain)(times=3)
    assert moved.recorder is None
    for twin in (copy.deepcopy(moved), pickle.loads(pickle.dumps(moved))):
        assert twin.unasked
        assert twin.recorder is None
