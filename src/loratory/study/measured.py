"""A number over a cell's runs: a metric with its spread, a cost with its median, and which costs are told apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

RESOLUTION = 0.15
"""Of peak memory on a CPU, the process's resident set: the share of the larger below which two are about the same. It
is the bound against which `benchmarks/estimate.py` holds the same steps, measured in two ways, there."""


@dataclass(frozen=True)
class Spread:
    """A metric over the seeds of a cell, or over its folds; `sd` is None below two, `low` and `high` below three."""

    mean: float
    sd: float | None
    low: float | None
    """The 95% interval of the mean over seeds (Student's t): it knows the seeds' chance, not the examples'. Over folds
    that of :func:`loratory.study.statistics.over_folds`."""
    high: float | None
    values: tuple[float, ...]
    """In the order of the cell's `seeds`; of folds the mean over seeds of each, in their order."""


@dataclass(frozen=True)
class Cost:
    """A cost over the runs of a cell: median, smallest and largest."""

    median: float
    low: float
    high: float
    values: tuple[float, ...]
    """In the order of the cell's `runs`."""
    kind: Literal["allocated", "resident"] | None = None
    """Of peak memory: allocated on the GPU, or the process's resident set."""

    @property
    def has_middle(self) -> bool:
        """Whether the median is a run's own; of an even number of runs it lies between two."""
        return len(self.values) % 2 == 1

    @property
    def middle(self) -> int:
        """The place in `values` of the median run; of two in the middle the smaller."""
        return sorted(range(len(self.values)), key=self.values.__getitem__)[(len(self.values) - 1) // 2]


def resolution(kind: str | None) -> float:
    """The share below which two peaks of memory of this kind are about the same: 0 where a GPU's allocator counts."""
    return RESOLUTION if kind == "resident" else 0.0


def about_the_same(one: float, other: float, share: float) -> bool:
    """Whether two costs differ by less than this share of the larger."""
    return abs(one - other) < share * max(one, other)


def close_said(peaks: Sequence[tuple[float | None, object]]) -> list[str]:
    """A line where any two peaks of memory, each with its kind, are about the same."""
    found = sorted(peak for peak, kind in peaks if peak is not None and kind == "resident")
    if not any(about_the_same(one, other, RESOLUTION) for one, other in pairwise(found)):
        return []
    return [f"On a CPU differences of peak memory below {RESOLUTION:.0%} are not resolved: closer is about the same."]
