"""The one training loop.

    for each epoch: for each batch of its order: forward, loss, backward, clip, AdamW, schedule; then validate.

It is the same for every method: what is trained is what the method set free.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from loratory.data.batches import Batch, by_length, collate, epoch_order
from loratory.data.tokens import TokenTable
from loratory.engine.hardware import Hardware
from loratory.engine.meter import Meter
from loratory.engine.modules import Embedding, quicken
from loratory.errors import DivergedError
from loratory.models.flat import Classifier
from loratory.spec import TrainingSpec


@dataclass(frozen=True)
class Labelled:
    """Token sequences and their classes.

    Attributes:
        tokens: N sequences.
        labels: int64 (N,).
    """

    tokens: TokenTable
    labels: np.ndarray[Any, np.dtype[np.int64]]

    def first(self, count: int) -> Labelled:
        """The first `count` examples, or all where there are fewer."""
        count = min(count, len(self.labels))
        offsets = self.tokens.offsets[: count + 1]
        return Labelled(TokenTable(self.tokens.ids[: offsets[-1]], offsets), self.labels[:count])

    def batches(self, order: np.ndarray[Any, np.dtype[np.int64]], size: int) -> Iterator[Batch]:
        """Batches of `size` examples in `order`; the last may be smaller.

        Within a batch the longest come first: a sum over the batch does not mind, and attention pads less.
        """
        offsets = self.tokens.offsets
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            longest_first = np.argsort(offsets[chosen] - offsets[chosen + 1], kind="stable")
            yield collate(self.tokens, self.labels, chosen[longest_first])


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
    """

    history: list[dict[str, Any]]
    best_epoch: int


def fit(
    classifier: Classifier,
    data: Labelled,
    spec: TrainingSpec,
    *,
    lr: float,
    seed: int,
    hardware: Hardware,
    meter: Meter,
    validate: Callable[[], dict[str, float]],
    better: Callable[[dict[str, float], dict[str, float]], bool],
    on_step: Callable[[Progress], None] = lambda progress: None,
) -> FitResult:
    """Train what is free in the classifier's model, in place, on the device where it is.

    Args:
        lr: peak learning rate.
        seed: decides data order and dropout, and nothing else does.
        validate: scores of the model as it stands, after each epoch.
        better: whether its first scores are better than its second; used where the spec keeps the best weights.
        on_step: told after each step.

    Raises:
        DivergedError: the loss is not a finite number; checked at the end of each epoch and every 50 steps.
    """
    free = {name: parameter for name, parameter in classifier.model.named_parameters() if parameter.requires_grad}
    embeddings = quicken(classifier.model) if hardware.device.type == "cpu" else []
    optimizer = AdamW(_groups(free, spec.weight_decay), lr=lr, fused=True)
    total = spec.epochs * math.ceil(len(data.labels) / spec.batch_size)
    scheduler = LambdaLR(optimizer, linear_schedule(total, warmup=spec.warmup))
    history: list[dict[str, Any]] = []
    best: tuple[int, dict[str, float], dict[str, Tensor]] | None = None
    devices = [hardware.device] if hardware.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        for epoch in range(1, spec.epochs + 1):
            with meter.phase("train"):
                loss = _epoch(
                    classifier,
                    data,
                    spec,
                    optimizer,
                    embeddings,
                    scheduler,
                    seed,
                    epoch,
                    total,
                    hardware,
                    meter,
                    on_step,
                )
            row = {"epoch": epoch, "step": meter.steps, "loss": loss, "lr": scheduler.get_last_lr()[0]}
            row["train_seconds"] = meter.seconds["train"]
            with meter.phase("eval"):
                scores = validate()
            history.append({**row, **scores})
            if spec.keep == "best" and (best is None or better(scores, best[1])):
                best = epoch, scores, {name: parameter.detach().clone() for name, parameter in free.items()}
    if best is not None:
        with torch.no_grad():
            for name, parameter in free.items():
                parameter.copy_(best[2][name])
    return FitResult(history, best[0] if best is not None else spec.epochs)


def _epoch(
    classifier: Classifier,
    data: Labelled,
    spec: TrainingSpec,
    optimizer: AdamW,
    embeddings: list[Embedding],
    scheduler: LambdaLR,
    seed: int,
    epoch: int,
    total: int,
    hardware: Hardware,
    meter: Meter,
    on_step: Callable[[Progress], None],
) -> float:
    """One pass over the data; returns the mean loss."""
    classifier.model.train()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    losses = torch.zeros((), device=hardware.device)
    order = epoch_order(len(data.labels), seed, epoch)
    part = math.ceil(spec.batch_size / spec.accumulate)
    for start in range(0, len(order), spec.batch_size):
        chosen = order[start : start + spec.batch_size]
        tokens = padded = 0
        for batch in data.batches(chosen, part):
            loss = step_loss(classifier, batch.to(hardware.device), hardware, examples=len(chosen))
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own
            losses += loss.detach() * len(chosen)
            tokens += batch.tokens
            padded += classifier.rows(batch)
        if spec.max_grad_norm > 0:
            clip_in_step(optimizer, parameters, spec.max_grad_norm)
        optimizer.step()
        scheduler.step()
        clear_gradients(optimizer, embeddings)
        meter.count(examples=len(chosen), tokens=tokens, padded_tokens=padded)
        if meter.steps % 50 == 0:
            _check_finite(losses, epoch, meter.steps)
        on_step(Progress(epoch, meter.steps, total, meter.examples))
    return _check_finite(losses, epoch, meter.steps) / len(order)


def step_loss(classifier: Classifier, batch: Batch, hardware: Hardware, *, examples: int) -> Tensor:
    """The cross entropy of `batch`, summed and divided by the `examples` of the whole optimizer step."""
    with hardware.autocast():
        logits = classifier(batch)
    return F.cross_entropy(logits.float(), batch.labels, reduction="sum") / examples


def predict(classifier: Classifier, data: Labelled, *, hardware: Hardware, tokens: int = 8192) -> Tensor:
    """Logits (N, C) in fp32 on the CPU, in the data's order.

    Sequences run in order of length, so that batches hold sequences of like length.

    Args:
        tokens: the most tokens a batch holds, counted as if padded.
    """
    classifier.model.eval()
    order = by_length(data.tokens)
    lengths = data.tokens.lengths[order]
    results: list[Tensor] = []
    with torch.inference_mode():
        start = 0
        while start < len(order):
            end = start + max(1, tokens // int(lengths[start]))  # the first is the longest
            batch = collate(data.tokens, data.labels, order[start:end]).to(hardware.device)
            with hardware.autocast():
                results.append(classifier(batch).float())
            start = end
    logits = torch.cat(results).cpu()
    return torch.empty_like(logits).index_copy_(0, torch.from_numpy(order), logits)


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


def _groups(free: dict[str, nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Two parameter groups: matrices decay, biases and norms do not (Devlin et al. 2019's reference code)."""
    decayed = [parameter for parameter in free.values() if parameter.ndim > 1]
    others = [parameter for parameter in free.values() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def clip_in_step(optimizer: AdamW, parameters: list[nn.Parameter], max_norm: float) -> None:
    """Clip the gradients by their global norm within the coming optimizer step.

    As `torch.nn.utils.clip_grad_norm_`, but the factor min(1, max_norm / norm) goes to the fused AdamW, which reads
    every gradient anyway, in place of a pass of its own over all of them.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients, foreach=True)
    scale = ((norm + 1e-6) / max_norm).clamp_(min=1.0).float()  # the fused step divides by it
    # the attributes by which torch's own GradScaler hands these to a fused optimizer
    optimizer.grad_scale, optimizer.found_inf = scale, torch.zeros((), device=norm.device)  # type: ignore[attr-defined]


def clear_gradients(optimizer: AdamW, embeddings: list[Embedding]) -> None:
    """Forget all gradients; those of the embeddings keep their memory."""
    kept = {id(embedding.weight) for embedding in embeddings}
    for embedding in embeddings:
        embedding.clear()
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if id(parameter) not in kept:
                parameter.grad = None


def _check_finite(losses: Tensor, epoch: int, step: int) -> float:
    total = float(losses)
    if not math.isfinite(total):
        raise DivergedError(f"the loss is {total} in epoch {epoch} (step {step}); use a smaller --lr")
    return total
