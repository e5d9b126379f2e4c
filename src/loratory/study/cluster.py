"""Tasks in Ray's workers, on a cluster that Ray starts on this machine or on one that is there (`RAY_ADDRESS`).

A worker has its CPU cores or its GPU to itself, and carries out task after task: libraries and CUDA start once.
A task whose worker or node is lost is carried out again; a study whose launcher is lost goes on when it is started
again, because runs are found where they were committed. The study's directory, data and models stand under the same
paths on every node.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
from collections import deque
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from loratory.errors import Interrupted, ResourceError, first_line
from loratory.inputs import Inputs
from loratory.spec import RunSpec
from loratory.study.jobs import Asked, Outcome, known
from loratory.study.tasks import Done, Task, carry_out_task, given_up
from loratory.study.workers import RETRIES

log = logging.getLogger("loratory")


IDLE = 20.0
"""Seconds after which workers that have no task go, so that one whose node was lost finds room elsewhere."""


class Worker:
    """Ray's actor."""

    def do(self, function: Any, *arguments: Any) -> Any:
        """`function` of the arguments."""
        try:
            return function(*arguments)
        finally:
            gc.collect()  # a run that failed is held by its own traceback: frozen, its model would stay for good
            gc.freeze()  # later collections, a few a run, need not look through the libraries


class Cluster:
    """Workers of a Ray cluster, with token authentication on unless `RAY_AUTH_MODE` says otherwise."""

    def __init__(self, slots: int | None, inputs: Inputs, *, cuda: bool, threads: int) -> None:
        """
        Args:
            slots: the most workers; None for as many as the cluster has room for.
            inputs: what this process reads.
            cuda: whether a worker needs a GPU.
            threads: CPU cores that a worker needs.
        """
        self._asked_slots, self._inputs = slots, inputs
        self._needs = {"num_cpus": threads, "num_gpus": int(cuda)}
        self._waiting = deque[Task]()
        self._tasks: dict[Any, tuple[Task, Any]] = {}
        """Each task under way, with its worker."""
        self._starting: dict[Any, Any] = {}
        """Workers that have not answered yet, by the answer that is awaited: others may have what they need."""
        self._idle: list[Any] = []
        self._environment = {name: os.environ[name] for name in ("LORATORY_DATA",) if name in os.environ}
        self.slots = 1
        self.devices: int | None = None

    def __enter__(self) -> Cluster:
        """Join the cluster, or start one; its workers start while the study is planned.

        Raises:
            ResourceError: Ray is not installed, or there is no cluster to join, or it has no room for a single worker.
        """
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # read when Ray is imported
        try:
            import ray
        except ImportError:
            raise ResourceError('--executor ray needs Ray; pip install "loratory[ray]"') from None
        handler = signal.getsignal(signal.SIGTERM)
        joined = bool(os.environ.get("RAY_ADDRESS"))  # else one of its own, not the last that was left running here
        own: dict[str, Any] = {} if joined else {"address": "local", "include_dashboard": False}
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, configure_logging=False, **own)
        except Exception as error:  # Ray has no one class for the ways in which a cluster cannot be joined
            raise ResourceError(f"--executor ray: {first_line(error)}") from error
        signal.signal(signal.SIGTERM, handler)  # Ray puts its own there
        room = sum(self._room(node["Resources"]) for node in ray.nodes() if node["Alive"])
        if room == 0:
            ray.shutdown()
            raise ResourceError(
                f"--executor ray: no node has room for a run ({self._needs}); lower threads under train, or join it"
            )
        self.slots = room if self._asked_slots is None else min(room, self._asked_slots)
        if self._needs["num_gpus"]:
            self.devices = self.slots  # a worker's GPU is its own; which node's CPU it will have, only Ray knows
        for _ in range(self.slots):
            self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the cluster, which ends the workers; one that was started here ends too."""
        import ray

        self._idle.clear()
        self._starting.clear()
        self._tasks.clear()
        ray.shutdown()

    def _room(self, node: Mapping[str, float]) -> int:
        """How many runs a node of these resources holds at once."""
        kinds = (("CPU", "num_cpus"), ("GPU", "num_gpus"))
        return min(int(node.get(kind, 0) // self._needs[key]) for kind, key in kinds if self._needs[key])

    def known(self, asked: Sequence[Asked]) -> list[tuple[str, str, RunSpec]]:
        """Computed by a worker, because the device and the libraries there count.

        Raises:
            LoratoryError: as it was raised there.
        """
        import ray

        try:
            worker = self._first()
            answer: list[tuple[str, str, RunSpec]] = ray.get(
                worker.do.remote(_known, list(asked), Path.cwd(), self._environment)
            )
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            raise ResourceError(f"--executor ray: {first_line(error)}") from error
        self._idle.append(worker)
        return answer

    def submit(self, task: Task) -> None:
        """Give the task to a worker that has none, as soon as there is one."""
        self._waiting.append(task)
        self._deal()

    def next(self) -> Done:
        """Wait for a task to end; the failure of one that Ray has given up."""
        import ray

        while True:
            awaited = [*self._tasks, *(self._starting if self._waiting else [])]
            ended, _ = ray.wait(awaited, num_returns=1, timeout=None if self._waiting else IDLE)
            if not ended:
                self._idle.clear()
                self._starting.clear()
            elif ended[0] in self._starting:
                self._came(ended[0])
                self._deal()
            else:
                return self._done(ended[0])

    def _done(self, ended: Any) -> Done:
        """How a task ended; where a cohort was given up, its runs come back, to be carried out alone."""
        import ray

        task, worker = self._tasks.pop(ended)
        try:
            done: Done = ray.get(ended)
        except ray.exceptions.RayTaskError as error:  # raised before the run began, as where Loratory is not installed
            stops = ResourceError(f"--executor ray: {task.name}: {first_line(error.cause)}")
            return Done(task, [Outcome(task.jobs[0], None, stops=stops)])
        except ray.exceptions.RayError as error:
            message = f"Ray gave it up after {RETRIES + 1} times: {first_line(error)}"
            if len(task.jobs) > 1:
                return Done(task, [], apart=message)
            return given_up(task, message, self._inputs)
        self._idle.append(worker)
        self._deal()
        return done

    def _deal(self) -> None:
        """Give waiting tasks to workers without one; for those that are left, as many workers start."""
        while self._waiting and self._idle:
            task, worker = self._waiting.popleft(), self._idle.pop()
            self._tasks[worker.do.remote(_carry_out, task, self._environment)] = task, worker
        for _ in range(len(self._waiting) - len(self._starting)):
            self._start()

    def _first(self) -> Any:
        """A worker without a task, the first that answers where none has yet."""
        import ray

        if not self._idle:
            if not self._starting:
                self._start()
            (answer,), _ = ray.wait(list(self._starting), num_returns=1)
            self._came(answer)
        return self._idle.pop()

    def _came(self, answer: Any) -> None:
        self._idle.append(self._starting.pop(answer))

    def _start(self) -> None:
        """Start a worker. Lost, it starts again, wherever there is room, and so does its task, some times."""
        import ray

        worker = ray.remote(Worker).options(max_restarts=-1, max_task_retries=RETRIES, **self._needs).remote()
        self._starting[worker.do.remote(os.getpid)] = worker


@cache
def _inputs() -> Inputs:
    """What this worker's process has read, for its tasks one after the other."""
    return Inputs()


def _known(asked: list[Asked], folder: Path, environment: dict[str, str]) -> list[tuple[str, str, RunSpec]]:
    os.environ.update(environment)
    os.chdir(folder)
    return known(asked, _inputs())


def _carry_out(task: Task, environment: dict[str, str]) -> Done:
    os.environ.update(environment)
    try:
        return carry_out_task(task, _inputs())
    except Interrupted:  # its node goes; as a lost worker's, its task is carried out again
        os._exit(1)
