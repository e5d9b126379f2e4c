"""One optimizer step of one run: the passes of each part of a batch, then clipping, AdamW and schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from loratory.data.batches import Batch
from loratory.engine.hardware import Hardware
from loratory.engine.memory import Storages, kept_for_backward
from loratory.engine.modules import Embedding
from loratory.engine.passes import Passes
from loratory.engine.sums import Sums
from loratory.engine.timing import Clock
from loratory.methods.base import Companion
from loratory.models.flat import Classifier
from loratory.models.output import Scale
from loratory.spec import TrainingSpec


class Step(Passes):
    """Trains what is free in the classifier's model, a batch at a time.

    Attributes:
        free: the parameters that are trained, by name.
    """

    def __init__(
        self,
        classifier: Classifier,
        spec: TrainingSpec,
        hardware: Hardware,
        *,
        lr: float,
        total: int,
        rates: Mapping[str, float] = MappingProxyType({}),
        companion: Companion | None = None,
        class_weights: Sequence[float] | None = None,
        scale: Scale | None = None,
        embeddings: Iterable[Embedding] = (),
        refresh: Callable[[], None] = lambda: None,
        clock: Clock | None = None,
    ) -> None:
        """Prepare AdamW and the schedule.

        Args:
            lr: peak learning rate.
            total: steps of the schedule; fewer may be made.
            rates: what the learning rate is multiplied by, for the parameters where that is not 1.
            companion: adds its penalty to each step's loss, and follows the optimizer.
            class_weights: what the loss of an example of each class counts, (C,).
            scale: that on which a regression's targets are learned.
            embeddings: those whose gradients keep their memory from step to step.
            refresh: called before each forward pass.
            clock: told which part of a step begins.
        """
        super().__init__(
            classifier, spec, hardware, class_weights=class_weights, scale=scale, refresh=refresh, clock=clock
        )
        device = hardware.device
        self.free = {name: p for name, p in classifier.model.named_parameters() if p.requires_grad}
        self.separate = spec.accumulate > 1 or self.processes.count > 1
        factor = linear_schedule(total, warmup=spec.warmup)
        planned = torch.tensor([lr * factor(step) for step in range(total)])
        self._planned: list[float] = planned.tolist()
        self._rates = planned.to(device, copy=True)
        self._done = torch.zeros(1, dtype=torch.int64, device=device)
        self._rate = torch.zeros((), device=device)
        self._rate_times = {factor: torch.zeros((), device=device) for factor in rates.values()}
        self._never = torch.zeros((), device=device)  # fused AdamW's "an infinity was found"
        self._max_norm = spec.max_grad_norm
        self._companion = companion
        self._embeddings = list(embeddings)
        self._parameters = list(self.free.values())
        self._adds_up = spec.accumulate > 1
        self._sums: Sums | None = None
        if self.processes.count > 1:
            late = [embedding.weight for embedding in self._embeddings]
            self._sums = Sums(self._parameters, single=not self._adds_up, late=late)
        groups = [
            {**group, "lr": rate}
            for factor, rate in {1.0: self._rate, **self._rate_times}.items()
            for group in _groups(
                {name: one for name, one in self.free.items() if rates.get(name, 1.0) == factor}, spec.weight_decay
            )
        ]
        self.optimizer = AdamW(groups, lr=self._rate, fused=True, capturable=device.type == "cuda")

    def rate(self, done: int) -> float:
        """The learning rate after `done` steps, where nothing multiplies it; 0 after the last. Asks no device."""
        return self._planned[done] if done < len(self._planned) else 0.0

    def memory(self, batch: Batch, copies: Iterable[Tensor] = ()) -> dict[str, int]:
        """Bytes of weights, gradients, AdamW's state, and what the forward pass of `batch` keeps for its backward.

        Args:
            copies: of weights, which count as weights.
        """
        model = self.classifier.model
        weights = Storages([*model.parameters(), *model.buffers(), *copies])
        self._refresh()
        with kept_for_backward(beside=weights) as kept, self.hardware.autocast():
            logits = self.classifier(batch.to(self.hardware.device))
            del logits
        gradients = sum(parameter.numel() * parameter.element_size() for parameter in self._parameters)
        return {
            "weights": weights.bytes,
            "gradients": gradients,
            "optimizer": 2 * gradients,  # AdamW's two moments
            "activations": kept.bytes,
        }

    def captured_full(self) -> Sequence[torch.cuda.Event]:
        """As of :class:`Passes`."""
        return self._sums.full if self._sums is not None else ()

    def share(self, full: Sequence[torch.cuda.Event] = ()) -> None:
        """As of :class:`Passes`."""
        if self._sums is not None:
            with self.clock.communicating():
                self._sums.finish(full)

    def update(self) -> None:
        """Clip, step, move on along the schedule, and forget the gradients."""
        self.clock.begin("optimizer")
        torch.index_select(self._rates, 0, self._done, out=self._rate.view(1))
        for factor, rate in self._rate_times.items():
            torch.mul(self._rate, factor, out=rate)
        self._done += 1
        if self._companion is not None:
            self._companion.penalty().backward()  # type: ignore[no-untyped-call]  # torch's own
        if self._max_norm > 0:
            self._clip()
        self.optimizer.step()
        if self._companion is not None:
            self._companion.after(int(self._done) - 1)
        self._clear()

    def forget(self) -> None:
        """Drop every gradient."""
        self.optimizer.zero_grad(set_to_none=True)

    def restart(self) -> None:
        """Begin the schedule again."""
        self._done.zero_()

    def _forget_moments(self) -> None:
        for state in self.optimizer.state.values():
            for value in state.values():
                value.zero_()

    def state(self) -> dict[str, Tensor]:
        """All that the next step depends on beside its batch and torch's generators, between two steps: by name, on the
        device, not copied."""
        found = {"loss": self.loss, "done": self._done}
        found |= {f"weights/{name}": parameter.detach() for name, parameter in self.free.items()}
        for name, parameter in self.free.items():
            moments = self.optimizer.state.get(parameter, {})
            found |= {f"optimizer/{name}/{key}": value for key, value in moments.items()}
        if self._companion is not None:
            found |= {f"companion/{name}": value for name, value in self._companion.state().items()}
        return found

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Bring back what :meth:`state` gave, before the first step. What a graph reads stays where it is.

        Raises:
            KeyError, RuntimeError: it is not the state of these parameters.
        """
        self.loss.copy_(state["loss"])
        self._done.copy_(state["done"])
        for name, parameter in self.free.items():
            parameter.copy_(state[f"weights/{name}"])
            begin = f"optimizer/{name}/"
            saved = {key.removeprefix(begin): value for key, value in state.items() if key.startswith(begin)}
            there = self.optimizer.state[parameter] if saved else self.optimizer.state.get(parameter, {})
            for key in there.keys() - saved.keys():
                there[key].zero_()  # what warming up made
            for key, value in saved.items():
                if key in there:
                    there[key].copy_(value)
                else:
                    there[key] = value.to(parameter.device, copy=True)  # as a fused AdamW makes it
        if self._companion is not None:
            begin = "companion/"
            self._companion.restore({key[len(begin) :]: one for key, one in state.items() if key.startswith(begin)})

    def _summing(self) -> AbstractContextManager[None]:
        return self._sums.backward() if self._sums is not None else nullcontext()

    def warm_up(self, batch: Batch) -> None:
        """As of :class:`Passes`; nothing is summed over processes."""
        with self._sums.silent() if self._sums is not None else nullcontext():
            super().warm_up(batch)

    def _clip(self) -> None:
        """Clip the gradients by their global norm within the coming AdamW step.

        As `torch.nn.utils.clip_grad_norm_`, but the factor min(1, max_norm / norm) goes to the fused AdamW, which
        reads every gradient anyway, in place of a pass of its own over all of them.
        """
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients, foreach=True)
        scale = ((norm + 1e-6) / self._max_norm).clamp_(min=1.0).float()  # the fused step divides by it
        # the attributes by which torch's own GradScaler hands these to a fused optimizer
        self.optimizer.grad_scale, self.optimizer.found_inf = scale, self._never  # type: ignore[attr-defined]

    def _clear(self) -> None:
        """Forget all gradients; those of the embeddings, and of a batch made in parts, keep their memory."""
        for embedding in self._embeddings:
            embedding.clear(whole=self.processes.count > 1)
        kept = {id(embedding.weight) for embedding in self._embeddings}
        if self._adds_up and self.hardware.device.type == "cuda":
            torch._foreach_zero_([parameter.grad for parameter in self._parameters if parameter.grad is not None])
            return
        for parameter in self._parameters:
            if id(parameter) not in kept:
                parameter.grad = None


def linear_schedule(total: int, *, warmup: float) -> Callable[[int], float]:
    """Factor of the peak rate at each step: linear from 0 over the warm-up's share, then linear to 0 at `total`.

    The schedule of transformers' `get_linear_schedule_with_warmup` (Devlin et al. 2019, A.2).
    """
    rising = math.ceil(total * warmup)

    def factor(step: int) -> float:
        if step < rising:
            return step / max(1, rising)
        return max(0.0, (total - step) / max(1, total - rising))

    return factor


def _groups(parameters: Mapping[str, nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Two parameter groups, by name: matrices decay, biases and norms do not (Devlin et al. 2019's reference code), nor
    does what is a bias by its name alone, as MPNet's table of relative positions (Trainer's rule)."""
    decayed = [one for name, one in parameters.items() if one.ndim > 1 and "bias" not in name]
    others = [one for name, one in parameters.items() if one.ndim <= 1 or "bias" in name]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
