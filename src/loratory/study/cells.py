"""One cell's numbers, from the records of its runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, Literal

import numpy as np

from loratory.evaluation.metrics import METRICS, score
from loratory.store.naming import approaches, lookup
from loratory.store.record import RunRecord
from loratory.study.folds import test_to_train, tested
from loratory.study.measured import Cost, Spread
from loratory.study.parts import (
    COSTS,
    CellSummary,
    ChoiceSummary,
    ExpectedBest,
    RateTried,
    Reached,
    TimeTo,
    Together,
    TrialSummary,
    Tuning,
)
from loratory.study.results import CellRuns, ChoiceRuns, Final, StudyRuns
from loratory.study.statistics import expected_best, over_seeds, seconds_to, spread_over_folds


def cells(study: StudyRuns) -> tuple[CellSummary, ...]:
    """Every cell, in the plan's order."""
    found: dict[str, CellSummary] = {}
    for members in study.groups.values():
        names = approaches([{"id": cell.id, "spec": {"method": cell.method}} for cell in members])
        target = _target(members, study.select)
        for cell, name in zip(members, names, strict=True):
            found[cell.id] = _cell(cell, name, study.select, target)
    return tuple(found[cell.id] for cell in study.cells)


def _cell(cell: CellRuns, name: str, select: str, target: float | None) -> CellSummary:
    finals = [final for runs in cell.by_seed.values() for final in runs]
    records = [final.record for final in finals]
    costs = _costs(records)
    return CellSummary(
        id=cell.id,
        data=cell.data,
        model=cell.model,
        method=cell.method,
        approach=name,
        seeds=tuple(cell.by_seed),
        runs=tuple(str(record["id"]) for record in records),
        parameters=records[0]["parameters"] if records else None,
        quality=_qualities(cell, records),
        cost=costs,
        memory_parts_bytes=_memory_parts(records),
        padding_share=_padding(records),
        tuning=_tuning(cell, select),
        time_to=None if target is None or not records else _time_to(finals, select, target),
        failed=tuple(str(final.record["id"]) for final in cell.finals if not final.completed),
        missing=cell.missing,
        scored_before=sum(choice.scored_before for choice in cell.choices),
        runs_at_once=_runs_at_once(records),
        cohorts=sum(lookup(record, "cohort") is not None for record in records),
        together=_together(cell, records),
        own_layers=_own_layers(records),
        frozen_bottom=any(lookup(record, "environment", "engine", "frozen_bottom") for record in records),
        time_parts_seconds=_time_parts(records, costs),
        limit=cell.limit,
        train_examples=_train_examples(records),
    )


def _numbers(records: Sequence[Mapping[str, Any]], *path: str) -> list[float] | None:
    """The number under `path` in each record; None where one lacks it."""
    values = [lookup(record, *path) for record in records]
    numbers = [value for value in values if isinstance(value, (int, float)) and math.isfinite(value)]
    return numbers if numbers and len(numbers) == len(values) else None


def _train_examples(records: Sequence[Mapping[str, Any]]) -> int | None:
    found = _numbers(records, "data", "sizes", "train")
    return None if found is None else round(float(np.mean(found)))


def _runs_at_once(records: Sequence[Mapping[str, Any]]) -> int | None:
    found = _numbers(records, "study", "runs_at_once")
    return None if found is None else int(max(found))


def _together(cell: CellRuns, records: Sequence[Mapping[str, Any]]) -> Together | None:
    timed = [(trial.share_seconds, trial.train_seconds) for trial in cell.trials if trial.status == "completed"]
    timed += [
        (lookup(record, "cohort", "share_seconds", "train"), lookup(record, "cost", "train_seconds"))
        for record in records
    ]
    found = [(share, alone) for share, alone in timed if share is not None and alone is not None]
    if not found:
        return None
    return Together(len(found), sum(share for share, _ in found), sum(alone for _, alone in found))


def _own_layers(records: Sequence[Mapping[str, Any]]) -> int | None:
    found = _numbers(records, "environment", "engine", "own_layers", "layers")
    return None if found is None else int(min(found))


def _qualities(cell: CellRuns, records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Spread]]:
    if not records:
        return {}
    if cell.folds is None:
        return {part: _quality(records, part) for part in ("test", "validation")}
    whole = [tested(finals).test for finals in cell.by_seed.values()]
    scores = [score(test.labels, test.logits, test.predictions, RunRecord(**records[0]).labels) for test in whole]
    ratio = test_to_train(next(iter(cell.by_seed.values())))
    found: dict[str, dict[str, Spread]] = {"test": {}, "validation": {}}
    for part, (metric, declared) in product(found, METRICS.items()):
        values = _numbers(records, "quality", part, metric)
        if values is None:
            continue
        folds = np.array(values).reshape(-1, cell.folds).mean(axis=0)
        pooled = part == "test" and not declared.of_one_model
        mean = np.mean([one.value(metric) for one in scores]) if pooled else folds.mean()
        found[part][metric] = spread_over_folds(folds.tolist(), float(mean), ratio)
    return found


def _quality(records: Sequence[Mapping[str, Any]], part: str) -> dict[str, Spread]:
    found = {metric: _numbers(records, "quality", part, metric) for metric in METRICS}
    return {metric: over_seeds(values) for metric, values in found.items() if values is not None}


def _costs(records: Sequence[Mapping[str, Any]]) -> dict[str, Cost]:
    found = {}
    for key in COSTS:
        values, kind = _memory(records) if key == "peak_memory_bytes" else (_numbers(records, "cost", key), None)
        if values is not None:
            found[key] = Cost(float(np.median(values)), min(values), max(values), tuple(values), kind)
    return found


def _memory(
    records: Sequence[Mapping[str, Any]],
) -> tuple[list[float] | None, Literal["allocated", "resident"] | None]:
    """What was allocated on the GPU; where there was none, the resident set."""
    allocated = _numbers(records, "cost", "peak_memory_bytes", "allocated")
    if allocated is not None:
        return allocated, "allocated"
    resident = _numbers(records, "cost", "peak_memory_bytes", "resident")
    return resident, None if resident is None else "resident"


def _memory_parts(records: Sequence[Mapping[str, Any]]) -> dict[str, float] | None:
    keys = lookup(records[0], "cost", "memory_parts_bytes") if records else None
    found = {key: _numbers(records, "cost", "memory_parts_bytes", key) for key in keys or ()}
    return {key: float(np.median(values)) for key, values in found.items() if values is not None} or None


def _time_parts(records: Sequence[Mapping[str, Any]], costs: Mapping[str, Cost]) -> dict[str, float] | None:
    """Of one run, as medians of parts do not add up to that of the whole."""
    if "train_seconds" not in costs:
        return None
    parts = lookup(records[costs["train_seconds"].middle], "cost", "time_parts_seconds")
    return {part: float(seconds) for part, seconds in parts.items()} if isinstance(parts, Mapping) else None


def _padding(records: Sequence[Mapping[str, Any]]) -> float | None:
    """None where steps computed fewer rows than their texts have tokens: a frozen bottom had run once, before them."""
    tokens, computed = (_numbers(records, "cost", key) for key in ("tokens", "padded_tokens"))
    if tokens is None or computed is None or not sum(computed) or sum(computed) < sum(tokens):
        return None
    return 1 - sum(tokens) / sum(computed)


def _tuning(cell: CellRuns, select: str) -> Tuning:
    taken = [choice.lr for choice in cell.choices for _ in choice.seeds]
    return Tuning(
        choices=tuple(_choice(choice) for choice in cell.choices),
        rates=tuple(_rate(cell, lr, taken.count(lr)) for lr in sorted({trial.lr for trial in cell.trials})),
        expected_best=() if cell.rungs else _expected_best(cell, select),
        rungs=cell.rungs,
    )


def _rate(cell: CellRuns, lr: float, chosen: int) -> RateTried:
    """Scores of different rungs are not mixed: those of the last one in which a trial completed count."""
    trials = [trial for trial in cell.trials if trial.lr == lr]
    last = max(trial.epochs or 0 for trial in trials) if cell.rungs else None
    completed = [trial.epochs or 0 for trial in trials if trial.score is not None]
    epochs = max(completed, default=last) if cell.rungs else None
    trials = [trial for trial in trials if epochs in (None, trial.epochs)]
    scores = [trial.score for trial in trials if trial.score is not None]
    failed = last if completed and last != epochs else None
    return RateTried(lr, over_seeds(scores) if scores else None, chosen, epochs, len(trials), failed)


def _choice(choice: ChoiceRuns) -> ChoiceSummary:
    trials = tuple(
        TrialSummary(trial.lr, trial.score, trial.status, trial.run, trial.epochs) for trial in choice.trials
    )
    return ChoiceSummary(
        choice.seeds, choice.lr, choice.selection, trials, choice.hopeless, choice.fold, choice.planned
    )


def _expected_best(cell: CellRuns, select: str) -> tuple[ExpectedBest, ...]:
    """The mean over seeds; of rates that happened to complete the best says nothing of so many tries."""
    rising = METRICS[select].higher_is_better
    scores = [[trial.score for trial in choice.trials] for choice in cell.choices]
    whole = [[value for value in one if value is not None] for one in scores if None not in one]
    most = max(map(len, whole), default=0)
    curves = [expected_best(one, higher_is_better=rising) for one in whole if len(one) == most]
    means = [float(np.mean(at)) for at in zip(*curves, strict=True)]
    return tuple(ExpectedBest(number, value) for number, value in enumerate(means, start=1))


def _target(members: Sequence[CellRuns], select: str) -> float | None:
    """The least of the cells' mean final validation scores: the best level that every cell reaches on average."""
    means = [
        float(np.mean(values))
        for cell in members
        if (
            values := _numbers(
                [one.record for runs in cell.by_seed.values() for one in runs], "quality", "validation", select
            )
        )
    ]
    if not means:
        return None
    return min(means) if METRICS[select].higher_is_better else max(means)


def _time_to(finals: Sequence[Final], select: str, target: float) -> TimeTo:
    rising = METRICS[select].higher_is_better
    times = [seconds_to(final.history, select, target, higher_is_better=rising) for final in finals]
    reached = [seconds for seconds in times if seconds is not None]
    if not reached:
        return TimeTo(target, Reached(None, None, None, 0))
    return TimeTo(target, Reached(float(np.median(reached)), min(reached), max(reached), len(reached)))
