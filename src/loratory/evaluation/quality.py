"""Quality as a value: the metrics of one split and what is told beside them, a document of its own for each problem."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from loratory.errors import StorageError
from loratory.problems import MULTI, REGRESSION, SINGLE, Problem


@dataclass(frozen=True)
class ClassQuality:
    """One class against all others; `support` is its number of true examples. An undefined share is 0."""

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Quality:
    """How good predicted classes are on one split. What each number means stands in :mod:`loratory.evaluation.metrics`.

    `log_loss` and `ece` are None where a method predicts a label without a probability.
    """

    problem: ClassVar[Problem] = SINGLE

    accuracy: float
    f1_macro: float
    f1_weighted: float
    mcc: float
    log_loss: float | None
    ece: float | None
    labels: tuple[str, ...]
    """Label names in class order: the order of the confusion matrix."""
    per_class: Mapping[str, ClassQuality]
    """By label name."""
    confusion: tuple[tuple[int, ...], ...]
    """(C, C) counts: rows are true classes, columns predicted ones."""

    @property
    def examples(self) -> int:
        """How many were scored."""
        return sum(map(sum, self.confusion))

    def value(self, metric: str) -> float | None:
        """The number of the metric called `metric`, a key of METRICS; None for one of another problem."""
        number: float | None = getattr(self, metric, None)
        return number

    def record(self) -> dict[str, Any]:
        """As it stands under `quality` in `run.json`: plain numbers, strings, lists and dictionaries.

        `labels` gives the order of the confusion matrix, so that a writer that sorts keys changes nothing.
        """
        return {
            "accuracy": self.accuracy,
            "f1_macro": self.f1_macro,
            "f1_weighted": self.f1_weighted,
            "mcc": self.mcc,
            "log_loss": self.log_loss,
            "ece": self.ece,
            "labels": list(self.labels),
            "per_class": {name: asdict(quality) for name, quality in self.per_class.items()},
            "confusion": [list(row) for row in self.confusion],
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Quality:
        """Back from :meth:`record`.

        Raises:
            StorageError: a key is missing or a value is not of its kind.
        """
        try:
            labels = tuple(str(name) for name in record["labels"])
            rows = {name: record["per_class"][name] for name in labels}
            found = cls(
                accuracy=float(record["accuracy"]),
                f1_macro=float(record["f1_macro"]),
                f1_weighted=float(record["f1_weighted"]),
                mcc=float(record["mcc"]),
                log_loss=_optional(record["log_loss"]),
                ece=_optional(record["ece"]),
                labels=labels,
                per_class={name: _class(row) for name, row in rows.items()},
                confusion=tuple(tuple(int(count) for count in row) for row in record["confusion"]),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise StorageError(f"the record's quality is damaged ({type(error).__name__}: {error})") from None
        if {len(found.confusion), *map(len, found.confusion)} != {len(labels)}:
            raise StorageError(f"the record's confusion matrix is not {len(labels)} x {len(labels)}")
        return found


@dataclass(frozen=True)
class LabelsQuality:
    """How good predicted sets of labels are on one split.

    Attributes:
        values: every metric of the problem by its name; None where sets were predicted without probabilities.
        labels: the C label names in order.
        per_label: each label against its absence, by its name.
        thresholds: (C,) a label is predicted from this probability on; None where there were no probabilities.
        examples: how many were scored.
    """

    problem: ClassVar[Problem] = MULTI

    values: Mapping[str, float | None]
    labels: tuple[str, ...]
    per_label: Mapping[str, ClassQuality]
    thresholds: tuple[float, ...] | None
    examples: int

    def value(self, metric: str) -> float | None:
        """The number of the metric called `metric`, a key of METRICS; None for one of another problem."""
        return self.values.get(metric)

    def record(self) -> dict[str, Any]:
        """As it stands under `quality` in `run.json`."""
        return {
            **self.values,
            "labels": list(self.labels),
            "per_label": {name: asdict(quality) for name, quality in self.per_label.items()},
            "thresholds": None if self.thresholds is None else list(self.thresholds),
            "examples": self.examples,
        }


@dataclass(frozen=True)
class NumberQuality:
    """How good predicted numbers are on one split.

    Attributes:
        values: every metric of the problem by its name; None where numbers have another scale than the targets.
        target: mean, standard deviation, smallest and largest of the true numbers, beside which errors are to be read.
        examples: how many were scored.
    """

    problem: ClassVar[Problem] = REGRESSION

    values: Mapping[str, float | None]
    target: Mapping[str, float]
    examples: int

    def value(self, metric: str) -> float | None:
        """The number of the metric called `metric`, a key of METRICS; None for one of another problem."""
        return self.values.get(metric)

    def record(self) -> dict[str, Any]:
        """As it stands under `quality` in `run.json`."""
        return {**self.values, "target": dict(self.target), "examples": self.examples}


AnyQuality = Quality | LabelsQuality | NumberQuality


def read_quality(record: Mapping[str, Any]) -> AnyQuality:
    """The quality that `record()` of one of the three wrote.

    Raises:
        StorageError: a key is missing or a value is not of its kind.
    """
    if "per_label" not in record and "target" not in record:
        return Quality.from_record(record)
    beside = {"labels", "per_label", "thresholds", "target", "examples"}
    try:
        values = {str(name): _optional(value) for name, value in record.items() if name not in beside}
        if "target" in record:
            target = {str(name): float(value) for name, value in record["target"].items()}
            return NumberQuality(values, target, int(record["examples"]))
        labels, cuts = tuple(str(name) for name in record["labels"]), record["thresholds"]
        return LabelsQuality(
            values=values,
            labels=labels,
            per_label={name: _class(record["per_label"][name]) for name in labels},
            thresholds=None if cuts is None else tuple(float(cut) for cut in cuts),
            examples=int(record["examples"]),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StorageError(f"the record's quality is damaged ({type(error).__name__}: {error})") from None


def _class(row: Mapping[str, Any]) -> ClassQuality:
    return ClassQuality(float(row["precision"]), float(row["recall"]), float(row["f1"]), int(row["support"]))


def _optional(value: Any) -> float | None:
    return None if value is None else float(value)
