"""What training takes on this device, found by making a few of its steps.

the step with the most tokens of the whole run     ─▶ peak memory, and all is warm
the largest batch of a frozen bottom, if there is one ─▶ its peak, and its time: cold, and once more
typical steps, for some seconds                    ─▶ time
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loratory.data.batches import Cut, Labelled, Orders
from loratory.engine.epoch import Progress
from loratory.engine.frozen import AT_ONCE, Bottom
from loratory.engine.hardware import Hardware
from loratory.engine.meter import Meter
from loratory.engine.ready import ready, totals_of
from loratory.methods.base import Companion
from loratory.models.flat import Classifier
from loratory.spec import TrainingSpec

MOST_STEPS = 16
"""More are not timed."""


@dataclass(frozen=True)
class Calibration:
    """What a few steps took, and what the whole run makes of it.

    Attributes:
        peak_bytes: the run's peak memory, allocated on CUDA, resident elsewhere.
        parts_bytes: what it is made of: weights, gradients, optimizer, activations, rest.
        heaviest: tokens of the largest part of a batch in the whole run.
        timed_steps: how many steps' time was taken.
        train_seconds: of all optimizer steps of the run: as many seconds a token as in the steps that were timed; and
            of the pass of a frozen bottom over all texts: as many a token as over the sample, where kernels are loaded
            in a second pass, and what the first took longer.
        bottom_seconds: of these those of that pass.
    """

    peak_bytes: int
    parts_bytes: dict[str, int]
    heaviest: int
    timed_steps: int
    train_seconds: float
    bottom_seconds: float


def calibrate(
    classifier: Classifier,
    data: Labelled,
    validation: Labelled,
    spec: TrainingSpec,
    *,
    seed: int,
    hardware: Hardware,
    rates: Mapping[str, float] = MappingProxyType({}),
    starts: Mapping[str, int] = MappingProxyType({}),
    companion: Companion | None = None,
    seconds: float = 2.0,
) -> Calibration:
    """Make some of the steps that :func:`loratory.engine.fit.fit` would make of the same arguments, at a rate of 0: a
    step takes what it takes, and its values stay finite.

    Layers that would be unfrozen gradually are all trained from the first step on: that is what the run comes to. Of a
    frozen bottom the output for the sample alone is kept; what it takes for all texts is added.

    Args:
        validation: whose texts a frozen bottom's output is kept for, too.
        seconds: for how long typical steps are timed, about.
    """
    processes, size = hardware.processes, spec.batch_size * hardware.processes.count
    cut = Cut(spec.batch_size, spec.accumulate, processes.rank, processes.count)
    orders = Orders(len(data.labels), seed, spec.epochs)
    totals = totals_of(data, orders, cut)
    bottom_of = Bottom.of(classifier.model, classifier.family) if classifier.flat else None
    frozen = bottom_of is not None
    sample = _sampled(data, orders, cut, MOST_STEPS * size, frozen=frozen)
    meter = Meter(hardware)
    meter.start_memory()
    made = spec.model_copy(update={"epochs": 2, "until": None})
    prepared = partial(
        ready, classifier, sample.data, None, made, lr=0.0, seed=seed, hardware=hardware, rates=rates,
        starts=dict.fromkeys(starts, 1), companion=companion, orders=[sample.heavy, sample.typical],
        totals=None if bottom_of is not None and bottom_of.whole else totals,
    )  # fmt: skip
    with prepared(meter=meter) as run:
        bottom = meter.seconds["train"]
        run.epoch(1, _quiet)
        once = meter.seconds["train"] - bottom
        count = min(max(2, int(seconds / max(once, 1e-6))), math.ceil(len(sample.typical) / size))
        before, tokens = meter.seconds["train"], meter.tokens
        replace(run, orders=[sample.heavy, sample.typical[: count * size]]).epoch(2, _quiet)
        timed, timed_tokens = meter.seconds["train"] - before, meter.tokens - tokens
        bottom_said = run.engine.get("frozen_bottom", {})
    meter.stop_memory()
    warm = bottom
    if frozen and hardware.device.type == "cuda":  # where a first pass loads kernels
        with prepared(meter=(again := Meter(hardware))):
            warm = again.seconds["train"]
    cost = meter.record()
    missing = _not_kept(bottom_said, sample.data, data, validation)
    peak, parts = cost["peak_memory_bytes"], cost["memory_parts_bytes"]
    all_tokens = int(data.tokens.lengths.sum())
    bottom_seconds = max(bottom - warm, 0.0) + warm * all_tokens / int(sample.data.tokens.lengths.sum())
    return Calibration(
        peak_bytes=int(peak["allocated"] if peak["allocated"] is not None else peak["resident"]) + missing,
        parts_bytes={**parts, "rest": parts["rest"] + missing},
        heaviest=max(totals),
        timed_steps=count,
        bottom_seconds=bottom_seconds,
        train_seconds=bottom_seconds + timed * spec.last_epoch * all_tokens / timed_tokens,
    )


@dataclass(frozen=True)
class _Sample:
    """Some of the training texts, and those that steps are made of, as positions among them."""

    data: Labelled
    heavy: NDArray[np.int64]
    """A step with the most tokens of the whole run."""
    typical: NDArray[np.int64]
    """The first steps of the run."""


def _sampled(data: Labelled, orders: Sequence[NDArray[np.int64]], cut: Cut, typical: int, *, frozen: bool) -> _Sample:
    """Of a frozen bottom the texts of its largest batch are there, too: no step is made of them."""
    chosen = [data.heaviest(orders, cut), orders[0][:typical]]
    ends = np.cumsum([len(one) for one in chosen])
    if frozen:
        chosen.append(next(data.by_length(tokens=AT_ONCE))[0])
    return _Sample(data.take(np.concatenate(chosen)), np.arange(ends[0]), np.arange(ends[0], ends[1]))


def _not_kept(said: Mapping[str, Any], sample: Labelled, data: Labelled, validation: Labelled) -> int:
    """Bytes that a frozen bottom's output takes in memory for all texts, beyond those of the sample."""
    if said.get("kept") != "in memory":
        return 0
    whole = said["layers"] == "all"  # then a row is kept of each text, else of each token
    few, *all_of = (len(one.labels) if whole else int(one.tokens.lengths.sum()) for one in (sample, data, validation))
    kept = int(said["kept_bytes"])
    return kept * sum(all_of) // few - kept


def _quiet(progress: Progress) -> None:
    """Nobody is told of these steps."""
