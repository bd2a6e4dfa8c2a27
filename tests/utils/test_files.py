"""Files appear whole and together, or not at all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from autogaze.errors import OutputError
from autogaze.utils.files import all_or_none, check_writable, replacing

ROOT = Path(__file__).parents[2]


def write(path: Path, words: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(words)


def write_both(folder: Path) -> None:
    with all_or_none():
        write(folder / "a.txt", "new a")
        write(folder / "b.txt", "new b")


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def refuse_to_rename_to(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = os.replace

    def replace(source: Path, target: Path) -> None:
        if target.name == name and source.suffix != ".old":
            raise PermissionError(1, "Operation not permitted")
        usual(source, target)

    monkeypatch.setattr("autogaze.utils.files.os.replace", replace)


def test_they_appear_at_the_end_of_the_block(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("old b")
    with all_or_none():
        write(tmp_path / "a.txt", "new a")
        write(tmp_path / "b.txt", "new b")
        assert not (tmp_path / "a.txt").exists()
        assert (tmp_path / "b.txt").read_text() == "old b"
        assert len(list(tmp_path.iterdir())) == 3  # one temporary name each, no more
    assert contents(tmp_path) == {"a.txt": "new a", "b.txt": "new b"}


def test_alone_a_file_appears_at_once(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "new a")
    assert contents(tmp_path) == {"a.txt": "new a"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failing_block_leaves_what_was_there(error: type[BaseException], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old a")

    def fail() -> None:
        with all_or_none():
            write(tmp_path / "a.txt", "new a")
            with replacing(tmp_path / "b.txt") as temporary:
                temporary.write_text("half of b")
                raise error

    with pytest.raises(error):
        fail()
    assert contents(tmp_path) == {"a.txt": "old a"}


def test_a_file_that_was_given_up_is_not_renamed(tmp_path: Path) -> None:
    def give_up() -> None:
        with replacing(tmp_path / "b.txt") as temporary:
            temporary.write_text("half of b")
            raise ValueError("enough")

    with all_or_none():
        write(tmp_path / "a.txt", "new a")
        with pytest.raises(ValueError, match="enough"):
            give_up()
    assert contents(tmp_path) == {"a.txt": "new a"}


def test_when_a_name_cannot_be_given_none_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_to_rename_to("b.txt", monkeypatch)
    with pytest.raises(OutputError, match=r"b\.txt: .*Operation not permitted"):
        write_both(tmp_path)
    assert contents(tmp_path) == {}
    (tmp_path / "a.txt").write_text("old a")
    (tmp_path / "b.txt").write_text("old b")
    with pytest.raises(OutputError, match="cannot be written"):
        write_both(tmp_path)
    assert contents(tmp_path) == {"a.txt": "old a", "b.txt": "old b"}


def test_without_hard_links_nothing_new_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("autogaze.utils.files.os.link", no_links)
    write_both(tmp_path)
    assert contents(tmp_path) == {"a.txt": "new a", "b.txt": "new b"}
    refuse_to_rename_to("b.txt", monkeypatch)
    with pytest.raises(OutputError):
        write_both(tmp_path)
    assert contents(tmp_path) == {"b.txt": "new b"}


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target = tmp_path / "there.txt"
    target.write_text("old")
    link = tmp_path / "here.txt"
    link.symlink_to(target)
    write(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_folders_that_take_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if Path("/proc/self").exists():
        with pytest.raises(OutputError, match=r"^/proc/x: .*\bfolder /proc$"):
            check_writable(Path("/proc/x"))

    def read_only(**where: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("autogaze.utils.files.tempfile.TemporaryFile", read_only)
    with pytest.raises(OutputError, match=r"/x: .*Read-only file system$"):
        check_writable(tmp_path / "x")


def killed_writer(path: Path) -> Path:
    """Kill a process in the middle of writing; its temporary file."""
    before = set(path.parent.iterdir())
    program = (
        "import os, sys; from autogaze.utils.files import replacing\n"
        "with replacing(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], cwd=ROOT)
    assert done.returncode == -9
    (left,) = set(path.parent.iterdir()) - before
    return left


@pytest.mark.parametrize("name", ["a.txt", "a b [1].safetensors", "é" * 120 + ".mp4", "noending"])
def test_what_a_killed_process_left_goes_with_the_next_run(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    left, other = killed_writer(path), killed_writer(tmp_path / "other.txt")
    with replacing(path) as temporary:
        assert not left.exists()
        temporary.write_text("whole")
        with replacing(path) as second:  # another run at the same time keeps its file
            second.write_text("whole")
            assert temporary.exists()
    assert {each.name for each in tmp_path.iterdir()} == {name, other.name}


@pytest.mark.parametrize("name", ["x" * 255, "x" * 251 + ".png", "é" * 120 + ".safetensors"])
def test_the_longest_names_that_there_can_be(name: str, tmp_path: Path) -> None:
    write(tmp_path / name, "text")
    assert contents(tmp_path) == {name: "text"}


@pytest.mark.parametrize("name", ["x" * 256, "é" * 130, "loop", "a\0b"])
def test_names_that_no_file_can_have(name: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OutputError):
        write(tmp_path / name, "text")
    assert [path.name for path in tmp_path.iterdir()] == ["loop"]
