"""A study from its file to its last run: hold the directory, plan, say what is planned, carry it out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from loratory.engine.hardware import device_type
from loratory.errors import DamagedError, SettingsError, StorageError, counted, nearest
from loratory.every import Every
from loratory.inputs import Inputs
from loratory.spec import HardwareSpec
from loratory.store.checkpoints import clear_orphans
from loratory.store.directory import counted_run, set_aside
from loratory.store.naming import lookup
from loratory.study.cluster import Cluster
from loratory.study.execute import Executor, InProcess, execute, finals_at_once
from loratory.study.fitting import check_settings, judged, warn_of_study
from loratory.study.jobs import Job
from loratory.study.layout import PLAN, RUNS, STUDY, read_json
from loratory.study.lock import launching
from loratory.study.plan import Plan, not_alone, unfinished, without_use, without_weights
from loratory.study.reading import file_says_otherwise
from loratory.study.spec import StudySpec
from loratory.study.tasks import Cohorts
from loratory.study.wording import of_the_file
from loratory.study.workers import Workers
from loratory.tracking import chosen

log = logging.getLogger("loratory")

EXECUTORS = ("local", "ray")


def launch(
    spec: StudySpec,
    text: str,
    directory: Path,
    *,
    executor: str = "local",
    workers: int | None = None,
    alone: bool = False,
    cohort: str | None = None,
    retry_failed: bool = False,
    tracker: Sequence[str] = (),
    checkpoint_every: str | None = None,
    inputs: Inputs | None = None,
    planned: Callable[[Plan, int, int], None],
    told: Callable[[Plan, Job], None],
) -> Plan:
    """Run what is missing of a study.

    Args:
        text: the study file, which the directory keeps.
        executor: `local` or `ray`.
        workers: runs at once; one by default, with Ray as many as there is room for.
        alone: whether final runs go one by one on each device, after all tuning runs.
        cohort: which runs are trained at once on one base: `off`, `auto` (the default), or a number; see
            :meth:`loratory.study.tasks.Cohorts.read`.
        retry_failed: run again what failed before.
        tracker: who follows each run, by the names in :mod:`loratory.tracking`.
        checkpoint_every: how often each run's state is kept, as :func:`loratory.run.train` takes it.
        inputs: keeps what is read.
        planned: told the plan before anything is run, and how many tuning and final runs will be under way at once.
        told: told the plan and the run, after each run that ended.

    Raises:
        SettingsError: a setting that cannot be meant, or does not fit its model.
        StorageError: another process runs the study, or the directory holds something else or cannot be written.
        LoratoryError: data, models, devices or packages are missing.
    """
    _check_executor(executor, workers, alone=alone)
    trackers = chosen(tracker)
    cuda = device_type(HardwareSpec(device=spec.train.get("device", "auto"))) == "cuda"
    cohorts = Cohorts.read(cohort, cuda=cuda, alone=alone, tracked=bool(trackers), kept=checkpoint_every is not None)
    Every.read(checkpoint_every)  # what cannot be meant is refused before anything is planned
    _check_place(directory)
    with launching(directory) as tell, of_the_file():
        _set_aside_damaged_plan(directory)
        _say_what_changed(directory, spec)
        inputs = inputs or Inputs()
        spec = judged(spec, inputs)
        check_settings(spec, inputs)
        warn_of_study(spec, inputs)
        tell.held.write(directory / STUDY, text)
        beside = torch.cuda.device_count() if executor == "ray" and cuda else 1  # each GPU of a node has its worker
        threads = _threads(directory, spec, workers or beside)
        with _executor(executor, workers, inputs, cuda=cuda, threads=threads) as place:
            plan = Plan(
                spec,
                directory,
                known=place.known,
                threads=threads,
                retry_failed=retry_failed,
                tracker=trackers,
                write=tell.held.write,
                checkpoint_every=checkpoint_every,
            )
            _say_what_fits(plan)
            _say_what_runs_of_before_lack(plan, alone=alone)
            finals = finals_at_once(place) if alone else place.slots
            tell(place.slots, finals)
            planned(plan, place.slots, finals)
            execute(plan, place, told=told, alone=alone, cohorts=cohorts)
            _clear_orphans(plan)
    return plan


def _check_executor(executor: str, workers: int | None, *, alone: bool) -> None:
    """Refuse what cannot be meant by them.

    Raises:
        SettingsError: it cannot.
    """
    if executor not in EXECUTORS:
        raise SettingsError(f"--executor {executor!r}; {nearest(executor, EXECUTORS)}")
    if workers is not None and workers < 1:
        raise SettingsError(f"--workers {workers}: give 1 or more")
    if alone and executor == "ray":
        raise SettingsError("--alone goes with --executor local; a Ray worker has its GPU, or its CPU cores, reserved")


def _say_what_fits(plan: Plan) -> None:
    """Where runs of before do not fit the plan: how many do, and how many do not."""
    if others := without_use(plan):
        done, fits = plan.done, "fits" if plan.done == 1 else "fit"
        fit = f"{counted(done, 'run')} of before {fits} and {_is(done)} used again" if done else "no run of before fits"
        late = ", unless a rate that is yet to be chosen leads to them" if plan.choosing else ""
        log.warning(
            "%s: %s; %s of other settings, data, versions or devices: kept, not used%s",
            *(plan.directory, fit, f"{others:,} {_is(others)}", late),
        )


def _is(number: int) -> str:
    return "is" if number == 1 else "are"


def _say_what_runs_of_before_lack(plan: Plan, *, alone: bool) -> None:
    runs = plan.directory / RUNS
    if bare := without_weights(plan):
        log.warning(
            "%s: %s without weights; remove their directories to train them again", runs,
            f"{counted(bare, 'final run')} of before {_is(bare)}",
        )  # fmt: skip
    if alone and (crowded := not_alone(plan)):
        log.warning(
            "%s: %s of before shared a device, or may have; remove their directories to time them again",
            runs, counted(crowded, "final run"),
        )  # fmt: skip


def _clear_orphans(plan: Plan) -> None:
    """Remove checkpoints that nobody goes on from: of runs that completed, or that no plan names any more."""
    try:
        if cleared := clear_orphans(plan.directory / RUNS, unfinished(plan)):
            said = counted(cleared, "checkpoint")
            log.info("%s: %s removed, of runs that completed or are no longer planned", plan.directory, said)
    except StorageError as error:  # all runs are there, whatever else is
        log.warning("%s", error)


def _executor(name: str, workers: int | None, inputs: Inputs, *, cuda: bool, threads: int) -> Executor:
    if name == "ray":
        return Cluster(workers, inputs, cuda=cuda, threads=threads)
    return Workers(workers, inputs, cuda=cuda) if workers is not None and workers > 1 else InProcess(inputs)


def _threads(directory: Path, spec: StudySpec, workers: int) -> int:
    """CPU threads of each run: the file's; else those the study began with, because sums depend on them; else the
    machine's, divided among the workers."""
    if "threads" in spec.train:
        return int(spec.train["threads"])
    if (directory / PLAN).is_file() and isinstance(before := read_json(directory / PLAN).get("threads"), int):
        return before
    for path in (directory / RUNS).glob("[!.]*") if not (directory / PLAN).is_file() else ():  # the plan was lost
        record = counted_run(path)
        if record is not None and isinstance(before := lookup(record.spec, "hardware", "threads"), int):
            return before
    return max(1, torch.get_num_threads() // workers)


def _set_aside_damaged_plan(directory: Path) -> None:
    """A damaged plan is made anew, from the study's file and the runs that are there."""
    try:
        if (directory / PLAN).exists():
            read_json(directory / PLAN)
    except DamagedError as error:
        set_aside(directory / PLAN, str(error).partition("; ")[0])


def _check_place(directory: Path) -> None:
    if directory.is_dir():
        others = [path for path in directory.iterdir() if path.name[0] != "."]
        if others and not (directory / STUDY).is_file():
            raise StorageError(f"{directory} is not empty and holds no study; choose another --output")
    elif directory.exists():
        raise StorageError(f"{directory} is a file; choose another --output")


def _say_what_changed(directory: Path, spec: StudySpec) -> None:
    before = directory / STUDY
    if (directory / PLAN).is_file() and (name := read_json(directory / PLAN).get("name")) != spec.name:
        raise StorageError(f"{directory} holds the study {name!r}, not {spec.name!r}; choose another --output")
    for line in file_says_otherwise(before, spec) if before.is_file() else []:
        log.warning("%s: %s", before, line)
