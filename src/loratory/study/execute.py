"""Carrying a plan out: tasks go to an executor as it has room, and what ends may make further runs possible."""

from __future__ import annotations

import gc
import logging
import math
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Protocol

from loratory.inputs import Inputs
from loratory.spec import RunSpec
from loratory.store.naming import lookup
from loratory.store.record import RunRecord
from loratory.study.jobs import Asked, Job, known
from loratory.study.plan import Plan
from loratory.study.tasks import NONE, Cohorts, Done, Task, carry_out_task, gathered

log = logging.getLogger("loratory")


class Executor(Protocol):
    """Where tasks are carried out. One that is lost with its process is carried out again, some times."""

    slots: int
    """How many tasks are under way at once."""
    devices: int | None
    """Over how many devices they are spread evenly; None where nobody knows."""

    def __enter__(self) -> Executor: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def known(self, asked: Sequence[Asked]) -> list[tuple[str, str, RunSpec]]:
        """:func:`loratory.study.jobs.known`, where the jobs will be carried out."""
        ...

    def submit(self, task: Task) -> None:
        """Take a task, for a device that then has no more of them than the task promises; never more than `slots` that
        have not ended."""
        ...

    def next(self) -> Done:
        """Wait for a task to end."""
        ...


class InProcess:
    """One task after the other, in this process, on one device."""

    slots = 1
    devices: int | None = 1

    def __init__(self, inputs: Inputs) -> None:
        self._inputs, self._tasks = inputs, deque[Task]()

    def __enter__(self) -> InProcess:
        """Take the libraries out of the collections that each run's meter asks for, which take 0.1 s with them."""
        gc.collect()
        gc.freeze()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass  # what is frozen stays so: the next study of this process would freeze it again

    def known(self, asked: Sequence[Asked]) -> list[tuple[str, str, RunSpec]]:
        """Computed here."""
        return known(asked, self._inputs)

    def submit(self, task: Task) -> None:
        """Keep the task until it is waited for."""
        self._tasks.append(task)

    def next(self) -> Done:
        """Carry it out."""
        return carry_out_task(self._tasks.popleft(), self._inputs)


def execute(
    plan: Plan,
    executor: Executor,
    *,
    told: Callable[[Plan, Job], None],
    alone: bool = False,
    cohorts: Cohorts = NONE,
) -> None:
    """Carry out what is missing of `plan`.

    Args:
        told: the plan and the run, after each run that ended.
        alone: final runs begin once no tuning run is under way or waiting, and go one by one on each device, every cell
            with one seed before any with the next: what slows the device for a while slows no cell alone. Else runs
            begin as soon as they are known; in this order too where one goes at a time.
        cohorts: which runs are trained at once, on one base.

    Raises:
        LoratoryError: what no further run could get past, such as a full disk.
    """
    waiting, running, said = plan.missing(), dict[str, Task](), set[str]()
    while waiting or running:
        if alone or executor.slots == 1:
            waiting.sort(key=_turn)
        while waiting and len(running) < _room(waiting[0], running.values(), executor, alone):
            jobs = gathered(waiting, cohorts, executor.slots)
            taken = {job.id for job in jobs}
            waiting = [job for job in waiting if job.id not in taken]
            task = _promised(jobs, executor, alone)
            executor.submit(task)
            running[task.name] = task
        done = executor.next()
        if running.pop(done.task.name, None) is None:
            continue  # told twice, or late of one that was carried out again: what was told first counts
        waiting += done.again
        for outcome in done.outcomes:
            _show(outcome.traces, said)
            if outcome.record is not None:
                _say_if_apart(outcome.record, said)
                waiting += plan.finished(outcome.job, outcome.record)
                told(plan, outcome.job)
            if outcome.stops is not None:
                raise outcome.stops


def _say_if_apart(record: RunRecord, said: set[str]) -> None:
    """That a run which was to be in a cohort was trained alone, and why: once for each reason."""
    why = lookup(record.study, "apart")
    if isinstance(why, str) and why not in said:
        said.add(why)
        log.warning("%s, and others if need be, trained alone and in no cohort: %s", record.id, why)


def _show(traces: Sequence[str], said: set[str]) -> None:
    """Tracebacks, for `--debug`, line by line; one that several runs share once."""
    for trace in traces:
        if trace not in said:
            said.add(trace)
            for line in trace.splitlines():
                log.debug("%s", line)


def _is_final(job: Job) -> bool:
    return job.place.stage == "final"


def _turn(job: Job) -> tuple[bool, int]:
    return _is_final(job), job.spec.seed if _is_final(job) else 0


def _room(job: Job, running: Collection[Task], executor: Executor, alone: bool) -> int:
    """How many tasks may be under way with that of `job` among them."""
    if not alone:
        return executor.slots
    if any(_is_final(one.jobs[0]) != _is_final(job) for one in running):
        return 0
    return finals_at_once(executor) if _is_final(job) else executor.slots


def finals_at_once(executor: Executor) -> int:
    """How many final runs are under way at once where each has its device to itself."""
    return min(executor.slots, executor.devices or 1)


def _promised(jobs: Sequence[Job], executor: Executor, alone: bool) -> Task:
    """The jobs as a task, told how many of the study's runs their device will have at once: their records say so."""
    most = None if executor.devices is None else math.ceil(executor.slots / executor.devices)
    if alone and _is_final(jobs[0]):
        most = 1
    return Task(tuple(replace(job, place=replace(job.place, runs_at_once=most)) for job in jobs), most)
