"""Places that cannot be written."""

from __future__ import annotations

import errno
import os

from filelock import FileLock

from bad.case import Case, Make


def _locked(name: str) -> Make:
    """Another process works there: its lock is held."""
    return lambda bench: bench.held.enter_context(FileLock(bench.place / name)) and None


WRITE = ("train --output {place}/new", "export --model-path {run} --format merged --output {place}/new",
         "predict --model-path {run} --output {place}/new.csv w1", "study run {file} --output {place}/new")  # fmt: skip

PLACES = (
    Case("an output that holds another run", ("train --output {run} --seed 5",), 5, ("already holds another run",),
         theirs=r"\(.*\)"),
    Case("an output that is a file", ("train --output {place}/file",), 5, ("is a file",)),
    Case("an output that holds something else", ("train --output {place}/full",), 5, ("holds no run",)),
    Case("an output below a file", ("train --output {place}/file/below",), 5, ("choose another --output",)),
    Case("an export's output that is a file", (
        "export --model-path {run} --output {place}/file",
        "export --model-path {run} --format merged --output {place}/file"), 5, ("file exists already",)),
    Case("an export's output that holds something",
         ("export --model-path {run} --format merged --output {place}/full",), 5, ("is not empty",)),
    Case("an export's card that is there", ("export --model-path {run} --output {place}/nan.pth",), 5,
         ("nan.json", "exists already")),
    Case("an export's output below a file", (
        "export --model-path {run} --output {place}/file/below.pth",
        "export --model-path {run} --format merged --output {place}/file/below"), 5, ("cannot write",)),
    Case("predictions where a file is", ("predict --model-path {run} --output {place}/file w1",), 5,
         ("exists already",)),
    Case("a study's output that is a file", ("study run {file} --output {place}/file",), 5, ("{place}/file",)),
    Case("another process in the run's place", ("train --output {place}/new",), 5, ("another process",),
         make=_locked(".new.lock")),
    Case("another process in the export's place", ("export --model-path {run} --format merged --output {place}/new",),
         5, ("another process",), make=_locked(".new.lock")),
    Case("another process in the study's place", ("study run {given}/study.yaml --output {given}",), 5,
         ("running it",), make=lambda b: b.held.enter_context(FileLock(b.copied("study") / ".study.lock")) and None),
    Case("a disk that is full", WRITE, 5, (os.strerror(errno.ENOSPC),), make=lambda b: b.refuse(errno.ENOSPC)),
    Case("a place that may only be read", WRITE, 5, (os.strerror(errno.EROFS),),
         make=lambda b: b.refuse(errno.EROFS)),
)  # fmt: skip
