"""Settings of a corpus, on which all its gazes depend; saved in its `corpus.json`."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autogaze import __version__
from autogaze.checks import describe_value
from autogaze.errors import CorpusError, first_line
from autogaze.utils.files import write_json
from autogaze.video.decoders import DecoderName

if TYPE_CHECKING:
    from autogaze.pipeline import GazeOptions
    from autogaze.selectors.base import Selector

FILE = "corpus.json"
FORMAT = "autogaze.corpus"
VERSION = 1


@dataclass(frozen=True)
class CorpusSettings:
    """Selection and range of frames; fields are options of `autogaze gaze`.

    Args:
        selector: a name, a checkpoint folder or a hub id.
        version: of the package, with a digest of weights that are not the package's.
        seed: of random choices; every video starts from it.
        dtype: precision of a model; None: as of `autogaze.load`.
        decoder: "auto", "pyav" or "torchcodec", whose frames may differ by one grey level.
    """

    selector: str
    version: str = __version__
    ratio: float | None = None
    loss: float | None = None
    seed: int = 0
    dtype: str | None = None
    fps: float | None = None
    start: float | None = None
    end: float | None = None
    stream: int | None = None
    tiles: str = "resize"
    max_tiles: int | None = None
    skip_corrupt: bool = False
    decoder: DecoderName = "auto"

    @property
    def hash(self) -> str:
        """16 digits that differ where any setting does."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def load_selector(self, device: str) -> "Selector":
        """The selector on a device; raises as `autogaze.load` does."""
        from autogaze.selectors import registry

        return registry.load(self.selector, device=device, dtype=self.dtype)

    def gaze_options(self, prefetch: bool) -> "GazeOptions":
        """Options of `autogaze.pipeline.GazeStream` for one video; `prefetch` as of `ChunkReader`."""
        from autogaze.utils.seeding import generator_of

        return {
            "ratio": self.ratio,
            "loss": self.loss,
            "generator": generator_of(self.seed),
            "fps": self.fps,
            "start": self.start,
            "end": self.end,
            "stream": self.stream,
            "tiles": self.tiles,
            "max_tiles": self.max_tiles,
            "skip_corrupt": self.skip_corrupt,
            "decoder": self.decoder,
            "prefetch": prefetch,
        }

    def save(self, folder: Path) -> None:
        """Write `corpus.json`."""
        values = {"format": FORMAT, "version": VERSION, "settings": asdict(self), "hash": self.hash}
        write_json(folder / FILE, values)

    @classmethod
    def load(cls, folder: Path) -> "CorpusSettings":
        """The settings of the corpus in a folder.

        Raises:
            CorpusError: there is none, or its `corpus.json` is damaged.
        """
        path = folder / FILE
        try:
            values: Any = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise CorpusError(
                f"{folder}: holds no {FILE}, so it is no corpus: make one with `autogaze corpus`"
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            raise CorpusError(f"{path}: cannot be read: {first_line(error)}") from error
        known = isinstance(values, dict) and values.get("format") == FORMAT
        if not known or values.get("version") != VERSION:
            raise CorpusError(f"{path}: expected {FORMAT} version {VERSION}")
        settings = values.get("settings")
        names = {field.name for field in fields(cls)}
        if (
            not isinstance(settings, dict)
            or not {"selector", "version"} <= settings.keys() <= names
        ):
            raise CorpusError(f"{path}: damaged settings: {describe_value(settings)}")
        return cls(**settings)

    def check_same(self, folder: Path) -> None:
        """Raise `CorpusError` if the corpus in a folder was made with other settings, naming them."""
        made, now = asdict(CorpusSettings.load(folder)), asdict(self)
        differing = [
            f"{name} {describe_value(made[name])}, not {describe_value(now[name])}"
            for name in now
            if made[name] != now[name]
        ]
        if differing:
            raise CorpusError(
                f"{folder} was made with {'; '.join(differing)}; give the same options, another --out, "
                "or --overwrite"
            )


def version_of(selector: str) -> str:
    """The package's version; of other weights than the package's also a digest of them.

    Raises:
        CheckpointError: a hub id that cannot be fetched.
    """
    from autogaze.selectors.registry import list_selectors
    from autogaze.utils.hub import find_checkpoint

    if selector in list_selectors():
        return __version__
    folder = find_checkpoint(selector)
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".safetensors"):
            digest.update(path.name.encode())
            with open(path, "rb") as file:
                while piece := file.read(2**22):
                    digest.update(piece)
    return f"{__version__}+{digest.hexdigest()[:12]}"


def named_selector(selector: str | None) -> str:
    """The name of a selector in settings: absolute paths of folders, and the default's name for None."""
    from autogaze.selectors.registry import DEFAULT, list_selectors

    name = DEFAULT if selector is None else selector
    is_folder = name not in list_selectors() and os.path.isdir(name)
    return os.path.abspath(name) if is_folder else name
