"""What a study is asked to do, as one frozen value: data sets × models × sizes × methods with their grids, rates and
seeds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from loratory.evaluation.metrics import METRICS, Metric
from loratory.methods import method_settings, parse_spec
from loratory.spec import MethodSettings, RunSpec, Select, Settings, TrainingSpec, group_of
from loratory.study.halving import Rung, rungs, trials

TuneSeeds = Literal["each", "first"]

UNASKED_RUNS = 1_000
"""A study of more runs is asked for twice (`--yes`)."""

MOST_FOLDS = 100
"""More folds are a mistake."""

MOST_RUNS = 100_000
"""A study of more runs is a mistake."""


WIDEST_MARGIN = 0.5
"""From here on a margin of a metric from 0 to 1 is a mistake."""


class MethodGrid(Settings):
    """One entry of `methods`: a method, each of its settings with the values it takes, and the rates it may try."""

    name: str
    values: dict[str, tuple[Any, ...]]
    rates: tuple[float, ...]
    """Empty: the method's default."""
    halving: int | None = None
    """The factor of successive halving; None: every rate is trained for all epochs."""

    @property
    def size(self) -> int:
        """How many settings the grid holds."""
        return math.prod(map(len, self.values.values()))

    def rungs(self, epochs: int) -> tuple[Rung, ...]:
        """The rungs of each choice, of so many epochs at most: none where there is nothing to choose."""
        return rungs(len(self.rates), epochs, self.halving) if len(self.rates) > 1 else ()

    def settings(self) -> Iterator[MethodSettings]:
        """Every setting, the last key changing fastest."""
        for chosen in itertools.product(*self.values.values()):
            yield method_settings({"name": self.name, **dict(zip(self.values, chosen, strict=True))})


@dataclass(frozen=True)
class Cell:
    """One setting of a study, all its rates and seeds."""

    id: str
    """c1, c2 … in the plan's order."""
    data: str
    model: str
    method: MethodSettings
    rates: tuple[float, ...]
    """What its tuning may choose from; empty: the method's default."""
    limit: int | None = None
    """Training examples at most; None: all there are."""
    rungs: tuple[Rung, ...] = ()
    """How its rates are tried: all of them for all epochs, or by successive halving; none where nothing is chosen."""

    @property
    def tuned(self) -> bool:
        """Whether there is anything to choose."""
        return len(self.rates) > 1

    def describe(self) -> dict[str, Any]:
        """Data, model and method for selections and the plan; a selection's trials know the size they trained on."""
        return {"data": self.data, "model": self.model, "method": self.method.model_dump(mode="json")}


class StudySpec(Settings):
    """A study file, checked. :func:`loratory.study.reading.read_study` makes it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    data: tuple[str, ...]
    models: tuple[str, ...]
    methods: tuple[MethodGrid, ...]
    seeds: tuple[int, ...]
    folds: int | None = Field(None, ge=2, le=MOST_FOLDS)
    """Every setting is trained so many times for each seed, and each of as many parts of the data is the test once."""
    tune_seeds: TuneSeeds = "each"
    """Who chooses a rate: each seed for itself, or the first for all. With folds each fold chooses for itself, too: the
    validation of one is in the test of another."""
    train: dict[str, Any] = Field(default_factory=dict)
    """Flags of `loratory train`, the same for every run; `limit` may be several sizes, of which None is all."""
    select: Select = "accuracy"
    """The validation metric that chooses a rate; where the file says none, the first of the labels' problem."""
    margin: float = Field(0.01, ge=0)
    """A difference in that metric that counts as none; of a metric from 0 to 1 a fraction: one point is 0.01."""
    keep: Literal["best", "all", "none"] = "best"
    """Weights of final runs: of each cell's best on validation, of all, or of none."""

    price_per_hour: float | None = Field(None, ge=0)
    """Of the device, in any currency: the report's times are then money, too. No part of what makes a run this run."""

    @property
    def metric(self) -> Metric:
        """The metric called `select`."""
        return METRICS[self.select]

    @property
    def epochs(self) -> int:
        """Of a final run."""
        given = {"epochs": self.train["epochs"]} if "epochs" in self.train else {}
        return TrainingSpec.model_validate(given).epochs

    @property
    def tuned(self) -> bool:
        """Whether there is anything to choose, the same for every method."""
        return len(self.methods[0].rates) > 1

    @property
    def choosing(self) -> tuple[tuple[int, ...], ...]:
        """The seeds of each choice of a cell; one choice for all of them where there is nothing to choose."""
        return tuple((seed,) for seed in self.seeds) if self.tune_seeds == "each" and self.tuned else (self.seeds,)

    @property
    def limits(self) -> tuple[int | None, ...]:
        """The sizes of the training set: each setting is trained on each of them."""
        given = self.train.get("limit")
        return given if isinstance(given, tuple) else (given,)

    @property
    def rounds(self) -> tuple[int | None, ...]:
        """The folds that are the test, one after the other; None where the test split is one for all."""
        return (None,) if self.folds is None else tuple(range(1, self.folds + 1))

    @property
    def runs(self) -> int:
        """How many runs the file asks for, repeated cells counted as often as they stand there."""
        of_one = [
            method.size * (len(self.choosing) * trials(method.rungs(self.epochs)) + len(self.seeds))
            for method in self.methods
        ]
        return len(self.data) * len(self.models) * len(self.limits) * len(self.rounds) * sum(of_one)

    def cells(self) -> tuple[Cell, ...]:
        """Every setting once, in the file's order: data sets, in them models, in them sizes, in them methods."""
        found: dict[tuple[str, str, int | None, MethodSettings], MethodGrid] = {}
        for data, model, limit, method in itertools.product(self.data, self.models, self.limits, self.methods):
            for settings in method.settings():
                found.setdefault((data, model, limit, settings), method)
        return tuple(
            Cell(f"c{number}", data, model, settings, method.rates, limit, method.rungs(self.epochs))
            for number, ((data, model, limit, settings), method) in enumerate(found.items(), start=1)
        )

    def run(
        self,
        cell: Cell,
        *,
        lr: float | None,
        seed: int,
        fold: int | None = None,
        threads: int | None = None,
        until: int | None = None,
    ) -> RunSpec:
        """One run of a cell.

        Args:
            lr: the peak learning rate; None for the method's default.
            fold: the one of `rounds` that is the test.
            threads: of a CPU, where the file does not say.
            until: how many of the epochs are trained; None for all.
        """
        groups: dict[str, dict[str, Any]] = {"data": {}, "training": {}, "hardware": {}}
        for flag, value in self.train.items():
            groups[str(group_of(flag))][flag] = value
        training = groups["training"]
        if training.get("keep") == "best" or "patience" in training:  # else no epoch is chosen by the metric
            groups["training"]["select"] = self.select
        groups["data"] |= {"dataset": cell.data, "limit": cell.limit, "folds": self.folds, "fold": fold}
        groups["training"] |= {"lr": lr, "until": until}
        groups["hardware"].setdefault("threads", threads)
        method = cell.method.model_dump(mode="json")
        return parse_spec({"method": method, "model": cell.model, "seed": seed, **groups})

    def differences(self, other: StudySpec) -> list[str]:
        """What `other` says otherwise, one line a key: `seeds: [0, 1] before, [0, 1, 2] now`."""
        return [
            f"{key}: {before} before, {now} now"
            for key in type(self).model_fields
            if (before := self._shown(key)) != (now := other._shown(key))
        ]

    def _shown(self, key: str) -> str:
        value = getattr(self, key)
        if key == "methods":
            return "; ".join(
                " ".join(
                    [one.name, *(f"{name}={_listed(grid)}" for name, grid in one.values.items())]
                    + ([f"lr={_listed(one.rates)}"] if one.rates else [])
                    + ([f"halving={one.halving}"] if one.halving is not None else [])
                )
                for one in value
            )
        return _listed(value) if isinstance(value, tuple) else str(value)


def _listed(values: tuple[Any, ...]) -> str:
    return f"[{', '.join(map(str, values))}]" if len(values) != 1 else str(values[0])
