"""Where methods disagree: the test examples that some cells get right with every seed and others with none."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loratory import units
from loratory.data import Dataset, make_dataset
from loratory.data.columns import on_one_line
from loratory.data.places import place_said
from loratory.data.targets import shown
from loratory.errors import LoratoryError
from loratory.problems import REGRESSION
from loratory.report.at_hand import data_at_hand
from loratory.report.evidence import CellEvidence
from loratory.spec import DataSpec, validated
from loratory.store.record import RunRecord

log = logging.getLogger("loratory")

SHOWN = 12
"""Examples of each data set and model."""

LONGEST = 400
"""Characters of a text that are shown."""


@dataclass(frozen=True)
class Disputed:
    """One test example; `right` has (seeds right, seeds) by cell id."""

    place: str
    """Its line of the file, or its row."""
    label: str
    right: Mapping[str, tuple[int, int]]
    text: str | None = None


@dataclass(frozen=True)
class Disagreement:
    """The most disputed examples, most disputed first.

    Attributes:
        of: test examples that one cell has right with every seed and another with none.
        all: test examples.
    """

    examples: tuple[Disputed, ...]
    of: int
    all: int


def disputed(
    cells: Mapping[str, CellEvidence], record: RunRecord, read: Callable[[DataSpec], Dataset] = make_dataset
) -> Disagreement | None:
    """The examples on which these cells disagree most; None for fewer than two cells, or different test splits.

    Ordered by the gap between the best and the worst cell's share of seeds that are right, then by how evenly the cells
    stand on both sides (the shares' variance), then by the row.

    Args:
        record: a run of these cells, which says how the data were divided.
        read: reads the data for their texts.
    """
    found = list(cells.values())
    if found and found[0].problem == REGRESSION:  # no number is simply right
        return None
    if len(found) < 2 or any(not np.array_equal(one.tests[0].rows, found[0].tests[0].rows) for one in found):
        return None
    shares = np.stack([one.right / len(one.tests) for one in found])  # (cells, N)
    gap = shares.max(axis=0) - shares.min(axis=0)
    test = found[0].tests[0]
    order = np.lexsort((test.rows, -shares.var(axis=0), -gap.round(9)))
    chosen = [int(position) for position in order[:SHOWN] if gap[position] > 0]
    texts = _texts(record, test.rows[chosen], read)
    examples = tuple(
        Disputed(
            place=texts.get(int(test.rows[position]), (place_said(int(test.rows[position]), None), None))[0],
            label=shown(test.labels[position : position + 1], found[0].labels)[0],
            right={name: (int(one.right[position]), len(one.tests)) for name, one in cells.items()},
            text=texts.get(int(test.rows[position]), ("", None))[1],
        )
        for position in chosen
    )
    return Disagreement(examples, int((gap >= 1).sum()), len(gap))


def _texts(
    record: RunRecord, rows: NDArray[np.int64], read: Callable[[DataSpec], Dataset]
) -> dict[int, tuple[str, str]]:
    """The places and texts of the test examples `rows`, of every fold where the run is of one, where the data set is
    at hand, and is the one that the run saw; else none."""
    try:
        spec = validated(DataSpec, record.spec["data"])
        if not data_at_hand(spec):
            return {}
        test = read(spec).test
        others = [
            spec.model_copy(update={"fold": fold}) for fold in range(1, (spec.folds or 0) + 1) if fold != spec.fold
        ]
        parts = [test, *(read(one).test for one in others)]
    except (LoratoryError, KeyError, TypeError) as error:
        log.warning("the page goes without texts of examples: %s", error)
        return {}
    if test.digest != record.data.get("digests", {}).get("test"):
        log.warning("the page goes without texts of examples: %s is not what the runs saw", spec.dataset)
        return {}
    return {
        int(part.rows[position]): (part.place(position), _cut(on_one_line(part.texts[position])))
        for part in parts
        for position in np.flatnonzero(np.isin(part.rows, rows)).tolist()
    }


def _cut(text: str) -> str:
    return units.cut(" ".join(text.split()), LONGEST)
