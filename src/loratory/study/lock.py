"""One launcher at a time: who runs a study holds its directory, and says who it is."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from loratory import units
from loratory.disk.files import clear_work
from loratory.disk.json_text import parsed
from loratory.errors import StorageError
from loratory.store.lock import Held, hold, is_held
from loratory.study.layout import FIGURES, LAUNCHER, LOCK, PLAN, SELECTIONS, STUDY


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


class Launching:
    """A study's directory, held; what the study writes there goes through :attr:`held`."""

    def __init__(self, directory: Path, held: Held) -> None:
        self._directory, self.held = directory, held
        self._me = Launcher(os.getpid(), socket.gethostname(), datetime.now(UTC).isoformat(timespec="seconds"))

    def __call__(self, workers: int, finals: int) -> None:
        """Tell whoever asks how many tuning runs and how many final runs are under way at once."""
        said = replace(self._me, workers=workers, finals=finals if finals != workers else None)
        self.held.write(self._directory / LAUNCHER, json.dumps(asdict(said)) + "\n")


@contextmanager
def launching(directory: Path) -> Iterator[Launching]:
    """Hold a study's directory, and clear away what killed processes were writing there.

    Raises:
        StorageError: another process holds it, which is named, or the place cannot be written.
    """

    def taken() -> str:
        return f"{directory}: {_named(directory) or 'another process is running it'}; wait for it, or stop it"

    with hold(directory / LOCK, patience=0.5, taken=taken, lasting=True) as held:
        for place in (directory, directory / SELECTIONS, directory / FIGURES):
            _clear(place, held.number)
        tell = Launching(directory, held)
        try:
            tell(1, 1)
            yield tell
        finally:
            if held.is_ours():
                with suppress(OSError):
                    (directory / LAUNCHER).unlink()


def _clear(directory: Path, number: int) -> None:
    try:
        clear_work(directory, number)
    except OSError as error:
        raise StorageError(f"cannot clear away {error.filename}, left by a killed process: {error.strerror}") from error


def check_planned(directory: Path) -> None:
    """Refuse a study that has no plan yet, and say whether somebody is starting it.

    Raises:
        StorageError: it is one.
    """
    if (directory / PLAN).is_file():
        return
    if is_held(directory / LOCK):
        who = _named(directory) or "a process is starting it"
        raise StorageError(f"{directory} is not planned yet; {who}: ask again once it is")
    if (directory / LOCK).is_file() or (directory / STUDY).is_file():
        raise StorageError(
            f"{directory} has no plan, and nobody is running it; `loratory study run` with its file makes one"
        )


def launcher(directory: Path) -> Launcher | None:
    """Who runs the study in `directory` now; None where nobody does."""
    return _named(directory) if is_held(directory / LOCK) else None


def _named(directory: Path) -> Launcher | None:
    try:
        return Launcher(**parsed((directory / LAUNCHER).read_text("utf8")))
    except (OSError, ValueError, TypeError):
        return None
