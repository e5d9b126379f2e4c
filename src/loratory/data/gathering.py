"""The rows of one table on their way to examples: what is read of them, and what is at fault with them.

table of rows ─▶ columns, and what is at fault with them ─▶ examples
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from loratory.data.cells import CellReader, Cells, Reading, is_mark, missing
from loratory.data.columns import LONGEST, Coded, Coder, Pairs, Texts, TextWriter
from loratory.data.files import Table
from loratory.data.header import GROUP, LABEL, PAIR, TEXT
from loratory.data.places import LISTED, Unit, places_said
from loratory.data.targets import Numbers, Target, class_name, read_targets
from loratory.errors import DataError, RowError, counted
from loratory.problems import REGRESSION


@dataclass(frozen=True)
class Examples:
    """N checked examples: no text is empty, no label is missing."""

    texts: Texts | Pairs
    labels: Coded[Target] | Numbers
    """What each is to be given: a class; labels, in order; or of a regression (N,) float64."""
    rows: Sequence[int]
    """0-based row of the file or data set as it was read, header and blank lines not counted."""
    groups: Coded[str] | None = None
    """What each example belongs to (a document, an author), where the source says it."""
    lines: NDArray[np.uint32] | None = None
    """(N,) where each row begins in its file, from 1; None where the source has no lines."""
    unit: Unit = "row"

    def said(self, rows: NDArray[np.int64]) -> str:
        """Where some of the rows stand, for people; the first of them are named."""
        first = np.sort(rows)[:LISTED]
        shown = first + int(self.unit == "row") if self.lines is None else self.lines[first]
        return places_said(self.unit, len(rows), shown.tolist())


NO_LABEL, NO_TEXT, NO_PAIR, NO_STRING, NO_SECOND_STRING, HALF, LONG, NO_GROUP, NO_NAME = FAULTS = (
    ("without a label", "add it"),
    ("without a text", "add it"),
    ("without a second text", "add it"),
    ("with a text that is not a string", f"choose another {TEXT}"),
    ("with a second text that is not a string", f"choose another {PAIR}"),
    ("with half a surrogate pair", "mend it"),
    (f"with a text of more than {LONGEST:,} characters", "cut it"),
    ("without a group", "add it"),
    ("with a group that is no name", "use text or numbers"),
)
"""What can be at fault with a row, and what to do about it, in the order in which it is said; what is at fault with a
label depends on the problem, and is said before the groups."""

Fault = tuple[str, str]

Rows = tuple[int, Sequence[int]]
"""How many rows, and the places of the first."""

NONE: Rows = (0, ())

Faulty = tuple[Rows, Fault]
"""Rows, and what is at fault with them."""


@dataclass(frozen=True)
class Columns:
    """The columns of one table before they are examples, each of length N where nothing is at fault."""

    texts: Texts | Pairs
    labels: Cells
    """As they stand."""
    groups: Coded[object] | None
    unit: Unit
    digest: str
    """SHA-256 of the file's bytes; empty where there is no file."""
    faults: Mapping[Fault, Rows] = field(default_factory=dict)
    """Which rows have each."""
    lines: NDArray[np.uint32] | None = None
    """Of each row, where places count lines."""
    unread: RowError | None = None
    """Of rows that could not be read at all, which have no place in the columns."""


def gathered(table: Table, problem: str | None = None, separator: str | None = None) -> Columns:
    """Go through the rows of a table once, and keep what they hold where it does not fill the memory.

    Args:
        problem: what `--problem` says.
        separator: what `--label-separator` says.

    Raises:
        DataError: as :func:`loratory.data.files.read_table`; rows that cannot be read are kept for :func:`checked`.
        StorageError: there is no room for the texts.
    """
    labels = CellReader(untyped=table.untyped, flag=problem, separator=separator)
    groups = Coder[object]() if GROUP in table.flags else None
    faults: dict[Fault, Rows] = {}
    unread: RowError | None = None
    lines = array("I")
    at = {flag: place for place, flag in enumerate(table.flags)}
    text_at, label_at, pair_at, group_at = at[TEXT], at[LABEL], at.get(PAIR), at.get(GROUP)
    with TextWriter() as texts, TextWriter() as seconds:
        try:
            for place, values, _ in table.rows:
                if table.unit == "line":
                    lines.append(place)
                found = [
                    _add_text(texts, values[text_at], NO_TEXT, NO_STRING),
                    None if labels.add(place, values[label_at]) else NO_LABEL,
                ]
                if pair_at is not None:
                    found.append(_add_text(seconds, values[pair_at], NO_PAIR, NO_SECOND_STRING))
                if groups is not None and group_at is not None:
                    found.append(_add_group(groups, values[group_at]))
                for fault in found:
                    if fault is not None:
                        count, places = faults.get(fault, NONE)
                        faults[fault] = count + 1, [*places, place][:LISTED]
        except RowError as error:
            unread = error.with_traceback(None)
        read = texts.done() if pair_at is None else Pairs(texts.done(), seconds.done())
    kept = None if groups is None else groups.done()
    begins = np.array(lines, dtype=np.uint32) if table.unit == "line" else None
    return Columns(read, labels.done(), kept, table.unit, table.digest, faults, begins, unread)


def _add_text(texts: TextWriter, cell: object, missing: Fault, wrong: Fault) -> Fault | None:
    if not isinstance(cell, str):
        return missing if cell is None else wrong
    if not cell or cell.isspace():
        return missing
    if len(cell) > LONGEST:
        return LONG
    try:
        texts.add(cell)
    except UnicodeEncodeError:
        return HALF
    return None


def _add_group(groups: Coder[object], cell: object) -> Fault | None:
    """Each distinct value is looked at once."""
    try:
        known = groups.knows(cell)
    except TypeError:  # a list or an object
        return NO_NAME
    if not known:
        if missing(cell):
            return NO_GROUP
        if class_name(cell) is None:
            return NO_NAME
    groups.add(cell)
    return None


def checked(where: str, columns: Columns, how: Reading, *, as_int: bool = False) -> Examples:
    """Turn columns into examples.

    Args:
        where: what the columns are called in an error's line.
        how: what labels are read as.
        as_int: whether labels are whole numbers, whatever type their cells have.

    Raises:
        DataError: which rows are at fault, and how: all kinds of faults in one line.
    """
    unlabelled = _unlabelled(columns, how)
    others = [(columns.faults.get(fault, NONE), fault) for fault in FAULTS[1:]]
    before, after = others[: FAULTS.index(NO_GROUP) - 1], others[FAULTS.index(NO_GROUP) - 1 :]

    def refuse(count: int, places: Sequence[int], what: str, remedy: str) -> None:
        if count:
            _refuse(where, columns, [unlabelled, *before, ((count, places), (what, remedy)), *after])

    labels: Coded[Target] | Numbers
    if as_int:
        labels = columns.labels.values.converted(lambda value: int(str(value).strip().partition(".")[0]))
    else:
        labels = read_targets(columns.labels, how, refuse)
    _refuse(where, columns, [unlabelled, *before, *after])
    groups = None if columns.groups is None else columns.groups.converted(lambda value: str(class_name(value)))
    return Examples(columns.texts, labels, range(len(columns.texts)), groups, columns.lines, columns.unit)


def _unlabelled(columns: Columns, how: Reading) -> Faulty:
    """Rows without a label; among numbers also those whose cell says that there is none."""
    count, places = columns.faults.get(NO_LABEL, NONE)
    what, remedy = NO_LABEL
    values = columns.labels.values.values
    marks = [how.problem == REGRESSION and is_mark(value) for value in values]
    if any(marks):
        marked, others = columns.labels.at(marks)
        count, places = count + marked, sorted([*places, *others])[:LISTED]
        what, remedy = f"{what}, such as {values[marks.index(True)]!r}", how.or_classes(remedy)
    return (count, places), (what, remedy)


def _refuse(where: str, columns: Columns, faults: Iterable[Faulty]) -> None:
    """Refuse rows at fault: what to do about the first fault, and what else there is to mend."""
    found = [
        (f"{counted(count, 'row')} {what} ({places_said(columns.unit, count, places)})", remedy)
        for (count, places), (what, remedy) in faults
        if count
    ]
    unread = columns.unread
    said = None if unread is None else str(unread)
    if said is None and found:
        (first, remedy), *found = found
        said = f"{where}: {first}; {remedy}, or remove the row"
    if said is not None:
        also = ", ".join(rows for rows, _ in found)
        joint = ", " if unread is not None and unread.several else "; also "
        raise DataError(f"{said}{joint}{also}" if also else said)
