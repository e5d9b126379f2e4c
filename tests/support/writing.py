"""Faults at the N-th write below a folder, of whatever library: see writing.c, which the system's compiler compiles."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")


class UnarmedError(Exception):
    """Writes cannot be met here: no compiler, another machine, or a system that allows no filter."""


@dataclass(frozen=True)
class Fault:
    """What comes of a write.

    Attributes:
        error: the errno with which it is refused; 0 kills the process.
        cut: half of it is written, and the fault comes with the next one.
        for_good: each one after it is refused, too.
    """

    error: int = 0
    cut: bool = False
    for_good: bool = False


class Writes:
    """Those of this process below `folder`; from the one with the number `at` on, from 1, `fault` comes.

    The filter is not to be undone: it is for a process that was forked for it. A program that this one starts has the
    filter and no handler, and is killed by its first write.

    Raises:
        UnarmedError: see there.
    """

    def __init__(self, folder: Path, at: int, fault: Fault) -> None:
        self._library = compiled()
        below = os.fsencode(folder.resolve()) + b"/"
        number = self._library.arm_writes(below, ctypes.c_long(at), fault.error, fault.cut, fault.for_good)
        if number:
            raise UnarmedError(f"the system allows no filter: {os.strerror(number)}")

    @property
    def count(self) -> int:
        """How many there were."""
        return int(self._library.writes_met())


@cache
def compiled() -> ctypes.CDLL:
    """writing.c as a library; to be called before processes are forked that need it.

    Raises:
        UnarmedError: it cannot be compiled here.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        raise UnarmedError("no C compiler")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "writing.so"
        words = [compiler, "-shared", "-fPIC", "-O1", "-o", library, SOURCE]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UnarmedError(f"{SOURCE.name} cannot be compiled: {done.stderr[:200]}")
        found = ctypes.CDLL(str(library))
    found.writes_met.restype = ctypes.c_long
    return found
