"""The steps of a cohort: its members, and AdamW for all of them, each with a rate, a decay and a clipping norm."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from loratory.engine.frozen import Bottom
from loratory.engine.hardware import Hardware
from loratory.engine.layers import alike
from loratory.engine.members import rank_of
from loratory.engine.meter import Meter
from loratory.engine.passes import Passes
from loratory.engine.rows import member_kernels
from loratory.engine.stacks import Stacks
from loratory.engine.step import linear_schedule
from loratory.models.flat import Classifier
from loratory.models.output import Scale
from loratory.spec import TrainingSpec

_BETAS, _EPS = (0.9, 0.999), 1e-8
"""AdamW's, as torch has them by default."""


@dataclass(frozen=True, eq=False)
class Member:
    """One that trains in a cohort: a model made ready by its method, and how it is trained.

    Attributes:
        rates: what `lr` is multiplied by, for the parameters where that is not 1; a cohort takes none.
        score: the scores of validation's logits (N, C), after each epoch.
        better: whether its first scores are better than its second.
    """

    classifier: Classifier
    spec: TrainingSpec
    lr: float
    seed: int
    score: Callable[[Tensor], dict[str, float]] = lambda logits: {}
    better: Callable[[dict[str, float], dict[str, float]], bool] = lambda new, old: False
    rates: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def trained(self) -> list[str]:
        """The names of what is trained."""
        return [name for name, one in self.classifier.model.named_parameters() if one.requires_grad]

    @cached_property
    def bottom(self) -> Bottom | None:
        """The frozen bottom of its model."""
        return Bottom.of(self.classifier.model, self.classifier.family)

    @property
    def only_head(self) -> bool:
        """Whether it trains nothing but its head."""
        return all(name.startswith(_heads(self)) for name in self.trained)


def why_apart(members: Sequence[Member], hardware: Hardware) -> str | None:
    """Why these cannot train in one cohort; None where they can."""
    if (why := why_none(members[0], hardware)) is not None:
        return why
    if (why := next((why for member in members if (why := why_alone(member)) is not None), None)) is not None:
        return why
    return why_unlike(members)


def why_unlike(members: Sequence[Member]) -> str | None:
    """Why these, each of which could train in a cohort, cannot in one; None where they can."""
    for name in COMMON:
        if len({getattr(member.spec, name) for member in members}) > 1:
            return f"{name} differs"
    if len({frozenset(_beside(member)) for member in members}) > 1:
        return "what is trained beside updates differs"
    if len({member.only_head for member in members}) > 1:
        return "some train above an encoder that runs once"
    return None


def why_none(one: Member, hardware: Hardware) -> str | None:
    """Why no run of this base and these common settings trains in a cohort; None where they can."""
    if hardware.processes.count > 1:
        return "several processes train"
    if hardware.checkpointing:
        return "layers are checkpointed"
    if one.spec.accumulate > 1:
        return "batches are computed in parts"
    if one.spec.attention_dropout > 0:
        return ATTENTION_DROPS
    if hardware.device.type == "cuda" and _drops_elsewhere(one.classifier):
        return "dropout within layers of stock modules would be drawn for all at once"
    return None if one.classifier.flat else "batches run padded"


def why_alone(member: Member) -> str | None:
    """Why this one trains in no cohort, whatever the others; None where it can."""
    if member.rates:
        return "parts of a model have rates of their own"
    if member.only_head:
        return None
    if member.bottom is not None:
        return "its frozen bottom runs once"
    elsewhere = _trained_elsewhere(member)
    return None if elsewhere is None else f"{elsewhere} is trained"


def _drops_elsewhere(classifier: Classifier) -> bool:
    """Whether anything is dropped in training within layers that are not our own: on CUDA by torch, for all rows."""
    own = {layer for layer, _, _ in alike(classifier.model)}
    layers = [layer for layer in classifier.family.blocks(classifier.model) if layer not in own]
    inside = (module for layer in layers for module in layer.modules())
    return any(isinstance(module, nn.Dropout) and module.p > 0 for module in inside)


def drops(member: Member) -> bool:
    """Whether anything in its model is dropped in training."""
    return any(isinstance(module, nn.Dropout) and module.p > 0 for module in member.classifier.model.modules())


ATTENTION_DROPS = "attention's dropout would be drawn for all at once"
"""Why runs whose attention drops weights train in no cohort."""

COMMON = ("batch_size", "accumulate", "dropout", "attention_dropout", "class_weights", "label_smoothing")
"""Settings that the members share."""


def _trained_elsewhere(member: Member) -> str | None:
    """The first trained parameter that members cannot have of their own: that is neither the head's, nor of a plain
    low-rank update or a bias in a layer of our own, nor of a LayerNorm."""
    model = member.classifier.model
    layers = [module for layer, _, _ in alike(model) for module in layer.modules()]
    adapted = [module for module in layers if rank_of(module)]
    known = {one for module in adapted for name, one in module.named_parameters() if name.startswith("lora_")}
    known |= {one for module in layers if isinstance(module, nn.Linear) and (one := module.bias) is not None}
    known |= {one for module in model.modules() if isinstance(module, nn.LayerNorm) for one in module.parameters()}
    trained = (name for name in member.trained if not name.startswith(_heads(member)))
    return next((name for name in trained if model.get_parameter(name) not in known), None)


def _beside(member: Member) -> list[str]:
    """The names of what is trained, but for updates and the head, as they are without updates."""
    beside = [name for name in member.trained if ".lora_" not in name and not name.startswith(_heads(member))]
    return [name.replace(".base_layer.", ".") for name in beside]


def _heads(member: Member) -> tuple[str, ...]:
    return tuple(f"{path}." for path in member.classifier.family.head)


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
        scale: Scale | None,
        refresh: Callable[[], None],
        meter: Meter,
    ) -> None:
        """
        Args:
            each: steps of an epoch.
            class_weights: what the loss of an example of each class counts, (C,).
            scale: that on which regressions are trained.
        """
        super().__init__(
            classifier, members[0].spec, hardware, losses=(len(members),), class_weights=class_weights,
            scale=scale, refresh=refresh, clock=meter.clock,
        )  # fmt: skip
        self.stacks, device = stacks, hardware.device
        totals = [member.spec.epochs * each for member in members]
        planned = torch.zeros(max(totals), len(members))
        factors: dict[tuple[int, float], Tensor] = {}  # of each schedule that members have
        for column, (member, total) in enumerate(zip(members, totals, strict=True)):
            schedule = total, member.spec.warmup
            if schedule not in factors:
                factor = linear_schedule(total, warmup=member.spec.warmup)
                factors[schedule] = torch.tensor([factor(step) for step in range(total)], dtype=torch.float64)
            planned[:total, column] = member.lr * factors[schedule]
        self._planned: list[list[float]] = planned.tolist()
        self._rates = planned.to(device, copy=True)
        self._decay = torch.tensor([member.spec.weight_decay for member in members], device=device)
        self._betas = torch.tensor(_BETAS, dtype=torch.float64, device=device)
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
        rate = torch.index_select(self._rates, 0, self.done)[0]  # (K,)
        self.done += 1
        norm = torch.linalg.vector_norm(gradients, dim=1)  # (K,)
        clip = (self._norms / (norm + 1e-6)).clamp_(max=1.0)
        corrections = (1 - torch.pow(self._betas, self.done.double())).float()  # in fp32 the difference loses digits
        if weights.is_cuda:
            member_kernels().adamw(
                weights, gradients, (first, second), self.stacks.decayed, clip=clip, rate=rate, decay=self._decay,
                corrections=corrections, betas=_BETAS, eps=_EPS,
            )  # fmt: skip
            return
        gradients.mul_(clip.view(-1, 1))
        weights.addcmul_(weights * self.stacks.decayed, (rate * self._decay).view(-1, 1), value=-1)
        first.lerp_(gradients, 1 - _BETAS[0])
        second.mul_(_BETAS[1]).addcmul_(gradients, gradients, value=1 - _BETAS[1])
        divisor = second.div(corrections[1]).sqrt_().add_(_EPS)
        weights.addcdiv_(first * (rate / corrections[0]).view(-1, 1), divisor, value=-1)

    def forget(self) -> None:
        """Drop every gradient."""
        for stack in self.stacks.stacks:
            stack.leaf.grad = None

    def restart(self) -> None:
        """Begin the schedules again where they began."""
        self.done.fill_(self._begin)

    def _forget_moments(self) -> None:
        for moment in self.moments:  # not yet resumed: they were zero before
            moment.zero_()
