"""The one training loop.

    run the frozen bottom of the encoder once, where there is one
    for each epoch to be trained, until there were so many without a better one as the spec has patience for:
        for each batch of its order: one step (forward, loss, backward, clip, AdamW, schedule)
        validate

Between any two steps its state may be kept, and it can go on from there (:mod:`loratory.engine.checkpoint`); so it may
before a validation, which a signal breaks off. The loop is the same for every method: what is trained is what the
method set free.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import Tensor

from loratory.data.batches import Labelled
from loratory.engine.checkpoint import Keeper, NoKeeper, Pauses, Standing, restored, taken
from loratory.engine.epoch import Progress, Ready
from loratory.engine.hardware import Hardware
from loratory.engine.meter import Meter
from loratory.engine.predict import Stopped
from loratory.engine.processes import Agreement
from loratory.engine.ready import ready
from loratory.methods.base import Companion
from loratory.models.flat import Classifier
from loratory.spec import TrainingSpec

log = logging.getLogger("loratory")


@dataclass(frozen=True)
class FitResult:
    """What the loop leaves beside the trained weights.

    Attributes:
        history: a row an epoch: epoch, step, loss (mean over its examples, weighted by class where the spec says so; of
            a regression the squared error over the variance of the training targets), lr at its end, train_seconds so
            far, and what validation gave.
        best_epoch: the epoch whose weights the model holds now.
        engine: how the steps were made: `graphs` (shapes captured as CUDA graphs, in `capture_seconds`), `why_eager`
            where none were, `own_layers` (how many layers the engine computes itself, of how many),
            `compiled` (how many layers, or why none, and what was measured), `frozen_bottom` (layers that ran
            once, and where their output was kept) where there was one, `quantized` (how many layers are held in fewer
            bits, how, and by which version of bitsandbytes) where any are, `trained_by_epoch` (how many parameters)
            where layers were unfrozen gradually, and `changed_at_resuming` (settings that decide sums, as they were and
            are) where a run went on under others.
    """

    history: list[dict[str, Any]]
    best_epoch: int
    engine: dict[str, Any]


def fit(
    classifier: Classifier,
    data: Labelled,
    validation: Labelled | None,
    spec: TrainingSpec,
    *,
    lr: float,
    seed: int,
    hardware: Hardware,
    meter: Meter,
    score: Callable[[Tensor], dict[str, float]],
    better: Callable[[dict[str, float], dict[str, float]], bool],
    rates: Mapping[str, float] = MappingProxyType({}),
    starts: Mapping[str, int] = MappingProxyType({}),
    companion: Companion | None = None,
    keeper: Keeper | None = None,
    on_step: Callable[[Progress], None] = lambda progress: None,
    on_epoch: Callable[[dict[str, Any]], None] = lambda row: None,
) -> FitResult:
    """Train what is free in the classifier's model, in place, on the device where it is.

    Args:
        lr: peak learning rate.
        seed: decides data order and dropout, and nothing else does.
        score: the scores of `validation`'s logits (N, C), after each epoch; none where there is no validation.
        better: whether its first scores are better than its second; used where the spec keeps the best weights or has
            patience.
        rates: what `lr` is multiplied by, for the parameters where that is not 1.
        starts: the first epoch in which a parameter is trained, where that is not 1; until then it is frozen.
        companion: what the method does in every step beside the gradient of the loss.
        keeper: keeps states of training on the way, and has the one to go on from.
        on_step: told after each step.
        on_epoch: told each row of the history; its time is not the run's.

    Raises:
        DivergedError: the loss is not a finite number; checked at the end of each epoch and every 50 steps.
    """
    keeper = keeper if keeper is not None else NoKeeper()
    watched = validation is not None and (spec.keep == "best" or spec.patience is not None)
    with ready(
        classifier,
        data,
        validation,
        spec,
        lr=lr,
        seed=seed,
        hardware=hardware,
        meter=meter,
        rates=rates,
        starts=starts,
        companion=companion,
        end=keeper.end,
    ) as run:
        found, keeper.found = keeper.found, None  # it is as large as what is trained, and is held no longer
        at = restored(run, found) if found is not None else Standing()
        del found
        pauses = Pauses(keeper, Agreement(hardware.processes, hardware.device))
        while at.epoch <= spec.last_epoch and not at.stopped:
            at.seen = run.epoch(at.epoch, on_step, seen=at.seen, pause=pauses)
            if not pauses.now(meter.steps):
                with suppress(Stopped):  # the state is that of before, and the run that goes on validates first
                    _validate(run, at, spec if watched else None, score, better, on_epoch, pauses.within)
                pauses.now(meter.steps)
            if pauses.asked:
                with meter.phase("checkpoint"):
                    state = taken(run, at)
                    keeper.keep(state)
                pauses.asked = False
        if at.kept is not None:
            run.restore(at.kept)
    if run.scale is not None:
        run.scale.fold(classifier.output)
    return FitResult(
        at.history, at.best[0] if at.best is not None and at.kept is not None else len(at.history), run.engine
    )


def _validate(
    run: Ready,
    at: Standing,
    watching: TrainingSpec | None,
    score: Callable[[Tensor], dict[str, float]],
    better: Callable[[dict[str, float], dict[str, float]], bool],
    on_epoch: Callable[[dict[str, Any]], None],
    stop: Callable[[], bool],
) -> None:
    """End the epoch under way: its row of the history, and whether it is the best so far; then the next one begins.

    Args:
        watching: the spec, where it keeps the best weights or has patience.
        stop: asked between the batches of validation whether to break off.

    Raises:
        Stopped: it said so; nothing has changed.
    """
    epoch, meter = at.epoch, run.meter
    row = {"epoch": epoch, **run.ended(epoch)}
    with meter.phase("eval"):
        scores = score(run.validated(stop)) if run.validation is not None else {}
    at.history.append({**row, "train_seconds": meter.seconds["train"], **scores})
    with meter.aside():
        on_epoch(at.history[-1])
    if watching is not None:
        if at.best is None or better(scores, at.best[1]):
            at.best = epoch, scores
            at.kept = run.weights() if watching.keep == "best" else None
        elif watching.patience is not None and epoch - at.best[0] >= watching.patience and epoch < watching.last_epoch:
            log.info("stopped after epoch %d: none was better since epoch %d", epoch, at.best[0])
            at.stopped = True
    at.epoch, at.seen = epoch + 1, 0
