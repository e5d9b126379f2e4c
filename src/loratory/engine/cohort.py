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
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from loratory.data.batches import Batch, Cut, Labelled, collate
from loratory.data.joint import Joint, JointOrders
from loratory.engine.compiling import Compiled
from loratory.engine.epoch import Progress, Steps, set_training
from loratory.engine.frozen import Bottom, resumed
from loratory.engine.graphs import captured
from loratory.engine.groups import Draws, Group, Shadows
from loratory.engine.hardware import Hardware
from loratory.engine.layers import Layer, Quickened, alike
from loratory.engine.member_steps import Member, MemberSteps, why_apart
from loratory.engine.members import MemberGroup, Rows, Stacks, rank_of, stacked_layers
from loratory.engine.meter import Meter
from loratory.engine.modules import quicken, stand_in
from loratory.errors import DivergedError
from loratory.models.flat import Classifier

log = logging.getLogger("loratory")


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
class _Together(Classifier):
    """The members' models as one: its batches hold as many sequences of each, one member after the other.

    Attributes:
        inner: the first member's, or what begins above the frozen bottom of all.
    """

    inner: Classifier
    whose: Rows

    @property
    def flat(self) -> bool:
        """As of the inner one."""
        return self.inner.flat

    @property
    def why_eager(self) -> str | None:
        """As of the inner one."""
        return self.inner.why_eager

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
            return self.inner.encode(batch)


@dataclass(frozen=True)
class _Ready(Steps):
    """Members that are ready to be trained together; see :class:`loratory.engine.epoch.Ready`."""

    one: MemberSteps
    most: int
    """Tokens that a member has in a batch, at most."""

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
        ValueError: the members do not fit together, as :func:`why_apart` says: a mistake of the caller.
    """
    if (why := why_apart(members, hardware)) is not None:
        raise ValueError(why)
    with ExitStack() as stack:
        above = _above(members, data, validation, hardware, meter, stack)
        return _fitted(members, *above, hardware, meter, on_step)


def _above(
    members: Sequence[Member],
    data: Labelled,
    validation: Labelled | None,
    hardware: Hardware,
    meter: Meter,
    stack: ExitStack,
) -> tuple[Classifier | None, Labelled, Labelled | None]:
    """What begins above the encoder, and the data, where all members train their heads alone: it runs once for all."""
    host = members[0].classifier
    bottoms = [Bottom.of(member.classifier.model, host.family) for member in members]
    if not all(bottom is not None and bottom.whole for bottom in bottoms):
        return None, data, validation
    above = resumed(host, bottoms[0], data, validation, hardware, meter, lambda: None)
    inner, data, validation, _ = stack.enter_context(above)
    return inner, data, validation


def _fitted(
    members: Sequence[Member],
    inner: Classifier | None,
    data: Labelled,
    validation: Labelled | None,
    hardware: Hardware,
    meter: Meter,
    on_step: Callable[[Progress], None],
) -> tuple[list[Ended], dict[str, Any]]:
    ended = [Ended() for _ in members]
    best: list[tuple[int, dict[str, float]] | None] = [None for _ in members]
    kept: dict[int, Tensor] = {}
    ranks = _ranks(members)
    alive, epoch, done = list(range(len(members))), 1, 0
    moments: list[Tensor] | None = None
    engine: dict[str, Any] = {}
    while alive:
        here = [members[number] for number in alive]
        with _ready(here, inner, ranks, data, validation, epoch, hardware, meter) as run:
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
                        what = (
                            f"the loss is {losses[place]}"
                            if not math.isfinite(losses[place])
                            else "logits are no finite numbers"
                        )
                        end.error = DivergedError(f"{what} in epoch {epoch} (step {done}); use a smaller --lr")
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
    inner: Classifier | None,
    ranks: dict[str, int],
    data: Labelled,
    validation: Labelled | None,
    epoch: int,
    hardware: Hardware,
    meter: Meter,
) -> Iterator[_Ready]:
    """Make the members ready for the first step of `epoch`; afterwards each model computes by itself again."""
    host, spec = members[0].classifier, members[0].spec
    model, family, inner = host.model, host.family, inner or host
    joint = Joint(data.tokens, data.labels)
    weights = data.balanced(host.classes) if spec.class_weights == "balanced" else None
    cut = Cut(spec.batch_size, class_weights=weights)
    seeds = tuple(member.seed for member in members)
    orders = JointOrders(len(data.labels), seeds, max(member.spec.epochs for member in members))
    coming = orders[epoch - 1 :]
    longest = [int(one.tokens.lengths.max()) for one in (data, validation) if one is not None]
    most = max(*longest, *(joint.most(order, cut) for order in coming))
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
            together = _Together(model, family, inner.pad_id, inner, rows)
            set_training(model, None)
            each = math.ceil(len(data.labels) / cut.size)
            steps = MemberSteps(
                together, members, stacks, hardware, each=each, class_weights=weights, refresh=quick.refresh,
                meter=meter,
            )  # fmt: skip
            step, engine = captured(
                steps,
                [tokens for order in coming for tokens in joint.totals(order, cut)],
                steps=each * len(coming),
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
            together, joint, data.tokens.lengths, orders, cut, None, quick, steps, step, hardware, meter,
            engine, most,
        )  # fmt: skip


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
