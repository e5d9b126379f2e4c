"""Carrying a plan out: jobs go to an executor as it has room, and what ends may make further jobs possible."""

from __future__ import annotations

import gc
import math
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Protocol

from loratory.inputs import Inputs
from loratory.spec import RunSpec
from loratory.study.jobs import Asked, Job, Outcome, carry_out, known
from loratory.study.plan import Plan


class Executor(Protocol):
    """Where jobs are carried out. A job that is lost with its process is carried out again, some times."""

    slots: int
    """How many jobs run at once."""
    devices: int | None
    """Over how many devices they are spread evenly; None where nobody knows."""

    def __enter__(self) -> Executor: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def known(self, asked: Sequence[Asked]) -> list[tuple[str, str, RunSpec]]:
        """:func:`loratory.study.jobs.known`, where the jobs will be carried out."""
        ...

    def submit(self, job: Job) -> None:
        """Take a job, for a device that then has no more of them than the job's place promises; never more than
        `slots` that have not ended."""
        ...

    def next(self) -> Outcome:
        """Wait for a job to end."""
        ...


class InProcess:
    """One job after the other, in this process, on one device."""

    slots = 1
    devices: int | None = 1

    def __init__(self, inputs: Inputs) -> None:
        self._inputs, self._jobs = inputs, deque[Job]()

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

    def submit(self, job: Job) -> None:
        """Keep the job until it is waited for."""
        self._jobs.append(job)

    def next(self) -> Outcome:
        """Carry it out."""
        return carry_out(self._jobs.popleft(), self._inputs)


def execute(plan: Plan, executor: Executor, *, told: Callable[[Plan, Job], None], alone: bool = False) -> None:
    """Carry out what is missing of `plan`.

    Args:
        told: the plan and the run, after each run that ended.
        alone: final runs begin once no tuning run is under way or waiting, and go one by one on each device, every cell
            with one seed before any with the next: what slows the device for a while slows no cell alone. Else runs
            begin as soon as they are known; in this order too where one goes at a time.

    Raises:
        LoratoryError: what no further run could get past, such as a full disk.
    """
    waiting, running = plan.missing(), dict[str, Job]()
    while waiting or running:
        if alone or executor.slots == 1:
            waiting.sort(key=_turn)
        while waiting and len(running) < _room(waiting[0], running.values(), executor, alone):
            job = _promised(waiting.pop(0), executor, alone)
            executor.submit(job)
            running[job.id] = job
        outcome = executor.next()
        if running.pop(outcome.job.id, None) is None:
            continue  # told twice, or late of one that was carried out again: what was told first counts
        if outcome.record is not None:
            waiting += plan.finished(outcome.job, outcome.record)
            told(plan, outcome.job)
        if outcome.stops is not None:
            raise outcome.stops


def _is_final(job: Job) -> bool:
    return job.place.stage == "final"


def _turn(job: Job) -> tuple[bool, int]:
    return _is_final(job), job.spec.seed if _is_final(job) else 0


def _room(job: Job, running: Collection[Job], executor: Executor, alone: bool) -> int:
    """How many jobs may be under way with `job` among them."""
    if not alone:
        return executor.slots
    if any(_is_final(one) != _is_final(job) for one in running):
        return 0
    return finals_at_once(executor) if _is_final(job) else executor.slots


def finals_at_once(executor: Executor) -> int:
    """How many final runs are under way at once where each has its device to itself."""
    return min(executor.slots, executor.devices or 1)


def _promised(job: Job, executor: Executor, alone: bool) -> Job:
    """The job, told how many of the study's runs its device will have at once: its record says so."""
    most = None if executor.devices is None else math.ceil(executor.slots / executor.devices)
    return replace(job, place=replace(job.place, runs_at_once=1 if alone and _is_final(job) else most))
