"""When a run's checkpoints are written, and whether it ends with one."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from loratory import units
from loratory.engine.checkpoint import State
from loratory.engine.hardware import Hardware
from loratory.errors import DivergedError, Interrupted, StorageError
from loratory.every import Every
from loratory.interruption import Interruption
from loratory.store.checkpoints import Checkpoints

log = logging.getLogger("loratory")


@dataclass
class RunKeeper:
    """Keeps a run's states beside its place.

    Attributes:
        found: the state to go on from, in every process.
    """

    checkpoints: Checkpoints
    every: Every
    hardware: Hardware
    interruption: Interruption
    found: State | None = None
    _since: float = field(default_factory=time.monotonic)
    _last: int = 0

    @classmethod
    def of(cls, checkpoints: Checkpoints, every: Every, hardware: Hardware, interruption: Interruption) -> RunKeeper:
        """With the newest checkpoint that is whole. The first process finds it, and tells the others where it stands:
        each reads the file itself, whose pages those of one machine share.

        Raises:
            StorageError: the checkpoints there are another run's, or a process does not find what the first one found.
        """
        processes = hardware.processes
        found = checkpoints.newest() if processes.first else None
        told = processes.told(None if found is None else found.told())
        if found is None and told is not None:
            found = told.read()
        state = None if found is None else State(found.tensors, found.facts)
        keeper = cls(checkpoints, every, hardware, interruption, state)
        if state is not None:
            keeper._last = state.step
            _say(state)
        return keeper

    def due(self, steps: int) -> bool:
        """After so many steps or so much time since the last one, and no step twice; at once where a signal came.

        Raises:
            Interrupted: a signal came, and none is to be kept.
        """
        if self.ends():
            return True
        if steps == self._last:
            return False
        if self.every.steps is not None:
            return steps - self._last >= self.every.steps
        return self.every.seconds is not None and time.monotonic() - self._since >= self.every.seconds

    def ends(self) -> bool:
        """Whether a signal came.

        Raises:
            Interrupted: it did, and no state is to be kept.
        """
        if self.interruption.number is not None and not self.every.at_signals:
            raise Interrupted(self.interruption.number)
        return self.interruption.number is not None

    def end(self) -> None:
        """Before the first step: what there is to go on from lies there already.

        Raises:
            Interrupted: a signal came.
        """
        if self.interruption.number is not None:
            kept = f"its next step, with a checkpoint of step {self._last:,} kept; the same command goes on"
            nothing = "its first step, with nothing to keep; the same command starts anew"
            raise Interrupted(self.interruption.number, f"before {kept if self._last else nothing}")

    def keep(self, state: State) -> None:
        """Commit it; where a signal came, the run ends here.

        Raises:
            Interrupted: a signal came, to any of the processes.
            StorageError: the disk refuses.
        """
        processes, refused = self.hardware.processes, None
        if processes.first:
            try:
                place = self.checkpoints.write(state.step, state.tensors, state.facts)
                log.debug("checkpoint of step %d in %s", state.step, place)
            except StorageError as error:
                refused = error
        number, failed = processes.largest(
            [self.interruption.number or 0, int(refused is not None)], self.hardware.device
        )
        self._since, self._last = time.monotonic(), state.step  # of all processes once the first has written
        if failed and refused is None:
            refused = StorageError("the first process could keep no checkpoint")
        if number:
            kept = "of which a checkpoint is kept; the same command goes on"
            what = kept if refused is None else f"and no checkpoint could be kept: {refused}"
            raise Interrupted(number, f"after step {state.step:,}, {what}") from refused
        if refused is not None:
            raise refused


@contextmanager
def forgotten_if_diverged(checkpoints: Checkpoints) -> Iterator[None]:
    """Remove the checkpoints of a run whose loss is no number any more: it would come there again."""
    try:
        yield
    except DivergedError:
        checkpoints.clear()
        raise


def _say(state: State) -> None:
    seconds = state.facts["meter"]["seconds"]["train"]
    log.info("goes on after step %d, %s of training, from a checkpoint", state.step, units.duration(seconds))
