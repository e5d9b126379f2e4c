"""A study's runs: which there are, which exist, and which come next.

    cell ─▶ choices ─▶ trials (a rate each, one seed, validation only) ─▶ selection, written ─▶ finals (its seeds, test)
                         └─▶ with halving the best of them again, for more epochs, rung by rung ─┘

`plan.json` says it on disk: each cell's choices with their trials, selection and finals, runs by their ids. A run's id
comes from what decides its result, so that a plan made again finds the runs of before, also those of another file.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from math import comb
from pathlib import Path
from typing import Any

from loratory.disk.files import write_durably
from loratory.errors import StorageError, counted
from loratory.spec import RunSpec
from loratory.store.directory import drop_weights, settle, whole_run
from loratory.store.naming import lookup
from loratory.store.record import Place, RunRecord
from loratory.study import selection
from loratory.study.choice import CellPlan, Choice, Trial
from loratory.study.halving import failure_said
from loratory.study.jobs import Asked, Job
from loratory.study.layout import PLAN, RUNS, SCHEMA, as_json, sealed
from loratory.study.selection import Tried
from loratory.study.spec import Cell, StudySpec
from loratory.study.statistics import CONFIDENCE, MIN_FOLDS, MIN_SEEDS, smallest_shown

log = logging.getLogger("loratory")

Known = Callable[[Sequence[Asked]], list[tuple[str, str, RunSpec]]]
"""Id, fingerprint and resolved spec of runs, as :func:`loratory.study.jobs.known` gives them."""


class Plan:
    """The runs of one study in one directory. Whoever makes it holds the directory."""

    def __init__(
        self,
        spec: StudySpec,
        directory: Path,
        *,
        known: Known,
        threads: int | None = None,
        retry_failed: bool = False,
        tracker: tuple[str, ...] = (),
        write: Callable[[Path, str], None] = write_durably,
        checkpoint_every: str | None = None,
    ) -> None:
        """Find out which runs there are, and which exist; selections that can be made are made.

        Args:
            known: computes ids where the runs will be carried out.
            threads: of each run's CPU part.
            retry_failed: whether runs that failed are run again.
            tracker: who follows each run.
            write: writes the study's files, as the holder of its directory.
            checkpoint_every: how often each run's state is kept.

        Raises:
            LoratoryError: data, models or devices are not there, or the directory is damaged or cannot be written.
        """
        self.spec, self.directory, self.threads = spec, directory, threads
        self.records: dict[str, RunRecord] = {}
        """Runs that are done, by id: completed, or failed and not to be run again."""
        self._known, self._retry = known, retry_failed
        self._tracker, self._write_file, self._checkpoint_every = tracker, write, checkpoint_every
        self._of: dict[str, tuple[CellPlan, Choice]] = {}
        """The cell and the choice that each run belongs to, by its id."""
        if (directory / RUNS).is_dir():
            settle(directory / RUNS)
        self.cells = self._with_trials()
        for one in self.cells:
            for choice in one.choices:
                self._look_up([trial.job for trial in choice.trials])
                self._advance(one, choice)
        self._write()

    @property
    def total(self) -> int:
        """How many runs the study takes; seeds for which nothing can be chosen have no final run."""
        choices = [choice for one in self.cells for choice in one.choices]
        return self.tuning + sum(len(choice.seeds) for choice in choices if not choice.hopeless)

    @property
    def tuning(self) -> int:
        """How many of them are tuning runs, those of rungs to come among them."""
        return sum(sum(choice.planned(one.cell.rungs)) for one in self.cells for choice in one.choices)

    @property
    def choosing(self) -> bool:
        """Whether runs are to come that are not known yet, as rates are chosen or dropped before."""
        return self.total > sum(len(list(one.jobs())) for one in self.cells)

    @property
    def done(self) -> int:
        """How many exist, failed ones among them."""
        return len(self.records)

    @property
    def failed(self) -> list[RunRecord]:
        """Those that failed."""
        return [record for record in self.records.values() if record.status != "completed"]

    @property
    def fruitless(self) -> bool:
        """Whether no run was scored on the test split."""
        return not any(record.status == "completed" and "test" in record.quality for record in self.records.values())

    def missing(self) -> list[Job]:
        """The runs that can be carried out now: those that are known and do not exist."""
        return [job for one in self.cells for job in one.jobs() if job.id not in self.records]

    def cell_of(self, job: Job) -> Cell:
        """The cell of a run."""
        return self._of[job.id][0].cell

    def finished(self, job: Job, record: RunRecord) -> list[Job]:
        """Take note of a run that has ended; the runs that can be carried out now and could not before.

        Raises:
            StorageError: the disk refuses.
        """
        self.records[job.id] = record
        one, choice = self._of[job.id]
        if job.place.stage == "final":
            self._prune(one)
            return []
        if not self._advance(one, choice):
            return []
        self._write()
        return [job for job in choice.jobs() if job.id not in self.records]

    def _with_trials(self) -> list[CellPlan]:
        spec = self.spec
        cells = [CellPlan(cell, tuple(Choice(*one) for one in _choices(spec))) for cell in spec.cells()]
        self._try([(one, choice, one.cell.rates) for one in cells if one.cell.tuned for choice in one.choices])
        return cells

    def _try(self, wanted: Sequence[tuple[CellPlan, Choice, Sequence[float]]]) -> None:
        """Plan the next rung of each choice, with these rates."""
        tried: list[tuple[CellPlan, Choice, float, int]] = []
        for one, choice, rates in wanted:
            epochs = one.cell.rungs[len(choice.rungs)].epochs
            choice.rungs.append([])
            tried += [(one, choice, lr, epochs) for lr in rates]
        runs = [
            self.spec.run(one.cell, lr=lr, seed=choice.seeds[0], fold=choice.fold, threads=self.threads, until=epochs)
            for one, choice, lr, epochs in tried
        ]
        jobs = self._jobs([Asked(run, Place("tuning")) for run in runs])
        for (one, choice, lr, epochs), job in zip(tried, jobs, strict=True):
            choice.rungs[-1].append(Trial(lr, epochs, job))
            self._of[job.id] = one, choice

    def _jobs(self, asked: Sequence[Asked]) -> list[Job]:
        folder = Path.cwd()
        return [
            Job(
                id=name,
                fingerprint=fingerprint,
                spec=run,
                place=one.place,
                output=(self.directory / RUNS / name).absolute(),
                keep_weights=one.place.stage == "final" and self.spec.keep != "none",
                folder=folder,
                study=self.spec.name,
                tracker=self._tracker,
                checkpoint_every=self._checkpoint_every,
            )
            for one, (name, fingerprint, run) in zip(asked, self._known(asked), strict=True)
        ]

    def _look_up(self, jobs: Sequence[Job]) -> None:
        """Find the runs that exist; interrupted ones do not, nor do failed ones that are to be run again. Damaged ones
        are set aside."""
        for job in jobs:
            record = whole_run(job.output)
            if record is None:
                continue
            if record.fingerprint != job.fingerprint:
                raise StorageError(f"{job.output} holds another run than its name says; remove it")
            again = ("interrupted",) if not self._retry else ("interrupted", "failed", "out_of_memory", "diverged")
            if record.status not in again:
                self.records[job.id] = record

    def _advance(self, one: CellPlan, choice: Choice) -> bool:
        """Once all trials of the choice's last known rung have ended, plan the next one; after the last of all choose
        a rate, write the selection, and plan its final runs."""
        if choice.selection is not None or any(trial.job.id not in self.records for trial in choice.trials):
            return False
        cell, metric = one.cell, self.spec.metric
        best = self._best(choice) if cell.tuned else [self._only_rate(cell)]
        if not best:
            choice.hopeless = True
            log.warning(
                "%s (%s), seed %d: %s, so none is chosen",
                cell.id, cell.method.name, choice.seeds[0], failure_said(cell.rungs, self._scores(choice), metric),
            )  # fmt: skip
            return True
        if len(choice.rungs) < len(cell.rungs):
            chosen = set(best[: cell.rungs[len(choice.rungs)].rates])
            self._try([(one, choice, [rate for rate in cell.rates if rate in chosen])])
            self._look_up([trial.job for trial in choice.rungs[-1]])
            self._advance(one, choice)
            return True
        halved = len(cell.rungs) > 1
        tried = [
            Tried(trial.lr, self.records[trial.job.id], trial.epochs if halved else None) for trial in choice.trials
        ]
        lr = best[0]
        choice.selection = selection.keep(self.directory, cell, metric, tried, lr, write=self._write_file)
        self._plan_finals(one, choice, lr)
        return True

    def _scores(self, choice: Choice) -> list[tuple[int | None, float | None]]:
        """The epochs and the score of each trial, all of which have ended."""
        ended = [(trial, Tried(trial.lr, self.records[trial.job.id])) for trial in choice.trials]
        return [(trial.epochs, one.score(self.spec.metric)) for trial, one in ended]

    def _best(self, choice: Choice) -> list[float]:
        """The rates of the choice's last rung whose trials completed, the best first."""
        ended = [Tried(trial.lr, self.records[trial.job.id]) for trial in choice.rungs[-1]]
        return selection.ranked([(one.lr, one.score(self.spec.metric)) for one in ended], self.spec.metric)

    def _plan_finals(self, one: CellPlan, choice: Choice, lr: float) -> None:
        """The choice's final runs with the chosen rate; those that exist are found."""
        assert choice.selection is not None
        cell = one.cell
        place = Place("final", choice.selection.digest)
        runs = [self.spec.run(cell, lr=lr, seed=seed, fold=choice.fold, threads=self.threads) for seed in choice.seeds]
        jobs = self._jobs([Asked(run, place) for run in runs])
        choice.finals = list(zip(choice.seeds, jobs, strict=True))
        self._of.update((job.id, (one, choice)) for job in jobs)
        self._look_up(jobs)
        self._prune(one)

    def _only_rate(self, cell: Cell) -> float:
        """The one rate of a cell that has no choice: the file's, or the method's default for the model."""
        if cell.rates:
            return cell.rates[0]
        run = self.spec.run(cell, lr=None, seed=self.spec.seeds[0], fold=self.spec.rounds[0], threads=self.threads)
        lr = self._known([Asked(run, Place("final"))])[0][2].training.lr
        assert lr is not None
        return lr

    def _prune(self, one: CellPlan) -> None:
        """`keep: best`: of a cell's final runs only the best on validation so far keeps its weights."""
        if self.spec.keep != "best":
            return
        metric, best = self.spec.metric, None
        completed = [job for job in one.finals if job.id in self.records]
        completed = [job for job in completed if self.records[job.id].status == "completed"]
        for job in completed:  # in the order of the seeds, so that the first of equals stays
            score = self.records[job.id].quality["validation"][metric.name]
            if best is None or metric.better(score, best[1]):
                best = job.id, score
        for job in completed:
            if best is not None and job.id != best[0] and self.records[job.id].weights:
                self.records[job.id] = drop_weights(job.output)

    def _write(self) -> None:
        self._write_file(self.directory / PLAN, as_json(sealed(self.to_dict())))

    def to_dict(self) -> dict[str, Any]:
        """`plan.json`."""
        spec = self.spec
        return {
            "schema": SCHEMA,
            "name": spec.name,
            "select": spec.select,
            "margin": spec.margin,
            "seeds": list(spec.seeds),
            "folds": spec.folds,
            "tune_seeds": spec.tune_seeds,
            "keep": spec.keep,
            "price_per_hour": spec.price_per_hour,
            "threads": self.threads,
            "cells": [one.to_dict() for one in self.cells],
        }


def _choices(spec: StudySpec) -> list[tuple[tuple[int, ...], int | None]]:
    """Seeds and fold of each choice of a cell."""
    return [(seeds, fold) for fold in spec.rounds for seeds in spec.choosing]


def without_use(plan: Plan) -> int:
    """How many runs lie in the directory that this plan does not name: those of another file, version or device, and
    final runs of before whose rates are yet to be chosen."""
    named = {job.id for one in plan.cells for job in one.jobs()}
    place = plan.directory / RUNS
    return sum(path.name not in named for path in place.iterdir() if path.name[0] != ".") if place.is_dir() else 0


def unfinished(plan: Plan) -> set[str]:
    """The runs that this plan names and that did not complete."""
    named = {job.id for one in plan.cells for job in one.jobs()}
    return {name for name in named if (found := plan.records.get(name)) is None or found.status != "completed"}


def without_weights(plan: Plan) -> int:
    """How many final runs exist without weights though the study keeps all: those made when it did not."""
    jobs = [job for one in plan.cells for job in one.finals] if plan.spec.keep == "all" else []
    return sum(
        (record := plan.records.get(job.id)) is not None and record.status == "completed" and not record.weights
        for job in jobs
    )


def not_alone(plan: Plan) -> int:
    """How many final runs exist that shared their device with others of a study, in a cohort too, or may have."""
    finals = [record for one in plan.cells for job in one.finals if (record := plan.records.get(job.id)) is not None]
    done = [record for record in finals if record.status == "completed"]
    return sum(lookup(record.study, "runs_at_once") != 1 or record.cohort is not None for record in done)


def differences_said(spec: StudySpec) -> list[str]:
    """What the study can be expected to show: how small p and how large a difference a verdict needs."""
    groups = Counter((cell.data, cell.model, cell.limit) for cell in spec.cells())
    families: Counter[tuple[str, str]] = Counter()
    for (data, model, _), cells in groups.items():
        families[data, model] += comb(cells, 2)
    family, seeds = max(families.values()), len(spec.seeds)
    if not family:
        return []
    each = " of each data set and model" if len(families) > 1 else ""
    pairs = f"Differences: {counted(family, 'pair')}{each}"
    if spec.folds is not None:
        return [_folds_said(pairs, spec.folds, family)]
    if seeds < MIN_SEEDS:
        return [f"{pairs}, and {counted(seeds, 'seed')}: no verdict below {MIN_SEEDS} seeds"]
    return [
        f"{pairs}: a verdict of better needs p of at most {(1 - CONFIDENCE) / family:.2g}. If seeds were the only "
        f"chance, a difference would have to be {smallest_shown(seeds, family):.1f} times its standard deviation over "
        f"seeds ({2 * seeds} seeds: {smallest_shown(2 * seeds, family):.1f} times); "
        f"{'fewer cells or ' if family > 1 else ''}more seeds find smaller ones"
    ]


def _folds_said(pairs: str, folds: int, family: int) -> str:
    if folds < MIN_FOLDS:
        return f"{pairs}, and {counted(folds, 'fold')}: no verdict below {MIN_FOLDS} folds"
    return (
        f"{pairs}: a verdict of better needs p of at most {(1 - CONFIDENCE) / family:.2g}, with {folds - 1} degrees of "
        "freedom of the folds: a difference has to be large; more data, or a test split of its own, finds smaller ones"
    )


def said_of(plan: Plan) -> str:
    """The plan in one line: runs by stage, and how many exist."""
    finals = plan.total - plan.tuning
    stages = f"{counted(plan.tuning, 'tuning run')} and {counted(finals, 'final run')}"
    there = f"{plan.done:,} exist" if plan.done else "none exists yet"
    return f"{counted(len(plan.cells), 'cell')}: {stages}, {there}"
