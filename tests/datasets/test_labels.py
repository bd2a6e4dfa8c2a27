"""Label files: the known form, and clear words for every other."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autogaze.datasets.clip import ClipKey, GazeLabels, LabelCoverage, TrainingClip
from autogaze.datasets.decoded import DecodedClips, save_decoded
from autogaze.datasets.labels import LabelFile, window_name
from autogaze.datasets.procedural import ProceduralClips, ProceduralSettings
from autogaze.datasets.video_windows import VideoWindows, Window
from autogaze.errors import OutputError, TrainingError
from tests.clips import make_video
from tests.datasets.pictures import some_frames
from tests.disks import small_disk

V = 5
names = st.text(min_size=1).filter(lambda name: name.count("/") < 3)
frame_ids = st.lists(st.integers(0, V - 1), unique=True, max_size=V)


@st.composite
def labels(draw):
    ids = tuple(tuple(draw(frame_ids)) for _ in range(draw(st.integers(1, 4))))
    if not draw(st.booleans()):
        return GazeLabels(ids, ())
    losses = st.floats(0, 10, allow_nan=False)
    return GazeLabels(ids, tuple(tuple(draw(losses) for _ in frame) for frame in ids))


@given(clips=st.dictionaries(names, labels(), min_size=1, max_size=4))
@settings(deadline=None, max_examples=50)
def test_what_is_written_is_read(tmp_path_factory, clips):
    path = tmp_path_factory.mktemp("labels") / "labels.json"
    LabelFile(path, clips).save(V)
    read = LabelFile.load(path, V)
    assert dict(read.clips) == clips
    assert len(read) == len(clips)


def test_the_known_form(tmp_path):
    path = tmp_path / "labels.json"
    LabelFile(path, {"d/train/v.mp4": GazeLabels(((2, 0), (4,)), ((0.5, 0.25), (0.125,)))}).save(V)
    assert json.loads(path.read_text()) == {
        "d/train/v.mp4": {"gazing_pos": [[2, 0], [9]], "task_losses": [[0.5, 0.25], [0.125]]}
    }


def entry(positions, losses=None):
    return {"x": {"gazing_pos": positions, **({} if losses is None else {"task_losses": losses})}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (entry([[2], [12]]), r"\bx\b.*position 12\b.*frame 1\b.*\[5, 10\)"),
        (entry([[2], [4]]), r"position 4\b.*frame 1\b.*pyramid.*\b5 patches"),
        (entry([[2, 2]]), r"\bx\b.*twice.*frame 0\b"),
        (entry([[2, 3]], [[0.1]]), r"\bx\b.*\bone loss\b"),
        (entry([[2, 3]], [[0.1, 0.1], []]), r"\bx\b.*\bone loss\b"),
        (entry([]), "x has no frames"),
        (entry([3]), r"\bx\b.*gazing_pos\b.*task_losses\b"),
        (entry([[1.5]]), r"\bx\b.*\b1\.5 .*position"),
        (entry([["1"]]), r"\bx\b.*'1' .*position"),
        (entry([[True]]), r"\bx\b.*\bTrue .*position"),
        (entry([[1]], [["a"]]), r"\bx\b.*gazing_pos\b.*task_losses\b"),
        (entry([[1]], [[float("nan")]]), r"\bx\b.*\bnan .*loss"),
        ({"x": {"positions": []}}, r"\bx\b.*gazing_pos\b.*task_losses\b"),
        ({"x": [[1]]}, r"\bx\b.*gazing_pos\b.*task_losses\b"),
        ([], r"\bdict\b.*\blist\b"),
        ({}, r"\bdict\b.*\bempty\b"),
    ],
)
def test_other_forms_are_refused(tmp_path, content, message):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(content))
    with pytest.raises(TrainingError, match=message) as raised:
        LabelFile.load(path, V)
    assert str(path) in str(raised.value)


def test_packed_files(tmp_path):
    clips = {"d/train/v.mp4": GazeLabels(((2, 0), (4,)), ((0.5, 0.25), (0.125,)))}
    for name in ("labels.json", "labels.json.gz", "again.json.gz"):
        LabelFile(tmp_path / name, clips).save(V)
        assert dict(LabelFile.load(tmp_path / name, V).clips) == clips
    packed, again = ((tmp_path / f"{name}.json.gz").read_bytes() for name in ("labels", "again"))
    assert packed[:2] == b"\x1f\x8b"
    assert packed == again  # nothing of when and where it was written
    for content in (packed[:-9], packed[:4], b"not packed", packed[:20] + b"xxxx" + packed[24:]):
        (tmp_path / "bad.json.gz").write_bytes(content)
        with pytest.raises(TrainingError, match="cannot be read as JSON"):
            LabelFile.load(tmp_path / "bad.json.gz", V)


def test_no_file_and_no_json(tmp_path):
    with pytest.raises(TrainingError, match="no such label file"):
        LabelFile.load(tmp_path / "none.json", V)
    (tmp_path / "bad.json").write_text('{"a": ')
    with pytest.raises(TrainingError, match="cannot be read as JSON"):
        LabelFile.load(tmp_path / "bad.json", V)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TrainingError, match="cannot be read as JSON"):
        LabelFile.load(tmp_path / "binary.json", V)


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "labels.json"
    LabelFile(path, {"x": GazeLabels(((1,),), ())}).save(V)
    before = path.read_bytes()
    many = {f"clip {n}": GazeLabels(((1,),), ()) for n in range(5000)}
    with small_disk(), pytest.raises(OutputError, match="cannot be written"):
        LabelFile(path, many).save(V)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["labels.json"]


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "set" / "train"
    folder.mkdir(parents=True)
    for name in ("a", "b"):
        make_video(folder / f"{name}.mp4", 4)
    return tmp_path / "set"


def label_file(*names, frames=2):
    return LabelFile(Path("labels.json"), {n: GazeLabels(((1,),) * frames, ()) for n in names})


def test_only_labelled_videos_are_used(videos):
    labels = label_file("set/train/b.mp4", "set/train/z.mp4")
    folder = VideoWindows([videos], window=Window(2), side=32, labels=labels)
    assert len(folder) == 1
    assert folder[ClipKey(0, 0)].name == "set/train/b.mp4"
    assert folder[ClipKey(0, 0)].labels == labels["set/train/b.mp4"]
    assert folder.coverage == LabelCoverage("labels.json", 2, 1, "set/train/a.mp4")
    assert VideoWindows([videos], window=Window(2), side=32).coverage is None


def test_a_name_of_two_videos_is_refused(videos, tmp_path):
    other = tmp_path / "other" / "set" / "train"
    other.mkdir(parents=True)
    make_video(other / "b.mp4", 4)
    roots = [videos, tmp_path / "other" / "set"]
    with pytest.raises(TrainingError, match=r"labels\.json .*\bset/train/b\.mp4\b.*/other/set"):
        VideoWindows(roots, window=Window(2), labels=label_file("set/train/b.mp4"))
    folder = VideoWindows(roots, window=Window(2), labels=label_file("set/train/a.mp4"))
    assert (len(folder), folder.coverage.found, folder.coverage.labelled) == (1, 3, 1)


def test_labels_that_do_not_fit_are_refused(videos):
    with pytest.raises(
        TrainingError,
        match=r"\b2\b.*\bset/train/a\.mp4\b.*\bx/y/z\.mp4\b.*`autogaze label`",
    ):
        VideoWindows([videos], window=Window(2), labels=label_file("x/y/z.mp4"))
    labels = label_file("set/train/b.mp4", frames=3)
    with pytest.raises(TrainingError, match=r"\bb\.mp4\b.*\b3 frames.*\b2\b"):
        VideoWindows([videos], window=Window(2), labels=labels)
    with pytest.raises(TrainingError, match="random_sample_frame=False"):
        VideoWindows([videos], window=Window(2, random=True), labels=label_file("set/train/b.mp4"))


def test_every_labelled_window_is_a_clip(videos):
    names = ["set/train/a.mp4#2", "set/train/a.mp4", "set/train/b.mp4#1"]
    labels = label_file(*names)
    assert [window_name("set/train/a.mp4", start) for start in (0, 2)] == [names[1], names[0]]
    folder = VideoWindows([videos], window=Window(2), side=32, labels=labels)
    assert [folder[number].name for number in range(len(folder))] == [names[1], names[0], names[2]]
    assert [folder.name(number) for number in range(3)] == [names[1], names[0], names[2]]
    assert folder.coverage == LabelCoverage("labels.json", 2, 2)
    whole = VideoWindows([videos], window=Window(4), side=32)
    for number, (video, start) in enumerate([(0, 0), (0, 2), (1, 1)]):
        assert torch.equal(folder[number].frames, whole[video].frames[start : start + 2])
        assert folder[ClipKey(3, number)].labels is labels[folder.name(number)]


def test_only_labelled_drawn_clips_are_given():
    drawn = ProceduralClips(5, ProceduralSettings(clip_len=2, side=16))
    chosen = [drawn.name(3), drawn.name(1)]
    labelled = ProceduralClips(5, drawn.settings, labels=label_file(*chosen, "other"))
    assert len(labelled) == 2
    assert labelled.coverage == LabelCoverage("labels.json", 5, 2, drawn.name(0))
    for epoch in (0, 1):  # they are the same in every epoch
        for number, original in enumerate((1, 3)):
            clip = labelled[ClipKey(epoch, number)]
            assert clip.name == drawn.name(original)
            assert clip.labels is not None
            assert torch.equal(clip.frames, drawn[ClipKey(0, original)].frames)
    for other in (
        {"seed": 1, "settings": drawn.settings},
        {"settings": ProceduralSettings(clip_len=2, side=16, max_speed=0.5)},
    ):
        with pytest.raises(TrainingError, match=r"none of the 5 .*\bprocedural"):
            ProceduralClips(5, **other, labels=label_file(*chosen))
    with pytest.raises(TrainingError, match=r"\b3 frames.*\b2\b"):
        ProceduralClips(5, drawn.settings, labels=label_file(*chosen, frames=3))


def test_decoded_clips_and_labels(tmp_path):
    path = tmp_path / "clips.safetensors"
    save_decoded([TrainingClip(some_frames(2), name) for name in "abc"], path)
    found = DecodedClips([path], labels=label_file("c"))
    assert [clip.name for clip in map(found.__getitem__, range(len(found)))] == ["c"]
    assert found.coverage == LabelCoverage("labels.json", 3, 1, "a")
    assert torch.equal(found[0].frames, some_frames(2))
    with pytest.raises(TrainingError, match=r"none of the 3 .*\ba\b.*\bd\b"):
        DecodedClips([path], labels=label_file("d"))
    with pytest.raises(TrainingError, match=r"\bb\b.*\b7 frames.*\b2\b"):
        DecodedClips([path], labels=label_file("b", frames=7))


# Names of other machines, and several files.


@pytest.mark.parametrize(
    "before", ["", "/", "/mnt/share/a/", "../", "https://host/b/", "/d/train/"]
)
def test_longer_names_count_by_their_last_three_parts(tmp_path, before):
    path = tmp_path / "labels.json"
    content = {f"{before}d/train/v.mp4#32": entry([[1]])["x"], "one.mp4": entry([[2]])["x"]}
    path.write_text(json.dumps(content))
    assert list(LabelFile.load(path, V).clips) == ["d/train/v.mp4#32", "one.mp4"]


def test_two_clips_of_one_name_must_agree(tmp_path):
    path = tmp_path / "labels.json"
    same = {f"/{machine}/d/train/v.mp4": entry([[1]])["x"] for machine in "ab"}
    path.write_text(json.dumps(same))
    assert len(LabelFile.load(path, V)) == 1
    path.write_text(json.dumps({**same, "/c/d/train/v.mp4": entry([[2]])["x"]}))
    with pytest.raises(TrainingError, match="/c/d/train/v"):
        LabelFile.load(path, V)


@pytest.fixture
def shards(tmp_path, monkeypatch):
    """Three files: a and b name one clip each, c both, one of them with other labels."""
    monkeypatch.chdir(tmp_path)
    for name, found in {
        "a": {"x": [[1]]},
        "b": {"y": [[2]]},
        "c": {"x": [[1]], "y": [[3]]},
    }.items():
        clips = {clip: {"gazing_pos": ids} for clip, ids in found.items()}
        (tmp_path / f"{name}.json").write_text(json.dumps(clips))
    (tmp_path / "with,comma.json").write_text(json.dumps({"z": {"gazing_pos": [[4]]}}))
    return tmp_path


@pytest.mark.parametrize(
    ("paths", "wanted"),
    [
        ("a.json", {"x": 1}),
        (Path("a.json"), {"x": 1}),
        ("a.json,b.json", {"x": 1, "y": 2}),
        (" a.json , b.json, ", {"x": 1, "y": 2}),
        (["a.json", "b.json"], {"x": 1, "y": 2}),
        ("[ab].json", {"x": 1, "y": 2}),
        ("[a-c].*", {"x": 1, "y": 3}),
        ("./**/?.json", {"x": 1, "y": 3}),
        ("c.json,b.json", {"x": 1, "y": 2}),
        ("with,comma.json", {"z": 4}),
        (["with,comma.json", "a.json"], {"z": 4, "x": 1}),
    ],
)
def test_several_files_are_one(paths, wanted, shards):
    found = LabelFile.load_all(paths, V).clips
    assert {name: labels.ids[0][0] for name, labels in found.items()} == wanted


def test_labels_that_differ_between_files_are_told(shards, caplog):
    LabelFile.load_all("a.json,c.json", V)
    assert not caplog.records
    LabelFile.load_all("b.json,c.json", V)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize("paths", ["", ",", [], "d*.json", "a.json,nothing.json"])
def test_files_that_are_not_there(paths, shards):
    with pytest.raises(TrainingError):
        LabelFile.load_all(paths, V)
