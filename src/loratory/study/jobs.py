"""One run of a study, wherever it is carried out: what is asked for, what came of it, and how it is known before."""

from __future__ import annotations

import os
import shutil
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from loratory.engine.hardware import Hardware
from loratory.errors import LoratoryError, OutOfMemoryError, ResourceError, StorageError, first_line
from loratory.inputs import Inputs
from loratory.run import run_id, train
from loratory.setup import identify
from loratory.spec import RunSpec
from loratory.store.directory import RECORD, claim, commit, glance, staging
from loratory.store.record import Place, RunRecord


@dataclass(frozen=True)
class Asked:
    """A run that is wanted, its defaults still open."""

    spec: RunSpec
    place: Place


@dataclass(frozen=True)
class Job:
    """A run that is known: what decides its result has been read."""

    id: str
    fingerprint: str
    spec: RunSpec
    """With learning rate, device and precision resolved."""
    place: Place
    output: Path
    """Absolute."""
    keep_weights: bool
    folder: Path
    """The working directory, from which relative paths are read."""
    study: str | None = None
    """The study's name, by which trackers group its runs."""
    tracker: tuple[str, ...] = ()
    """Who follows the run, by the names in :mod:`loratory.tracking`."""
    checkpoint_every: str | None = None
    """How often its state is kept, as :func:`loratory.run.train` takes it."""


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    job: Job
    record: RunRecord | None
    """Of a run that completed or failed; None where the study must stop."""
    stops: LoratoryError | None = None
    """Why no further run can succeed."""
    traces: tuple[str, ...] = ()
    """Where the cohort failed that it was to be in, and the run itself: tracebacks, which `--debug` shows."""


def known(asked: Sequence[Asked], inputs: Inputs) -> list[tuple[str, str, RunSpec]]:
    """Id, fingerprint and resolved spec of each run, computed where the runs will be carried out.

    Raises:
        LoratoryError: data, model or device are not there, or a setting does not fit them.
    """
    found = []
    for one in asked:
        identity = identify(one.spec, Hardware.of(one.spec.hardware), inputs, one.place)
        found.append((run_id(identity.spec, identity.fingerprint), identity.fingerprint, identity.spec))
    return found


def carry_out(job: Job, inputs: Inputs) -> Outcome:
    """Train once. A run that fails is an outcome, and its record lies in its place."""
    try:
        if (otherwise := not_as_planned(job, inputs)) is not None:
            return Outcome(job, None, stops=otherwise)
        run = train(
            job.spec,
            output=job.output,
            place=job.place,
            keep_weights=job.keep_weights,
            inputs=inputs,
            tracker=job.tracker,
            checkpoint_every=job.checkpoint_every,
            study=job.study,
        )
        return Outcome(job, run.record)
    except OutOfMemoryError as error:
        return _failed(job, str(error), inputs)
    except (StorageError, ResourceError) as error:  # the next run would meet it too
        return stopped([job], error)
    except LoratoryError as error:
        return _failed(job, str(error), inputs)
    except Exception as error:  # noqa: BLE001  # a defect in one setting's way does not end the others
        return _failed(job, f"{type(error).__name__}: {first_line(error)}", inputs)


def not_as_planned(job: Job, inputs: Inputs) -> LoratoryError | None:
    """Why no run can be carried out here: what the plan read is gone, or something else. No run's own failure."""
    try:
        if os.getcwd() != str(job.folder):
            os.chdir(job.folder)
    except OSError as error:
        return ResourceError(f"{job.folder}, where the study was started, is not here ({error.strerror})")
    try:
        identity = identify(job.spec, Hardware.of(job.spec.hardware), inputs, job.place)
    except LoratoryError as error:
        return error
    if identity.fingerprint == job.fingerprint:
        return None
    return ResourceError(
        f"{job.id}: its data, model, device or library versions are not those of the plan here "
        f"({identity.hardware.record()['device']}); give all workers the same, or start the study again"
    )


def _failed(job: Job, message: str, inputs: Inputs) -> Outcome:
    """The outcome of a run that failed just now, its device asked whether it can go on."""
    trace = traceback.format_exc()
    try:
        record = glance(job.output)
        if record is None or record.status == "interrupted":
            record = leave_failure(job, message, inputs)
    except StorageError as error:
        return Outcome(job, None, stops=error, traces=(trace,))
    broken = None
    if job.spec.hardware.device == "cuda":
        try:
            torch.zeros(1, device="cuda").item()
        except RuntimeError as error:
            broken = ResourceError(
                f"the GPU answers no more after {job.id} ({first_line(error)}); start the study again"
            )
    return Outcome(job, record, stops=broken, traces=(trace,))


def stopped(jobs: Sequence[Job], error: LoratoryError) -> Outcome:
    """The outcome of runs that failed for no fault of their own; their records go, so that they are run again."""
    for job in jobs:
        with suppress(StorageError, OSError):
            record = glance(job.output)
            if record is not None and record.status == "failed":
                shutil.rmtree(job.output)
    return Outcome(jobs[0], None, stops=error)


def leave_failure(job: Job, message: str, inputs: Inputs) -> RunRecord:
    """Commit the record of a run that failed before it could write one itself.

    Raises:
        StorageError: the disk refuses.
    """
    record = RunRecord(
        id=job.id,
        fingerprint=job.fingerprint,
        status="failed",
        spec=job.spec.model_dump(mode="json"),
        data=inputs.dataset(job.spec.data).record(),
        parameters={},
        cost={},
        quality={},
        environment={},
        error=" ".join(message.split()),
        study=asdict(job.place),
        weights=False,
    )
    with claim(job.output), staging(job.output) as stage:
        (stage / RECORD).write_text(record.to_json(), encoding="utf8")
        commit(stage, job.output)
    return record
