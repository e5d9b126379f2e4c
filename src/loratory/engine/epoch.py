"""One epoch: for each batch of its order a step (forward, loss, backward, clip, AdamW, schedule)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from loratory.data.batches import Cut, Labelled
from loratory.engine.frozen import Bottom
from loratory.engine.graphs import Graphs
from loratory.engine.hardware import Hardware
from loratory.engine.layers import Quickened
from loratory.engine.meter import Meter
from loratory.engine.passes import Passes
from loratory.engine.predict import predict
from loratory.engine.step import Step
from loratory.errors import DivergedError
from loratory.models.flat import Classifier
from loratory.models.output import Scale

CHECKED_EVERY = 50
"""Steps between looks at the loss, and at the device's own clock: a look waits for the device."""


FIRST_LOOKS = (2, 4, 8, 16, 32)
"""Steps after which there is a look before that, so that the device's clock is read in short runs, too."""


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
    """The mean over the epoch's examples so far, every :data:`CHECKED_EVERY` steps: a look waits for the device."""


@dataclass(frozen=True)
class Steps:
    """What the steps of an epoch are made of.

    Attributes:
        lengths: (N,) tokens of each training text.
        engine: as :attr:`loratory.engine.fit.FitResult.engine`.
    """

    classifier: Classifier
    data: Labelled
    lengths: NDArray[np.int64]
    orders: Sequence[NDArray[np.int64]]
    cut: Cut
    bottom: Bottom | None
    quick: Quickened
    one: Passes
    step: Graphs | Passes
    hardware: Hardware
    meter: Meter
    engine: dict[str, Any]

    def epoch(
        self,
        number: int,
        on_step: Callable[[Progress], None],
        *,
        seen: int = 0,
        pause: Callable[[int], bool] = lambda steps: False,
    ) -> int:
        """Make an epoch's steps, from the example on before which it was paused.

        Args:
            seen: of how many examples of the epoch's order steps were made already.
            pause: asked after each step, with the number of steps made so far, whether to stop for now.

        Returns:
            Of how many examples steps were made by now.

        Raises:
            DivergedError: the loss is not a finite number.
        """
        meter = self.meter
        size = self.cut.size * self.cut.processes  # of a step, all processes together
        set_training(self.classifier.model, self.bottom)
        self._begin(number)
        if seen == 0:
            self.one.loss.zero_()
        clock = meter.clock
        with meter.phase("train"), clock.running():
            clock.begin("data")
            order = self.orders[number - 1]
            total = len(self.orders) * math.ceil(len(order) / size)
            for parts in self.data.steps(order[seen:], self.cut):
                rows = self.step(parts)
                clock.begin("launching")
                made = order[seen : seen + size]
                seen += len(made)
                meter.count(examples=len(made), tokens=int(self.lengths[made].sum()), padded_tokens=rows)
                told = meter.steps % CHECKED_EVERY == 0
                looked = told or meter.steps in FIRST_LOOKS
                seen_loss = self._loss(number) / seen if looked else None
                rate = self.one.rate(meter.steps)
                on_step(Progress(number, meter.steps, total, meter.examples, rate, seen_loss if told else None))
                if pause(meter.steps):
                    break
                clock.begin("data")
        return seen

    def ended(self, number: int) -> dict[str, float]:
        """Of an epoch whose steps are made: the number of steps so far, the mean loss, and the rate at the end.

        Raises:
            DivergedError: the loss is not a finite number.
        """
        with self.meter.phase("train"):
            loss = self._loss(number) / len(self.orders[number - 1])
        return {"step": self.meter.steps, "loss": loss, "lr": self.one.rate(self.meter.steps)}

    def _begin(self, epoch: int) -> None:
        """Before the first step of an epoch, or where it goes on."""

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


@dataclass(frozen=True)
class Ready(Steps):
    """A model that is ready to be trained, and how its steps are made."""

    one: Step
    validation: Labelled | None
    starts: Mapping[str, int]
    scale: Scale | None
    """That on which a regression is trained; what it gives is on it until it is folded in."""

    def _begin(self, epoch: int) -> None:
        """Let those parameters have gradients whose first epoch has come; the optimizer passes over the others."""
        for name, first in self.starts.items():
            self.one.free[name].requires_grad_(first <= epoch)

    def validated(self, stop: Callable[[], bool]) -> Tensor:
        """The logits (N, C) of validation with the weights as they are.

        Raises:
            Stopped: as :func:`loratory.engine.predict.predict`, where `stop` says so.
        """
        assert self.validation is not None
        self.quick.shadows.refresh()
        processes = self.hardware.processes
        logits = predict(self.classifier, self.validation, hardware=self.hardware, processes=processes, stop=stop)
        return logits if self.scale is None else self.scale.back(logits)

    def weights(self) -> dict[str, Tensor]:
        """A copy of what is trained, by name."""
        return {name: parameter.detach().clone() for name, parameter in self.one.free.items()}

    def restore(self, weights: dict[str, Tensor]) -> None:
        """Bring `weights` back."""
        with torch.no_grad():
            for name, parameter in self.one.free.items():
                parameter.copy_(weights[name])


def set_training(model: nn.Module, bottom: Bottom | None) -> None:
    """Switch training mode on, but in the frozen bottom."""
    model.train()
    if bottom is not None:
        bottom.evaluate()
