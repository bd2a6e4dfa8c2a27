"""What the user asked `autogaze bench fidelity` for, checked before anything slow, and done."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from autogaze.clips import check_ratio
from autogaze.errors import VideoError
from autogaze.evaluation.choosers import check_choosers, check_motion_wanted
from autogaze.evaluation.encoders import check_encoders, run_adapter_files
from autogaze.evaluation.fidelity import FidelityOptions, bench_fidelity
from autogaze.evaluation.fidelity_report import plot_fidelity, print_report
from autogaze.evaluation.passes import sample_video
from autogaze.evaluation.progress import progress
from autogaze.evaluation.timing import hardware
from autogaze.rendering.plot_style import check_plot
from autogaze.utils.device import Place
from autogaze.utils.files import check_output, write_json
from autogaze.video.chunks import ChunkReader

SELECTORS = ("greedy", "run-length", "change")
RATIOS = (0.02, 0.05, 0.1, 0.2, 0.4)
SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".flv")


@dataclass(frozen=True)
class FidelityJob:
    """One run of `autogaze bench fidelity`; `json` and `plot` are files to write."""

    videos: tuple[str, ...]
    options: FidelityOptions
    place: Place
    json: Path | None
    plot: Path | None

    @classmethod
    def parse(
        cls,
        *,
        videos: Sequence[str] | None = None,
        encoder: str = "siglip2-base-patch16-224",
        adapters: Sequence[str] | None = None,
        selectors: Sequence[str] | None = None,
        ratios: Sequence[float] | None = None,
        attention: str = "frame_independent",
        clips: int = 4,
        fps: float | None = None,
        tiles: str = "one",
        device: str = "cpu",
        dtype: str = "float32",
        json: str | None = None,
        plot: str | None = None,
    ) -> "FidelityJob":
        """Fill in defaults; raises AutoGazeError for what cannot be measured or written."""
        options = FidelityOptions(
            encoder=encoder,
            selectors=tuple(selectors or SELECTORS),
            ratios=tuple(ratios or RATIOS),
            attn_type=attention,
            clips=clips,
            fps=fps,
            tiles=tiles,
        )
        for ratio in options.ratios:
            check_ratio(ratio)
        run_adapter_files(adapters or ())
        check_encoders([encoder])
        check_choosers(options.selectors)
        if plot is not None:
            check_plot(plot)
        if json is not None:
            check_output(json, ".json", "--json")
        paths = find_videos(videos) if videos else (str(sample_video()),)
        # Opens every file, and tells whether rate and tiles can be had of it.
        infos = [ChunkReader(path, tiles=tiles, fps=fps).info for path in paths]
        check_motion_wanted(options.selectors, infos)
        place = Place.parse(device, dtype)
        files = (Path(name) if name is not None else None for name in (json, plot))
        return cls(paths, options, place, *files)


def find_videos(given: Sequence[str]) -> tuple[str, ...]:
    """Files as they are, and the videos in folders, by name; each once."""
    found: list[str] = []
    for name in given:
        path = Path(name)
        if not path.is_dir():
            found.append(name)
            continue
        inside = [str(p) for p in sorted(path.iterdir()) if p.suffix.lower() in SUFFIXES]
        if not inside:
            raise VideoError(f"{path}: no videos in this folder ({', '.join(SUFFIXES)})")
        found += inside
    return tuple(dict.fromkeys(found))


def run_job(job: FidelityJob, console: Console) -> None:
    """Compare, print the table, write files."""
    with progress(job.options.num_steps) as step:
        report = bench_fidelity(job.videos, job.options, job.place, step)
    print_report(report, console)
    if job.plot is not None:
        plot_fidelity(report, job.plot)
    if job.json is not None:
        write_json(job.json, {"hardware": hardware(job.place.device), **report.to_json()})
