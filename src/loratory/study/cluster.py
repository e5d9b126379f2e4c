"""Jobs as Ray tasks, on a cluster that Ray starts on this machine or on one that is there (`RAY_ADDRESS`).

A task says how many CPU cores or GPUs it needs. One whose worker or node is lost is carried out again; a study whose
launcher is lost goes on when it is started again, because runs are found where they were committed. The study's
directory, data and models stand under the same paths on every node.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from loratory.errors import Interrupted, ResourceError, StorageError, first_line
from loratory.inputs import Inputs
from loratory.spec import RunSpec
from loratory.study.jobs import Asked, Job, Outcome, carry_out, known, leave_failure
from loratory.study.workers import RETRIES

log = logging.getLogger("loratory")


class Cluster:
    """Tasks of a Ray cluster, with token authentication on unless `RAY_AUTH_MODE` says otherwise."""

    def __init__(self, slots: int | None, inputs: Inputs, *, cuda: bool, threads: int) -> None:
        """
        Args:
            slots: the most tasks at once; None for as many as the cluster has room for.
            inputs: what this process reads.
            cuda: whether a task needs a GPU.
            threads: CPU cores that a task needs.
        """
        self._asked_slots, self._inputs = slots, inputs
        self._needs = {"num_cpus": threads, "num_gpus": int(cuda)}
        self._jobs: dict[Any, Job] = {}
        self._environment = {name: os.environ[name] for name in ("LORATORY_DATA",) if name in os.environ}
        self.slots = 1
        self.devices: int | None = None

    def __enter__(self) -> Cluster:
        """Join the cluster, or start one.

        Raises:
            ResourceError: Ray is not installed, or there is no cluster to join, or it has no room for a single task.
        """
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # read when Ray is imported
        os.environ.setdefault("RAY_task_oom_retries", str(RETRIES))  # else without end
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
            self.devices = self.slots  # a task's GPU is its own; which node's CPU it will have, only Ray knows
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the cluster, which ends the tasks under way; one that was started here ends too."""
        import ray

        ray.shutdown()

    def _room(self, node: Mapping[str, float]) -> int:
        """How many runs a node of these resources holds at once."""
        kinds = (("CPU", "num_cpus"), ("GPU", "num_gpus"))
        return min(int(node.get(kind, 0) // self._needs[key]) for kind, key in kinds if self._needs[key])

    def known(self, asked: Sequence[Asked]) -> list[tuple[str, str, RunSpec]]:
        """Computed in a task, because the device and the libraries there count.

        Raises:
            LoratoryError: as it was raised there.
        """
        import ray

        found = self._task(_known, list(asked), Path.cwd(), self._environment)
        try:
            answer: list[tuple[str, str, RunSpec]] = ray.get(found)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            raise ResourceError(f"--executor ray: {first_line(error)}") from error
        return answer

    def submit(self, job: Job) -> None:
        """Give the job to the cluster."""
        self._jobs[self._task(_carry_out, job, self._environment)] = job

    def next(self) -> Outcome:
        """Wait for a job to end; the failure of one that Ray has given up."""
        import ray

        (ended, *_), _ = ray.wait(list(self._jobs), num_returns=1)
        job = self._jobs.pop(ended)
        try:
            outcome: Outcome = ray.get(ended)
        except ray.exceptions.RayTaskError as error:  # raised before the run began, as where Loratory is not installed
            return Outcome(job, None, stops=ResourceError(f"--executor ray: {job.id}: {first_line(error.cause)}"))
        except ray.exceptions.RayError as error:
            message = f"Ray gave it up after {RETRIES + 1} times: {first_line(error)}"
            try:
                return Outcome(job, leave_failure(job, message, self._inputs))
            except StorageError as full:
                return Outcome(job, None, stops=full)
        return outcome

    def _task(self, function: Any, *arguments: Any) -> Any:
        import ray

        return ray.remote(function).options(max_retries=RETRIES, **self._needs).remote(*arguments)


@cache
def _inputs() -> Inputs:
    """What this worker's process has read, for its tasks one after the other."""
    return Inputs()


def _known(asked: list[Asked], folder: Path, environment: dict[str, str]) -> list[tuple[str, str, RunSpec]]:
    os.environ.update(environment)
    os.chdir(folder)
    return known(asked, _inputs())


def _carry_out(job: Job, environment: dict[str, str]) -> Outcome:
    os.environ.update(environment)
    try:
        return carry_out(job, _inputs())
    except Interrupted:  # its node goes; as a lost worker's, its job is carried out again, from its checkpoint
        os._exit(1)
