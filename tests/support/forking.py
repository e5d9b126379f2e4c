"""Processes that tests fork: they begin with the libraries that this one has loaded."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from typing import Any

FORKED_SECONDS = 300
"""After which a process that a test has forked is ended: it hangs."""


class Fork:
    """A process that begins with the libraries that this one has: a Python that starts takes seconds to load them.

    Threads of libraries are not in it, so it cannot draw charts: a study that is to end in one has no page.

    Attributes:
        stdout: what it prints.
        returncode: its exit code, less the number of the signal that ended it; None until :meth:`communicate`.
    """

    def __init__(self, work: Callable[[], int | None]) -> None:
        reading, writing = os.pipe()
        self._stderr = tempfile.TemporaryFile("w+", encoding="utf8")  # noqa: SIM115  # closed by communicate
        self.returncode: int | None = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # threads of libraries, which rest between tests
            self.pid = os.fork()
        if self.pid == 0:
            _work(work, writing, self._stderr.fileno())
        os.close(writing)
        self.stdout = os.fdopen(reading, encoding="utf8")

    def send_signal(self, number: int) -> None:
        """As :mod:`subprocess` does."""
        os.kill(self.pid, number)

    def communicate(self) -> tuple[str, str]:
        """Wait for its end: all that it printed, on standard output and error."""
        out = self.stdout.read()
        self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self._stderr.seek(0)
        err = self._stderr.read()
        self.stdout.close()
        self._stderr.close()
        return out, err


def _work(work: Callable[[], int | None], out: int, err: int) -> None:
    """Do it and end this process, whatever comes: nothing of the tests may go on in it."""
    code: Any = 1
    try:
        signal.alarm(FORKED_SECONDS)
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf8", buffering=1) for number in (1, 2))
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads are not in this process
        code = work()
        sys.stdout.flush()
    except SystemExit as end:
        code = end.code
        sys.stdout.flush()
    except BaseException:  # noqa: BLE001  # it is told, and ends here
        traceback.print_exc()
    finally:
        os._exit(code if isinstance(code, int) else int(code is not None))
