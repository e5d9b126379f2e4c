"""Every metric, declared once: name, unit, direction, meaning, averaging, problems, and the function that computes it.

The table :data:`METRICS` is what heads the columns, says which epoch is best, and fills `quality` in `run.json`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from loratory import units
from loratory.errors import DataError, TrainingError, counted
from loratory.evaluation import measures
from loratory.evaluation.measures import ECE_BINS, Labels, Logits, Outcome
from loratory.evaluation.quality import AnyQuality, ClassQuality, LabelsQuality, NumberQuality, Quality
from loratory.evaluation.thresholds import decided
from loratory.problems import MULTI, REGRESSION, SINGLE, Problem, Targets, problem_of, spread_of


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
    of_one_model: bool = False
    """Whether it holds outputs of different examples against each other, which means something within one model only:
    over folds it is the mean of the folds' values. All others are of all examples together (Forman & Scholz 2010,
    "Apples-to-apples in cross-validation studies", SIGKDD Explorations 12(1):49-57)."""

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


def quality_over_folds(together: AnyQuality, folds: Sequence[AnyQuality]) -> AnyQuality:
    """How good one approach is over K folds: of all examples together, metrics of one model by their mean over folds.

    Args:
        together: the K folds' predictions, scored as one.
        folds: each fold's own.
    """
    if isinstance(together, Quality):
        return together
    own = (name for name in together.values if METRICS[name].of_one_model)
    means = {name: _mean([fold.value(name) for fold in folds]) for name in own}
    return replace(together, values={**together.values, **means})


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


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


def _per_class(outcome: Outcome, names: tuple[str, ...]) -> dict[str, ClassQuality]:
    rows = zip(names, *outcome.per_class, strict=True)
    return {name: ClassQuality(float(p), float(r), float(f), int(support)) for name, p, r, f, support in rows}


def _confusion(outcome: Outcome) -> tuple[tuple[int, ...], ...]:
    from sklearn.metrics import confusion_matrix

    matrix = confusion_matrix(outcome.labels, outcome.predictions, labels=list(range(outcome.classes)))
    return tuple(tuple(int(count) for count in row) for row in matrix)


_DECLARED = (
    Metric(
        "accuracy", "Accuracy", "share", True, "examples whose label is predicted", "over examples", measures.accuracy
    ),
    Metric(
        "f1_micro",
        "Micro-F1",
        "share",
        True,
        "F1, the harmonic mean of precision and recall, of all pairs of an example and a label",
        "over examples and labels: a frequent label counts more",
        measures.f1_micro,
        problems=(MULTI,),
    ),
    Metric(
        "f1_macro",
        "Macro-F1",
        "share",
        True,
        "F1, the harmonic mean of precision and recall, where every class counts the same",
        "plain mean over all classes of the data set; one absent from the split or never predicted counts as 0",
        measures.f1_macro,
        problems=(SINGLE, MULTI),
    ),
    Metric(
        "f1_weighted",
        "Weighted F1",
        "share",
        True,
        "F1 where every class counts by its number of examples",
        "mean over classes, weighted by their true examples",
        measures.f1_weighted,
        problems=(SINGLE, MULTI),
    ),
    Metric(
        "mcc",
        "Matthews",
        "correlation",
        True,
        "Matthews correlation: 1 perfect, 0 chance (or undefined: all one class), −1 always wrong",
        "one number over all classes",
        measures.mcc,
        (-1.0, 1.0),
    ),
    Metric(
        "log_loss",
        "Log loss",
        "nats",
        False,
        "mean of −ln of the probability given to the true class (softmax of the logits, float64)",
        "over examples",
        measures.log_loss,
        (0.0, math.inf),
    ),
    Metric(
        "ece",
        "ECE",
        "share",
        False,
        f"expected calibration error: gap between confidence and accuracy, {ECE_BINS} equal bins (arXiv:1706.04599)",
        "over bins of the top label's probability, weighted by their examples",
        measures.ece,
    ),
    Metric(
        "subset_accuracy",
        "Subset accuracy",
        "share",
        True,
        "examples whose labels are all predicted, and no other",
        "over examples",
        measures.accuracy,
        problems=(MULTI,),
    ),
    Metric(
        "hamming_loss",
        "Hamming loss",
        "share",
        False,
        "pairs of an example and a label that are predicted wrongly",
        "over examples and labels",
        measures.hamming_loss,
        problems=(MULTI,),
    ),
    Metric(
        "average_precision",
        "Average precision",
        "share",
        True,
        "mean precision over the ranks of a label's true examples, by probability: no threshold has a say",
        "plain mean over the labels that the split has",
        measures.average_precision,
        problems=(MULTI,),
        of_one_model=True,
    ),
    Metric(
        "binary_log_loss",
        "Binary log loss",
        "nats",
        False,
        "mean of −ln of the probability given to the truth of each label (sigmoid of the logits, float64)",
        "over examples and labels",
        measures.binary_log_loss,
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
        measures.correlation("pearsonr"),
        (-1.0, 1.0),
        (REGRESSION,),
        of_one_model=True,
    ),
    Metric(
        "spearman",
        "Spearman",
        "correlation",
        True,
        "correlation of the ranks of predicted and true numbers, equal ones sharing theirs; 0 where undefined",
        "over examples",
        measures.correlation("spearmanr"),
        (-1.0, 1.0),
        (REGRESSION,),
        of_one_model=True,
    ),
    Metric(
        "mse",
        "MSE",
        "the target's unit, squared",
        False,
        "mean squared error",
        "over examples",
        measures.error("mean_squared_error"),
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
        measures.error("root_mean_squared_error"),
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
        measures.error("mean_absolute_error"),
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
        measures.error("r2_score"),
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
