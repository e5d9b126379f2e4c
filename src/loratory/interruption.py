"""SIGINT and SIGTERM while a run trains: the first lets the step under way end, a second stops at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from loratory.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Whether a signal asked the run to end."""

    def __init__(self) -> None:
        self.number: int | None = None
        """The signal's."""
        self._before: dict[int, Callable[[int, FrameType | None], Any]] = {}

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """Take signals meanwhile. One that came and that nobody asked about ends the run afterwards.

        Only a program's main thread gets signals; elsewhere, and for a signal that is ignored, nothing changes.

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
            yield
        finally:
            for number, one in taken.items():
                signal.signal(number, one)
        if self.number is not None:
            raise Interrupted(self.number)

    def _take(self, number: int, frame: FrameType | None) -> None:
        """Python calls it between two steps of the interpreter: nothing is printed here."""
        if self.number is None:
            self.number = number
            return
        if (before := self._before.get(number)) is not None:
            before(number, frame)
        raise Interrupted(number)
