"""A corpus goes on after whatever happened: nothing twice, nothing half, nothing forgotten."""

import os
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

import autogaze
from autogaze.corpus.folder import CorpusFolder
from autogaze.corpus.inputs import find_inputs
from autogaze.corpus.manifest import (
    ERRORS,
    GAZES,
    INPUTS,
    find_shards,
    read_manifest,
    shard_path,
)
from autogaze.corpus.run import run_corpus
from autogaze.corpus.settings import CorpusSettings
from autogaze.corpus.storage import MISSING, Input
from autogaze.corpus.worker import MAX_DEATHS, Deaths, Job, ShardTask, write_shard
from autogaze.errors import CorpusError, OutputError
from tests.clips import make_video
from tests.corpus.collection import CENTRE, gaze_here, make_collection, make_corpus
from tests.corpus.killed import check_same, failures_of, leftovers, rows_of
from tests.decoders import decoded, needs_torchcodec
from tests.disks import small_disk

__all__ = ["decoded"]

pytest.importorskip("pyarrow", reason="needs the extra corpus")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Ten videos, of which two are none, and an undisturbed corpus of them."""
    folder = tmp_path_factory.mktemp("made")
    make_collection(folder / "videos", 10, [2, 7])
    make_corpus(folder / "undisturbed", folder / "videos")
    return folder


def test_an_undisturbed_run(made: Path):
    out = made / "undisturbed"
    assert len(find_shards(out)) == 4
    assert [os.path.basename(path) for path in failures_of(out)] == ["00002.mp4", "00007.mp4"]
    errors = pytest.importorskip("pyarrow.parquet").read_table(out / ERRORS).to_pylist()
    assert [Path(row["path"]).name for row in errors] == ["00002.mp4", "00007.mp4"]
    assert {row["kind"] for row in errors} == {"VideoError"}
    assert all("not a video" in row["error"] for row in errors)
    assert leftovers(out) == []


@pytest.mark.parametrize(("stops", "size"), [([0, 3], 3), ([1, 1, 1], 1), ([2, 0, 1], 4)])
def test_interrupted_runs_end_as_an_undisturbed_one(made, tmp_path, stops, size):
    """Each run is stopped after so many shards, also in the middle of one."""
    out = tmp_path / "corpus"
    inputs = find_inputs([str(made / "videos")])
    for stop in stops:

        def until_stopped(to_do, corpus, stop=stop):
            for number, result in enumerate(gaze_here(to_do, corpus, size)):
                if number == stop:
                    raise KeyboardInterrupt  # the shard is written, and has no name yet
                yield result

        with CorpusFolder(out, CENTRE) as corpus:
            before = find_shards(out)
            try:
                run_corpus(inputs, corpus, until_stopped)
            except KeyboardInterrupt:
                assert len(find_shards(out)) == len(before) + stop
        (out / INPUTS).unlink()  # as if the end was a kill, before tables were written
    make_corpus(out, made / "videos", size=size + 1)
    check_same(out, made / "undisturbed")


def test_finished_inputs_are_skipped_and_new_ones_are_added(made: Path, tmp_path: Path):
    out = tmp_path / "corpus"
    make_corpus(out, made / "videos" / "0000[0-4].mp4")
    before = find_shards(out)
    outcome = make_corpus(out, made / "videos")
    assert len(outcome.before) == 5
    assert {Path(entry.path).name for entry in outcome.entries} == {
        f"0000{number}.mp4" for number in range(5, 10)
    }
    assert {name: find_shards(out)[name] for name in before} == before
    check_same(out, made / "undisturbed")
    assert make_corpus(out, made / "videos").entries == []


@pytest.mark.parametrize("table", ["as it was", "gone", "damaged", "old"])
def test_the_manifest_does_not_need_its_table(made: Path, tmp_path: Path, table: str):
    out = shutil.copytree(made / "undisturbed", tmp_path / "corpus", copy_function=shutil.copy2)
    if table == "gone":
        (out / INPUTS).unlink()
    elif table == "damaged":
        (out / INPUTS).write_bytes(b"nonsense")
    elif table == "old":
        name = next(iter(find_shards(out)))
        shard_path(out, name).unlink()
    found = read_manifest(out)
    whole = read_manifest(made / "undisturbed")
    if table == "old":
        assert found == {k: v for k, v in whole.items() if k != name}
        assert len(make_corpus(out, made / "videos").entries) in (1, 3)
        check_same(out, made / "undisturbed")
    else:
        assert {name: list(found[name]) for name in found} == whole


def test_a_changed_video_replaces_its_rows(made: Path, tmp_path: Path):
    videos = shutil.copytree(made / "videos", tmp_path / "videos")
    out = tmp_path / "corpus"
    make_corpus(out, videos)
    make_video(videos / "00004.mp4", 5, 64, 48)
    make_video(videos / "00007.mp4", 6, 64, 48)  # was no video
    (videos / "00000.mp4").write_bytes(b"no video any more")
    outcome = make_corpus(out, videos)
    assert len(outcome.before) == 7
    make_corpus(tmp_path / "fresh", videos)
    check_same(out, tmp_path / "fresh")
    assert autogaze.corpus.read(out)[str(videos / "00004.mp4")].num_frames == 5
    for path in videos.iterdir():
        os.utime(path, (1, 1))
    assert len(make_corpus(out, videos).entries) == 10
    assert len(rows_of(out)) == len(rows_of(tmp_path / "fresh"))


def test_a_list_may_name_what_is_missing_until_it_is_there(tmp_path: Path):
    (tmp_path / "list.txt").write_text("a.mp4\nb.mp4\n")
    make_video(tmp_path / "a.mp4", 3)
    outcome = make_corpus(tmp_path / "corpus", tmp_path / "list.txt")
    (failed,) = outcome.failed
    assert failed.path == str(tmp_path / "b.mp4")
    assert "no such file" in str(failed.error)
    make_video(tmp_path / "b.mp4", 3)
    assert make_corpus(tmp_path / "corpus", tmp_path / "list.txt").failed == []
    assert len(autogaze.corpus.read(tmp_path / "corpus")) == 2


def test_what_cannot_be_looked_up_is_an_error_and_takes_no_rows_away(made: Path, tmp_path: Path):
    """As where a server does not answer, or a tar file is broken, for a while."""
    out, broken = tmp_path / "corpus", tmp_path / "videos" / "0.tar"
    broken.parent.mkdir()
    for name in ("00000.mp4", "00002.mp4"):
        shutil.copy(made / "videos" / name, broken.parent)
    broken.write_bytes(b"no tar file")
    outcome = make_corpus(out, broken.parent)
    (entry,) = [entry for entry in outcome.failed if entry.path == str(broken)]
    assert (entry.kind, entry.lasting) == ("CorpusError", False)
    assert entry.cause.startswith("cannot be read as a tar file")
    with tarfile.open(broken, "w") as tar:
        tar.add(made / "videos" / "00000.mp4", "inside.mp4")
    outcome = make_corpus(out, broken.parent)
    assert [entry.path for entry in outcome.entries] == [f"tar://inside.mp4::{broken}"]
    corpus = autogaze.corpus.read(out)
    assert (len(corpus), len(corpus.errors)) == (2, 1)
    found = find_inputs([str(broken.parent)])
    down = [replace(each, size=MISSING, error=f"{each.path}: no answer") for each in found]
    with CorpusFolder(out, CENTRE) as folder:
        outcome = run_corpus(down, folder, gaze_here)
    assert {entry.error for entry in outcome.entries} == {
        f"{path}: no answer" for path in corpus.errors
    }
    assert autogaze.corpus.read(out).videos == corpus.videos


def test_failures_of_files_last_and_others_are_tried_again(made, tmp_path, monkeypatch):
    out = tmp_path / "corpus"

    def no_network(source, scratch):
        raise ConnectionError("the network is down")

    with monkeypatch.context() as patch:
        patch.setattr("autogaze.corpus.worker.local_file", no_network)
        outcome = make_corpus(out, made / "videos")
    assert {entry.kind for entry in outcome.failed} == {"ConnectionError"}
    assert len(outcome.failed) == 10
    assert len(make_corpus(out, made / "videos").entries) == 10
    assert make_corpus(out, made / "videos").entries == []
    assert len(make_corpus(out, made / "videos", retry_failed=True).entries) == 2
    check_same(out, made / "undisturbed")


def test_other_settings_are_named(made: Path, tmp_path: Path):
    out = tmp_path / "corpus"
    make_corpus(out, made / "videos" / "00000.mp4")
    other = CorpusSettings("centre", ratio=0.05, tiles="one", fps=2.0)
    with pytest.raises(CorpusError, match=r"ratio 0\.02, not 0\.05; fps None, not 2\.0"):
        make_corpus(out, made / "videos", settings=other)
    make_corpus(out, made / "videos" / "00001.mp4", settings=other, overwrite=True)
    (gaze,) = autogaze.corpus.read(out)
    assert gaze.num_frames == 4
    assert leftovers(out) == []


def test_one_run_at_a_time(tmp_path: Path):
    with (
        CorpusFolder(tmp_path / "corpus", CENTRE),
        pytest.raises(OutputError, match="another process"),
        CorpusFolder(tmp_path / "corpus", CENTRE),
    ):
        pass
    with CorpusFolder(tmp_path / "corpus", CENTRE):
        pass


def test_what_a_kill_left_is_removed(made: Path, tmp_path: Path):
    out = shutil.copytree(made / "undisturbed", tmp_path / "corpus", copy_function=shutil.copy2)
    (out / ".unfinished" / "abcd").mkdir(parents=True)
    (out / ".unfinished" / "abcd" / "half.parquet").write_bytes(b"PAR1")
    assert len(autogaze.corpus.read(out)) == 8  # who reads does not see it
    make_corpus(out, made / "videos")
    check_same(out, made / "undisturbed")


def test_folders_that_cannot_be_a_corpus(tmp_path: Path):
    (tmp_path / "file").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    for out in ("file", "file/corpus", "other"):
        for overwrite in (False, True):
            with (
                pytest.raises(OutputError),
                CorpusFolder(tmp_path / out, CENTRE, overwrite=overwrite),
            ):
                pass
    assert (tmp_path / "other" / "thesis.tex").exists()


def test_damaged_shards_are_named(made: Path, tmp_path: Path):
    out = shutil.copytree(made / "undisturbed", tmp_path / "corpus", copy_function=shutil.copy2)
    path = shard_path(out, next(iter(find_shards(out))))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CorpusError, match=path.name):
        make_corpus(out, made / "videos")
    with pytest.raises(CorpusError, match=path.name):
        autogaze.corpus.read(out)
    path.unlink()
    make_corpus(out, made / "videos")
    check_same(out, made / "undisturbed")
    for name in ("mine", "0" * 32):
        other = out / GAZES / "part=0" / f"{name}.parquet"
        other.parent.mkdir(exist_ok=True)
        shutil.copy(out / ERRORS, other)
        with pytest.raises(CorpusError, match="no shard"):
            read_manifest(out)
        other.unlink()


def test_a_full_disk_ends_the_run_and_is_no_error_of_a_video(made: Path, tmp_path: Path):
    out = tmp_path / "corpus"
    with pytest.raises(OutputError), small_disk(4):
        make_corpus(out, made / "videos")
    make_corpus(out, made / "videos")
    check_same(out, made / "undisturbed")


def test_a_disk_too_full_for_a_copy_ends_the_run_too(tmp_path: Path):
    video = make_video(tmp_path / "video.mp4", 3)
    with tarfile.open(tmp_path / "videos.tar", "w") as tar:
        tar.add(video, "video.mp4")
    kilobytes = video.stat().st_size // 1024
    assert kilobytes > 1
    with pytest.raises(OutputError), small_disk(kilobytes):
        make_corpus(tmp_path / "corpus", tmp_path / "videos.tar")
    assert make_corpus(tmp_path / "corpus", tmp_path / "videos.tar").failed == []


def test_a_video_that_kills_its_workers_is_an_error(made: Path, tmp_path: Path):
    inputs = [Input(str(made / "videos" / f"{n:05}.mp4"), 1) for n in (0, 1)]
    task = ShardTask("0" * 32, inputs)
    job = Job(str(tmp_path), CENTRE, "cpu")
    for _ in range(MAX_DEATHS):
        Deaths(tmp_path / f"{task.name}.json").begin(1)  # and the worker dies
    result = write_shard(task, job, CENTRE.load_selector("cpu"))
    good, bad = result.entries
    assert (good.failed, good.rows) == (False, 2)
    assert f"{MAX_DEATHS} workers died" in str(bad.error)
    assert not bad.lasting
    assert sorted(path.name for path in tmp_path.iterdir()) == [Path(result.temporary).name]


def test_a_worker_that_dies_elsewhere_condemns_nothing(made: Path, tmp_path: Path):
    path = tmp_path / "deaths.json"
    for number in range(MAX_DEATHS + 3):
        deaths = Deaths(path)
        assert deaths.count(number) == 0
        deaths.begin(number)
    assert Deaths(path).count(0) == 1
    Deaths(path).end()
    assert Deaths(path).count(0) == 0


@pytest.mark.parametrize("other", [{"dtype": "bfloat16"}, {"decoder": "torchcodec"}])
def test_other_gazes_are_another_corpus(made: Path, other: dict[str, str]):
    ((name, value),) = other.items()
    settings = replace(CENTRE, **other)
    assert settings.hash != CENTRE.hash
    with pytest.raises(CorpusError, match=rf"{name} .*{value}"):
        settings.check_same(made / "undisturbed")


@needs_torchcodec
def test_torchcodec_decodes_a_corpus(made: Path, tmp_path: Path, decoded: list[int]):
    settings = replace(CENTRE, decoder="torchcodec")
    make_corpus(tmp_path / "corpus", made / "videos" / "00000.mp4", settings=settings)
    assert set(decoded) == set(range(17))
    corpora = [
        autogaze.corpus.read(folder) for folder in (made / "undisturbed", tmp_path / "corpus")
    ]
    one, other = (corpus[str(made / "videos" / "00000.mp4")] for corpus in corpora)
    assert one.source == other.source
    assert one.ids.equal(other.ids)
    read = [
        autogaze.corpus.GazeDataset(corpora[1], decoder=name)[0][0]
        for name in ("pyav", "torchcodec")
    ]
    assert int((read[0].int() - read[1].int()).abs().max()) <= 1
