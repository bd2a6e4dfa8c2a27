"""Messages of errors."""

import pytest

from autogaze.errors import first_line


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("one\ntwo", "one"),
        ("validation failed:\n  no such name\nmore", "validation failed: no such name"),
        ("alone:", "alone:"),
        ("", "ValueError"),
    ],
)
def test_first_line_of_a_message(message: str, line: str):
    assert first_line(ValueError(message)) == line
