"""`bench encode` on tiny encoders: tokens, arithmetic, comparisons, tables, plots."""

import io
import json
import re

import pytest
import torch
from rich.console import Console

from autogaze.evaluation.encode import (
    AT_30_FPS,
    AT_224_PIXELS,
    CellReport,
    Cost,
    EncoderReport,
    SpeedUp,
    outcome,
    published_ratio,
)
from autogaze.evaluation.encode_report import comparisons, plot_encode, print_report
from autogaze.evaluation.flops import EncoderFlops
from autogaze.evaluation.selectors import MeasuredSelector
from autogaze.evaluation.timing import Stage, Timing
from autogaze.utils.device import BatchSize
from autogaze.utils.progress import silent
from autogaze.vision_encoders.adapter import EncoderAdapter
from tests.clips import make_video
from tests.evaluation import tiny


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return str(make_video(tmp_path_factory.mktemp("video") / "square.mp4", 20, fps=10))


@pytest.fixture(scope="module")
def report(video):
    grid = (["change", "run-length"], [5.0, 30.0], [64, 100])
    return tiny.encode_report(
        tiny.encoder(), video, *grid, frames=18, repeats=1, dense_batch=5, attn_type="block_causal"
    )


@pytest.fixture(scope="module")
def measured(report):
    (encoder,) = report.encoders
    return encoder


def test_every_cell_has_dense_the_selectors_and_the_controls(measured):
    assert len(measured.cells) == 4
    for cell in measured.cells:
        assert cell.dense.selector == "dense"
        names = [cost.selector for cost in cell.gazed]
        assert names == ["change", "run-length", "random", "centre"]


def test_dense_tokens_are_the_finest_grid_of_every_frame_of_every_tile(measured):
    for cell in measured.cells:
        assert cell.dense.tokens == cell.frames * cell.tiles * 16
    assert [(cell.resolution, cell.pixels, cell.tiles) for cell in measured.cells] == [
        (64, 64, 1),
        (64, 64, 1),
        (100, 128, 4),
        (100, 128, 4),
    ]


def test_rates_and_frames_are_what_the_video_has(measured, report):
    slow, fast, *_ = measured.cells
    assert (slow.fps_found, slow.frames) == (5, 10)  # 2 seconds at 5 per second
    assert (fast.fps, fast.fps_found, fast.frames) == (30, 10, 18)
    notes = " ".join(report.notes)
    assert "10 frames per second" in notes
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
        assert random.share == random.tokens / cell.dense.tokens


def test_arithmetic_is_that_of_the_tokens(measured):
    flops = EncoderFlops.of(tiny.encoder().adapter)
    cell = measured.cells[2]
    alone = [[16]] * (cell.frames * cell.tiles)
    assert cell.dense.flops[Stage.EMBED] == flops.embedding(cell.dense.tokens)
    assert cell.dense.flops[Stage.ENCODE] == flops.encoding(alone, "frame_independent")
    random = cell.gazed[2]
    assert random.flops[Stage.SELECT] == 0
    assert random.flops[Stage.EMBED] == flops.embedding(random.tokens)
    assert cell.gazed[0].flops[Stage.SELECT] > 0


def test_stages_add_up_and_factors_are_ratios(measured):
    for cell in measured.cells:
        assert cell.dense.factor == SpeedUp(1, 1, 1)
        assert cell.dense.seconds[Stage.SELECT].median == 0
        for cost in (cell.dense, *cell.gazed):
            assert cost.factor.least <= cost.factor.median <= cost.factor.largest
            for stage in (Stage.DECODE, Stage.PREPROCESS, Stage.EMBED, Stage.ENCODE):
                assert cost.seconds[stage].fastest > 0
            assert cost.all_stages.fastest >= cost.select_to_encode.fastest


def test_one_ratio_for_all_overrides_the_published_ones(video):
    grid = (["centre"], [10.0], [64])
    report = tiny.encode_report(tiny.encoder(), video, *grid, frames=4, ratio=0.5, repeats=1)
    (cell,) = report.encoders[0].cells
    assert [cost.tokens for cost in cell.gazed] == [4 * 10, 4 * 10]  # floor(0.5 * 21)
    assert [cost.selector for cost in cell.gazed] == ["centre", "random"]


def cost(selector: str, seconds: float, factors: tuple[float, ...] = (1.0,)) -> Cost:
    still = Timing(0.0, 0.0, 0.0)
    return Cost(
        selector=selector,
        ratio=0.1,
        tokens=50,
        share=0.5,
        seconds={**dict.fromkeys(Stage, still), Stage.ENCODE: Timing.of([seconds])},
        select_to_encode=Timing.of([seconds]),
        all_stages=Timing.of([seconds]),
        factor=SpeedUp.of(list(factors)),
        whole_factor=1.0,
        over_share=0.5,
        outcome=outcome(SpeedUp.of(list(factors))),
        flops={Stage.SELECT: 1, Stage.EMBED: 2, Stage.ENCODE: 3},
        peak=dict.fromkeys(Stage, 1),
    )


def test_outcomes():
    assert outcome(SpeedUp.of([1.5, 2.0, 3.0])) == "faster"
    assert outcome(SpeedUp.of([0.5, 0.9])) == "slower"
    assert outcome(SpeedUp.of([0.9, 1.1])) == "undecided"
    gazed = (cost("good", 1, (2.0,)), cost("bad", 1, (0.5,)), cost("even", 1, (0.9, 1.2)))
    cell = CellReport(30, 25, 16, 224, 224, 1, cost("dense", 2.0), gazed)
    words = comparisons(EncoderReport("e", True, "s", ("grouped",), (cell,)))[1]
    assert "30 fps (has 25)" in words
    assert "good 2.00 x faster" in words
    assert "bad 2.00 x SLOWER" in words
    assert re.search(r"\beven undecided \(0\.90 .*1\.20 ", words)


def test_the_tables_say_what_was_measured(report):
    console = Console(width=200, record=True, file=io.StringIO())
    print_report(report, console)
    text = console.export_text()
    assert "block_causal attention (backend: grouped)" in " ".join(text.split())
    for words in ("random weights", "dense", "change", "centre", "GFLOP", "threads", "(has 10)"):
        assert words in text
    assert "5 frames at once" in " ".join(text.split())


def test_the_report_is_json(report):
    values = json.loads(json.dumps(report.to_json()))
    cell = values["encoders"][0]["cells"][0]
    assert cell["dense"]["outcome"] == "undecided"
    assert {row["outcome"] for row in cell["gazed"]} <= {"faster", "slower", "undecided"}
    assert set(cell["gazed"][0]["seconds"]) == {stage.value for stage in Stage}
    assert values["encoders"][0]["backends"] == ["grouped"]
    assert values["notes"]


def test_the_plot_is_drawn(report, tmp_path):
    pytest.importorskip("matplotlib")
    from PIL import Image

    plot_encode(report, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as picture:
        assert min(picture.size) > 400


# Published shares of patches.


def test_published_points_are_met():
    for fps, share in AT_224_PIXELS:
        assert published_ratio(fps, 224) == pytest.approx(share)
    for pixels, share in AT_30_FPS:
        assert published_ratio(30, pixels) == pytest.approx(share)


def test_between_them_more_frames_and_more_pixels_need_less_of_each():
    rates = [published_ratio(fps, 448) for fps in (1, 2, 5, 12, 25, 30)]
    assert rates == sorted(rates, reverse=True)
    sides = [published_ratio(10, pixels) for pixels in (224, 300, 600, 1000, 2000)]
    assert sides == sorted(sides, reverse=True)


def test_rate_and_resolution_are_independent_factors():
    assert published_ratio(1, 896) == pytest.approx(0.205 * 0.040 / 0.069)


def test_outside_the_nearest_published_point_holds():
    assert published_ratio(0.1, 100) == pytest.approx(0.205)
    assert published_ratio(240, 224) == pytest.approx(0.069)


def test_tiles_at_once_follow_the_memory_of_the_encoders_device(monkeypatch, video):
    from autogaze import pipeline
    from autogaze.evaluation.passes import VideoSample
    from autogaze.video.reader import Video

    sample = VideoSample.of(Video(video), 10, 20, 128, 64)
    device = torch.device("cpu")

    def parts() -> list[tuple[int, int]]:
        tiles = BatchSize("tiles", "lower the ratio")
        return list(sample.each(lambda c: tuple(c.frames.shape[:2]), silent, device, tiles))

    assert parts() == [(4, 16), (4, 4)]
    bytes_of_a_tile = 16 * 3 * 64 * 64 * 4
    monkeypatch.setattr(pipeline, "MAX_TILES", 1)
    free = 3.5 * pipeline.COPIES * bytes_of_a_tile / pipeline.GPU_SHARE
    monkeypatch.setattr(pipeline, "free_memory", lambda _: int(free))
    assert parts() == [(3, 16), (1, 16), (4, 4)]


def test_batches_are_halved_where_memory_is_too_small(monkeypatch, video):
    """Tiles to select from, and frames to encode whole; what is measured is the same."""

    def measured():
        return tiny.encode_report(
            tiny.encoder(),
            video,
            *(["random"], [5.0], [128]),
            frames=4,
            repeats=1,
            dense_batch=5,
            attn_type="block_causal",
        )

    def crowded(function, holds):
        def call(self, items, *args, **options):
            if (items.num_clips if hasattr(items, "num_clips") else len(items)) > holds:
                raise torch.OutOfMemoryError("out of memory")
            return function(self, items, *args, **options)

        return call

    expected = measured()
    monkeypatch.setattr(MeasuredSelector, "select", crowded(MeasuredSelector.select, 2))
    monkeypatch.setattr(EncoderAdapter, "dense", crowded(EncoderAdapter.dense, 3))
    found = measured()
    assert (expected.dense_batch, found.dense_batch) == (5, 3)
    for one, other in zip(found.encoders[0].cells, expected.encoders[0].cells, strict=True):
        assert [cost.tokens for cost in one.costs] == [cost.tokens for cost in other.costs]
