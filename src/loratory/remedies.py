"""What would fit where a run's memory did not suffice: each change is tried on the device, by the estimate."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import torch

from loratory.errors import LoratoryError
from loratory.estimating import fits
from loratory.methods import method_settings
from loratory.outcome import general
from loratory.setup import Setup
from loratory.spec import RunSpec

log = logging.getLogger("loratory")

SECONDS = 30.0
"""After so long no further change is tried."""

SHORTEST = 16
"""Texts are not cut below so many tokens."""

Change = tuple[str, RunSpec]
"""The flags of a change, and the run with it."""


def remedy(setup: Setup) -> str:
    """Which changes of the run `setup`, each alone, would fit; the run's own weights are given up for that.

    Of several processes, where they would have to try together, and beside a quantised base, some of whose memory only
    bitsandbytes holds, it is only said what there is.
    """
    spec = setup.spec
    if setup.hardware.processes.count > 1 or spec.training.quantize != "off":
        return general(spec)
    _give_up(setup)
    begin = time.monotonic()
    fitting: list[str] = []
    not_fitting: list[str] = []
    for changes in _changes(spec):
        if time.monotonic() - begin < SECONDS:
            first, before = _first_that_fits(changes)
            fitting += first
            not_fitting += before
    if not fitting:
        tried = f"; none of these does by the estimate: {', '.join(not_fitting)}" if not_fitting else ""
        return f"take a smaller --model{tried}"
    beside = f" (not: {', '.join(not_fitting)})" if not_fitting else ""
    return f"by the estimate each of these fits: {', '.join(fitting)}{beside}"


def _first_that_fits(changes: list[Change]) -> tuple[list[str], list[str]]:
    """The words of the first change that fits and of the last before it that does not: each takes less than the one
    before it, so that halving finds it.
    """
    low, high = 0, len(changes)
    while low < high:
        middle = (low + high) // 2
        fitting = _fits(*changes[middle])
        if fitting is None:
            return _first_that_fits(changes[:middle] + changes[middle + 1 :])
        low, high = (low, middle) if fitting else (middle + 1, high)
    return [words for words, _ in changes[low : low + 1]], [words for words, _ in changes[:low][-1:]]


def _changes(spec: RunSpec) -> Iterator[list[Change]]:
    """What may be changed; of each list, from the smallest change on, the first that fits is enough."""
    training, longest = spec.training, spec.data.max_length
    parts = [training.accumulate << more for more in range(1, 11)]
    yield [_changed(spec, "training", accumulate=count) for count in parts if count <= training.batch_size]
    if spec.hardware.activation_checkpointing == "off":
        yield [_changed(spec, "hardware", activation_checkpointing="on")]
    lengths = [longest >> less for less in range(1, 4)]
    yield [_changed(spec, "data", max_length=length) for length in lengths if length >= SHORTEST]
    for name in ("lora", "head"):
        if spec.method.name in ("standard", "hybrid") or (name == "head" and spec.method.name != "head"):
            yield [(f"--method {name}", spec.model_copy(update={"method": method_settings({"name": name})}))]


def _changed(spec: RunSpec, group: str, **values: int | str) -> Change:
    words = [f"--{name.replace('_', '-')} {value}" for name, value in values.items()]
    if "accumulate" in values:  # its parts are as large as those batches
        words.append(f"or --batch-size {spec.training.batch_size // int(values['accumulate'])}")
    return " ".join(words), spec.model_copy(update={group: getattr(spec, group).model_copy(update=values)})


def _fits(words: str, spec: RunSpec) -> bool | None:
    """Whether it fits; None where such a run cannot be, whatever the memory."""
    try:
        return fits(spec)
    except LoratoryError as error:
        log.debug("%s is no remedy: %s", words, error)
        return None


def _give_up(setup: Setup) -> None:
    """Free what the run's model holds; shapes, which its record counts, stay."""
    for tensor in (*setup.base.model.parameters(), *setup.base.model.buffers()):
        tensor.grad = None
        tensor.data = torch.empty((), dtype=tensor.dtype, device=tensor.device).expand(tensor.shape)
    setup.hardware.free()
