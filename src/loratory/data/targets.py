"""What a cell of the label column says: a class, a set of labels, or a number; which it is is recognised or said.

    cells ─▶ recognised (--problem says otherwise) ─▶ read, each as its problem has it ─▶ strata, arrays

Strata: classes; of a set of labels the rarest of them (the order in which iterative stratification deals labels out,
Sechidis, Tsoumakas & Vlahavas 2011, here in one pass); of numbers tenths of the training examples.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loratory.data.files import LABEL, Columns, encodable
from loratory.problems import FLAGS, MULTI, REGRESSION, SINGLE, Problem, Targets

Label = str | int | float | bool
"""What a class is called in the source: text, a number, or true/false."""

Target = Label | tuple[Label, ...]
"""What a text is to be given: its class; its labels; or a number."""

SEPARATOR = "--label-separator"

STRATA = 10
"""Strata of a regression: tenths, which a split then has alike."""

FEWEST = 20
"""Training examples a stratum of a regression has at least."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def recognised(tables: Iterable[Columns], flag: str | None, separator: str | None) -> tuple[Problem, str | None]:
    """The problem that the labels of these tables make, and why where nobody said it and it is no single label.

    Args:
        flag: what `--problem` says.
        separator: what `--label-separator` says.
    """
    if flag is not None:
        return FLAGS[flag], None
    if separator is not None:
        return MULTI, None
    found = [(value, columns.untyped) for columns in tables for value in columns.values[LABEL] if not missing(value)]
    if any(is_list(value) for value, _ in found):
        return MULTI, "labels are lists"
    numbers = [_number(value, untyped=untyped) for value, untyped in found]
    if None not in numbers and any(not value.is_integer() for value in numbers if value is not None):
        return REGRESSION, "labels are numbers with fractions"
    return SINGLE, None


def is_list(value: object) -> bool:
    """Whether a cell holds several labels: a list, tuple or array."""
    return isinstance(value, list | tuple) or getattr(value, "ndim", 0) == 1


def missing(value: object) -> bool:
    """Whether a cell holds no label at all; an empty list is one: no label of those there are."""
    if isinstance(value, str):
        return value.strip().casefold() in ("", "nan")
    return value is None or (isinstance(value, float) and math.isnan(value))


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


def read_targets(
    columns: Columns, problem: Problem, separator: str | None, refuse: Callable[..., None]
) -> list[Target]:
    """The label of each row, where nothing is missing.

    Args:
        refuse: raises a DataError for rows at fault: (faults, what they are, remedy).

    Raises:
        DataError: by `refuse`: a single label among lists, a label that is no name, or one that is no number.
    """
    cells = columns.values[LABEL]
    if problem == REGRESSION:
        numbers = [_number(value, untyped=columns.untyped) for value in cells]
        said = "give a number, or say --problem single-label"
        refuse([value is None for value in numbers], "with a target that is no finite number", said)
        return [float(value) for value in numbers if value is not None]
    if problem == MULTI:
        return _sets(columns, separator, refuse)
    names = [class_name(value) for value in cells]
    refuse([name is None for name in names], "with a label that is no class name", "use text, numbers or true/false")
    return [name for name in names if name is not None]


def _sets(columns: Columns, separator: str | None, refuse: Callable[[list[bool], str, str], None]) -> list[Target]:
    cells = columns.values[LABEL]
    if separator is not None:
        cells = [_pieces(value, separator) if isinstance(value, str) else value for value in cells]
    say = "write a list of one" if any(map(is_list, cells)) else f"write lists, or set {SEPARATOR}"
    refuse([not is_list(value) for value in cells], "with a single label where a list of labels is read", say)
    found = [[class_name(_own(one)) for one in list(value)] for value in cells if isinstance(value, Iterable)]
    refuse([None in names for names in found], "with a label that is no name", "use text, numbers or true/false")
    twice = [len({key_of(name) for name in names if name is not None}) < len(names) for names in found]
    refuse(twice, "with a label that stands there twice", "list the labels that a text has, not 0 or 1 for each")
    return [tuple(sorted((name for name in names if name is not None), key=key_of)) for names in found]


def _own(value: Any) -> object:
    """numpy's scalars as what they hold."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


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


def names_of(targets: Iterable[Target], problem: Problem, column: str) -> tuple[Label, ...]:
    """What the outputs of a model are called: classes or labels in order, or the number by its column."""
    if problem == REGRESSION:
        return (column,)
    return ordered_labels(label for target in targets for label in listed(target))


def listed(target: Target) -> tuple[Label, ...]:
    """The labels of one text: a class alone is one."""
    return target if isinstance(target, tuple) else (target,)


def strata_of(targets: Sequence[Target], names: Sequence[Label], problem: Problem) -> Callable[[Target], int]:
    """The stratum of each target, by what the training examples' `targets` are like.

    Args:
        names: the classes or labels in order.
    """
    if problem == REGRESSION:
        numbers = np.array(targets, dtype=np.float64)
        count = min(STRATA, max(1, len(numbers) // FEWEST))
        edges = np.quantile(numbers, np.arange(1, count) / count, method="inverted_cdf")
        return lambda target: int(np.searchsorted(edges, float(target)))  # type: ignore[arg-type]  # a number
    ids = {key_of(name): number for number, name in enumerate(names)}
    if problem == SINGLE:
        return lambda target: ids[key_of(target)]  # type: ignore[arg-type]  # a label
    counts = Counter(ids[key_of(label)] for target in targets for label in listed(target))

    def rarest(target: Target) -> int:
        found = [ids[key_of(label)] for label in listed(target)]
        return min(found, key=lambda label: (counts[label], label), default=len(names))

    return rarest


def as_array(targets: Sequence[Target], names: Sequence[Label], problem: Problem) -> Targets:
    """(N,) int64 classes, (N, C) int64 of 0 and 1, or (N,) float64.

    Raises:
        KeyError: a label that is none of the names.
    """
    if problem == REGRESSION:
        return np.array(targets, dtype=np.float64)
    ids = {key_of(name): number for number, name in enumerate(names)}
    if problem == SINGLE:
        return np.array([ids[key_of(target)] for target in targets], dtype=np.int64)  # type: ignore[arg-type]  # labels
    sets: NDArray[np.int64] = np.zeros((len(targets), len(names)), dtype=np.int64)
    for row, target in enumerate(targets):
        sets[row, [ids[key_of(label)] for label in listed(target)]] = 1
    return sets


def as_targets(labels: Targets, names: Sequence[Label]) -> list[Target]:
    """What :func:`as_array` made an array of."""
    if labels.ndim == 2:
        return [tuple(names[number] for number in np.flatnonzero(row).tolist()) for row in labels]
    if np.issubdtype(labels.dtype, np.floating):
        return [float(value) for value in labels]
    return [names[number] for number in labels.tolist()]


def shown(labels: Targets, names: Sequence[object]) -> list[str]:
    """What each of N examples is labelled, as text: (N,)."""
    if labels.ndim == 2:
        return [", ".join(str(names[number]) for number in np.flatnonzero(row).tolist()) or "(none)" for row in labels]
    if np.issubdtype(labels.dtype, np.floating):
        return [f"{value:.6g}" for value in labels.tolist()]
    return [str(names[number]) for number in labels.tolist()]
