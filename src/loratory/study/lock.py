"""One launcher at a time: who runs a study holds its directory, and says who it is."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from loratory import units
from loratory.errors import StorageError
from loratory.store.files import write_durably
from loratory.study.layout import LAUNCHER, LOCK


@dataclass(frozen=True)
class Launcher:
    """The process that runs a study."""

    pid: int
    host: str
    since: str
    """Its start, ISO 8601 in UTC."""
    workers: int = 1
    """How many runs it has under way at once."""
    finals: int | None = None
    """How many final runs, where it is another number."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} has been running it since {units.moment(self.since)}"


@contextmanager
def launching(directory: Path) -> Iterator[Callable[[int, int], None]]:
    """Hold a study's directory; the lock is the operating system's, and ends with this process however it ends.

    Yields:
        What is to be told how many tuning runs and how many final runs are under way at once, for whoever asks.

    Raises:
        StorageError: another process holds it, which is named, or the place cannot be written.
    """
    there = directory.exists()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = FileLock(directory / LOCK, timeout=0.5)  # `status` may hold it for a moment
        lock.acquire()
    except Timeout:
        who = _named(directory)
        raise StorageError(f"{directory}: {who or 'another process is running it'}; wait for it, or stop it") from None
    except OSError as error:
        raise StorageError(f"cannot write to {directory}: {error.strerror}; choose another --output") from error
    try:
        me = Launcher(os.getpid(), socket.gethostname(), datetime.now(UTC).isoformat(timespec="seconds"))

        def tell(workers: int, finals: int) -> None:
            said = replace(me, workers=workers, finals=finals if finals != workers else None)
            write_durably(directory / LAUNCHER, json.dumps(asdict(said)) + "\n")

        tell(1, 1)
        yield tell
    finally:
        with suppress(OSError):
            (directory / LAUNCHER).unlink()
        if not there and [*directory.iterdir()] == [directory / LOCK]:  # refused: it leaves no empty directory
            with suppress(OSError):
                (directory / LOCK).unlink()
                directory.rmdir()
        lock.release()


def launcher(directory: Path) -> Launcher | None:
    """Who runs the study in `directory` now; None where nobody does."""
    if not (directory / LOCK).exists():
        return None
    try:
        with FileLock(directory / LOCK, timeout=0):
            return None
    except Timeout:
        return _named(directory)
    except OSError:  # a directory that may only be read: nobody can be asked
        return _named(directory)


def _named(directory: Path) -> Launcher | None:
    try:
        return Launcher(**json.loads((directory / LAUNCHER).read_text("utf8")))
    except (OSError, ValueError, TypeError):
        return None
