"""How examples are divided: stratified, seeded, and by hashes alone, so that every machine divides alike.

Texts that are equal once normalised are never parted, nor are those of one group (a document, an author) where the
source has groups. What is never parted is a unit, and counts for the commonest stratum of its texts: its class, or
what :mod:`loratory.data.targets` says where labels are no classes. Within each stratum, units are ordered by
SHA-256(seed, normalised text), for several texts that of their hashes, and cut by their number: the test takes the
first, validation the next, training the rest. Neither the order of the rows, nor any library's random numbers, nor the
size of a unit has a say.
"""

from __future__ import annotations

import hashlib
import json
import logging
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from loratory.data.sources import Examples, Source, load_source
from loratory.data.targets import Label, Target, as_array, key_of, listed, names_of, ordered_labels, strata_of
from loratory.errors import DataError, SettingsError, counted
from loratory.problems import MULTI, REGRESSION, SINGLE, Problem, Targets, spread_of
from loratory.spec import DataSpec, validated

log = logging.getLogger("loratory")

PARTS = ("train", "validation", "test")

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Split:
    """N examples of one part."""

    texts: tuple[str, ...]
    labels: Targets
    """(N,) class ids, positions in `Dataset.labels`; (N, C) of 0 and 1 where there may be several; or (N,) numbers."""
    digest: str
    """SHA-256 over the texts and label names in order."""
    rows: NDArray[np.int64]
    """(N,) 0-based rows of the file or data set that the part was read from."""
    units: NDArray[np.int64]
    """(N,) numbers from 0, the same for examples that are never parted: they are not independent of each other."""

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A divided data set, and what was found while dividing it."""

    name: str
    revision: str | None
    digest: str
    """SHA-256 of the source, before it was divided."""
    labels: tuple[Label, ...]
    """Class names in the order of their ids, of the source's own type; of a regression what the number is called."""
    train: Split
    validation: Split
    test: Split
    """Empty where `test_fraction` is 0."""
    overlap: dict[str, int]
    """`train-test` and so on: rows of the second part whose normalised text stands in the first (before `limit`)."""
    duplicates: dict[str, int]
    """Rows of each part of the source (`all` where it has one) whose normalised text stood in it before."""
    conflicts: int
    """Texts that stand in the source more than once, with different labels."""
    dropped: int
    """Examples for which the task has no class."""
    groups: dict[str, Any] | None
    """Where the source has groups: their `count`, and `overlap`: examples of the second part whose group the first has.
    """
    problem: Problem = SINGLE

    def split(self, part: str) -> Split:
        """The part of that name, one of `PARTS`."""
        found: Split = getattr(self, part)
        return found

    def record(self) -> dict[str, Any]:
        """The `data` part of run.json: JSON types only; `class_counts` in the order of `labels`, or the `targets`.

        `problem` is there where it is not that of single labels.
        """
        splits = {part: self.split(part) for part in PARTS}
        problem = {} if self.problem == SINGLE else {"problem": self.problem}
        return {
            **problem,
            "source": self.name,
            "revision": self.revision,
            "digest": self.digest,
            "labels": list(self.labels),
            "sizes": {part: len(split) for part, split in splits.items()},
            "units": {part: int(split.units.max(initial=-1)) + 1 for part, split in splits.items()},
            "digests": {part: split.digest for part, split in splits.items()},
            **self._described(splits),
            "overlap": dict(self.overlap),
            "duplicates": dict(self.duplicates),
            "conflicts": self.conflicts,
            "dropped": self.dropped,
            "groups": self.groups,
        }

    def _described(self, splits: Mapping[str, Split]) -> dict[str, Any]:
        """How many examples of each part have each label, or what each part's numbers are like."""
        if self.problem == REGRESSION:
            return {"targets": {part: spread_of(split.labels) for part, split in splits.items() if len(split)}}
        if self.problem == MULTI:
            counts = {part: split.labels.sum(axis=0) for part, split in splits.items()}
        else:
            counts = {part: np.bincount(split.labels, minlength=len(self.labels)) for part, split in splits.items()}
        return {"class_counts": {part: count.tolist() for part, count in counts.items()}}


@dataclass(frozen=True)
class _Row:
    """One example on its way to a part: its stratum (of single labels the class's id), normalised text, its place in
    the hash order, its source's row, its group where there are groups, and what it is to be given.
    """

    text: str
    label: int
    normal: str
    place: bytes
    number: int
    group: str | None
    target: Target


@dataclass
class _Unit:
    """Rows that are never parted."""

    place: bytes
    """In the hash order."""
    normals: list[str]
    """Their distinct normalised texts."""
    classes: Counter[int]
    """How many of these are of each class."""

    @property
    def label(self) -> int:
        """The commonest class, the lowest id among equals."""
        return _commonest(self.classes)


def make_dataset(spec: DataSpec) -> Dataset:
    """Read the data set that `spec` names and divide it.

    Parts that have files of their own keep their order; the others are cut from the training examples.

    Raises:
        DataError: there is one class only, one too small to divide, or one that training never sees; else as
            :func:`loratory.data.sources.load_source`, whose other errors pass through too.
        SettingsError: the fractions leave nothing to train on, or the limit is below the number of classes.
    """
    source = load_source(spec)
    labels, problem = _names(source, spec), source.problem
    training = source.parts.get("all") or source.parts["train"]
    stratum = strata_of(training.labels, labels, problem)
    read = {
        ("train" if part == "all" else part): _rows(examples, stratum, spec.split_seed)
        for part, examples in source.parts.items()
    }
    cut = {
        part: fraction
        for part, fraction in (("test", spec.test_fraction), ("validation", spec.validation_fraction))
        if part not in read and fraction > 0
    }
    parts: dict[str, list[_Row]] = (
        {"test": []} | read | divide(read["train"], cut, labels if problem == SINGLE else None, spec.dataset)
    )
    for part in ("validation", "test"):
        if problem != REGRESSION:
            _refuse_unseen(parts["train"], parts[part], part, spec.where(part))
    overlap = _overlaps(parts, lambda row: row.normal)
    for pair, count in overlap.items():
        if count:
            first, second = pair.split("-")
            log.warning("%s: %s of %s also in %s; kept", spec.dataset, counted(count, "text"), second, first)
    groups = _grouped(spec, source, parts)
    if groups is not None and problem == SINGLE:
        _warn_uneven(parts, cut, labels, spec.dataset)
    if spec.limit is not None:
        parts["train"] = _limited(parts["train"], spec.limit, len(labels) if problem == SINGLE else 1)
    train, validation, test = (_split(parts[part], labels, problem) for part in PARTS)
    if problem == REGRESSION and np.ptp(train.labels) == 0:
        raise DataError(f"{spec.dataset}: the target of every training text is {train.labels[0]:g}; nothing to learn")
    return Dataset(
        name=source.name,
        revision=source.revision,
        digest=source.digest,
        labels=labels,
        train=train,
        validation=validation,
        test=test,
        overlap=overlap,
        duplicates={
            "all" if "all" in source.parts and part == "train" else part: len(rows) - len({row.normal for row in rows})
            for part, rows in read.items()
        },
        conflicts=sum(len(set(targets)) > 1 for targets in _of_texts(read["train"], lambda row: row.target).values()),
        dropped=source.dropped,
        groups=groups,
        problem=problem,
    )


def _grouped(spec: DataSpec, source: Source, parts: Mapping[str, list[_Row]]) -> dict[str, Any] | None:
    """What is said of the groups, where the source has some; parts that were given may share some."""
    names = {group for examples in source.parts.values() for group in examples.groups or ()}
    if not names:
        return None
    overlap = _overlaps(parts, lambda row: row.group)
    for pair, count in overlap.items():
        if count:
            first, second = pair.split("-")
            what = counted(count, "example")
            log.warning("%s: %s of %s from groups that are also in %s; kept", spec.dataset, what, second, first)
    return {"count": len(names), "overlap": overlap}


def dataset_of(record: Mapping[str, Any]) -> Dataset:
    """The data of a run's record (`run.json`, read), divided as it was then.

    Raises:
        DataError: it is not what it was; else as :func:`make_dataset`.
    """
    dataset = make_dataset(validated(DataSpec, record["spec"]["data"]))
    if dataset.test.digest != record["data"]["digests"]["test"]:
        raise DataError(f"{dataset.name} has changed since the run {record['id']}; use --no-baselines")
    return dataset


def normalised(text: str) -> str:
    """The form in which two texts are the same: NFKC, case folded, each run of white space one space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _names(source: Source, spec: DataSpec) -> tuple[Label, ...]:
    """The classes or labels in the order of their ids, two at least; of a regression what the number is called."""
    column = "rating" if spec.dataset.startswith("hutto:") else spec.label_column
    targets = [target for part in source.parts.values() for target in part.labels]
    labels = names_of(targets, source.problem, column)
    if len(labels) < 2 and source.problem != REGRESSION:
        what = {SINGLE: "class", MULTI: "label"}[source.problem]
        said = f"one {what} only, {labels[0]!r}" if labels else f"no {what} at all"
        raise DataError(f"{spec.dataset}: {said}; at least two are needed")
    return labels


def _rows(examples: Examples, stratum: Callable[[Target], int], seed: int) -> list[_Row]:
    rows = []
    groups = examples.groups if examples.groups is not None else (None,) * len(examples.texts)
    for text, target, number, group in zip(examples.texts, examples.labels, examples.rows, groups, strict=True):
        normal = normalised(text)
        place = hashlib.sha256(f"{seed}\0{normal}".encode()).digest()
        rows.append(_Row(text, stratum(target), normal, place, number, group, target))
    return rows


def _in_hash_order(rows: Iterable[_Row]) -> list[_Row]:
    return sorted(rows, key=lambda row: (row.place, row.text, row.label, str(row.target)))


def _of_texts(rows: Iterable[_Row], what: Callable[[_Row], T]) -> dict[str, list[T]]:
    """Something of each row, by its normalised text."""
    found: dict[str, list[T]] = defaultdict(list)
    for row in rows:
        found[row.normal].append(what(row))
    return found


def _units(rows: Sequence[_Row]) -> list[_Unit]:
    """What is never parted, in the order of the places. A text whose rows disagree counts for its commonest class."""
    labels = {
        normal: _commonest(Counter(classes)) for normal, classes in _of_texts(rows, lambda row: row.label).items()
    }
    places = {row.normal: row.place for row in rows}
    units = []
    for together in _together(rows):
        found = sorted(places[normal] for normal in together)  # the least of them would put large units first
        place = found[0] if len(found) == 1 else hashlib.sha256(b"".join(found)).digest()
        units.append(_Unit(place, together, Counter(labels[normal] for normal in together)))
    return sorted(units, key=lambda unit: unit.place)


def _commonest(counts: Counter[int]) -> int:
    return min(counts, key=lambda label: (-counts[label], label))


def _together(rows: Sequence[_Row]) -> Iterable[list[str]]:
    """The distinct normalised texts, those that share a group in one list, also by way of a third."""
    normals = dict.fromkeys(row.normal for row in rows)
    if not rows or rows[0].group is None:
        return ([normal] for normal in normals)
    from scipy.cluster.hierarchy import DisjointSet

    joined = DisjointSet(normals)
    first: dict[str | None, str] = {}
    for row in rows:
        joined.merge(first.setdefault(row.group, row.normal), row.normal)
    return map(sorted, joined.subsets())


def divide(
    rows: Sequence[_Row], fractions: dict[str, float], labels: Sequence[Label] | None, where: str
) -> dict[str, list[_Row]]:
    """Cut `rows` into `train` and the parts of `fractions`, each stratum by itself, units whole.

    Args:
        labels: the classes that the strata are, each of which every part must have; None where strata are no classes.
    """
    if sum(Fraction(str(share)) for share in fractions.values()) >= 1:
        raise SettingsError("--validation-fraction and --test-fraction leave nothing to train on; lower one")
    units = _units(rows)
    holding = Counter(label for unit in units for label in unit.classes)
    if labels is not None and fractions:
        for label in sorted({row.label for row in rows}):  # others stand in a given file, refused for that
            if holding[label] <= len(fractions):
                found = counted(holding[label], "distinct text" if rows[0].group is None else "group")
                raise DataError(
                    f"{where}: class {labels[label]!r} has {found}, too few for {len(fractions) + 1} parts; "
                    "add some, merge the class with another, or remove it"
                )
    by_class: dict[int, list[_Unit]] = defaultdict(list)
    for unit in units:
        by_class[unit.label].append(unit)
    side: dict[str, str] = {}
    for members in by_class.values():
        begin = 0
        for part, count in _counts(len(members), fractions).items():
            side.update(dict.fromkeys((text for unit in members[begin : begin + count] for text in unit.normals), part))
            begin += count
    parts: dict[str, list[_Row]] = {part: [] for part in (*fractions, "train")}
    for row in _in_hash_order(rows):
        parts[side[row.normal]].append(row)
    return parts


def _warn_uneven(
    parts: Mapping[str, list[_Row]], fractions: dict[str, float], labels: Sequence[Label], where: str
) -> None:
    """Say where whole groups leave a part far from its share, or without a class."""
    total = sum(len(parts[part]) for part in ("train", *fractions))  # what was cut, not what was given
    for part, share in fractions.items():
        asked, found = round(share * total), len(parts[part])
        if abs(found - asked) > asked / 2:
            text = "%s: %s has %d of %d texts where %d were asked for: some groups are large"
            log.warning(text, where, part, found, total, asked)
        there = {row.label for row in parts[part]}
        missing = ", ".join(repr(name) for number, name in enumerate(labels) if number not in there)
        if missing:
            log.warning("%s: no text of class %s in %s: its groups have none", where, missing, part)


def _counts(total: int, fractions: dict[str, float]) -> dict[str, int]:
    """Whole shares of `total` by largest remainder, `train` taking what the fractions leave; none is 0."""
    exact = {part: Fraction(str(share)) * total for part, share in fractions.items()}
    exact["train"] = total - sum(exact.values(), Fraction(0))
    counts = {part: int(share) for part, share in exact.items()}
    by_remainder = sorted(exact, key=lambda part: (counts[part] - exact[part], PARTS.index(part)))
    for part in by_remainder[: total - sum(counts.values())]:
        counts[part] += 1
    while total >= len(counts) and 0 in counts.values():
        empty = next(part for part in counts if counts[part] == 0)
        counts[max(counts, key=counts.__getitem__)] -= 1
        counts[empty] += 1
    return counts


def _limited(rows: list[_Row], limit: int, classes: int) -> list[_Row]:
    """The first `limit` rows of one order in which every beginning is stratified: so 100 rows lie within 200."""
    if limit < classes:
        raise SettingsError(f"--limit {limit}: below the number of classes, {classes}; raise it")
    sizes = Counter(row.label for row in rows)
    seen: Counter[int] = Counter()
    ranked: list[tuple[float, int, int]] = []
    for position, row in enumerate(rows):
        rank = seen[row.label]
        seen[row.label] += 1
        # the middle of the row's own step in its class; each class's first row comes before all, so none is lost
        ranked.append(((2 * rank + 1) / (2 * sizes[row.label]) if rank else 0.0, row.label, position))
    return [rows[position] for position in sorted(position for _, _, position in sorted(ranked)[:limit])]


def _refuse_unseen(train: list[_Row], other: list[_Row], part: str, where: str) -> None:
    known = set(map(key_of, _all_labels(train)))
    unseen = [label for label in ordered_labels(_all_labels(other)) if key_of(label) not in known]
    if unseen:
        names = ", ".join(map(repr, unseen[:5])) + (", …" if len(unseen) > 5 else "")
        raise DataError(f"{where}: labels in {part} that training never sees: {names}; add them to it or correct them")


def _all_labels(rows: Iterable[_Row]) -> Iterable[Label]:
    return (label for row in rows for label in listed(row.target))


def _overlaps(parts: Mapping[str, list[_Row]], key: Callable[[_Row], str | None]) -> dict[str, int]:
    """For each pair of parts, the rows of the second whose key the first has."""
    known = {part: {key(row) for row in rows} for part, rows in parts.items()}
    return {f"{a}-{b}": sum(key(row) in known[a] for row in parts[b]) for a, b in (PARTS[:2], PARTS[::2], PARTS[1:])}


def _split(rows: list[_Row], labels: Sequence[Label], problem: Problem) -> Split:
    state = hashlib.sha256()
    for row in rows:
        state.update(json.dumps([row.text, row.target]).encode() + b"\n")
    targets = as_array([row.target for row in rows], labels, problem)
    numbers = np.array([row.number for row in rows], dtype=np.int64)
    unit: dict[str, int] = {}
    for number, normals in enumerate(_together(rows)):
        unit.update(dict.fromkeys(normals, number))
    units = np.array([unit[row.normal] for row in rows], dtype=np.int64)
    return Split(tuple(row.text for row in rows), targets, state.hexdigest(), numbers, units)
