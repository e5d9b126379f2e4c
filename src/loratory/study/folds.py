"""A cell's runs over the K folds of one seed, put together: their tests cover every example once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loratory.errors import StorageError
from loratory.evaluation import predictions
from loratory.evaluation.measures import Labels
from loratory.evaluation.predictions import Predictions
from loratory.store.directory import PREDICTIONS
from loratory.store.naming import lookup
from loratory.study.results import Final


@dataclass(frozen=True, eq=False)
class Pooled:
    """What the models of all folds said, each of the examples of its own fold; in the order of the source's rows."""

    test: Predictions
    folds: Labels | None
    """(N,) in which fold each example was tested; None where there are no folds."""


def pooled(parts: Sequence[Predictions], folds: Sequence[int | None]) -> Pooled:
    """Put the test predictions of one seed's folds together; one part alone, of no fold, stays as it is.

    Units are told apart by their fold, as none stands in two.

    Args:
        parts: of each fold.
        folds: their numbers.
    """
    if list(folds) == [None]:
        return Pooled(parts[0], None)
    begins = np.cumsum([0, *(int(part.units.max(initial=-1)) + 1 for part in parts)])
    rows = np.concatenate([part.rows for part in parts])
    order = np.argsort(rows, kind="stable")
    sets = [part.chosen for part in parts if part.chosen is not None]
    whole = Predictions(
        labels=np.concatenate([part.labels for part in parts])[order],
        logits=np.concatenate([part.logits for part in parts])[order],
        rows=rows[order],
        units=np.concatenate([part.units + begin for part, begin in zip(parts, begins[:-1], strict=True)])[order],
        chosen=np.concatenate(sets)[order] if sets else None,  # by thresholds of each fold's own
    )
    numbers = [np.full(len(part.labels), fold, dtype=np.int64) for part, fold in zip(parts, folds, strict=True)]
    return Pooled(whole, np.concatenate(numbers)[order])


def tested(finals: Sequence[Final]) -> Pooled:
    """What the final runs of one seed, all its folds or the one there is, said of their test examples.

    Raises:
        StorageError: predictions that are missing or damaged.
    """
    parts = []
    for final in finals:
        found = predictions.read(final.directory / PREDICTIONS)
        if "test" not in found:
            raise StorageError(f"{final.directory / PREDICTIONS} holds no test split; run the study again")
        parts.append(found["test"])
    return pooled(parts, [final.fold for final in finals])


def test_to_train(finals: Sequence[Final]) -> float:
    """Examples that the models of a seed's folds are tested on, over those they are trained on."""
    sizes = [
        (lookup(final.record, "data", "sizes", "test"), lookup(final.record, "data", "sizes", "train"))
        for final in finals
    ]
    return float(sum(test for test, _ in sizes) / sum(train for _, train in sizes))
