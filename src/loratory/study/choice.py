"""A cell's runs as far as they are known: for each choice of a rate its trials, rung by rung, its selection and its
final runs.

Where every seed chooses for itself, a cell has a choice for each seed; else one that serves all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from loratory.study.halving import Rung
from loratory.study.jobs import Job
from loratory.study.selection import Selection
from loratory.study.spec import Cell


@dataclass(frozen=True)
class Trial:
    """A rate that is tried, for so many epochs."""

    lr: float
    epochs: int
    job: Job


@dataclass
class Choice:
    """One choice of a rate, and the runs before and after it."""

    seeds: tuple[int, ...]
    """Those of its final runs; the first is that of its trials."""
    fold: int | None = None
    """The fold that is their test."""
    rungs: list[list[Trial]] = field(default_factory=list)
    """Those that are known: the first, and one more once all trials of the one before have ended."""
    finals: list[tuple[int, Job]] = field(default_factory=list)
    """Known once the rate is chosen."""
    selection: Selection | None = None
    hopeless: bool = False
    """Every trial of a rung failed, so that nothing can be chosen."""

    @property
    def trials(self) -> list[Trial]:
        """Those of every rung that is known."""
        return [trial for rung in self.rungs for trial in rung]

    def planned(self, rungs: Sequence[Rung]) -> list[int]:
        """How many trials each of `rungs`, its cell's, has or will have; fewer where more fail than are dropped."""
        known = list(map(len, self.rungs))
        return known + [0 if self.hopeless else min(rung.rates, known[-1]) for rung in rungs[len(known) :]]

    def jobs(self) -> Iterator[Job]:
        """Every run that is known."""
        yield from (trial.job for trial in self.trials)
        yield from (job for _, job in self.finals)

    def to_dict(self, *, halved: bool) -> dict[str, Any]:
        """As `plan.json` has it: final runs without a name are not known yet, and a hopeless choice has none; nor are
        trials of rungs to come.

        Args:
            halved: whether its trials differ in their epochs.
        """
        finals = {seed: job.id for seed, job in self.finals}
        return {
            **({} if self.fold is None else {"fold": self.fold}),
            "seeds": list(self.seeds),
            "trials": [_trial(one, halved=halved) for one in self.trials],
            "selection": self.selection.digest if self.selection is not None else None,
            "finals": [] if self.hopeless else [{"seed": seed, "run": finals.get(seed)} for seed in self.seeds],
        }


@dataclass
class CellPlan:
    """One cell and its choices, fold by fold in the order of the seeds."""

    cell: Cell
    choices: tuple[Choice, ...]

    def jobs(self) -> Iterator[Job]:
        """Every run that is known."""
        for choice in self.choices:
            yield from choice.jobs()

    @property
    def finals(self) -> list[Job]:
        """The final runs that are known, in the order of the seeds."""
        return [job for choice in self.choices for _, job in choice.finals]

    def to_dict(self) -> dict[str, Any]:
        """As `plan.json` has it; the rungs, where there are several, with the number of trials to expect."""
        rungs, halved = self.cell.rungs, len(self.cell.rungs) > 1
        return {
            "id": self.cell.id,
            **self.cell.describe(),
            "limit": self.cell.limit,
            "tune": list(self.cell.rates),
            **({"rungs": [{"rates": one.rates, "epochs": one.epochs} for one in rungs]} if halved else {}),
            "choices": [
                {**choice.to_dict(halved=halved), **({"planned": choice.planned(rungs)} if halved else {})}
                for choice in self.choices
            ],
        }


def _trial(trial: Trial, *, halved: bool) -> dict[str, Any]:
    return {"lr": trial.lr, **({"epochs": trial.epochs} if halved else {}), "run": trial.job.id}
