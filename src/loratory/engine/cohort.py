"""Cohorts: K members trained at once on one frozen base, each as if it were alone.

    batch of member 1 │ batch of member 2 │ …      one flat row through the frozen base
    losses: each member's own mean, and their sum    gradients, clipping, AdamW and schedule: each member's own

Members share base, data, batch size and what draws nothing of its own; they differ in rank, alpha, targets, rate,
schedule, decay, clipping, seed and head. One that ends (its epochs, early stopping, divergence) leaves between two
epochs, and the others go on as they were.
"""

from __future__ import annotations

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
from loratory.engine.ready import own_layers
from loratory.errors import DivergedError
from loratory.models.flat import Classifier


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
    courses = [_Course(member) for member in members]
    ranks = _ranks(members)
    alive, epoch, done = courses, 1, 0
    moments: list[Tensor] | None = None
    engine: dict[str, Any] = {}
    while alive:
        here = [course.member for course in alive]
        with _ready(here, inner, ranks, data, validation, epoch, hardware, meter) as run:
            engine = engine or run.engine
            if moments is not None:
                run.one.resume(done, moments)
            while not any(course.over for course in alive):
                run.epoch(epoch, on_step)
                _judge(run, alive, epoch, validation)
                epoch += 1
            for place, course in enumerate(alive):
                if course.over and course.kept is not None:
                    run.one.stacks.weights[place].copy_(course.kept)
                    course.kept = None
            done = int(run.one.done)
            stay = [place for place, course in enumerate(alive) if not course.over]
            moments = [moment[stay].clone() for moment in run.one.moments]
        alive = [course for course in alive if not course.over]
    return [course.ended for course in courses], engine


@dataclass(eq=False)
class _Course:
    """How far a member has come.

    Attributes:
        over: whether it trains no further.
        best: the best epoch so far and its scores, where the member watches them.
        kept: its weights then, a row of the flat memory, where they are to be kept.
    """

    member: Member
    ended: Ended = field(default_factory=Ended)
    over: bool = False
    best: tuple[int, dict[str, float]] | None = None
    kept: Tensor | None = None

    def judge(self, row: dict[str, Any], logits: Tensor | None, weights: Tensor) -> None:
        """End an epoch.

        Args:
            row: of the history, scores not yet in it.
            logits: (N, C) of validation, where there is one.
            weights: what it trains, a row of the flat memory.
        """
        epoch, spec, ended = row["epoch"], self.member.spec, self.ended
        fault = None if math.isfinite(row["loss"]) else f"the loss is {row['loss']}"
        if fault is None and logits is not None and not torch.isfinite(logits).all():
            fault = "logits are no finite numbers"
        scores = self.member.score(logits) if fault is None and logits is not None else {}
        ended.history.append({**row, **scores})
        self.over = fault is not None or epoch == spec.epochs
        if fault is not None:
            ended.error = DivergedError(f"{fault} in epoch {epoch} (step {row['step']}); use a smaller --lr")
            return
        if scores and (self.best is None or self.member.better(scores, self.best[1])):
            self.best = epoch, scores
            self.kept = weights.clone() if spec.keep == "best" else None
        ended.best_epoch = self.best[0] if self.kept is not None and self.best is not None else epoch
        if self.best is not None and spec.patience is not None and epoch - self.best[0] >= spec.patience:
            self.over = True


def _judge(run: _Ready, alive: Sequence[_Course], epoch: int, validation: Labelled | None) -> None:
    """End the epoch of all members under way."""
    done, meter = int(run.one.done), run.meter
    losses = (run.one.loss / len(run.data.labels)).tolist()
    rates = run.one.rates_after(done)
    with meter.phase("eval"):
        logits: Sequence[Tensor | None] = [None] * len(alive)
        if validation is not None:
            logits = list(predict_members(run, validation))
        for place, (course, of_it) in enumerate(zip(alive, logits, strict=True)):
            row = {"epoch": epoch, "step": done, "loss": losses[place], "lr": rates[place]}
            row["train_seconds"] = meter.seconds["train"]
            course.judge(row, of_it, run.one.stacks.weights[place])


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
    inner = inner or host
    joint = Joint(data.tokens, data.labels)
    weights = data.balanced(host.classes) if spec.class_weights == "balanced" else None
    cut = Cut(spec.batch_size, class_weights=weights)
    seeds = tuple(member.seed for member in members)
    orders = JointOrders(len(data.labels), seeds, max(member.spec.epochs for member in members))
    sizes = np.concatenate([joint.sizes(order, cut) for order in orders[epoch - 1 :]])  # (steps, K)
    longest = [int(one.tokens.lengths.max()) for one in (data, validation) if one is not None]
    most = max(*longest, int(sizes.max()))
    with ExitStack() as stack:
        devices = [hardware.device] if hardware.device.type == "cuda" else []
        stack.enter_context(torch.random.fork_rng(devices=devices))
        stack.enter_context(hardware.deterministically())
        rows = Rows(len(members), most, torch.zeros(len(members) + 1, dtype=torch.int32, device=hardware.device))
        quick, stacks = stack.enter_context(_stacked(members, ranks, rows, hardware))
        with meter.phase("setup"):
            if hardware.device.type == "cpu":
                stack.enter_context(quicken(host.model))
            together = _Together(host.model, host.family, inner.pad_id, inner, rows)
            set_training(host.model, None)
            steps = MemberSteps(
                together, members, stacks, hardware, each=math.ceil(len(data.labels) / cut.size),
                class_weights=weights, refresh=quick.refresh, meter=meter,
            )  # fmt: skip
            step, engine = captured(
                steps,
                sizes.sum(axis=1).tolist(),
                steps=len(sizes),
                examples=cut.size * len(members),
                longest=int(data.tokens.lengths.max()),
                compiled=Compiled(why_not="layers have kernels of their own"),
                types=data.tokens.types is not None,
            )
        torch.manual_seed(_seed_of(seeds, epoch))
        engine |= {"own_layers": own_layers(host, quick), "cohort": len(members)}
        yield _Ready(
            together, joint, data.tokens.lengths, orders, cut, None, quick, steps, step, hardware, meter,
            engine, most,
        )  # fmt: skip


@contextmanager
def _stacked(
    members: Sequence[Member], ranks: dict[str, int], rows: Rows, hardware: Hardware
) -> Iterator[tuple[Quickened, Stacks]]:
    """Let the first member's model compute for all, with what they train in one memory; at the end each has its own."""
    family = members[0].classifier.family
    dtype = torch.bfloat16 if hardware.precision == "bf16" else torch.float32
    stacks = Stacks(len(members))
    quick, groups = _quickened(members, ranks, rows, stacks, Shadows(dtype), Draws(hardware.device), dtype)
    heads = [
        pair
        for path in family.head
        for pair in stacked_layers([one.classifier.model.get_submodule(path) for one in members], stacks)
    ]
    with ExitStack() as stack:
        stacks.allocate(hardware.device)
        stack.callback(stacks.restore)
        for group in groups:
            group.ready()
        for part in quick.parts:
            stack.callback(part.restore)
            stack.callback(stand_in(part.module, part.__call__))
        for module, forward in heads:
            stack.callback(stand_in(module, forward))
        yield quick, stacks


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
