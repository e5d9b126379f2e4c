"""What every fine-tuning has to beat, on the same test split: majority class, VADER, TF-IDF + logistic regression."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from loratory.evaluation.metrics import Labels, score
from loratory.evaluation.quality import AnyQuality

if TYPE_CHECKING:
    from loratory.data.splits import Dataset

VADER_NEUTRAL = 0.05
"""Compound scores within ± this are neutral (Hutto & Gilbert, ICWSM 2014, and the VADER package's own README)."""

C_GRID = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Inverse regularisation strengths of the logistic regression; the best on validation accuracy is kept."""

RARE_FROM = 1000
"""From this many training texts on, a term seen in one text only is dropped (min_df 2); below, every term counts."""


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
    """What a baseline says of the test split: classes (N,) or logits (N, C), or why it cannot say anything."""

    predictions: Labels | None = None
    logits: npt.NDArray[np.float64] | None = None
    parameters: int = 0
    settings: Mapping[str, Any] | None = None
    reason: str | None = None


def baselines(dataset: Dataset) -> list[Baseline]:
    """Fit every baseline on `dataset.train` and judge it on `dataset.test`, in the order in which they are shown.

    Raises:
        DataError: a split is empty.
    """
    answers: tuple[tuple[str, Callable[[Dataset], _Answer]], ...] = (
        ("majority class", _majority),
        ("VADER", _vader),
        ("TF-IDF + logistic regression", _tfidf),
    )
    return [_judge(name, answer, dataset) for name, answer in answers]


def _judge(name: str, answer: Callable[[Dataset], _Answer], dataset: Dataset) -> Baseline:
    start = time.perf_counter()
    found = answer(dataset)
    seconds = time.perf_counter() - start
    quality = None
    if found.reason is None:
        quality = score(dataset.test.labels, found.logits, found.predictions, _names(dataset))
    return Baseline(name, quality, seconds, found.parameters, found.settings or {}, found.reason)


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
    classes = {name.strip().casefold(): number for number, name in enumerate(_names(dataset))}
    known = ({"negative", "positive"}, {"negative", "neutral", "positive"})
    if len(classes) < len(dataset.labels) or set(classes) not in known:
        return _Answer(reason="its answers are negative, (neutral,) positive; the labels here are others")
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyzer = SentimentIntensityAnalyzer()
    compound = np.array([analyzer.polarity_scores(text)["compound"] for text in dataset.test.texts])  # (N,)
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


def _tfidf(dataset: Dataset) -> _Answer:
    """Words and word pairs by sublinear TF-IDF, then L2 logistic regression; C is chosen on validation accuracy."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships no types

    if len(np.unique(dataset.train.labels)) < 2:
        return _Answer(reason="the training split holds one class only")
    min_df = 2 if len(dataset.train.texts) >= RARE_FROM else 1
    # one-letter words ("I") are kept: scikit-learn's own pattern drops them
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=min_df, token_pattern=r"\w+")
    try:
        train = vectorizer.fit_transform(dataset.train.texts)
    except ValueError:
        return _Answer(reason="the training texts hold no words it could count")
    # one thread: vectors this small lose up to a hundredfold to threads that wait for each other on a busy machine
    with threadpool_limits(1):
        model = _best_regression(train, vectorizer.transform(dataset.validation.texts), dataset)
        decision = model.decision_function(vectorizer.transform(dataset.test.texts))
    answer = _Answer(
        parameters=model.coef_.size + model.intercept_.size,
        settings={
            "ngrams": [1, 2],
            "sublinear_tf": True,
            "min_df": min_df,
            "terms": train.shape[1],
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
    from sklearn.linear_model import LogisticRegression

    models = [
        LogisticRegression(C=strength, tol=1e-6, max_iter=1000, random_state=0).fit(train, dataset.train.labels)
        for strength in C_GRID
    ]
    correct = [int((model.predict(validation) == dataset.validation.labels).sum()) for model in models]
    return models[int(np.argmax(correct))]
