"""What training takes on this device, found by making a few of its steps.

the step with the most tokens of the whole run ─▶ peak memory, and all is warm
typical steps, for some seconds                ─▶ time
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from loratory.data.batches import Cut, Labelled, epoch_order
from loratory.engine.fit import Progress, ready
from loratory.engine.hardware import Hardware
from loratory.engine.meter import Meter
from loratory.methods.base import Companion
from loratory.models.flat import Classifier
from loratory.spec import TrainingSpec

MOST_STEPS = 16
"""More are not timed."""


@dataclass(frozen=True)
class Calibration:
    """What a few steps took, and what the whole run makes of it.

    Attributes:
        cost: the meter's record of the calibration, bytes and seconds.
        heaviest: tokens of the largest part of a batch in the whole run.
        timed_steps, timed_tokens: of the steps whose time was taken, in `timed_seconds`.
        bottom_seconds: of running the frozen bottom of the encoder over the whole training split, once.
        kept_bytes: of its output for the whole training split, where there is one.
        steps, tokens: of the whole run.
        engine: how steps were made, as a run's record has it.
    """

    cost: dict[str, Any]
    heaviest: int
    timed_steps: int
    timed_tokens: int
    timed_seconds: float
    bottom_seconds: float
    kept_bytes: int
    steps: int
    tokens: int
    engine: dict[str, Any]

    @property
    def train_seconds(self) -> float:
        """Of all optimizer steps of the run: as many seconds a token as in the steps that were timed."""
        return self.bottom_seconds + self.timed_seconds * self.tokens / self.timed_tokens


def calibrate(
    classifier: Classifier,
    data: Labelled,
    spec: TrainingSpec,
    *,
    lr: float,
    seed: int,
    hardware: Hardware,
    rates: Mapping[str, float] = MappingProxyType({}),
    companion: Companion | None = None,
    seconds: float = 2.0,
) -> Calibration:
    """Make some of the steps that :func:`loratory.engine.fit.fit` would make of the same arguments; they train the
    model, whose values are of no use afterwards.

    Layers that would be unfrozen gradually are all trained from the first step on: that is what the run comes to.

    Args:
        seconds: for how long typical steps are timed, about.
    """
    processes, size = hardware.processes, spec.batch_size * hardware.processes.count
    cut = Cut(spec.batch_size, spec.accumulate, processes.rank, processes.count)
    orders = [epoch_order(len(data.labels), seed, epoch) for epoch in range(1, spec.epochs + 1)]
    heavy = data.heaviest(orders, cut)
    typical = orders[0][: MOST_STEPS * size]
    sample = data.take(np.concatenate([heavy, typical]))
    first, later = np.arange(len(heavy)), np.arange(len(heavy), len(sample.labels))
    meter = Meter(hardware)
    meter.start_memory()
    made = spec.model_copy(update={"epochs": 2})
    with ready(
        classifier, sample, None, made, lr=lr, seed=seed, hardware=hardware, meter=meter, rates=rates,
        companion=companion, orders=[first, later],
    ) as run:  # fmt: skip
        bottom = meter.seconds["train"]
        run.epoch(1, _quiet)
        once = meter.seconds["train"] - bottom
        count = min(max(2, int(seconds / max(once, 1e-6))), math.ceil(len(later) / size))
        before, tokens = meter.seconds["train"], meter.tokens
        replace(run, orders=[first, later[: count * size]]).epoch(2, _quiet)
        timed, timed_tokens = meter.seconds["train"] - before, meter.tokens - tokens
        engine = run.engine
    meter.stop_memory()
    share = len(data.labels) / len(sample.labels)
    return Calibration(
        cost=meter.record(),
        heaviest=int(data.largest(orders, cut).tokens),
        timed_steps=count,
        timed_tokens=timed_tokens,
        timed_seconds=timed,
        bottom_seconds=bottom * share,
        kept_bytes=int(engine.get("frozen_bottom", {}).get("kept_bytes", 0) * share),
        steps=spec.epochs * math.ceil(len(data.labels) / size),
        tokens=spec.epochs * int(data.tokens.lengths.sum()),
        engine=engine,
    )


def _quiet(progress: Progress) -> None:
    """Nobody is told of these steps."""
