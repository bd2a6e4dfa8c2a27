"""The progress bar shows itself on terminals only."""

import pytest

from autogaze.utils.progress import ProgressBar


def use() -> None:
    with ProgressBar(4, "clips", "labelling") as bar:
        bar.advance()
        bar.advance(3)
    with ProgressBar(2) as bar:
        bar.begin("first")
        bar.begin("second")


def test_it_is_silent_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    use()
    assert capsys.readouterr() == ("", "")


def test_it_says_how_far_a_job_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # makes rich take stderr for a terminal
    monkeypatch.setenv("COLUMNS", "100")
    use()
    printed = capsys.readouterr()
    assert printed.out == ""
    for words in ("labelling", "4/4", "clips", "second", "1/2"):
        assert words in printed.err
