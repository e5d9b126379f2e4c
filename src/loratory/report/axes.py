"""The axes of the charts: which numbers, in which unit, on which scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from loratory import units
from loratory.evaluation.metrics import METRICS
from loratory.study.measured import Spread

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


def metric_words(metric: str) -> str:
    """What the metric is called inside a sentence: accuracy, macro-F1, ECE."""
    return METRICS[metric].in_words if metric in METRICS else metric_title(metric)


def show_metric(metric: str) -> Callable[[float | None], str]:
    """A value of the metric as a reader sees it."""
    return METRICS[metric].shown if metric in METRICS else units.fraction


def within(metric: str, value: float | None) -> float | None:
    """The end of an interval as far as the metric's scale goes: Student's t does not know that it ends."""
    low, high = METRICS[metric].ends if metric in METRICS else (-math.inf, math.inf)
    return None if value is None else min(max(value, low), high)


def on_scale(metric: str, spread: Spread) -> Spread:
    """A mean whose interval stays on the metric's scale."""
    return replace(spread, low=within(metric, spread.low), high=within(metric, spread.high))


def digits(ends: tuple[float, float], ticks: int) -> int:
    """Digits after the point that tell about `ticks` ticks between these ends apart.

    Vega's steps are 1, 2 or 5 times a power of ten, and no smaller than the one below (end - end) / ticks.
    """
    step = (ends[1] - ends[0]) / ticks
    return max(0, -math.floor(math.log10(step))) if step > 0 else 0


def number_format(ends: tuple[float, float], ticks: int) -> str:
    """Vega's format of a linear axis of numbers."""
    return f",.{digits(ends, ticks)}f"


def metric_format(metric: str, ends: tuple[float, float], ticks: int) -> str:
    """Vega's format of a linear axis of the metric."""
    if "accuracy" in metric:
        return f".{digits((100 * ends[0], 100 * ends[1]), ticks)}%"
    return f".{max(2, digits(ends, ticks))}f"
