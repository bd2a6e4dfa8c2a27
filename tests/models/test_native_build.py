"""Why a kernel cannot be built, in words that say what to do."""

from pathlib import Path

import pytest

from autogaze.models.autogaze.native import attention as build
from autogaze.models.autogaze.native.attention import NotBuiltError, built_library


def test_a_command_that_cannot_be_read(monkeypatch):
    monkeypatch.setenv("CC", "'gcc -O2")
    with pytest.raises(NotBuiltError, match=r"CC=\"'gcc -O2\" cannot be read as a command"):
        built_library(32)


def test_an_empty_command_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv("CC", "  ")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotBuiltError, match="no C compiler"):
        built_library(32)


def test_nobody_without_a_home(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(NotBuiltError, match=r"no cache folder.*XDG_CACHE_HOME"):
        build.cache_folder()


def test_the_compilers_failure_is_not_laid_at_the_folders_door(monkeypatch, tmp_path):
    """What the compiler says comes through as it is, also from within the cache folder."""
    compiler = tmp_path / "cc"
    compiler.write_text('#!/bin/sh\n[ "$1" = --version ] || { echo no memory left >&2; exit 1; }\n')
    compiler.chmod(0o700)
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(NotBuiltError, match=r"failed: no memory left$"):
        built_library(32)
    assert list((tmp_path / "cache" / "autogaze").iterdir()) == []


def test_a_folder_that_is_none_is_named(monkeypatch, tmp_path):
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o700)
    (tmp_path / "file").touch()
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(NotBuiltError, match=r"cache folder .*file/autogaze cannot be used"):
        built_library(32)
