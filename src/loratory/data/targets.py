"""What a cell of the label column says: a class, a set of labels, or a number; which it is is recognised or said.

    cells ─▶ recognised (--problem says otherwise) ─▶ read, each as its problem has it ─▶ strata, arrays

Strata: classes; of a set of labels the rarest of them (the order in which iterative stratification deals labels out,
Sechidis, Tsoumakas & Vlahavas 2011, here in one pass); of numbers tenths of the training examples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from loratory.data.cells import LISTED, Cells, missing, number_in
from loratory.data.columns import Coded
from loratory.data.files import encodable
from loratory.problems import MULTI, REGRESSION, SINGLE, Problem, Targets

Label = str | int | float | bool
"""What a class is called in the source: text, a number, or true/false."""

Target = Label | tuple[Label, ...]
"""What a text is to be given: its class; its labels; or a number."""

Numbers = NDArray[np.float64]

Refuse = Callable[[int, Sequence[int], str, str], None]

SEPARATOR = "--label-separator"

STRATA = 10
"""Strata of a regression: tenths, which a split then has alike."""

FEWEST = 20
"""Training examples a stratum of a regression has at least."""


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
    found = [number_in(value, untyped=cells.untyped) for value in cells.values.values]
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
