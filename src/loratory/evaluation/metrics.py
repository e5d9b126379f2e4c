"""Every metric, declared once: name, unit, direction, meaning, averaging, and the function that computes it.

The table :data:`METRICS` is what heads the columns, says which epoch is best, and fills `quality` in `run.json`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from loratory.errors import DataError, TrainingError, counted
from loratory.evaluation.quality import ClassQuality, Quality

Labels = npt.NDArray[np.int64]
Logits = npt.NDArray[np.floating[Any]]

ECE_BINS = 15
"""Bins of the expected calibration error: the number Guo et al. (2017) report."""


@dataclass(frozen=True)
class Outcome:
    """What a metric looks at: N examples, C classes."""

    labels: Labels  # (N,)
    predictions: Labels  # (N,)
    log_probabilities: npt.NDArray[np.float64] | None  # (N, C), natural log; None where only a label was predicted
    classes: int


@dataclass(frozen=True)
class Metric:
    """One metric: `function` gives None where the outcome holds no probabilities to judge."""

    name: str
    title: str
    unit: str
    higher_is_better: bool
    meaning: str
    averaging: str
    function: Callable[[Outcome], float | None]
    ends: tuple[float, float] = (0.0, 1.0)
    """The smallest and the largest value it can have."""

    def better(self, new: float, old: float) -> bool:
        """Whether `new` is strictly better than `old`."""
        return new > old if self.higher_is_better else new < old


def log_softmax(logits: Logits) -> npt.NDArray[np.float64]:
    """Natural log of the softmax over the last axis, in float64: (N, C) to (N, C)."""
    wide = logits.astype(np.float64)
    shifted = wide - wide.max(axis=-1, keepdims=True)
    normalised: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return normalised


def score(labels: Labels, logits: Logits | None, predictions: Labels | None, names: tuple[str, ...]) -> Quality:
    """Judge N predictions among the C classes `names`.

    Args:
        labels: true classes, (N,), each in 0 … C-1.
        logits: (N, C), natural-log scale; None for a method that predicts a label alone (log loss and ECE are None).
        predictions: predicted classes, (N,); None takes each row's highest logit (the first of equals).
        names: the C label names, in class order.

    Raises:
        DataError: there is nothing to score, a class lies outside `names`, or a name stands twice.
        TrainingError: a logit is NaN or infinite.
        ValueError: shapes that do not fit, or neither logits nor predictions: a mistake of the caller.
    """
    if predictions is None:
        if logits is None:
            raise ValueError("score() needs logits or predictions")
        predictions = logits.argmax(axis=1).astype(np.int64)
    _check(labels, logits, predictions, names)
    outcome = Outcome(
        labels=labels,
        predictions=predictions,
        log_probabilities=None if logits is None else log_softmax(logits),
        classes=len(names),
    )
    values: dict[str, Any] = {metric.name: metric.function(outcome) for metric in METRICS.values()}
    return Quality(**values, labels=names, per_class=_per_class(outcome, names), confusion=_confusion(outcome))


def require_finite(logits: Logits) -> None:
    """Refuse logits (N, C) that hold NaN or infinity.

    Raises:
        TrainingError: names the first example at fault.
    """
    finite = np.isfinite(logits).all(axis=1)
    if not finite.all():
        first, count = int(np.argmin(finite)), int((~finite).sum())
        raise TrainingError(
            f"logits that are not finite in {count} of {counted(len(logits), 'example')} (first: row {first}); "
            "lower --lr or use --precision fp32"
        )


def _check(labels: Labels, logits: Logits | None, predictions: Labels, names: tuple[str, ...]) -> None:
    if labels.ndim != 1 or labels.shape != predictions.shape:
        raise ValueError(f"labels {labels.shape} and predictions {predictions.shape} must both be (N,)")
    if logits is not None and logits.shape != (len(labels), len(names)):
        raise ValueError(f"logits {logits.shape} must be ({len(labels)}, {len(names)})")
    if len(labels) == 0:
        raise DataError("no examples to score; check that the split is not empty")
    if len(set(names)) != len(names):
        raise DataError("a label name stands twice; give every class its own name")
    for what, values in (("label", labels), ("prediction", predictions)):
        outside = (values < 0) | (values >= len(names))
        if outside.any():
            row = int(np.argmax(outside))
            raise DataError(f"{what} {int(values[row])} in row {row} is none of the {len(names)} classes")
    if logits is not None:
        require_finite(logits)


def _accuracy(outcome: Outcome) -> float:
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(outcome.labels, outcome.predictions))


def _f1(average: str) -> Callable[[Outcome], float]:
    def compute(outcome: Outcome) -> float:
        from sklearn.metrics import f1_score

        classes = list(range(outcome.classes))
        return float(f1_score(outcome.labels, outcome.predictions, labels=classes, average=average, zero_division=0))

    return compute


def _mcc(outcome: Outcome) -> float:
    from sklearn.metrics import matthews_corrcoef

    if len(np.union1d(outcome.labels, outcome.predictions)) < 2:
        return 0.0  # undefined; scikit-learn gives 0 too, with a warning
    return float(matthews_corrcoef(outcome.labels, outcome.predictions))


def _log_loss(outcome: Outcome) -> float | None:
    if outcome.log_probabilities is None:
        return None
    loss = -outcome.log_probabilities[np.arange(len(outcome.labels)), outcome.labels].mean()
    return float(loss) + 0.0  # + 0.0: a certain, correct model loses 0.0, not -0.0


def _ece(outcome: Outcome) -> float | None:
    """ECE = Σ_b (n_b / N) · |accuracy(b) - confidence(b)|, over bins (lo, hi] (Guo et al. 2017, equation 3)."""
    if outcome.log_probabilities is None:
        return None
    confidence = np.exp(outcome.log_probabilities.max(axis=1))  # (N,)
    correct = outcome.predictions == outcome.labels  # (N,)
    edges = np.linspace(0.0, 1.0, ECE_BINS + 1)
    bins = np.digitize(confidence, edges[1:-1], right=True)
    gaps = np.bincount(bins, weights=correct - confidence, minlength=ECE_BINS)  # n_b · (accuracy - confidence)
    return float(np.abs(gaps).sum() / len(confidence))


def _per_class(outcome: Outcome, names: tuple[str, ...]) -> dict[str, ClassQuality]:
    from sklearn.metrics import precision_recall_fscore_support

    columns = precision_recall_fscore_support(
        outcome.labels, outcome.predictions, labels=list(range(outcome.classes)), average=None, zero_division=0
    )
    rows = zip(names, *columns, strict=True)
    return {name: ClassQuality(float(p), float(r), float(f), int(support)) for name, p, r, f, support in rows}


def _confusion(outcome: Outcome) -> tuple[tuple[int, ...], ...]:
    from sklearn.metrics import confusion_matrix

    matrix = confusion_matrix(outcome.labels, outcome.predictions, labels=list(range(outcome.classes)))
    return tuple(tuple(int(count) for count in row) for row in matrix)


_DECLARED = (
    Metric("accuracy", "Accuracy", "share", True, "examples whose label is predicted", "over examples", _accuracy),
    Metric(
        "f1_macro",
        "Macro-F1",
        "share",
        True,
        "F1, the harmonic mean of precision and recall, where every class counts the same",
        "plain mean over all classes of the data set; one absent from the split or never predicted counts as 0",
        _f1("macro"),
    ),
    Metric(
        "f1_weighted",
        "Weighted F1",
        "share",
        True,
        "F1 where every class counts by its number of examples",
        "mean over classes, weighted by their true examples",
        _f1("weighted"),
    ),
    Metric(
        "mcc",
        "Matthews",
        "correlation",
        True,
        "Matthews correlation: 1 perfect, 0 chance (or undefined: all one class), −1 always wrong",
        "one number over all classes",
        _mcc,
        (-1.0, 1.0),
    ),
    Metric(
        "log_loss",
        "Log loss",
        "nats",
        False,
        "mean of −ln of the probability given to the true class (softmax of the logits, float64)",
        "over examples",
        _log_loss,
        (0.0, math.inf),
    ),
    Metric(
        "ece",
        "ECE",
        "share",
        False,
        f"expected calibration error: gap between confidence and accuracy, {ECE_BINS} equal bins (arXiv:1706.04599)",
        "over bins of the top label's probability, weighted by their examples",
        _ece,
    ),
)

METRICS: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in _DECLARED})
"""All metrics by name, in the order in which they are shown."""
