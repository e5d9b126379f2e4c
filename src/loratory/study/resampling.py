"""Metrics of resampled examples: each draw weighs every example by how often its unit was drawn.

A unit is one example, or all that are not independent of each other (equal texts, a document's sentences): those are
drawn together, the cluster bootstrap (Davison & Hinkley 1997, *Bootstrap Methods and their Application*, section 3.8).

Every metric is a function of sums over examples, so that all draws of all runs are one product of matrices:
weights (draws, units) x columns (units, runs and what is summed for each). Draws are the same for all runs, which is
what makes comparisons paired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from loratory.evaluation.metrics import ECE_BINS, Labels, Logits, log_softmax

Array = npt.NDArray[np.float64]
Columns = npt.NDArray[np.float32]

DRAWS = 10_000
"""Draws of examples: the standard error is then known to about 1%."""

_AT_ONCE = 2**22
"""Weights held at a time: 16 MiB."""


@dataclass(frozen=True, eq=False)
class Replicates:
    """One cell's metric, for each of S seeds."""

    values: Array  # (..., S), on the examples as they are
    draws: Array  # (draws, ..., S), on each draw of examples
    sizes: npt.NDArray[np.int64]  # (U,) examples of each unit
    folds: Array | None = None  # (K, ..., S), on the examples of each fold; None where there are none

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


@dataclass(frozen=True)
class Sums:
    """What a metric sums over examples, and how it follows from the sums.

    Attributes:
        per_run: (labels (N,), logits (S, N, C)) -> (S, N, K), summed for each run.
        shared: (labels (N,), C) -> (N, L), summed once for all runs.
        metric: (sums (..., K), shared sums (..., L), examples drawn (...)) -> (...).
    """

    per_run: Callable[[Labels, Logits], Columns]
    shared: Callable[[Labels, int], Columns]
    metric: Callable[[Array, Array, Array], Array]


def replicate(
    metric: str,
    labels: Labels,
    units: Labels,
    runs: Sequence[Logits],
    *,
    folds: Labels | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[Replicates]:
    """The metric of each cell's runs on `draws` resamples of the same U units of N examples, the same for all.

    Args:
        metric: a key of METRICS.
        labels: true classes (N,).
        units: (N,) whose values say which examples are drawn together.
        runs: logits (S, N, C) of each cell's S seeds; S may differ from cell to cell.
        folds: (N,) in which of K folds each example was tested; those of one unit in one.
        seed: of the draws.
    """
    sums = SUMS[metric]
    _, places, sizes = np.unique(units, return_inverse=True, return_counts=True)
    order = np.argsort(places, kind="stable")
    firsts = np.concatenate([[0], np.cumsum(sizes)[:-1]])  # of each unit's examples in that order
    columns = [np.add.reduceat(sums.per_run(labels, logits)[:, order], firsts, axis=1) for logits in runs]  # (S, U, K)
    shared = np.add.reduceat(sums.shared(labels, runs[0].shape[-1])[order], firsts, axis=0)  # (U, L)
    found: list[list[Array]] = [[] for _ in runs]
    each = np.zeros((0, len(sizes)), dtype=np.float32)  # (K, U): which units a fold has
    if folds is not None:
        each = (folds[order][firsts] == np.unique(folds)[:, None]).astype(np.float32)
    for weights in (np.ones((1, len(sizes)), dtype=np.float32), each, *unit_weights(len(sizes), draws, seed)):
        common = (weights @ shared).astype(np.float64)[:, None]  # (draws, 1, L)
        total = (weights.astype(np.float64) @ sizes)[:, None]  # (draws, 1) examples
        for parts, cell in zip(found, columns, strict=True):
            parts.append(sums.metric(_weighted(weights, cell), common, total))
    return [
        Replicates(whole[0], np.concatenate(drawn), sizes, of_folds if folds is not None else None)
        for whole, of_folds, *drawn in found
    ]


def unit_weights(units: int, draws: int, seed: int) -> Iterator[Columns]:
    """How often each draw has each of U units: (some draws, U) at a time, U in each row's sum."""
    random = np.random.default_rng(seed)
    step = max(1, _AT_ONCE // units)
    for start in range(0, draws, step):
        rows = min(step, draws - start)
        drawn = random.integers(0, units, (rows, units)) + np.arange(rows)[:, None] * units
        counts = np.bincount(drawn.ravel(), minlength=rows * units)
        yield counts.reshape(rows, units).astype(np.float32)


def _weighted(weights: Columns, columns: Columns) -> Array:
    """(draws, U) and (S, U, K) to (draws, S, K)."""
    S, U, K = columns.shape
    flat = columns.transpose(1, 0, 2).reshape(U, S * K)
    return (weights @ flat).astype(np.float64).reshape(len(weights), S, K)


def _nothing(labels: Labels, classes: int) -> Columns:
    return np.zeros((len(labels), 0), dtype=np.float32)


def _true_classes(labels: Labels, classes: int) -> Columns:
    return _one_hot(labels, classes)


def _one_hot(classes: npt.NDArray[np.int64], count: int) -> Columns:
    columns: Columns = np.eye(count, dtype=np.float32)[classes]
    return columns


def _correct(labels: Labels, logits: Logits) -> Columns:
    correct: Columns = (logits.argmax(axis=-1) == labels)[..., None].astype(np.float32)
    return correct


def _losses(labels: Labels, logits: Logits) -> Columns:
    losses: Columns = -np.take_along_axis(log_softmax(logits), labels[None, :, None], axis=-1).astype(np.float32)
    return losses


def _hits_and_predictions(labels: Labels, logits: Logits) -> Columns:
    """One-hot of the class where it was predicted rightly, then of the predicted class: (S, N, 2C)."""
    predicted = _one_hot(logits.argmax(axis=-1), logits.shape[-1])
    return np.concatenate([predicted * _correct(labels, logits), predicted], axis=-1)


def _gaps(labels: Labels, logits: Logits) -> Columns:
    """Right (1 or 0) minus confidence, in the column of the confidence's bin: (S, N, ECE_BINS)."""
    confidence = np.exp(log_softmax(logits).max(axis=-1))
    bins = np.digitize(confidence, np.linspace(0.0, 1.0, ECE_BINS + 1)[1:-1], right=True)
    gaps = _correct(labels, logits)[..., 0] - confidence
    columns: Columns = _one_hot(bins, ECE_BINS) * gaps[..., None].astype(np.float32)
    return columns


def _mean(sums: Array, shared: Array, examples: Array) -> Array:
    means: Array = sums[..., 0] / examples
    return means


def _expected_calibration_error(sums: Array, shared: Array, examples: Array) -> Array:
    error: Array = np.abs(sums).sum(axis=-1) / examples
    return error


def _class_f1(sums: Array, true: Array) -> Array:
    """2 · hits / (predicted + true) of each class, 0 for a class that is neither: (..., C)."""
    hits, predicted = np.split(sums, 2, axis=-1)
    return _ratio(2 * hits, predicted + true)


def _f1_macro(sums: Array, true: Array, examples: Array) -> Array:
    mean: Array = _class_f1(sums, true).mean(axis=-1)
    return mean


def _f1_weighted(sums: Array, true: Array, examples: Array) -> Array:
    weighted: Array = (_class_f1(sums, true) * true).sum(axis=-1) / examples
    return weighted


def _mcc(sums: Array, true: Array, examples: Array) -> Array:
    """(N · hits - Σ p t) / √((N² - Σ p²)(N² - Σ t²)) over classes predicted p and true t times (Gorodkin 2004)."""
    hits, predicted = np.split(sums, 2, axis=-1)
    covariance = examples * hits.sum(axis=-1) - (predicted * true).sum(axis=-1)
    variances = (examples**2 - (predicted**2).sum(axis=-1)) * (examples**2 - (true**2).sum(axis=-1))
    return _ratio(covariance, np.sqrt(np.maximum(variances, 0)))


def _ratio(above: Any, below: Any) -> Array:
    """`above / below`, and 0 where nothing stands below."""
    ratio: Array = np.divide(above, below, out=np.zeros(np.broadcast(above, below).shape), where=below != 0)
    return ratio


SUMS = {
    "accuracy": Sums(_correct, _nothing, _mean),
    "f1_macro": Sums(_hits_and_predictions, _true_classes, _f1_macro),
    "f1_weighted": Sums(_hits_and_predictions, _true_classes, _f1_weighted),
    "mcc": Sums(_hits_and_predictions, _true_classes, _mcc),
    "log_loss": Sums(_losses, _nothing, _mean),
    "ece": Sums(_gaps, _nothing, _expected_calibration_error),
}
"""Every metric of :data:`loratory.evaluation.metrics.METRICS`, by its name."""
