"""What a cell of the label column says: a class, a set of labels, or a number; which it is is recognised or said.

    cells ─▶ recognised (--problem says otherwise) ─▶ read, each as its problem has it ─▶ strata, arrays

Strata: classes; of a set of labels the rarest of them (the order in which iterative stratification deals labels out,
Sechidis, Tsoumakas & Vlahavas 2011, here in one pass); of numbers tenths of the training examples.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from loratory.data.cells import Cells, Reading, is_mark, is_written_list, missing, number_in
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


def read_targets(cells: Cells, how: Reading, refuse: Refuse) -> Coded[Target] | Numbers:
    """The label of each row; of a regression (N,) float64.

    Args:
        refuse: raises a DataError for rows at fault: (how many, the first places, what they are, remedy); for none
            it does nothing.

    Raises:
        DataError: by `refuse`: a single label among lists, a list that is written in a cell, a label that is no name,
            or one that is no number.
    """
    if how.problem == REGRESSION:
        return _numbers(cells, how, refuse)
    if how.problem == MULTI:
        return _sets(cells, how, refuse)
    nameless = [class_name(value) is None for value in cells.values.values]
    refuse(*cells.at(nameless), "with a label that is no class name", "use text, numbers or true/false")
    return cells.values.converted(_named)


def _named(value: object) -> Label:
    name = class_name(value)
    assert name is not None  # its row would be at fault
    return name


def _numbers(cells: Cells, how: Reading, refuse: Refuse) -> Numbers:
    found = [number_in(value) for value in cells.values.values]
    pairs = zip(found, cells.values.values, strict=True)
    count, places = cells.at([number is None and not is_mark(value) for number, value in pairs])  # marks are no label
    if cells.numbers is not None:
        count, places = int(np.isnan(cells.numbers).sum()), list(cells.wrong)
    looks = "" if how.why is None else f"{how.why}: "
    refuse(count, places, "with a target that is no finite number", looks + how.or_classes("give a number"))
    return np.array(found, dtype=np.float64)[cells.values.codes] if cells.numbers is None else cells.numbers


def _sets(cells: Cells, how: Reading, refuse: Refuse) -> Coded[Target]:
    separator = how.separator

    def pieces(value: object) -> object:
        return tuple(_pieces(value, separator)) if separator is not None and isinstance(value, str) else value

    values = cells.values.values
    if cells.untyped and any(map(is_written_list, values)):
        shown = next(value for value in values if is_written_list(value))
        remedy = how.or_classes(f"write a;b and set {SEPARATOR}, or give JSONL or Parquet")
        said = f"with a label that looks like a list, such as {str(shown)[:40]}"
        refuse(*cells.at([*map(is_written_list, values)]), said, remedy)
    found = [pieces(value) for value in values]
    lists = any(isinstance(value, tuple) for value in values)
    say = "write a list of one" if lists else f"write lists, or set {SEPARATOR}"
    single = [not isinstance(value, tuple) for value in found]
    refuse(*cells.at(single), "with a single label where a list of labels is read", say)
    names = [
        [None if missing(one) else class_name(one) for one in value] for value in found if isinstance(value, tuple)
    ]
    nameless = [None in one for one in names]
    refuse(*cells.at(nameless), "with a label that is no name", "use text, numbers or true/false")
    known = [[key_of(name) for name in one if name is not None] for one in names]
    twice = [len(set(keys)) < len(keys) for keys in known]
    remedy = "list the labels that a text has, not 0 or 1 for each"
    refuse(*cells.at(twice), "with a label that stands there twice", remedy)
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


SEPARATORS = ";|,/"
"""What may stand between the labels of one cell."""


def otherwise(names: Sequence[Label]) -> str:
    """How to say that classes of these names are numbers, or several labels each, where they look so: the end of an
    error's line."""
    if sum(number_in(name) is not None for name in names) > max(2, len(names) / 2):
        return "; say --problem regression if labels are numbers"
    for mark in SEPARATORS:
        pieces = [_pieces(name, mark) for name in names if isinstance(name, str)]
        often = Counter(piece for one in pieces for piece in {*one})
        if any(len(one) > 1 and all(often[piece] > 1 for piece in one) for one in pieces):
            return f"; set {SEPARATOR} if {mark!r} stands between labels"
    return ""


def joined_by(names: Sequence[Label]) -> str | None:
    """The mark that seems to stand between several labels in classes of these names: half of them, and three or more,
    have it, and the pieces between come twice on average; None where there is none."""
    for mark in SEPARATORS:
        joined = [one for name in names if isinstance(name, str) and len(one := _pieces(name, mark)) > 1]
        if len(joined) >= max(3, len(names) / 2):
            pieces = [piece for one in joined for piece in one]
            if 2 * len({*pieces}) <= len(pieces):
                return mark
    return None


def alike_but_for_case(names: Sequence[Label]) -> list[tuple[str, ...]]:
    """Classes or labels that differ in nothing but upper and lower case, each time all of them, in order."""
    of: dict[str, list[str]] = {}
    for name in names:
        if isinstance(name, str):
            of.setdefault(name.casefold(), []).append(name)
    return [tuple(same) for same in of.values() if len(same) > 1]


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
