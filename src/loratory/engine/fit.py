"""The one training loop.

    run the frozen bottom of the encoder once, where there is one
    for each epoch, until there were so many without a better one as the spec has patience for:
        for each batch of its order: one step (forward, loss, backward, clip, AdamW, schedule)
        validate

It is the same for every method: what is trained is what the method set free.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from loratory.data.batches import Cut, Labelled, Orders
from loratory.engine.compiling import Compiled
from loratory.engine.frozen import Bottom, resumed
from loratory.engine.graphs import Graphs, captured
from loratory.engine.hardware import Hardware
from loratory.engine.layers import Quickened, quickened
from loratory.engine.memory import checkpointed
from loratory.engine.meter import Meter
from loratory.engine.modules import quicken
from loratory.engine.predict import predict
from loratory.engine.step import Step
from loratory.engine.timing import probe
from loratory.errors import DivergedError
from loratory.methods.base import Companion
from loratory.models import quantized
from loratory.models.flat import Classifier
from loratory.models.output import Scale
from loratory.problems import REGRESSION
from loratory.spec import TrainingSpec

log = logging.getLogger("loratory")

CHECKED_EVERY = 50
"""Steps between looks at the loss, and at the device's own clock: a look waits for the device."""

FIRST_LOOKS = (2, 4, 8, 16, 32)
"""Steps after which there is a look before that, so that the device's clock is read in short runs, too."""


GRADUAL = "layers are unfrozen from epoch to epoch"
"""Why steps are not captured: a graph has the weights that it trains fixed."""


@dataclass(frozen=True)
class Progress:
    """What the loop tells after each step, for whoever shows it."""

    epoch: int
    step: int
    total_steps: int
    examples: int
    lr: float
    """Of the coming step."""
    loss: float | None = None
    """The mean over the epoch's examples so far, where the loop looked at it: a look waits for the device."""


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


@dataclass(frozen=True)
class Ready:
    """A model that is ready to be trained, and how its steps are made.

    Attributes:
        engine: as :attr:`FitResult.engine`.
    """

    classifier: Classifier
    data: Labelled
    lengths: NDArray[np.int64]
    """(N,) tokens of each training text."""
    validation: Labelled | None
    orders: Sequence[NDArray[np.int64]]
    cut: Cut
    bottom: Bottom | None
    quick: Quickened
    one: Step
    step: Graphs | Step
    hardware: Hardware
    meter: Meter
    starts: Mapping[str, int]
    engine: dict[str, Any]
    scale: Scale | None
    """That on which a regression is trained; what it gives is on it until it is folded in."""

    def epoch(self, number: int, on_step: Callable[[Progress], None]) -> dict[str, float]:
        """Make an epoch's steps; the number of steps made so far, the mean loss, and the rate at the end.

        Raises:
            DivergedError: the loss is not a finite number.
        """
        order, meter, begin = self.orders[number - 1], self.meter, 0
        size = self.cut.size * self.cut.processes  # of a step, all processes together
        total = len(self.orders) * math.ceil(len(order) / size)
        _set_training(self.classifier.model, self.bottom)
        self._unfreeze(number)
        self.one.loss.zero_()
        clock = meter.clock
        with meter.phase("train"), clock.running():
            clock.begin("data")
            for parts in self.data.steps(order, self.cut):
                rows = self.step(parts)
                clock.begin("launching")
                seen = order[begin : begin + size]
                begin += len(seen)
                meter.count(examples=len(seen), tokens=int(self.lengths[seen].sum()), padded_tokens=rows)
                said = meter.steps % CHECKED_EVERY == 0
                loss = self._loss(number) / begin if said or meter.steps in FIRST_LOOKS else None
                looked = loss if said else None
                on_step(Progress(number, meter.steps, total, meter.examples, self.one.rate(meter.steps), looked))
                clock.begin("data")
            loss = self._loss(number) / len(order)
        return {"step": meter.steps, "loss": loss, "lr": self.one.rate(meter.steps)}

    def _unfreeze(self, epoch: int) -> None:
        """Let those parameters have gradients whose first epoch has come; the optimizer passes over the others."""
        for name, first in self.starts.items():
            self.one.free[name].requires_grad_(first <= epoch)

    def _loss(self, epoch: int) -> float:
        """The sum of the examples' losses in this epoch so far, all processes together; it must be a finite number."""
        self.meter.clock.begin("waiting")
        together = self.one.loss.clone()
        self.hardware.processes.sum_(together)
        total = float(together)
        self.meter.clock.look()
        self.meter.clock.begin("launching")
        if not math.isfinite(total):
            raise DivergedError(f"the loss is {total} in epoch {epoch} (step {self.meter.steps}); use a smaller --lr")
        return total

    def validated(self) -> Tensor:
        """The logits (N, C) of validation with the weights as they are."""
        assert self.validation is not None
        self.quick.shadows.refresh()
        logits = predict(self.classifier, self.validation, hardware=self.hardware, processes=self.hardware.processes)
        return logits if self.scale is None else self.scale.back(logits)

    def weights(self) -> dict[str, Tensor]:
        """A copy of what is trained, by name."""
        return {name: parameter.detach().clone() for name, parameter in self.one.free.items()}

    def restore(self, weights: dict[str, Tensor]) -> None:
        """Bring `weights` back."""
        with torch.no_grad():
            for name, parameter in self.one.free.items():
                parameter.copy_(weights[name])


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
) -> Iterator[Ready]:
    """Make the model ready for its first step; afterwards its modules compute by themselves again.

    What the steps draw comes from `seed`, and torch's own generators stand afterwards where they stood.

    Args:
        orders: which examples each epoch sees, in which order; by default all, in an order drawn from `seed`.
    """
    model, family, processes = classifier.model, classifier.family, hardware.processes
    bottom = Bottom.of(model, family)
    if orders is None:
        orders = Orders(len(data.labels), seed, spec.epochs)
    weights = data.balanced(classifier.classes) if spec.class_weights == "balanced" else None
    cut = Cut(spec.batch_size, spec.accumulate, processes.rank, processes.count, weights)
    scale = Scale.of(data.labels, classifier.output) if classifier.problem == REGRESSION else None
    lengths = data.tokens.lengths
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[hardware.device] if hardware.device.type == "cuda" else []))
        quick = stack.enter_context(quickened(model, hardware))
        blocks = family.blocks(model) if hardware.checkpointing else []
        random = spec.attention_dropout > 0 or any(map(quick.random, blocks))
        stack.enter_context(checkpointed(blocks, random=random))
        held = quantized.said(model)
        why_eager = _why_eager(companion, starts, held, drawn=bool(blocks) and random)
        compiled = _compilable(classifier, quick, hardware)
        stack.callback(compiled.stop)
        above = stack.enter_context(resumed(classifier, bottom, data, validation, hardware, meter))
        classifier, data, validation, frozen = above
        _set_training(model, bottom)
        with meter.phase("setup"):
            embeddings = stack.enter_context(quicken(model)) if hardware.device.type == "cpu" else []
            total = spec.epochs * math.ceil(len(data.labels) / (cut.size * cut.processes))
            if companion is not None:
                stack.enter_context(companion.over(total))
            one = Step(
                classifier, spec, hardware, lr=lr, total=total, rates=rates, companion=companion, class_weights=weights,
                scale=scale, embeddings=embeddings, refresh=quick.refresh, clock=meter.clock,
            )  # fmt: skip
            meter.memory_parts = one.memory(data.largest(orders, cut), quick.shadows.copies)
            step, engine = captured(
                one,
                [tokens for order in orders for tokens in data.totals(order, cut)],
                steps=total,
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
        said = {"quantized": held, "frozen_bottom": frozen, "trained_by_epoch": _trained(one, starts, spec.epochs)}
        facts = {"own_layers": _own_layers(classifier, quick), **{key: one for key, one in said.items() if one}}
        _log(facts)
        torch.manual_seed(processes.seed(seed))  # each process draws dropout of its own
        yield Ready(
            classifier, data, lengths, validation, orders, cut, bottom, quick, one, step, hardware, meter, starts,
            {**engine, **facts}, scale,
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


def _probe(one: Step, step: Graphs | Step, data: Labelled, orders: Sequence[NDArray[np.int64]], cut: Cut) -> None:
    """Let the clock learn what the device's work is where steps are launched one by one on CUDA."""
    if one.hardware.device.type != "cuda" or one.processes.count > 1:
        return
    ends = data.largest(orders, cut), data.largest(orders, cut, least=True)
    probe(one, [step.placed(replace(batch, weights=torch.zeros_like(batch.weights))) for batch in ends])


def _log(facts: Mapping[str, Any]) -> None:
    """Say what is not as usual of how steps are made."""
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


def _own_layers(classifier: Classifier, quick: Quickened) -> dict[str, int]:
    """How many layers the engine computes itself, of how many; stock modules compute the others."""
    blocks = classifier.family.blocks(classifier.model)
    return {"layers": sum(map(quick.computes, blocks)), "of": len(blocks)}


def _compilable(classifier: Classifier, quick: Quickened, hardware: Hardware) -> Compiled:
    """The layers that torch.compile may take, or why none."""
    if hardware.device.type != "cuda":
        return Compiled(why_not="never on a CPU")
    if hardware.checkpointing:
        return Compiled(why_not="layers are checkpointed")
    layers = [layer for layer in classifier.family.blocks(classifier.model) if not quick.computes(layer)]
    return Compiled(layers, why_not=None if layers else "layers have kernels of their own")


def _set_training(model: nn.Module, bottom: Bottom | None) -> None:
    model.train()
    if bottom is not None:
        bottom.evaluate()
