"""How a run ends: the record of one that completed, and that of one that did not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from traceback import clear_frames
from typing import Any

from loratory.engine.hardware import Hardware
from loratory.engine.meter import Costs
from loratory.errors import DivergedError, LoratoryError, OutOfMemoryError, StorageError, TrainingError, first_line
from loratory.models.door.loading import lacks_memory
from loratory.program import code_version
from loratory.setup import Setup
from loratory.spec import RunSpec
from loratory.store.directory import RECORD, commit, staging
from loratory.store.record import RunRecord, Status

log = logging.getLogger("loratory")


@contextmanager
def memory_errors(spec: RunSpec, hardware: Hardware, remedy: Callable[[], str] | None = None) -> Iterator[None]:
    """Turn what torch says when memory runs out into our own error.

    Args:
        remedy: says what to do about it; called when what was computed inside holds no memory any more. Without it, the
            error says what may help.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch's own is a RuntimeError
        if not lacks_memory(error):
            raise
        said = first_line(error)
        _let_go(error)
        where = f"out of memory on {hardware.device} at --batch-size {spec.training.batch_size}"
        advice = remedy() if remedy is not None else general(spec)
        raise OutOfMemoryError(f"{where}, --max-length {spec.data.max_length} ({said}); {advice}") from error


def general(spec: RunSpec) -> str:
    """What may help where memory does not suffice, untried."""
    return f"try --accumulate {spec.training.accumulate * 2} or a smaller --max-length"


def _let_go(error: BaseException) -> None:
    """Free what the frames that an error went through still hold, and those of the errors that it came from."""
    one: BaseException | None = error
    while one is not None:
        clear_frames(one.__traceback__)
        one = one.__context__


def record_of(
    setup: Setup,
    meter: Costs,
    name: str,
    status: Status,
    *,
    quality: dict[str, Any],
    error: str | None = None,
    engine: dict[str, Any] | None = None,
    weights: bool = False,
) -> RunRecord:
    """What is known of a run when it ends, well or not.

    Args:
        quality: of each scored part.
        error: what ended it.
        engine: how its steps were made.
        weights: whether it leaves them.
    """
    return RunRecord(
        id=name,
        fingerprint=setup.fingerprint,
        status=status,
        spec=setup.spec.model_dump(mode="json"),
        data=setup.dataset.record(),
        parameters=setup.trainable.counts(),
        cost={**meter.record(), "load_seconds": setup.load_seconds},
        quality=quality,
        environment={
            **setup.hardware.record(),
            "flat": setup.classifier.flat,
            "engine": engine,
            "model_digest": setup.base.digest,
            "version": code_version(),
        },
        error=error,
        study=asdict(setup.place) if setup.place is not None else None,
        weights=weights,
        cohort=meter.cohort(),
    )


@contextmanager
def failures_recorded(setup: Setup, meter: Costs, name: str, directory: Path) -> Iterator[None]:
    """Leave a record of a run that does not complete, and let nothing out that is not one of our errors."""
    try:
        yield
    except (LoratoryError, OSError, KeyboardInterrupt) as error:  # staging knows which OSErrors are the disk's
        _commit_failure(setup, meter, name, directory, error)
        raise
    except Exception as error:  # whatever a library raises while training: recorded, and out as one of ours
        ours = TrainingError(f"training stopped with {type(error).__name__}: {first_line(error)}; --debug shows where")
        _commit_failure(setup, meter, name, directory, ours)
        raise ours from error


def _commit_failure(setup: Setup, meter: Costs, name: str, directory: Path, error: BaseException) -> None:
    """Leave a record of a run that did not complete: failures count too. The first process does."""
    if not setup.hardware.processes.first:
        return
    status: Status = "failed"
    if isinstance(error, OutOfMemoryError):
        status = "out_of_memory"
    elif isinstance(error, DivergedError):
        status = "diverged"
    elif isinstance(error, KeyboardInterrupt):
        status = "interrupted"
    record = record_of(setup, meter, name, status, quality={}, error=str(error) or status)
    try:
        with staging(directory) as stage:
            (stage / RECORD).write_text(record.to_json(), encoding="utf8")
            commit(stage, directory)
    except (StorageError, OSError) as full:  # the run's own error is the one to report
        log.warning("the failed run left no record: %s", full)
