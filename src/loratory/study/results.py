"""A study's runs as they lie on disk, half done or done: what statistics start from.

plan.json (cells, choices, runs)  ─┐
selections/<digest>.json (chosen) ─┼─▶ StudyRuns
runs/<run id>/ (records, history) ─┘
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from loratory.disk.json_text import parsed
from loratory.errors import StorageError
from loratory.evaluation.metrics import METRICS
from loratory.store.directory import HISTORY, counted_run, read_run
from loratory.store.naming import lookup
from loratory.store.record import RunRecord
from loratory.study.halving import Rung
from loratory.study.layout import RUNS, plain_name, planned
from loratory.study.parts import GroupKey
from loratory.study.selection import read_selection
from loratory.study.spec import TuneSeeds

History = tuple[Mapping[str, Any], ...]
"""A row an epoch, as `history.jsonl` has it: epoch, train_seconds, validation_accuracy …"""


@dataclass(frozen=True)
class Trial:
    """One learning rate that was tried, scored on validation alone."""

    lr: float
    run: str
    status: str
    score: float | None
    """The study's `select` metric on validation; None where the run did not complete."""
    train_seconds: float | None
    share_seconds: float | None
    """Its share of what its cohort's training took; None where it trained alone."""
    history: History
    error: str | None
    epochs: int | None = None
    """How many it was to train; None where its record does not say."""

    @property
    def lost(self) -> bool:
        """Whether nobody knows how good its rate is; of one that diverged that is known."""
        return self.status not in ("completed", "diverged")


@dataclass(frozen=True)
class Final:
    """The chosen setting with one seed, completed or not."""

    seed: int
    record: Mapping[str, Any]
    """Its `run.json`."""
    directory: Path
    history: History
    fold: int | None = None
    """The fold that is its test."""

    @property
    def completed(self) -> bool:
        """Whether it was scored on the test split."""
        return bool(self.record["status"] == "completed")

    @property
    def selection(self) -> str | None:
        """The selection that was there before it ran."""
        found = lookup(self.record, "study", "selection")
        return None if found is None else str(found)


@dataclass(frozen=True)
class ChoiceRuns:
    """A rate chosen for seeds of one cell, and the runs before and after that are there."""

    seeds: tuple[int, ...]
    """Those of its final runs; the first is that of its trials."""
    lr: float | None
    """The chosen rate; None until it is chosen."""
    selection: str | None
    """The selection that says so."""
    trials: tuple[Trial, ...]
    finals: tuple[Final, ...]
    hopeless: bool
    """Every trial failed, so that there are no final runs."""
    missing: int
    """Runs that the plan names and that are not there yet."""
    fold: int | None = None
    """The fold that is the test of its runs."""
    planned: tuple[int, ...] = ()
    """How many trials each rung has or will have, where there are several rungs."""

    @property
    def scored_before(self) -> int:
        """Final runs that do not name this selection: they had been scored before it was there."""
        return sum(final.completed and final.selection != self.selection for final in self.finals)


@dataclass(frozen=True)
class CellRuns:
    """All runs of one setting that are there: data set, model, and the method's settings."""

    id: str
    data: str
    model: str
    method: Mapping[str, Any]
    """The method's settings, `name` among them."""
    choices: tuple[ChoiceRuns, ...]
    limit: int | None = None
    """Training examples at most; None: all there are."""
    folds: int | None = None
    """How many folds each seed has."""
    rungs: tuple[Rung, ...] = ()
    """Of its choices, where rates were dropped by successive halving."""

    @property
    def group(self) -> GroupKey:
        """What it is compared within."""
        return self.data, self.model, self.limit

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Those of every choice."""
        return tuple(trial for choice in self.choices for trial in choice.trials)

    @property
    def finals(self) -> tuple[Final, ...]:
        """Those of every choice, in the order of the study's seeds, those of a fold before those of the next."""
        return tuple(final for choice in self.choices for final in choice.finals)

    @property
    def unchosen(self) -> tuple[int, ...]:
        """The seeds for which every rate failed."""
        return tuple(seed for choice in self.choices if choice.hopeless for seed in choice.seeds)

    @property
    def missing(self) -> int:
        """Runs that the plan names and that are not there yet."""
        return sum(choice.missing for choice in self.choices)

    @property
    def completed(self) -> tuple[Final, ...]:
        """The final runs that were scored on the test split, in the order of the study's seeds."""
        return tuple(final for final in self.finals if final.completed)

    @property
    def by_seed(self) -> dict[int, tuple[Final, ...]]:
        """The completed final runs of each seed that has all of them: one, or one of each fold in their order."""
        found: dict[int, list[Final]] = {}
        for final in self.completed:
            found.setdefault(final.seed, []).append(final)
        return {seed: tuple(runs) for seed, runs in found.items() if len(runs) == (self.folds or 1)}


@dataclass(frozen=True)
class StudyRuns:
    """What a study's directory holds."""

    name: str
    directory: Path
    select: str
    """The metric, a key of METRICS, by which rates were chosen and cells are compared."""
    margin: float
    """The difference in that metric, in its own unit, that counts as none."""
    seeds: tuple[int, ...]
    tune_seeds: TuneSeeds
    """Who chose the rates: each seed for itself, or the first for all."""
    cells: tuple[CellRuns, ...]
    price_per_hour: float | None = None
    """Of the device, in any currency."""
    folds: int | None = None
    """How many folds each seed has; None where the test split is one for all."""

    @property
    def groups(self) -> dict[GroupKey, tuple[CellRuns, ...]]:
        """The cells of each data set x model x size, in the plan's order: those that compare."""
        return {
            key: tuple(c for c in self.cells if c.group == key) for key in dict.fromkeys(c.group for c in self.cells)
        }


def load_study(directory: Path) -> StudyRuns:
    """Read a study's plan, selections and runs; runs that are not there yet are absent, and so are damaged ones.

    Raises:
        StorageError: no study, or a damaged plan or selection.
    """
    with planned(directory) as plan:
        return StudyRuns(
            name=str(plan["name"]),
            directory=directory,
            select=str(plan["select"]),
            margin=float(plan["margin"]),
            seeds=tuple(int(seed) for seed in plan["seeds"]),
            tune_seeds=_tune_seeds(plan["tune_seeds"]),
            cells=tuple(_cell(directory, cell, str(plan["select"]), plan.get("folds")) for cell in plan["cells"]),
            folds=plan.get("folds"),
            price_per_hour=None if (price := plan.get("price_per_hour")) is None else float(price),
        )


def _tune_seeds(value: Any) -> TuneSeeds:
    if value not in get_args(TuneSeeds):
        raise ValueError(f"tune_seeds is {value!r}")
    found: TuneSeeds = value
    return found


def _cell(directory: Path, cell: Mapping[str, Any], select: str, folds: int | None) -> CellRuns:
    return CellRuns(
        id=str(cell["id"]),
        data=str(cell["data"]),
        model=str(cell["model"]),
        method=dict(cell["method"]),
        choices=tuple(_choice(directory, one, select) for one in cell["choices"]),
        limit=None if (limit := cell.get("limit")) is None else int(limit),
        folds=folds,
        rungs=tuple(Rung(int(one["rates"]), int(one["epochs"])) for one in cell.get("rungs", ())),
    )


def _choice(directory: Path, choice: Mapping[str, Any], select: str) -> ChoiceRuns:
    trials = [(float(one["lr"]), _run(directory, one["run"])) for one in choice["trials"]]
    lr = _chosen(directory, choice["selection"], [run for _, run in trials if run is not None], select)
    finals = [(int(one["seed"]), _run(directory, one["run"])) for one in choice["finals"]]
    fold = choice.get("fold")
    return ChoiceRuns(
        seeds=tuple(int(seed) for seed in choice["seeds"]),
        lr=lr,
        selection=choice["selection"],
        trials=tuple(_trial(lr, *found, select) for lr, found in trials if found is not None),
        finals=tuple(_final(seed, *found, lr, fold) for seed, found in finals if found is not None),
        hopeless=not finals,
        missing=sum(found is None for _, found in [*trials, *finals])
        + max(0, sum(choice.get("planned", ())) - len(trials)),
        fold=fold,
        planned=tuple(map(int, choice.get("planned", ()))),
    )


def _trial(lr: float, directory: Path, record: RunRecord, select: str) -> Trial:
    return Trial(
        lr=lr,
        run=record.id,
        status=record.status,
        score=lookup(record.quality, "validation", select),
        train_seconds=lookup(record.cost, "train_seconds"),
        share_seconds=lookup(record.cohort, "share_seconds", "train"),
        history=_history(directory),
        error=record.error,
        epochs=record.epochs,
    )


def _final(seed: int, directory: Path, record: RunRecord, lr: float | None, fold: int | None) -> Final:
    trained = lookup(record.spec, "training", "lr")
    if lr is not None and trained is not None and trained != lr:
        raise StorageError(f"{directory} was trained with lr {trained}, where {lr} was chosen; run the study again")
    return Final(seed, record.to_dict(), directory, _history(directory), fold)


def _chosen(directory: Path, digest: str | None, trials: Sequence[tuple[Path, RunRecord]], select: str) -> float | None:
    """The rate that the selection names, once its trials are what they are there, and it follows from them."""
    if digest is None:
        return None
    kept = read_selection(directory, digest)
    for run, record in trials:
        epochs, *of = kept.tried.get(record.id, (None,))
        found = [lookup(record.spec, "training", "lr"), lookup(record.quality, "validation", select)]
        if of != found or epochs not in (None, record.epochs):
            raise StorageError(f"{kept.path} is not of what {run} says of its rate and score; run the study again")
    if not kept.follows(METRICS[select]):
        raise StorageError(f"{kept.path} chose lr {kept.lr}, not the best of its trials; run the study again")
    return kept.lr


def _run(directory: Path, name: str | None) -> tuple[Path, RunRecord] | None:
    """Where a run lies and its record; None where it is not there yet, or was interrupted and is to be run again."""
    if name is None:
        return None
    path = directory / RUNS / plain_name(name)
    record = counted_run(path, read_run) if os.path.lexists(path) else None
    return (path, record) if record is not None and record.status != "interrupted" else None


def _history(run: Path) -> History:
    """The run's rows; none of a run that did not complete."""
    path = run / HISTORY
    if not path.is_file():
        return ()
    try:
        return tuple(parsed(line) for line in path.read_text("utf8").splitlines())
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be read ({type(error).__name__}: {error})") from error
