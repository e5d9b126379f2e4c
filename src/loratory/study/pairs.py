"""Every two cells of a data set x model x size, compared on the test split by the study's metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import comb

import numpy as np

from loratory.errors import StorageError, counted
from loratory.evaluation.measures import Labels, Logits
from loratory.evaluation.metrics import METRICS
from loratory.problems import Targets
from loratory.study.folds import test_to_train, tested
from loratory.study.halving import failure_said
from loratory.study.parts import Pair
from loratory.study.resampling import DRAWS, Replicates, replicate
from loratory.study.results import CellRuns, Final, StudyRuns
from loratory.study.statistics import (
    MIN_FOLDS,
    MIN_SEEDS,
    MIN_UNITS,
    Difference,
    difference,
    family_interval,
    holm,
    verdict,
)


@dataclass(frozen=True, eq=False)
class _Tested:
    """What a cell's S seeds said of the N test examples."""

    seeds: tuple[int, ...]
    labels: Targets  # of the problem's own shape
    rows: Labels  # (N,)
    units: Labels  # (N,)
    logits: Logits  # (S, N, C)
    said: Targets  # predictions, in the shape of labels after S
    folds: Labels | None  # (N,) in which fold each was tested
    test_to_train: float
    """Of folds: examples that a model was tested on over those it was trained on; else 0."""

    def on_the_same_as(self, other: _Tested) -> bool:
        names = ("labels", "rows", "units", *(() if self.folds is None else ("folds",)))
        same = all(np.array_equal(getattr(self, name), getattr(other, name)) for name in names)
        return same and self.logits.shape[-1] == other.logits.shape[-1]


@dataclass(frozen=True, eq=False)
class _Compared:
    """Two cells with at least one common seed."""

    a: CellRuns
    b: CellRuns
    seeds: int
    examples: int
    units: int
    effective_units: float
    estimate: float | None
    """None where they were not tested on the same examples."""
    difference: Difference | None
    """None where there is no estimate or one seed only."""


def compare_cells(study: StudyRuns, *, draws: int = DRAWS, seed: int = 0) -> tuple[Pair, ...]:
    """Compare all cells within each data set x model x size; the pairs of a data set x model are one family.

    Args:
        draws, seed: of the bootstrap.

    Raises:
        StorageError: predictions that are missing or damaged, or seeds of one cell tested on different examples.
    """
    families = dict.fromkeys((cell.data, cell.model) for cell in study.cells)
    return tuple(pair for data, model in families for pair in _family(study, data, model, draws, seed))


def _family(study: StudyRuns, data: str, model: str, draws: int, seed: int) -> list[Pair]:
    groups = [cells for key, cells in study.groups.items() if key[:2] == (data, model)]
    tested = {cell.id: _tested(cell) for cells in groups for cell in cells if cell.by_seed}
    measured = _replicates(study.select, tested, draws, seed)
    compared = [
        found
        for cells in groups
        for a, b in combinations([cell for cell in cells if cell.id in tested], 2)
        if (found := _compared(a, b, tested, measured)) is not None
    ]
    family = sum(
        comb(len(cells), 2) for cells in groups
    )  # planned ones count too, so that nothing changes when they come
    raw = np.array([float(one.difference.p) for one in compared if one.difference is not None])
    adjusted = iter(holm(raw, family).tolist())
    return [_pair(study, one, family, next(adjusted) if one.difference is not None else None) for one in compared]


def _tested(cell: CellRuns) -> _Tested:
    one_each = [_of_seed(seed, finals) for seed, finals in cell.by_seed.items()]
    for one, finals in zip(one_each, cell.by_seed.values(), strict=True):
        if not one.on_the_same_as(one_each[0]):
            first = next(iter(cell.by_seed.values()))[0].directory
            raise StorageError(
                f"{finals[0].directory} and {first} were tested on different examples; run the study anew"
            )
    logits = np.concatenate([one.logits for one in one_each])
    said = np.concatenate([one.said for one in one_each])
    return replace(one_each[0], seeds=tuple(cell.by_seed), logits=logits, said=said)


def _of_seed(seed: int, finals: Sequence[Final]) -> _Tested:
    whole = tested(finals)
    test, folds = whole.test, whole.folds
    ratio = 0.0 if folds is None else test_to_train(finals)
    said = test.predictions[None]
    return _Tested((seed,), test.labels, test.rows, test.units, test.logits[None], said, folds, ratio)


def _replicates(metric: str, tested: dict[str, _Tested], draws: int, seed: int) -> dict[str, Replicates]:
    """Each cell's bootstrap; cells tested on the same examples share their draws."""
    measured: dict[str, Replicates] = {}
    for first in tested.values():
        same = {cell: one for cell, one in tested.items() if cell not in measured and one.on_the_same_as(first)}
        if same:
            runs, said = [one.logits for one in same.values()], [one.said for one in same.values()]
            found = replicate(
                metric, first.labels, first.units, runs, chosen=said, folds=first.folds, draws=draws, seed=seed
            )
            measured.update(zip(same, found, strict=True))
    return measured


def _compared(
    a: CellRuns, b: CellRuns, tested: dict[str, _Tested], measured: dict[str, Replicates]
) -> _Compared | None:
    first, second = tested[a.id], tested[b.id]
    common = [seed for seed in first.seeds if seed in second.seeds]
    if not common:
        return None
    sizes = len(first.labels), len(measured[a.id].sizes), measured[a.id].effective_units
    if not first.on_the_same_as(second):
        return _Compared(a, b, len(common), *sizes, None, None)
    left, right = (
        _of_seeds(measured[cell.id], [tested[cell.id].seeds.index(seed) for seed in common]) for cell in (a, b)
    )
    estimate = float((left.values - right.values).mean())
    told = len(common) > 1 or first.folds is not None
    ratio = max(first.test_to_train, second.test_to_train)
    found = difference(left, right, test_to_train=ratio) if told else None
    return _Compared(a, b, len(common), *sizes, estimate, found)


def _of_seeds(measured: Replicates, places: list[int]) -> Replicates:
    folds = None if measured.folds is None else measured.folds[..., places]
    return replace(measured, values=measured.values[..., places], draws=measured.draws[..., places], folds=folds)


def _pair(study: StudyRuns, compared: _Compared, family: int, p_holm: float | None) -> Pair:
    found, why = compared.difference, _why_none(study, compared)
    given = None
    if found is not None and p_holm is not None and why is None:
        rising = METRICS[study.select].higher_is_better
        given = verdict(found, p_holm, family=family, margin=study.margin, higher_is_better=rising)
    low, high = found.interval() if found is not None else (None, None)
    family_low, family_high = family_interval(found, family) if found is not None else (None, None)
    return Pair(
        a=compared.a.id,
        b=compared.b.id,
        metric=study.select,
        difference=compared.estimate,
        low=None if low is None else float(low),
        high=None if high is None else float(high),
        family_low=family_low,
        family_high=family_high,
        p=None if found is None else float(found.p),
        p_holm=p_holm,
        family=family,
        verdict=given,
        why_none=why,
        seeds=compared.seeds,
        examples=compared.examples,
        units=compared.units,
        folds=study.folds,
    )


def _why_none(study: StudyRuns, compared: _Compared) -> str | None:
    if compared.estimate is None:
        return "they were tested on different examples"
    for cell, which in ((compared.a, "first"), (compared.b, "second")):
        if failed := len(cell.finals) - len(cell.completed):  # the seeds that are left may be those that went well
            return f"{failed} of {counted(len(cell.finals), 'final run')} of the {which} failed"
        if none := len(cell.unchosen):
            of = len(study.seeds) * (study.folds or 1)
            runs = counted(
                of,
                "seed" if study.folds is None else "fold and seed",
                None if study.folds is None else "folds and seeds",
            )
            tried = [(one.epochs, one.score) for choice in cell.choices if choice.hopeless for one in choice.trials]
            return f"for {none} of {runs} of the {which} {failure_said(cell.rungs, tried, METRICS[study.select])}"
        if lost := sum(trial.lost for trial in cell.trials):
            runs = counted(len(cell.trials), "tuning run")
            return f"{lost} of {runs} of the {which} failed: it chose from fewer learning rates"
    if study.folds is not None and study.folds < MIN_FOLDS:
        return f"{counted(study.folds, 'fold')}; a verdict needs {MIN_FOLDS}"
    if study.folds is None and compared.seeds < MIN_SEEDS:
        return f"{counted(compared.seeds, 'common seed')}; a verdict needs {MIN_SEEDS}"
    if compared.effective_units < MIN_UNITS:
        said = f"{counted(compared.units, 'unit')} (texts or groups) in the test split, as good as"
        return f"{said} {compared.effective_units:.1f} of one size; a verdict needs {MIN_UNITS}"
    for cell, which in ((compared.a, "first"), (compared.b, "second")):
        if cell.missing:  # to look again at each further seed until there is a verdict would double its errors
            return f"{counted(cell.missing, 'run')} of the {which} {'is' if cell.missing == 1 else 'are'} missing"
    return None
