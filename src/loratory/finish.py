"""A study from its file to its page, and what its directory gets once its runs are there:

file ─▶ launch ─▶ runs ─▶ summary.json ─▶ report.html, tables, figures
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from loratory.errors import StorageError, TrainingError
from loratory.inputs import Inputs
from loratory.report import theme
from loratory.report.study import write
from loratory.report.tables import check_price
from loratory.store.naming import approaches
from loratory.study.document import Summary
from loratory.study.jobs import Job
from loratory.study.launch import launch
from loratory.study.layout import PLAN, RUNS, SUMMARY
from loratory.study.lock import check_planned
from loratory.study.parts import BaselineSummary
from loratory.study.plan import Plan
from loratory.study.reading import check_size, read_study
from loratory.study.results import load_study
from loratory.study.summary import summarise

log = logging.getLogger("loratory")


@dataclass(frozen=True)
class Finished:
    """A study whose runs have all ended."""

    plan: Plan
    directory: Path
    page: Path
    """Its report."""

    @property
    def kept(self) -> list[tuple[str, Path]]:
        """The runs that kept their weights, each by its approach and its directory, which `export` takes."""
        records = [record for record in self.plan.records.values() if record.weights]
        names = approaches([record.to_dict() for record in records])
        return [(name, self.directory / RUNS / record.id) for name, record in zip(names, records, strict=True)]

    def check(self) -> None:
        """Raise a TrainingError where no final run completed."""
        if self.plan.fruitless:
            raise TrainingError(f"{self.directory}: no final run completed; its records say why")


def complete(
    file: Path,
    *,
    output: Path | None = None,
    executor: str = "local",
    workers: int | None = None,
    alone: bool = False,
    cohort: str | None = None,
    retry_failed: bool = False,
    yes: bool = False,
    tracker: Sequence[str] = (),
    checkpoint_every: str | None = None,
    overrides: Sequence[tuple[str, str]] = (),
    planned: Callable[[Plan, int, int], None] = lambda plan, tuning, finals: None,
    told: Callable[[Plan, Job], None] = lambda plan, job: None,
) -> Finished:
    """Run what is missing of the study in `file`, and write its report.

    Args:
        output: the study's directory; `results/` and its name by default.
        yes: run more than 1,000 runs.
        overrides: as :func:`loratory.study.reading.read_study` takes them; all others as
            :func:`loratory.study.launch.launch`.

    Raises:
        LoratoryError: as these two and :func:`finish`.
    """
    spec, text = read_study(file, overrides)
    check_size(spec, str(file), asked=yes)
    directory = output if output is not None else Path("results") / spec.name
    if missing := theme.missing_packages():  # said before hours of runs, which are kept without it, too
        log.warning(
            "the report needs what is not installed: pip install %s before the runs end, or after that "
            "loratory report %s",
            *(" ".join(missing), directory),
        )
    inputs = Inputs()
    plan = launch(
        *(spec, text, directory),
        executor=executor,
        workers=workers,
        alone=alone,
        cohort=cohort,
        retry_failed=retry_failed,
        tracker=tracker,
        checkpoint_every=checkpoint_every,
        inputs=inputs,
        planned=planned,
        told=told,
    )
    page, *_ = finish(directory, inputs=inputs)
    return Finished(plan, directory, page)


def finish(directory: Path, *, price_per_hour: float | None = None, inputs: Inputs | None = None) -> list[Path]:
    """Summarise the runs of the study in `directory`, as many as there are, and write its report over an older one.

    A copy of a study without its plan or its runs keeps its summary, and has its report written from it.

    Args:
        price_per_hour: of one device, in any currency, in place of what the study file says.
        inputs: what was read for the study, and said of it, is neither read nor said again.

    Returns:
        The files written: the page first.

    Raises:
        SettingsError: the price is negative or no number.
        ResourceError: a package that charts need is not installed.
        StorageError: no study, something in it is damaged, or a file cannot be written.
    """
    check_price(price_per_hour)
    if not (directory / SUMMARY).is_file():
        check_planned(directory)
    made = _has_runs(directory)
    inputs = inputs or Inputs()
    if made:
        summary = _timed_as_before(summarise(load_study(directory), inputs=inputs), directory)
    else:
        summary = Summary.read(directory)
    if price_per_hour is not None:
        summary = replace(summary, price_per_hour=price_per_hour)
    if not made:
        return write(directory, summary, inputs)
    stored = summary.write(directory)
    return [*write(directory, summary, inputs), stored]


def _timed_as_before(summary: Summary, directory: Path) -> Summary:
    """Baselines that score as before keep the time that was measured first: what is finished again stays the same."""
    try:
        before = Summary.read(directory)
    except StorageError:  # none yet, or damaged: all is written anew
        return summary
    seconds = {_untimed(one): one.seconds for one in before.baselines}
    kept = [replace(one, seconds=seconds.get(_untimed(one), one.seconds)) for one in summary.baselines]
    return replace(summary, baselines=tuple(kept))


def _untimed(baseline: BaselineSummary) -> BaselineSummary:
    """What it is and how it scores; a summary of before says no parameters."""
    return replace(baseline, seconds=None, parameters=None)


def _has_runs(directory: Path) -> bool:
    """Whether a summary made now would say what the study found; one of a plan alone is better than none."""
    planned, stored = (directory / PLAN).is_file(), (directory / SUMMARY).is_file()
    return planned and ((directory / RUNS).is_dir() or not stored)
