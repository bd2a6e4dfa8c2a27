"""The learned judge: exact, and blind to everything that must not matter."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from autogaze.errors import CheckpointError, GeometryError
from autogaze.gaze import Gaze
from autogaze.reconstruction.video_mae import VideoMAE, VideoMAEConfig
from autogaze.reconstruction.video_mae.packing import DecoderCells
from autogaze.reconstruction.video_mae.positions import grid_positions, resized_1d, resized_2d
from tests.conformance import conformance_folder

FOLDER = conformance_folder()
SMALL = VideoMAEConfig(
    scales="32+64",
    max_num_frames=8,
    image_size=64,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=48,
    decoder_hidden_size=16,
    decoder_num_hidden_layers=2,
    decoder_num_attention_heads=2,
    decoder_intermediate_size=32,
)


@pytest.fixture(scope="module")
def judge():
    torch.manual_seed(0)
    model = VideoMAE(SMALL).eval()
    for parameter in model.parameters():  # embeddings large enough that mistakes show
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def some_gaze(clips=2, frames=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    V = SMALL.pyramid.num_patches
    lengths = torch.randint(1, V, (clips, frames), generator=generator)
    ids = [torch.randperm(V, generator=generator)[:n] for n in lengths.flatten().tolist()]
    return Gaze(SMALL.pyramid, torch.cat(ids), lengths)


def some_video(clips=2, frames=4, seed=0):
    return torch.randn(clips, frames, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.skipif(FOLDER is None, reason="no conformance data beside the project")
def test_conformance():
    config = json.loads((FOLDER / "video-mae" / "config.json").read_text())
    data = load_file(FOLDER / "video-mae" / "cases.safetensors")

    def under(prefix):
        return {
            name.removeprefix(prefix): value
            for name, value in data.items()
            if name.startswith(prefix)
        }

    model = VideoMAE(VideoMAEConfig.of(config)).eval()
    model.load_state_dict(under("weights."))
    gaze = Gaze.from_padded(under("gaze."), model.config.pyramid)
    frames = data["frame_idx_to_reconstruct"].tolist()
    with torch.no_grad():
        found = model(data["video"], gaze, frames)
    torch.testing.assert_close(found, data["reconstruction"], atol=1e-5, rtol=1e-5)
    losses = (found - data["video"][:, frames]).abs().flatten(2).mean(-1)
    torch.testing.assert_close(losses, data["loss_each_reconstruction_frame"])


@torch.no_grad()
def test_a_clip_in_a_ragged_batch_is_as_alone(judge):
    video, gaze = some_video(), some_gaze()
    both = judge(video, gaze, [1, 3])
    for clip in range(2):
        alone = judge(video[clip : clip + 1], gaze[clip], [1, 3])
        torch.testing.assert_close(alone[0], both[clip], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_only_gazed_patches_and_earlier_frames_are_seen(judge):
    video, gaze = some_video(), some_gaze()
    reference = judge(video, gaze, [2])
    later = video.clone()
    later[:, 3] += 1
    torch.testing.assert_close(judge(later, gaze, [2]), reference)
    earlier = video.clone()
    earlier[:, 0] += 1
    assert (judge(earlier, gaze, [2]) - reference).abs().max() > 1e-3
    # Pixels of the finest scale that no patch of any scale was cut from.
    fine = Gaze.from_mask(SMALL.pyramid, torch.arange(20).expand(2, 4, 20) == 4)
    unseen = video.clone()
    unseen[..., 16:, 16:] += 1
    torch.testing.assert_close(judge(unseen, fine, [2]), judge(video, fine, [2]))


@torch.no_grad()
def test_the_order_of_gazes_in_a_frame_does_not_matter(judge):
    video, gaze = some_video(), some_gaze()
    parts = [gaze.frame(clip, frame).flip(0) for clip in range(2) for frame in range(4)]
    flipped = Gaze(gaze.pyramid, torch.cat(parts), gaze.lengths)
    torch.testing.assert_close(
        judge(video, flipped, [0, 3]), judge(video, gaze, [0, 3]), atol=1e-5, rtol=1e-4
    )


@torch.no_grad()
def test_frames_come_in_the_order_asked_for(judge):
    video, gaze = some_video(), some_gaze()
    there, back = judge(video, gaze, [0, 3]), judge(video, gaze, [3, 0])
    torch.testing.assert_close(there.flip(1), back)


def test_decoder_cells_hold_everything_once():
    gaze = some_gaze(seed=3)
    cells = DecoderCells.of(gaze, [1])
    V = SMALL.pyramid.num_patches
    assert cells.lengths[:, 1].tolist() == [V, V]
    assert torch.equal(cells.lengths[:, [0, 2, 3]], gaze.lengths[:, [0, 2, 3]])
    assert torch.equal(cells.ids[cells.gazed], gaze.ids)
    assert len(cells.gazed.unique()) == gaze.num_patches
    shown = cells.ids[cells.is_shown].view(2, V)
    assert torch.equal(shown, torch.arange(V).expand(2, V))


def test_position_tables():
    # ViT-MAE's layout: sines and cosines of the column, then of the row.
    table = grid_positions(16, 24)
    assert not table[0].any()
    for cell in range(16):
        row, column = divmod(cell, 4)
        rates = [10000 ** (-k / 6) for k in range(6)]
        wanted = [
            function(place * rate)
            for place in (column, row)
            for function in (math.sin, math.cos)
            for rate in rates
        ]
        torch.testing.assert_close(table[cell + 1], torch.tensor(wanted))


def test_resized_tables():
    table = grid_positions(16, 24)[1:]
    assert resized_2d(table, 4) is table
    assert resized_2d(table, 2).shape == (4, 24)
    assert resized_1d(table, 4).shape == (4, 24)


def test_every_parameter_learns(judge):
    model = VideoMAE(SMALL)
    video, gaze = some_video(), some_gaze()
    (model(video, gaze, [0, 3]) - video[:, [0, 3]]).abs().mean().backward()
    still = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
    ]
    assert still == []


@pytest.mark.parametrize(
    ("video", "gaze", "frames", "message"),
    [
        (some_video(), some_gaze(), [4], r"lie in \[0, 4\), got \[4\]"),
        (some_video(), some_gaze(), [], "got \\[\\]"),
        (some_video(frames=3), some_gaze(), [0], "expected video"),
        (some_video(frames=9), some_gaze(frames=9), [0], "9 frames, this VideoMAE knows 8"),
    ],
)
def test_bad_input(judge, video, gaze, frames, message):
    with pytest.raises(GeometryError, match=message):
        judge(video, gaze, frames)


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(CheckpointError, match="decoder_hidden_size 512 is no multiple of 7 heads"):
        VideoMAEConfig(decoder_num_attention_heads=7)
