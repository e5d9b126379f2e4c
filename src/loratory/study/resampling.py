"""Metrics of resampled examples: each draw weighs every example by how often its unit was drawn.

A unit is one example, or all that are not independent of each other (equal texts, a document's sentences): those are
drawn together, the cluster bootstrap (Davison & Hinkley 1997, *Bootstrap Methods and their Application*, section 3.8).

Draws are the same for all runs, which is what makes comparisons paired. What is drawn is summed in
:mod:`loratory.study.sums`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loratory.evaluation.measures import Labels, Logits
from loratory.evaluation.metrics import METRICS, predicted
from loratory.problems import REGRESSION, Targets, problem_of
from loratory.study import sums
from loratory.study.sums import POWERS, SUMS, Array, Columns, MeanOfFolds, Outputs, Units

DRAWS = 10_000
"""Draws of examples: the standard error is then known to about 1%."""


@dataclass(frozen=True, eq=False)
class Replicates:
    """One cell's metric, for each of S seeds."""

    values: Array  # (..., S), on the examples as they are
    draws: Array  # (draws, ..., S), on each draw of examples
    sizes: npt.NDArray[np.int64]  # (U,) examples of each unit
    folds: Array | None = None  # (K, ..., S), on the examples of each fold; None where there are none
    step: float = 1.0  # what one example answered differently adds to the metric's sum over examples

    @property
    def examples(self) -> int:
        """N, of all units."""
        return int(self.sizes.sum())

    @property
    def effective_units(self) -> float:
        """N² / Σ n²: units of one size that would say as much about their own variance (Kish 1965, *Survey Sampling*,
        for weights; Carter, Schnepel & Steigerwald 2017, Review of Economics and Statistics 99:698-709, for t-tests on
        clusters of unlike sizes).
        """
        return float(self.examples**2 / np.square(self.sizes).sum())


def _deviation(numbers: Targets) -> float:
    """The standard deviation of the truth (N,), and 1 where it does not vary."""
    found = float(np.std(numbers))
    return found if found > 0 else 1.0


def replicate(
    metric: str,
    labels: Targets,
    units: Labels,
    runs: Sequence[Logits],
    *,
    chosen: Sequence[Targets] | None = None,
    folds: Labels | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[Replicates]:
    """The metric of each cell's runs on `draws` resamples of the same U units of N examples, the same for all.

    Args:
        metric: a key of METRICS.
        labels: true classes (N,), sets of labels (N, C), or numbers (N,).
        units: (N,) whose values say which examples are drawn together.
        runs: logits (S, N, C) of each cell's S seeds; S may differ from cell to cell.
        chosen: where labels are sets, those that each run predicted: (S, N, C) of 0 and 1.
        folds: (N,) in which of K folds each example was tested; those of one unit in one.
        seed: of the draws.
    """
    problem = problem_of(labels)
    said = chosen if chosen is not None else [predicted(logits, problem) for logits in runs]
    scale = _deviation(labels) if problem == REGRESSION else 1.0
    if scale != 1.0:  # in sums of fp32 squares of very large or very small numbers would be lost
        labels, said = labels / scale, [one / scale for one in said]
    back = scale ** POWERS.get(metric, 0)
    of_units = Units.of(units)
    outputs = [Outputs(logits, one) for logits, one in zip(runs, said, strict=True)]
    statistic = SUMS[metric]
    if folds is not None and METRICS[metric].of_one_model:
        statistic = MeanOfFolds(statistic, folds)
    measures = [statistic.prepared(labels, one, of_units) for one in outputs]
    number = len(of_units.sizes)
    everything = np.ones((1, number), dtype=np.float32)
    found: list[list[Array]] = [[] for _ in runs]
    for weights in (everything, *unit_weights(number, draws, seed)):
        for parts, measure in zip(found, measures, strict=True):
            parts.append(measure(weights))
    each: list[Array | None] = [None] * len(runs)
    if folds is not None:
        each = [MeanOfFolds(SUMS[metric], folds).each(labels, one, of_units)(everything)[:, 0] for one in outputs]
    return [
        Replicates(
            whole[0] * back,
            np.concatenate(drawn) * back,
            of_units.sizes,
            None if of_folds is None else of_folds * back,
            back,
        )
        for (whole, *drawn), of_folds in zip(found, each, strict=True)
    ]


def unit_weights(units: int, draws: int, seed: int) -> Iterator[Columns]:
    """How often each draw has each of U units: (some draws, U) at a time, U in each row's sum."""
    random = np.random.default_rng(seed)
    step = max(1, sums.AT_ONCE // units)
    for start in range(0, draws, step):
        rows = min(step, draws - start)
        drawn = random.integers(0, units, (rows, units)) + np.arange(rows)[:, None] * units
        counts = np.bincount(drawn.ravel(), minlength=rows * units)
        yield counts.reshape(rows, units).astype(np.float32)
