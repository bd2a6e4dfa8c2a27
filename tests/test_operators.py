"""How many operators gazing and encoding launch, and how often they wait: they must not grow.

On a GPU each launch and each wait costs microseconds that no arithmetic can win back.
"""

import copy
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import transformers
from torch import Tensor

import autogaze
from autogaze import Gaze
from autogaze.models.autogaze import static_shapes
from autogaze.models.autogaze.limits import FrameLimits
from autogaze.models.autogaze.sampling import FrameSampling
from autogaze.models.autogaze.triton_decoder import TritonDecoder
from autogaze.models.autogaze.triton_steps import TritonSteps
from autogaze.vision_encoders import attention, patches, varlen
from autogaze.vision_encoders.encode import encode_patches
from autogaze.vision_encoders.layout import AttentionType
from autogaze.vision_encoders.packed import PackedPatches
from tests.models.autogaze.tiny import tiny_model, tiny_video
from tests.operators import Copies, Operators, count
from tests.vision_encoders.families import FAMILIES, random_frames, random_gaze

LAYERS, K = 2, 4
"""Of the tiny model."""

BLOCK, FEED, FRAME = 35 + 2 * K, 8 + 11 * LAYERS, 24
"""Launches that take a block, feed it or a frame, and those of a frame besides."""


def frame_of(cap: int, threshold: float | None = None) -> Operators:
    """What the second frame of a clip launches on the static path."""
    model, video = tiny_model(), tiny_video(1, 3)
    model.static_shapes = True
    stream = model.stream(1, num_frames=3)
    stream.step(video[:, :1], caps=[cap])
    state = stream.states[0]
    limits, sampling = FrameLimits((cap,), threshold), FrameSampling()
    tokens = torch.randn(1, 16, 48)
    with torch.no_grad():
        return count(
            lambda: state.gaze_frame(tokens, limits, sampling), tokens, state.rows, state.decoder
        )


@pytest.mark.parametrize("blocks", [1, 3])
def test_a_frame_launches_no_more_than_it_did(blocks):
    counted = frame_of(blocks * K)
    assert counted.launches <= FRAME + blocks * (FEED + BLOCK), counted.names


class Kernels(Counter[str]):
    """In place of a module of Triton's kernels: counts what is launched, and runs nothing."""

    def __getattr__(self, name: str) -> "dict[object, Callable[..., None]]":
        def launch(*args: object, **options: object) -> None:
            self[name] += 1

        return defaultdict(lambda: launch)


def test_a_frame_in_kernels_is_few_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU that has Triton."""
    kernels, autogaze_model = Kernels(), "autogaze.models.autogaze"
    for name in ("frame_triton_kernels", "decoder_triton_kernels"):
        monkeypatch.setitem(sys.modules, f"{autogaze_model}.{name}", kernels)
        monkeypatch.setattr(f"{autogaze_model}.{name}", kernels, raising=False)
    monkeypatch.setattr(static_shapes, "new_static_decoder", TritonDecoder)
    monkeypatch.setattr(
        static_shapes,
        "new_frame_steps",
        lambda *sizes, sequential, compiled: TritonSteps(*sizes, sequential=sequential),
    )
    blocks = 3
    counted = frame_of(blocks * K)
    # Of a second frame; the first one has launched as many.
    assert kernels["begin"] == 2
    assert kernels["block"] == kernels["heads"] == 2 * blocks
    assert kernels.total() <= 2 * (1 + blocks * (2 + 5 * LAYERS))
    # Besides kernels: a norm after every feed, and three copies of what was chosen.
    assert counted.launches <= blocks + 3, counted.names


def test_a_frame_waits_for_nothing_unless_rows_may_stop():
    assert frame_of(3 * K).waits == 0
    assert frame_of(3 * K, threshold=-1e9).waits <= 1


@pytest.mark.parametrize("threshold", [None, -1e9])
def test_a_clip_waits_only_for_its_weights_and_its_lengths(threshold):
    model, video = tiny_model(), tiny_video(2, 4)
    model.static_shapes = True
    model.generate(video, caps=[12] * 4, threshold=threshold)
    counted = count(
        lambda: model.generate(video, caps=[12] * 4, threshold=threshold).to_gaze(), model, video
    )
    counted.waiting.pop("equal")  # a wait for each weight; on a GPU, one for all
    assert counted.waits <= (1 + 3 if threshold is None else 1 + 3 + 4), counted.waiting


def test_an_operator_that_waits_is_found():
    on_device, on_host = torch.arange(4.0), torch.arange(4.0)
    calls: dict[str, Callable[[Tensor], object]] = {
        "_local_scalar_dense": lambda x: float(x.sum()),
        "nonzero": lambda x: x.nonzero(),
        "index by a mask": lambda x: x[x > 1],
        "tolist": lambda x: (x + 1).tolist(),
        "equal": lambda x: torch.equal(x, x),
    }
    for name, call in calls.items():
        assert count(lambda call=call: call(on_device), on_device).waiting[name] == 1
        assert count(lambda call=call: call(on_host)).waits == 0
    assert count(lambda: on_device[1:].view(3, 1)).launches == 0
    assert count(lambda: (on_device + 1).relu()).launches == 2


@pytest.mark.parametrize(
    ("name", "attn_type", "most"),
    [
        ("siglip", "block_causal", 73),
        ("siglip", "frame_independent", 73),
        ("dinov3", "block_causal", 93),
        ("dinov3", "frame_independent", 93),
        ("clip", "block_causal", 64),
        ("clip", "frame_independent", 64),
    ],
)
def test_an_encoder_waits_for_nothing(
    name: str, attn_type: AttentionType, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = FAMILIES[name]
    pyramid = family.pyramid(32, 64)
    encoder = autogaze.gazed(family.model(0), attn_type=attn_type)
    frames, gaze = random_frames(2, 3, pyramid.side), random_gaze(pyramid, 2, 3)
    with torch.no_grad():
        expected = encoder(frames, gaze).last_hidden_state
        monkeypatch.setattr(patches, "may_wait", lambda device: False)  # as on a GPU
        found = encoder(frames, gaze).last_hidden_state  # layout and positions are kept from now on
        assert found.equal(expected)
        counted = count(lambda: encoder(frames, gaze), encoder, frames, gaze.ids)
    # Whether frames have a NaN is asked on a CPU only.
    assert counted.waiting == {"_local_scalar_dense": 1}
    assert counted.launches <= most


def gaze_on(device: str, gaze: Gaze) -> Gaze:
    """A gaze whose ids lie on a device, its lengths on the host."""
    moved = copy.copy(gaze)
    object.__setattr__(moved, "ids", gaze.ids.to(device))
    return moved


WHERE_IDS_LIE = [
    *((name, "block_causal", "meta") for name in sorted(FAMILIES)),
    *((name, "frame_independent", "meta") for name in ("clip", "internvl")),
    *((name, "block_causal", "cpu") for name in ("clip", "internvl")),
    ("clip", "frame_independent", "cpu"),
]
"""All families; how frames attend and where ids lie is no family's own."""


@pytest.mark.parametrize(("name", "attn_type", "where"), WHERE_IDS_LIE)
def test_an_encoder_asks_its_device_for_nothing(
    name: str, attn_type: AttentionType, where: str
) -> None:
    """On a device without data every question is an error, and copies to it are counted."""
    if name.startswith("dinov3") and transformers.__version__ < "5":
        pytest.skip("rotary positions ask for autocast of the device, which meta has not")
    family = FAMILIES[name]
    pyramid = family.pyramid(family.side // 2, family.side)
    encoder = autogaze.gazed(family.model(), attn_type=attn_type).to("meta")
    ragged = torch.tensor([[3, 5, 3], [2, 0, 4]])
    ids = torch.cat([torch.arange(n) for n in ragged.flatten().tolist()])
    frames = random_frames(2, 3, pyramid.side).to("meta")
    settings = replace(encoder.settings, empty_frames="hold")
    copies = []
    for _ in range(2):
        packed = PackedPatches.of(gaze_on(where, Gaze(pyramid, ids, ragged)))
        with torch.inference_mode(), Copies() as counted:
            out = encode_patches(encoder._adapter, frames, packed, settings)
        assert out.patches.device.type == "meta"
        copies.append(counted)
    assert [counted.blocking for counted in copies] == [0, 0]
    # Layout and positions are kept: of a second call only the gaze's own numbers are sent.
    assert copies[1].not_blocking <= 3


@pytest.mark.parametrize("attn_type", ["block_causal", "frame_independent"])
def test_a_kernel_for_segments_is_one_launch_per_block_and_asks_nothing(
    attn_type: AttentionType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch's, as on a GPU that has it; ragged frames, for which SDPA would need many calls."""
    if reason := varlen.not_installed("varlen"):
        pytest.skip(reason)
    monkeypatch.setattr(attention, "not_able", lambda *_: None)
    family = FAMILIES["clip"]
    pyramid = family.pyramid(32, 64)
    encoder = autogaze.gazed(family.model(), attn_type=attn_type).to("meta")
    packed = PackedPatches.of(gaze_on("meta", random_gaze(pyramid, 2, 8)))
    frames = random_frames(2, 8, pyramid.side).to("meta")
    with torch.inference_mode():
        encode_patches(encoder._adapter, frames, packed, encoder.settings)
        with Copies() as copies:
            counted = count(
                lambda: encode_patches(encoder._adapter, frames, packed, encoder.settings)
            )
    assert copies.blocking == 0
    assert counted.names["torch_attn::_varlen_attn"] == 2
    prefixes = 2 * 2 if attn_type == "block_causal" else 0  # keys and values of each block
    assert counted.launches <= 44 + prefixes, counted.names
