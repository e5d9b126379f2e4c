"""What training would cost, found before it: the model is built from its configuration with random values, and a few
steps are made on the device where it would be trained. Neither time nor memory depends on the weights' values.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

from loratory.data.batches import Cut, Labelled, Orders
from loratory.engine.calibrate import Calibration, calibrate
from loratory.engine.hardware import Hardware
from loratory.engine.operations import operations
from loratory.errors import OutOfMemoryError
from loratory.host_memory import available_memory, training_memory
from loratory.inputs import Inputs
from loratory.outcome import memory_errors
from loratory.saving import bytes_of_weights
from loratory.setup import prepare
from loratory.spec import RunSpec
from loratory.store.naming import approach

log = logging.getLogger("loratory")

MOST_EXAMPLES = 65536
"""No batch larger than this is thought about."""


@dataclass(frozen=True)
class Estimate:
    """What one run would cost.

    Attributes:
        approach: the method and its settings in short.
        batch_size: examples a step.
        fits: False where the device's memory ran out in the calibration; then memory and time are None.
        parameters: total, trainable, adapter, head, unfrozen, frozen: exact.
        memory_kind: `allocated` on CUDA, `resident` on a CPU, the process's libraries included.
        peak_memory_bytes: of the step with the most tokens of the whole run, measured.
        memory_parts_bytes: weights, gradients, optimizer, activations of that step, and the rest: workspace, and on a
            CPU the process itself.
        checkpoint_bytes: of the weights that a run saves.
        operations: floating-point operations of all optimizer steps.
        steps, tokens: of the whole run.
        train_seconds: of all optimizer steps, from the time of those that were made.
        bottom_seconds: of these those of the one pass of a frozen bottom.
        timed_steps: how many steps were timed.
        largest_batch: with a limit of memory: the most examples a step that stay below it, 0 for none.
        train_examples: all there are, which no step has more of.
        calibration_seconds: what it took to find out.
    """

    approach: str
    batch_size: int
    fits: bool
    parameters: dict[str, int]
    memory_kind: str
    peak_memory_bytes: int | None
    memory_parts_bytes: dict[str, int] | None
    checkpoint_bytes: int
    operations: float
    steps: int
    tokens: int
    train_seconds: float | None
    bottom_seconds: float | None
    timed_steps: int
    largest_batch: int | None
    train_examples: int
    calibration_seconds: float
    device: str
    spec: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def estimate(
    spec: RunSpec, *, memory: int | None = None, inputs: Inputs | None = None, seconds: float = 2.0
) -> Estimate:
    """What the run `spec` would cost on its device.

    Args:
        memory: bytes, for which the largest batch is sought.
        inputs: what earlier estimates of this process have read; made with `weights=False` it needs no weights.
        seconds: for how long steps are timed, about.

    Raises:
        LoratoryError: data or model cannot be read, or the settings do not fit them.
    """
    begin = time.perf_counter()
    inputs = inputs or Inputs(weights=False)
    facts, found = _tried(spec, inputs, seconds)
    if found is None:
        log.warning("%s at --batch-size %d: the memory does not suffice", spec.method.name, spec.training.batch_size)
    largest = None
    if memory is not None:
        half = {"batch_size": max(1, spec.training.batch_size // 2)}
        _, other = _tried(spec.model_copy(update={"training": spec.training.model_copy(update=half)}), inputs, 0.0)
        measured = [one for one in (found, other) if one is not None]
        most = min(MOST_EXAMPLES, len(facts.data.labels))
        largest = largest_batch(peaks(facts.data, facts.spec, measured), most, memory) if measured else 0
    training, data = facts.spec.training, facts.data
    return Estimate(
        approach=approach(facts.spec.method.model_dump()),
        batch_size=training.batch_size,
        fits=found is not None,
        parameters=facts.parameters,
        memory_kind="allocated" if facts.spec.hardware.device == "cuda" else "resident",
        peak_memory_bytes=found.peak_bytes if found is not None else None,
        memory_parts_bytes=found.parts_bytes if found is not None else None,
        checkpoint_bytes=facts.checkpoint_bytes,
        operations=facts.operations,
        steps=training.last_epoch * math.ceil(len(data.labels) / training.batch_size),
        tokens=training.last_epoch * int(data.tokens.lengths.sum()),
        train_seconds=found.train_seconds if found is not None else None,
        bottom_seconds=found.bottom_seconds if found is not None else None,
        timed_steps=found.timed_steps if found is not None else 0,
        largest_batch=largest,
        train_examples=len(data.labels),
        calibration_seconds=time.perf_counter() - begin,
        device=facts.device,
        spec=facts.spec.model_dump(mode="json"),
    )


def fits(spec: RunSpec) -> bool:
    """Whether the device's memory suffices, as it is now, for the heaviest step of the run `spec`.

    Raises:
        LoratoryError: as :func:`estimate`.
    """
    try:
        return _tried(spec, Inputs(weights=False), 0.0)[1] is not None
    except OutOfMemoryError:  # before the first step
        return False
    finally:
        Hardware.of(spec.hardware).free()


@dataclass(frozen=True)
class _Facts:
    """What is known of a run without a step."""

    spec: RunSpec
    data: Labelled
    parameters: dict[str, int]
    checkpoint_bytes: int
    operations: float
    device: str


def _tried(spec: RunSpec, inputs: Inputs, seconds: float) -> tuple[_Facts, Calibration | None]:
    """What is known of a run, and its calibration, or None where memory does not suffice for that. The model is gone
    afterwards.
    """
    hardware = Hardware.of(spec.hardware)
    if hardware.device.type == "cpu":
        import_module("loratory.run")  # what it loads is part of a training process's resident memory
    with memory_errors(spec, hardware):
        setup = prepare(spec, hardware, inputs, weights=False)
    data, training = setup.tokens["train"], setup.spec.training
    facts = _Facts(
        spec=setup.spec,
        data=data,
        parameters=setup.trainable.counts(),
        checkpoint_bytes=bytes_of_weights(setup),
        operations=operations(setup.classifier, data.tokens.lengths, epochs=training.last_epoch),
        device=setup.hardware.record()["device"],
    )
    if hardware.device.type == "cpu" and training_memory(facts.parameters, mapped=False) > available_memory():
        return facts, None  # the system would kill the process
    try:
        with memory_errors(setup.spec, setup.hardware):
            return facts, calibrate(
                setup.classifier,
                data,
                setup.tokens["validation"],
                training,
                seed=setup.spec.seed,
                hardware=setup.hardware,
                rates=setup.trainable.rates,
                starts=setup.trainable.starts,
                companion=setup.trainable.companion,
                seconds=seconds,
            )
    except OutOfMemoryError:
        setup.hardware.free()
        return facts, None


def peaks(data: Labelled, spec: RunSpec, found: Sequence[Calibration]) -> Callable[[int], float]:
    """(examples a step) -> bytes at the peak of the run `spec` with such steps: fixed + tokens of the heaviest part of
    a batch · slope, through the two peaks that were measured; the slope is no less than that of the activations alone.

    Args:
        found: one or two calibrations of it, with batches of different sizes.
    """
    one, other = found[0], found[-1]
    slope = one.parts_bytes["activations"] / one.heaviest
    if one.heaviest != other.heaviest:
        slope = max(slope, (one.peak_bytes - other.peak_bytes) / (one.heaviest - other.heaviest))
    fixed = one.peak_bytes - slope * one.heaviest
    orders = Orders(len(data.labels), spec.seed, spec.training.last_epoch)

    def peak(size: int) -> float:
        cut = Cut(size, spec.training.accumulate)
        return fixed + slope * max(tokens for order in orders for tokens in data.totals(order, cut))

    return peak


def largest_batch(peak: Callable[[int], float], most: int, memory: int) -> int:
    """Of 1 to `most` examples a step so many that `peak` stays below `memory` bytes and with one more does not; 0 where
    one is too many.
    """
    if peak(1) > memory:
        return 0
    low, high = 1, 2
    while high <= most and peak(high) <= memory:
        low, high = high, high * 2
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if peak(middle) <= memory else (low, middle)
    return low
