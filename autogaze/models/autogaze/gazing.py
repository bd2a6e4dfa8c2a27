"""The learned selector without transformers: a configuration, its network, and the gaze loop.

Importing transformers' models takes seconds and 170 MiB, half of them Triton and PyTorch's compiler,
of which choosing patches on a CPU needs nothing. So weights in a folder are loaded without them.
"""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from autogaze.geometry import PatchPyramid
from autogaze.models.autogaze.configuration import AutoGazeConfig
from autogaze.models.autogaze.limits import Caps, Threshold
from autogaze.models.autogaze.published import PublishedGazeModel
from autogaze.models.autogaze.rows import GazeRows
from autogaze.models.autogaze.sampling import Sampling
from autogaze.models.autogaze.streaming import ClipStream, check_video
from autogaze.utils.checkpoints import load_strictly, read_state


class Gazing:
    """Gazes at videos by the network `gazing_model`, as `config` asks for.

    Attributes:
        memory_budget: bytes that gazing at one micro-batch of clips may take; None: 1 GiB on a
            CPU, on a GPU half of what is free (`streaming.budget_of`).
        static_shapes: gaze with shapes that never change, which a GPU replays as CUDA graphs
            (`autogaze.utils.cuda_graphs`); None: on a GPU. The gazes are the same.
    """

    config: AutoGazeConfig
    gazing_model: PublishedGazeModel
    training: bool
    memory_budget: int | None = None
    static_shapes: bool | None = None

    @property
    def pyramid(self) -> PatchPyramid:
        return self.config.pyramid

    def stream(
        self,
        num_clips: int,
        *,
        num_frames: int = 1,
        cap: int | None = None,
        repetitions: int = 1,
        once: bool = False,
    ) -> ClipStream:
        """Start gazing at `num_clips` clips whose frames arrive one by one or all at once.

        Args:
            once: all frames come in one step, so that nothing is kept for a next one.
        """
        on_gpu = self.gazing_model.connector.pos_embed.device.type == "cuda"
        return ClipStream(
            self.gazing_model,
            self.config,
            num_clips,
            num_frames=num_frames,
            cap=cap,
            memory_budget=self.memory_budget,
            repetitions=repetitions,
            static_shapes=on_gpu if self.static_shapes is None else self.static_shapes,
            once=once,
        )

    def generate(
        self,
        video: Float[Tensor, "B T 3 H W"],
        *,
        caps: Caps | None = None,
        threshold: Threshold | None = None,
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
        stream: ClipStream | None = None,
        repetitions: int = 1,
    ) -> GazeRows:
        """Gaze at every frame; a row's gaze does not depend on the rest of its batch.

        It is computed in the weights' own precision, also under autocast.

        Args:
            caps: the most patches per frame, or (rows, T) where every row has its own;
                None is V for all.
            threshold: stop a frame where the predicted loss is at most this; a number,
                one per row, or (rows, T).
            sampling: likeliest patches, or sampling at a temperature.
            stream: stream to continue; None starts a new one.
            repetitions: rows per clip of a new stream; row = repetition * B + clip.
        """
        check_video(video)
        B, T = video.shape[:2]
        if stream is None:
            stream = self.stream(
                B, num_frames=T, cap=_mean_cap(caps), repetitions=repetitions, once=True
            )
        else:
            stream.check_model(self.gazing_model, self.config)
        return stream.step(video, caps=caps, threshold=threshold, sampling=sampling)


class PlainAutoGaze(Gazing, nn.Module):
    """The network with its configuration, without transformers; `AutoGaze.of` adds the rest."""

    def __init__(self, config: AutoGazeConfig) -> None:
        super().__init__()
        self.config = config
        self.gazing_model = PublishedGazeModel(config)

    @property
    def device(self) -> torch.device:
        return self.gazing_model.connector.pos_embed.device

    @property
    def dtype(self) -> torch.dtype:
        return self.gazing_model.connector.pos_embed.dtype

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype | None = None) -> "PlainAutoGaze":
        """The weights of a folder, in a precision; None: that of its config.json, or of its weights.

        Raises:
            CheckpointError: weights that cannot be read, or do not fit the architecture.
        """
        config = AutoGazeConfig.from_pretrained(str(folder))
        config.name_or_path = str(folder)  # as transformers does
        with torch.device("meta"), _Undrawn():
            model = cls(config)  # whatever sizes a config.json asks for, nothing is allocated
        state = read_state(folder)
        stored = next((value.dtype for value in state.values() if value.is_floating_point()), None)
        config.dtype = dtype or config.dtype or stored
        # Copied, so that a file that changes later does not matter.
        state = {name: value.to(config.dtype, copy=True) for name, value in state.items()}
        hint = "They must be those of its config.json"
        load_strictly(model, state, folder, hint=hint, replace=True)
        return model.eval()


class _Undrawn(TorchFunctionMode):
    """Draws no initial weights: on the meta device PyTorch's compiler would be imported for it."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__module__", None) == nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


def _mean_cap(caps: Caps | None) -> int | None:
    """Patches per frame that caches need room for, rounded up: slots are shared by all rows."""
    if caps is None:
        return None
    most = caps.amax(0).tolist() if isinstance(caps, Tensor) else list(caps)
    return -(-sum(most) // max(1, len(most)))
