"""The work of `autogaze judge`: a gaze and its video joined, reconstructed, compared."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from autogaze.cli.judge_report import JudgeReport
from autogaze.cli.progress import progress_bar
from autogaze.errors import CheckpointError, GeometryError, OutputError, VideoError
from autogaze.gaze import Gaze
from autogaze.pipeline import GazedChunk, GazedVideo
from autogaze.rendering.judged_sheet import Judged, JudgedSheet
from autogaze.tasks.verdict import reach_verdict
from autogaze.tasks.video_mae_reconstruction import VideoMAEReconstruction
from autogaze.utils.device import Place, give_back
from autogaze.utils.files import check_writable, replacing

MAX_CLIPS = 4
"""Clips that are reconstructed at once."""

DIFFERENCE = 1e-3
"""What canvas losses of the same frames may differ by between machines and decoders."""


@dataclass(frozen=True, eq=False)
class Judging:
    """Which gaze is judged, by whom.

    Attributes:
        gaze_file: where its gaze was read.
        judge: the name it was asked for by.
        picture: a file to write.
    """

    video: GazedVideo
    gaze_file: Path
    task: VideoMAEReconstruction
    judge: str
    picture: Path | None = None

    @classmethod
    def parse(
        cls,
        *,
        video: str,
        gaze: Path,
        judge: str,
        loss_type: str,
        loss_weights: str | None,
        picture: Path | None,
        device: str,
    ) -> "Judging":
        """From what the command line says.

        Raises:
            AutoGazeError: files that cannot be used or do not belong together, or a judge that
                is not there or judges other gazes.
            MissingExtraError: a term's network is not installed.
        """
        if judge == "canvas":
            raise CheckpointError(
                "--judge canvas: the canvas always judges too; name a VideoMAE beside it, such as "
                "learned"
            )
        if picture is not None:
            if picture.suffix.lower() != ".png":
                raise OutputError(f"--picture {picture}: the name must end in .png")
            if picture.resolve() in (Path(video).resolve(), gaze.resolve()):
                raise OutputError(f"--picture {picture}: is the input itself, choose another file")
            check_writable(picture)
        place = Place.parse(device, "float32")
        gazed = GazedVideo(video, Gaze.load(gaze))
        if loss_weights is None and "+" not in loss_type:
            loss_weights = "1"
        task = VideoMAEReconstruction.from_checkpoint(
            judge, loss_type=loss_type, loss_weights=loss_weights
        )
        if task.pyramid != gazed.gaze.pyramid:
            raise GeometryError(
                f"{gaze}: chose from {gazed.gaze.pyramid}, but --judge {judge} judges gazes of "
                f"{task.pyramid}"
            )
        longest = min(gazed.source.chunk, gazed.gaze.num_frames)
        if longest > task.mae.config.max_num_frames:
            raise GeometryError(
                f"{gaze}: was made in chunks of {longest} frames, but --judge {judge} knows at "
                f"most {task.mae.config.max_num_frames}; give a judge of longer clips"
            )
        return cls(gazed, gaze, task.to(place.device).eval(), judge, picture)

    def run(self) -> JudgeReport:
        """Judge every tile of every chunk; the picture is written in the end.

        Raises:
            VideoError: frames that cannot be read, or that are not those gazed at.
            OutputError: a picture that cannot be written.
        """
        gaze, source = self.video.gaze, self.video.source
        sheet = None if self.picture is None else JudgedSheet(gaze, source, self.judge)
        found, first = [], 0
        num_clips = gaze.num_clips * self.video.num_chunks
        with progress_bar("judging", num_clips, "clips") as advance:
            for chunk in self.video:
                shown = sheet.places(first, chunk.gaze.num_frames) if sheet else []
                judged = self._judge(chunk, shown, advance)
                self._check_frames(chunk, judged.errors[0, 0])
                if sheet and shown:
                    sheet.add(chunk, shown, judged.canvas, judged.reconstruction)
                found.append(judged.errors)
                first += chunk.gaze.num_frames
                give_back()
        recipe = self.task.losses.recipe
        files = str(self.video.path), str(self.gaze_file)
        errors = torch.cat(found, dim=3)
        report = JudgeReport.of(files, self.judge, recipe, gaze, source, errors)
        if sheet and self.picture is not None:
            with replacing(self.picture) as temporary:
                image = sheet.image(self.video.path.name, report.one_line())
                image.save(temporary, format="PNG")
        return report

    def _judge(
        self, chunk: GazedChunk, shown: Sequence[int], advance: Callable[[int], None]
    ) -> "_JudgedChunk":
        """All tiles of a chunk, a few at a time; pictures of some frames only."""
        errors, canvas, reconstruction = [], [], []
        for start in range(0, chunk.gaze.num_clips, MAX_CLIPS):
            tiles = range(start, min(start + MAX_CLIPS, chunk.gaze.num_clips))
            gaze = Gaze.cat_clips([chunk.gaze[tile] for tile in tiles])
            verdict = reach_verdict(self.task, chunk.frames[start : tiles.stop], gaze)
            errors.append(verdict.errors.cpu())
            canvas.append(verdict.canvas.pictures[:, shown].cpu())
            reconstruction.append(verdict.reconstruction.pictures[:, shown].cpu())
            advance(len(tiles))
        whole = torch.cat(errors, dim=2)
        l1 = whole[:, 0].mean(1)[:, shown]  # (3, shown)
        return _JudgedChunk(
            whole, Judged(torch.cat(canvas), l1[0]), Judged(torch.cat(reconstruction), l1[2])
        )

    def _check_frames(self, chunk: GazedChunk, canvas: Float[Tensor, "tiles T"]) -> None:
        """Raise VideoError if the canvas' losses are not those that the gaze's file tells."""
        told = chunk.gaze.losses
        if told is None or chunk.gaze.metric != "canvas":
            return
        away = (canvas - told).abs()
        if float(away.max()) > DIFFERENCE:
            tile, place = divmod(int(away.argmax()), chunk.gaze.num_frames)
            raise VideoError(
                f"{self.video.path}: shows other frames than the gaze was made at: the canvas loses "
                f"{float(canvas[tile, place]):.4f} in frame {chunk.source.frame_indices[place]}, but "
                f"lost {float(told[tile, place]):.4f} then; give the very file that it was made "
                f"at{self.video.called}"
            )


@dataclass(frozen=True)
class _JudgedChunk:
    """`errors`: see `Verdict.errors`, for all tiles; the pictures of the frames that are shown."""

    errors: Float[Tensor, "3 2 tiles T"]
    canvas: Judged
    reconstruction: Judged
