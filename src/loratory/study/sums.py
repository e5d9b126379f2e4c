"""What each metric sums over examples, and how it follows from the sums: so all draws of all runs are one product of
matrices, weights (draws, units) x columns (units, runs and what is summed for each). Spearman's correlation is of
ranks, which are found anew in every draw.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from loratory.evaluation.measures import ECE_BINS, Labels, Logits, log_softmax
from loratory.problems import Targets

Array = npt.NDArray[np.float64]


Columns = npt.NDArray[np.float32]


AT_ONCE = 2**22
"""Weights held at a time: 16 MiB."""


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a cell's S seeds gave, and what they predicted by it."""

    logits: Logits  # (S, N, C)
    said: Targets  # (S, N), or (S, N, C) of 0 and 1: predictions in the shape of the problem's labels


@dataclass(frozen=True, eq=False)
class Units:
    """Which examples are drawn together."""

    order: npt.NDArray[np.int64]  # (N,) examples, a unit after the other
    places: npt.NDArray[np.int64]  # (N,) the unit of each example
    sizes: npt.NDArray[np.int64]  # (U,)

    @classmethod
    def of(cls, units: Labels) -> Units:
        """The units whose values (N,) are equal."""
        _, places, sizes = np.unique(units, return_inverse=True, return_counts=True)
        return cls(np.argsort(places, kind="stable"), places, sizes)

    @property
    def begins(self) -> npt.NDArray[np.int64]:
        """(U,) where each unit begins in that order."""
        return np.concatenate([[0], np.cumsum(self.sizes)[:-1]])

    def firsts(self, values: Labels) -> Labels:
        """(U,) the value of each unit's first example."""
        return values[self.order][self.begins]

    def sums(self, columns: Columns, axis: int) -> Columns:
        """Columns summed over the examples of each unit, along the axis of examples."""
        found: Columns = np.add.reduceat(np.take(columns, self.order, axis=axis), self.begins, axis=axis)
        return found


POWERS = {"rmse": 1, "mae": 1, "mse": 2}
"""Metrics that have the unit of the target, and its power; all others of numbers have none."""


OfWeights = Callable[[Columns], Array]
"""(draws, U) -> (draws, S): a metric of one cell's runs on draws of units."""


class Statistic(Protocol):
    """How a metric follows from how often each unit was drawn."""

    def prepared(self, labels: Targets, outputs: Outputs, units: Units) -> OfWeights:
        """For one cell's runs on N examples."""


@dataclass(frozen=True, eq=False)
class MeanOfFolds:
    """A metric of each of K folds' drawn examples, and their mean over the folds of which any were drawn: each fold is
    another model's, and its outputs may have another level and scale.

    Attributes:
        metric: of one fold.
        folds: (N,) in which fold each example stands; those of one unit in one.
    """

    metric: Statistic
    folds: Labels

    def prepared(self, labels: Targets, outputs: Outputs, units: Units) -> OfWeights:
        """As :meth:`Statistic.prepared`."""
        each = self.each(labels, outputs, units)
        of_units = units.firsts(self.folds) == np.unique(self.folds)[:, None]  # (K, U)

        def mean(weights: Columns) -> Array:
            drawn = (of_units @ weights.T > 0)[:, :, None]  # (K, draws, 1)
            found: Array = np.where(drawn, each(weights), 0.0).sum(axis=0) / drawn.sum(axis=0)
            return found

        return mean

    def each(self, labels: Targets, outputs: Outputs, units: Units) -> OfWeights:
        """As :meth:`prepared`, but (draws, U) -> (K, draws, S)."""
        of_units = units.firsts(self.folds)
        parts = []
        for fold in np.unique(self.folds):
            rows = self.folds == fold
            inside = Outputs(outputs.logits[:, rows], outputs.said[:, rows])
            measure = self.metric.prepared(labels[rows], inside, Units.of(units.places[rows]))
            parts.append((of_units == fold, measure))

        def of(weights: Columns) -> Array:
            return np.stack([measure(weights[:, there]) for there, measure in parts])

        return of


@dataclass(frozen=True)
class Sums:
    """What a metric sums over examples, and how it follows from the sums.

    Attributes:
        per_run: (labels of N, outputs) -> (S, N, K), summed for each run.
        shared: (labels of N, C) -> (N, L), summed once for all runs.
        metric: (sums (..., K), shared sums (..., L), examples drawn (...)) -> (...).
    """

    per_run: Callable[[Targets, Outputs], Columns]
    shared: Callable[[Targets, int], Columns]
    metric: Callable[[Array, Array, Array], Array]

    def prepared(self, labels: Targets, outputs: Outputs, units: Units) -> OfWeights:
        """As :meth:`Statistic.prepared`."""
        columns = units.sums(self.per_run(labels, outputs), axis=1)  # (S, U, K)
        shared = units.sums(self.shared(labels, outputs.logits.shape[-1]), axis=0)  # (U, L)

        def of(weights: Columns) -> Array:
            common = (weights @ shared).astype(np.float64)[:, None]  # (draws, 1, L)
            total = (weights.astype(np.float64) @ units.sizes)[:, None]  # (draws, 1) examples
            return self.metric(_weighted(weights, columns), common, total)

        return of


def _weighted(weights: Columns, columns: Columns) -> Array:
    """(draws, U) and (S, U, K) to (draws, S, K)."""
    S, U, K = columns.shape
    flat = columns.transpose(1, 0, 2).reshape(U, S * K)
    return (weights @ flat).astype(np.float64).reshape(len(weights), S, K)


def _nothing(labels: Targets, classes: int) -> Columns:
    return np.zeros((len(labels), 0), dtype=np.float32)


def _true_classes(labels: Targets, classes: int) -> Columns:
    return _one_hot(labels, classes) if labels.ndim == 1 else labels.astype(np.float32)


def _one_hot(classes: Targets, count: int) -> Columns:
    columns: Columns = np.eye(count, dtype=np.float32)[classes]
    return columns


def _correct(labels: Targets, outputs: Outputs) -> Columns:
    """1 where an example's class, or all of its labels, are right: (S, N, 1)."""
    right = outputs.said == labels
    whole = right.all(axis=-1) if labels.ndim == 2 else right
    correct: Columns = whole[..., None].astype(np.float32)
    return correct


def _wrong_labels(labels: Targets, outputs: Outputs) -> Columns:
    wrong: Columns = (outputs.said != labels).mean(axis=-1, keepdims=True).astype(np.float32)
    return wrong


def _losses(labels: Targets, outputs: Outputs) -> Columns:
    found = np.take_along_axis(log_softmax(outputs.logits), labels[None, :, None], axis=-1)
    losses: Columns = -found.astype(np.float32)
    return losses


def _binary_losses(labels: Targets, outputs: Outputs) -> Columns:
    wide = outputs.logits.astype(np.float64)
    losses: Columns = (np.logaddexp(0.0, wide) - labels * wide).mean(axis=-1, keepdims=True).astype(np.float32)
    return losses


def _hits_and_predictions(labels: Targets, outputs: Outputs) -> Columns:
    """1 for the class, or for each label, where it was predicted rightly, then where it was predicted: (S, N, 2C)."""
    classes = outputs.logits.shape[-1]
    said = _one_hot(outputs.said, classes) if labels.ndim == 1 else outputs.said.astype(np.float32)
    true = _true_classes(labels, classes)
    return np.concatenate([said * true, said], axis=-1)


def _gaps(labels: Targets, outputs: Outputs) -> Columns:
    """Right (1 or 0) minus confidence, in the column of the confidence's bin: (S, N, ECE_BINS)."""
    confidence = np.exp(log_softmax(outputs.logits).max(axis=-1))
    bins = np.digitize(confidence, np.linspace(0.0, 1.0, ECE_BINS + 1)[1:-1], right=True)
    gaps = _correct(labels, outputs)[..., 0] - confidence
    columns: Columns = np.eye(ECE_BINS, dtype=np.float32)[bins] * gaps[..., None].astype(np.float32)
    return columns


def _squares(labels: Targets, outputs: Outputs) -> Columns:
    squares: Columns = np.square(outputs.said - labels)[..., None].astype(np.float32)
    return squares


def _distances(labels: Targets, outputs: Outputs) -> Columns:
    distances: Columns = np.abs(outputs.said - labels)[..., None].astype(np.float32)
    return distances


def _moments(labels: Targets, outputs: Outputs) -> Columns:
    """Of predictions x and truths y, both less their mean over all examples: x, x², x·y: (S, N, 3). In sums of fp32 a
    large mean would leave nothing of a small variance."""
    x = outputs.said - outputs.said.mean(axis=-1, keepdims=True)
    moments: Columns = np.stack([x, x * x, x * (labels - labels.mean())], axis=-1).astype(np.float32)
    return moments


def _true_moments(labels: Targets, classes: int) -> Columns:
    """y and y², less their mean over all examples: (N, 2)."""
    y = labels - labels.mean()
    return np.stack([y, y * y], axis=-1).astype(np.float32)


def _pearson(sums: Array, true: Array, examples: Array) -> Array:
    x, xx, xy = np.moveaxis(sums, -1, 0)
    y, yy = np.moveaxis(true, -1, 0)
    covariance = examples * xy - x * y
    variances = np.maximum(examples * xx - x * x, 0) * np.maximum(examples * yy - y * y, 0)
    return _ratio(covariance, np.sqrt(variances))


def _root_mean(sums: Array, shared: Array, examples: Array) -> Array:
    root: Array = np.sqrt(_mean(sums, shared, examples))
    return root


def _r2(sums: Array, true: Array, examples: Array) -> Array:
    """1 - Σ (x - y)² / Σ (y - ȳ)², and 0 where the truth does not vary."""
    y, yy = np.moveaxis(true, -1, 0)
    spread = yy - y * y / examples
    explained: Array = np.where(spread > 0, 1 - _ratio(sums[..., 0], spread), 0.0)
    return explained


class Spearman:
    """Pearson's correlation of ranks, which are those within each draw: an example drawn twice stands there twice, and
    equal values share the mean of their ranks, as SciPy's `spearmanr` has it."""

    def prepared(self, labels: Targets, outputs: Outputs, units: Units) -> OfWeights:
        """As :meth:`Statistic.prepared`."""
        of_truth, of_runs = _Ranks.of(labels), [_Ranks.of(one) for one in outputs.said]

        def of(weights: Columns) -> Array:
            rows = max(1, AT_ONCE // (4 * len(units.places)))  # as many doubles are several of these at a time
            return np.concatenate([some(weights[at : at + rows]) for at in range(0, max(1, len(weights)), rows)])

        def some(weights: Columns) -> Array:
            drawn = weights.astype(np.float64)[:, units.places]  # (draws, N)
            total = drawn.sum(axis=-1, keepdims=True)
            truth = of_truth.within(drawn) - (total + 1) / 2  # less their mean
            found = []
            for one in of_runs:
                ranks = one.within(drawn) - (total + 1) / 2
                covariance = (drawn * ranks * truth).sum(axis=-1)
                variances = (drawn * ranks**2).sum(axis=-1) * (drawn * truth**2).sum(axis=-1)
                found.append(_ratio(covariance, np.sqrt(variances)))
            return np.stack(found, axis=-1)

        return of


@dataclass(frozen=True, eq=False)
class _Ranks:
    """Which of N values are equal, and in which order they stand."""

    order: npt.NDArray[np.int64]  # (N,)
    firsts: npt.NDArray[np.int64]  # of each group of equal values in that order
    group: npt.NDArray[np.int64]  # (N,) the group of each value

    @classmethod
    def of(cls, values: Targets) -> _Ranks:
        _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
        return cls(np.argsort(group, kind="stable"), np.concatenate([[0], np.cumsum(sizes)[:-1]]), group)

    def within(self, drawn: Array) -> Array:
        """The rank of each value, (draws, N), among those that each draw has so many times."""
        sizes = np.add.reduceat(drawn[:, self.order], self.firsts, axis=-1)  # (draws, groups)
        ranks: Array = (np.cumsum(sizes, axis=-1) - sizes + (sizes + 1) / 2)[:, self.group]
        return ranks


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
    return _ratio((_class_f1(sums, true) * true).sum(axis=-1), true.sum(axis=-1))


def _f1_micro(sums: Array, true: Array, examples: Array) -> Array:
    hits, said = np.split(sums, 2, axis=-1)
    return _ratio(2 * hits.sum(axis=-1), said.sum(axis=-1) + true.sum(axis=-1))


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


SUMS: dict[str, Statistic] = {
    "accuracy": Sums(_correct, _nothing, _mean),
    "f1_micro": Sums(_hits_and_predictions, _true_classes, _f1_micro),
    "f1_macro": Sums(_hits_and_predictions, _true_classes, _f1_macro),
    "f1_weighted": Sums(_hits_and_predictions, _true_classes, _f1_weighted),
    "mcc": Sums(_hits_and_predictions, _true_classes, _mcc),
    "log_loss": Sums(_losses, _nothing, _mean),
    "ece": Sums(_gaps, _nothing, _expected_calibration_error),
    "subset_accuracy": Sums(_correct, _nothing, _mean),
    "hamming_loss": Sums(_wrong_labels, _nothing, _mean),
    "binary_log_loss": Sums(_binary_losses, _nothing, _mean),
    "pearson": Sums(_moments, _true_moments, _pearson),
    "spearman": Spearman(),
    "mse": Sums(_squares, _nothing, _mean),
    "rmse": Sums(_squares, _nothing, _root_mean),
    "mae": Sums(_distances, _nothing, _mean),
    "r2": Sums(_squares, _true_moments, _r2),
}
"""Every metric of :data:`loratory.evaluation.metrics.METRICS` that a study may compare cells by, and ECE, by name."""
