"""An unregistered family of models and its adapter: what a user writes, in one file.

Tokens of mean colours, learned positions for any grid, blocks that take their mask as
`seen`, and an output that is a bare tensor.
"""

import torch
import transformers as tf
from torch import nn

from autogaze.vision_encoders import EncoderAdapter


class ToyConfig(tf.PreTrainedConfig if hasattr(tf, "PreTrainedConfig") else tf.PretrainedConfig):
    model_type = "toy-eyes"

    def __init__(self, width=24, patch_size=16, image_size=64, **options):
        super().__init__(**options)
        self.width, self.patch_size, self.image_size = width, patch_size, image_size


class ToyBlock(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.qkv = nn.Linear(config.width, 3 * config.width)

    def forward(self, tokens, seen=None):
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        q, k, v = (x.unflatten(-1, (4, -1)).transpose(1, 2) for x in self.qkv(tokens).chunk(3, -1))
        attend = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
        return tokens + attend(self, q, k, v, seen, scaling=0.5, is_causal=False)[0].flatten(2)


class ToyModel(tf.PreTrainedModel):
    config_class = ToyConfig
    main_input_name = "pixel_values"
    _supports_sdpa = True

    def __init__(self, config):
        super().__init__(config)
        self.colours = nn.Linear(3, config.width)
        self.place = nn.Linear(2, config.width)
        self.blocks = nn.ModuleList([ToyBlock(config), ToyBlock(config)])
        self.post_init()

    def _init_weights(self, module):
        pass

    def places(self, grid):
        steps = (torch.arange(grid) + 0.5) / grid
        return self.place(torch.cartesian_prod(steps, steps))

    def forward(self, pixel_values):
        cells = nn.functional.avg_pool2d(pixel_values, self.config.patch_size)
        tokens = self.colours(cells.flatten(2).transpose(1, 2)) + self.places(cells.shape[-1])
        for block in self.blocks:
            tokens = block(tokens)
        return tokens


class ToyAdapter(EncoderAdapter):
    @property
    def projection(self):
        return self.model.colours

    @property
    def layers(self):
        return self.model.blocks

    def project(self, patches):
        return self.model.colours(patches.mean((2, 3)))

    def positions(self, grid):
        return self.model.places(grid)

    def leave(self, tokens):
        return tokens

    def pool(self, tokens, layout):
        return None
