"""A cell's runs as far as they are known: for each choice of a rate its trials, its selection and its final runs.

Where every seed chooses for itself, a cell has a choice for each seed; else one that serves all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from loratory.study.jobs import Job
from loratory.study.selection import Selection
from loratory.study.spec import Cell


@dataclass
class Choice:
    """One choice of a rate, and the runs before and after it."""

    seeds: tuple[int, ...]
    """Those of its final runs; the first is that of its trials."""
    fold: int | None = None
    """The fold that is their test."""
    trials: list[tuple[float, Job]] = field(default_factory=list)
    finals: list[tuple[int, Job]] = field(default_factory=list)
    """Known once the rate is chosen."""
    selection: Selection | None = None
    hopeless: bool = False
    """Every trial failed, so that nothing can be chosen."""

    def jobs(self) -> Iterator[Job]:
        """Every run that is known."""
        for _, job in (*self.trials, *self.finals):
            yield job

    def to_dict(self) -> dict[str, Any]:
        """As `plan.json` has it: final runs without a name are not known yet, and a hopeless choice has none."""
        finals = {seed: job.id for seed, job in self.finals}
        return {
            **({} if self.fold is None else {"fold": self.fold}),
            "seeds": list(self.seeds),
            "trials": [{"lr": lr, "run": job.id} for lr, job in self.trials],
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
        """As `plan.json` has it."""
        return {
            "id": self.cell.id,
            **self.cell.describe(),
            "limit": self.cell.limit,
            "tune": list(self.cell.rates),
            "choices": [choice.to_dict() for choice in self.choices],
        }
