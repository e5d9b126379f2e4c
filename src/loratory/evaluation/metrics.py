"""Every metric, declared once: name, unit, direction, meaning, averaging, problems, and the function that computes it.

The table :data:`METRICS` is what heads the columns, says which epoch is best, and fills `quality` in `run.json`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from loratory import units
from loratory.errors import DataError, TrainingError, counted
from loratory.evaluation.quality import AnyQuality, ClassQuality, LabelsQuality, NumberQuality, Quality
from loratory.evaluation.thresholds import decided, sigmoid
from loratory.problems import MULTI, REGRESSION, SINGLE, Problem, Targets, problem_of, spread_of

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
    problems: tuple[Problem, ...] = (SINGLE,)
    """The problems it belongs to."""

    @property
    def in_words(self) -> str:
        """What it is called inside a sentence: accuracy, macro-F1, ECE, Pearson."""
        named = self.title.isupper() or self.name in ("mcc", "pearson", "spearman", "r2")
        return self.title if named else self.title[:1].lower() + self.title[1:]

    def shown(self, value: float | None) -> str:
        """A value as a reader sees it: a share of examples in per cent, any other with three digits after the point."""
        return units.accuracy(value) if "accuracy" in self.name else units.fraction(value)

    def better(self, new: float, old: float) -> bool:
        """Whether `new` is strictly better than `old`."""
        return new > old if self.higher_is_better else new < old


def log_softmax(logits: Logits) -> npt.NDArray[np.float64]:
    """Natural log of the softmax over the last axis, in float64: (N, C) to (N, C)."""
    wide = logits.astype(np.float64)
    shifted = wide - wide.max(axis=-1, keepdims=True)
    normalised: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return normalised


def score(
    labels: Targets,
    logits: Logits | None,
    predictions: Targets | None,
    names: tuple[str, ...],
    *,
    thresholds: npt.NDArray[np.float64] | None = None,
    same_scale: bool = True,
) -> AnyQuality:
    """Judge N predictions among the C classes `names`; the labels' shape and type say which problem it is.

    Args:
        labels: true classes, (N,), each in 0 … C-1; sets of labels, (N, C) of 0 and 1; or numbers, (N,) float.
        logits: (N, C), natural-log scale; None for a method that predicts a label alone (log loss and ECE are None).
            Of a regression the predicted numbers, (N, 1).
        predictions: as `labels`; None takes each row's highest logit (the first of equals), the labels from their
            `thresholds` on, or the numbers.
        names: the C label names, in class order; of a regression the target's.
        thresholds: (C,) of sets of labels: those from which a label is predicted; 0.5 by default.
        same_scale: of a regression: whether the predicted numbers have the targets' scale; errors are None where not.

    Raises:
        DataError: there is nothing to score, a class lies outside `names`, or a name stands twice.
        TrainingError: a logit is NaN or infinite.
        ValueError: shapes that do not fit, or neither logits nor predictions: a mistake of the caller.
    """
    problem = problem_of(labels)
    if predictions is None:
        if logits is None:
            raise ValueError("score() needs logits or predictions")
        if problem == MULTI and thresholds is None:
            thresholds = np.full(len(names), 0.5)
        predictions = predicted(logits, problem, thresholds)
    _check(labels, logits, predictions, names)
    outcome = Outcome(labels, predictions, logits, len(names), same_scale)
    values: dict[str, Any] = {metric.name: metric.function(outcome) for metric in metrics_of(problem).values()}
    if problem == REGRESSION:
        return NumberQuality(values, spread_of(labels), len(labels))
    if problem == MULTI:
        cuts = None if thresholds is None else tuple(map(float, thresholds))
        return LabelsQuality(values, names, _per_class(outcome, names), cuts, len(labels))
    return Quality(**values, labels=names, per_class=_per_class(outcome, names), confusion=_confusion(outcome))


def predicted(logits: Logits, problem: Problem, thresholds: npt.NDArray[np.float64] | None = None) -> Targets:
    """What the logits (..., N, C) predict, in the shape of the problem's labels.

    Args:
        thresholds: (C,) of sets of labels.
    """
    if problem == REGRESSION:
        return logits[..., 0].astype(np.float64)
    if problem == MULTI:
        assert thresholds is not None
        return decided(logits, thresholds)
    highest: Labels = logits.argmax(axis=-1).astype(np.int64)
    return highest


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


def _check(labels: Targets, logits: Logits | None, predictions: Targets, names: tuple[str, ...]) -> None:
    problem = problem_of(labels)
    if labels.shape != predictions.shape or (problem == MULTI and labels.shape[1] != len(names)):
        shape = f"(N, {len(names)})" if problem == MULTI else "(N,)"
        raise ValueError(f"labels {labels.shape} and predictions {predictions.shape} must both be {shape}")
    if logits is not None and logits.shape != (len(labels), len(names)):
        raise ValueError(f"logits {logits.shape} must be ({len(labels)}, {len(names)})")
    if len(labels) == 0:
        raise DataError("no examples to score; check that the split is not empty")
    if len(set(names)) != len(names):
        raise DataError("a label name stands twice; give every class its own name")
    if problem == SINGLE:
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


def _binary_log_loss(outcome: Outcome) -> float | None:
    """Mean of -[y ln σ(z) + (1 - y) ln(1 - σ(z))] over examples and labels."""
    if outcome.logits is None:
        return None
    wide = outcome.logits.astype(np.float64)
    return float((np.logaddexp(0.0, wide) - outcome.labels * wide).mean())


def _hamming_loss(outcome: Outcome) -> float:
    from sklearn.metrics import hamming_loss

    return float(hamming_loss(outcome.labels, outcome.predictions))


def _average_precision(outcome: Outcome) -> float | None:
    from sklearn.metrics import average_precision_score

    there = outcome.labels.any(axis=0)
    if outcome.logits is None or not there.any():
        return None
    probabilities = sigmoid(outcome.logits)
    return float(average_precision_score(outcome.labels[:, there], probabilities[:, there], average="macro"))


def _correlation(name: str) -> Callable[[Outcome], float]:
    def compute(outcome: Outcome) -> float:
        from scipy import stats

        if min(np.ptp(outcome.labels), np.ptp(outcome.predictions)) == 0:
            return 0.0  # undefined: one of the two does not vary
        with warnings.catch_warnings(action="ignore"):  # what hardly varies is known imprecisely
            return float(getattr(stats, name)(outcome.labels, outcome.predictions).statistic)

    return compute


def _error(name: str) -> Callable[[Outcome], float | None]:
    def compute(outcome: Outcome) -> float | None:
        from sklearn import metrics

        if not outcome.same_scale:
            return None
        if name == "r2_score" and np.ptp(outcome.labels) == 0:
            return 0.0  # undefined: there is no variance to explain
        return float(getattr(metrics, name)(outcome.labels, outcome.predictions))

    return compute


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
        "f1_micro",
        "Micro-F1",
        "share",
        True,
        "F1, the harmonic mean of precision and recall, of all pairs of an example and a label",
        "over examples and labels: a frequent label counts more",
        _f1("micro"),
        problems=(MULTI,),
    ),
    Metric(
        "f1_macro",
        "Macro-F1",
        "share",
        True,
        "F1, the harmonic mean of precision and recall, where every class counts the same",
        "plain mean over all classes of the data set; one absent from the split or never predicted counts as 0",
        _f1("macro"),
        problems=(SINGLE, MULTI),
    ),
    Metric(
        "f1_weighted",
        "Weighted F1",
        "share",
        True,
        "F1 where every class counts by its number of examples",
        "mean over classes, weighted by their true examples",
        _f1("weighted"),
        problems=(SINGLE, MULTI),
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
    Metric(
        "subset_accuracy",
        "Subset accuracy",
        "share",
        True,
        "examples whose labels are all predicted, and no other",
        "over examples",
        _accuracy,
        problems=(MULTI,),
    ),
    Metric(
        "hamming_loss",
        "Hamming loss",
        "share",
        False,
        "pairs of an example and a label that are predicted wrongly",
        "over examples and labels",
        _hamming_loss,
        problems=(MULTI,),
    ),
    Metric(
        "average_precision",
        "Average precision",
        "share",
        True,
        "mean precision over the ranks of a label's true examples, by probability: no threshold has a say",
        "plain mean over the labels that the split has",
        _average_precision,
        problems=(MULTI,),
    ),
    Metric(
        "binary_log_loss",
        "Binary log loss",
        "nats",
        False,
        "mean of −ln of the probability given to the truth of each label (sigmoid of the logits, float64)",
        "over examples and labels",
        _binary_log_loss,
        (0.0, math.inf),
        (MULTI,),
    ),
    Metric(
        "pearson",
        "Pearson",
        "correlation",
        True,
        "linear correlation of predicted and true numbers: 1 perfect, 0 none (or undefined), −1 reversed",
        "over examples",
        _correlation("pearsonr"),
        (-1.0, 1.0),
        (REGRESSION,),
    ),
    Metric(
        "spearman",
        "Spearman",
        "correlation",
        True,
        "correlation of the ranks of predicted and true numbers, equal ones sharing theirs; 0 where undefined",
        "over examples",
        _correlation("spearmanr"),
        (-1.0, 1.0),
        (REGRESSION,),
    ),
    Metric(
        "mse",
        "MSE",
        "the target's unit, squared",
        False,
        "mean squared error",
        "over examples",
        _error("mean_squared_error"),
        (0.0, math.inf),
        (REGRESSION,),
    ),
    Metric(
        "rmse",
        "RMSE",
        "the target's unit",
        False,
        "square root of the mean squared error",
        "over examples",
        _error("root_mean_squared_error"),
        (0.0, math.inf),
        (REGRESSION,),
    ),
    Metric(
        "mae",
        "MAE",
        "the target's unit",
        False,
        "mean absolute error",
        "over examples",
        _error("mean_absolute_error"),
        (0.0, math.inf),
        (REGRESSION,),
    ),
    Metric(
        "r2",
        "R²",
        "share",
        True,
        "share of the targets' variance that is explained: 0 for their mean, below where it is worse",
        "over examples",
        _error("r2_score"),
        (-math.inf, 1.0),
        (REGRESSION,),
    ),
)

METRICS: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in _DECLARED})
"""All metrics by name, in the order in which they are shown."""

LEADING: Mapping[Problem, tuple[str, ...]] = MappingProxyType(
    {SINGLE: ("accuracy", "f1_macro"), MULTI: ("f1_micro", "f1_macro"), REGRESSION: ("pearson", "spearman", "rmse")}
)
"""What every table shows of each problem; the first chooses epochs and rates unless another is said."""


def metrics_of(problem: Problem) -> dict[str, Metric]:
    """The metrics of a problem by name."""
    return {name: metric for name, metric in METRICS.items() if problem in metric.problems}
