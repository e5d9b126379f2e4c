"""How far a study has come, and what the rest will take: from its plan and the records that are there.

What a run will take is what runs like it took: the median of its cell, else of its data set, model and size, else of
all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from loratory.evaluation.metrics import METRICS
from loratory.store.directory import counted_run
from loratory.store.naming import approaches, lookup
from loratory.store.record import RunRecord
from loratory.study.layout import RUNS, planned
from loratory.study.lock import Launcher, check_planned, launcher
from loratory.study.parts import GroupKey
from loratory.study.selection import read_selection


@dataclass(frozen=True)
class RungProgress:
    """How far the trials of one rung of successive halving have come, of all choices of a cell."""

    epochs: int
    trials: int
    trials_done: int


@dataclass(frozen=True)
class CellProgress:
    """How far one cell has come."""

    id: str
    data: str
    model: str
    limit: int | None
    method: str
    """What the study's table calls it."""
    trials: int
    trials_done: int
    finals: int
    finals_done: int
    failed: int
    score: float | None
    """The best validation score so far, with halving of the runs that were trained for all epochs."""
    rungs: tuple[RungProgress, ...] = ()
    """Of its tuning by successive halving."""

    @property
    def tuning_epochs(self) -> tuple[int, int]:
        """How many epochs its tuning by successive halving trains, those of ended runs and all."""
        done = sum(rung.epochs * rung.trials_done for rung in self.rungs)
        return done, sum(rung.epochs * rung.trials for rung in self.rungs)

    @property
    def done(self) -> bool:
        """Whether nothing of it is missing."""
        return self.trials == self.trials_done and self.finals == self.finals_done


@dataclass(frozen=True)
class Progress:
    """How far a study has come."""

    name: str
    select: str
    cells: tuple[CellProgress, ...]
    runs: int
    done: int
    """Failed ones among them."""
    failed: int
    seconds_left: float | None
    """Of runs one after the other; None while no run is there to judge by."""
    final_seconds_left: float | None
    """Of the final runs among them."""
    memory_bytes: int | None
    """The largest peak of a run that is there."""

    def seconds_until(self, tuning: int, finals: int) -> float | None:
        """The time that is left with so many tuning runs and so many final runs at once."""
        if self.seconds_left is None or self.final_seconds_left is None:
            return None
        return (self.seconds_left - self.final_seconds_left) / tuning + self.final_seconds_left / finals

    @property
    def cells_done(self) -> int:
        """Cells of which nothing is missing."""
        return sum(cell.done for cell in self.cells)

    @property
    def best(self) -> CellProgress | None:
        """The cell with the best validation score so far."""
        scored = [cell for cell in self.cells if cell.score is not None]
        better = max if METRICS[self.select].higher_is_better else min
        return better(scored, key=lambda cell: cell.score or 0.0) if scored else None


@dataclass(frozen=True)
class Status:
    """A study as it lies on disk, and who runs it."""

    directory: Path
    progress: Progress
    launcher: Launcher | None
    chosen: dict[str, dict[int | str, float]]
    """By a cell's id, the learning rate of each seed for which one is chosen; of each `fold 1, seed 0` with folds."""

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        progress = asdict(self.progress)
        cells = [{**cell, "lr": self.chosen[cell["id"]]} for cell in progress.pop("cells")]
        running = asdict(self.launcher) if self.launcher is not None else None
        return {"directory": str(self.directory), **progress, "running": running, "cells": cells}


def read_status(directory: Path) -> Status:
    """A study's status from its plan and runs.

    Raises:
        StorageError: no study, one that is not planned yet, or a damaged plan or record.
    """
    check_planned(directory)
    running = launcher(directory)
    with planned(directory) as plan:
        records = {
            name: record for name in _names(plan) if (record := counted_run(directory / RUNS / name)) is not None
        }
        ended = {name: record for name, record in records.items() if record.status != "interrupted"}
        chosen = {cell["id"]: _chosen(directory, cell) for cell in plan["cells"]}
        return Status(directory, progress_of(plan, ended), running, chosen)


def _chosen(directory: Path, cell: Mapping[str, Any]) -> dict[int | str, float]:
    found: dict[int | str, float] = {}
    for choice in cell["choices"]:
        if choice["selection"] is not None:
            fold = choice.get("fold")
            keys = [seed if fold is None else f"fold {fold}, seed {seed}" for seed in choice["seeds"]]
            found.update(dict.fromkeys(keys, read_selection(directory, choice["selection"]).lr))
    return found


def progress_of(plan: Mapping[str, Any], records: Mapping[str, RunRecord]) -> Progress:
    """How far the study of `plan` (as `plan.json` has it) has come with these runs, by their ids."""
    names = _named(plan["cells"])
    cells = [_cell(cell, names[cell["id"]], plan["select"], records) for cell in plan["cells"]]
    left = [_seconds_left(one, cell, plan["cells"], records) for one, cell in zip(cells, plan["cells"], strict=True)]
    known = [one for one in left if one is not None]
    named = [records[name] for name in _names(plan) if name in records]
    return Progress(
        name=plan["name"],
        select=plan["select"],
        cells=tuple(cells),
        runs=sum(cell.trials + cell.finals for cell in cells),
        done=sum(cell.trials_done + cell.finals_done for cell in cells),
        failed=sum(cell.failed for cell in cells),
        seconds_left=sum(tuning + final for tuning, final in known) if len(known) == len(left) else None,
        final_seconds_left=sum(final for _, final in known) if len(known) == len(left) else None,
        memory_bytes=max((peak for record in named if (peak := _peak(record))), default=None),
    )


def _names(plan: Mapping[str, Any]) -> list[str]:
    return [name for cell in plan["cells"] for name in _names_of(cell) if name is not None]


def _names_of(cell: Mapping[str, Any]) -> list[str | None]:
    return [one["run"] for stage in ("trials", "finals") for choice in cell["choices"] for one in choice[stage]]


def _cell(cell: Mapping[str, Any], name: str, select: str, records: Mapping[str, RunRecord]) -> CellProgress:
    trials, finals = (
        [records.get(one["run"]) for choice in cell["choices"] for one in choice[stage]]
        for stage in ("trials", "finals")
    )
    ended = [record for record in (*trials, *finals) if record is not None]
    rungs = _rungs(cell, records)
    short = {rung.epochs for rung in rungs[:-1]}
    completed = [record for record in ended if record.status == "completed" and record.epochs not in short]
    scores = [record.quality["validation"][select] for record in completed]
    metric = METRICS[select]
    return CellProgress(
        id=cell["id"],
        data=cell["data"],
        model=cell["model"],
        limit=cell.get("limit"),
        method=name,
        trials=sum(rung.trials for rung in rungs) if rungs else len(trials),
        trials_done=sum(record is not None for record in trials),
        finals=len(finals),
        finals_done=sum(record is not None for record in finals),
        failed=sum(record.status != "completed" for record in ended),
        score=(max if metric.higher_is_better else min)(scores, default=None),
        rungs=rungs,
    )


def _rungs(cell: Mapping[str, Any], records: Mapping[str, RunRecord]) -> tuple[RungProgress, ...]:
    found = []
    for place, rung in enumerate(cell.get("rungs", ())):
        epochs = rung["epochs"]
        trials = [one for choice in cell["choices"] for one in choice["trials"] if one["epochs"] == epochs]
        planned = sum(choice["planned"][place] for choice in cell["choices"])
        found.append(RungProgress(epochs, planned, sum(one["run"] in records for one in trials)))
    return tuple(found)


def _named(cells: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Each cell's approach, by the cell's id: as the study's table has it, unique among those that compare."""
    groups: dict[GroupKey, list[Mapping[str, Any]]] = defaultdict(list)
    for cell in cells:
        groups[_group(cell)].append(cell)
    found: dict[str, str] = {}
    for members in groups.values():
        names = approaches([{"id": cell["id"], "spec": {"method": cell["method"]}} for cell in members])
        found |= {cell["id"]: name for cell, name in zip(members, names, strict=True)}
    return found


def _seconds_left(
    progress: CellProgress, cell: Mapping[str, Any], cells: list[Mapping[str, Any]], records: Mapping[str, RunRecord]
) -> tuple[float, float] | None:
    """What the cell's missing tuning runs and final runs will take; None where there is nothing to judge by."""
    if progress.done:
        return 0.0, 0.0
    group = [other for other in cells if _group(other) == _group(cell)]
    for like in ([cell], group, cells):
        found = [records[name] for other in like for name in _names_of(other) if name is not None and name in records]
        done = [record for record in found if record.status == "completed"]
        if done and progress.rungs:
            each = median(one.seconds / (one.epochs or 1) for one in done)
            epochs = sum((rung.trials - rung.trials_done) * rung.epochs for rung in progress.rungs)
            return epochs * each, (progress.finals - progress.finals_done) * progress.rungs[-1].epochs * each
        if done:
            trial, final = (
                median(
                    [one.seconds for one in done if lookup(one.study, "stage") == stage]
                    or [one.seconds for one in done]
                )
                for stage in ("tuning", "final")
            )
            return (progress.trials - progress.trials_done) * trial, (progress.finals - progress.finals_done) * final
    return None


def _group(cell: Mapping[str, Any]) -> GroupKey:
    return cell["data"], cell["model"], cell.get("limit")


def _peak(record: RunRecord) -> int | None:
    peak = record.cost.get("peak_memory_bytes") or {}
    return peak.get("allocated") or peak.get("resident")
