"""One run, from spec to committed directory. The page to read first.

train:  dataset ─▶ base ─▶ method.prepare ─▶ fit ─▶ score ─▶ save ─▶ load back and compare ─▶ commit

A run of a study may end without its weights: then nothing is saved and loaded back. A tuning run sees no test split.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import sklearn.metrics  # noqa: F401  imported here so that importing it counts in no run's time

from loratory.checkpointing import RunKeeper, forgotten_if_diverged
from loratory.doubts import warn_of_run
from loratory.engine.checkpoint import Keeper
from loratory.engine.deterministic import check_workspace
from loratory.engine.epoch import Progress
from loratory.engine.fit import FitResult, fit
from loratory.engine.hardware import Hardware, device_type
from loratory.engine.meter import Meter
from loratory.engine.predict import predict
from loratory.engine.processes import joined
from loratory.errors import StorageError
from loratory.every import Every
from loratory.inputs import Inputs
from loratory.interruption import Interruption, before_first_step
from loratory.outcome import failures_recorded, memory_errors
from loratory.remedies import remedy
from loratory.setup import Setup, prepare
from loratory.spec import RunSpec
from loratory.store.checkpoints import Checkpoints
from loratory.store.directory import claim, commit, find_run, staging
from loratory.store.record import Place, RunRecord
from loratory.tracking import chosen, tracked
from loratory.written import better_of, epoch_scores, written

log = logging.getLogger("loratory")


@dataclass(frozen=True)
class Run:
    """A run's record and where it lies."""

    record: RunRecord
    directory: Path

    def __repr__(self) -> str:
        """Its record in short, and where it lies."""
        return f"Run({self.record!r}, directory={str(self.directory)!r})"

    def __fspath__(self) -> str:
        """Its directory: a run can be given wherever a path can."""
        return str(self.directory)


def train(
    spec: RunSpec,
    *,
    output: Path | None = None,
    place: Place | None = None,
    keep_weights: bool = True,
    inputs: Inputs | None = None,
    tracker: Sequence[str] = (),
    study: str | None = None,
    checkpoint_every: str | None = None,
    on_step: Callable[[Progress], None] = lambda progress: None,
) -> Run:
    """Train once and commit the run's directory. One that was interrupted goes on from its newest checkpoint.

    Args:
        output: the run's directory; `models/` and the run's id by default. If it holds this very run already,
            nothing is trained.
        place: the run's place in a study. A tuning run is scored on validation alone, and keeps no predictions.
        keep_weights: whether the weights are saved; how many bytes they would take is recorded either way.
        inputs: what earlier runs of this process have read.
        tracker: who follows the run, by the names in :mod:`loratory.tracking`. They are no part of what makes the run
            this run; of several processes the first tells them.
        study: the name of the run's study, under which they group its runs.
        checkpoint_every: how often its state is kept on the way: `90s`, `10m` (the default), `2h`, `500 steps`,
            `off` (for a signal alone), or `never`. It is no part of what makes the run this run.
        on_step: told after each step.

    Raises:
        LoratoryError: every kind; a run that fails while training leaves a record with its status. Whatever torch or
            another library raises while training comes as a TrainingError.
        Interrupted: SIGINT or SIGTERM came while it trained: the step under way was finished, and a checkpoint
            written; or, after the last step, the run was committed. A second signal stops at once.
    """
    names, every = chosen(tracker), Every.read(checkpoint_every)
    if spec.hardware.deterministic and device_type(spec.hardware) == "cuda":
        check_workspace()  # joining starts CUDA
    with joined(cuda=device_type(spec.hardware) == "cuda"):
        return _train(spec, output, place, keep_weights, inputs, names, study, every, on_step)


def _train(
    spec: RunSpec,
    output: Path | None,
    place: Place | None,
    keep_weights: bool,
    inputs: Inputs | None,
    tracker: Sequence[str],
    study: str | None,
    every: Every,
    on_step: Callable[[Progress], None],
) -> Run:
    """In every process that trains; the first one holds the directory, and writes."""
    hardware = Hardware.of(spec.hardware)
    processes, meter = hardware.processes, Meter(hardware)
    with memory_errors(spec, hardware), meter.phase("setup"), before_first_step():
        setup = prepare(spec, hardware, inputs, place)
    if place is None:  # a study says it once
        warn_of_run(setup.spec, setup.dataset)
    name = run_id(setup.spec, setup.fingerprint)
    directory = output if output is not None else Path("models") / name
    with ExitStack() as stack:
        if processes.first:
            stack.enter_context(claim(directory))
        checkpoints = Checkpoints(directory, setup.fingerprint, setup.kin)
        found = processes.told(_existing(directory, setup.fingerprint, checkpoints) if processes.first else None)
        if found is not None:
            if processes.first:  # one that was killed between its commit and its last line has some still
                checkpoints.clear()
            log.warning("%s holds this run already; nothing was trained", directory)
            return Run(found, directory)
        stage = stack.enter_context(staging(directory)) if processes.first else None
        with meter.aside():
            settings = {"id": name, "fingerprint": setup.fingerprint, **setup.spec.model_dump(mode="json")}
            trackers = stack.enter_context(tracked(tracker if processes.first else (), directory, settings, study))

        def stepped(progress: Progress) -> None:
            trackers.step(progress)
            on_step(progress)

        keeper = RunKeeper.of(checkpoints, every, setup.hardware, Interruption())
        with keeper.interruption.awaited(done=f"after its last step; the run is whole in {directory}"):
            record = _trained(setup, meter, name, directory, stage, keeper, keep_weights, stepped, trackers.epoch)
            if stage is not None:
                _commit(stage, directory, checkpoints)
            if record is not None:
                trackers.end(record)
            record = processes.told(record)
    assert record is not None
    return Run(record, directory)


def _trained(
    setup: Setup,
    meter: Meter,
    name: str,
    directory: Path,
    stage: Path | None,
    keeper: RunKeeper,
    keep_weights: bool,
    on_step: Callable[[Progress], None],
    on_epoch: Callable[[dict[str, Any]], None],
) -> RunRecord | None:
    """Fit, score, and write what the run leaves to `stage`; its record, in the first process.

    A signal ends the training with a state; one that comes later waits for what is left.
    """
    first, memory = keeper.interruption.first, partial(memory_errors, setup.spec, setup.hardware)
    with failures_recorded(setup, meter, name, directory), forgotten_if_diverged(keeper.checkpoints):
        meter.start_memory()
        with memory(partial(remedy, setup)), first():
            result = optimize(setup, meter, keeper=keeper, on_step=on_step, on_epoch=on_epoch)
        meter.stop_memory()
        with memory(partial(remedy, setup)), first(), meter.phase("eval"):
            logits = {
                part: predict(
                    setup.classifier, setup.tokens[part], hardware=setup.hardware, processes=setup.hardware.processes
                )
                for part in setup.scored
            }
        with first():
            return written(setup, meter, name, stage, result, logits, keep_weights) if stage is not None else None


def _commit(stage: Path, directory: Path, checkpoints: Checkpoints) -> None:
    """Commit the run, which needs its checkpoints no more."""
    commit(stage, directory)
    try:
        checkpoints.clear()
    except StorageError as error:  # the run is there, whatever else is
        log.warning("%s", error)


def optimize(
    setup: Setup,
    meter: Meter,
    *,
    validated: bool = True,
    keeper: Keeper | None = None,
    on_step: Callable[[Progress], None] = lambda progress: None,
    on_epoch: Callable[[dict[str, Any]], None] = lambda row: None,
) -> FitResult:
    """Train the set-up's model in place, as its spec says.

    Args:
        validated: whether validation is scored after each epoch; benchmarks of speed leave it out.
        keeper: keeps states of training on the way, and has the one to go on from.
    """
    lr = setup.spec.training.lr
    assert lr is not None
    return fit(
        setup.classifier,
        setup.tokens["train"],
        setup.tokens["validation"] if validated else None,
        setup.spec.training,
        lr=lr,
        seed=setup.spec.seed,
        hardware=setup.hardware,
        meter=meter,
        score=partial(epoch_scores, setup),
        better=better_of(setup),
        rates=setup.trainable.rates,
        starts=setup.trainable.starts,
        companion=setup.trainable.companion,
        keeper=keeper,
        on_step=on_step,
        on_epoch=on_epoch,
    )


def run_id(spec: RunSpec, fingerprint: str) -> str:
    """A readable name for a run that differs wherever the fingerprint does: at most 64 of [a-z0-9_-]."""
    rank = getattr(spec.method, "rank", None)
    words = [Path(spec.data.dataset).stem.replace("hutto:", ""), Path(spec.model).name, spec.method.name]
    words += [f"r{rank}"] if rank is not None else []
    readable = re.sub(r"[^a-z0-9_-]+", "-", "-".join([*words, f"s{spec.seed}"]).lower()).strip("-_")
    return f"{readable[:51]}-{fingerprint[:12]}"


def _existing(directory: Path, fingerprint: str, checkpoints: Checkpoints) -> RunRecord | None:
    found = find_run(directory)
    if found is not None and found.fingerprint != fingerprint:
        checkpoints.check_threads()
        raise StorageError(f"{directory} already holds another run ({found.id}); choose another --output")
    return found if found is not None and found.status == "completed" else None
