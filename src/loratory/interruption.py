"""SIGINT and SIGTERM while a run trains: the first lets the step under way end, or what comes after the last one; a
second stops at once.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from loratory.errors import Interrupted, first_line

SIGNALS = (signal.SIGINT, signal.SIGTERM)

AGAIN = 2.0
"""Seconds in which a repeated signal counts as the first: who ends a whole group of processes reaches each of them, and
whoever started them tells them once more.
"""


class Interruption:
    """Whether a signal asked the run to end."""

    def __init__(self) -> None:
        self.number: int | None = None
        """The signal's."""
        self._since = 0.0
        self._before: dict[int, Callable[[int, FrameType | None], Any]] = {}

    @contextmanager
    def awaited(self, *, done: str = "") -> Iterator[None]:
        """Take signals meanwhile. One that came and that nobody asked about ends the run afterwards.

        Only a program's main thread gets signals; elsewhere, and for a signal that is ignored, nothing changes.

        Args:
            done: says what there is when all was done in spite of a signal.

        Raises:
            Interrupted: at the end, where a signal came.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {number: signal.getsignal(number) for number in SIGNALS}
        taken = {number: one for number, one in previous.items() if one is not signal.SIG_IGN and one is not None}
        self._before = {number: one for number, one in taken.items() if callable(one)}
        try:
            for number in taken:
                signal.signal(number, self._take)
            with self.first():
                yield
        finally:
            for number, one in taken.items():
                signal.signal(number, one)
        if self.number is not None:
            raise Interrupted(self.number, done)

    @contextmanager
    def first(self) -> Iterator[None]:
        """Let a signal that came go before an error that comes: somebody wants all to end.

        Raises:
            Interrupted: in the error's place, and says it.
        """
        try:
            yield
        except Exception as error:  # whatever ended the run
            if self.number is None:
                raise
            raise Interrupted(self.number, f"while the run failed: {first_line(error)}") from error

    def _take(self, number: int, frame: FrameType | None) -> None:
        """Python calls it between two steps of the interpreter: nothing is printed here."""
        if self.number is None:
            self.number, self._since = number, time.monotonic()
            return
        if time.monotonic() - self._since < AGAIN:
            return
        if (before := self._before.get(number)) is not None:
            before(number, frame)
        raise Interrupted(number)


@contextmanager
def before_first_step() -> Iterator[None]:
    """A signal that ends what is made ready inside says what becomes of the run; its states are not looked for yet.

    Raises:
        Interrupted: a signal came.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        number = error.number if isinstance(error, Interrupted) else signal.SIGINT
        after = "before its first step; the same command goes on from a checkpoint if there is one, else starts anew"
        raise Interrupted(number, after) from error
