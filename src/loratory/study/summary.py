"""A study's runs, summarised: cells, pairs, baselines, fronts, and what may be said of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from loratory.data import PACKAGED, data_directory, dataset_of
from loratory.errors import LoratoryError
from loratory.evaluation.baselines import Baseline, baselines, together
from loratory.evaluation.metrics import metrics_of
from loratory.evaluation.quality import AnyQuality
from loratory.inputs import Inputs
from loratory.problems import SINGLE
from loratory.study.cells import cells
from loratory.study.document import Summary
from loratory.study.fronts import fronts
from loratory.study.observations import observe
from loratory.study.pairs import compare_cells
from loratory.study.parts import BaselineSummary, FailedRun
from loratory.study.resampling import DRAWS
from loratory.study.results import Final, StudyRuns
from loratory.study.statistics import CONFIDENCE, told

log = logging.getLogger("loratory")


def summarise(
    study: StudyRuns, *, with_baselines: bool = True, inputs: Inputs | None = None, draws: int = DRAWS, seed: int = 0
) -> Summary:
    """Everything that `summary.json` holds, of a study that is done or half done.

    Args:
        inputs: the data as it was read for the runs, where it was; each source is read once.
        with_baselines: whether baselines are fitted, where the data is on this machine; nothing is downloaded.
        draws, seed: of the bootstrap; the same ones give the same summary.

    Raises:
        StorageError: a run's predictions are damaged, or do not belong together.
    """
    summaries = cells(study)
    pairs = tuple(map(told, compare_cells(study, draws=draws, seed=seed)))
    firsts = _first_finals(study)
    sized = len({cell.limit for cell in study.cells}) > 1
    by_size: dict[tuple[str, int | None], list[Final]] = {}
    for (data, limit, _), final in firsts.items():
        by_size.setdefault((data, limit), []).append(final)
    inputs = inputs or Inputs()
    found = (
        [one for key, finals in by_size.items() for one in _baselines(*key, finals, study.folds, inputs)]
        if with_baselines
        else []
    )
    missing = sum(cell.missing for cell in study.cells)
    first = next(iter(firsts.values()), None)
    return Summary(
        name=study.name,
        select=study.select,
        margin=study.margin,
        seeds=study.seeds,
        tune_seeds=study.tune_seeds,
        confidence=CONFIDENCE,
        complete=missing == 0,
        missing=missing,
        failed=_failed(study),
        cells=summaries,
        pairs=pairs,
        baselines=tuple(found),
        fronts=(planes := fronts(summaries, pairs, metric=study.select)),
        observations=observe(summaries, pairs, planes, found, metric=study.select, margin=study.margin),
        environment=None if first is None else first.record["environment"],
        data=tuple(
            {
                "dataset": data,
                **({"limit": limit} if sized else {}),
                **({"fold": f"{fold} of {study.folds}"} if fold is not None else {}),
                **final.record["data"],
            }
            for (data, limit, fold), final in firsts.items()
        ),
        price_per_hour=study.price_per_hour,
        folds=study.folds,
    )


def _first_finals(study: StudyRuns) -> dict[tuple[str, int | None, int | None], Final]:
    """The first completed final run of each data set x size x fold."""
    found: dict[tuple[str, int | None, int | None], Final] = {}
    for cell in study.cells:
        for final in cell.completed:
            found.setdefault((cell.data, cell.limit, final.fold), final)
    return found


def _failed(study: StudyRuns) -> tuple[FailedRun, ...]:
    tuning = [
        FailedRun(trial.run, cell.id, "tuning", trial.status, trial.error)
        for cell in study.cells
        for trial in cell.trials
        if trial.status != "completed"
    ]
    final = [
        FailedRun(str(one.record["id"]), cell.id, "final", str(one.record["status"]), one.record["error"])
        for cell in study.cells
        for one in cell.finals
        if not one.completed
    ]
    return (*tuning, *final)


def _baselines(
    data: str, limit: int | None, finals: Sequence[Final], folds: int | None, inputs: Inputs
) -> list[BaselineSummary]:
    """Of the test split, or of the tests of all folds together: of fewer folds there are none."""
    if (reason := _not_here(data)) is not None:
        return [BaselineSummary(data, "baselines", None, None, None, reason, limit)]
    if folds is not None and len(finals) < folds:
        reason = f"runs of {len(finals)} of {folds} folds are there, and the tests of all make up the data"
        return [BaselineSummary(data, "baselines", None, None, None, reason, limit)]
    try:
        found = [baselines(dataset_of(final.record, inputs.dataset)) for final in finals]
    except LoratoryError as error:
        return [BaselineSummary(data, "baselines", None, None, None, str(error), limit)]
    return [_baseline(data, limit, of_folds) for of_folds in zip(*found, strict=True)]


def _not_here(data: str) -> str | None:
    """Why reading the data set would need the network; None where it would not."""
    if data.startswith("hub:"):
        return "reading a hub data set may ask the network"
    packaged = data.partition(":")[0]
    if packaged in PACKAGED and not (data_directory() / packaged).is_dir():
        return f"{packaged} is not on this machine; `loratory data fetch {packaged}` fetches it"
    return None


def _baseline(data: str, limit: int | None, folds: Sequence[Baseline]) -> BaselineSummary:
    baseline, quality = folds[0], together(folds)
    return BaselineSummary(
        data=data,
        name=baseline.name,
        accuracy=None if quality is None else quality.value("accuracy"),
        f1_macro=None if quality is None else quality.value("f1_macro"),
        seconds=None if quality is None else float(np.median([one.seconds for one in folds])),
        reason=next((one.reason for one in folds if one.reason is not None), None),
        limit=limit,
        scores=() if quality is None or quality.problem == SINGLE else _scores(quality),
        parameters=None if quality is None else round(float(np.median([one.parameters for one in folds]))),
    )


def _scores(quality: AnyQuality) -> tuple[tuple[str, float], ...]:
    found = ((name, quality.value(name)) for name in metrics_of(quality.problem) if name != "f1_macro")
    return tuple((name, value) for name, value in found if value is not None)
