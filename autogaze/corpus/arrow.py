"""pyarrow, or the error that says which extra brings it."""

from typing import Any

from autogaze.errors import MissingExtraError


def arrow() -> Any:
    """The module `pyarrow`.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import pyarrow
    except ImportError:
        raise MissingExtraError("pyarrow", "corpus", "a corpus") from None
    return pyarrow


def parquet() -> Any:
    """The module `pyarrow.parquet`; raises as `arrow` does."""
    arrow()
    import pyarrow.parquet

    return pyarrow.parquet
