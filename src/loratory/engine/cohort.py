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
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from loratory.data.batches import Cut, Labelled
from loratory.data.joint import Joint, JointOrders
from loratory.engine.compiling import Compiled
from loratory.engine.course import Course, Ended
from loratory.engine.epoch import Progress, Steps, set_training
from loratory.engine.graphs import captured
from loratory.engine.hardware import Hardware
from loratory.engine.member_steps import Member, MemberSteps, drops, why_apart
from loratory.engine.members import Stream
from loratory.engine.meter import Meter
from loratory.engine.modules import quicken
from loratory.engine.together import Joined, above, joined, ranks_of
from loratory.models.flat import Classifier
from loratory.models.output import Scale
from loratory.problems import REGRESSION


@dataclass(frozen=True)
class _Ready(Steps):
    """Members that are ready to be trained together; see :class:`loratory.engine.epoch.Ready`."""

    one: MemberSteps
    joined: Joined
    validation: Labelled | None
    scale: Scale | None
    """That on which regressions are trained; what they give is on it until it is folded in."""

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
    parts = {"train": data, **({"validation": validation} if validation is not None else {})}
    with hardware.deterministically(), above(members, parts, hardware, meter.of_part) as (inner, places, said):
        meter.clock.bottom = meter.seconds["train"]
        data, validation = places["train"], places.get("validation")
        ended, engine = _fitted(members, inner, data, validation, hardware, meter, on_step)
        return ended, engine | said


def _fitted(
    members: Sequence[Member],
    inner: Classifier | None,
    data: Labelled,
    validation: Labelled | None,
    hardware: Hardware,
    meter: Meter,
    on_step: Callable[[Progress], None],
) -> tuple[list[Ended], dict[str, Any]]:
    courses = [Course(member) for member in members]
    ranks = ranks_of(members)
    epochs = max(one.spec.last_epoch for one in members) if any(map(drops, members)) else 0
    steps = epochs * math.ceil(len(data.labels) / members[0].spec.batch_size)
    with meter.phase("setup"):
        streams = {one: Stream.of(one.seed, steps, hardware.device) for one in members}
    host = members[0].classifier
    scale = Scale.of(data.labels, host.output) if host.problem == REGRESSION else None
    alive, epoch, done = courses, 1, 0
    moments: list[Tensor] | None = None
    engine: dict[str, Any] = {}
    while alive:
        here = [course.member for course in alive]
        with _ready(
            here, inner, ranks, [streams[one] for one in here], scale, data, validation, epoch, hardware, meter
        ) as run:
            engine = engine or run.engine
            if moments is not None:
                run.one.resume(done, moments)
            while not any(course.over for course in alive):
                _epoch(run, alive, epoch, on_step)
                epoch += 1
            for place, course in enumerate(alive):
                if course.over and course.kept is not None:
                    run.one.stacks.weights[place].copy_(course.kept)
                    course.kept = None
            done = int(run.one.done)
            stay = [place for place, course in enumerate(alive) if not course.over]
            moments = [moment[stay].clone() for moment in run.one.moments]
        alive = [course for course in alive if not course.over]
    if scale is not None:
        for member in members:
            scale.fold(member.classifier.output)
    return [course.ended for course in courses], engine


def _epoch(run: _Ready, alive: Sequence[Course], epoch: int, on_step: Callable[[Progress], None]) -> None:
    """Train all members under way for an epoch, and judge them; its time is theirs in equal shares."""
    meter = run.meter
    before = dict(meter.seconds)
    run.epoch(epoch, on_step)
    done = int(run.one.done)
    losses = (run.one.loss / len(run.data.labels)).tolist()
    rates = run.one.rates_after(done)
    logits: Sequence[Tensor | None] = [None] * len(alive)
    with meter.phase("eval"):
        if run.validation is not None:
            found = run.joined.predict(run.validation)
            logits = list(found if run.scale is None else run.scale.back(found))
    spent = {phase: (meter.seconds[phase] - before[phase]) / len(alive) for phase in ("train", "eval")}
    for place, (course, of_it) in enumerate(zip(alive, logits, strict=True)):
        row = {"epoch": epoch, "step": done, "loss": losses[place], "lr": rates[place]}
        course.judge(row, of_it, run.one.stacks.weights[place], spent)


@contextmanager
def _ready(
    members: Sequence[Member],
    inner: Classifier | None,
    ranks: dict[str, int],
    streams: Sequence[Stream],
    scale: Scale | None,
    data: Labelled,
    validation: Labelled | None,
    epoch: int,
    hardware: Hardware,
    meter: Meter,
) -> Iterator[_Ready]:
    """Make the members ready for the first step of `epoch`; afterwards each model computes by itself again."""
    host, spec = members[0].classifier, members[0].spec
    joint = Joint(data.tokens, data.labels)
    weights = data.balanced(host.classes) if spec.class_weights == "balanced" else None
    cut = Cut(spec.batch_size, class_weights=weights)
    seeds = tuple(member.seed for member in members)
    orders = JointOrders(len(data.labels), seeds, max(member.spec.last_epoch for member in members))
    with meter.phase("setup"):
        sizes = joint.sizes(orders, cut, since=epoch)  # (steps, K)
    longest = [int(one.tokens.lengths.max()) for one in (data, validation) if one is not None]
    most = max(*longest, int(sizes.max()))
    with ExitStack() as stack:
        one = stack.enter_context(joined(members, inner, ranks, most, hardware, streams))
        with meter.phase("setup"):
            stack.enter_context(quicken(host.model, one.quick.draws, host.family.blocks(host.model)))
            set_training(host.model, None)
            steps = MemberSteps(
                one.classifier, members, one.stacks, hardware, each=math.ceil(len(data.labels) / cut.size),
                class_weights=weights, scale=scale, refresh=one.quick.refresh, meter=meter,
            )  # fmt: skip
            one.draws.done = steps.done
            step, engine = captured(
                steps,
                sizes.sum(axis=1).tolist(),
                steps=len(sizes),
                examples=cut.size * len(members),
                longest=int(data.tokens.lengths.max()),
                compiled=Compiled(why_not="layers of a cohort are never compiled"),
                types=data.tokens.types is not None,
            )
        engine |= {"own_layers": one.quick.count(host.family.blocks(host.model)), "cohort": len(members)}
        yield _Ready(
            one.classifier, joint, data.tokens.lengths, orders, cut, None, one.quick, steps, step, hardware, meter,
            engine, one, validation, scale,
        )  # fmt: skip
