"""Tasks in several processes of this machine: on a CPU its threads divided among them, on CUDA a GPU each in turn."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import TracebackType

import torch

from loratory.errors import Interrupted, counted
from loratory.inputs import Inputs
from loratory.interruption import AGAIN
from loratory.spec import RunSpec
from loratory.study.jobs import Asked, known
from loratory.study.tasks import Done, Task, carry_out_task, given_up

log = logging.getLogger("loratory")

RETRIES = 2
"""How often a task is carried out again after its process was lost."""


PATIENCE = 60.0
"""Seconds in which a run under way may come to its checkpoint when a study ends before it."""


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    gpu: str | None
    task: Task | None = None


class Workers:
    """A number of processes, each with one task at a time. They end with this one, however it ends."""

    def __init__(self, slots: int, inputs: Inputs, *, cuda: bool) -> None:
        """
        Args:
            slots: how many processes.
            inputs: what this process reads to know the jobs.
            cuda: whether each gets one of the GPUs that are visible here.
        """
        self.slots = slots
        self._inputs = inputs
        self._gpus = visible_gpus() if cuda else []
        self.devices: int | None = max(1, min(slots, len(self._gpus)))
        self._workers: list[_Worker] = []
        self._lost = Counter[str]()

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every process; what a killed one leaves is cleared away by the next that comes there.

        Where a signal ends the study, or a run that no other could get past, each run under way finishes its step and
        writes a checkpoint first; a second signal does not wait for that.
        """
        if error is not None:
            self._checkpointed()
        for worker in self._workers:
            worker.process.kill()
        for worker in list(self._workers):
            self._end(worker)

    def _checkpointed(self) -> None:
        """Let the runs under way come to a checkpoint."""
        busy = [worker.process for worker in self._workers if worker.task is not None]
        for process in busy:
            process.terminate()  # which a run that trains takes as its signal to come to an end
        begin = time.monotonic()
        while any(process.is_alive() for process in busy) and time.monotonic() - begin < PATIENCE:
            try:
                connection.wait([process.sentinel for process in busy if process.is_alive()], timeout=1.0)
            except KeyboardInterrupt:
                if time.monotonic() - begin > AGAIN:
                    return

    def known(self, asked: Sequence[Asked]) -> list[tuple[str, str, RunSpec]]:
        """Computed here: all processes have this machine's devices and libraries."""
        return known(asked, self._inputs)

    def submit(self, task: Task) -> None:
        """Give the task to a process that has none, on a GPU that has room for it; one is started where there is none.

        A task that is to have its GPU to itself finds no other process there, which would still hold memory.
        """
        for one in [one for one in self._workers if one.task is None and not one.process.is_alive()]:
            self._end(one)
        busy = Counter(one.gpu for one in self._workers if one.task is not None)
        most = task.at_once or self.slots
        worker = next((one for one in self._workers if one.task is None and busy[one.gpu] < most), None)
        if worker is None:
            worker = self._start()
        worker.task = task
        if most == 1:
            for one in [one for one in self._workers if one.task is None and one.gpu == worker.gpu]:
                self._end(one)
        with suppress(BrokenPipeError, ConnectionResetError):  # it ended just now: `next` meets the end of its pipe
            worker.pipe.send(task)

    def next(self) -> Done:
        """Wait for a task to end; one whose process was lost is carried out again, twice at most."""
        while True:
            busy = {worker.pipe: worker for worker in self._workers if worker.task is not None}
            for pipe in connection.wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]  # wait gives what it was given
                try:
                    done: Done = worker.pipe.recv()
                except (EOFError, ConnectionResetError):
                    lost = self._after_loss(worker)
                    if lost is not None:
                        return lost
                    break
                worker.task = None
                return done

    def _start(self) -> _Worker:
        spawn = multiprocessing.get_context("spawn")  # a fork would share CUDA and the threads of libraries
        ours, theirs = spawn.Pipe()
        gpu = self._free_gpu()
        process = spawn.Process(target=serve, args=(theirs,), daemon=True)
        with _seeing(gpu):
            process.start()
        theirs.close()  # so that the pipe ends when the process does
        self._workers.append(_Worker(process, ours, gpu))
        return self._workers[-1]

    def _end(self, worker: _Worker) -> None:
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()
        self._workers.remove(worker)

    def _free_gpu(self) -> str | None:
        """The GPU that the fewest processes have, the first of equals."""
        taken = Counter(worker.gpu for worker in self._workers)
        return min(self._gpus, key=lambda one: taken[one]) if self._gpus else None

    def _after_loss(self, worker: _Worker) -> Done | None:
        """Carry the run of a lost process out in another one; its failure where it was lost too often. Runs of a cohort
        come back, to be carried out alone."""
        task = worker.task
        assert task is not None
        worker.process.join()  # by itself, so that its exit code says how it ended
        self._end(worker)
        self._lost[task.name] += 1
        ended = f"its process ended with {_said(worker.process.exitcode)}"
        if len(task.jobs) > 1:
            return Done(task, [], apart=ended)
        if self._lost[task.name] <= RETRIES:
            log.warning("%s: %s; it is run again", task.name, ended)
            self.submit(task)
            return None
        message = f"{ended}, {counted(RETRIES + 1, 'time')}; it may need more memory than there is"
        return given_up(task, message, self._inputs)


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [one.strip() for one in named.split(",")] if named else list(map(str, range(torch.cuda.device_count())))


@contextmanager
def _seeing(gpu: str | None) -> Iterator[None]:
    """A process that starts here sees `gpu` alone: it must know before CUDA is asked for anything."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    try:
        yield
    finally:
        if gpu is not None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
            if before is not None:
                os.environ["CUDA_VISIBLE_DEVICES"] = before


def _said(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    return signal.Signals(-code).name


def serve(pipe: Connection) -> None:
    """Carry out tasks from `pipe` until its other end is closed. Runs in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the launcher, which ends this process
    logging.getLogger("loratory").setLevel(logging.ERROR)  # what is to be told was told where the study was planned
    logging.getLogger("loratory.tracking").setLevel(logging.WARNING)  # but a tracker fails here
    _end_with_parent()
    inputs = Inputs()
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        try:
            done = carry_out_task(task, inputs)
        except Interrupted:  # the launcher ends, too
            return
        pipe.send(done)
        gc.collect()  # a run that failed is held by its own traceback: frozen, its model would stay for good
        gc.freeze()  # by now the libraries are loaded: later collections, a few a run, need not look through them


def _end_with_parent() -> None:
    """End this process as soon as the one that started it has ended, in the midst of a run too."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
