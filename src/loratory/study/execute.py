"""Carrying a plan out: jobs go to an executor as it has room, and what ends may make further jobs possible."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Sequence
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

    def __enter__(self) -> Executor: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def known(self, asked: Sequence[Asked]) -> list[tuple[str, str, RunSpec]]:
        """:func:`loratory.study.jobs.known`, where the jobs will be carried out."""
        ...

    def submit(self, job: Job) -> None:
        """Take a job; never more than `slots` that have not ended."""
        ...

    def next(self) -> Outcome:
        """Wait for a job to end."""
        ...


class InProcess:
    """One job after the other, in this process, on one device."""

    slots = 1

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


def execute(plan: Plan, executor: Executor, *, told: Callable[[Plan, Job], None]) -> None:
    """Carry out what is missing of `plan`.

    Args:
        told: the plan and the run, after each run that ended.

    Raises:
        LoratoryError: what no further run could get past, such as a full disk.
    """
    waiting, running = deque(plan.missing()), 0
    while waiting or running:
        while waiting and running < executor.slots:
            executor.submit(waiting.popleft())
            running += 1
        outcome = executor.next()
        running -= 1
        if outcome.record is not None:
            waiting.extend(plan.finished(outcome.job, outcome.record))
            told(plan, outcome.job)
        if outcome.stops is not None:
            raise outcome.stops
