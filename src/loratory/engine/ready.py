"""Makes a model ready for its first step: what the engine computes itself, what runs once, what is captured."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from loratory.data.batches import Cut, Labelled, Orders
from loratory.engine.compiling import Compiled
from loratory.engine.epoch import Ready, set_training
from loratory.engine.frozen import Bottom, resumed
from loratory.engine.graphs import Graphs, captured
from loratory.engine.hardware import Hardware
from loratory.engine.layers import Quickened, quickened
from loratory.engine.memory import checkpointed
from loratory.engine.meter import Meter
from loratory.engine.modules import quicken
from loratory.engine.passes import Passes
from loratory.engine.step import Step
from loratory.engine.timing import probe
from loratory.errors import counted
from loratory.methods.base import Companion
from loratory.models import quantized
from loratory.models.flat import Classifier
from loratory.models.output import Scale
from loratory.problems import REGRESSION
from loratory.spec import TrainingSpec

log = logging.getLogger("loratory")

GRADUAL = "layers are unfrozen from epoch to epoch"
"""Why steps are not captured: a graph has the weights that it trains fixed."""


def totals_of(data: Labelled, orders: Sequence[NDArray[np.int64]], cut: Cut) -> list[int]:
    """Tokens of every part of a batch that one process computes."""
    return [tokens for order in orders for tokens in data.totals(order, cut)]


@contextmanager
def ready(
    classifier: Classifier,
    data: Labelled,
    validation: Labelled | None,
    spec: TrainingSpec,
    *,
    lr: float,
    seed: int,
    hardware: Hardware,
    meter: Meter,
    rates: Mapping[str, float] = MappingProxyType({}),
    starts: Mapping[str, int] = MappingProxyType({}),
    companion: Companion | None = None,
    orders: Sequence[NDArray[np.int64]] | None = None,
    totals: Sequence[int] | None = None,
    end: Callable[[], None] = lambda: None,
) -> Iterator[Ready]:
    """Make the model ready for its first step; afterwards its modules compute by themselves again.

    What the steps draw comes from `seed`, and torch's own generators stand afterwards where they stood.

    Args:
        orders: which examples each epoch sees, in which order; by default all, in an order drawn from `seed`.
        totals: tokens of the parts of all batches that shapes are chosen for; by default those of the whole schedule,
            so that a run that stops before its end computes until then what it would compute without.
        end: as :func:`loratory.engine.frozen.resumed` takes it.
    """
    model, family, processes = classifier.model, classifier.family, hardware.processes
    bottom = Bottom.of(model, family)
    weights = data.balanced(classifier.classes) if spec.class_weights == "balanced" else None
    cut = Cut(spec.batch_size, spec.accumulate, processes.rank, processes.count, weights)
    planned = orders or Orders(len(data.labels), seed, spec.epochs)
    orders = orders or Orders(len(data.labels), seed, spec.last_epoch)
    scale = Scale.of(data.labels, classifier.output) if classifier.problem == REGRESSION else None
    lengths = data.tokens.lengths
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[hardware.device] if hardware.device.type == "cuda" else []))
        stack.enter_context(hardware.deterministically())
        quick = stack.enter_context(quickened(model, hardware))
        blocks = family.blocks(model) if hardware.checkpointing else []
        random = spec.attention_dropout > 0 or any(map(quick.random, blocks))
        stack.enter_context(checkpointed(blocks, random=random))
        held = quantized.said(model)
        why_eager = _why_eager(companion, starts, held, drawn=bool(blocks) and random)
        compiled = _compilable(classifier, quick, hardware)
        stack.callback(compiled.stop)
        parts = {"train": data, **({"validation": validation} if validation is not None else {})}
        above = resumed(classifier, bottom, parts, hardware, counted=meter.of_part, end=end)
        classifier, parts, frozen = stack.enter_context(above)
        data, validation = parts["train"], parts.get("validation")
        set_training(model, bottom)
        with meter.phase("setup"):
            embeddings = stack.enter_context(quicken(model, quick.draws, family.blocks(model)))
            each = math.ceil(len(data.labels) / (cut.size * cut.processes))
            total = spec.epochs * each  # of the schedule
            if companion is not None:
                stack.enter_context(companion.over(total))
            one = Step(
                classifier, spec, hardware, lr=lr, total=total, rates=rates, companion=companion, class_weights=weights,
                scale=scale, embeddings=embeddings, refresh=quick.refresh, clock=meter.clock,
            )  # fmt: skip
            meter.memory_parts = one.memory(data.largest(orders, cut), quick.shadows.copies)
            step, engine = captured(
                one,
                totals or totals_of(data, planned, cut),
                steps=spec.last_epoch * each,
                examples=min(len(data.labels), math.ceil(spec.batch_size / spec.accumulate)),
                longest=int(data.tokens.lengths.max()),
                compiled=compiled,
                types=data.tokens.types is not None,
                why_eager=why_eager,
            )
            if engine["graphs"] == 0 and companion is None and not starts:
                _probe(one, step, data, orders, cut)
        meter.clock.bottom = meter.seconds["train"]
        if starts:
            stack.callback(_set_free, one)
        said = {"quantized": held, "frozen_bottom": frozen, "trained_by_epoch": _trained(one, starts, spec.last_epoch)}
        facts = {"own_layers": quick.count(family.blocks(model)), **{key: one for key, one in said.items() if one}}
        _log(facts, hardware)
        torch.manual_seed(processes.seed(seed))  # each process draws dropout of its own
        yield Ready(
            classifier, data, lengths, orders, cut, bottom, quick, one, step, hardware, meter, {**engine, **facts},
            validation, starts, scale,
        )  # fmt: skip


def _why_eager(
    companion: Companion | None, starts: Mapping[str, int], held: Mapping[str, Any] | None, *, drawn: bool
) -> str | None:
    """What stands against capturing steps as CUDA graphs, if anything does.

    Args:
        held: what the record says of a quantised base.
        drawn: whether checkpointed layers draw from torch's generators.
    """
    if companion is not None:
        return companion.why_eager
    if starts:
        return GRADUAL
    if held is not None and "load_in_8bit" in held:
        return quantized.WHY_EAGER
    return "checkpointed layers draw from torch's generator" if drawn else None


def _probe(one: Step, step: Graphs | Passes, data: Labelled, orders: Sequence[NDArray[np.int64]], cut: Cut) -> None:
    """Let the clock learn what the device's work is where steps are launched one by one on CUDA."""
    if one.hardware.device.type != "cuda" or one.processes.count > 1:
        return
    ends = data.largest(orders, cut), data.largest(orders, cut, least=True)
    probe(one, [step.placed(replace(batch, weights=torch.zeros_like(batch.weights))) for batch in ends])


def _log(facts: Mapping[str, Any], hardware: Hardware) -> None:
    """Say what is not as usual of how steps are made."""
    if hardware.deterministic:
        kept = (
            "no TF32, no compiled layers"
            if hardware.device.type == "cuda"
            else counted(torch.get_num_threads(), "thread")
        )
        log.info("deterministic algorithms alone, %s: the same again with the same versions and device", kept)
    if "quantized" in facts:
        layers = facts["quantized"]["layers"]
        log.info("%d linear layers are held in fewer bits: stock modules compute them", layers)
    own = facts["own_layers"]
    if own["layers"] < own["of"]:
        log.info("%d of %d layers are left to stock modules", own["of"] - own["layers"], own["of"])
    if "trained_by_epoch" in facts:
        log.info("parameters trained by epoch: %s", ", ".join(f"{count:,}" for count in facts["trained_by_epoch"]))


def _trained(one: Step, starts: Mapping[str, int], epochs: int) -> list[int] | None:
    """How many parameters are trained in each epoch, where some begin late."""
    if not starts:
        return None
    sizes = {name: parameter.numel() for name, parameter in one.free.items()}
    return [sum(sizes[name] for name in sizes if starts.get(name, 1) <= epoch) for epoch in range(1, epochs + 1)]


def _set_free(one: Step) -> None:
    for parameter in one.free.values():
        parameter.requires_grad_(True)


def _compilable(classifier: Classifier, quick: Quickened, hardware: Hardware) -> Compiled:
    """The layers that torch.compile may take, or why none."""
    if hardware.device.type != "cuda":
        return Compiled(why_not="never on a CPU")
    if hardware.checkpointing:
        return Compiled(why_not="layers are checkpointed")
    if hardware.deterministic:
        return Compiled(why_not="a stopwatch would decide it, and the run must be deterministic")
    layers = [layer for layer in classifier.family.blocks(classifier.model) if not quick.computes(layer)]
    return Compiled(layers, why_not=None if layers else "layers have kernels of their own")
