"""Options as the command line of training puts them together."""

from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from tests.training.tiny import MODEL, VIDEO_MAE


def compose_options(name, *overrides):
    """The groups of a shipped configuration, overridden."""
    with initialize_config_module("autogaze.configs", version_base="1.3"):
        config = compose(name, overrides=list(overrides))
    options = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    return {group: values for group, values in options.items() if group != "hydra"}


def overrides_of(values, prefix):
    """A tree of options as overrides, one a leaf."""
    found = []
    for name, value in values.items():
        if isinstance(value, dict):
            found += overrides_of(value, f"{prefix}.{name}")
        else:
            found.append(f"{prefix}.{name}={value}")
    return found


SHORT = [f"trainer.{option}" for option in ("max_steps=2", "batch_size=2", "val_clips=2")]
SHORT += ["trainer.num_workers=0", "trainer.device=cpu", "trainer.log_nsteps=1"]
SMALL = overrides_of(MODEL, "model")
SMALL.append("model.gaze_model_config.gaze_decoder_config.num_key_value_heads=2")
"""20 patches of 64-pixel frames; weights by the ten thousand."""
SMALL_VIDEO_MAE = overrides_of(VIDEO_MAE["recon_model_config"], "task.recon_model_config")
