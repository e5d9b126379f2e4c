"""How examples are divided: stratified, seeded, and by hashes alone, so that every machine divides alike.

Texts that are equal once normalised are never parted, nor are those of one group (a document, an author) where the
source has groups. What is never parted is a unit, and counts for the commonest class of its texts. Within each class,
units are ordered by SHA-256(seed, normalised text), for several texts that of their hashes, and cut by their number:
the test takes the first, validation the next, training the rest. Of K folds each is a stretch of that order; the one
that is the test is turned to its front, and validation follows it. Neither the order of the rows, nor any library's
random numbers, nor the size of a unit has a say.
"""

from __future__ import annotations

import hashlib
import json
import logging
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loratory.data.columns import Pairs, Text, Texts, chunked
from loratory.data.sources import Examples, Label, Source, load_source
from loratory.errors import DataError, SettingsError, counted
from loratory.spec import DataSpec, validated

log = logging.getLogger("loratory")

PARTS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Split:
    """N examples of one part."""

    texts: Sequence[Text]
    labels: NDArray[np.int64]
    """(N,) class ids, positions in `Dataset.labels`."""
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
    """Class names in the order of their ids, of the source's own type."""
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

    def split(self, part: str) -> Split:
        """The part of that name, one of `PARTS`."""
        found: Split = getattr(self, part)
        return found

    def record(self) -> dict[str, Any]:
        """The `data` part of run.json: JSON types only; `class_counts` in the order of `labels`."""
        splits = {part: self.split(part) for part in PARTS}
        return {
            "source": self.name,
            "revision": self.revision,
            "digest": self.digest,
            "labels": list(self.labels),
            "sizes": {part: len(split) for part, split in splits.items()},
            "units": {part: int(split.units.max(initial=-1)) + 1 for part, split in splits.items()},
            "digests": {part: split.digest for part, split in splits.items()},
            "class_counts": {
                part: np.bincount(split.labels, minlength=len(self.labels)).tolist() for part, split in splits.items()
            },
            "overlap": dict(self.overlap),
            "duplicates": dict(self.duplicates),
            "conflicts": self.conflicts,
            "dropped": self.dropped,
            "groups": self.groups,
        }


@dataclass(frozen=True, eq=False)
class _Rows:
    """N examples on their way to a part, in some order."""

    texts: Texts | Pairs
    labels: NDArray[np.int64]
    """(N,) class ids."""
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
        return _Rows(self.texts.take(chosen), self.labels[chosen], self.ids[chosen], self.numbers[chosen], groups)


@dataclass(frozen=True, eq=False)
class _Units:
    """What is never parted, U units in the order of their places."""

    of: NDArray[np.int64]
    """The unit of each id of a text; -1 where no row has it."""
    labels: NDArray[np.int64]
    """(U,) the commonest class of each unit's texts, the lowest among equals."""
    holding: NDArray[np.int64]
    """(C,) how many units have a text of each class."""


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
    labels = ordered_labels(label for part in source.parts.values() for label in part.labels.values)
    if len(labels) < 2:
        raise DataError(f"{spec.dataset}: one class only, {labels[0]!r}; at least two are needed")
    read, places = _rows(source, labels, spec.split_seed)
    test_share = spec.test_fraction if fold is None else Fraction(1, fold[1])
    cut = {
        part: fraction
        for part, fraction in (("test", test_share), ("validation", spec.validation_fraction))
        if part not in read and fraction > 0
    }
    nothing = read["train"].take(np.empty(0, np.int64))
    parts = {"test": nothing} | read | divide(read["train"], places, cut, labels, spec.dataset, fold)
    del places
    for part in ("validation", "test"):
        _refuse_unseen(parts["train"], parts[part], part, labels, spec.where(part))
    overlap = _overlaps({part: rows.ids for part, rows in parts.items()})
    for pair, count in overlap.items():
        if count:
            first, second = pair.split("-")
            log.warning("%s: %s of %s also in %s; kept", spec.dataset, counted(count, "text"), second, first)
    groups = _grouped(spec, source, parts)
    if groups is not None:
        _warn_uneven(parts, cut, labels, spec.dataset)
    if spec.limit is not None:
        parts["train"] = _limited(parts["train"], spec.limit, len(labels))
    return Dataset(
        name=source.name,
        revision=source.revision,
        digest=source.digest,
        labels=labels,
        train=_split(parts["train"], labels),
        validation=_split(parts["validation"], labels),
        test=_split(parts["test"], labels),
        overlap=overlap,
        duplicates={
            "all" if "all" in source.parts and part == "train" else part: len(rows) - _distinct(rows.ids)
            for part, rows in read.items()
        },
        conflicts=_conflicts(read["train"], len(labels)),
        dropped=source.dropped,
        groups=groups,
    )


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


def ordered_labels(labels: Iterable[Label]) -> tuple[Label, ...]:
    """The distinct labels in the order of their ids: true/false, then numbers by value, then text by code point."""
    return tuple(label for _, label in sorted({_key(label) for label in labels}))


def _key(label: Label) -> tuple[str, Label]:
    """Tells True from 1, which Python calls equal."""
    kind = "number" if isinstance(label, int | float) and not isinstance(label, bool) else type(label).__name__
    return kind, label


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


def _rows(source: Source, labels: Sequence[Label], seed: int) -> tuple[dict[str, _Rows], NDArray[np.uint64] | None]:
    """The rows of each part (`train` for `all`); and of each id of a text its place, where there are groups."""
    classes = {_key(label): position for position, label in enumerate(labels)}
    parts = {("train" if part == "all" else part): examples for part, examples in source.parts.items()}
    ends = np.cumsum([0, *(len(examples.texts) for examples in parts.values())])
    hashed = hashes(*(examples.texts for examples in parts.values()), salt=f"{seed}\0")
    order, ids = ranked(hashed)
    places = None
    if any(examples.groups for examples in parts.values()):
        places = hashed[:, order[_firsts(ids[order])]]
    del hashed, order
    groups = _group_numbers(parts)
    rows = {}
    for (part, examples), begin, end in zip(parts.items(), ends[:-1], ends[1:], strict=True):
        by_code = np.array([classes[_key(label)] for label in examples.labels.values], dtype=np.int64)
        numbers = np.asarray(examples.rows, dtype=np.int64)
        rows[part] = _Rows(examples.texts, by_code[examples.labels.codes], ids[begin:end], numbers, groups.get(part))
    return rows, places


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


def _in_hash_order(rows: _Rows) -> NDArray[np.int64]:
    """The order (N,) of the rows by place; of equal texts by their spelling, then by class."""
    order = np.argsort(rows.ids, kind="stable")
    for begin, end in _runs(rows.ids[order]):
        alike = order[begin:end].tolist()
        spelt = list(rows.texts.take(order[begin:end]))
        keys = sorted(zip(spelt, rows.labels[order[begin:end]].tolist(), alike, strict=True))
        order[begin:end] = [row for _, _, row in keys]
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


def _conflicts(rows: _Rows, classes: int) -> int:
    """Texts with more than one class."""
    owners = np.unique(rows.ids * classes + rows.labels) // classes  # rising
    again = owners[1:][owners[1:] == owners[:-1]]
    return len(_firsts(again))


def _units(rows: _Rows, places: NDArray[np.uint64] | None, classes: int) -> _Units:
    """What is never parted, in the order of the places. A text whose rows disagree counts for its commonest class."""
    texts, labels = _commonest(rows.ids, rows.labels, classes)
    unit = np.arange(len(texts))
    if rows.groups is not None and places is not None:
        joined = _together(rows.ids, rows.groups)
        unit = np.empty(len(texts), dtype=np.int64)
        unit[np.searchsorted(texts, rows.ids)] = joined
        unit = _by_place(unit, places[:, texts])
    _, of_unit = _commonest(unit, labels, classes)
    held = np.unique(unit * classes + labels) % classes
    of = np.full(int(rows.ids.max(initial=-1)) + 1, -1, dtype=np.int64)
    of[texts] = unit
    return _Units(of, of_unit, np.bincount(held, minlength=classes))


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
    labels: Sequence[Label],
    where: str,
    fold: tuple[int, int] | None = None,
) -> dict[str, _Rows]:
    """Cut `rows` into `train` and the parts of `fractions`, each class by itself, units whole.

    Args:
        fold: which fold is the test, from 1, and of how many.
    """
    if sum(Fraction(str(share)) for share in fractions.values()) >= 1:
        raise SettingsError("--validation-fraction and --test-fraction leave nothing to train on; lower one")
    units = _units(rows, places, len(labels))
    for label in np.unique(rows.labels).tolist():  # others stand in a given file only, which is refused for that
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
    names = (*fractions, "train")
    side = np.empty(len(units.labels), dtype=np.int8)
    before = 0
    for label in range(len(labels)):
        members, begin = np.flatnonzero(units.labels == label), 0
        if fold is None:
            counts = _counts(len(members), fractions)
        else:
            first, test = _stretch(len(members), before, *fold)
            counts = _beside(len(members), test, fractions)
            before, members = before + len(members), np.roll(members, -first)
        for part, count in counts.items():
            side[members[begin : begin + count]] = names.index(part)
            begin += count
    order = _in_hash_order(rows)
    sides = side[units.of[rows.ids[order]]]
    return {part: rows.take(order[sides == number]) for number, part in enumerate(names)}


def _enough(units: int, folds: int, parts: int) -> bool:
    """Whether so many units of a class give every fold one, and leave one for each other part beside the largest."""
    return units >= folds and units + units // -folds >= parts


def _stretch(units: int, before: int, fold: int, folds: int) -> tuple[int, int]:
    """Where a fold begins in its class's units, and how many of them it takes.

    Units are dealt to folds in turn, class after class, so that neither a class's nor all units of two folds differ by
    more than one (as scikit-learn's StratifiedKFold deals them).

    Args:
        before: units of the classes before.
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
    parts: Mapping[str, _Rows], fractions: Mapping[str, float | Fraction], labels: Sequence[Label], where: str
) -> None:
    """Say where whole groups leave a part far from its share, or without a class."""
    total = sum(len(parts[part]) for part in ("train", *fractions))  # what was cut, not what was given
    for part, share in fractions.items():
        asked, found = round(share * total), len(parts[part])
        if abs(found - asked) > asked / 2:
            text = "%s: %s has %d of %d texts where %d were asked for: some groups are large"
            log.warning(text, where, part, found, total, asked)
        there = set(parts[part].labels.tolist())
        missing = ", ".join(repr(name) for number, name in enumerate(labels) if number not in there)
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


def _limited(rows: _Rows, limit: int, classes: int) -> _Rows:
    """The first `limit` rows of one order in which every beginning is stratified: so 100 rows lie within 200."""
    if limit < classes:
        raise SettingsError(f"--limit {limit}: below the number of classes, {classes}; raise it")
    share = np.zeros(len(rows))
    for label in range(classes):
        members = np.flatnonzero(rows.labels == label)
        # the middle of the row's own step in its class; each class's first row comes before all, so none is lost
        share[members[1:]] = (2 * np.arange(1, len(members)) + 1) / (2 * len(members))
    order = np.lexsort((rows.labels, share))  # of equals the earlier row
    return rows.take(np.sort(order[:limit]))


def _refuse_unseen(train: _Rows, other: _Rows, part: str, labels: Sequence[Label], where: str) -> None:
    unseen = np.setdiff1d(other.labels, train.labels).tolist()
    if unseen:
        names = ", ".join(repr(labels[label]) for label in unseen[:5]) + (", …" if len(unseen) > 5 else "")
        raise DataError(f"{where}: labels in {part} that training never sees: {names}; add them to it or correct them")


def _overlaps(keys: Mapping[str, NDArray[np.int64]]) -> dict[str, int]:
    """For each pair of parts, the rows of the second whose key the first has."""
    pairs = (PARTS[:2], PARTS[::2], PARTS[1:])
    return {f"{a}-{b}": int(np.count_nonzero(np.isin(keys[b], keys[a]))) for a, b in pairs}


def shared(texts: Sequence[Text], others: Sequence[Text]) -> int:
    """How many of `texts` stand among `others`, normalised."""
    _, ids = ranked(hashes(texts, others))
    return int(np.count_nonzero(np.isin(ids[: len(texts)], ids[len(texts) :])))


def _split(rows: _Rows, labels: Sequence[Label]) -> Split:
    state = hashlib.sha256()
    names = [json.dumps(label) for label in labels]
    begin = 0
    for chunk in rows.texts.chunks():
        of = rows.labels[begin : begin + len(chunk)].tolist()
        lines = [f"[{json.dumps(text)}, {names[label]}]\n" for text, label in zip(chunk, of, strict=True)]
        state.update("".join(lines).encode())
        begin += len(chunk)
    _, first, unit = np.unique(_together(rows.ids, rows.groups), return_index=True, return_inverse=True)
    number = np.empty(len(first), dtype=np.int64)
    number[np.argsort(first)] = np.arange(len(first))  # in the order in which they stand in the part
    return Split(rows.texts, rows.labels, state.hexdigest(), rows.numbers, number[unit])
