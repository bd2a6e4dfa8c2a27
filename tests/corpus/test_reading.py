"""A corpus read back: the gazes that `gaze_video` gives, and by whoever reads Parquet."""

import sys
import tarfile
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

import autogaze
from autogaze.corpus.settings import CorpusSettings
from autogaze.errors import CorpusError, GeometryError
from autogaze.pipeline import GazedVideo
from tests.clips import make_video
from tests.corpus.collection import make_collection, make_corpus, same_gaze

pytest.importorskip("pyarrow", reason="needs the extra corpus")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A corpus of seven videos, of which the second is none."""
    folder = tmp_path_factory.mktemp("made")
    make_corpus(folder / "corpus", make_collection(folder / "videos", 7, [1]))
    return folder


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        (CorpusSettings("centre", ratio=0.02), {"ratio": 0.02}),
        (CorpusSettings("greedy", loss=0.05, tiles="3x2", fps=4), {"loss": 0.05, "fps": 4}),
        (CorpusSettings("learned", ratio=0.03, tiles="one", end=0.9), {"ratio": 0.03, "end": 0.9}),
        (CorpusSettings("random", seed=5, tiles="2x1", start=0.5), {"start": 0.5}),
        (CorpusSettings("codec", tiles="one", max_tiles=1), {"max_tiles": 1}),
    ],
    ids=lambda value: value.selector if isinstance(value, CorpusSettings) else "",
)
def test_gazes_equal_those_of_gaze_video(settings, options, tmp_path: Path):
    video = make_video(tmp_path / "video.mp4", 18)
    make_corpus(tmp_path / "corpus", video, settings=settings)
    expected = autogaze.gaze_video(
        str(video),
        selector=settings.selector,
        tiles=settings.tiles,
        generator=torch.Generator().manual_seed(settings.seed),
        **options,
    )
    (gaze,) = autogaze.corpus.read(tmp_path / "corpus")
    assert same_gaze(gaze, expected)


def test_videos_and_errors(made: Path):
    corpus = autogaze.corpus.read(made / "corpus")
    names = [f"{made}/videos/{number:05}.mp4" for number in range(7)]
    assert list(corpus.videos) == [name for name in names if name != names[1]]
    assert set(corpus.errors) == {names[1]}
    assert corpus.errors[names[1]].startswith("not a video")
    assert same_gaze(corpus[names[3]], corpus[2])
    assert [gaze.num_frames for gaze in corpus[-2:]] == [18, 19]
    assert corpus.entry(0).frames == 17
    with pytest.raises(CorpusError, match="not a video"):
        corpus[names[1]]
    with pytest.raises(CorpusError, match="not in this corpus"):
        corpus["none.mp4"]
    assert same_gaze(corpus[Path(names[0])], corpus[0])
    assert names[0] in corpus
    assert Path(names[0]) in corpus
    assert names[1] not in corpus
    assert 0 not in corpus
    corpus = autogaze.corpus.read((made / "corpus").as_uri())
    assert f"file://{names[0]}" in corpus
    assert same_gaze(corpus[f"file://{names[0]}"], corpus[0])
    with pytest.raises(CorpusError, match="not a video"):
        corpus[f"file://{names[1]}"]
    for number in (6, -7):
        with pytest.raises(IndexError, match=f"{number}"):
            corpus[number]


def test_others_read_the_rows(made: Path, monkeypatch, tmp_path: Path):
    dataset = pytest.importorskip("pyarrow.dataset")
    corpus = autogaze.corpus.read(made / "corpus")
    gazes = made / "corpus" / "gazes"
    clips = sum(-(-gaze.num_frames // 16) for gaze in corpus)
    rows = dataset.dataset(gazes, partitioning="hive").to_table().to_pylist()
    assert len(rows) == clips
    for row in rows:
        first = 16 * row["chunk"]
        gaze = corpus[row["video"]].frames(first, first + len(row["counts"]))
        assert row["losses"] == gaze.losses[row["tile"]].tolist()
        ids = [id for frame in row["ids"] for id in frame]
        assert ids == gaze[row["tile"]].ids.tolist()
        assert [len(ids) for ids in row["ids"]] == row["counts"]
        assert len(row["losses"]) == len(row["counts"]) == len(row["timestamps"])
        assert row["start"] == row["timestamps"][0] < row["end"]
        assert (row["selector"], row["options"]) == ("centre", corpus.settings.hash)
    pattern = str(gazes / "**" / "*.parquet")
    duckdb = pytest.importorskip("duckdb")
    assert duckdb.sql(f"select count(*) from '{pattern}'").fetchall() == [(clips,)]
    polars = pytest.importorskip("polars")
    assert polars.read_parquet(pattern)["counts"].explode().sum() == sum(
        gaze.num_patches for gaze in corpus
    )
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    datasets = pytest.importorskip("datasets")
    loaded = datasets.Dataset.from_parquet(
        sorted(map(str, gazes.rglob("*.parquet"))), cache_dir=str(tmp_path)
    )
    assert set(loaded["video"]) == set(corpus.videos)


def test_dataset_of_frames_and_gazes(made: Path):
    dataset = autogaze.corpus.GazeDataset(made / "corpus")
    assert len(dataset) == 12  # each of six videos has a chunk of 16 frames and a shorter one
    frames, gaze = dataset[1]
    video = dataset.corpus.videos[0]
    expected = list(GazedVideo(video, dataset.corpus[video]))
    assert torch.equal(frames, expected[1].frames)
    assert same_gaze(gaze, expected[1].gaze)
    with pytest.raises(GeometryError):
        dataset.collate([dataset[0], dataset[1]])
    for number in (0, 17):  # no chunk has so many
        with pytest.raises(CorpusError):
            autogaze.corpus.GazeDataset(dataset.corpus, num_frames=number)
    even = autogaze.corpus.GazeDataset(dataset.corpus, num_frames=16)
    loader = DataLoader(even, batch_size=4, collate_fn=even.collate)
    batches = list(loader)
    assert [frames.shape[:2] for frames, _ in batches] == [(4, 16), (2, 16)]
    assert torch.equal(batches[1][1][1].ids, even[5][1].ids)


def test_dataset_of_videos_in_a_tar_file(tmp_path: Path):
    video = make_video(tmp_path / "inside.mp4", 4)
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        tar.add(video, "inside.mp4")
    make_corpus(tmp_path / "corpus", tmp_path / "shard.tar")
    make_corpus(tmp_path / "plain", video)
    ((frames, gaze),) = list(autogaze.corpus.GazeDataset(tmp_path / "corpus"))
    ((same, _),) = list(autogaze.corpus.GazeDataset(tmp_path / "plain"))
    assert gaze.source.path == f"tar://inside.mp4::{tmp_path}/shard.tar"
    assert torch.equal(frames, same)


@pytest.mark.parametrize("kind", ["memory", "s3", "gs", "hf"])
def test_videos_of_another_file_system(tmp_path: Path, monkeypatch, kind: str):
    fsspec = pytest.importorskip("fsspec")
    from fsspec.implementations.memory import MemoryFileSystem

    class Store(MemoryFileSystem):
        """In memory, and called as one of those that need packages and a network."""

        protocol = kind
        store, pseudo_dirs = {}, [""]

        @classmethod
        def _strip_protocol(cls, path):
            return super()._strip_protocol(path.removeprefix(f"{kind}://"))

    monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, kind, Store)
    video = make_video(tmp_path / "video.mp4", 5)
    fsspec.filesystem(kind).pipe("/reading/video.mp4", video.read_bytes())
    fsspec.filesystem(kind).pipe("/reading/broken.mp4", b"no video")
    make_corpus(tmp_path / "corpus", f"{kind}://reading")
    make_corpus(tmp_path / "plain", video)
    corpus = autogaze.corpus.read(tmp_path / "corpus")
    assert corpus.videos == (f"{kind}://reading/video.mp4",)
    assert f"{kind.upper()}://reading/video.mp4/" in corpus
    (failed,) = corpus.errors.items()
    assert failed[0] == f"{kind}://reading/broken.mp4"
    assert failed[1].startswith("not a video")  # and no word of the copy
    assert torch.equal(corpus[0].ids, autogaze.corpus.read(tmp_path / "plain")[0].ids)
    ((frames, _),) = list(autogaze.corpus.GazeDataset(corpus))
    assert frames.shape == (1, 5, 3, 224, 224)


def test_what_is_no_corpus(tmp_path: Path, made: Path):
    with pytest.raises(CorpusError, match="s3://bucket/corpus"):
        autogaze.corpus.read("s3://bucket/corpus")
    with pytest.raises(CorpusError):
        autogaze.corpus.read(tmp_path)
    (tmp_path / "corpus.json").write_text("{}")
    with pytest.raises(CorpusError):
        autogaze.corpus.read(tmp_path)
