"""What a run does with its directory, in processes that are disturbed meanwhile."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

from faulting import faults, stop

from loratory.errors import StorageError
from loratory.store.directory import claim, commit, find_run, staging
from loratory.store.record import RunRecord

RECORD = RunRecord("one", "f" * 64, "completed", {}, {}, {}, {}, {}, {})
FAILED = dataclasses.replace(RECORD, status="failed", error="on purpose")


def committed(output: Path, record: RunRecord = RECORD) -> None:
    """What a run does with its directory, without the training; where it is there already nothing is done."""
    with claim(output):
        found = find_run(output)
        if found is not None and found.status == "completed":
            return
        with staging(output) as stage:
            (stage / "run.json").write_text(record.to_json(), encoding="utf8")
            (stage / "model.safetensors").write_bytes(b"weights")
            commit(stage, output)


def forked(work: Callable[[], None]) -> int:
    """A process that does it, and ends with 0, or 5 where the store refuses."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except StorageError:
            code = 5
        finally:
            os._exit(code)
    return pid


def code_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def left(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name[0] == ".")


def stopped(output: Path, record: RunRecord, at: int) -> None:
    """A process that is stopped at the `at`-th operation."""
    with faults(at, stop):
        committed(output, record)
