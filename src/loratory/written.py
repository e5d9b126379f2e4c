"""What a run that was trained leaves: scores, predictions, history, weights, and its record."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from loratory.engine.fit import FitResult
from loratory.engine.meter import Costs
from loratory.errors import DivergedError
from loratory.evaluation import predictions
from loratory.evaluation.metrics import METRICS, score
from loratory.evaluation.predictions import Predictions
from loratory.evaluation.quality import AnyQuality
from loratory.evaluation.thresholds import chosen_thresholds, decided
from loratory.outcome import memory_errors, record_of
from loratory.problems import MULTI
from loratory.saving import bytes_of_weights, check_saved, save
from loratory.setup import Setup
from loratory.store.directory import HISTORY, PREDICTIONS, RECORD
from loratory.store.record import RunRecord


def written(
    setup: Setup,
    meter: Costs,
    name: str,
    stage: Path,
    result: FitResult,
    logits: dict[str, Tensor],
    keep_weights: bool,
) -> RunRecord:
    """Everything that a completed run leaves, in `stage`; its record.

    Args:
        logits: (N, C) of each scored part.

    Raises:
        DivergedError: logits are no finite numbers.
    """
    with meter.phase("eval"):
        thresholds = _thresholds(setup, logits["validation"])
        quality = {part: _score(setup, part, logits[part], thresholds) for part in logits}
    with memory_errors(setup.spec, setup.hardware):
        meter.checkpoint_bytes = save(setup, stage) if keep_weights else bytes_of_weights(setup)
        if keep_weights:
            check_saved(setup, stage)
    if setup.place is None or setup.place.stage == "final":  # of a tuning run nobody reads more than its scores
        kept = {}
        for part in logits:
            split = setup.dataset.split(part)
            chosen = None if thresholds is None else decided(logits[part].numpy(), thresholds)
            kept[part] = Predictions(split.labels, logits[part].numpy(), split.rows, split.units, chosen)
        predictions.write(stage / PREDICTIONS, kept)
    (stage / HISTORY).write_text("".join(json.dumps(row) + "\n" for row in result.history), encoding="utf8")
    scores = {part: quality[part].record() for part in quality}
    record = record_of(setup, meter, name, "completed", quality=scores, engine=result.engine, weights=keep_weights)
    (stage / RECORD).write_text(record.to_json(), encoding="utf8")
    return record


def epoch_scores(setup: Setup, logits: Tensor) -> dict[str, float]:
    """Of validation's logits (N, C), by the names of history.jsonl.

    Raises:
        DivergedError: they are no finite numbers.
    """
    quality = _score(setup, "validation", logits, _thresholds(setup, logits))
    return {f"validation_{name}": value for name in METRICS if (value := quality.value(name)) is not None}


def better_of(setup: Setup) -> Callable[[Mapping[str, float], Mapping[str, float]], bool]:
    """Whether the first of an epoch's scores are better than the second, by the metric that the run selects by."""
    select = setup.spec.training.select
    assert select is not None
    metric = METRICS[select]
    return lambda new, old: metric.better(new[f"validation_{metric.name}"], old[f"validation_{metric.name}"])


def _score(setup: Setup, part: str, logits: Tensor, thresholds: NDArray[np.float64] | None = None) -> AnyQuality:
    if not torch.isfinite(logits).all():
        raise DivergedError(f"the model gives logits that are no finite numbers on {part}; use a smaller --lr")
    return score(setup.tokens[part].labels, logits.numpy(), None, setup.labels, thresholds=thresholds)


def _thresholds(setup: Setup, logits: Tensor) -> NDArray[np.float64] | None:
    """Where a text may have several labels: from which probability each is predicted, by validation's logits (N, C)."""
    if setup.dataset.problem != MULTI:
        return None
    return chosen_thresholds(setup.tokens["validation"].labels, logits.numpy())
