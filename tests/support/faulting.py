"""Faults at the N-th operation by which a process changes the disk: it is killed or stopped there, or refused."""

from __future__ import annotations

import builtins
import io
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

NAMED = ("rename", "replace", "link", "unlink", "mkdir", "rmdir", "fsync")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Operations:
    """Counts them; calls `fault` right before the one with the number `at`, from 1."""

    def __init__(self, at: int, fault: Callable[[str, Any], None]) -> None:
        self.at, self.count, self._fault = at, 0, fault

    def met(self, name: str, path: Any) -> None:
        self.count += 1
        if self.count == self.at:
            self._fault(name, path)


@contextmanager
def faults(at: int, fault: Callable[[str, Any], None]) -> Iterator[Operations]:
    """fsync, rename, link, unlink, mkdir, rmdir and every open for writing of this process, with a fault at one."""
    operations = Operations(at, fault)
    before = {name: getattr(os, name) for name in (*NAMED, "open")}
    opened = builtins.open

    def named(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **settings: Any) -> Any:
            operations.met(name, arguments[0])
            return before[name](*arguments, **settings)

        return call

    def low(path: Any, flags: int, *arguments: Any, **settings: Any) -> int:
        if flags & WRITING:
            operations.met("open", path)
        found: int = before["open"](path, flags, *arguments, **settings)
        return found

    def high(path: Any, mode: str = "r", *arguments: Any, **settings: Any) -> Any:
        if set(mode) & set("wxa+"):
            operations.met("open", path)
        return opened(path, mode, *arguments, **settings)

    try:
        for name in NAMED:
            setattr(os, name, named(name))
        os.open, builtins.open, io.open = low, high, high
        yield operations
    finally:
        for name, function in before.items():
            setattr(os, name, function)
        builtins.open = io.open = opened


def kill(name: str, path: Any) -> None:
    """As power that goes, but for what the system still holds."""
    os.kill(os.getpid(), signal.SIGKILL)


def stop(name: str, path: Any) -> None:
    """For as long as somebody likes."""
    os.kill(os.getpid(), signal.SIGSTOP)


def refuse(number: int) -> Callable[[str, Any], None]:
    """What a disk with this error answers."""

    def fault(name: str, path: Any) -> None:
        raise OSError(number, os.strerror(number), None if isinstance(path, int) else str(path))

    return fault
