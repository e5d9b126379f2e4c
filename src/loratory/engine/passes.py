"""The passes of one optimizer step, forward and backward, and what every kind of step has in common.

Everything that changes from step to step (rate, step count, losses) is a tensor on the device, and nothing waits for
the device: so that a whole step can be captured as a CUDA graph (see :mod:`loratory.engine.graphs`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from loratory.data.batches import Batch
from loratory.engine.hardware import Hardware
from loratory.engine.timing import Clock
from loratory.models.flat import Classifier
from loratory.models.output import Scale
from loratory.problems import MULTI, REGRESSION
from loratory.spec import TrainingSpec


class Passes(ABC):
    """Forward and backward passes of batches, and the losses of their examples; how weights follow is left to those
    who extend it.

    Attributes:
        loss: fp32, the sum of the examples' losses, each times its class's weight, since it was last set to zero.
        separate: whether gradients stand in memory of their own, so that passes and update can be captured apart.
    """

    separate = True

    _rates: Tensor
    """The learning rates of the steps to come."""

    def __init__(
        self,
        classifier: Classifier,
        spec: TrainingSpec,
        hardware: Hardware,
        *,
        losses: Sequence[int] = (),
        class_weights: Sequence[float] | None = None,
        scale: Scale | None = None,
        refresh: Callable[[], None] = lambda: None,
        clock: Clock | None = None,
    ) -> None:
        """
        Args:
            losses: the shape of :attr:`loss`.
            class_weights: what the loss of an example of each class counts, (C,).
            scale: that on which a regression's targets are learned.
            refresh: called before each forward pass.
            clock: told which part of a step begins.
        """
        device = hardware.device
        self.classifier, self.hardware = classifier, hardware
        self.clock = clock if clock is not None else Clock(device)
        self.loss = torch.zeros(losses, device=device)
        self.processes = hardware.processes
        self._smoothing = spec.label_smoothing
        self._class_weights = None
        if class_weights is not None:
            self._class_weights = torch.tensor(class_weights, dtype=torch.float32, device=device)
        self._scale = scale if scale is not None else Scale(0.0, 1.0)
        self._refresh = refresh

    def __call__(self, parts: Iterable[Batch]) -> int:
        """Make one step on the batch that `parts` make up; they stand on the host.

        Returns:
            The rows that the linear layers computed, padding and filler included.
        """
        total = 0
        for part in parts:
            batch, rows = self.placed(part)
            self.backward(batch)
            self.clock.made(rows)
            total += rows
        self.share()
        self.update()
        self.clock.updated()
        return total

    def placed(self, part: Batch) -> tuple[Batch, int]:
        """`part` on the device, and the rows that the linear layers compute for it."""
        return part.to(self.hardware.device), self.classifier.rows(part)

    def backward(self, batch: Batch) -> None:
        """Add the gradients of `batch`, whose weights say what each example's loss counts."""
        self.clock.begin("forward")
        self._refresh()
        with self.hardware.autocast():
            logits = self.classifier(batch)
        losses = self._losses(logits.float(), batch.labels)
        loss = torch.dot(losses, batch.weights)
        self.clock.begin("backward")
        with self._summing():
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        self._count(losses.detach(), batch.weights.sign())

    def _summing(self) -> AbstractContextManager[None]:
        """Around a backward pass: what becomes of the gradients meanwhile."""
        return nullcontext()

    def _count(self, losses: Tensor, counted: Tensor) -> None:
        """Add the losses (B,) of the examples that count, 1 or 0 each (B,)."""
        self.loss += torch.dot(losses, counted)

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(B,) the loss of each example, by the problem, as transformers defines them: cross-entropy; the mean over
        labels of the binary cross-entropy; or the squared error, here on the scale of the targets."""
        if self.classifier.problem == MULTI:
            return F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none").mean(dim=1)
        if self.classifier.problem == REGRESSION:
            return (logits[:, 0] - self._scale.to(labels)).square()
        return F.cross_entropy(
            logits, labels, weight=self._class_weights, label_smoothing=self._smoothing, reduction="none"
        )

    @abstractmethod
    def rate(self, done: int) -> float:
        """The learning rate after `done` steps. Asks no device."""

    def captured_full(self) -> Sequence[torch.cuda.Event]:
        """Of the backward pass that was captured last, the marks that :meth:`share` takes."""
        return ()

    def share(self, full: Sequence[torch.cuda.Event] = ()) -> None:  # noqa: B027  # one process has nothing to share
        """Wait for the sum of all processes' gradients.

        Args:
            full: where the backward pass was replayed, its marks (:meth:`captured_full`).
        """

    @abstractmethod
    def update(self) -> None:
        """Let the weights follow the gradients, and forget these."""

    @abstractmethod
    def forget(self) -> None:
        """Drop every gradient."""

    @abstractmethod
    def restart(self) -> None:
        """Begin the schedule again."""

    @abstractmethod
    def _forget_moments(self) -> None:
        """Set to zero what the optimizer has gathered."""

    @contextmanager
    def idle(self) -> Iterator[None]:
        """Before the first step: steps made meanwhile on batches of weight 0 train nothing and leave no trace.

        Their gradients are zero, and so is the rate.
        """
        rates = self._rates.clone()
        self._rates.zero_()
        try:
            yield
        finally:
            self._rates.copy_(rates)
            self.restart()
            self.loss.zero_()
            self._forget_moments()

    def warm_up(self, batch: Batch) -> None:
        """Make all that a first step makes (AdamW's state, kernels, workspaces) without training anything.

        Args:
            batch: of weight 0.
        """
        with self.idle():
            self.backward(batch)
            self.update()
