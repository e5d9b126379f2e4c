"""What is in a divided data set, before anything is trained on it.

split ─▶ normalised texts ─▶ equal texts, near duplicates, label conflicts
      ─▶ token lengths    ─▶ histogram, empty and over-long texts, the maximum length to take

A `Place` names a row; groups of rows are listed largest first, at most `LISTED` of them and of the rows of each, while
every count is of all.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, count, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loratory.data import near
from loratory.data.columns import Text, as_text
from loratory.data.overlap import overlaps
from loratory.data.rows import PARTS, hashes, normalised, ranked
from loratory.data.seen import Alike, Normalised, Place, Seen
from loratory.data.splits import Dataset
from loratory.data.tokens import token_ids

LISTED = 20
"""Groups, and rows of a group, that are listed."""

KEPT = 0.99
"""Share of the texts, and of all tokens, that the suggested maximum length leaves whole."""

MULTIPLE = 8
"""Of which the suggested length is one: products whose sizes are multiples of 8 suit tensor cores (NVIDIA, *Matrix
Multiplication Background*)."""

BINS = 12
"""Bins of the histogram below the 99th percentile, at most; one more holds what is longer."""


@dataclass(frozen=True)
class Rows:
    """Some rows."""

    count: int
    listed: tuple[Place, ...]
    """The first of them."""


@dataclass(frozen=True)
class Group:
    """Rows that belong together, by training, validation and test."""

    rows: int
    listed: tuple[Place, ...]
    texts: tuple[str, ...]
    """The first two distinct texts, as they stand in the data; one where all are equal."""
    labels: tuple[str, ...]
    """Its distinct labels."""
    similarity: float
    """The least similarity that links its texts; 1 where all are equal."""


@dataclass(frozen=True)
class Repeats:
    """Texts that occur again; `texts` and `rows` of all groups."""

    groups: int
    rows: int
    within: Mapping[str, int]
    """By part: rows with such a text in an earlier row (equal) or in any other row (near duplicates) of the part."""
    across: Mapping[str, int]
    """`train-test` and so on: rows of the second part with such a text in the first."""
    conflicts: int
    """Groups with more than one label."""
    largest: tuple[Group, ...]


@dataclass(frozen=True)
class Search:
    """How near duplicates were looked for."""

    shingle: int
    threshold: float
    permutations: int
    bands: int
    seed: int
    distinct: int
    """Distinct texts of all parts."""
    searched: int
    """Those that were looked at: fewer where a sample was drawn."""
    finished: bool
    """Whether all candidates were compared."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of N texts, special tokens included, nothing cut. Percentiles are lengths that occur."""

    texts: int
    tokens: int
    mean: float
    median: int
    percentile_95: int
    percentile_99: int
    longest: int


@dataclass(frozen=True)
class Bin:
    """How many texts have from `first` to `last` tokens, both included; the last bin is open (`last` is None)."""

    first: int
    last: int | None
    texts: int


@dataclass(frozen=True)
class Cut:
    """What a maximum length would cut off."""

    max_length: int
    texts: int
    """Texts that are longer."""
    texts_share: float
    tokens: int
    """Tokens beyond it."""
    tokens_share: float


@dataclass(frozen=True)
class Tokens:
    """The texts as a model sees them."""

    model: str
    takes: int
    """The most tokens that it takes."""
    lengths: Mapping[str, Lengths]
    """By part, and of `all`."""
    histogram: tuple[Bin, ...]
    """Of all parts."""
    empty: Rows
    """Rows of which the tokenizer makes no token beside special ones."""
    too_long: Rows
    """Rows with more tokens than the model takes, the longest first."""
    given: Cut
    """By the maximum length that the settings have."""
    suggested: Cut
    """By the smallest multiple of `MULTIPLE` that leaves `KEPT` of texts and tokens whole, or by what the model takes
    where that is less."""


@dataclass(frozen=True)
class Profile:
    """What is in a data set."""

    equal: Repeats
    """Texts that are equal once normalised: up to case, spaces and Unicode's compatible forms."""
    conflicting: tuple[Group, ...]
    """The groups of equal texts with more than one label."""
    near: Repeats
    """Texts that are nearly, not wholly equal."""
    search: Search
    tokens: Tokens | None
    """None where no tokenizer was given."""
    alone: Mapping[str, Mapping[str, int]] | None = None
    """As in :class:`loratory.data.splits.Dataset`."""

    def to_dict(self) -> dict[str, Any]:
        """JSON types only."""
        document: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self), allow_nan=False))
        return document


@dataclass(frozen=True)
class Reader:
    """Who reads the texts: a model's name, its tokenizer, and the most tokens it takes."""

    model: str
    tokenizer: Any
    takes: int


def profile(dataset: Dataset, reader: Reader | None, max_length: int) -> Profile:
    """Look at every text of `dataset`, as it is divided and limited.

    Args:
        reader: whose tokens are counted; without one there are no lengths.
        max_length: the maximum length of the settings, in tokens.
    """
    rows = Seen.of(dataset)
    order, ids = ranked(hashes(rows))
    bounds = np.flatnonzero(np.diff(ids[order], prepend=-1, append=-1))
    alike = Alike(order, bounds)
    equal = list(alike.repeated())
    repeated = [_group(rows, [members], 1.0) for members in equal]
    conflicting = [group for group, members in zip(repeated, equal, strict=True) if _in_conflict(rows, group, members)]
    found = near.near_duplicates(Normalised(rows, alike))
    linked = [[alike.members(member) for member in group.members] for group in found.groups]
    groups = [_group(rows, one, of.similarity) for one, of in zip(linked, found.groups, strict=True)]
    return Profile(
        equal=_repeats(repeated, len(conflicting), *_equal_rows(rows, ids)),
        conflicting=_largest(conflicting),
        near=_repeats(groups, sum(len(group.labels) > 1 for group in groups), *_near_rows(rows, linked)),
        search=Search(
            shingle=near.SHINGLE,
            threshold=near.THRESHOLD,
            permutations=near.PERMUTATIONS,
            bands=near.BANDS,
            seed=near.SEED,
            distinct=len(alike),
            searched=found.searched,
            finished=found.finished,
        ),
        tokens=None if reader is None else _tokens(rows, reader, max_length),
        alone=dataset.alone,
    )


def _group(rows: Seen, members: Sequence[Sequence[int]], similarity: float) -> Group:
    """A group of rows, which share a normalised text where they stand together in `members`."""
    together = sorted(row for one in members for row in one)
    firsts = sorted(one[0] for one in members)[:2]
    return Group(
        rows=len(together),
        listed=tuple(rows.place(row) for row in together[:LISTED]),
        texts=tuple(as_text(rows[row]) for row in firsts),
        labels=tuple(sorted({rows.label(row) for row in together})),
        similarity=similarity,
    )


def _largest(groups: Iterable[Group]) -> tuple[Group, ...]:
    """Those with most rows first, of equals those that most parts share."""

    def order(group: Group) -> Any:
        listed = [(PARTS.index(one.part), one.row) for one in group.listed]
        return -group.rows, -len({part for part, _ in listed}), listed

    return tuple(sorted(groups, key=order)[:LISTED])


def _in_conflict(rows: Seen, group: Group, members: Sequence[int]) -> bool:
    """Whether equal texts have several labels; of pairs some with both in the same order, as in `conflicts_in`."""
    if len(group.labels) < 2 or not rows.paired:
        return len(group.labels) > 1
    labels = {(normalised(rows[row], in_order=True), rows.label(row)) for row in members}
    return len({text for text, _ in labels}) < len(labels)


def _repeats(groups: Sequence[Group], conflicts: int, within: Mapping[str, int], across: Mapping[str, int]) -> Repeats:
    return Repeats(
        groups=len(groups),
        rows=sum(group.rows for group in groups),
        within=within,
        across=across,
        conflicts=conflicts,
        largest=_largest(groups),
    )


_PAIRS = tuple(combinations(PARTS, 2))


def _equal_rows(rows: Seen, ids: NDArray[np.int64]) -> tuple[dict[str, int], dict[str, int]]:
    by_part = {part: ids[begin:end] for part, (begin, end) in zip(PARTS, pairwise(rows.starts.tolist()), strict=True)}
    within = {part: len(one) - len(np.unique(one)) for part, one in by_part.items()}
    return within, overlaps(by_part)


def _near_rows(seen: Seen, groups: Iterable[Sequence[Sequence[int]]]) -> tuple[dict[str, int], dict[str, int]]:
    """Rows beside a text of their group that is not their own."""
    within, across = dict.fromkeys(PARTS, 0), {f"{a}-{b}": 0 for a, b in _PAIRS}
    for group in groups:
        having = {
            part: {n for n, rows in enumerate(group) if any(seen.parts[r] == number for r in rows)}
            for number, part in enumerate(PARTS)
        }
        for number, rows in enumerate(group):
            for row in rows:
                part = PARTS[seen.parts[row]]
                within[part] += bool(having[part] - {number})
                for a, b in _PAIRS:
                    across[f"{a}-{b}"] += b == part and bool(having[a] - {number})
    return within, across


def _tokens(rows: Seen, reader: Reader, max_length: int) -> Tokens:
    lengths = token_lengths(rows, reader.tokenizer)
    special = int(reader.tokenizer.num_special_tokens_to_add(pair=rows.paired))
    long = np.flatnonzero(lengths > reader.takes)
    long = long[np.argsort(-lengths[long], kind="stable")]
    of_all = _lengths(lengths)
    return Tokens(
        model=reader.model,
        takes=reader.takes,
        lengths={**{part: _lengths(lengths[rows.parts == n]) for n, part in enumerate(PARTS)}, "all": of_all},
        histogram=_histogram(lengths, of_all),
        empty=_listed(rows, np.flatnonzero(lengths <= special)),
        too_long=_listed(rows, long),
        given=_cut(lengths, max_length),
        suggested=_suggested(lengths, reader.takes),
    )


def token_lengths(texts: Sequence[Text], tokenizer: Any) -> NDArray[np.int64]:
    """(N,) tokens of each text, special tokens included, nothing cut; `tokenizer` is one of transformers."""
    # verbose: else it warns of the first text that is longer than the model takes
    lengths = (len(ids) for chunk in token_ids(texts, tokenizer, verbose=False) for ids in chunk)
    return np.fromiter(lengths, dtype=np.int64, count=len(texts))


def _listed(seen: Seen, rows: NDArray[np.int64]) -> Rows:
    return Rows(len(rows), tuple(seen.place(row) for row in rows[:LISTED].tolist()))


def _lengths(lengths: NDArray[np.int64]) -> Lengths:
    if not len(lengths):  # a data set without a test split
        return Lengths(0, 0, 0.0, 0, 0, 0, 0)
    middle, long, longer, longest = np.percentile(lengths, [50, 95, 99, 100], method="inverted_cdf").tolist()
    total = int(lengths.sum())
    return Lengths(len(lengths), total, total / len(lengths), int(middle), int(long), int(longer), int(longest))


def _histogram(lengths: NDArray[np.int64], of_all: Lengths) -> tuple[Bin, ...]:
    """Bins of one width, 1, 2, 4, 5 or 8 times a power of ten, up to the 99th percentile; what is longer in one bin."""
    steps = (factor * 10**power for power in count() for factor in (1, 2, 4, 5, 8))
    width = next(step for step in steps if BINS * step >= of_all.percentile_99)
    number = max(1, math.ceil(of_all.percentile_99 / width))
    places = np.clip((lengths - 1) // width, 0, number)
    counts = np.bincount(places, minlength=number + 1).tolist()
    bins = [Bin(n * width + 1, (n + 1) * width, counts[n]) for n in range(number)]
    return (*bins, Bin(number * width + 1, None, counts[number])) if counts[number] else tuple(bins)


def _cut(lengths: NDArray[np.int64], max_length: int) -> Cut:
    beyond = np.maximum(lengths - max_length, 0)
    texts, tokens = int(np.count_nonzero(beyond)), int(beyond.sum())
    return Cut(max_length, texts, texts / len(lengths), tokens, tokens / max(1, int(lengths.sum())))


def _suggested(lengths: NDArray[np.int64], takes: int) -> Cut:
    longest = int(lengths.max())
    for max_length in range(MULTIPLE, min(takes, longest) + MULTIPLE, MULTIPLE):
        cut = _cut(lengths, min(max_length, takes))
        if max(cut.texts_share, cut.tokens_share) <= 1 - KEPT:
            return cut
    return _cut(lengths, takes)
