"""What each metric computes: by scikit-learn and SciPy, where they have it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from loratory.evaluation.thresholds import sigmoid
from loratory.problems import Targets

Labels = npt.NDArray[np.int64]


Logits = npt.NDArray[np.floating[Any]]


ECE_BINS = 15
"""Bins of the expected calibration error: the number Guo et al. (2017) report."""


@dataclass(frozen=True)
class Outcome:
    """What a metric looks at: N examples, C classes. Labels and predictions are of the problem's own shape."""

    labels: Targets
    predictions: Targets
    logits: Logits | None  # (N, C); None where no probability was given
    classes: int
    same_scale: bool = True
    """Of a regression: whether predictions have the targets' scale, so that errors mean something."""

    @cached_property
    def log_probabilities(self) -> npt.NDArray[np.float64] | None:
        """(N, C), natural log of the softmax; None where only a label was predicted."""
        return None if self.logits is None else log_softmax(self.logits)

    @cached_property
    def per_class(self) -> tuple[npt.NDArray[Any], ...]:
        """Precision, recall, F1 and true examples of each class, (C,) each; what is undefined counts 0."""
        from sklearn.metrics import precision_recall_fscore_support

        classes = list(range(self.classes))
        columns: tuple[npt.NDArray[Any], ...] = precision_recall_fscore_support(
            self.labels, self.predictions, labels=classes, average=None, zero_division=0
        )
        return columns


def log_softmax(logits: Logits) -> npt.NDArray[np.float64]:
    """Natural log of the softmax over the last axis, in float64: (N, C) to (N, C)."""
    wide = logits.astype(np.float64)
    shifted = wide - wide.max(axis=-1, keepdims=True)
    normalised: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return normalised


def accuracy(outcome: Outcome) -> float:
    """Labels, or whole sets of them, that are predicted."""
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(outcome.labels, outcome.predictions))


def f1_micro(outcome: Outcome) -> float:
    """F1 over all pairs of an example and a label."""
    from sklearn.metrics import f1_score

    classes = list(range(outcome.classes))
    return float(f1_score(outcome.labels, outcome.predictions, labels=classes, average="micro", zero_division=0))


def f1_macro(outcome: Outcome) -> float:
    """Plain mean of the classes' F1, one never predicted or absent counting 0."""
    return float(outcome.per_class[2].mean())


def f1_weighted(outcome: Outcome) -> float:
    """Mean of the classes' F1, each weighted by its true examples; the plain mean where there are none."""
    _, _, f1, support = outcome.per_class
    return float(np.average(f1, weights=support if support.any() else None))


def mcc(outcome: Outcome) -> float:
    """Matthews correlation."""
    from sklearn.metrics import matthews_corrcoef

    if len(np.union1d(outcome.labels, outcome.predictions)) < 2:
        return 0.0  # undefined; scikit-learn gives 0 too, with a warning
    return float(matthews_corrcoef(outcome.labels, outcome.predictions))


def binary_log_loss(outcome: Outcome) -> float | None:
    """Mean of -[y ln σ(z) + (1 - y) ln(1 - σ(z))] over examples and labels."""
    if outcome.logits is None:
        return None
    wide = outcome.logits.astype(np.float64)
    return float((np.logaddexp(0.0, wide) - outcome.labels * wide).mean())


def hamming_loss(outcome: Outcome) -> float:
    """Labels of examples that are predicted wrongly."""
    from sklearn.metrics import hamming_loss

    return float(hamming_loss(outcome.labels, outcome.predictions))


def average_precision(outcome: Outcome) -> float | None:
    """Mean over the labels that there are."""
    from sklearn.metrics import average_precision_score

    there = outcome.labels.any(axis=0)
    if outcome.logits is None or not there.any():
        return None
    probabilities = sigmoid(outcome.logits)
    return float(average_precision_score(outcome.labels[:, there], probabilities[:, there], average="macro"))


def correlation(name: str) -> Callable[[Outcome], float]:
    """SciPy's correlation of this name; 0 where one of the two does not vary."""

    def compute(outcome: Outcome) -> float:
        from scipy import stats

        if min(np.ptp(outcome.labels), np.ptp(outcome.predictions)) == 0:
            return 0.0  # undefined: one of the two does not vary
        with warnings.catch_warnings(action="ignore"):  # what hardly varies is known imprecisely
            return float(getattr(stats, name)(outcome.labels, outcome.predictions).statistic)

    return compute


def error(name: str) -> Callable[[Outcome], float | None]:
    """scikit-learn's measure of this name; None where predictions have another scale."""

    def compute(outcome: Outcome) -> float | None:
        from sklearn import metrics

        if not outcome.same_scale:
            return None
        if name == "r2_score" and np.ptp(outcome.labels) == 0:
            return 0.0  # undefined: there is no variance to explain
        return float(getattr(metrics, name)(outcome.labels, outcome.predictions))

    return compute


def log_loss(outcome: Outcome) -> float | None:
    """Mean of -ln of the probability of the true class."""
    if outcome.log_probabilities is None:
        return None
    loss = -outcome.log_probabilities[np.arange(len(outcome.labels)), outcome.labels].mean()
    return float(loss) + 0.0  # + 0.0: a certain, correct model loses 0.0, not -0.0


def ece(outcome: Outcome) -> float | None:
    """ECE = Σ_b (n_b / N) · |accuracy(b) - confidence(b)|, over bins (lo, hi] (Guo et al. 2017, equation 3)."""
    if outcome.log_probabilities is None:
        return None
    confidence = np.exp(outcome.log_probabilities.max(axis=1))  # (N,)
    correct = outcome.predictions == outcome.labels  # (N,)
    edges = np.linspace(0.0, 1.0, ECE_BINS + 1)
    bins = np.digitize(confidence, edges[1:-1], right=True)
    gaps = np.bincount(bins, weights=correct - confidence, minlength=ECE_BINS)  # n_b · (accuracy - confidence)
    return float(np.abs(gaps).sum() / len(confidence))
