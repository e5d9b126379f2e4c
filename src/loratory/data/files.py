"""Tables in files: CSV, TSV, JSONL and Parquet become a column of texts and a column of labels, values as they stand.

Every fault is a DataError of one line that names the file, the row as an editor counts it, and the remedy.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import stat
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from loratory.errors import DataError

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Columns:
    """Two columns of one table before anything is said about their values, each of length N."""

    texts: list[object]
    labels: list[object]
    rows: list[int]
    """1-based: line in the file where the row begins (CSV, TSV, JSONL), or number of the row (Parquet)."""
    untyped: bool
    """True where cells are text whatever they mean (CSV, TSV)."""


def read_table(path: Path, text_column: str, label_column: str) -> tuple[Columns, str]:
    """Read two columns of the table in `path`, its format chosen by the suffix; return them with the file's SHA-256.

    Raises:
        DataError: the file is missing, not a regular file, of an unknown format, damaged, empty, or lacks a column.
    """
    suffix = path.suffix.lower()
    data = read_bytes(path)
    if suffix not in SUFFIXES:
        raise DataError(f"{path}: unknown format {suffix or 'without suffix'!r}; known: {', '.join(SUFFIXES)}")
    if not data.strip():
        raise DataError(f"{path}: the file is empty; give one with the columns {text_column!r} and {label_column!r}")
    if suffix == ".parquet":
        columns = _parquet(path, data, text_column, label_column)
    elif suffix == ".jsonl":
        columns = _jsonl(path, decoded(path, data), text_column, label_column)
    else:
        columns = _delimited(path, decoded(path, data), "," if suffix == ".csv" else "\t", text_column, label_column)
    if not columns.rows:
        raise DataError(f"{path}: no rows, only a header; add rows")
    return columns, hashlib.sha256(data).hexdigest()


def read_texts(path: Path, text_column: str) -> list[str]:
    """The texts to label in `path`: one column of a table, or the lines of a `.txt` file.

    Raises:
        DataError: as :func:`read_table`, or a cell that is not text.
    """
    if path.suffix.lower() == ".txt":
        lines = decoded(path, read_bytes(path)).splitlines()
        return [line for line in lines if line.strip()]
    columns, _ = read_table(path, text_column, text_column)
    for text, row in zip(columns.texts, columns.rows, strict=True):
        if not isinstance(text, str):
            raise DataError(
                f"{path}: row {row}, column {text_column!r} holds no text; give a text or leave the row out"
            )
    return [str(text) for text in columns.texts]


def read_bytes(path: Path) -> bytes:
    """The bytes of a regular file.

    Raises:
        DataError: it is missing, cannot be read, or is a directory, pipe or device.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise DataError(f"{path}: a directory; name a file in it")
        if not stat.S_ISREG(mode):  # reading a pipe would wait for ever
            raise DataError(f"{path}: not a regular file (a pipe or device); copy it to a file first")
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the path (working directory: {Path.cwd()})") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise DataError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


def decoded(path: Path, data: bytes) -> str:
    """UTF-8 text, without a byte order mark.

    Raises:
        DataError: not UTF-8 (byte offset from 0), or a NUL character in it.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}: not UTF-8 at byte {error.start} (0x{data[error.start]:02x}, row {row}); save the file as UTF-8"
        ) from None
    nul = data.find(b"\0")
    if nul >= 0:
        row = data.count(b"\n", 0, nul) + 1
        raise DataError(f"{path}: NUL character at byte {nul} (row {row}); is the file damaged? Remove it")
    return text.removeprefix("\ufeff")


def _delimited(path: Path, text: str, delimiter: str, text_column: str, label_column: str) -> Columns:
    records = _records(path, text, delimiter)
    first = next(records, None)
    if first is None:
        raise DataError(f"{path}: the file is empty; give one with the columns {text_column!r} and {label_column!r}")
    header = first[1]
    at_text, at_label = (_position(path, header, column) for column in (text_column, label_column))
    columns = Columns([], [], [], untyped=True)
    for row, cells in records:
        if len(cells) != len(header):
            raise DataError(
                f"{path}: row {row} has {_cells(len(cells))}, the header has {len(header)}; "
                "put quotes around a text that holds the separator"
            )
        columns.texts.append(cells[at_text])
        columns.labels.append(cells[at_label])
        columns.rows.append(row)
    return columns


def _cells(count: int) -> str:
    return "1 cell" if count == 1 else f"{count} cells"


def _records(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The records that are not blank, each with the line where it begins (a quoted text may span lines)."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    begins = 1
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # the default refuses texts over 131,072 characters
    try:
        for cells in reader:
            if cells:
                yield begins, cells
            begins = reader.line_num + 1
    except csv.Error as error:
        what = "a quote opens and is never closed" if "end of data" in str(error) else str(error)
        raise DataError(f"{path}: row {begins}: {what}; a quote inside a quoted text is written twice") from None
    finally:
        csv.field_size_limit(before)


def _position(path: Path, header: list[str], column: str) -> int:
    twice = [name for name, count in Counter(header).items() if count > 1 and name]
    if twice:
        raise DataError(f"{path}: the header has {twice[0]!r} more than once; rename one")
    if column not in header:
        raise missing_column(str(path), column, header)
    return header.index(column)


def missing_column(where: str, column: str, known: list[str]) -> DataError:
    """The error for a table without `column`, which lists the columns there are."""
    listed = ", ".join(repr(name) for name in known[:20]) + (", …" if len(known) > 20 else "")
    return DataError(f"{where}: no column {column!r}; columns: {listed}; set --text-column, --label-column")


def _jsonl(path: Path, text: str, text_column: str, label_column: str) -> Columns:
    columns = Columns([], [], [], untyped=False)
    for row, line in enumerate(text.split("\n"), start=1):  # not splitlines: U+2028 may stand inside a JSON string
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = f"{error.msg} at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else error
            raise DataError(f"{path}: row {row} is not JSON ({reason}); write one object a line") from None
        if not isinstance(record, dict):
            raise DataError(f"{path}: row {row} is not a JSON object; write one object a line")
        for column in (text_column, label_column):
            if column not in record:
                raise missing_column(f"{path}: row {row}", column, list(record))
        columns.texts.append(record[text_column])
        columns.labels.append(record[label_column])
        columns.rows.append(row)
    return columns


def _parquet(path: Path, data: bytes, text_column: str, label_column: str) -> Columns:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        header = list(file.schema_arrow.names)
        for column in (text_column, label_column):
            _position(path, header, column)
        table = file.read(columns=[text_column, label_column])
        texts, labels = table.column(text_column).to_pylist(), table.column(label_column).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:160].rstrip(". ")
        raise DataError(f"{path}: not a whole Parquet file ({reason}); write it again") from None
    return Columns(texts, labels, list(range(1, len(texts) + 1)), untyped=False)
