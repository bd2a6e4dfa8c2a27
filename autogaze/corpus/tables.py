"""Lists and tables of paths: `.txt` with one per line, `.csv` and `.parquet` with a column of them."""

import csv
import io
from collections.abc import Iterator

from autogaze.checks import describe_value
from autogaze.corpus.storage import opened
from autogaze.errors import CorpusError, MissingExtraError, first_line

LISTS = (".txt", ".lst")
TABLES = (".parquet", ".csv")


def listed_paths(file: str, column: str) -> list[str]:
    """The paths that a list or a table names; empty lines and those after `#` are left out.

    Raises:
        CorpusError: it cannot be read, has no such column, or a row of it has no path.
        MissingExtraError: it is Parquet and pyarrow is not installed.
    """
    lower = file.lower()
    if lower.endswith(".parquet"):
        values: Iterator[object] = _parquet(file, column)
    elif lower.endswith(".csv"):
        values = _csv(file, column)
    else:
        lines = (line.strip() for line in _text(file).splitlines())
        return [line for line in lines if line and not line.startswith("#")]
    paths = []
    for number, value in enumerate(values, 1):
        if not isinstance(value, str) or not value.strip():
            raise CorpusError(
                f"{file}: row {number} has no path in the column {column}, but {describe_value(value)}"
            )
        paths.append(value.strip())
    return paths


def _text(file: str) -> str:
    with opened(file) as opened_file:
        try:
            return opened_file.read().decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise CorpusError(f"{file}: cannot be read as text: {first_line(error)}") from error


def _csv(file: str, column: str) -> Iterator[object]:
    reader = csv.DictReader(io.StringIO(_text(file), newline=""))
    try:
        _check_column(file, column, list(reader.fieldnames or ()))
        for row in reader:
            yield row[column]
    except csv.Error as error:
        raise CorpusError(f"{file}: cannot be read as CSV: {first_line(error)}") from error


def _parquet(file: str, column: str) -> Iterator[object]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "corpus", f"{file}: reading Parquet") from None
    with opened(file) as opened_file:
        try:
            with parquet.ParquetFile(opened_file) as table:
                _check_column(file, column, table.schema_arrow.names)
                for batch in table.iter_batches(columns=[column]):
                    yield from batch.column(0).to_pylist()
        except (pyarrow.ArrowException, OSError) as error:
            raise CorpusError(f"{file}: cannot be read as Parquet: {first_line(error)}") from error


def _check_column(file: str, column: str, names: list[str]) -> None:
    if column not in names:
        raise CorpusError(
            f"{file}: has no column {describe_value(column)}; it has {', '.join(names) or 'none'}: name "
            "the one with the paths of videos (--column)"
        )
