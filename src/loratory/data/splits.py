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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loratory.data.columns import Text
from loratory.data.dividing import Refuse, divide, fold_of, raised
from loratory.data.gathering import Examples
from loratory.data.overlap import Counts, one_sided, overlaps, warn
from loratory.data.places import place_said
from loratory.data.rows import PARTS, Meaning, Rows, rows_of
from loratory.data.sources import Source, load_source
from loratory.data.targets import Label
from loratory.data.units import conflicts_in, together
from loratory.errors import DataError, SettingsError, counted
from loratory.problems import MULTI, REGRESSION, SINGLE, Problem, Targets, spread_of
from loratory.spec import DataSpec, validated

log = logging.getLogger("loratory")


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
    lines: NDArray[np.uint32] | None = None
    """(N,) where the rows begin in their file, from 1; None where the source has no lines."""

    def place(self, position: int) -> str:
        """Where an example stands, for people: its line of the file, or its row from 1 where there are no lines."""
        return place_said(int(self.rows[position]), None if self.lines is None else int(self.lines[position]))

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
    overlap: Counts
    """`train-test` and so on: rows of the second part whose normalised text stands in the first (before `limit`)."""
    duplicates: dict[str, int]
    """Rows of each part of the source (`all` where it has one) whose normalised text stood in it before."""
    conflicts: int
    """Texts that stand in the source more than once, with different labels."""
    alone: dict[str, Counts] | None
    """Of pairs, for `text` and `pair`, the first and the second: by `train-test` and so on, rows of the second part
    whose one text stands in the first part, in whichever column (before `limit`); None of single texts."""
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
            "alone": self.alone,
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


def make_dataset(spec: DataSpec, *, refuse: Refuse = raised) -> Dataset:
    """Read the data set that `spec` names and divide it.

    Parts that have files of their own keep their order; the others are cut from the training examples.

    Args:
        refuse: given what speaks against classes that are too small to divide or that training never sees; where it
            raises nothing, the data can be looked at nevertheless.

    Raises:
        DataError: there is one class only, one too small to divide, or one that training never sees; else as
            :func:`loratory.data.sources.load_source`, whose other errors pass through too.
        SettingsError: the fractions leave nothing to train on, or the limit is below the number of classes.
    """
    fold_of(spec)  # what cannot be meant is refused before anything is read
    return divided(load_source(spec), spec, refuse=refuse)


def divided(source: Source, spec: DataSpec, *, refuse: Refuse = raised) -> Dataset:
    """Divide what was read for `spec`.

    Args:
        refuse: as :func:`make_dataset` takes it.

    Raises:
        DataError, SettingsError: as :func:`make_dataset`.
    """
    fold = fold_of(spec)
    if fold is not None and "test" in source.parts:
        raise SettingsError(f"{spec.dataset} has a test split of its own; --folds divides data that have none")
    read, meaning, places = rows_of(source, spec)
    cut_from = source.parts.get("all") or source.parts["train"]
    examples = {part: source.parts.get(part) or cut_from for part in PARTS}
    test_share = spec.test_fraction if fold is None else Fraction(1, fold[1])
    cut = {
        part: fraction
        for part, fraction in (("test", test_share), ("validation", spec.validation_fraction))
        if part not in read and fraction > 0
    }
    nothing = read["train"].take(np.empty(0, np.int64))
    own = divide(read["train"], places, cut, meaning, spec.dataset, examples["train"], fold, refuse)
    parts = {"test": nothing} | read | own
    del places, own
    for part in ("validation", "test"):
        if unseen := sorted(meaning.there(parts[part].labels) - meaning.there(parts["train"].labels)):
            refuse(_unseen_said(unseen, parts[part], part, meaning, spec.where(part), examples[part]))
    overlap = overlaps({part: rows.ids for part, rows in parts.items()})
    alone = one_sided(parts)
    warn(spec.dataset, {part: len(rows) for part, rows in parts.items()}, overlap, alone)
    groups = _grouped(spec, source, parts)
    if groups is not None:
        _warn_uneven(parts, cut, meaning, spec.dataset)
    if spec.limit is not None:
        whole, parts["train"] = parts["train"], _limited(parts["train"], spec.limit, meaning)
        if lost := sorted(meaning.there(whole.labels) - meaning.there(parts["train"].labels)):
            name = meaning.names[lost[0]]
            raise SettingsError(f"--limit {spec.limit}: no text with the label {name!r} is among so few; raise it")
    split = {part: _split(parts[part], meaning, examples[part].lines) for part in PARTS}
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
        conflicts=conflicts_in(read["train"]),
        alone=alone,
        dropped=source.dropped,
        groups=groups,
        problem=meaning.problem,
    )


def _grouped(spec: DataSpec, source: Source, parts: Mapping[str, Rows]) -> dict[str, Any] | None:
    """What is said of the groups, where the source has some; parts that were given may share some."""
    names = {group for examples in source.parts.values() if examples.groups for group in examples.groups.values}
    if not names:
        return None
    overlap = overlaps({part: rows.groups for part, rows in parts.items() if rows.groups is not None})
    for pair, count in overlap.items():
        if count:
            first, second = pair.split("-")
            what = counted(count, "example")
            log.warning("%s: %s of %s from groups that are also in %s; kept", spec.dataset, what, second, first)
    return {"count": len(names), "overlap": overlap}


def dataset_of(record: Mapping[str, Any], read: Callable[[DataSpec], Dataset] | None = None) -> Dataset:
    """The data of a run's record (`run.json`, read), divided as it was then.

    Args:
        read: in place of :func:`make_dataset`, where something else has read it.

    Raises:
        DataError: it is not what it was; else as :func:`make_dataset`.
    """
    dataset = (read or make_dataset)(validated(DataSpec, record["spec"]["data"]))
    if dataset.test.digest != record["data"]["digests"]["test"]:
        raise DataError(f"{dataset.name} has changed since the run {record['id']}; use --no-baselines")
    return dataset


def _distinct(values: NDArray[np.int64]) -> int:
    return len(np.unique(values))


def _warn_uneven(
    parts: Mapping[str, Rows], fractions: Mapping[str, float | Fraction], meaning: Meaning, where: str
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


def _limited(rows: Rows, limit: int, meaning: Meaning) -> Rows:
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


def _unseen_said(
    unseen: Sequence[int], rows: Rows, part: str, meaning: Meaning, where: str, examples: Examples
) -> DataError:
    """What is said of labels that training never sees, with the rows that bear them."""
    named = ", ".join(
        f"{meaning.names[label]!r} ({examples.said(rows.numbers[meaning.bearing(rows.labels, label)])})"
        for label in unseen[:5]
    )
    more = ", …" if len(unseen) > 5 else ""
    return DataError(
        f"{where}: labels in {part} that training never sees: {named}{more}; add them to it or correct them"
        f"{meaning.otherwise}"
    )


def _split(rows: Rows, meaning: Meaning, lines: NDArray[np.uint32] | None) -> Split:
    """
    Args:
        lines: of all rows of the source that the part was cut from.
    """
    state = hashlib.sha256()
    begin = 0
    for chunk in rows.texts.chunks():
        of = meaning.written(rows.labels[begin : begin + len(chunk)])
        written = [f"[{json.dumps(text)}, {label}]\n" for text, label in zip(chunk, of, strict=True)]
        state.update("".join(written).encode())
        begin += len(chunk)
    _, first, unit = np.unique(together(rows.ids, rows.groups), return_index=True, return_inverse=True)
    number = np.empty(len(first), dtype=np.int64)
    number[np.argsort(first)] = np.arange(len(first))  # in the order in which they stand in the part
    own = None if lines is None else lines[rows.numbers]
    return Split(rows.texts, meaning.array(rows.labels), state.hexdigest(), rows.numbers, number[unit], own)
