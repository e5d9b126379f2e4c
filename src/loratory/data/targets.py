"""What a cell of the label column says: a class, a set of labels, or a number; which it is is recognised or said.

    cells ─▶ recognised (--problem says otherwise) ─▶ read, each as its problem has it ─▶ strata, arrays

Strata: classes; of a set of labels the rarest of them (the order in which iterative stratification deals labels out,
Sechidis, Tsoumakas & Vlahavas 2011, here in one pass); of numbers tenths of the training examples.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loratory.data.columns import Coded, Coder
from loratory.data.files import encodable
from loratory.problems import FLAG_OF, FLAGS, MULTI, REGRESSION, SINGLE, Problem, Targets

Label = str | int | float | bool
"""What a class is called in the source: text, a number, or true/false."""

Target = Label | tuple[Label, ...]
"""What a text is to be given: its class; its labels; or a number."""

Numbers = NDArray[np.float64]

Refuse = Callable[[int, Sequence[int], str, str], None]

SEPARATOR = "--label-separator"

LISTED = 5
"""Faulty rows that are named."""

MANY = 65_536
"""Distinct numbers with fractions among them, above which a column is one of numbers whatever comes after them."""

SLIPS = 0.1
"""Below this share of the rows, what is no number among numbers with fractions is a slip and no class."""

STRATA = 10
"""Strata of a regression: tenths, which a split then has alike."""

FEWEST = 20
"""Training examples a stratum of a regression has at least."""

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
            number = _number(value, untyped=self._untyped)
            self._may_be_numbers = number is not None
            self._fractions = self._fractions or (number is not None and not number.is_integer())

    def _as_numbers(self) -> None:
        coded = self._coder.done()
        of = np.array([_number(value, untyped=self._untyped) for value in coded.values], dtype=np.float64)
        self._numbers = array("d", of[coded.codes].tobytes())
        self._coder, self._places = Coder(), []

    def _add_number(self, numbers: array[float], place: int, cell: object) -> bool:
        number = _number(cell, untyped=self._untyped)
        if number is None:
            if missing(cell):
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


def recognised(columns: Sequence[Cells], flag: str | None, separator: str | None) -> tuple[Problem, str | None]:
    """The problem that the labels of these columns make, and why where nobody said it and it is no single label.

    Args:
        flag: what `--problem` says.
        separator: what `--label-separator` says.
    """
    if flag is not None:
        return FLAGS[flag], None
    if separator is not None:
        return MULTI, None
    fractions: tuple[Problem, str] = REGRESSION, "labels are numbers with fractions"
    if any(cells.numbers is not None for cells in columns):
        return fractions
    if any(isinstance(value, tuple) for cells in columns for value in cells.values.values):
        return MULTI, "labels are lists"
    rows = others = 0
    fractional = False
    for cells in columns:
        numbers = [_number(value, untyped=cells.untyped) for value in cells.values.values]
        rows += len(cells.values)
        others += int(np.isin(cells.values.codes, [code for code, one in enumerate(numbers) if one is None]).sum())
        fractional |= any(not one.is_integer() for one in numbers if one is not None)
    if fractional and not others:
        return fractions
    if fractional and others < SLIPS * rows:  # to be refused by their rows, not made classes of
        return REGRESSION, "nearly all labels are numbers, some with fractions"
    return SINGLE, None


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


def class_name(value: object) -> Label | None:
    """The class as it is kept: text without space around it, 1.0 as 1; None for what cannot name one."""
    if isinstance(value, str):
        stripped = value.strip()
        return stripped if encodable(stripped) else None
    if isinstance(value, float):
        if math.isinf(value):
            return None
        return int(value) if value.is_integer() else value
    return value if isinstance(value, bool | int) else None


def read_targets(cells: Cells, problem: Problem, separator: str | None, refuse: Refuse) -> Coded[Target] | Numbers:
    """The label of each row; of a regression (N,) float64.

    Args:
        refuse: raises a DataError for rows at fault: (how many, the first places, what they are, remedy); for none
            it does nothing.

    Raises:
        DataError: by `refuse`: a single label among lists, a label that is no name, or one that is no number.
    """
    if problem == REGRESSION:
        return _numbers(cells, refuse)
    if problem == MULTI:
        return _sets(cells, separator, refuse)
    _look_over(
        cells,
        [class_name(value) is None for value in cells.values.values],
        refuse,
        ("with a label that is no class name", "use text, numbers or true/false"),
    )
    return cells.values.converted(_named)


def _named(value: object) -> Label:
    name = class_name(value)
    assert name is not None  # its row would be at fault
    return name


def _look_over(cells: Cells, faults: Sequence[bool], refuse: Refuse, what: tuple[str, str]) -> None:
    """Refuse the rows of the distinct cells at fault."""
    wrong = np.flatnonzero(faults)
    count = int(np.isin(cells.values.codes, wrong).sum()) if len(wrong) else 0
    refuse(count, sorted(place for code in wrong.tolist() for place in cells.places[code])[:LISTED], *what)


_NO_NUMBER = ("with a target that is no finite number", "give a number, or say --problem single-label")


def _numbers(cells: Cells, refuse: Refuse) -> Numbers:
    if cells.numbers is not None:
        refuse(int(np.isnan(cells.numbers).sum()), cells.wrong, *_NO_NUMBER)
        return cells.numbers
    found = [_number(value, untyped=cells.untyped) for value in cells.values.values]
    _look_over(cells, [number is None for number in found], refuse, _NO_NUMBER)
    return np.array(found, dtype=np.float64)[cells.values.codes]


def _sets(cells: Cells, separator: str | None, refuse: Refuse) -> Coded[Target]:
    def pieces(value: object) -> object:
        return tuple(_pieces(value, separator)) if separator is not None and isinstance(value, str) else value

    found = [pieces(value) for value in cells.values.values]
    lists = any(isinstance(value, tuple) for value in cells.values.values)
    say = "write a list of one" if lists else f"write lists, or set {SEPARATOR}"
    single = [not isinstance(value, tuple) for value in found]
    _look_over(cells, single, refuse, ("with a single label where a list of labels is read", say))
    names = [
        [None if missing(one) else class_name(one) for one in value] for value in found if isinstance(value, tuple)
    ]
    nameless = [None in one for one in names]
    _look_over(cells, nameless, refuse, ("with a label that is no name", "use text, numbers or true/false"))
    known = [[key_of(name) for name in one if name is not None] for one in names]
    twice = ("with a label that stands there twice", "list the labels that a text has, not 0 or 1 for each")
    _look_over(cells, [len(set(keys)) < len(keys) for keys in known], refuse, twice)
    of = Coded.of(tuple(label for _, label in sorted(keys)) for keys in known)
    return Coded(of.values, of.codes[cells.values.codes])


def _pieces(cell: str, separator: str) -> list[str]:
    """The labels of one cell; a separator alone stands for none."""
    return [piece.strip() for piece in cell.split(separator) if piece.strip()]


def _number(value: object, *, untyped: bool) -> float | None:
    """The number in a cell; text counts where cells have no type. None where there is none, or it is not finite."""
    if isinstance(value, str) and untyped and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def ordered_labels(labels: Iterable[Label]) -> tuple[Label, ...]:
    """The distinct labels in the order of their ids: true/false, then numbers by value, then text by code point."""
    return tuple(label for _, label in sorted({key_of(label) for label in labels}))


def key_of(label: Label) -> tuple[str, Label]:
    """Tells True from 1, which Python calls equal."""
    kind = "number" if isinstance(label, int | float) and not isinstance(label, bool) else type(label).__name__
    return kind, label


def names_of(parts: Iterable[Coded[Target] | Numbers], problem: Problem, column: str) -> tuple[Label, ...]:
    """What the outputs of a model are called: classes or labels in order, or the number by its column."""
    if problem == REGRESSION:
        return (column,)
    coded = (part for part in parts if isinstance(part, Coded))
    return ordered_labels(label for part in coded for target in part.values for label in listed(target))


def listed(target: Target) -> tuple[Label, ...]:
    """The labels of one text: a class alone is one."""
    return target if isinstance(target, tuple) else (target,)


Strata = Callable[[Coded[Target] | Numbers], NDArray[np.int64]]
"""Says the stratum of each of N targets: (N,) from 0."""


def strata_of(targets: Coded[Target] | Numbers, names: Sequence[Label]) -> tuple[Strata, int]:
    """What strata there are, and how many, by what the training examples' `targets` are like.

    Args:
        names: the classes or labels in order.
    """
    if not isinstance(targets, Coded):
        count = min(STRATA, max(1, len(targets) // FEWEST))
        edges = np.quantile(targets, np.arange(1, count) / count, method="inverted_cdf")
        return lambda numbers: np.searchsorted(edges, numbers).astype(np.int64), count
    ids = {key_of(name): number for number, name in enumerate(names)}
    often = np.zeros(len(names), dtype=np.int64)
    for target, count in zip(targets.values, np.bincount(targets.codes, minlength=len(targets.values)), strict=True):
        often[[ids[key_of(label)] for label in listed(target)]] += count

    def rarest(target: Target) -> int:
        found = [ids[key_of(label)] for label in listed(target)]
        return min(found, key=lambda label: (often[label], label), default=len(names))

    def strata(part: Coded[Target] | Numbers) -> NDArray[np.int64]:
        assert isinstance(part, Coded)
        return np.array([rarest(target) for target in part.values], dtype=np.int64)[part.codes]

    return strata, len(names) + any(target == () for target in targets.values)


def as_array(targets: Coded[Target] | Numbers, names: Sequence[Label], problem: Problem) -> Targets:
    """(N,) int64 classes, (N, C) int64 of 0 and 1, or (N,) float64.

    Raises:
        KeyError: a label that is none of the names.
    """
    if not isinstance(targets, Coded):
        return targets
    ids = {key_of(name): number for number, name in enumerate(names)}
    if problem == SINGLE:
        of = np.array([ids[key_of(label)] for target in targets.values for label in listed(target)], dtype=np.int64)
        return of[targets.codes]
    sets: NDArray[np.int64] = np.zeros((len(targets.values), len(names)), dtype=np.int64)
    for row, target in enumerate(targets.values):
        sets[row, [ids[key_of(label)] for label in listed(target)]] = 1
    return sets[targets.codes]


def as_targets(labels: Targets, names: Sequence[Label]) -> Coded[Target] | Numbers:
    """What :func:`as_array` made an array of."""
    if labels.ndim == 2:
        return Coded.of(tuple(names[number] for number in np.flatnonzero(row).tolist()) for row in labels)
    if np.issubdtype(labels.dtype, np.floating):
        return labels
    return Coded(tuple(names), labels.astype(np.int32))


def shown(labels: Targets, names: Sequence[object]) -> list[str]:
    """What each of N examples is labelled, as text: (N,)."""
    if labels.ndim == 2:
        return [", ".join(str(names[number]) for number in np.flatnonzero(row).tolist()) or "(none)" for row in labels]
    if np.issubdtype(labels.dtype, np.floating):
        return [f"{value:.6g}" for value in labels.tolist()]
    return [str(names[number]) for number in labels.tolist()]
