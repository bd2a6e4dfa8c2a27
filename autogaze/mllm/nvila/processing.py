"""Processor: a video gazed at while it is decoded, and a prompt as long as what was kept.

```python
processor = AutoGazeMLLMProcessor.from_pretrained(folder)
inputs = processor(text=processor.prompt("What happens?"), videos="video.mp4")
answer = model.generate(**inputs, max_new_tokens=64)
```
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, ProcessorMixin

from autogaze.checks import describe_value
from autogaze.clips import check_generator
from autogaze.errors import AutoGazeError, MLLMError
from autogaze.geometry import PatchPyramid
from autogaze.mllm.checks import as_channels, as_count, check_choice, refuse_unknown
from autogaze.mllm.nvila.checkpoint import CONFIG, naming, read_arguments, read_tokenizer
from autogaze.mllm.nvila.frames import as_gazes
from autogaze.mllm.nvila.gazed_video import GazedVideo
from autogaze.mllm.nvila.prompts import as_text, report_of, units_of
from autogaze.mllm.nvila.published import to_published
from autogaze.mllm.nvila.selection import gaze_at
from autogaze.mllm.nvila.token_budget import fit
from autogaze.mllm.nvila.video_settings import VideoSettings, one_kind_of_budget
from autogaze.mllm.processor_output import GazedReport, ReportedInputs, StageClock
from autogaze.mllm.prompt import SequencePositions, VisualBlock, assemble
from autogaze.mllm.prompt_text import (
    as_batch,
    as_list,
    as_texts,
    check_per_prompt,
    counts_per_prompt,
    padding_id,
    places_of,
    row_of,
)
from autogaze.mllm.same_video import refuse_loss
from autogaze.selectors.base import Selector
from autogaze.selectors.registry import load
from autogaze.utils.device import DeviceOptions
from autogaze.utils.hub import HUB_OPTIONS
from autogaze.utils.normalization import SIGLIP, PixelStatistics

VIDEO_TOKEN = "<vila/video>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}{% if part.type == 'video' %}"
    + VIDEO_TOKEN
    + "\n\n{% elif part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}"
    "{% endif %}{% endfor %}"
)
"""Videos and texts one after another: the model was trained without turns."""

_ARGUMENTS = (
    *VideoSettings.arguments(),
    "target_scales",
    "target_patch_size",
    "mm_projector_shuffle_num",
    "autogaze_model_id",
    "image_mean",
    "image_std",
    "video_token",
    "chat_template",
)
"""Arguments that are saved."""
_SERVICE = {"config", "trust_remote_code", "code_revision", "use_fast", "backend", "dtype"}
"""Options of loading that transformers hands on, and that say nothing to this processor."""

MAX_SHUFFLE = 2**12
"""The most patches of a token."""

_UNSET: Any = object()


class AutoGazeMLLMProcessor(ProcessorMixin):
    """Processor of `AutoGazeMLLM`. Every argument is an attribute; most can be given to one call.

    Args:
        tokenizer: of the LLM; `video_token` must be one of its tokens.
        num_video_frames: frames sampled at even distances, in clips of 16; the published model was
            evaluated with 128.
        num_video_frames_thumbnail: how many of them are also seen whole, at one tile's size; 64.
        max_tiles_video: the most tiles of a frame; 48.
        gazing_ratio_tile: cap on the gazed share of a tile's patches; one number, or one per frame
            of a clip ([.2] + 15 x [.06]). None or 1 with no loss: everything, without a selector.
        task_loss_requirement_tile: stopping threshold, in units of the selector's metric; None
            never stops; 0.6 in the evaluation.
        gazing_ratio_thumbnail, task_loss_requirement_thumbnail: the same for thumbnails; 1 and
            None.
        target_scales, target_patch_size: of the vision tower.
        mm_projector_shuffle_num: patches per token of the LLM.
        max_batch_size_autogaze: clips that the selector gets at a time.
        max_vision_tokens: the most tokens of the videos of a prompt, spread over their frames by
            what is chosen of each; thumbnails at ratio 1 stay whole.
        autogaze_model_id: what `autogaze.load` takes: a selector's name, a folder, a hub id.
        image_mean, image_std: pixel statistics of the tower.
        video_token: stands once for each video in a prompt.
        selector: a selector instead of `autogaze_model_id`; it is not saved.
        chat_template: None: videos and texts one after another.

    Raises:
        MLLMError: a number out of range, or a tokenizer without the token.
        SelectorError: a ratio or loss out of range.
        GeometryError: scales that the patch size does not divide.
    """

    attributes = ["tokenizer"]  # noqa: RUF012 - as transformers declares it
    tokenizer_class = "AutoTokenizer"

    def __init__(
        self,
        tokenizer: Any = None,
        *,
        num_video_frames: Any = 8,
        num_video_frames_thumbnail: Any = 8,
        max_tiles_video: Any = 8,
        gazing_ratio_tile: Any = 0.75,
        task_loss_requirement_tile: Any = 0.7,
        gazing_ratio_thumbnail: Any = 0.75,
        task_loss_requirement_thumbnail: Any = 0.7,
        target_scales: Any = (56, 112, 196, 392),
        target_patch_size: Any = 14,
        mm_projector_shuffle_num: Any = 9,
        max_batch_size_autogaze: Any = 32,
        max_vision_tokens: Any = None,
        autogaze_model_id: Any = "nvidia/AutoGaze",
        image_mean: Any = SIGLIP.mean,
        image_std: Any = SIGLIP.std,
        video_token: Any = VIDEO_TOKEN,
        selector: Any = None,
        chat_template: Any = None,
    ) -> None:
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise MLLMError(
                f"expected the LLM's tokenizer, got {describe_value(tokenizer)}; "
                "AutoTokenizer.from_pretrained loads it"
            )
        if chat_template is not None:
            chat_template = as_text(chat_template, "chat_template")
        super().__init__(tokenizer, chat_template=chat_template or CHAT_TEMPLATE)
        self.num_video_frames = num_video_frames
        self.num_video_frames_thumbnail = num_video_frames_thumbnail
        self.max_tiles_video = max_tiles_video
        self.gazing_ratio_tile = gazing_ratio_tile
        self.task_loss_requirement_tile = task_loss_requirement_tile
        self.gazing_ratio_thumbnail = gazing_ratio_thumbnail
        self.task_loss_requirement_thumbnail = task_loss_requirement_thumbnail
        pyramid = PatchPyramid.parse(target_scales, target_patch_size, crop=False)
        self.target_scales, self.target_patch_size = list(pyramid.scales), pyramid.patch_size
        self.mm_projector_shuffle_num = mm_projector_shuffle_num
        self.max_batch_size_autogaze = max_batch_size_autogaze
        self.max_vision_tokens = max_vision_tokens
        self.autogaze_model_id = autogaze_model_id
        self.image_mean = as_channels(image_mean, "image_mean")
        self.image_std = as_channels(image_std, "image_std", above_zero=True)
        self.video_token = as_text(video_token, "video_token")
        self.device = torch.device("cpu")
        self._selector: Selector | None = None if selector is None else self._load(selector)
        self.video_token_id = self._token_id()
        self.settings()

    def _token_id(self) -> int:
        token = self.tokenizer.convert_tokens_to_ids(self.video_token)
        unknown = getattr(self.tokenizer, "unk_token_id", None)
        if token is None or (token == unknown and self.video_token != self.tokenizer.unk_token):
            raise MLLMError(
                f"the tokenizer has no token {self.video_token!r}; add it with "
                f"tokenizer.add_special_tokens({{'additional_special_tokens': "
                f"[{self.video_token!r}]}}), or give video_token"
            )
        return int(token)

    @property
    def pyramid(self) -> PatchPyramid:
        """Patches of the vision tower."""
        return PatchPyramid.parse(self.target_scales, self.target_patch_size, crop=False)

    @property
    def selector(self) -> Selector:
        """The selector that `autogaze_model_id` names, loaded when it is first used."""
        if self._selector is None:
            self._selector = self._load(self.autogaze_model_id)
        return self._selector

    def _load(self, selector: Any) -> Selector:
        if isinstance(selector, str | Path):
            selector = load(selector, pyramid=self.pyramid)
        if not isinstance(selector, Selector):
            raise MLLMError(
                "a selector is what autogaze.load returns, or takes, got "
                f"{describe_value(selector)}"
            )
        if (model := getattr(selector, "model", None)) is not None:
            model.to(self.device)
        return selector

    def to(self, device: torch.device | str) -> "AutoGazeMLLMProcessor":
        """Select and cut patches on a device from now on; what is returned stays on the CPU."""
        try:
            self.device = DeviceOptions.parse(device).device
        except AutoGazeError as error:
            raise MLLMError(str(error)) from None
        if self._selector is not None:
            self._load(self._selector)
        return self

    def prompt(self, question: str) -> str:
        """The prompt of a question about one video, as the published model was trained."""
        return f"{self.video_token}\n\n{as_text(question, 'the question')}"

    def apply_chat_template(self, conversation: Any, *args: Any, **options: Any) -> Any:
        """The prompt of messages in transformers' form; options as transformers'.

        Raises:
            MLLMError: anything but messages, each a dict with a role and a content.
        """
        as_batch(conversation)
        return super().apply_chat_template(conversation, *args, **options)

    def settings(self, **changes: Any) -> VideoSettings:
        """What the arguments say, some of them changed.

        Raises:
            MLLMError: a name that is no argument, or a number out of range.
        """
        names = VideoSettings.arguments()
        unknown = sorted(set(changes) - set(names))
        if unknown:
            raise MLLMError(
                f"unknown argument {', '.join(unknown)}; known: {', '.join(names)}, "
                "ratio, loss, gaze, selector, generator, skip_corrupt, decoder, published"
            )
        return VideoSettings(
            **{name: changes.get(name, getattr(self, name)) for name in names},
            pyramid=self.pyramid,
            statistics=PixelStatistics(
                as_channels(self.image_mean, "image_mean"),
                as_channels(self.image_std, "image_std", above_zero=True),
            ),
            shuffle=as_count(
                self.mm_projector_shuffle_num, "mm_projector_shuffle_num", most=MAX_SHUFFLE
            ),
        )

    def __call__(  # type: ignore[override] # the base lists other arguments
        self,
        text: Any = None,
        videos: Any = None,
        *,
        ratio: Any = _UNSET,
        loss: Any = _UNSET,
        gaze: Any = None,
        selector: Any = None,
        generator: Any = None,
        skip_corrupt: bool = False,
        decoder: Any = "auto",
        published: bool = False,
        return_tensors: Any = "pt",
        images: Any = None,
        audio: Any = None,
        **changes: Any,
    ) -> ReportedInputs:
        """Prompts and gazed videos, as the model takes them.

        Args:
            text: a prompt or several, of any lengths; each `video_token` in them is one video.
            videos: one video or several, in reading order: a path; frames (T, H, W, 3) or (T, 3, H,
                W), uint8 or floats in [0, 1]; or a list of PIL images or arrays. Or for every prompt a list.
            ratio, loss: `gazing_ratio_tile` and `task_loss_requirement_tile` for this call; where
                only one is given the other one is None, as in a selector's `select`. So are both
                where `max_vision_tokens` alone is given, and that where one of them is.
            gaze: for every video what was chosen of its tiles before: a `Gaze`, the file of one, or
                None to select; or `WholeFrames`, the control `uniform`. A gaze that knows its video decides which frames are taken and how
                they are tiled; `ratio` and `max_vision_tokens` of the call keep its first patches.
            selector: for this call: a selector, or what `autogaze.load` takes.
            generator: source of randomness, for selectors that use any.
            skip_corrupt: replace damaged frames by the ones before them, instead of an error.
            decoder: of files: "auto", "pyav" or "torchcodec", see `autogaze.video.Video`.
            published: return whole tiles and padded gazes, as the published processor does.
            return_tensors: "pt", the only kind.
            images, audio: none: transformers' chat templates name them; the model sees videos only.
            changes: arguments of the constructor for this call, such as `num_video_frames`.

        Returns:
            `input_ids` and `attention_mask` (B, L), padded on the left; and with videos
            `gazed_videos`, a list of `GazedVideo`, and `video_token_id`. With `published` the keys
            of `to_published` instead of these two. Its attribute `report` says what the prompts
            cost, dense and gazed, and `gazes` holds the gaze at each video's tiles.

        Raises:
            MLLMError: prompts and videos that do not fit, a gaze of another video; see also
                `VideoSettings`.
            VideoError: a file that is no video; a decoder that is none, or not here.
        """
        check_choice(return_tensors, (None, "pt"), "return_tensors")
        for name, value in (("images", images), ("audio", audio)):
            if not is_nothing(value):
                raise MLLMError(
                    f"{name}: NVILA-HD-Video takes text and videos only, got {describe_value(value)}; "
                    "leave it out"
                )
        if ratio is not _UNSET or loss is not _UNSET:
            changes["gazing_ratio_tile"] = None if ratio is _UNSET else ratio
            changes["task_loss_requirement_tile"] = None if loss is _UNSET else loss
        changes = one_kind_of_budget(changes)
        settings = replace(
            self.settings(**changes),
            skip_corrupt=skip_corrupt,
            decoder=decoder,
            keep_frames=published,
        )
        check_generator(generator)
        clock = StageClock()
        texts, given = as_texts(text), as_list(videos, "video")
        token, shuffle = self.video_token_id, settings.shuffle
        places = places_of(texts, {"video": self.video_token}, {"video": len(given)})
        check_per_prompt(places, counts_per_prompt(videos, "video"), "video")
        with clock.stage("write"):
            rows = [
                row_of(self.tokenizer, prompt, [VisualBlock(n, 0, 1, token) for _, n in row])
                for prompt, row in zip(texts, places, strict=True)
            ]
        gazes = as_gazes(gaze, places)
        if any(gazes):
            refuse_loss(changes.get("task_loss_requirement_tile"))
        chooser = None
        selects = settings.runs_selector if None in gazes else settings.gazes_at_thumbnails
        if given and selects:
            chooser = self.selector if selector is None else self._load(selector)
        first = settings.tiles.ratio if "gazing_ratio_tile" in changes else None
        gazed: list[GazedVideo] = []
        for row in places:
            source = (settings.of_videos(len(row)), chooser, self.device, generator, clock)
            chosen = [
                gaze_at(given[number], *source, made=gazes[number], first=first)
                for _, number in row
            ]
            gazed += fit(chosen, settings.max_vision_tokens, shuffle)
        with clock.stage("write"):
            units = [units_of(video, shuffle) for video in gazed]
            pad = padding_id(self.tokenizer)
            prompt = assemble(rows, units, SequencePositions(), pad_id=pad)
        mask = prompt.attention_mask
        features: dict[str, Any] = {"input_ids": prompt.input_ids, "attention_mask": mask}
        if gazed and published:
            features |= to_published(gazed)
        elif gazed:
            features |= {"gazed_videos": gazed, "video_token_id": token}
        visuals = tuple(map(report_of, gazed, units))
        tokens = tuple(mask.sum(1).tolist())
        report = GazedReport(visuals, tokens, prompt.dense_lengths, clock.times)
        return ReportedInputs(features, report, tuple(video.chosen for video in gazed))

    def batch_decode(self, *args: Any, **options: Any) -> list[str]:
        """Texts of a batch of ids, by the tokenizer."""
        return self.tokenizer.batch_decode(*args, **options)

    def decode(self, *args: Any, **options: Any) -> Any:
        """Text of ids, by the tokenizer."""
        return self.tokenizer.decode(*args, **options)

    def to_dict(self, *_: Any, **__: Any) -> dict[str, Any]:
        """The arguments as plain values, without tokenizer and selector."""
        values = {name: getattr(self, name) for name in _ARGUMENTS}
        if values["chat_template"] == CHAT_TEMPLATE:
            del values["chat_template"]
        plain = {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}
        return {"processor_class": type(self).__name__, **plain}

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> list[str]:  # type: ignore[override]
        """Write `processor_config.json` and the tokenizer's files into a folder."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save_pretrained(str(folder), **options)
        (folder / CONFIG).write_text(json.dumps(self.to_dict(), indent=2) + "\n")
        return [str(folder / CONFIG)]

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | Path, **options: Any
    ) -> "AutoGazeMLLMProcessor":
        """Load from a folder or the hub; arguments of the constructor replace what is stored.

        Raises:
            CheckpointError: no processor or tokenizer there.
            MLLMError: an argument that does not exist.
        """
        name = str(pretrained_model_name_or_path)
        hub = {key: options.pop(key) for key in HUB_OPTIONS if key in options}
        changes = {
            key: value
            for key, value in options.items()
            if key not in _SERVICE and not key.startswith("_")
        }
        refuse_unknown(changes, sorted((*_ARGUMENTS, "selector")))
        with naming(name):
            stored = read_arguments(name, _ARGUMENTS, hub)
            return cls(read_tokenizer(name, hub), **{**stored, **changes})


class NVILAProcessor(AutoGazeMLLMProcessor):
    """The same under the name that published checkpoints give."""


def is_nothing(value: Any) -> bool:
    """Whether this is None, or a list of nothing, as transformers gives what a prompt has not."""
    return value is None or (isinstance(value, list | tuple) and all(map(is_nothing, value)))
