"""Tables in files: the rows of CSV, TSV, JSONL and Parquet, one after the other, cells as they stand.

bytes ─▶ digest, and whether they are text ─▶ rows: what stands under each flag

A file is gone through twice and never held, so that one larger than the memory is read as any other. Every fault is a
DataError of one line that names the file, the line (Parquet has none: the row), and the remedy.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from loratory.data.columns import Text
from loratory.data.content import Content, decoded, looked_through, read_bytes, state_of
from loratory.data.header import (
    PAIR,
    TEXT,
    Found,
    Wanted,
    find_columns,
    joined,
    lacking,
    listed,
    of_columns,
    of_header,
    pieces_of,
)
from loratory.data.places import Unit, places_said
from loratory.errors import DataError, RowError, counted

log = logging.getLogger("loratory")

SEPARATORS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (*SEPARATORS, ".jsonl", ".parquet")

Cells = dict[str, object]
"""Some of one row's cells, by column."""


Row = tuple[int, tuple[object, ...], Cells]
"""The row's place, what stands under each flag (a cell as it is, or the cells of several text columns joined), and the
row's other columns, where they were asked for."""


@dataclass(frozen=True)
class Table:
    """Rows before anything is said about their values. They can be gone through once."""

    flags: tuple[str, ...]
    """What a row's values stand under, in their order."""
    rows: Iterable[Row]
    unit: Unit
    untyped: bool
    """True where cells are text whatever they mean (CSV, TSV)."""
    digest: str = ""
    """SHA-256 of the file's bytes; empty where there is no file."""


def read_table(path: Path, wanted: Wanted, *, whole: bool = False) -> Table:
    """The rows of the table in `path`, its format chosen by the suffix; they are read while they are gone through.

    Args:
        whole: whether the other columns are read, too.

    Raises:
        DataError: the file is missing, not a regular file, of an unknown format, damaged, empty, or lacks a column;
            here or while the rows are gone through. A RowError comes after the last row.
    """
    suffix = path.suffix.lower()
    known = suffix in SUFFIXES
    if known and suffix != ".parquet":
        _refuse_other_format(path)
    content = looked_through(path, text=known and suffix != ".parquet")
    if not known:
        raise DataError(f"{path}: unknown format {suffix or 'without suffix'!r}; known: {', '.join(SUFFIXES)}")
    if content.blank:
        raise _empty(path, wanted)
    read: Callable[..., Iterator[Row]]
    read = _delimited if suffix in SEPARATORS else {".jsonl": _jsonl, ".parquet": _parquet}[suffix]
    unit: Unit = "row" if suffix == ".parquet" else "line"
    rows = _unchanged(path, content, read(path, content, wanted, whole))
    return Table(tuple(wanted), rows, unit, suffix in SEPARATORS, content.digest)


_BEGINNINGS = {
    b"PAR1": ("a Parquet file", "name it {}.parquet"),
    b"PK\x03\x04": ("a zip archive or a workbook", "save the table as CSV"),
    b"\x1f\x8b": ("packed with gzip", "unpack it"),
}
"""What files that are no text begin with, what they are, and what to do."""


def _refuse_other_format(path: Path) -> None:
    """What has the suffix of a text and is none is known by its first bytes."""
    if not path.is_file():  # refused by name later
        return
    with path.open("rb") as file:
        first = file.read(4)
    for beginning, (what, remedy) in _BEGINNINGS.items():
        if first.startswith(beginning):
            raise DataError(f"{path}: is {what}, whatever it is called; {remedy.format(path.stem)}")


@dataclass(frozen=True)
class Asked:
    """N texts to label, and where each stands."""

    texts: Sequence[Text]
    source: str
    """The file, or what else they come from."""
    unit: str
    places: Sequence[int]
    """(N,) of what the unit is: lines and texts from 1, positions from 0."""
    others: Sequence[Cells] | None = None
    """What else stands in each one's row; None where there are no rows."""

    def at(self, number: int) -> str:
        """Where text `number`, from 0, stands."""
        return f"{self.source}: {self.unit} {self.places[number]}"


def read_texts(path: Path, text_column: str, pair_column: str | None = None) -> Asked:
    """The texts to label in `path`, and what else stands in each one's row: a table, or the lines of a `.txt` file,
    blank ones too.

    Args:
        pair_column: of the second text, where pairs are labelled.

    Raises:
        DataError: as :func:`read_table`, a cell that is not text, or a `.txt` file where pairs are asked for.
    """
    if path.suffix.lower() == ".txt":
        if pair_column is not None:
            raise DataError(f"{path}: its lines are single texts; give a table with both columns, or no {PAIR}")
        found = lines(io.StringIO(decoded(path, read_bytes(path)), newline=None))
        return Asked(found, str(path), "line", range(1, len(found) + 1), [{} for _ in found])
    columns = {TEXT: text_column} | ({} if pair_column is None else {PAIR: pair_column})
    table = read_table(path, columns, whole=True)
    texts: list[Text] = []
    others: list[Cells] = []
    places: list[int] = []
    for place, cells, other in table.rows:
        for column, cell in zip(columns.values(), cells, strict=True):
            if not isinstance(cell, str):
                raise DataError(
                    f"{path}: {table.unit} {place}, column {column!r} holds no text; give a text or leave it out"
                )
        first, *second = map(str, cells)
        texts.append((first, second[0]) if second else first)
        others.append(other)
        places.append(place)
    return Asked(texts, str(path), table.unit, places, others)


def lines(file: Iterable[str]) -> list[str]:
    """The lines of an open text file without their ends; a blank line is a line."""
    return [line.rstrip("\n") for line in file]


def encodable(text: Text) -> bool:
    """Whether a text, or both of a pair, hold no half of a surrogate pair, which no UTF-8 has."""
    try:
        "".join(text).encode("utf8")
    except UnicodeEncodeError:
        return False
    return True


def _unchanged(path: Path, content: Content, rows: Iterator[Row]) -> Iterator[Row]:
    """The rows, of the very bytes that were looked through."""
    some = False
    try:
        for row in rows:
            some = True
            yield row
        changed = state_of(path) != content.state
    except (FileNotFoundError, UnicodeDecodeError):  # it was there, and was UTF-8
        changed = True
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    if changed:
        raise DataError(f"{path}: it changed while it was read; wait until it is written, then start again")
    if not some:
        raise DataError(f"{path}: no rows, only a header; add rows")


def _opened(path: Path, newline: str | None) -> IO[str]:
    return path.open(encoding="utf-8-sig", newline=newline)


def _empty(path: Path, wanted: Wanted) -> DataError:
    columns = " and a column ".join(map(repr, wanted.values()))
    return DataError(f"{path}: the file is empty; give one with a column {columns}")


def _delimited(path: Path, content: Content, wanted: Wanted, whole: bool) -> Iterator[Row]:
    delimiter = SEPARATORS[path.suffix.lower()]
    _refuse_other_separator(path, delimiter, wanted)
    with _opened(path, "") as file:
        records = _records(path, file, delimiter)
        try:
            first = next(records, None)
        except _QuoteError as error:
            raise DataError(f"{error}; {_QUOTES}") from None
        if first is None:
            raise _empty(path, wanted)
        header = first[1]
        found = of_header(str(path), header, wanted)
        places = [[header.index(name) for name in names] for names in found.values()]
        unread, cells, last = _Unread("row"), header, 0
        try:
            for last, cells in records:
                if len(cells) == len(header):
                    values = tuple([joined([cells[place] for place in columns]) for columns in places])
                    yield last, values, _others(dict(zip(header, cells, strict=True)), found) if whole else {}
                    continue
                unread.add(last, *_uneven_said(path, last, len(cells), header))
        except _QuoteError as error:
            unread.add(error.line, str(error), "whose quotes cannot be read", _QUOTES)
    unread.refuse(cut=last if not content.ended and len(cells) < len(header) else None)
    if not content.ended:
        log.warning("%s: its last line has no end, as of a file that was cut short: is it whole?", path)


def _uneven_said(path: Path, line: int, cells: int, header: list[str]) -> tuple[str, str, str]:
    """What is said of the first row with too few or too many cells, what further ones are called, and the remedy."""
    has = f"{path}: line {line} has {counted(cells, 'cell')}, the header has {len(header)} ({listed(header)})"
    if cells < len(header):
        return has, "with too few cells", "add what is missing"
    return has, "with too many cells", "put quotes around a text that holds the separator"


class _Unread:
    """Rows that cannot be read: they are refused once all others have been, so that these are looked at, too.

    Args:
        noun: what one is called.
    """

    def __init__(self, noun: str) -> None:
        self._noun = noun
        self._first: tuple[int, str, str, str] | None = None
        self._more: dict[tuple[str, str], list[int]] = {}

    def add(self, line: int, said: str, what: str, remedy: str) -> None:
        """Take note of one.

        Args:
            said: of this one, if it is the first.
            what: how it differs from other rows that cannot be read, for further ones.
        """
        if self._first is None:
            self._first = line, said, what, remedy
        else:
            self._more.setdefault((what, remedy), []).append(line)

    def refuse(self, *, cut: int | None = None) -> None:
        """Raise a RowError where there is one.

        Args:
            cut: the line inside which the file ends.
        """
        if self._first is None:
            return
        line, said, kind, remedy = self._first
        more = []
        for (what, other), places in self._more.items():
            named = places_said("line", len(places), places) + (f": {other}" if what != kind else "")
            more.append(f"{counted(len(places), f'further {self._noun}')} {what} ({named})")
        also = f"; also {', '.join(more)}" if more else ""
        raise RowError(f"{said}; {_CUT if cut == line else ''}{remedy}{also}", several=bool(more))


_CUT = "the file ends inside this line: is it whole? Else "


def _refuse_other_separator(path: Path, delimiter: str, wanted: Wanted) -> None:
    """Look at the header before the rows are parsed, as `"text";"label"` is no CSV and fails for its quotes."""
    with _opened(path, None) as file:
        header = next((line.strip() for line in file if line.strip()), "")
    names = {",": "commas", "\t": "tabs", ";": "';'"}
    cells = {mark: {cell.strip(' "') for cell in header.split(mark)} for mark in names}
    asked = {piece for flag, column in wanted.items() for piece in (column, *pieces_of(flag, column))}
    missing = {column for column in asked if not column.isdecimal()} - cells[delimiter]
    found = next((mark for mark in names if mark != delimiter and mark in header and missing & cells[mark]), None)
    if found is None:
        return
    suffix = next((suffix for suffix, mark in SEPARATORS.items() if mark == found), None)
    renaming = f", or name it {path.with_suffix(suffix).name}" if suffix else ""
    raise DataError(f"{path}: looks separated by {names[found]}; save it with {names[delimiter]}{renaming}")


_QUOTES = "a quote inside a quoted text is written twice"


class _QuoteError(Exception):
    """Quotes that cannot be read, in the record that begins in line `line`; nobody outside sees it."""

    def __init__(self, path: Path, line: int, what: str) -> None:
        super().__init__(f"{path}: line {line}: {what}")
        self.line = line


def _records(path: Path, file: Iterable[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The records that are not blank, each with the line where it begins (a quoted text may span lines)."""
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    begins = 1
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # the default refuses texts over 131,072 characters
    try:
        for cells in reader:
            if cells:
                yield begins, cells
            begins = reader.line_num + 1
    except csv.Error as error:
        what = "a quote opens and is never closed" if "end of data" in str(error) else str(error)
        raise _QuoteError(path, begins, what) from None
    finally:
        csv.field_size_limit(before)


def _others(row: Cells, found: Found) -> Cells:
    used = {name for names in found.values() for name in names}
    return {column: value for column, value in row.items() if column not in used}


def _jsonl(path: Path, content: Content, wanted: Wanted, whole: bool) -> Iterator[Row]:
    found, needed, unread = None, set[str](), _Unread("line")
    cut = None
    with _opened(path, "\n") as file:  # no other ends: U+2028 may stand in a JSON string
        for line, written in enumerate(file, start=1):
            if not written.strip():
                continue
            try:
                record = _record(path, line, written)
            except DataError as error:
                unread.add(line, str(error), "without an object", _OBJECT)
                cut = None if written.endswith("\n") else line
                continue
            if found is None:  # numbers count the first object's keys
                found = find_columns(f"{path}: line {line}", record, wanted)
                needed = {name for names in found.values() for name in names}
            if needed <= record.keys():
                values = tuple([joined([record[name] for name in names]) for names in found.values()])
                yield line, values, _others(record, found) if whole else {}
                continue
            unread.add(line, f"{path}: line {line}: {lacking(record, found)}", "without a column", "add it")
    unread.refuse(cut=cut)


_OBJECT = "write one object a line"


def _record(path: Path, line: int, written: str) -> Cells:
    try:
        record = json.loads(written.removesuffix("\n"))
    except (ValueError, RecursionError) as error:
        reason = f"{error.msg} at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else error
        raise DataError(f"{path}: line {line} is not JSON ({reason})") from None
    if not isinstance(record, dict):
        raise DataError(f"{path}: line {line} is not a JSON object")
    return record


def _parquet(path: Path, content: Content, wanted: Wanted, whole: bool) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = 0
    try:
        with pq.ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
            found = of_header(str(path), names, wanted)
            read = names if whole else [name for named in found.values() for name in named]
            for batch in file.iter_batches(_ROWS, columns=None if whole else read):
                columns = {name: batch.column(name).to_pylist() for name in read}
                others = [_others(row, found) for row in batch.to_pylist()] if whole else [{}] * batch.num_rows
                for number, values in enumerate(of_columns(columns, found)):
                    count += 1
                    yield count, values, others[number]
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:160].rstrip(". ")
        raise DataError(f"{path}: not a whole Parquet file ({reason}); write it again") from None


_ROWS = 16_384  # of a Parquet file that are held together
