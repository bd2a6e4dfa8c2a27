"""`autogaze.GazedProcessor`: prompts with videos and images, of which only kept units are left."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from autogaze.checks import as_path
from autogaze.errors import MLLMError
from autogaze.gaze import Gaze
from autogaze.mllm.adapter import GazedPrompt
from autogaze.mllm.checks import check_choice, check_kind, refuse_misspelt, refuse_unknown
from autogaze.mllm.gaze_settings import GazeSettings
from autogaze.mllm.gazed_visual import GazedImage, GazedVisual, PreparedVisual
from autogaze.mllm.processor_output import GazedInputs, GazedReport, StageClock
from autogaze.mllm.prompt import Context, Kind, assemble
from autogaze.mllm.prompt_text import (
    Place,
    as_batch,
    as_list,
    as_texts,
    check_before_reading,
    check_per_prompt,
    counts_per_prompt,
    has_video,
    padding_id,
    per_video,
    places_of,
    visuals_of,
    write_rows,
)
from autogaze.mllm.ranking import Mapping
from autogaze.mllm.registry import processor_adapter_of
from autogaze.mllm.same_video import load_gaze, refuse_loss
from autogaze.mllm.sampled_video import FrameSource
from autogaze.mllm.selection import unit_selector
from autogaze.mllm.stock_processor import (
    GAZE_CONFIG,
    StockProcessor,
    of_checkpoint,
    of_processor,
    write_json,
)
from autogaze.mllm.unit_choice import choose_units
from autogaze.selectors.base import Selector
from autogaze.utils.device import DeviceOptions
from autogaze.utils.hub import HUB_OPTIONS

_TEXT_OPTIONS = ("add_special_tokens",)
_CALL_OPTIONS = (
    *GazeSettings.names(),
    *_TEXT_OPTIONS,
    "context",
    "gaze",
    "generator",
    "do_sample_frames",
    "video_metadata",
    "padding",
    "padding_side",
    "return_tensors",
)


class GazedProcessor:
    """A processor of a multimodal LLM that keeps the units of videos which a selector chooses.

        processor = autogaze.GazedProcessor.from_pretrained(folder, selector="greedy", ratio=0.1)
        inputs = processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True
        )
        print(inputs.report)
        model.generate(**inputs.to(model.device))  # a gazed_mllm

    It decodes, samples, selects, cuts and writes the prompt by itself, as the family's own processor
    would for dense videos, and needs no torchvision.

    Args:
        processor: the family's own, or parts of one (`autogaze.mllm.stock_processor`).
        selector: a `Selector`, or what `autogaze.load` takes; None keeps everything.
        ratio: cap on the kept units of every tubelet, in (0, 1].
        loss: stop a frame as soon as its loss is at most this, in units of the selector's metric.
        max_vision_tokens: the most units of a whole prompt. Frames are then as large as their
            source, unless a ratio is given too.
        units: how patches become units: "finest", "scales" or "union".
        options: further ones of `autogaze.mllm.gaze_settings.GazeSettings`: `resolution`, `num_frames`,
            `fps`, `max_frames`, `skip_corrupt` and `decoder`. All options can be changed in a call.

    Raises:
        MLLMError: a family without an adapter, or options that cannot be.
    """

    def __init__(
        self,
        processor: Any,
        selector: Selector | str | Path | None = "greedy",
        *,
        ratio: float | None = None,
        loss: float | None = None,
        max_vision_tokens: int | None = None,
        units: Mapping = "finest",
        **options: Any,
    ) -> None:
        if isinstance(processor, str | Path):
            raise MLLMError(
                f"{processor}: a path or hub id; use autogaze.GazedProcessor.from_pretrained"
            )
        known = isinstance(processor, StockProcessor)
        self.stock: StockProcessor = processor if known else of_processor(processor)
        refuse_unknown(options, GazeSettings.names())
        self.settings = GazeSettings(selector, ratio, loss, max_vision_tokens, units, **options)
        self._adapter = processor_adapter_of(self.stock)
        self._selectors: dict[tuple[Any, str], Selector] = {}
        self.device = DeviceOptions.parse("auto").device

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> "GazedProcessor":
        """The processor of a folder or hub id, with the options that were saved with it, if any.

        Args:
            name: of a checkpoint of a multimodal LLM; its files are fetched if they are not there.
            options: of the class; others are transformers' (`revision`, `token`, `cache_dir`,
                `local_files_only`, `subfolder`, `force_download`, `proxies`).

        Raises:
            MLLMError: no processor there, a family without an adapter, or unknown options.
        """
        if options.pop("trust_remote_code", None):
            raise MLLMError(
                "trust_remote_code=True: a GazedProcessor reads a checkpoint's files and never runs "
                "its code; leave the option out"
            )
        gaze = {key: value for key, value in options.items() if key in GazeSettings.names()}
        hub = {key: value for key, value in options.items() if key not in gaze}
        refuse_unknown(hub, (*GazeSettings.names(), *HUB_OPTIONS))
        stock = of_checkpoint(as_path(name) if not isinstance(name, str) else name, **hub)
        saved = {key: value for key, value in stock.gaze.items() if key in GazeSettings.names()}
        if "selector" in gaze:  # the saved one need not be there any more
            saved["selector"] = gaze["selector"]
        settings = GazeSettings(**saved).updated(gaze)
        made = cls(stock, settings.selector)
        made.settings = settings
        return made

    def to(self, device: str | torch.device) -> "GazedProcessor":
        """Choose and decode on a device from now on, instead of "auto"; results stay on the CPU."""
        self.device = DeviceOptions.parse(device).device
        self._selectors.clear()
        return self

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the processor's files, and the options of gazing beside them.

        Raises:
            MLLMError: the selector is an object; give it by its name.
        """
        folder, saved = as_path(folder), self.settings.saved()
        self.stock.save(folder)
        if self.stock.model_type is not None:
            saved["model_type"] = self.stock.model_type
        write_json(folder / GAZE_CONFIG, saved)

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        videos: Any = None,
        **options: Any,
    ) -> GazedInputs:
        """Prompts with videos and images, as arguments of a gazed model.

        Args:
            images: files, PIL images or arrays, in reading order or in a list per prompt; kept whole.
            text: a prompt or several, with the family's placeholder for every video and image.
            videos: files, or decoded 8-bit frames; likewise.
            options: those of the class, for this call, and:
                gaze: for every video what was chosen before: a `Gaze`, the file of one, `KeptUnits`,
                    a function of the video's `UnitGrid` that returns them, or None to select. A
                    gaze that knows its frames decides which are taken; num_frames, fps,
                    max_frames and do_sample_frames=False are errors with it, unless they say the same.
                    Like video_metadata in a flat list, or in a list per prompt.
                do_sample_frames: False takes all frames.
                video_metadata: for every video of decoded frames `fps`, and where they were
                    sampled from a longer one `frames_indices` and `total_num_frames`. Decoded
                    frames are all taken, unless a number or rate is given in the call.
                context: an `autogaze.mllm.prompt.Context` that prompts must fit; checked first.
                generator: source of randomness of the selector.
                padding_side: "left", as `generate` wants it, or "right".
                add_special_tokens: of the tokenizer.
                padding, return_tensors: as the stock processor's; rows are padded, tensors PyTorch's.

        Raises:
            MLLMError: placeholders that are not as many as videos and images; a gaze of another
                video; options that cannot be.
            VideoError: a file that is missing or no video.
        """
        settings = self._settings(options)
        texts = [self._adapter.prepare_text(row) for row in as_texts(text)]
        files: dict[Kind, list[Any]] = {
            "video": as_list(videos, "video"),
            "image": as_list(images, "image"),
        }
        tokens = {kind: self._adapter.placeholder(kind) for kind in self._adapter.tokens}
        places = places_of(texts, tokens, {kind: len(files[kind]) for kind in files})
        check_per_prompt(places, counts_per_prompt(videos, "video"), "video")
        images_per_prompt = counts_per_prompt(images, "image")
        check_per_prompt(places, images_per_prompt, "image")
        gazes, metadata = (
            per_video(options.get(name), places, name) for name in ("gaze", "video_metadata")
        )
        opened: dict[Place, GazedVisual | GazedImage] = {}
        selector = self._selector(settings) if any(places) else None
        for prompt, place in ((at, place) for at, row in enumerate(places) for place in row):
            kind, number = place
            if kind == "image" and self._adapter.crops_images:
                picture = FrameSource(files[kind][number], skip_corrupt=settings.skip_corrupt)
                siblings = images_per_prompt[prompt] if images_per_prompt else 1
                opened[place] = GazedImage(picture, self._adapter, siblings)
                continue
            made = gazes[number] if kind == "video" else None
            made = None if made is None else load_gaze(made)
            if isinstance(made, Gaze):
                refuse_loss(options.get("loss"))
            opened[place] = GazedVisual(
                kind,
                files[kind][number],
                made,
                self._adapter,
                settings,
                options,
                pyramid=None if selector is None else selector.pyramid,
                metadata=metadata[number] if kind == "video" else None,
                device=self.device,
            )
        text_options = {name: options[name] for name in _TEXT_OPTIONS if name in options}
        if (context := options.get("context")) is not None:
            check_kind(context, Context, "context")
            check_before_reading(context, texts, places, opened, self._adapter, text_options)
        together: Sequence[Sequence[Place]] = places  # a number of tokens is that of a prompt
        if settings.max_vision_tokens is None:
            together = [[place] for row in places for place in row]
        prepared: dict[Place, PreparedVisual] = {}
        for group in together:
            visuals = [opened[place] for place in group]
            choose_units(visuals, selector, settings, options.get("generator"))
            # Now, so that the frames of these are freed before others are read.
            prepared |= {place: opened[place].prepared() for place in group}
        return self._written(texts, places, prepared, options, text_options)

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        chat_template: str | None = None,
        *,
        tokenize: bool = False,
        return_dict: bool = False,
        processor_kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """The prompt of a conversation: as text, as token ids, or as arguments of a gazed model.

        Args:
            conversation: messages; content parts {"type": "video", "video": file} and {"type":
                "image", "image": file} (also as "path" or "url": "file://...") name what is read. A list
                of images is a video's frames. Or a batch of conversations.
            chat_template: Jinja, or the name of one of the checkpoint's; by default its own.
            tokenize: prepare the videos, and not only the text.
            return_dict: return all arguments and not only `input_ids`.
            processor_kwargs: options of the call of this class; they may also stand among:
            options: the template's (`add_generation_prompt`, `tools`, ...). One that the template
                does not name and that looks like one of this class is refused.

        Raises:
            MLLMError, VideoError: as the call of this class.
        """
        call = {key: options.pop(key) for key in _CALL_OPTIONS if key in options}
        call.update(processor_kwargs or {})
        conversations, is_batch = as_batch(conversation)
        named = self.stock.chat_template or self.tokenizer.chat_template
        template = chat_template or self.chat_template
        if isinstance(named, dict):
            template = named.get(template, template)
        if chat_template is None and has_video(conversations):
            template = self._adapter.video_template or template
        if template is None and isinstance(named, dict):
            raise MLLMError(
                "none of the chat templates is the default: give chat_template, one of "
                f"{', '.join(named)}"
            )
        refuse_misspelt(options, _CALL_OPTIONS, template or "")
        texts = [
            self.tokenizer.apply_chat_template(
                list(messages), chat_template=template, tokenize=False, **options
            )
            for messages in conversations
        ]
        if not tokenize:
            return texts if is_batch else texts[0]
        bos = self.tokenizer.bos_token
        if bos is not None and texts[0].startswith(bos):
            call.setdefault("add_special_tokens", False)
        if self._adapter.chat_samples:
            call.setdefault("do_sample_frames", True)
        found = visuals_of(conversations)
        inputs = self(found["image"], texts, found["video"], **call)
        return inputs if return_dict else inputs["input_ids"]

    @property
    def tokenizer(self) -> Any:
        """The family's tokenizer."""
        return self.stock.tokenizer

    @property
    def chat_template(self) -> str | None:
        """The checkpoint's chat template."""
        template = self.stock.chat_template or self.tokenizer.chat_template
        return template.get("default") if isinstance(template, dict) else template

    @property
    def model_input_names(self) -> list[str]:
        """Arguments of a gazed model that the processor makes."""
        return ["input_ids", "attention_mask", "gazed"]

    def decode(self, *args: Any, **kwargs: Any) -> str:
        """The text of token ids, as the tokenizer's."""
        return self.tokenizer.decode(*args, **kwargs)  # type: ignore[no-any-return]

    def batch_decode(self, *args: Any, **kwargs: Any) -> list[str]:
        """The texts of rows of token ids, as the tokenizer's."""
        return self.tokenizer.batch_decode(*args, **kwargs)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"GazedProcessor({type(self._adapter).__name__}, {self.settings})"

    def _settings(self, options: dict[str, Any]) -> GazeSettings:
        """Settings of a call, whose options are checked."""
        refuse_unknown(options, _CALL_OPTIONS)
        check_choice(options.get("return_tensors"), (None, "pt"), "return_tensors")
        check_choice(options.get("padding_side"), (None, "left", "right"), "padding_side")
        names = GazeSettings.names()
        return self.settings.updated({key: options[key] for key in options if key in names})

    def _selector(self, settings: GazeSettings) -> Selector | None:
        """The selector of a call, loaded once."""
        named = settings.selector
        if named is None or isinstance(named, Selector):
            return named
        key = (str(named), settings.units)
        if key not in self._selectors:
            self._selectors[key] = unit_selector(named, settings.units, self.device)
        return self._selectors[key]

    def _written(
        self,
        texts: Sequence[str],
        places: Sequence[Sequence[Place]],
        prepared: dict[Place, PreparedVisual],
        options: dict[str, Any],
        text_options: dict[str, Any],
    ) -> GazedInputs:
        """The prompts without the units that are not kept."""
        visuals = [prepared[place] for row in places for place in row]
        inputs = tuple(visual.input for visual in visuals)
        clock = StageClock()
        with clock.stage("write"):
            expansions = {place: visual.expansion for place, visual in prepared.items()}
            rows = write_rows(texts, places, expansions, self._adapter, text_options)
            prompt = assemble(
                rows,
                [visual.kept for visual in inputs],
                self._adapter.rule(inputs),
                pad_id=padding_id(self.tokenizer),
                padding_side=options.get("padding_side") or "left",
            )
        report = GazedReport(
            visuals=tuple(visual.report for visual in visuals),
            tokens=tuple(prompt.attention_mask.sum(1).tolist()),
            dense_tokens=tuple(prompt.dense_lengths),
            seconds=sum((visual.seconds for visual in visuals), clock.times),
        )
        videos = sorted(number for kind, number in prepared if kind == "video")
        gazes = tuple(prepared["video", number].gaze for number in videos)
        return GazedInputs(GazedPrompt(prompt, inputs, tuple(rows)), report, gazes)
