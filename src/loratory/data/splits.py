"""How examples are divided: stratified, seeded, and by hashes alone, so that every machine divides alike.

Texts that are equal once normalised are never parted, nor are those of one group (a document, an author) where the
source has groups. What is never parted is a unit, and counts for the commonest stratum of its texts: its class, or
what :mod:`loratory.data.targets` says where labels are no classes. Within each stratum, units are ordered by
SHA-256(seed, normalised text), for several texts that of their hashes, and cut by their number: the test takes the
first, validation the next, training the rest. Of K folds each is a stretch of that order; the one that is the test is
turned to its front, and validation follows it. Neither the order of the rows, nor any library's random numbers, nor the
size of a unit has a say.
"""

from __future__ import annotations

import hashlib
import json
import logging
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loratory.data.columns import Coded, Coder, Pairs, Text, Texts, chunked
from loratory.data.sources import Examples, Source, load_source
from loratory.data.targets import Label, Target, as_array, key_of, listed, names_of, strata_of
from loratory.errors import DataError, SettingsError, counted
from loratory.problems import MULTI, REGRESSION, SINGLE, Problem, Targets, spread_of
from loratory.spec import DataSpec, validated

log = logging.getLogger("loratory")

PARTS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Split:
    """N examples of one part."""

    texts: Sequence[Text]
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


@dataclass(frozen=True, eq=False)
class _Meaning:
    """What the labels of :class:`_Rows` mean."""

    problem: Problem
    names: tuple[Label, ...]
    """As in :class:`Dataset`."""
    targets: tuple[Target, ...]
    """The distinct classes, in order, or sets of labels; none of a regression."""
    strata: int
    """How many there are."""

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


@dataclass(frozen=True, eq=False)
class _Rows:
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

    def take(self, chosen: NDArray[np.int64]) -> _Rows:
        """The examples `chosen` (M,), in that order."""
        groups = None if self.groups is None else self.groups[chosen]
        strata = self.strata[chosen]
        labels = strata if self.labels is self.strata else self.labels[chosen]
        return _Rows(self.texts.take(chosen), strata, labels, self.ids[chosen], self.numbers[chosen], groups)


@dataclass(frozen=True, eq=False)
class _Units:
    """What is never parted, U units in the order of their places."""

    of: NDArray[np.int64]
    """The unit of each id of a text; -1 where no row has it."""
    strata: NDArray[np.int64]
    """(U,) the commonest stratum of each unit's texts, the lowest among equals."""
    holding: NDArray[np.int64]
    """How many units have a text of each stratum."""


def make_dataset(spec: DataSpec) -> Dataset:
    """Read the data set that `spec` names and divide it.

    Parts that have files of their own keep their order; the others are cut from the training examples.

    Raises:
        DataError: there is one class only, one too small to divide, or one that training never sees; else as
            :func:`loratory.data.sources.load_source`, whose other errors pass through too.
        SettingsError: the fractions leave nothing to train on, or the limit is below the number of classes.
    """
    _fold(spec)  # what cannot be meant is refused before anything is read
    return divided(load_source(spec), spec)


def divided(source: Source, spec: DataSpec) -> Dataset:
    """Divide what was read for `spec`.

    Raises:
        DataError, SettingsError: as :func:`make_dataset`.
    """
    fold = _fold(spec)
    if fold is not None and "test" in source.parts:
        raise SettingsError(f"{spec.dataset} has a test split of its own; --folds divides data that have none")
    read, meaning, places = _rows(source, spec)
    test_share = spec.test_fraction if fold is None else Fraction(1, fold[1])
    cut = {
        part: fraction
        for part, fraction in (("test", test_share), ("validation", spec.validation_fraction))
        if part not in read and fraction > 0
    }
    nothing = read["train"].take(np.empty(0, np.int64))
    parts = {"test": nothing} | read | divide(read["train"], places, cut, meaning, spec.dataset, fold)
    del places
    for part in ("validation", "test"):
        _refuse_unseen(parts["train"], parts[part], part, meaning, spec.where(part))
    overlap = _overlaps({part: rows.ids for part, rows in parts.items()})
    for pair, count in overlap.items():
        if count:
            first, second = pair.split("-")
            log.warning("%s: %s of %s also in %s; kept", spec.dataset, counted(count, "text"), second, first)
    groups = _grouped(spec, source, parts)
    if groups is not None:
        _warn_uneven(parts, cut, meaning, spec.dataset)
    if spec.limit is not None:
        whole, parts["train"] = parts["train"], _limited(parts["train"], spec.limit, meaning)
        if lost := sorted(meaning.there(whole.labels) - meaning.there(parts["train"].labels)):
            name = meaning.names[lost[0]]
            raise SettingsError(f"--limit {spec.limit}: no text with the label {name!r} is among so few; raise it")
    split = {part: _split(parts[part], meaning) for part in PARTS}
    if meaning.problem == MULTI and (split["train"].labels == split["train"].labels[0]).all():
        raise DataError(
            f"{spec.dataset}: every training text has the same labels; nothing to learn (list the labels that a text "
            "has, not 0 or 1 for each)"
        )
    if meaning.problem == REGRESSION and np.ptp(split["train"].labels) == 0:
        only = split["train"].labels[0]
        raise DataError(f"{spec.dataset}: the target of every training text is {only:g}; nothing to learn")
    return Dataset(
        name=source.name,
        revision=source.revision,
        digest=source.digest,
        labels=meaning.names,
        **split,
        overlap=overlap,
        duplicates={
            "all" if "all" in source.parts and part == "train" else part: len(rows) - _distinct(rows.ids)
            for part, rows in read.items()
        },
        conflicts=_conflicts(read["train"]),
        dropped=source.dropped,
        groups=groups,
        problem=meaning.problem,
    )


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
    return labels


def _fold(spec: DataSpec) -> tuple[int, int] | None:
    """Which fold is the test, from 1, and of how many; None where there are none.

    Raises:
        SettingsError: one without the other, no such fold, or beside what says the test split, too.
    """
    if spec.folds is None and spec.fold is None:
        return None
    if spec.folds is None:
        raise SettingsError(f"--fold {spec.fold}: of how many? Give --folds too")
    if spec.fold is None or spec.fold > spec.folds:
        given = "" if spec.fold is None else f", --fold {spec.fold}"
        raise SettingsError(f"--folds {spec.folds}{given}: say which one is the test, --fold 1 to {spec.folds}")
    other = {"--test": spec.test, "--test-split": spec.test_split}
    if (flag := next((flag for flag, value in other.items() if value is not None), None)) is not None:
        raise SettingsError(f"{flag} beside --folds: a fold is the test; leave one of them out")
    if spec.test_fraction != DataSpec.model_fields["test_fraction"].default:
        raise SettingsError(f"--test-fraction beside --folds: a fold is 1/{spec.folds}; leave one of them out")
    return spec.fold, spec.folds


def _grouped(spec: DataSpec, source: Source, parts: Mapping[str, _Rows]) -> dict[str, Any] | None:
    """What is said of the groups, where the source has some; parts that were given may share some."""
    names = {group for examples in source.parts.values() if examples.groups for group in examples.groups.values}
    if not names:
        return None
    overlap = _overlaps({part: rows.groups for part, rows in parts.items() if rows.groups is not None})
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


def normalised(text: Text) -> str:
    """The form in which two texts are the same: NFKC, case folded, each run of white space one space.

    Of a pair both texts', with a separator between them that is white space, and so in neither.
    """
    if not isinstance(text, str):
        return "\x1f".join(map(normalised, text))
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def hashes(*columns: Sequence[Text], salt: str = "") -> NDArray[np.uint64]:
    """(4, N): SHA-256 of `salt` and each text as it is normalised, as four numbers of which the first counts most.

    Args:
        columns: of N texts in all.
    """
    found = np.empty((4, sum(map(len, columns))), dtype=np.uint64)
    begin = 0
    for chunk in (chunk for texts in columns for chunk in chunked(texts)):
        digests = [hashlib.sha256(f"{salt}{normalised(text)}".encode()).digest() for text in chunk]
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


def _rows(source: Source, spec: DataSpec) -> tuple[dict[str, _Rows], _Meaning, NDArray[np.uint64] | None]:
    """The rows of each part (`train` for `all`), what their labels mean; and of each id of a text its place, where
    there are groups."""
    names = _names(source, spec)
    parts = {("train" if part == "all" else part): examples for part, examples in source.parts.items()}
    ends = np.cumsum([0, *(len(examples.texts) for examples in parts.values())])
    hashed = hashes(*(examples.texts for examples in parts.values()), salt=f"{spec.split_seed}\0")
    order, ids = ranked(hashed)
    places = None
    if any(examples.groups for examples in parts.values()):
        places = hashed[:, order[_firsts(ids[order])]]
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
        rows[part] = _Rows(examples.texts, found, labels, ids[begin:end], numbers, groups.get(part))
    targets: tuple[Target, ...] = names if source.problem == SINGLE else sets.done().values
    return rows, _Meaning(source.problem, names, targets, strata), places


def _firsts(values: NDArray[np.int64]) -> NDArray[np.int64]:
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


def _in_hash_order(rows: _Rows, meaning: _Meaning) -> NDArray[np.int64]:
    """The order (N,) of the rows by place; of equal texts by their spelling, then by stratum and label."""
    order = np.argsort(rows.ids, kind="stable")
    for begin, end in _runs(rows.ids[order]):
        alike = order[begin:end].tolist()
        spelt = list(rows.texts.take(order[begin:end]))
        labels = [str(meaning.target(label)) for label in rows.labels[order[begin:end]].tolist()]
        keys = sorted(zip(spelt, rows.strata[order[begin:end]].tolist(), labels, alike, strict=True))
        order[begin:end] = [row for *_, row in keys]
    return order


def _runs(values: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Where two or more neighbours of N sorted values are equal: begin and end."""
    bounds = np.append(_firsts(values), len(values))
    long = np.flatnonzero(np.diff(bounds) > 1)
    yield from zip(bounds[long].tolist(), bounds[long + 1].tolist(), strict=True)


def _distinct(values: NDArray[np.int64]) -> int:
    return len(np.unique(values))


def _commonest(
    owners: NDArray[np.int64], classes: NDArray[np.int64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The owners, rising, and the commonest of the classes of each, the lowest among equals; of `count` classes."""
    pairs = owners * count
    pairs += classes
    pairs.sort()
    firsts = _firsts(pairs)
    often = np.diff(np.append(firsts, len(pairs)))
    owner, of_class = np.divmod(pairs[firsts], count)
    del pairs
    order = np.lexsort((of_class, -often, owner))
    firsts = order[_firsts(owner)]  # owners stand sorted in both orders
    return owner[firsts], of_class[firsts]


def _conflicts(rows: _Rows) -> int:
    """Texts with more than one label."""
    _, labels = np.unique(rows.labels, return_inverse=True)
    kinds = int(labels.max(initial=0)) + 1
    owners = np.unique(rows.ids * kinds + labels) // kinds  # rising
    again = owners[1:][owners[1:] == owners[:-1]]
    return len(_firsts(again))


def _units(rows: _Rows, places: NDArray[np.uint64] | None, strata: int) -> _Units:
    """What is never parted, in the order of the places. A text whose rows disagree counts for its commonest stratum."""
    texts, of_text = _commonest(rows.ids, rows.strata, strata)
    unit = np.arange(len(texts))
    if rows.groups is not None and places is not None:
        joined = _together(rows.ids, rows.groups)
        unit = np.empty(len(texts), dtype=np.int64)
        unit[np.searchsorted(texts, rows.ids)] = joined
        unit = _by_place(unit, places[:, texts])
    _, of_unit = _commonest(unit, of_text, strata)
    held = np.unique(unit * strata + of_text) % strata
    of = np.full(int(rows.ids.max(initial=-1)) + 1, -1, dtype=np.int64)
    of[texts] = unit
    return _Units(of, of_unit, np.bincount(held, minlength=strata))


def _by_place(unit: NDArray[np.int64], places: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The units (T,) of texts whose places (4, T) rise, numbered anew in the order of the units' own places."""
    order = np.argsort(unit, kind="stable")
    found = places[:, order[_firsts(unit[order])]]
    for begin, end in _runs(unit[order]):  # the least of its texts' places would put a large unit first
        inside = places[:, order[begin:end]].T.astype(">u8").tobytes()
        found[:, unit[order[begin]]] = np.frombuffer(hashlib.sha256(inside).digest(), dtype=">u8")
    return ranked(found)[1][unit]


def _together(ids: NDArray[np.int64], groups: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """(N,) numbers from 0, the same for rows whose texts are equal or share a group, also by way of a third."""
    _, texts = np.unique(ids, return_inverse=True)
    if groups is None:
        return texts
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    behind = int(texts.max(initial=-1)) + 1
    size = behind + int(groups.max(initial=-1)) + 1
    links = coo_array((np.ones(len(texts), dtype=np.int8), (texts, behind + groups)), shape=(size, size))
    _, joined = np.unique(connected_components(links, directed=False)[1][texts], return_inverse=True)
    return joined.astype(np.int64)


def divide(
    rows: _Rows,
    places: NDArray[np.uint64] | None,
    fractions: Mapping[str, float | Fraction],
    meaning: _Meaning,
    where: str,
    fold: tuple[int, int] | None = None,
) -> dict[str, _Rows]:
    """Cut `rows` into `train` and the parts of `fractions`, each stratum by itself, units whole.

    Args:
        fold: which fold is the test, from 1, and of how many.
    """
    if sum(Fraction(str(share)) for share in fractions.values()) >= 1:
        raise SettingsError("--validation-fraction and --test-fraction leave nothing to train on; lower one")
    units = _units(rows, places, meaning.strata)
    if meaning.problem == SINGLE:
        _refuse_small(rows, units, fractions, meaning.names, where, fold)
    side = _sides(units, meaning.strata, fractions, fold)
    if meaning.problem != SINGLE:
        _refuse_few(rows, units, side, fractions, where, fold)
    if meaning.problem == MULTI and fold is not None:
        _refuse_rare(rows, units, fractions, meaning, where, fold[1])
    order = _in_hash_order(rows, meaning)
    sides = side[units.of[rows.ids[order]]]
    return {part: rows.take(order[sides == number]) for number, part in enumerate((*fractions, "train"))}


def _refuse_small(
    rows: _Rows,
    units: _Units,
    fractions: Mapping[str, float | Fraction],
    labels: Sequence[Label],
    where: str,
    fold: tuple[int, int] | None,
) -> None:
    """Refuse a class that not every part, and not every fold, would have."""
    for label in np.unique(rows.strata).tolist():  # others stand in a given file only, which is refused for that
        holding = int(units.holding[label])
        found = counted(holding, "distinct text" if rows.groups is None else "group")
        if fold is not None and not _enough(holding, fold[1], len(fractions)):
            raise DataError(
                f"{where}: class {labels[label]!r} has {found}, too few for {fold[1]} folds; "
                "take fewer folds, add some, merge the class with another, or remove it"
            )
        if fractions and holding <= len(fractions):
            raise DataError(
                f"{where}: class {labels[label]!r} has {found}, too few for {len(fractions) + 1} parts; "
                "add some, merge the class with another, or remove it"
            )


def _refuse_few(
    rows: _Rows,
    units: _Units,
    side: NDArray[np.int8],
    fractions: Mapping[str, float | Fraction],
    where: str,
    fold: tuple[int, int] | None,
) -> None:
    """Refuse to leave a part without any unit, or a fold."""
    count = len(units.strata)
    if len(np.unique(side)) <= len(fractions) or (fold is not None and count < fold[1]):
        found = counted(count, "distinct text" if rows.groups is None else "group")
        into = f"{len(fractions) + 1} parts" if fold is None else f"{fold[1]} folds"
        raise DataError(f"{where}: {found} with its labels, too few for {into}; add some")


def _refuse_rare(
    rows: _Rows,
    units: _Units,
    fractions: Mapping[str, float | Fraction],
    meaning: _Meaning,
    where: str,
    folds: int,
) -> None:
    """Refuse labels that some fold would not train on, before any of the folds is trained."""
    known = meaning.there(rows.labels)
    for fold in range(1, folds + 1):
        training = _sides(units, meaning.strata, fractions, (fold, folds))[units.of[rows.ids]] == len(fractions)
        for label in sorted(known - meaning.there(rows.labels[training])):
            raise DataError(
                f"{where}: no text with the label {meaning.names[label]!r} is left to train on beside fold {fold} of "
                f"{folds}; take fewer folds, add some, merge the label with another, or remove it"
            )


def _sides(
    units: _Units, strata: int, fractions: Mapping[str, float | Fraction], fold: tuple[int, int] | None
) -> NDArray[np.int8]:
    """(U,) the part of each unit: its position among the `fractions`, or behind them for training."""
    names = (*fractions, "train")
    side = np.empty(len(units.strata), dtype=np.int8)
    before = 0
    for stratum in range(strata):
        members, begin = np.flatnonzero(units.strata == stratum), 0
        if fold is None:
            counts = _counts(len(members), fractions)
        else:
            first, test = _stretch(len(members), before, *fold)
            counts = _beside(len(members), test, fractions)
            before, members = before + len(members), np.roll(members, -first)
        for part, count in counts.items():
            side[members[begin : begin + count]] = names.index(part)
            begin += count
    return side


def _enough(units: int, folds: int, parts: int) -> bool:
    """Whether so many units of a class give every fold one, and leave one for each other part beside the largest."""
    return units >= folds and units + units // -folds >= parts


def _stretch(units: int, before: int, fold: int, folds: int) -> tuple[int, int]:
    """Where a fold begins in its stratum's units, and how many of them it takes.

    Units are dealt to folds in turn, stratum after stratum, so that neither a stratum's nor all units of two folds
    differ by more than one (as scikit-learn's StratifiedKFold deals them).

    Args:
        before: units of the strata before.
        fold: from 1.
    """
    dealt = np.bincount(np.arange(before, before + units) % folds, minlength=folds)
    return int(dealt[: fold - 1].sum()), int(dealt[fold - 1])


def _beside(total: int, test: int, fractions: Mapping[str, float | Fraction]) -> dict[str, int]:
    """Whole shares of `total` units of which a fold takes `test`; validation has its share of them all, as far as one
    is left to train on."""
    rest = total - test
    shares = {part: Fraction(str(share)) * total for part, share in fractions.items() if part != "test" and rest}
    return {
        "test": test,
        **_counts(rest, {part: min(share, Fraction(rest - 1)) / rest for part, share in shares.items()}),
    }


def _warn_uneven(
    parts: Mapping[str, _Rows], fractions: Mapping[str, float | Fraction], meaning: _Meaning, where: str
) -> None:
    """Say where whole groups leave a part far from its share, or without a class."""
    total = sum(len(parts[part]) for part in ("train", *fractions))  # what was cut, not what was given
    for part, share in fractions.items():
        asked, found = round(share * total), len(parts[part])
        if abs(found - asked) > asked / 2:
            text = "%s: %s has %d of %d texts where %d were asked for: some groups are large"
            log.warning(text, where, part, found, total, asked)
        if meaning.problem != SINGLE:
            continue
        there = meaning.there(parts[part].labels)
        missing = ", ".join(repr(name) for number, name in enumerate(meaning.names) if number not in there)
        if missing:
            log.warning("%s: no text of class %s in %s: its groups have none", where, missing, part)


def _counts(total: int, fractions: Mapping[str, float | Fraction]) -> dict[str, int]:
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


def _limited(rows: _Rows, limit: int, meaning: _Meaning) -> _Rows:
    """The first `limit` rows of one order in which every beginning is stratified: so 100 rows lie within 200."""
    classes = len(meaning.names)
    if meaning.problem == SINGLE and limit < classes:
        raise SettingsError(f"--limit {limit}: below the number of classes, {classes}; raise it")
    share = np.zeros(len(rows))
    for stratum in range(meaning.strata):
        members = np.flatnonzero(rows.strata == stratum)
        # the middle of the row's own step in its stratum; each one's first row comes before all, so no class is lost
        share[members[1:]] = (2 * np.arange(1, len(members)) + 1) / (2 * len(members))
    order = np.lexsort((rows.strata, share))  # of equals the earlier row
    return rows.take(np.sort(order[:limit]))


def _refuse_unseen(train: _Rows, other: _Rows, part: str, meaning: _Meaning, where: str) -> None:
    unseen = sorted(meaning.there(other.labels) - meaning.there(train.labels))
    if unseen:
        names = ", ".join(repr(meaning.names[label]) for label in unseen[:5]) + (", …" if len(unseen) > 5 else "")
        raise DataError(f"{where}: labels in {part} that training never sees: {names}; add them to it or correct them")


def _overlaps(keys: Mapping[str, NDArray[np.int64]]) -> dict[str, int]:
    """For each pair of parts, the rows of the second whose key the first has."""
    pairs = (PARTS[:2], PARTS[::2], PARTS[1:])
    return {f"{a}-{b}": int(np.count_nonzero(np.isin(keys[b], keys[a]))) for a, b in pairs}


def shared(texts: Sequence[Text], others: Sequence[Text]) -> int:
    """How many of `texts` stand among `others`, normalised."""
    _, ids = ranked(hashes(texts, others))
    return int(np.count_nonzero(np.isin(ids[: len(texts)], ids[len(texts) :])))


def _split(rows: _Rows, meaning: _Meaning) -> Split:
    state = hashlib.sha256()
    begin = 0
    for chunk in rows.texts.chunks():
        of = meaning.written(rows.labels[begin : begin + len(chunk)])
        lines = [f"[{json.dumps(text)}, {label}]\n" for text, label in zip(chunk, of, strict=True)]
        state.update("".join(lines).encode())
        begin += len(chunk)
    _, first, unit = np.unique(_together(rows.ids, rows.groups), return_index=True, return_inverse=True)
    number = np.empty(len(first), dtype=np.int64)
    number[np.argsort(first)] = np.arange(len(first))  # in the order in which they stand in the part
    return Split(rows.texts, meaning.array(rows.labels), state.hexdigest(), rows.numbers, number[unit])
