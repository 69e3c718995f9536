"""A table of any of four forms as rows of text: CSV and TSV (separator detected), JSON lines, Parquet.

Everything is text: "None", "NA" and "null" are words (P2). What cannot be read is named by line.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipft.config.hints import nearest
from clipft.config.paths import missing_path
from clipft.errors import InputError
from clipft.words import some

SEPARATORS = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar"}
SAMPLE_BYTES = 1 << 16
SHOWN = 3
"""How many bad lines a message names."""

_NOT_TABLES = {
    b"PK\x03\x04": "an Excel or ZIP file",
    b"\xd0\xcf\x11\xe0": "an old Excel file",
    b"\x1f\x8b": "compressed (gzip)",
    b"BZh": "compressed (bzip2)",
    b"\xfd7zXZ": "compressed (xz)",
    b"\x28\xb5\x2f\xfd": "compressed (zstd)",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
}


@dataclass(frozen=True)
class Record:
    """One row of a table: the line it starts on (a Parquet row's number), and its wanted cells."""

    line: int
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table that is about to be read.

    Args:
        path: the file.
        form: what it was taken for, such as "CSV, separated by a comma".
        columns: the names in its header.
    """

    path: str
    form: str
    columns: tuple[str, ...]
    separator: str | None = None

    def records(self, wanted: Sequence[str]) -> Iterator[Record]:
        """The wanted columns of every row, as stripped text; what is missing is empty."""
        if self.form == "Parquet":
            return _parquet_records(self.path, wanted)
        if self.separator is None:
            return _json_records(self.path, wanted)
        return _csv_records(self.path, self.separator, wanted)

    def require(self, wanted: dict[str, str]) -> None:
        """Refuse where a column is missing, naming what is there (P1).

        Args:
            wanted: column to the key that asked for it.
        """
        for column, key in wanted.items():
            if self.columns.count(column) > 1:
                raise InputError(f"{self.path}: column {column!r} ({key}) is there {self.columns.count(column)} times")
            if column not in self.columns:
                close = nearest(column, self.columns)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise InputError(
                    f"{self.path}: no column {column!r} ({key}). Read as {self.form}; "
                    f"columns found: {some([repr(name) for name in self.columns], 12)}{hint}"
                )


def open_table(path: str, wanted: Sequence[str] = ()) -> Table:
    """What the file is and which columns it has; `wanted` columns help to tell separators apart.

    Raises:
        InputError: it is no table of these forms.
    """
    if not Path(path).exists():
        raise InputError(missing_path(path))
    if not Path(path).is_file():
        raise InputError(f"{path}: is not a file; expected CSV, TSV, JSON lines or Parquet")
    try:
        with open(path, "rb") as file:
            head = file.read(SAMPLE_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if not head.strip():
        raise InputError(f"{path}: is empty; expected a table with a header line")
    for magic, what in _NOT_TABLES.items():
        if head.startswith(magic):
            raise InputError(f"{path}: is {what}; expected CSV, TSV, JSON lines (UTF-8) or Parquet")
    if head.startswith(b"PAR1"):
        return Table(path, "Parquet", _parquet_columns(path))
    if Path(path).suffix.lower() in (".jsonl", ".ndjson", ".json"):
        return Table(path, "JSON lines", _json_columns(path))
    if Path(path).suffix.lower() in (".parquet", ".pq"):
        raise InputError(f"{path}: is not a Parquet file (it begins with {head[:8]!r})")
    return _open_csv(path, head, wanted)


# --- text lines ----------------------------------------------------------------------------------


def _lines(path: str) -> Iterator[tuple[int, str]]:
    """Number and text of each line; refuses what is not UTF-8 text, naming the line."""
    with open(path, "rb") as file:
        for number, raw in enumerate(file, 1):
            yield number, _text(path, number, raw)


def _text(path: str, number: int, raw: bytes) -> str:
    if b"\0" in raw:
        raise InputError(f"{path}:{number}: holds a NUL byte; expected a text table in UTF-8")
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}:{number}: is not UTF-8 (byte 0x{raw[error.start]:02x}, perhaps Latin-1); save the table as UTF-8"
        ) from None


# --- CSV and TSV ---------------------------------------------------------------------------------


def _open_csv(path: str, head: bytes, wanted: Sequence[str]) -> Table:
    # A cut-off last line would look ragged; only a one-line table has no earlier end.
    sample = head if len(head) < SAMPLE_BYTES else head[: head.rfind(b"\n") + 1] or head
    lines = sample.decode("utf-8-sig", "replace").splitlines(keepends=True)
    separator = _detect(lines, wanted, tabs_first=Path(path).suffix.lower() in (".tsv", ".tab"))
    _, header = next(_parsed(path, separator), (1, []))
    columns = tuple(name.strip() for name in header)
    return Table(path, f"CSV, separated by a {SEPARATORS[separator]}", columns, separator)


def _detect(lines: list[str], wanted: Sequence[str], *, tabs_first: bool) -> str:
    """The separator whose header has most wanted columns; then whose rows agree best; then that makes most columns."""

    def merit(separator: str) -> tuple[int, float, int, bool]:
        try:
            rows = [row for row in _reader(lines, separator, strict=False) if row]
        except csv.Error:
            return (0, 0.0, 0, False)
        if not rows or len(rows[0]) < 2:
            return (0, 0.0, 0, False)
        agree = sum(len(row) == len(rows[0]) for row in rows) / len(rows)
        found = len(set(wanted) & {name.strip() for name in rows[0]})
        return (found, agree, len(rows[0]), tabs_first and separator == "\t")

    return max(SEPARATORS, key=merit)


def _reader(lines: Iterator[str] | list[str], separator: str, *, strict: bool) -> Any:
    return csv.reader(lines, delimiter=separator, strict=strict, skipinitialspace=separator != "\t")


def _parsed(path: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """First line and fields of each record; blank lines are passed over."""
    last = [0]

    def feed() -> Iterator[str]:
        for number, text in _lines(path):
            last[0] = number
            yield text

    reader = _reader(feed(), separator, strict=True)
    start = 1
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(
                f"{path}:{start}: is not a {SEPARATORS[separator]}-separated row ({error}); is a quote left open or "
                'written inside a field? Within "..." a quote is written ""'
            ) from None
        if any(field.strip() for field in row):
            yield start, row
        start = last[0] + 1


def _csv_records(path: str, separator: str, wanted: Sequence[str]) -> Iterator[Record]:
    records = _parsed(path, separator)
    _, header = next(records)
    places = [[name.strip() for name in header].index(column) for column in wanted]
    ragged: list[str] = []
    count = 0
    for line, row in records:
        if len(row) != len(header):
            count += 1
            if len(ragged) < SHOWN:
                ragged.append(f"line {line} ({len(row)})")
            continue
        yield Record(line, tuple(row[place].strip() for place in places))
    if count:
        separated = SEPARATORS[separator]
        raise InputError(
            f"{path}: {count} row{'s do' if count > 1 else ' does'} not have the header's {len(header)} fields: "
            f'{", ".join(ragged)}; a field with a {separated} in it is written between "..."'
        )


# --- JSON lines ----------------------------------------------------------------------------------


def _json_objects(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, text in _lines(path):
        if not text.strip():
            continue
        try:
            # NaN is not JSON, but some writers use it for what is missing.
            value = json.loads(text, parse_constant=lambda name: None)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else "too deep or too long"
            raise InputError(f"{path}:{number}: is not JSON ({reason}); expected one object a line") from None
        if not isinstance(value, dict):
            raise InputError(
                f"{path}:{number}: is a JSON {type(value).__name__}; expected one object a line, "
                'such as {"image": "a.jpg", "caption": "..."}'
            )
        yield number, value


def _json_columns(path: str) -> tuple[str, ...]:
    """Names of the first 100 objects, since rows may leave empty ones out."""
    first = itertools.islice(_json_objects(path), 100)
    return tuple(dict.fromkeys(name for _, value in first for name in value))


def _json_records(path: str, wanted: Sequence[str]) -> Iterator[Record]:
    for line, value in _json_objects(path):
        yield Record(line, tuple(_cell(path, line, column, value.get(column)) for column in wanted))


def _cell(path: str, line: int, column: str, value: Any) -> str:
    match value:
        case None:
            return ""
        case str():
            # Half of a surrogate pair is no character, and no tokenizer takes it.
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace").strip()
        case bool() | int() | float():
            return json.dumps(value)
        case list() if not any(isinstance(item, list) for item in value):
            return ", ".join(part for item in value if (part := _cell(path, line, column, item)))
    raise InputError(f"{path}:{line}: column {column!r} holds {type(value).__name__}, not text")


# --- Parquet -------------------------------------------------------------------------------------


def _parquet(path: str) -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise InputError(f"{path}: Parquet needs pyarrow; install it with: pip install 'clipft[parquet]'") from None
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise InputError(f"{path}: is a damaged Parquet file ({_first_line(error)})") from None


def _parquet_columns(path: str) -> tuple[str, ...]:
    with _parquet(path) as file:
        return tuple(file.schema_arrow.names)


def _parquet_records(path: str, wanted: Sequence[str]) -> Iterator[Record]:
    import pyarrow

    line = 0
    with _parquet(path) as file:
        try:
            for batch in file.iter_batches(batch_size=4096, columns=list(wanted)):
                columns = [batch.column(name).to_pylist() for name in wanted]
                for values in zip(*columns, strict=True):
                    line += 1
                    cells = zip(wanted, values, strict=True)
                    yield Record(line, tuple(_cell(path, line, column, value) for column, value in cells))
        except (OSError, UnicodeDecodeError, pyarrow.ArrowException) as error:
            raise InputError(f"{path}: is damaged after row {line} ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
