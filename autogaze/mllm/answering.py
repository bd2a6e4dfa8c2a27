"""Asking a multimodal LLM about a video: model and processor together, tokens and seconds by stage."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autogaze.checks import describe_value, why_absent
from autogaze.errors import MLLMError, first_line
from autogaze.gaze import Gaze
from autogaze.mllm.gazed import gazed_mllm
from autogaze.mllm.processor import GazedProcessor
from autogaze.mllm.prompt import Context
from autogaze.mllm.ranking import kept_gaze
from autogaze.mllm.registry import adapter_class, adapter_of, processor_adapter_of
from autogaze.mllm.units import KeptUnits
from autogaze.mllm.viewing import FRAMES, Viewing, options_of, options_of_nvila
from autogaze.utils.device import DeviceOptions
from autogaze.utils.hub import is_hub_id

NVILA = ("autogaze_mllm", "nvila")
"""`model_type` of NVILA-HD-Video, whose processor gazes by itself."""


@dataclass(frozen=True)
class Seconds:
    """Wall-clock seconds of an answer by stage.

    Args:
        decode: reading frames and making them as large as the model takes them.
        select: choosing units, and cutting them.
        encode: the vision encoder.
        prefill: the LLM on the prompt.
        generate: the LLM on the answer.
    """

    decode: float
    select: float
    encode: float
    prefill: float
    generate: float

    @property
    def total(self) -> float:
        return self.decode + self.select + self.encode + self.prefill + self.generate


@dataclass(frozen=True, eq=False)
class VideoAnswer:
    """An answer and what it cost.

    Args:
        text: the new tokens as text.
        num_tokens: how many those are.
        prompt_tokens: tokens of the LLM's input.
        dense_prompt_tokens: those it would have if everything were kept.
        kept_units, dense_units: units of the video kept, and in all.
        seconds: by stage.
        gaze: what the selector chose of the video; None if no selector chose.
        kept: the units kept; None for NVILA-HD-Video, which keeps all that its gaze chose.
        tubelet: frames that the model encodes together.
        frame_size: width and height in pixels of the frames that the model got; None where they
            are not known.
    """

    text: str
    num_tokens: int
    prompt_tokens: int
    dense_prompt_tokens: int
    kept_units: int
    dense_units: int
    seconds: Seconds
    gaze: Gaze | None
    kept: KeptUnits | None = None
    tubelet: int = 1
    frame_size: tuple[int, int] | None = None

    @property
    def ratio(self) -> float:
        """Kept units as a share of all."""
        return self.kept_units / self.dense_units

    @property
    def seen(self) -> Gaze | None:
        """What the model got, as a gaze to be drawn; None where `gaze` is.

        Raises:
            MLLMError: units that are no cells of the gaze.
        """
        if self.gaze is None or self.kept is None:
            return self.gaze
        return kept_gaze(self.gaze, self.kept, self.tubelet)


class VideoMLLM:
    """A multimodal LLM that answers questions about videos.

        model = VideoMLLM.load("Qwen/Qwen3-VL-2B-Instruct")
        model.ask("video.mp4", "What happens?", Viewing(ratio=0.1)).text

    Args:
        model: a gazed model (`autogaze.gazed_mllm`), or NVILA-HD-Video.
        processor: its `GazedProcessor`, or NVILA's own.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor
        self._is_nvila = model.config.model_type in NVILA

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        device: str | torch.device = "auto",
        dtype: torch.dtype | str = "auto",
        **options: Any,
    ) -> "VideoMLLM":
        """Load model and processor of a folder or hub id.

        Args:
            name: folder or hub id of a family in `autogaze.list_mllms()`, or of NVILA-HD-Video.
            device: where the model runs and selectors choose: "auto" (a CUDA GPU where there is one), "cpu", ...
            dtype: of its weights; "auto": as they were saved.
            options: transformers' (`revision`, `token`, `local_files_only`).

        Raises:
            MLLMError: no such model, no adapter for its family, or no processor.
        """
        import autogaze.mllm.nvila as nvila  # registers its model type

        device = DeviceOptions.parse(device).device
        config = _read_config(name, options)
        if config.model_type in NVILA:
            model = nvila.AutoGazeMLLM.from_pretrained(name, dtype=dtype, **options)
            of_nvila = nvila.AutoGazeMLLMProcessor.from_pretrained(name, **options)
            return cls(model.to(device).eval(), of_nvila.to(device))
        adapter_class(config)  # refuses a family without one, before weights are read
        processor = GazedProcessor.from_pretrained(name, **options)
        model = gazed_mllm(name, dtype=dtype, **options)
        return cls(model.to(device).eval(), processor.to(device))

    def ask(
        self,
        video: Any,
        question: str,
        viewing: Viewing | None = None,
        *,
        max_new_tokens: int = 64,
        streamer: Any = None,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> VideoAnswer:
        """Answer a question about one video; greedily, unless `options` say otherwise.

        The prompt is the chat template's with video and question as the two parts of the user's
        message; for NVILA the video, a blank line and the question.

        Args:
            video: a path, or decoded frames.
            question: as it is.
            viewing: what is seen; by default the processor's own settings.
            max_new_tokens: the most tokens of the answer.
            streamer: of transformers, gets the tokens as they come.
            generator: source of randomness of the selector.
            options: of transformers' `generate`.

        Raises:
            MLLMError: the question holds a token that stands for a video or image.
            MLLMError, VideoError, SelectorError: see `GazedProcessor` and `GazedMLLM`.
        """
        self._check_question(question)
        if self._is_nvila:
            inputs = self._prepared_nvila(video, question, viewing, generator)
        else:
            inputs = self._prepared(video, question, viewing, generator, max_new_tokens)
        clock = _StageClock(self.model.device)
        with clock.watching(self._text_model):
            ids = self.model.generate(
                **inputs,
                max_new_tokens=max_new_tokens,
                do_sample=options.pop("do_sample", False),
                streamer=streamer,
                **options,
            )
            clock.stop()
        new = ids[0, inputs["input_ids"].shape[1] :]
        report, spent = inputs.report, inputs.report.seconds
        (visual,) = report.visuals
        kept, tubelet = None, 1
        if not self._is_nvila:
            kept = inputs["gazed"].visuals[0].kept
            tubelet = processor_adapter_of(self.processor.stock).form("video").tubelet
        return VideoAnswer(
            text=self.processor.tokenizer.decode(new, skip_special_tokens=True).strip(),
            num_tokens=len(new),
            prompt_tokens=report.tokens[0],
            dense_prompt_tokens=report.dense_tokens[0],
            kept_units=visual.kept_units,
            dense_units=visual.dense_units,
            seconds=Seconds(
                spent.decode + spent.resize,
                spent.select + spent.cut + spent.write,
                *clock.stages,
            ),
            gaze=None if viewing is not None and viewing.dense else inputs.gazes[0],
            kept=kept,
            tubelet=tubelet,
            frame_size=(visual.width, visual.height),
        )

    @property
    def selects(self) -> bool:
        """Whether a selector chooses where none is named: NVILA's own, or that of the processor."""
        return self._is_nvila or self.processor.settings.selector is not None

    @property
    def _text_model(self) -> nn.Module:
        return self.model.llm if self._is_nvila else adapter_of(self.model).text_model

    def _check_question(self, question: Any) -> None:
        """Raise `MLLMError` where a question holds what stands for a video or image in prompts."""
        if not isinstance(question, str):
            raise MLLMError(f"the question must be text, got {describe_value(question)}")
        if self._is_nvila:
            tokens = {self.processor.video_token}
        else:
            adapter = processor_adapter_of(self.processor.stock)
            tokens = {
                name(kind)
                for kind in adapter.tokens
                for name in (adapter.placeholder, adapter.unit_token)
            }
        found = sorted(token for token in tokens if token in question)
        if found:
            raise MLLMError(
                f"the question holds {', '.join(found)}, a special token of the model that stands for "
                "a video or image; write it in other words"
            )

    def _prepared(
        self,
        video: Any,
        question: str,
        viewing: Viewing | None,
        generator: Any,
        new_tokens: int,
    ) -> Any:
        """Arguments of `generate`, with a report."""
        processor: GazedProcessor = self.processor
        if processor.chat_template is None:
            raise MLLMError(
                "the checkpoint has no chat template, by which a question is asked; put one beside it "
                "(chat_template.jinja), or write the prompt and call model and processor yourself"
            )
        options: dict[str, Any] = {"generator": generator}
        if viewing is not None:
            options |= options_of(viewing)
        settings = processor.settings
        asked = (options.get("max_frames"), settings.num_frames, settings.fps, settings.max_frames)
        takes_all = processor_adapter_of(processor.stock).takes_all_frames
        if takes_all and isinstance(video, str | Path) and not any(asked):
            options["max_frames"] = FRAMES
        limit = getattr(adapter_of(self.model).text_config, "max_position_embeddings", None)
        if limit is not None:
            options["context"] = Context(limit, new_tokens)
        parts = [{"type": "video", "video": video}, {"type": "text", "text": question}]
        return processor.apply_chat_template(
            [{"role": "user", "content": parts}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            **options,
        ).to(self.model.device)

    def _prepared_nvila(
        self, video: Any, question: str, viewing: Viewing | None, generator: Any
    ) -> Any:
        """The same by NVILA's own processor."""
        options: dict[str, Any] = {}
        if viewing is not None:
            options = options_of_nvila(viewing, self.processor)
        return self.processor(
            text=self.processor.prompt(question), videos=[video], generator=generator, **options
        )


class _StageClock:
    """When the text model is called first, when it returns, and when all is done."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.marks: list[float] = []

    @contextmanager
    def watching(self, text_model: nn.Module) -> Iterator[None]:
        """Mark the first call of the text model."""
        self._mark()
        handles = [
            text_model.register_forward_pre_hook(lambda *_: self._mark(before=2)),
            text_model.register_forward_hook(lambda *_: self._mark(before=3)),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def stop(self) -> None:
        """Mark the end."""
        self._mark()

    @property
    def stages(self) -> tuple[float, float, float]:
        """Seconds until the text model was called, of its first call, and after."""
        start, called, returned, end = self.marks
        return called - start, returned - called, end - returned

    def _mark(self, before: int = 4) -> None:
        if len(self.marks) >= before:
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.marks.append(time.perf_counter())


def _read_config(name: str | Path, options: dict[str, Any]) -> Any:
    """The configuration of a checkpoint."""
    from transformers import AutoConfig

    is_folder = Path(name).is_dir()
    if not is_folder and not is_hub_id(str(name)):
        raise MLLMError(f"{name}: {why_absent(name, 'folder')}, and this is no hub id")
    try:
        return AutoConfig.from_pretrained(name, **options)
    except (OSError, ValueError, KeyError) as error:
        what = "there is no such folder here, so it was taken for a hub id, and no model is found"
        if is_folder:
            what = "its config.json is of no model that transformers knows"
        raise MLLMError(f"{name}: {what} ({first_line(error)})") from error
