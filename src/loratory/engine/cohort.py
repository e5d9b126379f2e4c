"""Cohorts: K members trained at once on one frozen base, each as if it were alone.

    batch of member 1 │ batch of member 2 │ …      one flat row through the frozen base
    losses: each member's own mean, and their sum    gradients, clipping, AdamW and schedule: each member's own

Members share base, data, batch size and what draws nothing of its own; they differ in rank, alpha, targets, rate,
schedule, decay, clipping, seed and head. One that ends (its epochs, early stopping, divergence) leaves between two
epochs, and the others go on as they were.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from loratory.data.batches import Batch, Cut, Labelled, collate, epoch_order
from loratory.engine.compiling import Compiled
from loratory.engine.epoch import Progress, Steps, set_training
from loratory.engine.graphs import captured
from loratory.engine.groups import Draws, Group, Shadows
from loratory.engine.hardware import Hardware
from loratory.engine.layers import Layer, Quickened, alike
from loratory.engine.members import MemberGroup, Rows, Stacks, rank_of, stacked_layers
from loratory.engine.meter import Meter
from loratory.engine.modules import quicken, stand_in
from loratory.engine.step import Passes, linear_schedule
from loratory.errors import DivergedError
from loratory.models.flat import Classifier
from loratory.spec import TrainingSpec

log = logging.getLogger("loratory")

_BETAS, _EPS = (0.9, 0.999), 1e-8
"""AdamW's, as torch has them by default."""


@dataclass(frozen=True, eq=False)
class Member:
    """One that trains in a cohort: a model made ready by its method, and how it is trained.

    Attributes:
        score: the scores of validation's logits (N, C), after each epoch.
        better: whether its first scores are better than its second.
    """

    classifier: Classifier
    spec: TrainingSpec
    lr: float
    seed: int
    score: Callable[[Tensor], dict[str, float]] = lambda logits: {}
    better: Callable[[dict[str, float], dict[str, float]], bool] = lambda new, old: False


@dataclass(eq=False)
class Ended:
    """How a member's training went.

    Attributes:
        history: as :attr:`loratory.engine.fit.FitResult.history`.
        best_epoch: the epoch whose weights its model holds.
        error: why it stopped, where it diverged.
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    error: DivergedError | None = None


@dataclass(frozen=True)
class Joint(Labelled):
    """The data as K members see them side by side: an order is (n, K), a column for each."""

    def steps(self, order: NDArray[np.int64], cut: Cut) -> Iterator[list[Batch]]:
        """As of :class:`Labelled`. Each member has `cut.size` examples in every step: where fewer are left, its
        shortest one fills up, of weight 0."""
        for chosen, weights in self._joint(order, cut):
            batch = collate(self.tokens, self.labels, chosen.ravel())
            yield [replace(batch, weights=torch.from_numpy(weights.ravel()))]

    def totals(self, order: NDArray[np.int64], cut: Cut) -> list[int]:
        """As of :class:`Labelled`."""
        lengths = self.tokens.lengths
        return [int(lengths[chosen].sum()) for chosen, _ in self._joint(order, cut)]

    def most(self, order: NDArray[np.int64], cut: Cut) -> int:
        """The most tokens that a member has in a step."""
        lengths = self.tokens.lengths
        return max(int(lengths[chosen].sum(axis=1).max()) for chosen, _ in self._joint(order, cut))

    def _joint(self, order: NDArray[np.int64], cut: Cut) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Of each step, the examples (K, B), of each member the longest first, and what each weighs (K, B)."""
        for start in range(0, len(order), cut.size):
            chosen = np.stack([self._longest_first(column) for column in order[start : start + cut.size].T])
            weights = np.ones(chosen.shape, np.float32)
            if cut.class_weights is not None:
                weights /= np.asarray(cut.class_weights, np.float32)[self.labels[chosen]].sum(axis=1, keepdims=True)
            else:
                weights /= chosen.shape[1]
            missing = ((0, 0), (0, cut.size - chosen.shape[1]))
            yield np.pad(chosen, missing, mode="edge"), np.pad(weights, missing)


@dataclass(frozen=True)
class JointOrders(Sequence["NDArray[np.int64]"]):
    """The orders of the coming epochs of `n` examples, (n, K): each member's as it has it alone."""

    n: int
    seeds: tuple[int, ...]
    first: int
    """The epoch with which it begins."""
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1

    def __getitem__(self, place: Any) -> Any:
        epochs = range(self.first, self.last + 1)[place]
        if isinstance(epochs, range):
            return [self._order(epoch) for epoch in epochs]
        return self._order(epochs)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        return np.stack([epoch_order(self.n, seed, epoch) for seed in self.seeds], axis=1)


@dataclass(frozen=True)
class _Together(Classifier):
    """The members' models as one: its batches hold as many sequences of each, one member after the other."""

    whose: Rows

    def __call__(self, batch: Batch) -> Tensor:
        """Logits (K·B, C)."""
        self.whose.begin(batch.cu_seqlens, len(batch) // self.whose.members)
        return super().__call__(batch)

    def encode(self, batch: Batch) -> Tensor:
        """As of a classifier. A part of the head that stands in the encoder (BERT's pooler) is left out there, where it
        would pool the first member's first token, for nobody."""
        encoder = self.family.encoder(self.model)
        heads = {self.model.get_submodule(path) for path in self.family.head}
        with ExitStack() as stack:
            for module in heads.intersection(encoder.children()):
                stack.callback(stand_in(module, lambda hidden: hidden[:, 0]))
            return super().encode(batch)


class MemberSteps(Passes):
    """The steps of K members at once, whose parameters and AdamW's moments are rows of flat memory.

    AdamW as Loshchilov & Hutter (2019, algorithm 2), with a rate, a decay and a clipping norm for each member; its
    rates are those of :func:`loratory.engine.step.linear_schedule`.
    """

    separate = False

    def __init__(
        self,
        classifier: Classifier,
        members: Sequence[Member],
        stacks: Stacks,
        hardware: Hardware,
        *,
        each: int,
        class_weights: Sequence[float] | None,
        refresh: Callable[[], None],
        meter: Meter,
    ) -> None:
        """
        Args:
            each: steps of an epoch.
            class_weights: what the loss of an example of each class counts, (C,).
        """
        super().__init__(
            classifier, members[0].spec, hardware, losses=(len(members),), class_weights=class_weights,
            refresh=refresh, clock=meter.clock,
        )  # fmt: skip
        self.stacks, device = stacks, hardware.device
        totals = [member.spec.epochs * each for member in members]
        planned = torch.zeros(max(totals), len(members))
        for column, (member, total) in enumerate(zip(members, totals, strict=True)):
            factor = linear_schedule(total, warmup=member.spec.warmup)
            planned[:total, column] = torch.tensor([member.lr * factor(step) for step in range(total)])
        self._planned: list[list[float]] = planned.tolist()
        self._rates = planned.to(device, copy=True)
        self._decay = torch.tensor([[member.spec.weight_decay] for member in members], device=device)
        norms = [member.spec.max_grad_norm or math.inf for member in members]
        self._norms = torch.tensor(norms, device=device)
        self.done = torch.zeros(1, dtype=torch.int64, device=device)
        self._begin = 0
        self.moments = [torch.zeros_like(stacks.weights) for _ in range(2)]

    def resume(self, done: int, moments: Sequence[Tensor]) -> None:
        """Go on from where those who are left were, after `done` steps."""
        self._begin = done
        self.done.fill_(done)
        for own, before in zip(self.moments, moments, strict=True):
            own.copy_(before)

    def rate(self, done: int) -> float:
        """The highest of the members' rates after `done` steps."""
        return max(self._planned[done]) if done < len(self._planned) else 0.0

    def rates_after(self, done: int) -> list[float]:
        """Each member's rate after `done` steps."""
        return self._planned[done] if done < len(self._planned) else [0.0] * self.stacks.members

    def _count(self, losses: Tensor, counted: Tensor) -> None:
        self.loss += (losses * counted).view(self.stacks.members, -1).sum(1)

    @torch.no_grad()
    def update(self) -> None:
        """Clip, step, move on along the schedules, and forget the gradients."""
        self.clock.begin("optimizer")
        weights, gradients, (first, second) = self.stacks.weights, self.stacks.gradients, self.moments
        self.stacks.gather()
        rate = torch.index_select(self._rates, 0, self.done).view(-1, 1)  # (K, 1)
        self.done += 1
        norm = torch.linalg.vector_norm(gradients, dim=1)  # (K,)
        gradients.mul_((self._norms / (norm + 1e-6)).clamp_(max=1.0).view(-1, 1))
        corrections = [1 - torch.pow(beta, self.done.double()).float() for beta in _BETAS]
        weights.addcmul_(weights * self.stacks.decayed, rate * self._decay, value=-1)
        first.lerp_(gradients, 1 - _BETAS[0])
        second.mul_(_BETAS[1]).addcmul_(gradients, gradients, value=1 - _BETAS[1])
        divisor = second.div(corrections[1]).sqrt_().add_(_EPS)
        weights.addcdiv_(first * (rate / corrections[0]), divisor, value=-1)

    def forget(self) -> None:
        """Drop every gradient."""
        for stack in self.stacks.stacks:
            stack.leaf.grad = None

    @contextmanager
    def idle(self) -> Iterator[None]:
        """As of :class:`Passes`: rates are zero, and what moments gathered is forgotten."""
        rates, moments = self._rates.clone(), [moment.clone() for moment in self.moments]
        self._rates.zero_()
        try:
            yield
        finally:
            self._rates.copy_(rates)
            self.restart()
            self.loss.zero_()
            self.forget()
            for own, before in zip(self.moments, moments, strict=True):
                own.copy_(before)

    def restart(self) -> None:
        """Begin the schedules again where they began."""
        self.done.fill_(self._begin)


@dataclass(frozen=True)
class _Ready(Steps):
    """Members that are ready to be trained together; see :class:`loratory.engine.epoch.Ready`."""

    one: MemberSteps
    most: int
    """Tokens that a member has in a step, at most."""

    def _loss(self, epoch: int) -> float:
        """The sum over those members whose loss is a finite number."""
        self.meter.clock.begin("waiting")
        losses = self.one.loss.nan_to_num(0.0, 0.0, 0.0)
        total = float(losses.sum()) / len(losses)
        self.meter.clock.look()
        self.meter.clock.begin("launching")
        return total


def fit_cohort(
    members: Sequence[Member],
    data: Labelled,
    validation: Labelled | None,
    *,
    hardware: Hardware,
    meter: Meter,
    on_step: Callable[[Progress], None] = lambda progress: None,
) -> tuple[list[Ended], dict[str, Any]]:
    """Train the members' models in place, all at once; what each leaves is what it would leave alone, up to rounding.

    Frozen weights of the members' models are equal, and those of the first serve all.

    Returns:
        How each member's training went, and how the steps were made.

    Raises:
        ValueError: the members do not fit together: a mistake of the caller, which asks before.
    """
    ended = [Ended() for _ in members]
    best: list[tuple[int, dict[str, float]] | None] = [None for _ in members]
    kept: dict[int, Tensor] = {}
    ranks = _ranks(members)
    alive, epoch, done = list(range(len(members))), 1, 0
    moments: list[Tensor] | None = None
    engine: dict[str, Any] = {}
    while alive:
        here = [members[number] for number in alive]
        with _ready(here, ranks, data, epoch, hardware, meter) as run:
            engine = engine or run.engine
            if moments is not None:
                run.one.resume(done, moments)
            leaving: set[int] = set()
            while not leaving:
                run.epoch(epoch, on_step)
                done = int(run.one.done)
                losses = (run.one.loss / len(data.labels)).tolist()
                rates = run.one.rates_after(done)
                logits = None
                if validation is not None:
                    with meter.phase("eval"):
                        logits = predict_members(run, validation)
                for place, number in enumerate(alive):
                    row = {"epoch": epoch, "step": done, "loss": losses[place], "lr": rates[place]}
                    member, end = members[number], ended[number]
                    finite = math.isfinite(losses[place])
                    with meter.phase("eval"):
                        if finite and logits is not None and not torch.isfinite(logits[place]).all():
                            finite = False
                        scores = member.score(logits[place]) if finite and logits is not None else {}
                    end.history.append({**row, "train_seconds": meter.seconds["train"], **scores})
                    if not finite:
                        end.error = DivergedError(
                            f"the loss is {losses[place]} in epoch {epoch} (step {done}); use a smaller --lr"
                        )
                        leaving.add(number)
                        continue
                    end.best_epoch, stopped = _judged(member, epoch, scores, best, kept, number, run, place)
                    if stopped or epoch == member.spec.epochs:
                        leaving.add(number)
                epoch += 1
            for place, number in enumerate(alive):
                if number in leaving and number in kept:
                    run.one.stacks.weights[place].copy_(kept.pop(number))
            stay = [place for place, number in enumerate(alive) if number not in leaving]
            moments = [moment[stay].clone() for moment in run.one.moments]
        alive = [number for number in alive if number not in leaving]
    return ended, engine


def _judged(
    member: Member,
    epoch: int,
    scores: dict[str, float],
    best: list[tuple[int, dict[str, float]] | None],
    kept: dict[int, Tensor],
    number: int,
    run: _Ready,
    place: int,
) -> tuple[int, bool]:
    """The epoch whose weights the member is to have, and whether it has had enough."""
    spec = member.spec
    if not scores or (spec.keep != "best" and spec.patience is None):
        return epoch, False
    before = best[number]
    if before is None or member.better(scores, before[1]):
        best[number] = before = epoch, scores
        if spec.keep == "best":
            kept[number] = run.one.stacks.weights[place].clone()
    stopped = spec.patience is not None and epoch - before[0] >= spec.patience
    return before[0] if spec.keep == "best" else epoch, stopped


@contextmanager
def _ready(
    members: Sequence[Member],
    ranks: dict[str, int],
    data: Labelled,
    epoch: int,
    hardware: Hardware,
    meter: Meter,
) -> Iterator[_Ready]:
    """Make the members ready for the first step of `epoch`; afterwards each model computes by itself again."""
    host, spec = members[0].classifier, members[0].spec
    model, family = host.model, host.family
    joint = Joint(data.tokens, data.labels)
    weights = data.balanced(host.classes) if spec.class_weights == "balanced" else None
    cut = Cut(spec.batch_size, class_weights=weights)
    seeds = tuple(member.seed for member in members)
    orders = JointOrders(len(data.labels), seeds, epoch, max(member.spec.epochs for member in members))
    most = max(joint.most(order, cut) for order in orders)
    rows = Rows(len(members), most, torch.zeros(len(members) + 1, dtype=torch.int32, device=hardware.device))
    dtype = torch.bfloat16 if hardware.precision == "bf16" else torch.float32
    with ExitStack() as stack:
        devices = [hardware.device] if hardware.device.type == "cuda" else []
        stack.enter_context(torch.random.fork_rng(devices=devices))
        stack.enter_context(hardware.deterministically())
        stacks = Stacks(len(members))
        quick, groups = _quickened(members, ranks, rows, stacks, Shadows(dtype), Draws(hardware.device), dtype)
        heads = [
            pair
            for path in family.head
            for pair in stacked_layers([one.classifier.model.get_submodule(path) for one in members], stacks)
        ]
        stacks.allocate(hardware.device)
        stack.callback(stacks.restore)
        for group in groups:
            group.ready()
        for part in quick.parts:
            stack.callback(part.restore)
            stack.callback(stand_in(part.module, part.__call__))
        for module, forward in heads:
            stack.callback(stand_in(module, forward))
        with meter.phase("setup"):
            if hardware.device.type == "cpu":
                stack.enter_context(quicken(model))
            together = _Together(model, family, host.pad_id, rows)
            set_training(model, None)
            each = math.ceil(len(data.labels) / cut.size)
            steps = MemberSteps(
                together, members, stacks, hardware, each=each, class_weights=weights, refresh=quick.refresh,
                meter=meter,
            )  # fmt: skip
            step, engine = captured(
                steps,
                [tokens for order in orders for tokens in joint.totals(order, cut)],
                steps=each * len(orders),
                examples=cut.size * len(members),
                longest=int(data.tokens.lengths.max()),
                compiled=Compiled(why_not="layers have kernels of their own"),
                types=data.tokens.types is not None,
            )
        torch.manual_seed(_seed_of(seeds, epoch))
        blocks = family.blocks(model)
        engine["own_layers"] = {"layers": sum(map(quick.computes, blocks)), "of": len(blocks)}
        engine["cohort"] = len(members)
        yield _Ready(
            together, joint, data.tokens.lengths, _From(orders, epoch), cut, None, quick, steps, step, hardware, meter,
            engine, most,
        )  # fmt: skip


@dataclass(frozen=True)
class _From(Sequence[Any]):
    """Orders that are asked for by the number of their epoch, from 1."""

    orders: JointOrders
    first: int

    def __len__(self) -> int:
        return self.orders.last

    def __getitem__(self, place: Any) -> Any:
        return self.orders[place + 1 - self.first]


def _seed_of(seeds: Sequence[int], epoch: int) -> int:
    """What the cohort's common draws begin with."""
    return int(np.random.SeedSequence([*seeds, epoch]).generate_state(1)[0])


def _quickened(
    members: Sequence[Member],
    ranks: dict[str, int],
    rows: Rows,
    stacks: Stacks,
    shadows: Shadows,
    draws: Draws,
    dtype: torch.dtype,
) -> tuple[Quickened, list[MemberGroup]]:
    """The layers of the first member's model, computed for all members."""
    host = members[0].classifier.model
    names = {module: name for name, module in host.named_modules()}
    quick, groups = Quickened([], shadows, draws), []

    def group(layers: Sequence[nn.Module]) -> Group:
        paths = [names[layer] for layer in layers]
        each = [[member.classifier.model.get_submodule(path) for path in paths] for member in members]
        groups.append(MemberGroup(each, [ranks.get(path, 0) for path in paths], rows, stacks, shadows, draws))
        return groups[-1]

    for module, shape, heads in list(alike(host)):
        quick.parts.append(Layer(module, shape, heads, draws, dtype, group))
    return quick, groups


def _ranks(members: Sequence[Member]) -> dict[str, int]:
    """The largest rank of each adapted layer, by its name."""
    ranks: dict[str, int] = {}
    for member in members:
        for name, module in member.classifier.model.named_modules():
            ranks[name] = max(ranks.get(name, 0), rank_of(module))
    return {name: rank for name, rank in ranks.items() if rank}


def predict_members(run: _Ready, data: Labelled, *, tokens: int = 8192) -> Tensor:
    """Logits (K, N, C) of all members, in fp32 on the CPU, in the data's order: all in one pass.

    Args:
        tokens: the most tokens of a batch, all members together, counted as if padded; one text of each at least.
    """
    members, model = run.one.stacks.members, run.classifier.model
    model.eval()
    run.quick.shadows.refresh()
    order, results = [], []
    with torch.inference_mode():
        for chosen, _ in data.by_length(tokens=max(1, min(tokens // members, run.most))):
            batch = collate(data.tokens, data.labels, np.tile(chosen, members)).to(run.hardware.device)
            with run.hardware.autocast():
                results.append(run.classifier(batch).float().view(members, len(chosen), -1))
            order.append(torch.from_numpy(chosen))
        logits = torch.cat(results, dim=1)
        found = torch.empty_like(logits)
        found.index_copy_(1, torch.cat(order).to(logits.device), logits)
        return found.cpu()
