"""The axes of the charts: which numbers, in which unit, on which scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loratory import units
from loratory.evaluation.metrics import METRICS

COSTS = {
    "trainable": "Trainable parameters",
    "train_seconds": "Training time",
    "total_seconds": "Total time",
    "peak_memory_bytes": "Peak memory",
    "checkpoint_bytes": "Bytes on disk",
}
"""What quality is set against, in the order in which it is offered."""

LOG_FROM = 8
"""A scale is logarithmic where the largest number is so many times the smallest."""


@dataclass(frozen=True)
class Unit:
    """What an axis counts in: numbers are divided by `size`."""

    name: str
    size: float
    show: Callable[[float | None], str]

    def title(self, what: str) -> str:
        """The axis's title."""
        return f"{what} ({self.name})" if self.name else what


def unit_of(key: str, values: Sequence[float]) -> Unit:
    """The unit in which `values` of the cost `key` read well."""
    most = max(values, default=0.0)
    if key.endswith("_seconds"):
        name, size = ("h", 3600) if most >= 3 * 3600 else ("min", 60) if most >= 300 else ("s", 1)
        return Unit(name, size, units.duration)
    if key.endswith("_bytes"):
        name, size = ("GiB", 2**30) if most >= 2**30 else ("MiB", 2**20)
        return Unit(name, size, units.memory)
    return Unit("", 1, units.count)


def is_log(values: Sequence[float]) -> bool:
    """Whether a logarithmic scale suits them."""
    return bool(values) and min(values) > 0 and max(values) / min(values) >= LOG_FROM


def bounds(values: Sequence[float], *, beyond: float = 0.08) -> tuple[float, float]:
    """The ends of a linear scale that shows all `values`, with a share of its length beyond them."""
    low, high = min(values), max(values)
    room = (high - low or abs(high) * 0.1 or 1.0) * beyond
    return low - room, high + room


def log_bounds(values: Sequence[float], *, beyond: float = 0.08) -> tuple[float, float]:
    """The same for a logarithmic scale; all positive."""
    low, high = bounds([math.log(value) for value in values], beyond=beyond)
    return math.exp(low), math.exp(high)


def position(value: float, ends: tuple[float, float], *, log: bool = False) -> float:
    """Where `value` stands between the ends of a scale, from 0 to 1."""
    if log:
        value, ends = math.log(value), (math.log(ends[0]), math.log(ends[1]))
    return (value - ends[0]) / (ends[1] - ends[0])


def metric_title(metric: str) -> str:
    """What the metric is called."""
    return METRICS[metric].title if metric in METRICS else metric.replace("_", " ")


def show_metric(metric: str) -> Callable[[float | None], str]:
    """A value of the metric as a reader sees it."""
    return units.accuracy if metric == "accuracy" else units.fraction


def metric_format(metric: str, values: Sequence[float]) -> str:
    """Vega's format of an axis with these values: as many digits as they need."""
    spread = max(values, default=1.0) - min(values, default=0.0)
    if metric == "accuracy":
        return ".0%" if spread > 0.03 else ".1%"
    return ".2f" if spread > 0.03 else ".3f"
