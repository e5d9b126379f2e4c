"""From which probability on a label is predicted: chosen on validation, and never on the test split.

Each label has a threshold of its own, which has the best F1 of that label there (Lipton, Elkan & Naryanaswamy 2014,
arXiv:1402.1892: thresholds for F1 are chosen, 0.5 is not the best). A rare label's few examples say little: it takes
the one threshold that has the best micro-F1 over all labels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

OWN_FROM = 10
"""Validation examples that a label must have for a threshold of its own."""


def sigmoid(logits: npt.NDArray[np.floating[Any]]) -> Array:
    """Probabilities in float64, of any shape."""
    from scipy.special import expit

    probabilities: Array = expit(logits.astype(np.float64))
    return probabilities


def decided(logits: npt.NDArray[np.floating[Any]], thresholds: Array) -> npt.NDArray[np.int64]:
    """The labels (..., C), 0 or 1, that logits (..., C) predict with the thresholds (C,)."""
    return (sigmoid(logits) >= thresholds).astype(np.int64)


def chosen_thresholds(labels: npt.NDArray[np.int64], logits: npt.NDArray[np.floating[Any]]) -> Array:
    """The thresholds (C,) for labels (N, C) of 0 and 1 and their logits (N, C)."""
    probabilities = sigmoid(logits)
    shared = best_threshold(labels.ravel(), probabilities.ravel())
    return np.array(
        [
            best_threshold(truth, found) if truth.sum() >= OWN_FROM else shared
            for truth, found in zip(labels.T, probabilities.T, strict=True)
        ]
    )


def best_threshold(truth: npt.NDArray[np.int64], probabilities: Array) -> float:
    """The threshold with the best F1 of M cases, `truth` being 0 or 1: of equal ones the nearest to 0.5, and half-way
    between two probabilities, so that no rounding has a say. 0.5 where nothing is true.
    """
    from sklearn.metrics import precision_recall_curve

    if not truth.any():
        return 0.5
    precision, recall, cuts = precision_recall_curve(truth, probabilities)
    both = precision + recall
    f1 = np.divide(2 * precision * recall, both, out=np.zeros_like(both), where=both > 0)[:-1]  # the last has no cut
    middles = (cuts + np.concatenate([[0.0], cuts[:-1]])) / 2
    best = middles[f1 == f1.max()]
    return float(best[np.abs(best - 0.5).argmin()])
