"""What can go wrong, as one tree. Each class carries the exit code of the command that meets it.

    LoratoryError
    ├── SettingsError        2   a flag, key or value that cannot be meant
    ├── DataError            3   a file, column, row or label that cannot be learned from
    │   ├── ColumnError      3   a column that a table has not
    │   ├── RowError         3   rows of a table that cannot be read
    │   └── InputError       3   X or y of an estimator; a ValueError too
    ├── ModelError           4   a model that is missing, damaged or does not fit
    ├── StorageError         5   a path that is missing, cannot be written, or holds something else
    │   └── DamagedError     5   what lies there is not what was written
    ├── ResourceError        6   memory, a device or a package that is not there
    │   └── OutOfMemoryError 6   recorded as a status of its own
    ├── TrainingError        7   the training itself failed
    │   └── DivergedError    7   the loss is no longer a number
    └── SafetyError          8   refused: opening it could run code or exhaust the machine

A message is one line: what, where (file, row, key), and what to do. Any other exception is a defect: exit code 1. A
signal is no error: :class:`Interrupted` is a KeyboardInterrupt, exit code 130 (SIGINT) or 143 (SIGTERM).
"""

from __future__ import annotations

import difflib
import os
import re
import signal
from collections.abc import Iterable


class LoratoryError(Exception):
    """Base of everything Loratory raises on purpose."""

    exit_code = 1

    def __str__(self) -> str:
        """The line, without a secret that another library put into what it says."""
        return redacted(super().__str__())


class Interrupted(KeyboardInterrupt):
    """A signal ended what was under way, its number `number`."""

    def __init__(self, number: int = signal.SIGINT, after: str = "") -> None:
        """
        Args:
            after: where it ended, and what is kept.
        """
        word = "terminated" if number == signal.SIGTERM else "interrupted"
        super().__init__(f"{word} {after}".strip())
        self.number = number

    @property
    def exit_code(self) -> int:
        """128 and the signal's number, as shells count."""
        return 128 + self.number


class SettingsError(LoratoryError):
    """A flag, key or value that cannot be meant."""

    exit_code = 2


class DataError(LoratoryError):
    """Data that is missing, malformed or not enough to learn from."""

    exit_code = 3


class ColumnError(DataError):
    """A column that a table has not."""


class RowError(DataError):
    """Rows of a table that cannot be read, where all others were."""

    def __init__(self, message: str, *, several: bool = False) -> None:
        super().__init__(message)
        self.several = several
        """Whether more than one is spoken of."""


class InputError(DataError, ValueError):
    """What an estimator cannot take as X or y; a ValueError too, which scikit-learn expects there."""


class ModelError(LoratoryError):
    """A model that is missing, damaged or does not fit what is asked of it."""

    exit_code = 4


class StorageError(LoratoryError):
    """A path that is missing, cannot be written, or already holds something else."""

    exit_code = 5


class DamagedError(StorageError):
    """What lies on the disk is not what was written there."""


class ResourceError(LoratoryError):
    """Memory, a device or a package that is not there."""

    exit_code = 6


class OutOfMemoryError(ResourceError):
    """The device ran out of memory during the run."""


class TrainingError(LoratoryError):
    """The training itself failed."""

    exit_code = 7


class DivergedError(TrainingError):
    """The loss is no longer a finite number."""


class SafetyError(LoratoryError):
    """Refused, because opening it could run code or exhaust the machine."""

    exit_code = 8


def first_line(error: BaseException) -> str:
    """What another library's exception says, cut to its first line; its class where it says nothing."""
    text = redacted(str(error)).strip()
    return text.splitlines()[0] if text else type(error).__name__


_SECRET_NAME = re.compile(r"(^|_|API|AUTH|ACCESS)(TOKEN|KEY|SECRET|PASSWORD|PASSPHRASE|CREDENTIALS)$", re.IGNORECASE)
_SECRET = re.compile(r"hf_[A-Za-z0-9]{16,}|(?<=://)[^/\s?#]+(?=@)")
_SHORTEST = 8
"""Characters of a secret: what is shorter would stand in any text."""


def redacted(text: str) -> str:
    """`text` with `$HF_TOKEN` for what that variable holds, and so for each whose name says that it is secret; and `…`
    for tokens of the hub, and for what stands before the host in addresses: names, passwords, tokens.
    """
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and value in text and _SECRET_NAME.search(name):
            text = text.replace(value, f"${name}")
    return _SECRET.sub("…", text)


def nearest(word: str, known: Iterable[str]) -> str:
    """The tail of an error about an unknown name: the nearest known one, or the list of all."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number of things: 1 text, 2,114 texts."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
