"""Shards: finished clips are kept, nothing half-done counts."""

import json

import pytest

from autogaze.datasets.clip import GazeLabels
from autogaze.datasets.labels import LabelFile
from autogaze.errors import OutputError, TrainingError
from autogaze.labelling.shards import Shard, ShardWriter, check_new, merge, parts_folder
from tests.disks import small_disk

SETTINGS = {"judge": "canvas", "num_patches": 5, "clip_len": 2}
FIRST = Shard()
LABELS = GazeLabels(((1, 4), (0,)), ((0.5, 0.1), (0.25,)))


@pytest.fixture
def out(tmp_path):
    return tmp_path / "labels.json"


def shard_writer(out, shard=FIRST, **changes):
    return ShardWriter(out, shard, {**SETTINGS, **changes})


def test_what_is_done_stays_done(out):
    with shard_writer(out) as first:
        first.add("a", LABELS)
    with shard_writer(out) as second:
        assert second.done == {"a"}
        assert not second.finished
        second.add("b", LABELS)
        second.finish()
    with shard_writer(out) as third:
        assert third.finished
    merge(out)
    assert dict(LabelFile.load(out, 5).clips) == {"a": LABELS, "b": LABELS}
    assert [file.name for file in out.parent.iterdir()] == ["labels.json"]


@pytest.mark.parametrize("num_removed", [1, 10, 60])
def test_a_torn_line_is_forgotten(out, num_removed):
    with shard_writer(out) as first:
        first.add("a", LABELS)
        path, size = first.path, first.path.stat().st_size
        first.add("b", LABELS)
    content = path.read_bytes()
    assert len(content) - size > num_removed
    path.write_bytes(content[:-num_removed])
    with shard_writer(out) as second:
        assert second.done == {"a"}
        second.add("b", LABELS)
    assert path.read_bytes() == content


def test_a_shard_torn_in_its_first_line_begins_anew(out):
    with shard_writer(out) as first:
        path = first.path
    path.write_bytes(path.read_bytes()[:7])
    with shard_writer(out) as second:
        second.add("a", LABELS)
    assert json.loads(path.read_text().splitlines()[0]) == {"settings": SETTINGS}


def test_other_settings_are_refused(out):
    with shard_writer(out):
        pass
    with pytest.raises(TrainingError, match=r"'canvas'.*'VideoMAE'"):
        shard_writer(out, judge="VideoMAE").__enter__()
    with pytest.raises(TrainingError, match=r"stride None.*2"):
        shard_writer(out, stride=2).__enter__()


def test_two_processes_do_not_write_one_shard(out):
    pytest.importorskip("fcntl")
    with shard_writer(out), pytest.raises(OutputError):
        shard_writer(out).__enter__()
    with shard_writer(out):  # free again
        pass


def test_a_full_disk_keeps_what_was_done(out):
    def fill():
        with shard_writer(out) as first:
            for number in range(10000):
                first.add(f"clip {number}", LABELS)

    with small_disk(), pytest.raises(OutputError):
        fill()
    with shard_writer(out) as second:
        assert second.done == {f"clip {number}" for number in range(len(second.done))}
        assert len(second.done) > 100
        second.add("one more", LABELS)


def test_shards_are_merged(out):
    for number in (1, 2, 3):
        with shard_writer(out, Shard(number, 3)) as part:
            part.add(f"clip {number}", LABELS)
            part.finish()
    labels = merge(out)
    assert len(labels) == 3
    assert not parts_folder(out).exists()


def test_unfinished_shards_are_not_merged(out):
    with pytest.raises(TrainingError):
        merge(out)
    with shard_writer(out, Shard(1, 2)) as part:
        part.finish()
    with pytest.raises(TrainingError, match="2/2"):
        merge(out)
    with shard_writer(out, Shard(2, 2)) as part:
        part.add("a", LABELS)
    with pytest.raises(TrainingError, match="2/2"):
        merge(out)
    assert not out.exists()
    with shard_writer(out, Shard(1, 3)):
        pass
    with pytest.raises(TrainingError, match="2, 3"):
        merge(out)


def test_shards_of_other_settings_are_not_merged(out):
    for number, judge in ((1, "canvas"), (2, "VideoMAE")):
        with shard_writer(out, Shard(number, 2), judge=judge) as part:
            part.finish()
    with pytest.raises(TrainingError, match=r"2-of-2.*'VideoMAE'.*'canvas'"):
        merge(out)


def test_finished_files_are_not_overwritten(out):
    check_new(out)
    out.write_text("{}")
    with pytest.raises(OutputError, match=r"labels\.json"):
        check_new(out)
    parts_folder(out).mkdir()  # killed after the file was written: it is merged again
    check_new(out)


@pytest.mark.parametrize("line", ["null", "[]", "3", '"text"', "{}", '{"settings": null}'])
def test_a_journal_that_begins_with_something_else_is_named(out, line):
    with shard_writer(out, Shard(1, 1)) as writer:
        path = writer.path
    path.write_text(line + "\n")
    with pytest.raises(TrainingError, match=path.name):
        shard_writer(out, Shard(1, 1)).__enter__()
    with pytest.raises(TrainingError, match=path.name):
        merge(out)


@pytest.mark.parametrize("name", ["1-of-x.jsonl", "x-of-1.jsonl", "1-of-0.jsonl", "2-of-1.jsonl"])
def test_a_file_that_is_named_like_no_shard_is_named(out, name):
    with shard_writer(out, Shard(1, 1)) as writer:
        writer.add("a", LABELS)
        writer.finish()
        path = writer.path
    path.with_name(name).write_text("{}\n")
    with pytest.raises(TrainingError, match=name):
        merge(out)
    assert not out.exists()


@pytest.mark.parametrize("text", ["3/2", "0/2", "1", "a/b", "1/", "-1/2"])
def test_bad_shards(text):
    with pytest.raises(TrainingError, match=rf"'{text}'"):
        Shard.parse(text)


def test_shards():
    assert Shard.parse("2/8") == Shard(2, 8)
    assert str(Shard(2, 8)) == "2/8"
