"""C files are compiled and kept, Triton's kernels tried before they are used; what cannot be had is said."""

import ctypes
from pathlib import Path

import pytest
import torch

import autogaze
from autogaze.errors import SelectorError
from autogaze.utils.kernels import (
    NotBuiltError,
    built_library,
    cache_folder,
    chosen_kernel,
    compiler,
    failure_of,
    load_library,
)

KERNELS = sorted(Path(autogaze.__file__).parent.rglob("*.c"))


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A C file that knows its option, and an empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "number.c"
    path.write_text("int number(void) { return NUMBER; }\n")
    return path


def fake_compiler(folder: Path, script: str) -> str:
    path = folder / "cc"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)
    return str(path)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda path: path.stem)
def test_every_kernel_of_the_package_is_built_where_there_is_a_compiler(kernel):
    """Without one PyTorch does the work and tests of kernels are skipped: with one, none may be."""
    try:
        compiler()
    except NotBuiltError as error:
        pytest.skip(str(error))
    load_library(built_library(kernel, "-DD=64"))  # the attention's head dimension


def test_a_file_is_compiled_once_per_options(source):
    try:
        compiler()
    except NotBuiltError as error:
        pytest.skip(str(error))
    paths = [built_library(source, f"-DNUMBER={number}") for number in (3, 4, 3)]
    assert paths[0] == paths[2] != paths[1]
    assert [load_library(path).number() for path in paths[:2]] == [3, 4]
    assert sorted(path.name for path in cache_folder().iterdir()) == sorted(
        path.name for path in paths[:2]
    )
    source.write_text('#include "number.h"\nint number(void) { return ONE + NUMBER; }\n')
    for one in (1, 2):  # a change of a header is noticed
        source.with_name("number.h").write_text(f"#define ONE {one}\n")
        assert ctypes.CDLL(str(built_library(source, "-DNUMBER=3"))).number() == 3 + one


def test_what_is_no_library_cannot_be_loaded(tmp_path):
    (tmp_path / "a.so").write_bytes(b"not a library")
    with pytest.raises(NotBuiltError, match="cannot be loaded"):
        load_library(tmp_path / "a.so")


def test_the_switch(monkeypatch):
    for value, expected in (("torch", "torch"), ("native", "native"), ("", None)):
        monkeypatch.setenv("AUTOGAZE_KERNEL", value)
        assert chosen_kernel("AUTOGAZE_KERNEL") == expected
    monkeypatch.setenv("AUTOGAZE_KERNEL", "fast")
    with pytest.raises(SelectorError, match=r"AUTOGAZE_KERNEL .*'fast'"):
        chosen_kernel("AUTOGAZE_KERNEL")


def test_other_systems_than_linux(monkeypatch, source):
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(NotBuiltError, match="darwin"):
        built_library(source)


def test_a_command_that_cannot_be_read(monkeypatch, source):
    monkeypatch.setenv("CC", "'gcc -O2")
    with pytest.raises(NotBuiltError, match=r"CC=\"'gcc -O2\" .*\bcommand\b"):
        built_library(source)


def test_an_empty_command_is_none(monkeypatch, source, tmp_path):
    monkeypatch.setenv("CC", "  ")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotBuiltError, match="no C compiler"):
        built_library(source)


def test_a_user_without_home_folder(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(NotBuiltError, match=r"no cache folder.*XDG_CACHE_HOME"):
        cache_folder()


def test_compiler_errors_are_not_reported_as_folder_errors(monkeypatch, source, tmp_path):
    """What the compiler says comes through as it is, also from within the cache folder."""
    script = '[ "$1" = --version ] || { echo no memory left >&2; exit 1; }'
    monkeypatch.setenv("CC", fake_compiler(tmp_path, script))
    with pytest.raises(NotBuiltError, match=r"failed: no memory left$"):
        built_library(source)
    assert list(cache_folder().iterdir()) == []


def test_a_cache_folder_that_is_a_file_is_named(monkeypatch, source, tmp_path):
    monkeypatch.setenv("CC", fake_compiler(tmp_path, ""))
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(NotBuiltError, match=r"/file/autogaze .*\bXDG_CACHE_HOME\b"):
        built_library(source)


# Triton's kernels.


def test_what_is_wrong_with_results_is_handed_on():
    assert failure_of(lambda: "") == ""
    assert failure_of(lambda: "sums differ") == "sums differ"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ImportError("No module named 'triton'"), "autogaze[gpu]"),
        (RuntimeError("no kernel image"), "RuntimeError: no kernel image"),
    ],
)
def test_what_a_trial_raises_is_a_failure(error, said):
    def trial():
        raise error

    assert said in failure_of(trial)


def test_want_of_memory_says_nothing_of_kernels():
    def trial():
        raise torch.OutOfMemoryError("no memory left")

    with pytest.raises(torch.OutOfMemoryError):
        failure_of(trial)


def test_numbers_are_drawn_on_the_cpu_whatever_device_is_the_default():
    with torch.device("meta"):
        assert failure_of(lambda: torch.rand(1).device.type) == "cpu"
