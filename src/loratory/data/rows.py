"""Examples on their way to a part: rows as arrays, ordered by the hashes of their texts.

A row's place is SHA-256(seed, normalised text); of equal texts the spelling decides, then the label.
"""

from __future__ import annotations

import hashlib
import json
import logging
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loratory.data.columns import Coded, Coder, Pairs, Text, Texts, chunked
from loratory.data.gathering import Examples
from loratory.data.sources import Source
from loratory.data.targets import (
    Label,
    Target,
    alike_but_for_case,
    as_array,
    key_of,
    listed,
    names_of,
    otherwise,
    strata_of,
)
from loratory.errors import DataError
from loratory.problems import MULTI, REGRESSION, SINGLE, Problem, Targets
from loratory.spec import DataSpec

log = logging.getLogger("loratory")

PARTS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Meaning:
    """What the labels of :class:`Rows` mean."""

    problem: Problem
    names: tuple[Label, ...]
    """As in :class:`Dataset`."""
    targets: tuple[Target, ...]
    """The distinct classes, in order, or sets of labels; none of a regression."""
    strata: int
    """How many there are."""
    inferred: bool = False
    """Whether nobody said what labels are, and they look like single classes."""

    @property
    def otherwise(self) -> str:
        """The end of an error's line: how to say what else the classes may be, where they look so."""
        return otherwise(self.names) if self.inferred else ""

    def target(self, label: Any) -> Target:
        """What a row's label is."""
        return float(label) if self.problem == REGRESSION else self.targets[label]

    def written(self, labels: Targets) -> list[str]:
        """Labels (N,) as JSON."""
        if self.problem == REGRESSION:
            return [json.dumps(number) for number in labels.tolist()]
        return [self._json[label] for label in labels.tolist()]

    @cached_property
    def _json(self) -> list[str]:
        return [json.dumps(target) for target in self.targets]

    def array(self, labels: Targets) -> Targets:
        """Labels (N,) as a split has them."""
        if self.problem != MULTI:
            return labels
        return as_array(Coded(self.targets, labels.astype(np.int32)), self.names, MULTI)

    def there(self, labels: Targets) -> set[int]:
        """The positions of the names that labels (N,) have; none of a regression."""
        if self.problem == REGRESSION:
            return set()
        found = np.unique(labels).tolist()
        if self.problem == SINGLE:
            return set(found)
        ids = {key_of(name): number for number, name in enumerate(self.names)}
        return {ids[key_of(name)] for label in found for name in listed(self.targets[label])}

    def bearing(self, labels: Targets, name: int) -> NDArray[np.bool_]:
        """(N,) which of the labels (N,) have the name at a position."""
        if self.problem == SINGLE:
            return np.equal(labels, name)
        key = key_of(self.names[name])
        having = [number for number, of in enumerate(self.targets) if key in map(key_of, listed(of))]
        return np.isin(labels, having)


@dataclass(frozen=True, eq=False)
class Rows:
    """N examples on their way to a part, in some order."""

    texts: Texts | Pairs
    strata: NDArray[np.int64]
    """(N,) of single labels the classes' ids."""
    labels: Targets
    """(N,) class ids, the very `strata`; positions among the distinct sets of labels; or numbers."""
    ids: NDArray[np.int64]
    """(N,) of their normalised texts, the same in all parts, in the order of the places."""
    numbers: NDArray[np.int64]
    """(N,) their sources' rows."""
    groups: NDArray[np.int64] | None
    """(N,) where there are groups; the same in all parts."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, chosen: NDArray[np.int64]) -> Rows:
        """The examples `chosen` (M,), in that order."""
        groups = None if self.groups is None else self.groups[chosen]
        strata = self.strata[chosen]
        labels = strata if self.labels is self.strata else self.labels[chosen]
        return Rows(self.texts.take(chosen), strata, labels, self.ids[chosen], self.numbers[chosen], groups)


def _names(source: Source, spec: DataSpec) -> tuple[Label, ...]:
    """The classes or labels in the order of their ids, two at least; of a regression what the number is called."""
    column = "rating" if spec.dataset.startswith("hutto:") else spec.label_column
    labels = names_of((part.labels for part in source.parts.values()), source.problem, column)
    if len(labels) < 2 and source.problem != REGRESSION:
        what = {SINGLE: "class", MULTI: "label"}[source.problem]
        said = f"one {what} only, {labels[0]!r}" if labels else f"no {what} at all"
        raise DataError(f"{spec.dataset}: {said}; at least two are needed")
    if len(alike := {str(label): label for label in labels}) < len(labels):
        other = next(label for label in labels if alike[str(label)] is not label)
        raise DataError(
            f"{spec.dataset}: the labels {other!r} and {alike[str(other)]!r} are written alike; give every label its "
            "own name"
        )
    for same in alike_but_for_case(labels):
        what = "classes of their own" if source.problem == SINGLE else "labels of their own"
        log.warning("%s: %s differ by case alone, and are %s", spec.dataset, " and ".join(map(repr, same)), what)
    return labels


def normalised(text: Text, *, in_order: bool = False) -> str:
    """The form in which two texts are the same: NFKC, case folded, each run of white space one space.

    Of a pair both texts', with a separator between them that is white space, and so in neither. Two pairs are the same
    in either order of their texts, unless they are asked for `in_order`.
    """
    if not isinstance(text, str):
        both = [normalised(one) for one in text]
        return "\x1f".join(both if in_order else sorted(both))
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def hashes(*columns: Sequence[Text], salt: str = "", in_order: bool = False) -> NDArray[np.uint64]:
    """(4, N): SHA-256 of `salt` and each text as it is normalised, as four numbers of which the first counts most.

    Args:
        columns: of N texts in all.
        in_order: as :func:`normalised` takes it.
    """
    found = np.empty((4, sum(map(len, columns))), dtype=np.uint64)
    begin = 0
    for chunk in (chunk for texts in columns for chunk in chunked(texts)):
        forms = (normalised(text, in_order=in_order) for text in chunk)
        digests = [hashlib.sha256(f"{salt}{form}".encode()).digest() for form in forms]
        found[:, begin : begin + len(chunk)] = np.frombuffer(b"".join(digests), dtype=">u8").reshape(-1, 4).T
        begin += len(chunk)
    return found


def ranked(hashed: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The order (N,) of hashes (4, N), and the rank (N,) of each, which equal ones share."""
    order = np.lexsort(hashed[::-1])
    new = np.zeros(len(order), dtype=bool)
    for word in hashed:
        sorted_word = word[order]
        new[1:] |= sorted_word[1:] != sorted_word[:-1]
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.cumsum(new)
    return order, ranks


def rows_of(source: Source, spec: DataSpec) -> tuple[dict[str, Rows], Meaning, NDArray[np.uint64] | None]:
    """The rows of each part (`train` for `all`), what their labels mean; and of each id of a text its place, where
    there are groups."""
    names = _names(source, spec)
    parts = {("train" if part == "all" else part): examples for part, examples in source.parts.items()}
    ends = np.cumsum([0, *(len(examples.texts) for examples in parts.values())])
    hashed = hashes(*(examples.texts for examples in parts.values()), salt=f"{spec.split_seed}\0")
    order, ids = ranked(hashed)
    places = None
    if any(examples.groups for examples in parts.values()):
        places = hashed[:, order[first_places(ids[order])]]
    del hashed, order
    groups = _group_numbers(parts)
    stratum, strata = strata_of(parts["train"].labels, names)
    sets: Coder[Target] = Coder()  # of several labels the distinct ones, alike in all parts
    rows = {}
    for (part, examples), begin, end in zip(parts.items(), ends[:-1], ends[1:], strict=True):
        found = stratum(examples.labels)
        labels: Targets = found
        if not isinstance(examples.labels, Coded):
            labels = examples.labels
        elif source.problem == MULTI:
            labels = np.array([sets.add(target) for target in examples.labels.values], np.int64)[examples.labels.codes]
        numbers = np.asarray(examples.rows, dtype=np.int64)
        rows[part] = Rows(examples.texts, found, labels, ids[begin:end], numbers, groups.get(part))
    targets: tuple[Target, ...] = names if source.problem == SINGLE else sets.done().values
    inferred = source.problem == SINGLE and spec.problem is None and not spec.dataset.startswith("hutto:")
    return rows, Meaning(source.problem, names, targets, strata, inferred), places


def first_places(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each value of N sorted ones stands first."""
    new = np.ones(len(values), dtype=bool)
    new[1:] = values[1:] != values[:-1]
    return np.flatnonzero(new)


def _group_numbers(parts: Mapping[str, Examples]) -> dict[str, NDArray[np.int64]]:
    """(N,) the number of each example's group in each part that has groups."""
    known: dict[str, int] = {}
    found = {}
    for part, examples in parts.items():
        if examples.groups is not None:
            by_code = [known.setdefault(name, len(known)) for name in examples.groups.values]
            found[part] = np.array(by_code, dtype=np.int64)[examples.groups.codes]
    return found


def in_hash_order(rows: Rows, meaning: Meaning) -> NDArray[np.int64]:
    """The order (N,) of the rows by place; of equal texts by their spelling, then by stratum and label."""
    order = np.argsort(rows.ids, kind="stable")
    for begin, end in runs_of_equals(rows.ids[order]):
        alike = order[begin:end].tolist()
        spelt = list(rows.texts.take(order[begin:end]))
        labels = [str(meaning.target(label)) for label in rows.labels[order[begin:end]].tolist()]
        keys = sorted(zip(spelt, rows.strata[order[begin:end]].tolist(), labels, alike, strict=True))
        order[begin:end] = [row for *_, row in keys]
    return order


def runs_of_equals(values: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Where two or more neighbours of N sorted values are equal: begin and end."""
    bounds = np.append(first_places(values), len(values))
    long = np.flatnonzero(np.diff(bounds) > 1)
    yield from zip(bounds[long].tolist(), bounds[long + 1].tolist(), strict=True)
