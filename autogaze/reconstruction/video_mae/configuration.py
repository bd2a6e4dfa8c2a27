"""Configuration of VideoMAE, in the names of transformers' ViT-MAE."""

from dataclasses import dataclass, fields
from typing import Any

from autogaze.checks import describe_value, is_finite, whole
from autogaze.errors import CheckpointError
from autogaze.geometry import PatchPyramid

MAX_LAYERS, MAX_PARAMETERS = 256, 2**31
"""The most layers and parameters of a VideoMAE: seven times those of the largest ViT-MAE, ViT-H."""


@dataclass(frozen=True)
class VideoMAEConfig:
    """Architecture of a VideoMAE: an image MAE with embeddings of scale and time.

    `hidden_size` and all that follows is as in transformers' `ViTMAEConfig`.

    Args:
        scales: sides in pixels as AutoGaze writes them; the last is the image's own.
        max_num_frames: number of time embeddings.
        image_size: side that the position tables are for.

    Raises:
        CheckpointError: widths that heads, or 4, do not divide.
        GeometryError: scales that do not fit the patch size.
    """

    scales: str = "32+64+112+224"
    max_num_frames: int = 256
    image_size: int = 224
    patch_size: int = 16
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    decoder_hidden_size: int = 512
    decoder_num_hidden_layers: int = 8
    decoder_num_attention_heads: int = 16
    decoder_intermediate_size: int = 2048
    layer_norm_eps: float = 1e-12

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            counts = isinstance(field.default, int)
            if counts and (whole(value) is None or not 1 <= value <= 2**16):
                raise CheckpointError(
                    f"{field.name} of a VideoMAE must be a whole number from 1 to 65536, got "
                    f"{describe_value(value)}"
                )
        if not (is_finite(self.layer_norm_eps) and self.layer_norm_eps >= 0):
            raise CheckpointError(
                f"layer_norm_eps of a VideoMAE must be finite, got {describe_value(self.layer_norm_eps)}"
            )
        for name in ("", "decoder_"):
            width = getattr(self, f"{name}hidden_size")
            heads = getattr(self, f"{name}num_attention_heads")
            if width % heads:
                raise CheckpointError(f"{name}hidden_size {width} is no multiple of {heads} heads")
            if width % 4:
                raise CheckpointError(
                    f"{name}hidden_size {width} is no multiple of 4: positions are sines and cosines of "
                    "two axes"
                )
        _ = self.pyramid  # raises where scales and patch size disagree
        if (count := self._num_parameters()) > MAX_PARAMETERS:
            raise CheckpointError(
                f"a VideoMAE of these sizes has {count:,} parameters; at most {MAX_PARAMETERS:,} are "
                "possible"
            )

    @classmethod
    def of(cls, values: dict[str, Any]) -> "VideoMAEConfig":
        """The configuration of a file's values; unknown keys are ignored.

        Raises:
            CheckpointError: a value of the wrong type.
        """
        kinds: dict[str, type] = {field.name: type(field.default) for field in fields(cls)}
        known = {name: value for name, value in values.items() if name in kinds}
        for name, value in known.items():
            if type(value) is not kinds[name]:
                raise CheckpointError(
                    f"{name} of a VideoMAE must be of type {kinds[name].__name__}, got {describe_value(value)}"
                )
        return cls(**known)

    def _num_parameters(self) -> int:
        """Number of weights but for biases and norms."""
        width, inner = self.hidden_size, self.decoder_hidden_size
        positions = self.num_positions + self.max_num_frames
        return (
            self.num_hidden_layers * (4 * width**2 + 2 * width * self.intermediate_size)
            + self.decoder_num_hidden_layers
            * (4 * inner**2 + 2 * inner * self.decoder_intermediate_size)
            + (width + inner) * (3 * self.patch_size**2 + positions)
            + width * inner
        )

    @property
    def pyramid(self) -> PatchPyramid:
        return PatchPyramid.parse(self.scales, self.patch_size)

    @property
    def num_positions(self) -> int:
        """Cells of the position tables, without the class token's."""
        return (self.image_size // self.patch_size) ** 2
