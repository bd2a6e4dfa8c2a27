"""Arguments become videos, each once, wherever they lie."""

import io
import os
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.cached import CachingFileSystem

from autogaze.corpus.addresses import absolute
from autogaze.corpus.inputs import expand_braces, find_inputs
from autogaze.corpus.listing import MAX_REFUSED, Tree
from autogaze.corpus.manifest import Entry, Sorted, sort_inputs
from autogaze.corpus.storage import MISSING, Input, filesystem, local_file
from autogaze.errors import CorpusError, MissingExtraError, VideoError

pa = pytest.importorskip("pyarrow", reason="needs the extra corpus")
parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra corpus")


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """A folder that looks like one of videos: nothing is decoded here."""
    folder = tmp_path / "videos"
    for name in ("b.mp4", "a.mkv", "deep/c.MP4", ".hidden.mp4", ".cache/d.mp4", "notes.md"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


@pytest.fixture
def memory():
    """A file system of fsspec's in memory, empty again after the test."""
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def names(inputs: list[Input]) -> list[str]:
    return [os.path.basename(each.path) for each in inputs]


def test_a_folder_is_walked_in_order_and_hidden_files_are_left_out(videos: Path):
    assert names(find_inputs([str(videos)])) == ["a.mkv", "b.mp4", "c.MP4"]


def test_inputs_are_identified_by_path_size_and_time(videos: Path):
    (first, *_) = find_inputs([str(videos)])
    stat = (videos / "a.mkv").stat()
    assert first == Input(str(videos / "a.mkv"), stat.st_size, stat.st_mtime)


def test_each_video_comes_once(videos: Path, monkeypatch):
    monkeypatch.chdir(videos)
    found = find_inputs(["b.mp4", str(videos), "*.mp4", f"file://{videos}/b.mp4"])
    assert names(found) == ["b.mp4", "a.mkv", "c.MP4"]


def test_patterns(videos: Path):
    assert names(find_inputs([f"{videos}/**/*.[mM]*4"])) == ["b.mp4", "c.MP4"]
    (videos / "x[1].mp4").touch()
    assert names(find_inputs([f"{videos}/x[1].mp4"])) == ["x[1].mp4"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a.mp4", ["a.mp4"]),
        ("{08..10}.tar", ["08.tar", "09.tar", "10.tar"]),
        ("{8..10}", ["8", "9", "10"]),
        ("{10..08}.tar", ["10.tar", "9.tar", "8.tar"]),
        ("{03..1}", ["03", "02", "01"]),
        ("{a,b}-{1..2}", ["a-1", "a-2", "b-1", "b-2"]),
        ("{name}.mp4", ["{name}.mp4"]),
    ],
)
def test_braces(pattern: str, expected: list[str]):
    assert expand_braces(pattern) == expected


@pytest.mark.parametrize("pattern", ["{0..999999999}.mp4", "{0..9999}/{0..9999}.mp4"])
def test_braces_that_name_too_many_paths(pattern: str):
    with pytest.raises(CorpusError):
        find_inputs([pattern])


def test_a_pattern_passes_over_folders_without_videos(videos: Path):
    (videos / "empty" / "inner").mkdir(parents=True)
    assert names(find_inputs([f"{videos}/[de]*"])) == ["c.MP4"]
    with pytest.raises(CorpusError):
        find_inputs([f"{videos}/emp*"])


def test_a_folder_that_cannot_be_listed_is_not_passed_over(
    videos: Path, tmp_path: Path, monkeypatch
):
    listed = os.scandir

    def scandir(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr("os.scandir", scandir)
    for argument in (str(videos), f"{videos}/*"):
        (refused,) = [each for each in find_inputs([argument]) if each.error is not None]
        assert (refused.path, refused.size) == (str(videos / "deep"), MISSING)
        with pytest.raises(CorpusError, match="Permission denied"), local_file(refused, tmp_path):
            pass
    with pytest.raises(CorpusError, match="Permission denied"):
        find_inputs([str(videos / "deep")])


def test_lists_name_paths_from_their_own_folder(videos: Path):
    file = videos / "list.txt"
    file.write_text(f"# two of them\nb.mp4\n\n{videos}/a.mkv\nmissing.mp4\n")
    found = find_inputs([str(file)])
    assert names(found) == ["b.mp4", "a.mkv", "missing.mp4"]
    assert found[2].size == MISSING


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables(videos: Path, suffix: str):
    file = videos / f"table{suffix}"
    table = pa.table({"label": [1, 2], "path": ["b.mp4", "deep/c.MP4"]})
    if suffix == ".csv":
        file.write_text("label,path\n1,b.mp4\n2,deep/c.MP4\n")
    else:
        parquet.write_table(table, file)
    assert names(find_inputs([str(file)])) == ["b.mp4", "c.MP4"]
    with pytest.raises(CorpusError, match="label, path"):
        find_inputs([str(file)], column="video")


def test_a_row_without_a_path_is_named(tmp_path: Path):
    parquet.write_table(pa.table({"path": ["a.mp4", None]}), tmp_path / "table.parquet")
    with pytest.raises(CorpusError, match="row 2"):
        find_inputs([str(tmp_path / "table.parquet")])


def test_web_dataset(videos: Path, tmp_path: Path):
    archive = videos / "shard-00.tar"
    with tarfile.open(archive, "w") as tar:
        for name in ("b.mp4", "notes.md", "deep/c.MP4"):
            tar.add(videos / name, name)
    found = find_inputs([f"{videos}/shard-{{00..00}}.tar"])
    assert [each.path for each in found] == [
        f"tar://b.mp4::{archive}",
        f"tar://deep/c.MP4::{archive}",
    ]
    with local_file(found[1], tmp_path / "scratch") as path:
        assert path.read_bytes() == b"deep/c.MP4"
        assert path.suffix == ".MP4"
    assert not path.exists()


@pytest.mark.parametrize("name", ["a::b.mp4", os.fsdecode(b"caf\xe9.mp4"), "sp ace%20#.mp4"])
def test_any_name_in_a_tar_file_can_be_read(tmp_path: Path, name: str):
    (tmp_path / "in.mp4").write_bytes(b"inside")
    with tarfile.open(tmp_path / "a.tar", "w", errors="surrogateescape") as tar:
        tar.add(tmp_path / "in.mp4", name)
    (found,) = find_inputs([str(tmp_path / "a.tar")])
    found.path.encode()
    with local_file(found, tmp_path / "scratch") as path:
        assert path.read_bytes() == b"inside"


def test_archives_that_are_not_there_or_are_pipes(videos: Path):
    (videos / "gone.tar").symlink_to("nothing.tar")
    assert names(find_inputs([str(videos)])) == ["a.mkv", "b.mp4", "gone.tar", "c.MP4"]
    os.mkfifo(videos / "pipe.tar")
    (videos / "text.tar").write_text("no tar file")
    (videos / "z.tar.gz").touch()
    found = find_inputs([f"{videos}/*"])
    assert [os.path.basename(each.path) for each in found if each.error is not None] == [
        "pipe.tar", "text.tar", "z.tar.gz",
    ]  # fmt: skip
    with pytest.raises(CorpusError, match=r"pipe\.tar"):
        find_inputs([str(videos / "pipe.tar")])


def test_another_file_system(memory, tmp_path: Path):
    hidden = ".four.mp4", "two/.cache/five.mp4"
    for name in ("one.mp4", "two/three.webm", "two/other.txt", *hidden):
        memory.pipe(f"/bucket/{name}", name.encode())
    found = find_inputs(["memory://bucket"])
    assert [each.path for each in found] == [
        "memory://bucket/one.mp4",
        "memory://bucket/two/three.webm",
    ]
    assert [each.size for each in found] == [7, 14]
    assert found[0].modified is not None
    with local_file(found[1], tmp_path) as path:
        assert path.read_bytes() == b"two/three.webm"
    memory.pipe("/bucket/list.txt", b"two/three.webm\nnone.mp4\n")
    listed = find_inputs(["memory://bucket/list.txt"])
    assert [each.size for each in listed] == [14, MISSING]
    assert names(find_inputs(["memory://bucket/*.mp4"])) == ["one.mp4"]
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        (tmp_path / "in.mp4").write_bytes(b"inside")
        tar.add(tmp_path / "in.mp4", "in.mp4")
    memory.pipe("/tars/a.tar", (tmp_path / "a.tar").read_bytes())
    (inside,) = find_inputs(["memory://tars/a.tar"])
    with local_file(inside, tmp_path / "scratch") as path:
        assert path.read_bytes() == b"inside"


def test_any_name_of_an_object_can_be_read(memory, tmp_path: Path):
    odd = "a b", "c#d", "e?", "f%20g", "ü日本", "h[1]", "k*"
    for name in odd:
        memory.pipe(f"/odd/{name}.mp4", name.encode())
    for found in (
        find_inputs(["memory://odd"]),
        find_inputs(["memory://odd/*.mp4"]),
        [each for name in odd for each in find_inputs([f"memory://odd/{name}.mp4"])],
    ):
        assert len(found) == len(odd)
        for each in found:
            with local_file(each, tmp_path / "scratch") as path:
                assert path.read_text() == Path(each.path).stem


def test_lists_of_another_file_system_go_up_folders(memory):
    for name in ("up/one.mp4", "up/lists/two.mp4"):
        memory.pipe(f"/{name}", b"video")
    memory.pipe("/up/lists/list.txt", b"../one.mp4\n./two.mp4\n")
    found = find_inputs(["memory://up/lists/list.txt"])
    assert [each.path for each in found] == ["memory://up/one.mp4", "memory://up/lists/two.mp4"]
    assert [each.size for each in found] == [5, 5]


class Web(fsspec.AbstractFileSystem):
    """Stands in for fsspec's HTTP: any page is a file, no size is listed, and what fails is not found."""

    cachable = False
    headers: ClassVar[dict[str, dict[str, Any]]] = {}

    @classmethod
    def _strip_protocol(cls, path):
        return path

    def unstrip_protocol(self, name):
        return name

    def info(self, path, **kwargs):
        found = self.headers.get(path)
        if isinstance(found, Exception) or found is None:
            raise FileNotFoundError(path) from found
        return {"name": path, "size": None, "type": "file", **found}

    def ls(self, path, detail=True, **kwargs):
        found = self.headers.get(path, FileNotFoundError(path))
        if isinstance(found, Exception):
            raise found
        links = [f"{path}{link}" for link in found.get("links", [])]
        kinds = ["directory" if link.endswith("/") else "file" for link in links]
        pairs = zip(links, kinds, strict=True)
        return [{"name": link, "size": None, "type": kind} for link, kind in pairs]

    def _open(self, path, mode="rb", **kwargs):
        self.info(path)
        return io.BytesIO(self.headers[path]["content"])

    def get_file(self, rpath, lpath, **kwargs):
        Path(lpath).write_bytes(self.headers[rpath]["content"])


REGISTRY: dict[str, Any] = sys.modules["fsspec.registry"]._registry
"""Of fsspec's file systems that were asked for; its name in the package is that of a view of it."""


@pytest.fixture
def web(monkeypatch) -> dict[str, Any]:
    """Headers of the pages of a web, by URL."""
    monkeypatch.setitem(REGISTRY, "https", Web)
    monkeypatch.setattr(Web, "headers", {})
    return Web.headers


VIDEO = {"size": 7, "Last-Modified": "Sat, 28 Nov 2026 10:56:28 GMT"}


def test_a_folder_of_the_web_is_a_page_of_links(web: dict[str, Any]):
    links = "one.mp4", "?sort=size", "about.html", ".cache/", "./", "../", "../other.mp4", "%2E%2E/"
    web["https://host/videos/"] = {"size": 500, "links": links}
    web["https://host/videos/one.mp4"] = VIDEO
    (found,) = find_inputs(["https://host/videos/"])
    assert found.identity == (
        "https://host/videos/one.mp4", 7, None, "Sat, 28 Nov 2026 10:56:28 GMT",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("link", "name"),
    [
        ("./a.mp4", "a.mp4"),
        ("../videos/./a.mp4", "a.mp4"),
        ("b c.mp4", "b%20c.mp4"),
        ("%c3%bc%7e.mp4", "%C3%BC~.mp4"),
        ("a.mp4?key=a/.b", "a.mp4?key=a/.b"),
        ("a.mp4#t=3", "a.mp4"),
    ],
)
def test_a_link_is_taken_however_it_is_written(web: dict[str, Any], link: str, name: str):
    web["https://host/videos/"] = {"links": [link, name]}
    web[f"https://host/videos/{name}"] = VIDEO
    (found,) = find_inputs(["https://host/videos/"])
    assert (found.path, found.size) == (f"https://host/videos/{name}", 7)


@pytest.mark.parametrize("argument", ["https://host/", "https://host/**/*.mp4", "https://host/*/"])
def test_a_page_that_fails_below_another_is_an_error_of_its_own(web: dict[str, Any], argument: str):
    """As is a video that a page links to; fsspec passes over folders in folders."""
    web["https://host/"] = {"links": ["./in/"]}
    web["https://host/in/"] = {"links": ["bad/", "deep/", "./", "two.mp4"]}
    web["https://host/in/deep/"] = {"links": ["one.mp4", "gone/", "../../in/"]}
    web["https://host/in/deep/one.mp4"] = VIDEO
    web["https://host/in/two.mp4"] = web["https://host/in/bad/"] = PermissionError("forbidden")
    found = {each.path.removeprefix("https://host/in/"): each for each in find_inputs([argument])}
    errors = {path: each.error.rpartition(": ")[2] for path, each in found.items() if each.error}
    assert errors == {"bad/": "forbidden", "two.mp4": "forbidden", "deep/gone/": "no such folder"}
    assert set(found) - set(errors) == {"deep/one.mp4"}


def test_folders_of_other_file_systems_that_fail_are_errors_of_their_own(monkeypatch):
    class Far(Web):
        """Lists folder by folder; paths in it lack its host."""

        protocol = "ftp"

        @classmethod
        def _strip_protocol(cls, path):
            return path.removeprefix("ftp://host").rstrip("/")

        def info(self, path, **kwargs):
            return {"name": path, "type": "directory" if path in self.headers else "file"}

    monkeypatch.setattr("fsspec.core.url_to_fs", lambda uri: (Far(), Far._strip_protocol(uri)))
    pages = {"/top": ("in",), "/top/in": ("bad", "a.mp4"), "/top/in/bad": PermissionError("no")}
    listed = {
        path: links if isinstance(links, Exception) else {"links": links}
        for path, links in pages.items()
    }
    monkeypatch.setattr(Far, "headers", listed)

    def ls(self, path, detail=True, **kwargs):
        names = [each["name"] for each in Web.ls(self, path)]
        names = [f"{path}/{name.removeprefix(path)}" for name in names]
        return [self.info(name) for name in names]

    monkeypatch.setattr(Far, "ls", ls)
    for argument in ("ftp://host/top/", "ftp://host/top/*"):
        video, bad = find_inputs([argument])
        assert (video.path, video.error) == ("ftp://host/top/in/a.mp4", None)
        assert bad.error == "ftp://host/top/in/bad: cannot be listed: no"


def test_an_object_store_is_listed_in_one_request(monkeypatch):
    class Store(AsyncFileSystem):
        """Has a `_find` alone, as those of `gs://` and `az://`."""

        cachable = False
        protocol = "gs"

        async def _info(self, path, **kwargs):
            return {"name": path, "type": "directory"}

        async def _find(self, path, detail=False, **kwargs):
            return {f"{path}/in/{name}.mp4": {"type": "file", "size": 5} for name in "ab"}

    monkeypatch.setattr("fsspec.core.url_to_fs", lambda uri: (Store(), uri.removeprefix("gs://")))
    found = find_inputs(["gs://bucket/"])  # there is no `_ls`
    assert [each.path for each in found] == ["gs://bucket/in/a.mp4", "gs://bucket/in/b.mp4"]


def test_a_name_with_two_colons_is_no_chain(monkeypatch):
    monkeypatch.setattr("fsspec.core.get_filesystem_class", lambda kind: Web)
    assert isinstance(filesystem("https://host/a::b.mp4")[0], Web)
    assert isinstance(filesystem("filecache::memory://a.mp4")[0], CachingFileSystem)


def test_signed_urls(web: dict[str, Any], tmp_path: Path):
    signature = f"?key=a/b&signature={'0.f' * 100}"
    web[f"https://host/one.mp4{signature}"] = {"content": b"video", "size": 5}
    web["https://host/two.mp4"] = {"content": b"video"}  # as long as it takes
    list_url = f"https://host/list.txt{signature}"
    web[list_url] = {"content": f"https://host/one.mp4{signature}\ntwo.mp4\n".encode()}
    one, two = find_inputs([list_url])
    assert (one.size, two.size) == (5, 0)
    for each in (one, two, *find_inputs([one.path])):
        with local_file(each, tmp_path) as path:
            assert (path.name, path.read_bytes()) == ("video.mp4", b"video")


@pytest.mark.parametrize("where", ["one.mp4", "folder/", "*.mp4?a", "list.txt"])
def test_a_server_that_fails_is_no_missing_file(web: dict[str, Any], where: str):
    """Else what was gazed at before would be replaced by an error."""
    web[f"https://host/{where}"] = ConnectionRefusedError("nobody listens")
    web["https://host/list.txt"] = {"content": b"one.mp4\n"}
    web["https://host/one.mp4"] = ConnectionRefusedError("nobody listens")
    with pytest.raises(CorpusError, match="nobody listens"):
        find_inputs([f"https://host/{where}"])


@pytest.mark.parametrize(
    ("uri", "cause"),
    [
        ("https://host/one.mp4", "nobody listens"),
        ("https://host/none.tar", "forbidden"),
        ("nosuchthing://bucket/a.mp4", "nosuchthing"),
        ("https://[/a.mp4", "no such file|nothing matches"),
        ("file://server/a.mp4", "another machine"),
    ],
)
def test_an_address_of_a_list_that_is_refused_fails_alone(
    web: dict[str, Any], videos: Path, uri: str, cause: str
):
    web["https://host/one.mp4"] = ConnectionRefusedError("nobody listens")
    web["https://host/none.tar"] = PermissionError("forbidden")
    (videos / "list.txt").write_text(f"{uri}\nb.mp4\n")
    refused, fine = find_inputs([str(videos / "list.txt")])
    assert (refused.path, fine.size) == (uri, 5)
    with pytest.raises((CorpusError, VideoError), match=cause), local_file(refused, videos):
        pass
    with pytest.raises(CorpusError, match=cause):
        find_inputs([uri, str(videos)])


def test_a_list_of_which_nothing_answers_ends_soon(web: dict[str, Any], tmp_path: Path):
    names = [f"https://host/{number}.mp4" for number in range(3 * MAX_REFUSED)]
    web.update(dict.fromkeys(names, TimeoutError("no answer")))
    (tmp_path / "list.txt").write_text("\n".join(names))
    with pytest.raises(CorpusError, match=f"none of the first {MAX_REFUSED} .*no answer"):
        find_inputs([str(tmp_path / "list.txt")])
    web[names[1]] = VIDEO
    found = find_inputs([str(tmp_path / "list.txt")])
    assert [each.path for each in found if each.error is None] == [names[1]]


@pytest.mark.parametrize(
    ("spelling", "uri"),
    [
        ("s3a://bucket/a.mp4", "s3://bucket/a.mp4"),
        ("S3://bucket/A//b.mp4/", "s3://bucket/A//b.mp4"),
        ("s3://bucket/a%20b c.mp4", "s3://bucket/a%20b c.mp4"),
        ("gcs://bucket/a.mp4", "gs://bucket/a.mp4"),
        ("HTTPS://Me@Host.Org:443/A b/./c/../%c3%a9%7E%2f.mp4", "https://Me@host.org/A%20b/%C3%A9~%2F.mp4"),
        ("http://host/in/%2E/%2e%2E/%252E.mp4", "http://host/%252E.mp4"),
        ("http://HOST:8080/a.mp4?Key=%2f/./#t=3", "http://host:8080/a.mp4?Key=%2f/./"),
        ("http://host:80//a/", "http://host//a/"),
        ("http://host/[ab]*.mp4", "http://host/[ab]*.mp4"),
        ("tar://a b.mp4::/x/./y.tar", "tar://a b.mp4::/x/./y.tar"),
        ("file:///a%20b.mp4", "/a%20b.mp4"),
        ("FILE://localhost/a.mp4", "/a.mp4"),
        ("file:/a.mp4", "/a.mp4"),
    ],
)  # fmt: skip
def test_all_spellings_of_an_address_are_one(spelling: str, uri: str):
    assert absolute(spelling) == uri
    assert absolute(uri) == uri


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("s3a://bucket/a.mp4", "s3://bucket/a.mp4"),
        ("https://HOST/a b.mp4", "https://host/a%20b.mp4"),
    ],
)
def test_videos_of_older_spellings_are_known(old: str, new: str):
    shards = {"shard": [Entry(old, 5)]}
    assert sort_inputs(shards, [Input(new, 5)], False) == Sorted(shards["shard"], [], [])
    changed = Input(new, 6)
    assert sort_inputs(shards, [changed], False) == Sorted([], [changed], [("shard", old)])


def test_a_folder_in_a_list_is_an_error_of_its_own(memory, tmp_path: Path):
    memory.pipe("/in/folder/one.mp4", b"video")
    memory.pipe("/in/list.txt", b"folder\n")
    (found,) = find_inputs(["memory://in/list.txt"])
    with pytest.raises(VideoError, match="is a folder"), local_file(found, tmp_path):
        pass


def test_a_copy_that_is_cut_short_is_no_fault_of_the_video(memory, tmp_path: Path):
    memory.pipe("/short/one.mp4", b"vid")
    with (
        pytest.raises(CorpusError, match="2 bytes"),
        local_file(Input("memory:///short/one.mp4", 5), tmp_path),
    ):
        pass


def test_a_name_that_is_no_text_is_an_input_that_fails(tmp_path: Path):
    name = os.fsdecode(b"caf\xe9.mp4")
    (tmp_path / name).touch()
    (found,) = find_inputs([str(tmp_path)])
    assert (found.path, found.size) == (f"{tmp_path}/caf\\udce9.mp4", MISSING)


def test_missing_inputs_are_refused_when_they_are_named(videos: Path, memory, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "text.tar").write_text("no tar file")
    for argument in (
        "none.mp4",
        "none/*.mp4",
        str(tmp_path / "empty"),
        str(tmp_path / "empty.txt"),
        str(tmp_path / "none.csv"),
        str(tmp_path / "text.tar"),
        str(tmp_path / "a.tar.gz"),
        "memory://nothing/here",
        "memory://nothing/*.mp4",
        "memory://nothing/list.txt",
        "nosuchthing://bucket/a.mp4",
        "",
    ):
        with pytest.raises(CorpusError):
            find_inputs([argument])
    with pytest.raises(CorpusError):
        find_inputs([])


@pytest.mark.parametrize("argument", ["gs://bucket/a.mp4", "gs://bucket/*/", "list.txt"])
def test_a_package_that_is_missing_ends_the_search(videos: Path, monkeypatch, argument: str):
    """Else all local videos would be gazed at before it is heard of."""
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    monkeypatch.delitem(REGISTRY, "gs", raising=False)
    (videos / "list.txt").write_text("gs://bucket/a.mp4\nb.mp4\n")
    monkeypatch.chdir(videos)
    with pytest.raises(MissingExtraError, match="gcsfs"):
        find_inputs(["b.mp4", argument])


def test_what_is_gone_meanwhile_is_an_error_of_the_video(tmp_path: Path):
    with (
        pytest.raises(VideoError),
        local_file(Input(str(tmp_path / "gone.mp4"), MISSING), tmp_path),
    ):
        pass


@pytest.mark.parametrize("folder", ["", "in", "in/", "*/", "in/*.mp4"])
def test_a_folder_in_an_archive_is_one_of_videos(tmp_path: Path, folder: str):
    with zipfile.ZipFile(tmp_path / "videos.zip", "w") as archive:
        for name in ("in/a.mp4", "in/b.mp4", "in/.hidden.mp4", "in/notes.md"):
            archive.writestr(name, b"bytes")
    found = find_inputs([f"zip://{folder}::{tmp_path}/videos.zip"])
    assert [each.path for each in found] == [
        f"zip://in/{name}.mp4::{tmp_path}/videos.zip" for name in "ab"
    ]


@pytest.mark.parametrize("uri", ["ftp://host", "ftp://host/"])
def test_a_host_may_be_the_folder(monkeypatch, uri: str):
    """Paths of FTP lack the host, and its root is `/`."""
    monkeypatch.setattr(
        "autogaze.corpus.listing.filesystem", lambda uri: (fsspec.filesystem("memory"), "/")
    )
    assert Tree.of(uri, [].append).uri_of("/a.mp4") == "ftp://host/a.mp4"


def test_an_archive_may_be_named_from_here(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "videos.zip", "w") as archive:
        archive.writestr("a.mp4", b"bytes")
    monkeypatch.chdir(tmp_path)
    system, inner = filesystem("zip://a.mp4::videos.zip")
    assert system.cat_file(inner) == b"bytes"
