"""The cells of a label column before anything is said about them, and what they look like: classes, sets, numbers."""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loratory.data.columns import Coded, Coder
from loratory.data.places import LISTED
from loratory.problems import FLAG_OF, FLAGS, MULTI, REGRESSION, SINGLE, Problem

MANY = 65_536
"""Distinct numbers with fractions among them, above which a column is one of numbers whatever comes after them."""

SLIPS = 0.1
"""Below this share of the rows, what is no number among numbers with fractions is a slip and no class."""

MARKS = frozenset(
    ("#n/a", "#n/a n/a", "#na", "-1.#ind", "-1.#qnan", "-nan", "1.#ind", "1.#qnan", "<na>", "n/a", "na", "none", "null")
)
"""Text that says that nothing is known, in lower case: what `pandas.read_csv` takes for missing beside an empty cell
and NaN, which are never a label. Among numbers it is none; among classes it is a name.
"""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True, eq=False)
class Cells:
    """N cells of a label column, none of them missing, before anything is said about them."""

    values: Coded[object]
    """The cells, lists as tuples; none where there are `numbers`."""
    places: Sequence[Sequence[int]]
    """Of each distinct cell the first places in which it stands."""
    untyped: bool
    """True where cells are text whatever they mean (CSV, TSV)."""
    numbers: NDArray[np.float64] | None = None
    """(N,) what a column of very many distinct numbers holds; NaN where there is none."""
    wrong: Sequence[int] = ()
    """The first places of those that are none."""

    def at(self, chosen: Sequence[bool]) -> tuple[int, list[int]]:
        """How many rows have one of the distinct cells that are `chosen`, and the first places of such."""
        codes = np.flatnonzero(chosen)
        count = int(np.isin(self.values.codes, codes).sum()) if len(codes) else 0
        return count, sorted(place for code in codes.tolist() for place in self.places[code])[:LISTED]


@dataclass(frozen=True)
class Reading:
    """How labels are read."""

    problem: Problem = SINGLE
    separator: str | None = None
    """What stands between the labels of one cell."""
    why: str | None = None
    """What the labels look like, where that alone says that they are no single classes."""

    def or_classes(self, remedy: str) -> str:
        """The remedy of a fault, and how to say that labels are classes where only their looks say otherwise."""
        return remedy if self.why is None else f"{remedy}, or say --problem {FLAG_OF[SINGLE]}"


class CellReader:
    """Takes the cells of a label column one after the other.

    Args:
        untyped: as in :class:`Cells`.
        flag, separator: as in :func:`recognised`. Where they leave it open, more than :data:`MANY` distinct numbers are
            kept as numbers, whatever comes after them: a table of distinct cells would fill the memory.
    """

    def __init__(self, *, untyped: bool, flag: str | None = None, separator: str | None = None) -> None:
        self._untyped = untyped
        self._may_be_numbers = separator is None and flag in (None, FLAG_OF[REGRESSION])
        self._coder = Coder[object]()
        self._places: list[list[int]] = []
        self._fractions = flag is not None
        self._numbers: array[float] | None = None
        self._wrong: list[int] = []

    def add(self, place: int, cell: object) -> bool:
        """Take what stands at one place; False, and nothing is taken, where no label stands there."""
        if self._numbers is not None:
            return self._add_number(self._numbers, place, cell)
        value = _hashable(cell)
        if not self._coder.knows(value):
            if missing(value):
                return False
            self._look(value)
        code = self._coder.add(value)
        if code == len(self._places):
            self._places.append([])
        if len(self._places[code]) < LISTED:
            self._places[code].append(place)
        if self._may_be_numbers and self._fractions and len(self._places) > MANY:
            self._as_numbers()
        return True

    def _look(self, value: object) -> None:
        """Look once at each distinct cell while all were numbers so far."""
        if self._may_be_numbers:
            number = number_in(value)
            self._may_be_numbers = number is not None
            self._fractions = self._fractions or (number is not None and not number.is_integer())

    def _as_numbers(self) -> None:
        coded = self._coder.done()
        of = np.array([number_in(value) for value in coded.values], dtype=np.float64)
        self._numbers = array("d", of[coded.codes].tobytes())
        self._coder, self._places = Coder(), []

    def _add_number(self, numbers: array[float], place: int, cell: object) -> bool:
        number = number_in(cell)
        if number is None:
            if missing(cell) or is_mark(cell):
                return False
            if len(self._wrong) < LISTED:
                self._wrong.append(place)
        numbers.append(math.nan if number is None else number)
        return True

    def done(self) -> Cells:
        """All cells that were taken."""
        numbers = None if self._numbers is None else np.frombuffer(self._numbers, dtype=np.float64)
        return Cells(self._coder.done(), self._places, self._untyped, numbers, self._wrong)


_NO_LABEL = object()  # in place of a cell, or a piece of a list, that can be no label


def _hashable(cell: object) -> Hashable:
    """A cell as it is, a list as a tuple, numpy's scalars as what they hold."""
    if isinstance(cell, Iterable) and is_list(cell):
        return tuple(map(_plain, cell))
    return _plain(cell)


def _plain(value: Any) -> Hashable:
    own = value.item() if getattr(value, "ndim", None) == 0 else value
    return own if own is None or isinstance(own, str | int | float | bool) else _NO_LABEL


def recognised(cells: Cells, flag: str | None, separator: str | None) -> Reading:
    """How the labels of a column are read: as it was said, or as they look.

    Args:
        cells: of the training examples.
        flag: what `--problem` says.
        separator: what `--label-separator` says.
    """
    if flag is not None:
        return Reading(FLAGS[flag], separator)
    if separator is not None:
        return Reading(MULTI, separator)
    values = cells.values.values
    if any(isinstance(value, tuple) for value in values):
        return Reading(MULTI, why="labels are lists")
    if cells.untyped and any(map(is_written_list, values)):
        return Reading(MULTI, why="labels are lists, as they are written")
    numbers = [number_in(value) for value in values]
    fractions = cells.numbers is not None or any(not one.is_integer() for one in numbers if one is not None)
    others, _ = cells.at([one is None and not is_mark(value) for one, value in zip(numbers, values, strict=True)])
    if fractions and not others:
        return Reading(REGRESSION, why="labels are numbers with fractions")
    if fractions and others < SLIPS * len(cells.values):  # to be refused by their rows, not made classes of
        return Reading(REGRESSION, why="nearly all labels are numbers, some with fractions")
    return Reading()


def is_list(value: object) -> bool:
    """Whether a cell holds several labels: a list, tuple or array."""
    return isinstance(value, list | tuple) or getattr(value, "ndim", 0) == 1


def missing(value: object) -> bool:
    """Whether a cell holds no label at all; an empty list is one: no label of those there are."""
    if isinstance(value, str):
        return value.strip().casefold() in ("", "nan")
    return absent(value)


def absent(value: object) -> bool:
    """Whether it is None, NaN, NaT or pandas' NA: what stands where there is no value."""
    try:
        return value is None or bool(value != value)
    except (TypeError, ValueError):  # NA is neither equal to itself nor not; an array is many
        return getattr(value, "ndim", 0) == 0


def is_mark(value: object) -> bool:
    """Whether a cell holds one of the :data:`MARKS`."""
    return isinstance(value, str) and value.strip().casefold() in MARKS


def is_written_list(value: object) -> bool:
    """Whether text looks like a list as Python writes it, such as `['a', 'b']`, `['a' 'b']` of numpy, or `[]`."""
    text = value.strip() if isinstance(value, str) else ""
    if not (text.startswith("[") and text.endswith("]")):
        return False
    inside = text[1:-1].strip()
    return not inside or "," in inside or (inside[0] in "'\"" and inside[-1] == inside[0])


def number_in(value: object) -> float | None:
    """The number in a cell, or in its text. None where there is none, or it is not finite."""
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
