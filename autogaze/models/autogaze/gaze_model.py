"""The network: vision stem, connector and gaze decoder, under the checkpoint's names."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from autogaze.models.autogaze.configuration import ConnectorConfig, GazeModelConfig
from autogaze.models.autogaze.decoder import GazeDecoder
from autogaze.models.autogaze.grid_adaptation import resize_clip
from autogaze.models.autogaze.vision import ConvHistory, VisionStem


class Connector(nn.Module):
    """Position embedding of vision tokens."""

    def __init__(self, config: ConnectorConfig) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(config.num_tokens, config.hidden_dim))


class GazeModel(nn.Module):
    """All parts that carry weights."""

    def __init__(self, config: GazeModelConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_model = VisionStem(config.vision_model_config)
        self.connector = Connector(config.connector_config)
        self.gaze_decoder = GazeDecoder(config.gaze_decoder_config)

    def vision_tokens(
        self, video: Float[Tensor, "B T 3 H W"], history: ConvHistory | None = None
    ) -> tuple[Float[Tensor, "B T tokens C"], ConvHistory]:
        """Tokens of normalised frames with their positions, and the history the next frames need."""
        positions = self.connector.pos_embed  # (tokens, C)
        video = resize_clip(video, self.config.input_img_size).to(positions.dtype)
        tokens, history = self.vision_model(video, history)
        return tokens + positions, history
