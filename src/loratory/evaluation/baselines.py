"""What every fine-tuning has to beat, on the same test split, by the problem:

single labels   majority class, VADER, TF-IDF + logistic regression
several labels  the commonest label set, TF-IDF + logistic regression for each label
numbers         the training mean, VADER's compound score where they are ratings, TF-IDF + ridge regression
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from loratory.data.columns import Text, are_pairs
from loratory.evaluation.measures import Labels
from loratory.evaluation.metrics import predicted, quality_over_folds, score
from loratory.evaluation.quality import AnyQuality
from loratory.evaluation.tfidf import Vectors
from loratory.evaluation.thresholds import chosen_thresholds, decided
from loratory.problems import MULTI, REGRESSION, SINGLE, Problem, Targets, problem_of

if TYPE_CHECKING:
    from loratory.data.splits import Dataset

VADER_NEUTRAL = 0.05
"""Compound scores within ± this are neutral (Hutto & Gilbert, ICWSM 2014, and the VADER package's own README)."""

C_GRID = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Inverse regularisation strengths of the logistic regression; the best on validation accuracy is kept."""

ALPHA_GRID = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Regularisation strengths of the ridge regression; the best on validation's squared error is kept."""


@dataclass(frozen=True, eq=False)
class Said:
    """What a baseline said of N test examples, as :func:`loratory.evaluation.metrics.score` has it."""

    labels: Targets
    predictions: Targets
    logits: npt.NDArray[np.float64] | None
    names: tuple[str, ...]
    same_scale: bool

    @classmethod
    def of(cls, answer: _Answer, dataset: Dataset) -> Said:
        """What `answer` says of the test split of `dataset`."""
        labels, predictions = dataset.test.labels, answer.predictions
        if predictions is None:
            assert answer.logits is not None
            predictions = predicted(answer.logits, problem_of(labels), answer.thresholds)
        return cls(labels, predictions, answer.logits, _names(dataset), answer.same_scale)

    def quality(self, thresholds: npt.NDArray[np.float64] | None) -> AnyQuality:
        """How good it is."""
        return score(
            self.labels,
            self.logits,
            self.predictions,
            self.names,
            thresholds=thresholds,
            same_scale=self.same_scale,
        )


@dataclass(frozen=True)
class Baseline:
    """One baseline's result on the test split, or the reason why it was left out."""

    name: str
    quality: AnyQuality | None
    seconds: float
    """Wall-clock of fitting, choosing and predicting, in seconds."""
    parameters: int
    """Numbers learned from the training split."""
    settings: Mapping[str, Any]
    reason: str | None = None
    """Why it was left out; None where `quality` is there."""
    said: Said | None = field(default=None, compare=False, repr=False)

    def record(self) -> dict[str, Any]:
        """Plain numbers, strings and dictionaries, for JSON."""
        return {
            "name": self.name,
            "quality": None if self.quality is None else self.quality.record(),
            "seconds": self.seconds,
            "parameters": self.parameters,
            "settings": dict(self.settings),
            "reason": self.reason,
        }


@dataclass(frozen=True)
class _Answer:
    """What a baseline says of the test split: labels as the data has them or logits (N, C), or why nothing."""

    predictions: Targets | None = None
    logits: npt.NDArray[np.float64] | None = None
    thresholds: npt.NDArray[np.float64] | None = None
    same_scale: bool = True
    """Of a regression: whether its numbers have the targets' scale."""
    parameters: int = 0
    settings: Mapping[str, Any] | None = None
    reason: str | None = None


def baselines(dataset: Dataset) -> list[Baseline]:
    """Fit every baseline on `dataset.train` and judge it on `dataset.test`, in the order in which they are shown.

    Raises:
        DataError: a split is empty.
    """
    return [_judge(name, answer, dataset) for name, answer in _OF[problem_of(dataset.train.labels)].items()]


def _judge(name: str, answer: Callable[[Dataset], _Answer], dataset: Dataset) -> Baseline:
    start = time.perf_counter()
    found = answer(dataset)
    seconds = time.perf_counter() - start
    said = quality = None
    if found.reason is None:
        said = Said.of(found, dataset)
        quality = said.quality(found.thresholds)
    return Baseline(name, quality, seconds, found.parameters, found.settings or {}, found.reason, said)


def together(folds: Sequence[Baseline]) -> AnyQuality | None:
    """How good one baseline is over the tests of all folds (:func:`quality_over_folds`); None where one left it out."""
    known = [one.said for one in folds if one.said is not None]
    if len(known) < len(folds):
        return None
    if len(known) == 1:
        return folds[0].quality
    logits = [one.logits for one in known if one.logits is not None]
    whole = Said(
        np.concatenate([one.labels for one in known]),
        np.concatenate([one.predictions for one in known]),
        np.concatenate(logits) if len(logits) == len(known) else None,
        known[0].names,
        known[0].same_scale,
    ).quality(None)
    return quality_over_folds(whole, [one.quality for one in folds if one.quality is not None])


def _names(dataset: Dataset) -> tuple[str, ...]:
    return tuple(str(label) for label in dataset.labels)


def majority_class(labels: Labels) -> int:
    """The commonest class among `labels` (N,), the lowest of equals."""
    return int(np.bincount(labels).argmax()) if len(labels) else 0


def _majority(dataset: Dataset) -> _Answer:
    chosen = majority_class(dataset.train.labels)
    predictions = np.full(len(dataset.test.labels), chosen, dtype=np.int64)
    return _Answer(predictions=predictions, settings={"class": _names(dataset)[chosen]})


def _vader(dataset: Dataset) -> _Answer:
    """VADER's compound score in [-1, 1], a rule-based score for English that learns nothing from our training split.

    Two classes (negative, positive): the score's sign; a score of exactly 0, no word of the lexicon found, is given
    the training split's majority class. Three (negative, neutral, positive): above 0.05, below -0.05, or between,
    where the thresholds themselves belong to the outer classes, as the authors say.
    """
    if are_pairs(dataset.test.texts):
        return _Answer(reason="it scores a text, and these are pairs of texts")
    classes = {name.strip().casefold(): number for number, name in enumerate(_names(dataset))}
    known = ({"negative", "positive"}, {"negative", "neutral", "positive"})
    if len(classes) < len(dataset.labels) or set(classes) not in known:
        return _Answer(reason="its answers are negative, (neutral,) positive; the labels here are others")
    compound = _compounds(dataset.test.texts)
    settings: dict[str, Any]
    if "neutral" in classes:
        positive, negative = compound >= VADER_NEUTRAL, compound <= -VADER_NEUTRAL
        otherwise, settings = classes["neutral"], {"neutral_band": VADER_NEUTRAL}
    else:
        positive, negative = compound > 0, compound < 0
        otherwise = majority_class(dataset.train.labels)
        settings = {"ties": _names(dataset)[otherwise]}
    predictions = np.select([positive, negative], [classes["positive"], classes["negative"]], otherwise)
    return _Answer(predictions=predictions.astype(np.int64), settings=settings)


def _commonest_set(dataset: Dataset) -> _Answer:
    """The commonest set of labels of the training split that is not empty, for every text."""
    sets, counts = np.unique(dataset.train.labels, axis=0, return_counts=True)
    chosen = sets[np.where(sets.any(axis=1), counts, 0).argmax()]
    names = [name for name, there in zip(_names(dataset), chosen, strict=True) if there]
    predictions = np.tile(chosen, (len(dataset.test.texts), 1))
    return _Answer(predictions=predictions, settings={"labels": names})


def _mean(dataset: Dataset) -> _Answer:
    """The mean of the training numbers, for every text: no correlation."""
    mean = float(dataset.train.labels.mean())
    return _Answer(predictions=np.full(len(dataset.test.texts), mean), parameters=1, settings={"mean": mean})


def _compound(dataset: Dataset) -> _Answer:
    """VADER's compound score in [-1, 1] beside ratings of sentiment: it learns nothing, so no scale, and correlates."""
    if not dataset.name.startswith("hutto:"):
        return _Answer(reason="it scores sentiment; whether the numbers here do is not known")
    return _Answer(predictions=_compounds(dataset.test.texts), same_scale=False, settings={"score": "compound"})


def _compounds(texts: Iterable[Text]) -> npt.NDArray[np.float64]:
    """(N,) VADER's compound scores of single texts."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyzer = SentimentIntensityAnalyzer()
    return np.fromiter((analyzer.polarity_scores(text)["compound"] for text in texts), dtype=np.float64)


def _tfidf(dataset: Dataset) -> _Answer:
    """TF-IDF, then L2 logistic regression; C is chosen on validation accuracy."""
    if len(np.unique(dataset.train.labels)) < 2:
        return _Answer(reason="the training split holds one class only")
    vectors = Vectors.of(dataset)
    if isinstance(vectors, str):
        return _Answer(reason=vectors)
    with _one_thread():
        model = _best_regression(vectors.train, vectors.validation, dataset)
        decision = model.decision_function(vectors.test)
    answer = _Answer(
        parameters=model.coef_.size + model.intercept_.size,
        settings={
            **vectors.settings,
            "C": model.C,
            "C_grid": list(C_GRID),
            "chosen_on": "validation accuracy",
            "seed": 0,
        },
    )
    # two classes: (N,), the log odds of the second
    logits = decision if decision.ndim == 2 else np.stack([np.zeros_like(decision), decision], axis=1)
    if len(model.classes_) < len(dataset.labels):  # a class never seen has no logit to give
        return replace(answer, predictions=model.classes_[logits.argmax(axis=1)].astype(np.int64))
    return replace(answer, logits=logits)


def _best_regression(train: Any, validation: Any, dataset: Dataset) -> Any:
    """The logistic regression of C_GRID that is best on validation; of equals, the more regularised."""
    models = [_logistic(strength).fit(train, dataset.train.labels) for strength in C_GRID]
    correct = [int((model.predict(validation) == dataset.validation.labels).sum()) for model in models]
    return models[int(np.argmax(correct))]


def _logistic(strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, tol=1e-6, max_iter=1000, random_state=0)


def _tfidf_labels(dataset: Dataset) -> _Answer:
    """TF-IDF, then L2 logistic regressions, one for each label; C, one for all, and thresholds as those of a model are
    chosen on validation's micro-F1."""
    from sklearn.metrics import f1_score
    from sklearn.multiclass import OneVsRestClassifier

    vectors = Vectors.of(dataset)
    if isinstance(vectors, str):
        return _Answer(reason=vectors)
    truth, tried = dataset.validation.labels, []
    with _one_thread(), warnings.catch_warnings(action="ignore"):  # of a label that all training texts have, or none
        for strength in C_GRID:
            model = OneVsRestClassifier(_logistic(strength)).fit(vectors.train, dataset.train.labels)
            logits = model.decision_function(vectors.validation)
            cuts = chosen_thresholds(truth, logits)
            found = float(f1_score(truth, decided(logits, cuts), average="micro", zero_division=0))
            tried.append((found, strength, model, cuts))
        _, strength, model, cuts = max(tried, key=lambda one: (one[0], -one[1]))
        logits = model.decision_function(vectors.test)
    return _Answer(
        logits=logits,
        thresholds=cuts,
        parameters=sum(one.coef_.size + one.intercept_.size for one in model.estimators_ if hasattr(one, "coef_")),
        settings={
            **vectors.settings,
            "C": strength,
            "C_grid": list(C_GRID),
            "chosen_on": "validation micro-F1",
            "seed": 0,
        },
    )


def _ridge(dataset: Dataset) -> _Answer:
    """TF-IDF, then ridge regression; alpha is chosen on validation's squared error."""
    from sklearn.linear_model import Ridge

    vectors = Vectors.of(dataset)
    if isinstance(vectors, str):
        return _Answer(reason=vectors)
    with _one_thread():
        models = [Ridge(alpha=alpha, tol=1e-6).fit(vectors.train, dataset.train.labels) for alpha in ALPHA_GRID]
        errors = [
            float(np.square(model.predict(vectors.validation) - dataset.validation.labels).mean()) for model in models
        ]
        model = min(zip(errors, models, strict=True), key=lambda one: (one[0], -one[1].alpha))[1]
        numbers = model.predict(vectors.test)
    return _Answer(
        predictions=numbers,
        parameters=model.coef_.size + 1,
        settings={
            **vectors.settings,
            "alpha": model.alpha,
            "alpha_grid": list(ALPHA_GRID),
            "chosen_on": "validation squared error",
        },
    )


def _one_thread() -> AbstractContextManager[Any]:
    """One thread: vectors this small lose up to a hundredfold to threads that wait for each other on a busy machine."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships no types

    limits: AbstractContextManager[Any] = threadpool_limits(1)
    return limits


_OF: Mapping[Problem, Mapping[str, Callable[[Dataset], _Answer]]] = {
    SINGLE: {"majority class": _majority, "VADER": _vader, "TF-IDF + logistic regression": _tfidf},
    MULTI: {"commonest label set": _commonest_set, "TF-IDF + logistic regression": _tfidf_labels},
    REGRESSION: {"training mean": _mean, "VADER": _compound, "TF-IDF + ridge regression": _ridge},
}
"""The baselines of each problem, in the order in which they are shown."""
