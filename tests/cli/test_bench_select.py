"""`autogaze bench select` and bad input."""

import pytest

from tests.cli.commands import fails


@pytest.mark.parametrize(
    ("options", "value"),
    [
        (("--selector", "greddy"), "greddy"),
        (("--dtype", "int8"), "int8"),
        (("--device", "toaster"), "toaster"),
        (("--device", "cuda"), "cuda"),
    ],
)
def test_settings(options: tuple[str, ...], value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert value in fails("bench", "select", *options)
