"""What a family's own processor is made of: tokenizer, chat template and settings of its frames.

They are read from a processor object, or from the files of a checkpoint. transformers cannot load
its video processors without torchvision; the files alone are enough here.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autogaze.checks import describe_value, is_finite, whole, why_absent
from autogaze.errors import MLLMError
from autogaze.mllm.checks import as_channels
from autogaze.utils.hub import is_hub_id

GAZE_CONFIG = "gaze_config.json"
"""File of a `GazedProcessor`'s own options beside the stock processor's files."""

_SETTINGS = ("processor_config.json", "video_preprocessor_config.json", "preprocessor_config.json")
_TEMPLATES = ("chat_template.jinja", "chat_template.json")
_MORE = "additional_chat_templates"
"""Folder of those with other names than `_DEFAULT`, as transformers writes several."""
_DEFAULT = "default"


@dataclass(frozen=True, eq=False)
class StockProcessor:
    """The parts of a stock processor.

    Args:
        model_type: of the family's models; None where only `processor_class` tells.
        processor_class: name of the stock processor's class; None where only `model_type` tells.
        tokenizer: the family's own.
        video, image: settings of its video processor and image processor.
        chat_template: Jinja; several by name, or a list of {"name", "template"}, which becomes one;
            None for the tokenizer's own.
        own: settings of the processor itself: names of tokens, units of a frame.
        model: the model's configuration, where it was beside the processor.
        gaze: options of a `GazedProcessor` that were saved with it.
        original: the stock processor, if there is one.
    """

    model_type: str | None
    processor_class: str | None
    tokenizer: Any
    video: Mapping[str, Any]
    image: Mapping[str, Any]
    chat_template: Any = None
    own: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    gaze: Mapping[str, Any] = field(default_factory=dict)
    original: Any = None

    def __post_init__(self) -> None:
        check_name(self.model_type, "model_type")
        check_name(self.processor_class, "processor_class")
        object.__setattr__(self, "chat_template", _templates(self.chat_template))
        check_settings(self.video, "settings of the video processor")
        check_settings(self.image, "settings of the image processor")
        vision = self.model.get("vision_config")
        if vision is not None and not isinstance(vision, Mapping):
            raise MLLMError(
                f"vision_config in config.json must be an object, got {describe_value(vision)}"
            )
        rate = (vision or {}).get("tokens_per_second")  # all that is read of it
        check_settings({"tokens_per_second": rate}, "vision_config in config.json")

    def save(self, folder: str | Path) -> None:
        """Write the files of the processor, as transformers reads them."""
        if self.original is not None:
            self.original.save_pretrained(folder)
            return
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save_pretrained(folder)
        named = {"processor_class": self.processor_class} if self.processor_class else {}
        for name, settings in (
            ("processor_config.json", self.own),
            ("video_preprocessor_config.json", self.video),
            ("preprocessor_config.json", self.image),
        ):
            write_json(folder / name, {**settings, **named})
        if self.chat_template is None:
            return
        named = self.chat_template
        for name, text in ({_DEFAULT: named} if isinstance(named, str) else named).items():
            path = folder / ("chat_template.jinja" if name == _DEFAULT else f"{_MORE}/{name}.jinja")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")


def of_processor(processor: Any) -> StockProcessor:
    """The parts of a processor object.

    Raises:
        MLLMError: it has no tokenizer.
    """
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None:
        raise MLLMError(
            f"expected a processor of a multimodal LLM, which has a tokenizer, got "
            f"{type(processor).__name__}; load one with autogaze.GazedProcessor.from_pretrained"
        )
    return StockProcessor(
        model_type=None,
        processor_class=type(processor).__name__,
        tokenizer=tokenizer,
        video=_settings_of(getattr(processor, "video_processor", None)),
        image=_settings_of(getattr(processor, "image_processor", None)),
        chat_template=getattr(processor, "chat_template", None),
        own=_plain(getattr(processor, "__dict__", {})),
        original=processor,
    )


def of_checkpoint(name: str | Path, **options: Any) -> StockProcessor:
    """The parts of the processor of a folder or hub id, by its files alone.

    Args:
        name: a folder, or a hub id, whose files are fetched if they are not in the local cache.
        options: of transformers' `from_pretrained`, see `autogaze.utils.hub.HUB_OPTIONS`.

    Raises:
        MLLMError: no processor there.
    """
    from transformers import AutoTokenizer

    if Path(name).is_dir():  # of a folder, whose parts are folders
        name = Path(name) / (options.pop("subfolder", None) or "")
    if not Path(name).is_dir() and not is_hub_id(str(name)):
        raise MLLMError(f"{name}: {why_absent(name, 'folder')}, and this is no hub id")
    files = {found: _read(name, found, options) for found in (*_SETTINGS, *_TEMPLATES)}
    nested = _json(files["processor_config.json"], name)
    of_images = _json(files["preprocessor_config.json"], name)
    of_videos = _json(files["video_preprocessor_config.json"], name) or of_images
    if not (nested or of_images or of_videos):
        there = "" if Path(name).is_dir() else "no such folder, and as a hub id "
        raise MLLMError(
            f"{name}: {there}no processor there, which has one of {', '.join(_SETTINGS)}; give the folder "
            "or hub id of a multimodal LLM's checkpoint"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
    except Exception as error:  # tokenizers raises kinds of its own, among them Exception itself
        raise MLLMError(f"{name}: its tokenizer cannot be loaded: {error}") from error
    template: Any = files["chat_template.jinja"]
    if template is None and files["chat_template.json"] is not None:
        template = _json(files["chat_template.json"], name).get("chat_template")
    more = {path.stem: path.name for path in sorted((Path(name) / _MORE).glob("*.jinja"))}
    if more and (template is None or isinstance(template, str)):
        others = {one: _read(name, f"{_MORE}/{file}", options) for one, file in more.items()}
        template = others if template is None else {**others, _DEFAULT: template}
    model = _json(_read(name, "config.json", options), name)
    gaze = _json(_read(name, GAZE_CONFIG, options), name)
    classes = (found.get("processor_class") for found in (nested, of_videos, of_images))
    return StockProcessor(
        model_type=model.get("model_type") or gaze.get("model_type"),
        processor_class=next(filter(None, classes), None),
        tokenizer=tokenizer,
        video=nested.get("video_processor") or of_videos,
        image=nested.get("image_processor") or of_images,
        chat_template=template,
        own=_plain(nested),
        model=model,
        gaze=gaze,
    )


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file, its keys in order."""
    text = json.dumps(dict(values), indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _templates(value: Any) -> str | dict[str, str] | None:
    """A chat template, or several by name.

    Raises:
        MLLMError: of another form, or names that are no names of files.
    """
    named = value
    if isinstance(value, list | tuple) and value:
        parts = [part if isinstance(part, Mapping) else {} for part in value]
        named = {str(part.get("name", "")): part.get("template") for part in parts}
    if not isinstance(named, Mapping):
        check_name(named, "chat_template")
        return named  # type: ignore[no-any-return]
    for name, text in named.items():
        is_file = isinstance(name, str) and re.fullmatch(r"[\w-][\w.-]*", name)
        if not (is_file and isinstance(text, str)):
            raise MLLMError(
                'chat_template must be text, several by name, or a list of {"name": ..., "template": ...}, '
                f"got {describe_value(value)}"
            )
    return dict(named)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are numbers and names, and no parts of the processor."""
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, str | int | float) and name not in ("chat_template", "processor_class")
    }


def _settings_of(processor: Any) -> dict[str, Any]:
    """Settings of a video or image processor object."""
    if processor is None:
        return {}
    return dict(processor.to_dict())


def _read(name: str | Path, file: str, options: Mapping[str, Any]) -> str | None:
    """The text of a checkpoint's file; None if there is none."""
    folder = Path(name)
    if folder.is_dir():
        path: Path | None = folder / file
    else:
        from transformers.utils import cached_file

        try:
            found = cached_file(
                str(name), file, **options, _raise_exceptions_for_missing_entries=False
            )
        except (OSError, ValueError) as error:
            raise MLLMError(
                f"{name}: neither a folder nor a hub id that can be read: {error}"
            ) from error
        path = None if found is None else Path(found)
    if path is None or not path.is_file():
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # no UTF-8 among them
        raise MLLMError(f"{path}: cannot be read as text: {error}") from error


def _json(text: str | None, name: str | Path) -> dict[str, Any]:
    """An object in JSON; empty where there is no text."""
    if text is None:
        return {}
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MLLMError(f"{name}: a file of the processor is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise MLLMError(f"{name}: a file of the processor holds no object, got {values!r:.40}")
    return values


_COUNTS = {
    **dict.fromkeys(("patch_size", "merge_size", "temporal_patch_size"), 1),
    **dict.fromkeys(("num_frames", "min_frames", "max_frames", "max_video_tokens"), 0),
    **dict.fromkeys(("min_pixels", "max_pixels", "max_patches", "min_patches"), 0),
}
"""Settings that are whole numbers, and the least they may be."""
_RATES = ("fps", "tokens_per_second", "rescale_factor")
_STATISTICS = ("image_mean", "image_std")
_PARTS = ("size", "crop_size", "video_size", "max_image_size")
"""Settings that hold named sizes, or are one size."""


def check_settings(settings: Any, where: str) -> None:
    """Raise MLLMError for settings of video and image processors that are of other types.

    Args:
        settings: by name; those that are not known here are not looked at.
        where: of which file or object they are.
    """
    if not isinstance(settings, Mapping):
        raise MLLMError(f"{where}: expected settings by name, got {describe_value(settings)}")
    for name, value in settings.items():
        if value is None:
            continue
        if name in _COUNTS and not isinstance(value, Mapping):
            number = whole(value)
            if number is None or not _COUNTS[name] <= number < 2**40:
                _refuse(where, name, f"a whole number of at least {_COUNTS[name]}", value)
        elif name in _RATES and not (is_finite(value) and value > 0):
            _refuse(where, name, "a number above 0", value)
        elif name in _STATISTICS:
            as_channels(value, f"{where}: {name}", above_zero=name == "image_std")
        elif name == "video_sampling":
            check_settings(value, f"{where}, {name}")
        elif name in _PARTS:
            _check_sizes(value, where, name)


def _check_sizes(value: Any, where: str, name: str) -> None:
    sizes = list(value.values()) if isinstance(value, Mapping) else value
    for size in sizes if isinstance(sizes, list | tuple) else [sizes]:
        if size is not None and not (is_finite(size) and 0 <= size < 2**40):
            _refuse(where, name, "sizes in pixels, by name", value)


def _refuse(where: str, name: str, expected: str, value: Any) -> None:
    raise MLLMError(f"{where}: {name} must be {expected}, got {describe_value(value)}")


def check_name(value: Any, what: str) -> None:
    """Raise MLLMError unless a value is text or None."""
    if not isinstance(value, str | None):
        raise MLLMError(f"{what} must be text, got {describe_value(value)}")
