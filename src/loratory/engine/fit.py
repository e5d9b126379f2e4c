"""The one training loop.

    run the frozen bottom of the encoder once, where there is one
    for each epoch, until there were so many without a better one as the spec has patience for:
        for each batch of its order: one step (forward, loss, backward, clip, AdamW, schedule)
        validate

It is the same for every method: what is trained is what the method set free.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import Tensor

from loratory.data.batches import Labelled
from loratory.engine.epoch import Progress
from loratory.engine.hardware import Hardware
from loratory.engine.meter import Meter
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
            bits, how, and by which version of bitsandbytes) where any are, and `trained_by_epoch` (how many
            parameters) where layers were unfrozen gradually.
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
        on_step: told after each step.
        on_epoch: told each row of the history; its time is not the run's.

    Raises:
        DivergedError: the loss is not a finite number; checked at the end of each epoch and every 50 steps.
    """
    history: list[dict[str, Any]] = []
    best: tuple[int, dict[str, float]] | None = None
    kept: dict[str, Tensor] | None = None
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
    ) as run:
        for epoch in range(1, spec.epochs + 1):
            row = {"epoch": epoch, **run.epoch(epoch, on_step)}
            with meter.phase("eval"):
                scores = score(run.validated()) if validation is not None else {}
            history.append({**row, "train_seconds": meter.seconds["train"], **scores})
            with meter.aside():
                on_epoch(history[-1])
            if not watched:
                continue
            if best is None or better(scores, best[1]):
                best = epoch, scores
                kept = run.weights() if spec.keep == "best" else None
            elif spec.patience is not None and epoch - best[0] >= spec.patience and epoch < spec.epochs:
                log.info("stopped after epoch %d: none was better since epoch %d", epoch, best[0])
                break
        if kept is not None:
            run.restore(kept)
    if run.scale is not None:
        run.scale.fold(classifier.output)
    return FitResult(history, best[0] if best is not None and kept is not None else len(history), run.engine)
