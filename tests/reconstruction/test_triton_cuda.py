"""The greedy search on a GPU: the CPU's gazes, bit for bit. Skipped where there is no GPU."""

import pytest
import torch

from autogaze.geometry import PatchPyramid
from autogaze.labelling.search import CanvasSearcher
from autogaze.reconstruction.native_search import NativeCanvasSearch, built_search, native_search
from autogaze.reconstruction.search_kernel import search_kernel
from autogaze.selectors.greedy import Greedy

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

PYRAMIDS = (
    PatchPyramid(),
    PatchPyramid((8, 16, 24), 4),
    PatchPyramid((96, 192, 384), 14, crop=True),
    PatchPyramid((56, 112, 196, 392), 14),
    PatchPyramid((6,), 3),
)


def moving_noise(side: int, num_clips: int, num_frames: int) -> torch.Tensor:
    """(B, T, 3, S, S) in [0, 1]: coarse noise that drifts by a pixel per frame, below fine noise."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(num_clips, 3, 9, 9, generator=generator)
    wide = torch.nn.functional.interpolate(coarse, size=(side + num_frames,) * 2, mode="bilinear")
    moved = [wide[:, :, t : t + side, t : t + side] for t in range(num_frames)]
    frames = torch.stack(moved, 1)
    fine = torch.rand(frames[..., : side // 2].shape, generator=generator)
    frames[..., : side // 2] = (frames[..., : side // 2] + fine) / 2
    return frames


def clips_of(pyramid: PatchPyramid, as_bytes: bool) -> torch.Tensor:
    """Noise that moves, a grey clip (ties), and a black one."""
    frames = moving_noise(pyramid.side, 4, 3)
    frames[2], frames[3] = frames[2, :, :1], 0
    return (frames * 255).round().to(torch.uint8) if as_bytes else frames


@pytest.mark.parametrize("as_bytes", [True, False])
@pytest.mark.parametrize("pyramid", PYRAMIDS, ids=str)
def test_what_c_finds(pyramid: PatchPyramid, as_bytes: bool) -> None:
    from autogaze.reconstruction.triton_search import TritonCanvasSearch

    library = built_search().library
    if library is None:
        pytest.skip(built_search().why)
    frames, V = clips_of(pyramid, as_bytes), pyramid.num_patches
    block = native_search(pyramid).block
    ours = TritonCanvasSearch(pyramid, 4, "cuda", block)
    theirs = NativeCanvasSearch(pyramid, 4, library, block)
    ids = [[[None] * V] * 3, [[V - 1, 0, *[None] * min(30, V - 2)]] * 3, [[None] * 3] * 3]
    ids.append(ids[0])
    for options in ({"threshold": 0.02}, {"needs_gain": True}, {}):
        found, wanted = (
            search.search_clips(frames.to(device), ids, with_gains=True, **options)
            for search, device in ((ours, "cuda"), (theirs, "cpu"))
        )
        assert (ours.errors == theirs.errors).all()
        pairs = [
            each for clips in zip(found, wanted, strict=True) for each in zip(*clips, strict=True)
        ]
        assert len(pairs) == 12
        for one, other in pairs:
            assert (one.ids, one.losses) == (other.ids, other.losses)
            assert one.gains.is_cuda
            assert one.gains.cpu().equal(other.gains)
        assert torch.equal(ours.canvases.cpu(), theirs._canvases.mT[..., : pyramid.side, :])


@pytest.mark.parametrize("options", [{"ratio": 0.1}, {"loss": 0.02}, {"ratio": 0.5, "loss": 0.01}])
def test_gazes_are_the_cpus_in_batches_alone_and_in_streams(options: dict[str, float]) -> None:
    pyramid = PatchPyramid()
    assert search_kernel(pyramid, "cuda").name == "triton"
    frames = clips_of(pyramid, as_bytes=True)
    wanted = Greedy().select(frames, **options)
    gaze = Greedy().select(frames.cuda(), **options)
    assert gaze.device.type == "cuda"
    assert gaze.ids.cpu().equal(wanted.ids)
    assert gaze.lengths.equal(wanted.lengths)
    assert gaze.losses is not None
    assert gaze.losses.cpu().equal(wanted.losses)
    for clip in range(len(frames)):
        alone = Greedy().select(frames[clip : clip + 1].cuda(), **options)
        stream = Greedy().stream(**options)
        pieces = [stream.step(frames[clip : clip + 1, t : t + 1].cuda()) for t in range(3)]
        assert alone.ids.equal(torch.cat([piece.ids for piece in pieces]))
        assert alone.ids.cpu().equal(list(wanted)[clip].ids)


def test_labels_are_the_cpus() -> None:
    frames = clips_of(PatchPyramid(), as_bytes=True)
    ids = [[[None] * 20, [5, None], [None]]] * len(frames)
    searcher = CanvasSearcher(softness=0.1)
    found, wanted = (searcher.follow_clips(frames.to(name), ids) for name in ("cuda", "cpu"))
    for one, other in zip(found, wanted, strict=True):
        assert (one.ids, one.losses) == (other.ids, other.losses)
        assert one.targets is not None
        assert one.targets.is_cuda
        # From equal gains, by exponentials of another device.
        torch.testing.assert_close(one.targets.cpu(), other.targets, atol=1e-7, rtol=1e-5)


def test_the_host_waits_once_per_clip() -> None:
    """Not per frame or patch: a select of 8 frames reads as often as one of 2."""
    frames = (moving_noise(224, 2, 8) * 255).to(torch.uint8).cuda()
    for num_frames in (2, 2, 8, 8):  # the second time it is recorded
        Greedy().select(frames[:, :num_frames], loss=0.02)
    reads = []
    for num_frames in (2, 8):
        # With `acc_events`, since PyTorch warns that events of other cycles are dropped.
        only_cpu = [torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=only_cpu, acc_events=True) as profile:
            Greedy().select(frames[:, :num_frames], loss=0.02)
        names = [event.name for event in profile.events()]
        reads.append(sum(name in ("aten::_local_scalar_dense", "aten::item") for name in names))
        reads[-1] += sum(name == "cudaStreamSynchronize" for name in names)
    assert reads[0] == reads[1]
