"""Quality as a value: the metrics of one split, each class's own, and the confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from loratory.errors import StorageError


@dataclass(frozen=True)
class ClassQuality:
    """One class against all others; `support` is its number of true examples. An undefined share is 0."""

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Quality:
    """How good the predictions on one split are. What each number means stands in :mod:`loratory.evaluation.metrics`.

    `log_loss` and `ece` are None where a method predicts a label without a probability.
    """

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
        """The number of the metric called `metric`, a key of METRICS."""
        number: float | None = getattr(self, metric)
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
                per_class={
                    name: ClassQuality(
                        float(row["precision"]), float(row["recall"]), float(row["f1"]), int(row["support"])
                    )
                    for name, row in rows.items()
                },
                confusion=tuple(tuple(int(count) for count in row) for row in record["confusion"]),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise StorageError(f"the record's quality is damaged ({type(error).__name__}: {error})") from None
        if {len(found.confusion), *map(len, found.confusion)} != {len(labels)}:
            raise StorageError(f"the record's confusion matrix is not {len(labels)} x {len(labels)}")
        return found


def _optional(value: Any) -> float | None:
    return None if value is None else float(value)
