"""Tables in files: CSV, TSV, JSONL and Parquet become a column of texts and a column of labels, values as they stand.

Every fault is a DataError of one line that names the file, the line (Parquet has none: the row), and the remedy.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import stat
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from loratory.errors import DataError, counted

SEPARATORS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (*SEPARATORS, ".jsonl", ".parquet")

TEXT, LABEL, GROUP = "--text-column", "--label-column", "--group-column"

Wanted = Mapping[str, str]
"""The columns to read as the user says them, each under the flag that names it; there is always a `--text-column`.

A name, or a number from 0 where no column has that name; for the text also several with commas between them.
"""

Found = Mapping[str, Sequence[str]]
"""The names of the columns that each flag means."""

Cells = dict[str, object]
"""Some of one row's cells, by column."""


@dataclass(frozen=True)
class Columns:
    """Columns of one table before anything is said about their values, each of length N."""

    values: dict[str, list[object]]
    """What stands under each flag: a cell as it is, or the cells of several text columns joined."""
    rows: list[int]
    """Places in the file, counted from 1, or in a list, counted from 0, in `unit`."""
    unit: Literal["line", "row", "position"]
    """line: where the row begins in the file (CSV, TSV, JSONL). row: its number (Parquet, hub). position: in a list."""
    untyped: bool
    """True where cells are text whatever they mean (CSV, TSV)."""
    others: list[Cells] = field(default_factory=list)
    """Each row's other columns, where they were asked for."""


def read_table(path: Path, wanted: Wanted, *, whole: bool = False) -> tuple[Columns, str]:
    """Read columns of the table in `path`, its format chosen by the suffix; return them with the file's SHA-256.

    Args:
        whole: whether the other columns are read, too.

    Raises:
        DataError: the file is missing, not a regular file, of an unknown format, damaged, empty, or lacks a column.
    """
    suffix = path.suffix.lower()
    data = read_bytes(path)
    if suffix not in SUFFIXES:
        raise DataError(f"{path}: unknown format {suffix or 'without suffix'!r}; known: {', '.join(SUFFIXES)}")
    if not data.strip():
        raise _empty(path, wanted)
    if suffix == ".parquet":
        columns = _parquet(path, data, wanted, whole)
    elif suffix == ".jsonl":
        columns = _jsonl(path, decoded(path, data), wanted, whole)
    else:
        columns = _delimited(path, decoded(path, data), SEPARATORS[suffix], wanted, whole)
    if not columns.rows:
        raise DataError(f"{path}: no rows, only a header; add rows")
    return columns, hashlib.sha256(data).hexdigest()


def read_texts(path: Path, text_column: str) -> tuple[list[str], list[Cells]]:
    """The texts to label in `path`, and what else stands in each one's row: a table, or the lines of a `.txt` file,
    blank ones too.

    Raises:
        DataError: as :func:`read_table`, or a cell that is not text.
    """
    if path.suffix.lower() == ".txt":
        texts = lines(io.StringIO(decoded(path, read_bytes(path)), newline=None))
        return texts, [{} for _ in texts]
    columns, _ = read_table(path, {TEXT: text_column}, whole=True)
    found = columns.values[TEXT]
    for text, row in zip(found, columns.rows, strict=True):
        if not isinstance(text, str):
            raise DataError(
                f"{path}: {columns.unit} {row}, column {text_column!r} holds no text; give a text or leave it out"
            )
    return [str(text) for text in found], columns.others


def lines(file: Iterable[str]) -> list[str]:
    """The lines of an open text file without their ends; a blank line is a line."""
    return [line.rstrip("\n") for line in file]


def encodable(text: str) -> bool:
    """Whether `text` holds no half of a surrogate pair, which no UTF-8 has."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


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
        place = f"0x{data[error.start]:02x}, line {_line(data, error.start)}"
        raise DataError(f"{path}: not UTF-8 at byte {error.start} ({place}); save the file as UTF-8") from None
    nul = data.find(b"\0")
    if nul >= 0:
        place = f"line {_line(data, nul)}"
        raise DataError(f"{path}: NUL character at byte {nul} ({place}); is the file damaged? Remove it")
    return text.removeprefix("\ufeff")


def _line(data: bytes, offset: int) -> int:
    return len((data[:offset] + b".").splitlines())


def _empty(path: Path, wanted: Wanted) -> DataError:
    columns = " and a column ".join(map(repr, wanted.values()))
    return DataError(f"{path}: the file is empty; give one with a column {columns}")


def _delimited(path: Path, text: str, delimiter: str, wanted: Wanted, whole: bool) -> Columns:
    _refuse_other_separator(path, text, delimiter, wanted)
    records = _records(path, text, delimiter)
    first = next(records, None)
    if first is None:
        raise _empty(path, wanted)
    header = first[1]
    found = _of_header(path, header, wanted)
    columns = Columns({flag: [] for flag in wanted}, [], "line", untyped=True)
    for line, cells in records:
        if len(cells) != len(header):
            few = len(cells) < len(header)
            remedy = "add what is missing" if few else "put quotes around a text that holds the separator"
            raise DataError(
                f"{path}: line {line} has {counted(len(cells), 'cell')}, the header has {len(header)} "
                f"({_listed(header)}); {remedy}"
            )
        _add(columns, dict(zip(header, cells, strict=True)), found, line, whole=whole)
    return columns


def _refuse_other_separator(path: Path, text: str, delimiter: str, wanted: Wanted) -> None:
    """Look at the header before the rows are parsed, as `"text";"label"` is no CSV and fails for its quotes."""
    header = text.lstrip().partition("\n")[0].rstrip()
    names = {",": "commas", "\t": "tabs", ";": "';'"}
    cells = {mark: {cell.strip(' "') for cell in header.split(mark)} for mark in names}
    asked = {piece for flag, column in wanted.items() for piece in (column, *_pieces(flag, column))}
    missing = {column for column in asked if not column.isdecimal()} - cells[delimiter]
    found = next((mark for mark in names if mark != delimiter and missing & cells[mark]), None)
    if found is None:
        return
    suffix = next((suffix for suffix, mark in SEPARATORS.items() if mark == found), None)
    renaming = f", or name it {path.with_suffix(suffix).name}" if suffix else ""
    raise DataError(f"{path}: looks separated by {names[found]}; save it with {names[delimiter]}{renaming}")


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
        raise DataError(f"{path}: line {begins}: {what}; a quote inside a quoted text is written twice") from None
    finally:
        csv.field_size_limit(before)


def _of_header(path: Path, header: list[str], wanted: Wanted) -> Found:
    twice = [name for name, count in Counter(header).items() if count > 1 and name]
    if twice:
        raise DataError(f"{path}: the header has {twice[0]!r} more than once; rename one")
    return find_columns(str(path), header, wanted)


def find_columns(where: str, known: Iterable[str], wanted: Wanted) -> Found:
    """The columns that the flags mean, among those there are.

    Raises:
        DataError: there is none of that name or number, with those there are and the flags that say others; or two
            flags mean one.
    """
    names = list(known)
    found: dict[str, list[str]] = {}
    for flag, column in wanted.items():
        pieces = [column] if column in names else _pieces(flag, column)
        found[flag] = [names[int(piece)] if _is_place(piece, names) else piece for piece in pieces]
    _refuse_missing(where, names, found)
    flags: dict[str, str] = {}
    for flag, column in ((flag, column) for flag, columns in found.items() for column in columns):
        if column in flags:
            raise DataError(f"{flags[column]} and {flag} are both {column!r}; name two columns")
        flags[column] = flag
    return found


def _refuse_missing(where: str, known: Iterable[str], found: Found) -> None:
    """Every column must be among the `known` ones."""
    names = list(known)
    missing = {flag: [name for name in columns if name not in names] for flag, columns in found.items()}
    lacking = ", ".join(repr(name) for columns in missing.values() for name in columns)
    if lacking:
        flags = ", ".join(flag for flag, columns in missing.items() if columns)
        raise DataError(f"{where}: no column {lacking}; columns: {_listed(names)}; set {flags}")


def _pieces(flag: str, column: str) -> list[str]:
    return [piece.strip() for piece in column.split(",")] if flag == TEXT else [column]


def _is_place(piece: str, names: list[str]) -> bool:
    return piece not in names and piece.isdecimal() and int(piece) < len(names)


def joined(cells: Sequence[object]) -> object:
    """One cell as it is; of several the texts that are not empty, a line break between them; a cell that is no text
    comes back alone, for whoever refuses it.
    """
    if len(cells) == 1:
        return cells[0]
    wrong = [cell for cell in cells if not isinstance(cell, str) and cell is not None]
    return wrong[0] if wrong else "\n".join(cell for cell in cells if isinstance(cell, str) and cell.strip())


def together(columns: Mapping[str, list[object]], found: Found) -> dict[str, list[object]]:
    """What stands under each flag, of whole columns."""
    return {
        flag: [joined(cells) for cells in zip(*(columns[name] for name in names), strict=True)]
        for flag, names in found.items()
    }


def _add(columns: Columns, row: Cells, found: Found, place: int, *, whole: bool) -> None:
    for flag, names in found.items():
        columns.values[flag].append(joined([row[name] for name in names]))
    columns.rows.append(place)
    if whole:
        columns.others.append(_others(row, found))


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names[:20])) + (", …" if len(names) > 20 else "")


def _others(row: Cells, found: Found) -> Cells:
    used = {name for names in found.values() for name in names}
    return {column: value for column, value in row.items() if column not in used}


def _jsonl(path: Path, text: str, wanted: Wanted, whole: bool) -> Columns:
    columns = Columns({flag: [] for flag in wanted}, [], "line", untyped=False)
    found: Found | None = None
    for line, content in enumerate(text.split("\n"), start=1):  # not splitlines: U+2028 may stand in a JSON string
        if not content.strip():
            continue
        try:
            record = json.loads(content)
        except (ValueError, RecursionError) as error:
            reason = f"{error.msg} at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else error
            raise DataError(f"{path}: line {line} is not JSON ({reason}); write one object a line") from None
        if not isinstance(record, dict):
            raise DataError(f"{path}: line {line} is not a JSON object; write one object a line")
        if found is None:  # numbers count the first object's keys
            found = find_columns(f"{path}: line {line}", record, wanted)
        _refuse_missing(f"{path}: line {line}", record, found)
        _add(columns, record, found, line, whole=whole)
    return columns


def _parquet(path: Path, data: bytes, wanted: Wanted, whole: bool) -> Columns:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        found = _of_header(path, list(file.schema_arrow.names), wanted)
        table = file.read(columns=None if whole else [name for names in found.values() for name in names])
        others = [_others(row, found) for row in table.to_pylist()] if whole else []
        values = together({name: table.column(name).to_pylist() for names in found.values() for name in names}, found)
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:160].rstrip(". ")
        raise DataError(f"{path}: not a whole Parquet file ({reason}); write it again") from None
    return Columns(values, list(range(1, table.num_rows + 1)), "row", untyped=False, others=others)
