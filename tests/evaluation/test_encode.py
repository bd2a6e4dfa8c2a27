"""`bench encode` on tiny encoders: tokens, arithmetic, verdicts, tables, plots."""

import io
import json

import pytest
import torch
from rich.console import Console

from autogaze.evaluation.encode import EncodeOptions, measure_encoder, published_ratio
from autogaze.evaluation.encode_report import (
    CellReport,
    Cost,
    EncodeReport,
    EncoderReport,
    Spread,
    print_report,
    verdicts,
)
from autogaze.evaluation.flops import EncoderFlops
from autogaze.evaluation.memory_case import measure_memory_case
from autogaze.evaluation.scaling import SHARES, measure_scaling, random_gaze, scaling_table
from autogaze.evaluation.timing import ByStage, Stage, Timing
from autogaze.geometry import PatchPyramid
from autogaze.video.reader import Video
from tests.clips import make_video
from tests.evaluation import tiny


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return Video(make_video(tmp_path_factory.mktemp("video") / "square.mp4", 20, fps=10))


@pytest.fixture(scope="module")
def measured(video):
    options = EncodeOptions(
        encoders=(),
        selectors=("greedy", "run-length"),
        fps=(5.0, 30.0),
        resolutions=(64, 100),
        frames=18,
        repeats=1,
        dense_batch=5,
    )
    return measure_encoder(tiny.encoder(), video, options)


def report_of(*encoders: EncoderReport) -> EncodeReport:
    return EncodeReport(
        hardware="a machine",
        place="cpu float32",
        video="/videos/square.mp4",
        video_size=(96, 64),
        video_fps=10.0,
        budget="as published.",
        memory="guessed",
        attn_type="block_causal",
        repeats=2,
        encoders=encoders,
    )


def test_every_cell_has_dense_the_selectors_and_the_controls(measured):
    assert len(measured.cells) == 4
    for cell in measured.cells:
        assert cell.dense.selector == "dense"
        names = [cost.selector for cost in cell.gazed]
        assert names == ["greedy", "run-length", "random", "centre"]


def test_dense_tokens_are_the_finest_grid_of_every_frame_of_every_tile(measured):
    for cell in measured.cells:
        assert cell.dense.tokens == cell.frames * cell.tiles * 16
    assert [(cell.resolution, cell.pixels, cell.tiles) for cell in measured.cells] == [
        (64, 64, 1),
        (64, 64, 1),
        (100, 128, 4),
        (100, 128, 4),
    ]


def test_rates_and_frames_are_what_the_video_has(measured):
    slow, fast, *_ = measured.cells
    assert (slow.fps_seen, slow.frames) == (5, 10)  # 2 seconds at 5 a second
    assert (fast.fps, fast.fps_seen, fast.frames) == (30, 10, 18)
    notes = " ".join(report_of(measured).notes)
    assert "10 frames a second" in notes
    assert "too short" in notes
    assert "next larger" in notes


def test_selectors_are_capped_at_the_published_share(measured):
    for cell in measured.cells:
        ratio = published_ratio(cell.fps, cell.resolution)
        cap = max(1, int(ratio * 21))
        for cost in cell.gazed:
            assert cost.ratio == pytest.approx(ratio)
            assert cost.tokens <= cap * cell.frames * cell.tiles
        random = cell.gazed[2]
        assert random.tokens == cap * cell.frames * cell.tiles
        assert cell.share(random) == random.tokens / cell.dense.tokens


def test_arithmetic_is_that_of_the_tokens(measured):
    flops = EncoderFlops.of(tiny.encoder().adapter)
    cell = measured.cells[2]
    alone = [[16]] * (cell.frames * cell.tiles)
    assert cell.dense.flops.embed == flops.embedding(cell.dense.tokens)
    assert cell.dense.flops.encode == flops.encoding(alone, "frame_independent")
    random = cell.gazed[2]
    assert random.flops.select == 0
    assert random.flops.embed == flops.embedding(random.tokens)
    assert cell.gazed[0].flops.select > 0


def test_stages_add_up_and_factors_are_ratios(measured):
    for cell in measured.cells:
        assert cell.dense.factor == Spread(1, 1, 1)
        assert cell.dense.seconds.select.median == 0
        for cost in (cell.dense, *cell.gazed):
            assert cost.factor.least <= cost.factor.median <= cost.factor.largest
            for stage in (Stage.DECODE, Stage.PREPROCESS, Stage.EMBED, Stage.ENCODE):
                assert cost.seconds[stage].fastest > 0
            assert cost.whole.fastest >= cost.seeing.fastest


def test_one_ratio_for_all_overrides_the_published_ones(video):
    options = EncodeOptions((), ("centre",), (10.0,), (64,), frames=4, ratio=0.5, repeats=1)
    (cell,) = measure_encoder(tiny.encoder(), video, options).cells
    assert [cost.tokens for cost in cell.gazed] == [4 * 10, 4 * 10]  # floor(0.5 * 21)
    assert [cost.selector for cost in cell.gazed] == ["centre", "random"]


def cost(selector: str, seconds: float, factors: tuple[float, ...] = (1.0,)) -> Cost:
    still = Timing(0.0, 0.0, 0.0)
    return Cost(
        selector=selector,
        ratio=0.1,
        tokens=50,
        seconds=ByStage(still, still, still, still, Timing.of([seconds])),
        seeing=Timing.of([seconds]),
        whole=Timing.of([seconds]),
        factor=Spread.of(list(factors)),
        whole_factor=1.0,
        encoding=0.25,
        flops=ByStage(0, 0, 1, 2, 3),
        peak=ByStage(1, 2, 3, 4, 5),
    )


def test_verdicts():
    assert cost("a", 1.0, (1.5, 2.0, 3.0)).verdict == "faster"
    assert cost("a", 1.0, (0.5, 0.9)).verdict == "slower"
    assert cost("a", 1.0, (0.9, 1.1)).verdict == "undecided"
    gazed = (cost("good", 1, (2.0,)), cost("bad", 1, (0.5,)), cost("even", 1, (0.9, 1.2)))
    dense = Cost(**{**vars(cost("dense", 2.0)), "tokens": 100})
    cell = CellReport(30, 25, 16, 224, 224, 1, dense, gazed)
    assert cell.share(gazed[0]) == 0.5
    assert cell.over_share(gazed[0]) == 0.5
    words = verdicts(EncoderReport("e", True, "s", 4, True, (cell,)))[1]
    assert "30 fps (has 25)" in words
    assert "good 2.00 x faster" in words
    assert "bad 2.00 x SLOWER" in words
    assert "even undecided (0.90 to 1.20 x as fast)" in words


def test_the_tables_say_what_was_measured(measured):
    console = Console(width=200, record=True, file=io.StringIO())
    print_report(report_of(measured), console)
    text = console.export_text()
    for words in ("random weights", "dense", "greedy", "centre", "GFLOP", "a machine", "(has 10)"):
        assert words in text
    assert "5 frames at once (as asked for)" in " ".join(text.split())


def test_the_report_is_json(measured):
    values = json.loads(json.dumps(report_of(measured).to_json()))
    cell = values["encoders"][0]["cells"][0]
    assert cell["dense"]["verdict"] is None
    assert {row["verdict"] for row in cell["gazed"]} <= {"faster", "slower", "undecided"}
    assert set(cell["gazed"][0]["seconds"]) == {stage.value for stage in Stage}
    assert values["notes"]


def test_the_plot_is_drawn(measured, tmp_path):
    pytest.importorskip("matplotlib")
    from PIL import Image

    from autogaze.evaluation.encode_plot import plot_encode

    plot_encode(report_of(measured), tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as picture:
        assert min(picture.size) > 400


# Scaling and memory.


def test_random_gazes_have_the_size_that_was_asked_for():
    generator = torch.Generator().manual_seed(0)
    equal = random_gaze(PatchPyramid(), 16, 0.2, generator)
    ragged = random_gaze(PatchPyramid(), 16, 0.2, generator, ragged=True)
    assert set(equal.lengths.flatten().tolist()) == {39}  # of 196
    assert ragged.num_patches == equal.num_patches
    assert len(set(ragged.lengths.flatten().tolist())) > 3


def test_scaling_compares_every_share_with_dense():
    scaling = measure_scaling(tiny.encoder(), repeats=1, batch=16)
    assert len(scaling.rows) == 2 * 2 * len(SHARES)
    for row in scaling.rows:
        assert row.allowed == pytest.approx(1.25 * row.share + 0.05)
        assert row.met == (row.relative.median <= row.allowed)
        assert row.over_share == pytest.approx(row.relative.median / row.share)
    assert "block_causal" in scaling.to_json()["rows"][1]["attn_type"]
    assert scaling_table(scaling).row_count == len(scaling.rows)


def test_the_memory_case_says_what_a_dense_mask_would_take():
    case = measure_memory_case(tiny.encoder(), frames=4, tiles=3, share=0.2)
    assert case.tokens == 4 * 3 * 4  # round(0.2 * 21)
    assert case.mask_together == 4 * 2 * case.tokens**2
    assert case.mask_by_clip == 4 * 2 * 3 * case.longest**2
    assert "4 frames x 3 tiles" in str(case)
