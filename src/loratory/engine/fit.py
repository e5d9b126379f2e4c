"""The one training loop.

    run the frozen bottom of the encoder once, where there is one
    for each epoch:
        for each batch of its order: one step (forward, loss, backward, clip, AdamW, schedule)
        validate

It is the same for every method: what is trained is what the method set free.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from loratory.data.batches import Cut, Labelled, epoch_order
from loratory.engine.compiling import Compiled
from loratory.engine.frozen import Bottom, resumed
from loratory.engine.graphs import captured
from loratory.engine.hardware import Hardware
from loratory.engine.layers import Quickened, quickened
from loratory.engine.memory import checkpointed
from loratory.engine.meter import Meter
from loratory.engine.modules import quicken
from loratory.engine.predict import predict
from loratory.engine.processes import Processes
from loratory.engine.step import Step
from loratory.errors import DivergedError
from loratory.models.flat import Classifier
from loratory.spec import TrainingSpec

CHECKED_EVERY = 50
"""Steps between looks at the loss: a look waits for the device."""


@dataclass(frozen=True)
class Progress:
    """What the loop tells after each step, for whoever shows it."""

    epoch: int
    step: int
    total_steps: int
    examples: int


@dataclass(frozen=True)
class FitResult:
    """What the loop leaves beside the trained weights.

    Attributes:
        history: a row an epoch: epoch, step, loss (mean over its examples), lr at its end, train_seconds so far,
            and what validation gave.
        best_epoch: the epoch whose weights the model holds now.
        engine: how the steps were made: `graphs` (shapes captured as CUDA graphs), `why_eager` where none were,
            `compiled` (how many layers, or why none, and what was measured), and `frozen_bottom` (layers that ran
            once, and where their output was kept) where there was one.
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
    on_step: Callable[[Progress], None] = lambda progress: None,
) -> FitResult:
    """Train what is free in the classifier's model, in place, on the device where it is.

    Args:
        lr: peak learning rate.
        seed: decides data order and dropout, and nothing else does.
        score: the scores of `validation`'s logits (N, C), after each epoch; none where there is no validation.
        better: whether its first scores are better than its second; used where the spec keeps the best weights.
        on_step: told after each step.

    Raises:
        DivergedError: the loss is not a finite number; checked at the end of each epoch and every 50 steps.
    """
    model, bottom = classifier.model, Bottom.of(classifier.model, classifier.family)
    orders = [epoch_order(len(data.labels), seed, epoch) for epoch in range(1, spec.epochs + 1)]
    processes = hardware.processes
    cut = Cut(spec.batch_size, spec.accumulate, processes.rank, processes.count)
    size = spec.batch_size * processes.count  # of a step, all processes together
    total = spec.epochs * math.ceil(len(data.labels) / size)
    history: list[dict[str, Any]] = []
    best: tuple[int, dict[str, float], dict[str, Tensor]] | None = None
    devices = [hardware.device] if hardware.device.type == "cuda" else []
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=devices))
        quick = stack.enter_context(quickened(model, hardware))
        texts = data.tokens.lengths
        blocks = classifier.family.blocks(model) if hardware.checkpointing else []
        random = spec.attention_dropout > 0 or any(map(quick.random, blocks))
        stack.enter_context(checkpointed(blocks, random=random))
        compiled = _compilable(classifier, quick, hardware)
        stack.callback(compiled.stop)
        above = stack.enter_context(resumed(classifier, data, validation, hardware, meter))
        classifier, data, validation, frozen = above
        _set_training(model, bottom)
        with meter.phase("setup"):
            embeddings = quicken(model) if hardware.device.type == "cpu" else []
            one = Step(classifier, spec, hardware, lr=lr, total=total, embeddings=embeddings, refresh=quick.refresh)
            meter.memory_parts = one.memory(data.largest(orders, cut), quick.shadows.copies)
            step, engine = captured(
                one,
                [tokens for order in orders for tokens in data.totals(order, cut)],
                examples=min(len(data.labels), math.ceil(spec.batch_size / spec.accumulate)),
                longest=int(data.tokens.lengths.max()),
                compiled=compiled,
                why_eager="checkpointed layers draw from torch's generator" if blocks and random else None,
            )
        if frozen is not None:
            engine["frozen_bottom"] = frozen
        torch.manual_seed(seed + (processes.rank << 32))  # each process draws dropout of its own
        for epoch, order in enumerate(orders, 1):
            _set_training(model, bottom)
            one.loss.zero_()
            begin = 0
            with meter.phase("train"):
                for parts in data.steps(order, cut):
                    rows = step(parts)
                    seen = order[begin : begin + size]
                    begin += len(seen)
                    meter.count(examples=len(seen), tokens=int(texts[seen].sum()), padded_tokens=rows)
                    if meter.steps % CHECKED_EVERY == 0:
                        _total(one.loss, processes, epoch, meter.steps)
                    on_step(Progress(epoch, meter.steps, total, meter.examples))
                loss = _total(one.loss, processes, epoch, meter.steps) / len(data.labels)
            row = {"epoch": epoch, "step": meter.steps, "loss": loss, "lr": one.rate}
            with meter.phase("eval"):
                quick.shadows.refresh()
                scores = {}
                if validation is not None:
                    scores = score(predict(classifier, validation, hardware=hardware, processes=processes))
            history.append({**row, "train_seconds": meter.seconds["train"], **scores})
            if spec.keep == "best" and (best is None or better(scores, best[1])):
                best = epoch, scores, {name: parameter.detach().clone() for name, parameter in one.free.items()}
        if best is not None:
            with torch.no_grad():
                for name, parameter in one.free.items():
                    parameter.copy_(best[2][name])
    return FitResult(history, best[0] if best is not None else spec.epochs, engine)


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


def _total(losses: Tensor, processes: Processes, epoch: int, step: int) -> float:
    """The sum of all processes' losses, which must be a finite number."""
    together = losses.clone()
    processes.sum_(together)
    total = float(together)
    if not math.isfinite(total):
        raise DivergedError(f"the loss is {total} in epoch {epoch} (step {step}); use a smaller --lr")
    return total
