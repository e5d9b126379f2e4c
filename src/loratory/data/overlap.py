"""What stands in two parts of the data: equal texts, and the texts of pairs each by itself."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from loratory.data.columns import Pairs, Text
from loratory.data.rows import PARTS, Rows, hashes, ranked
from loratory.errors import counted

log = logging.getLogger("loratory")

Counts = dict[str, int]
"""By `train-validation`, `train-test` and `validation-test`."""

SIDES = {"text": "first", "pair": "second"}
"""What the texts of a pair are called in a record, and in a sentence."""

MOST = 0.5
"""Share of a part's examples."""


def is_most(count: int, size: int) -> bool:
    """Whether so many of a part's examples are at least :data:`MOST` of them: scores on it say little of new texts."""
    return count > 0 and count >= MOST * size


def overlaps(keys: Mapping[str, NDArray[np.int64]], among: Mapping[str, NDArray[np.int64]] | None = None) -> Counts:
    """For each two parts, the rows of the second whose key the first has: in its `keys`, or in what is `among` it."""
    known = keys if among is None else among
    return {f"{a}-{b}": int(np.count_nonzero(np.isin(keys[b], known[a]))) for a, b in combinations(PARTS, 2)}


def one_sided(parts: Mapping[str, Rows]) -> dict[str, Counts] | None:
    """Of pairs, for each of :data:`SIDES`: the rows of the second part whose one text the first part has, in whichever
    column; None of single texts."""
    pairs = {part: rows.texts for part, rows in parts.items() if isinstance(rows.texts, Pairs)}
    if len(pairs) < len(parts):
        return None
    ids = ranked(hashes(*(side for both in pairs.values() for side in (both.first, both.second))))[1]
    ends = np.cumsum([2 * len(both) for both in pairs.values()])
    of = {part: both.reshape(2, -1) for part, both in zip(pairs, np.split(ids, ends[:-1]), strict=True)}
    either = {part: both.ravel() for part, both in of.items()}
    return {
        column: overlaps({part: both[side] for part, both in of.items()}, either) for side, column in enumerate(SIDES)
    }


def shared(texts: Sequence[Text], others: Sequence[Text]) -> int:
    """How many of `texts` stand among `others`, normalised."""
    _, ids = ranked(hashes(texts, others))
    return int(np.count_nonzero(np.isin(ids[: len(texts)], ids[len(texts) :])))


def warn(
    where: str, sizes: Mapping[str, int], overlap: Mapping[str, int], alone: Mapping[str, Mapping[str, int]] | None
) -> None:
    """Say which texts stand in two parts; of the texts of pairs by themselves only where most do.

    Args:
        where: the data set.
        sizes: examples of each part.
        overlap, alone: as in :class:`loratory.data.splits.Dataset`.
    """
    for pair, count in overlap.items():
        first, second = pair.split("-")
        if first == "train" and is_most(count, sizes[second]):
            of = f"{count:,} of {counted(sizes[second], 'text')}"
            log.warning("%s: %s of %s also in train: scores on it say little of new texts; kept", where, of, second)
        elif count:
            log.warning("%s: %s of %s also in %s; kept", where, counted(count, "text"), second, first)
    if alone is None:
        return
    judged = "test" if sizes["test"] else "validation"
    found = {said: alone[column][f"train-{judged}"] for column, said in SIDES.items()}
    most = [f"the {said} text of {count:,}" for said, count in found.items() if is_most(count, sizes[judged])]
    if most:
        of, remedy = counted(sizes[judged], "pair"), "--group-column with the column of a text keeps its pairs together"
        log.warning("%s: %s of %s of %s also in train; %s", where, " and ".join(most), of, judged, remedy)
