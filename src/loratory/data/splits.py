"""How examples are divided: stratified, seeded, and by hashes alone, so that every machine divides alike.

Texts that are equal once normalised form one group. Within each class, groups are ordered by
SHA-256(seed, normalised text) and cut: the test takes the first, validation the next, training the rest. Neither the
order of the rows nor any library's random numbers have a say, and no text stands on two sides.
"""

from __future__ import annotations

import hashlib
import json
import logging
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loratory.data.sources import Examples, Label, load_source
from loratory.errors import DataError, SettingsError, counted
from loratory.spec import DataSpec, validated

log = logging.getLogger("loratory")

PARTS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Split:
    """N examples of one part."""

    texts: tuple[str, ...]
    labels: NDArray[np.int64]
    """(N,) class ids, positions in `Dataset.labels`."""
    digest: str
    """SHA-256 over the texts and label names in order."""
    rows: NDArray[np.int64]
    """(N,) 0-based rows of the file or data set that the part was read from."""

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

    def record(self) -> dict[str, Any]:
        """The `data` part of run.json: JSON types only; `class_counts` in the order of `labels`."""
        splits = {part: getattr(self, part) for part in PARTS}
        return {
            "source": self.name,
            "revision": self.revision,
            "digest": self.digest,
            "labels": list(self.labels),
            "sizes": {part: len(split) for part, split in splits.items()},
            "digests": {part: split.digest for part, split in splits.items()},
            "class_counts": {
                part: np.bincount(split.labels, minlength=len(self.labels)).tolist() for part, split in splits.items()
            },
            "overlap": dict(self.overlap),
            "duplicates": dict(self.duplicates),
            "conflicts": self.conflicts,
            "dropped": self.dropped,
        }


@dataclass(frozen=True)
class _Row:
    """One example on its way to a part: label as id, normalised text, its place in the hash order, its source's row."""

    text: str
    label: int
    normal: str
    place: bytes
    number: int


def make_dataset(spec: DataSpec) -> Dataset:
    """Read the data set that `spec` names and divide it.

    Parts that have files of their own keep their order; the others are cut from the training examples.

    Raises:
        DataError: there is one class only, one too small to divide, or one that training never sees; else as
            :func:`loratory.data.sources.load_source`, whose other errors pass through too.
        SettingsError: the fractions leave nothing to train on, or the limit is below the number of classes.
    """
    source = load_source(spec)
    labels = ordered_labels(label for part in source.parts.values() for label in part.labels)
    if len(labels) < 2:
        raise DataError(f"{spec.dataset}: one class only, {labels[0]!r}; at least two are needed")
    read = {("train" if part == "all" else part): _rows(e, labels, spec.split_seed) for part, e in source.parts.items()}
    cut = {
        part: fraction
        for part, fraction in (("test", spec.test_fraction), ("validation", spec.validation_fraction))
        if part not in read and fraction > 0
    }
    parts: dict[str, list[_Row]] = {"test": []} | read | divide(read["train"], cut, labels, spec.dataset)
    for part in ("validation", "test"):
        _refuse_unseen(parts["train"], parts[part], part, labels, spec.where(part))
    overlap = {f"{a}-{b}": _overlap(parts[a], parts[b]) for a, b in (PARTS[:2], PARTS[::2], PARTS[1:])}
    for pair, count in overlap.items():
        if count:
            first, second = pair.split("-")
            log.warning("%s: %s of %s also in %s; kept", spec.dataset, counted(count, "text"), second, first)
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
            "all" if "all" in source.parts and part == "train" else part: len(rows) - len({row.normal for row in rows})
            for part, rows in read.items()
        },
        conflicts=sum(len(set(classes)) > 1 for classes in _groups(read["train"]).values()),
        dropped=source.dropped,
    )


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


def ordered_labels(labels: Iterable[Label]) -> tuple[Label, ...]:
    """The distinct labels in the order of their ids: true/false, then numbers by value, then text by code point."""
    return tuple(label for _, label in sorted({_key(label) for label in labels}))


def _key(label: Label) -> tuple[str, Label]:
    """Tells True from 1, which Python calls equal."""
    kind = "number" if isinstance(label, int | float) and not isinstance(label, bool) else type(label).__name__
    return kind, label


def _rows(examples: Examples, labels: Sequence[Label], seed: int) -> list[_Row]:
    ids = {_key(label): position for position, label in enumerate(labels)}
    rows = []
    for text, label, number in zip(examples.texts, examples.labels, examples.rows, strict=True):
        normal = normalised(text)
        place = hashlib.sha256(f"{seed}\0{normal}".encode()).digest()
        rows.append(_Row(text, ids[_key(label)], normal, place, number))
    return rows


def _in_hash_order(rows: Iterable[_Row]) -> list[_Row]:
    return sorted(rows, key=lambda row: (row.place, row.text, row.label))


def _groups(rows: Iterable[_Row]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        groups[row.normal].append(row.label)
    return groups


def divide(
    rows: Sequence[_Row], fractions: dict[str, float], labels: Sequence[Label], where: str
) -> dict[str, list[_Row]]:
    """Cut `rows` into `train` and the parts of `fractions`, each class by itself, groups of equal texts whole.

    A group whose rows disagree counts for its commonest label (the lowest id among equals).
    """
    if sum(Fraction(str(share)) for share in fractions.values()) >= 1:
        raise SettingsError("--validation-fraction and --test-fraction leave nothing to train on; lower one")
    places = {row.normal: row.place for row in rows}
    by_class: dict[int, list[str]] = defaultdict(list)
    for normal, classes in _groups(rows).items():
        counts = Counter(classes)
        by_class[min(counts, key=lambda label: (-counts[label], label))].append(normal)
    side: dict[str, str] = {}
    present = {row.label for row in rows}
    for label, name in enumerate(labels):
        if label not in present:
            continue  # it stands in a given file only, which is refused for that
        ordered = sorted(by_class[label], key=places.__getitem__)
        if fractions and len(ordered) <= len(fractions):
            found = counted(len(ordered), "distinct text")
            raise DataError(
                f"{where}: class {name!r} has {found}, too few for {len(fractions) + 1} parts; "
                "add some, merge the class with another, or remove it"
            )
        begin = 0
        for part, count in _counts(len(ordered), fractions).items():
            side.update(dict.fromkeys(ordered[begin : begin + count], part))
            begin += count
    parts: dict[str, list[_Row]] = {part: [] for part in (*fractions, "train")}
    for row in _in_hash_order(rows):
        parts[side[row.normal]].append(row)
    return parts


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


def _refuse_unseen(train: list[_Row], other: list[_Row], part: str, labels: Sequence[Label], where: str) -> None:
    unseen = sorted({row.label for row in other} - {row.label for row in train})
    if unseen:
        names = ", ".join(repr(labels[label]) for label in unseen[:5]) + (", …" if len(unseen) > 5 else "")
        raise DataError(f"{where}: labels in {part} that training never sees: {names}; add them to it or correct them")


def _overlap(first: list[_Row], second: list[_Row]) -> int:
    known = {row.normal for row in first}
    return sum(row.normal in known for row in second)


def _split(rows: list[_Row], labels: Sequence[Label]) -> Split:
    state = hashlib.sha256()
    for row in rows:
        state.update(json.dumps([row.text, labels[row.label]]).encode() + b"\n")
    ids = np.array([row.label for row in rows], dtype=np.int64)
    numbers = np.array([row.number for row in rows], dtype=np.int64)
    return Split(tuple(row.text for row in rows), ids, state.hexdigest(), numbers)
