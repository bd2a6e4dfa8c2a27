"""SigLIP feature reconstruction: what an encoder saw of the gaze must tell what it sees of all."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F

from autogaze.errors import CheckpointError
from autogaze.gaze import Gaze
from autogaze.geometry import PatchPyramid
from autogaze.tasks.base import Task, TaskOutput
from autogaze.tasks.feature_decoder import FeatureDecoder
from autogaze.tasks.frame_losses import HALF, Normalise
from autogaze.vision_encoders.gazed import gazed
from autogaze.vision_encoders.layout import AttentionType


class SiglipVideoFeatureReconstruction(Task):
    """Loss of a frame: mean squared difference of dense features and those predicted of gazed ones.

    The frozen encoder looks twice: densely at the judged frames, as ever (the target, its
    `last_hidden_state`, every feature normalised to mean 0 and variance 1), and at the
    gazed patches of all frames up to them. A small decoder, the only thing that trains,
    predicts the former from the latter. Predicting nothing costs 1.

    Args:
        encoder: a transformers SiglipVisionModel.
        scales: of the gazes; the largest is the side of the frames.
        decoder: options of `FeatureDecoder`.
        attn_type: see `autogaze.gazed`.
        recon_sample_rate: see `Task`.
    """

    judge = "SigLIP features"

    def __init__(
        self,
        encoder: nn.Module,
        scales: str | tuple[int, ...] = "32+64+112+224",
        *,
        decoder: dict[str, Any] | None = None,
        attn_type: AttentionType = "block_causal",
        recon_sample_rate: float = 0.125,
    ) -> None:
        seen = gazed(encoder, attn_type=attn_type, empty_frames="hold")
        pyramid = PatchPyramid.parse(scales, seen.patch_size, crop=True)
        super().__init__(pyramid, recon_sample_rate)
        self.encoder = seen.eval().requires_grad_(False)
        self.decoder = FeatureDecoder(pyramid, seen.config.hidden_size, **(decoder or {}))
        self.normalise = Normalise(HALF, HALF)

    @classmethod
    def from_pretrained(
        cls, name: str = "google/siglip2-base-patch16-224", **options: Any
    ) -> "SiglipVideoFeatureReconstruction":
        """With the encoder of a folder or hub id; options are those of the class.

        Raises:
            CheckpointError: there is none, or it cannot be fetched or read.
        """
        from transformers import SiglipVisionModel

        try:
            encoder = SiglipVisionModel.from_pretrained(name)
        except (OSError, ValueError, SafetensorError) as error:
            cause = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise CheckpointError(
                f"task.encoder={name}: the SigLIP encoder can be neither read here nor fetched "
                f"from the Hugging Face hub ({cause}); give the path of a folder that holds it"
            ) from error
        return cls(encoder, **options)

    def train(self, mode: bool = True) -> "SiglipVideoFeatureReconstruction":
        """The encoder is frozen and never trains."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(
        self, frames: Float[Tensor, "B T 3 S S"], gaze: Gaze, judged: Sequence[int]
    ) -> TaskOutput:
        self.check_fit(frames, gaze)
        order = sorted(set(judged))
        places = [order.index(frame) for frame in judged]
        last = order[-1] + 1  # nobody sees later frames
        pixels, seen = self.normalise(frames[:, :last]), gaze.frames(0, last)
        with torch.no_grad():
            wanted = self.dense(pixels[:, order])
            known = self.encoder(pixels, seen).last_hidden_state
        made = self.decoder(known, seen, order)
        losses = (made - wanted).square().mean((2, 3))[:, places]
        # Pictures cost more than they tell in a training step.
        if self.training:
            return TaskOutput(tuple(judged), losses)
        shown = feature_picture(wanted, made, self.pyramid.side)[:, places]
        return TaskOutput(tuple(judged), losses, shown)

    def dense(self, pixels: Float[Tensor, "B F 3 S S"]) -> Float[Tensor, "B F cells C"]:
        """The targets: normalised features of whole frames."""
        options = {}
        if pixels.shape[-1] != self.encoder.config.image_size:
            options["interpolate_pos_encoding"] = True
        features = self.encoder.model(pixels.flatten(0, 1), **options).last_hidden_state
        features = F.layer_norm(features, features.shape[-1:])
        return features.unflatten(0, pixels.shape[:2])


@torch.no_grad()
def feature_picture(
    wanted: Float[Tensor, "B F cells C"], made: Float[Tensor, "B F cells C"], side: int
) -> Float[Tensor, "B F 3 {side} {side}"]:
    """Wanted features above, predicted ones below, each squeezed to half the height.

    Colours are the three main directions of a clip's wanted features (PCA).
    """
    grid = round(wanted.shape[2] ** 0.5)
    upper = side // 2
    clips = []
    for target, guess in zip(wanted.float(), made.float(), strict=True):
        flat = target.flatten(0, 1)
        mean = flat.mean(0)
        _, axes = torch.linalg.eigh((flat - mean).T @ (flat - mean))  # draws no random numbers
        main = axes[:, -3:]
        spread = ((flat - mean) @ main).abs().amax(0).clamp(min=1e-6)
        halves = [
            F.interpolate(
                ((features - mean) @ main / spread / 2 + 0.5).mT.unflatten(2, (grid, grid)),
                (height, side),
            )
            for features, height in ((target, upper), (guess, side - upper))
        ]
        clips.append(torch.cat(halves, dim=2).clamp(0, 1))
    return torch.stack(clips)
