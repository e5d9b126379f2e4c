"""The parts of a study's summary: frozen values whose fields are the keys of `summary.json`.

:class:`CellSummary` is one setting with all its seeds, :class:`Pair` two settings compared, :class:`Front` quality
against one cost, :class:`Observation` a sentence with its figures and its verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from loratory.study.halving import Rung
from loratory.study.measured import Cost, Spread, about_the_same

COSTS = (
    "train_seconds",
    "total_seconds",
    "setup_seconds",
    "eval_seconds",
    "peak_memory_bytes",
    "checkpoint_bytes",
    "tokens_per_second",
)

Verdict = Literal["better", "worse", "equivalent", "inconclusive"]

GroupKey = tuple[str, str, int | None]
"""Data set, model and limit of the training examples: cells that share them are compared."""


@dataclass(frozen=True)
class ExpectedBest:
    """The best validation score to expect from so many trials."""

    trials: int
    score: float


@dataclass(frozen=True)
class TrialSummary:
    """One learning rate tried."""

    lr: float
    score: float | None
    status: str
    run: str
    epochs: int | None = None
    """How many it was to train; None where its record does not say."""


@dataclass(frozen=True)
class ChoiceSummary:
    """A learning rate chosen for seeds of a cell."""

    seeds: tuple[int, ...]
    """Those that take it; its trials are runs of the first."""
    lr: float | None
    """None until it is chosen, and where no trial completed."""
    selection: str | None
    """The selection that was written before any final run of it, by the first 12 digits of its SHA-256."""
    trials: tuple[TrialSummary, ...]
    hopeless: bool
    """Every trial failed, so that these seeds have no final run."""
    fold: int | None = None
    """The fold that is the test of its runs."""
    planned: tuple[int, ...] = ()
    """How many trials each rung has or will have, where there are several rungs."""

    @property
    def rates(self) -> tuple[float, ...]:
        """Those tried, smallest first."""
        return tuple(sorted({trial.lr for trial in self.trials}))

    @property
    def at_end(self) -> bool:
        """Whether it is the smallest or the largest rate tried."""
        return len(self.rates) > 1 and self.lr in (self.rates[0], self.rates[-1])


@dataclass(frozen=True)
class RateTried:
    """A learning rate over the seeds that tried it."""

    lr: float
    score: Spread | None
    """On validation, over the trials that completed, with halving those of the last rung in which one did; None without
    one."""
    chosen: int
    """How many seeds take it."""
    epochs: int | None = None
    """With halving: of the last rung in which a trial of it completed, of any seed; of the last one where none did."""
    runs: int | None = None
    """How many trials it had, with halving in that rung; None in a summary of before."""
    failed: int | None = None
    """With halving: the epochs of the later rung in which every trial of it failed; None where it went no further."""


@dataclass(frozen=True)
class Tuning:
    """How a cell's learning rates were chosen."""

    choices: tuple[ChoiceSummary, ...]
    """In the order of the seeds."""
    rates: tuple[RateTried, ...]
    """Smallest first."""
    expected_best: tuple[ExpectedBest, ...]
    """The mean of the seeds' curves, of those seeds of which every trial completed; none with halving, as trials of
    fewer epochs are no tries of a whole run."""
    rungs: tuple[Rung, ...] = ()
    """Of each choice, where rates were dropped by successive halving."""

    @property
    def trials(self) -> tuple[TrialSummary, ...]:
        """Those of every choice."""
        return tuple(trial for choice in self.choices for trial in choice.trials)

    @property
    def budget(self) -> tuple[int, int] | None:
        """With halving: runs and epochs that all choices train; fewer than planned where more rates failed than go."""
        if not self.rungs:
            return None
        planned = [list(zip(self.rungs, choice.planned, strict=True)) for choice in self.choices]
        runs = sum(count for one in planned for _, count in one)
        return runs, sum(count * rung.epochs for one in planned for rung, count in one)

    @property
    def chosen(self) -> dict[float, int]:
        """How many seeds take each rate, smallest first."""
        rates = sorted({choice.lr for choice in self.choices if choice.lr is not None})
        return {lr: sum(len(choice.seeds) for choice in self.choices if choice.lr == lr) for lr in rates}

    @property
    def unchosen(self) -> int:
        """For how many seeds every rate failed."""
        return sum(len(choice.seeds) for choice in self.choices if choice.hopeless)


@dataclass(frozen=True)
class Reached:
    """Training seconds until a score was reached, over the seeds that reached it; None where none did."""

    median: float | None
    low: float | None
    high: float | None
    reached: int
    """How many seeds reached it."""


@dataclass(frozen=True)
class TimeTo:
    """How soon validation, scored after each epoch, reaches `score`, the same for all cells of a data set x model."""

    score: float
    seconds: Reached


@dataclass(frozen=True)
class Together:
    """What training at once came to for the runs of a cell that did so, tuning runs among them: seconds of optimizer
    steps, and of what is before them, over all of these runs."""

    runs: int
    share_seconds: float
    """Their shares of what their cohorts' training took, measured."""
    alone_seconds: float
    """What their steps would have taken one run at a time: an estimate from a few that were timed alone."""


@dataclass(frozen=True)
class CellSummary:
    """One setting: data set, model, method's settings, and the chosen learning rates; all its seeds."""

    id: str
    data: str
    model: str
    method: Mapping[str, Any]
    approach: str
    """Its name, unique within its data set x model."""
    seeds: tuple[int, ...]
    """Those whose final runs completed, of every fold where there are some."""
    runs: tuple[str, ...]
    """Their ids, in the order of `seeds`; of each seed those of its folds in order."""
    parameters: Mapping[str, int] | None
    quality: Mapping[str, Mapping[str, Spread]]
    """`test` and `validation`, then by metric."""
    cost: Mapping[str, Cost]
    """By the keys of COSTS, as far as the runs have them."""
    memory_parts_bytes: Mapping[str, float] | None
    """Medians of what the peak of memory was made of."""
    padding_share: float | None
    """Rows computed for padding or filler, of all computed rows; None where steps compute less than all tokens."""
    tuning: Tuning
    time_to: TimeTo | None
    failed: tuple[str, ...]
    missing: int
    scored_before: int = 0
    """Final runs that had been scored on test before their selection was there: an earlier file's, used again."""
    runs_at_once: int | None = None
    """At most how many of the study's runs the device of a final run had at once; None where a record does not say."""
    cohorts: int = 0
    """How many of its final runs trained in a cohort: their times and memory are those of steps made alone."""
    together: Together | None = None
    """Of its completed runs that trained in a cohort; None where none did."""
    own_layers: int | None = None
    """How many layers the engine computed itself; None where a record does not say."""
    frozen_bottom: bool = False
    """Whether frozen layers ran once, without dropout."""
    time_parts_seconds: Mapping[str, float] | None = None
    """What training time was made of in the run with the median one."""
    limit: int | None = None
    """Training examples at most; None: all there are."""
    train_examples: int | None = None
    """How many its runs were trained on; None where no run says so."""

    @property
    def group(self) -> GroupKey:
        """What it is compared within."""
        return self.data, self.model, self.limit

    @property
    def size(self) -> str:
        """What it was trained on: 300 training examples, all 7,398 training examples."""
        known = self.limit if self.train_examples is None else self.train_examples
        number = "" if known is None else f"{known:,} "
        return f"{'all ' if self.limit is None else ''}{number}training examples"

    def score(self, metric: str, split: str = "test") -> Spread | None:
        """The metric over seeds; None where no seed has it."""
        return self.quality.get(split, {}).get(metric)

    def compares(self, other: CellSummary, cost: str) -> bool:
        """Whether a cost compares with another cell's: a time not where more runs shared the device of one; time and
        memory not where runs of one trained in cohorts, and stand there as estimates of themselves alone."""
        timed = cost.endswith("_seconds")
        if (timed or cost == "peak_memory_bytes") and (self.cohorts, other.cohorts) != (0, 0):
            return False
        return not timed or self.runs_at_once == other.runs_at_once

    def parameter(self, part: str) -> int | None:
        """A number of parameters, by its name in the record."""
        return (self.parameters or {}).get(part)

    @property
    def share(self) -> float | None:
        """Trainable of all parameters."""
        total, trainable = self.parameter("total"), self.parameter("trainable")
        return trainable / total if total and trainable is not None else None


def size_of(cells: Sequence[CellSummary]) -> str:
    """The size of one group's cells in words, of the first that knows it."""
    return next((cell for cell in cells if cell.train_examples is not None), cells[0]).size


@dataclass(frozen=True)
class Pair:
    """Cell `a` compared with cell `b` on the test split, seed by seed and example by example."""

    a: str
    b: str
    metric: str
    difference: float | None
    """Mean over common seeds of a minus b, in the metric's unit."""
    low: float | None
    """Of the difference's 95% interval, for this pair alone; it and p are None below three common seeds, or folds."""
    high: float | None
    family_low: float | None
    """Of the interval that holds for all pairs of the family at once (1 - 5% / family)."""
    family_high: float | None
    p: float | None
    """Two-sided, for this pair alone; agrees with `low` and `high`."""
    p_holm: float | None
    """Corrected by Holm's step-down over the family."""
    family: int
    """Pairs of the family: all of one data set x model, those of every size of the training set."""
    verdict: Verdict | None
    """Of `a`, seen against `b`."""
    why_none: str | None
    seeds: int
    """Common completed seeds."""
    examples: int
    units: int
    """Distinct texts among the examples, or groups where the data have some: what is resampled."""
    folds: int | None = None
    """How many folds each seed has, whose tests together are the examples."""


@dataclass(frozen=True)
class BaselineSummary:
    """A baseline on the test split, or why there is none."""

    data: str
    name: str
    accuracy: float | None
    f1_macro: float | None
    seconds: float | None
    reason: str | None
    limit: int | None = None
    """Of the training examples it was fitted on."""
    scores: tuple[tuple[str, float], ...] = ()
    """Every other metric that it has, by name, of a problem that is not one of single labels."""
    parameters: int | None = None
    """What it fits; of folds the median. None where it was left out, or in a summary of before."""

    def value(self, metric: str) -> float | None:
        """The number of a metric; None where it has none."""
        number: float | None = getattr(self, metric, None) if metric in ("accuracy", "f1_macro") else None
        return number if number is not None else dict(self.scores).get(metric)


@dataclass(frozen=True)
class FrontPoint:
    """A cell on one plane of cost and quality."""

    cell: str
    cost: float
    quality: float
    low: float | None
    high: float | None
    on_front: bool
    """No cell that costs no more is better beyond a tie."""
    tied_with: tuple[str, ...]
    """Cells of which this one is neither better nor worse."""


@dataclass(frozen=True)
class Front:
    """Quality (the study's `select` metric on test) against one cost, cheapest first."""

    data: str
    model: str
    axis: str
    points: tuple[FrontPoint, ...]
    limit: int | None = None
    resolution: float = 0.0
    """The share of the larger below which two of its costs are about the same, so that neither is the cheaper."""

    @property
    def group(self) -> GroupKey:
        """The cells that it is of."""
        return self.data, self.model, self.limit

    def tied_with_cheaper(self, point: FrontPoint) -> bool:
        """Whether the point is on the front by a tie alone: a cheaper cell is as good as can be told."""
        return point.on_front and any(one.cell in point.tied_with and self.cheaper(one, point) for one in self.points)

    def cheaper(self, one: FrontPoint, other: FrontPoint) -> bool:
        """Whether one point costs less than another as far as can be measured."""
        return one.cost < other.cost and not about_the_same(one.cost, other.cost, self.resolution)


@dataclass(frozen=True)
class Observation:
    """One sentence, from the figures beside it."""

    text: str
    cells: tuple[str, ...]
    figures: Mapping[str, Any]
    verdict: Verdict | None
    topic: str = ""
    """What it is about, a key of :data:`loratory.study.observations.TOPICS`."""


@dataclass(frozen=True)
class FailedRun:
    """A run that did not complete."""

    run: str
    cell: str
    stage: Literal["tuning", "final"]
    status: str
    error: str | None
