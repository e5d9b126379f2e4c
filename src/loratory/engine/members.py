"""What the members of a cohort have of their own in a model that they share: low-rank updates and heads, stacked.

    flat batch      ─▶ rows of member 1 │ rows of member 2 │ …      all go through the base's products at once
    adapter (K, r, I), head layer (K, O, I)                         each row goes through its own member's

A rank smaller than the largest is filled up with zeros, which stay zero: their gradients are products with zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from loratory.engine.draws import Draws, Seeds, mask
from loratory.engine.groups import Group, Shadows
from loratory.engine.philox import seeds
from loratory.engine.rows import Rows
from loratory.engine.stacks import Stack, Stacks


@dataclass(frozen=True, eq=False)
class Stream:
    """What a member's masks come from: the numbers that it would draw alone.

    Attributes:
        generator: on a CPU; on CUDA None.
        planned: on CUDA (steps,) the seed of each forward pass; None where nothing is dropped.
    """

    generator: torch.Generator | None
    planned: Tensor | None

    @classmethod
    def of(cls, seed: int, steps: int, device: torch.device) -> Stream:
        """Of a member with that seed, which draws masks for so many steps at most."""
        if device.type == "cuda":
            return cls(None, seeds(seed, steps, device) if steps else None)
        return cls(torch.Generator(device).manual_seed(seed), None)


class MemberDraws(Draws):
    """The masks of a cohort's members, each from its own stream; of attention's own there are none.

    Attributes:
        done: (1,) steps made so far: the counter of whoever makes them.
    """

    def __init__(self, rows: Rows, streams: Sequence[Stream]) -> None:
        super().__init__(rows.bounds.device)
        self._rows, self._streams = rows, streams
        self.seed = torch.zeros(rows.members, dtype=torch.int64, device=rows.bounds.device)
        self.done = torch.zeros(1, dtype=torch.int64, device=rows.bounds.device)
        planned = [one.planned for one in streams if one.planned is not None]
        self._planned = torch.stack(planned, dim=1) if planned else None

    def refresh(self) -> None:
        """As of a run alone."""
        self._calls = 0
        if self._planned is not None:
            self.seed.copy_(torch.index_select(self._planned, 0, self.done)[0])
        elif not self.seed.is_cuda:
            for seed, stream in zip(self.seed, self._streams, strict=True):  # nobody reads it, but alone it is drawn
                seed.random_(2**31, generator=stream.generator)

    def seeds(self, rows: int) -> Seeds:
        """As of a run alone."""
        return Seeds(self.seed, *self._rows.owned(rows))

    def mask(self, x: Tensor, p: float | Sequence[float]) -> Tensor:
        """As of a run alone."""
        ps = [p] * len(self._streams) if isinstance(p, float) else p
        found = torch.ones_like(x)
        spans, filled = self._rows.divided(len(x))
        for (first, last), one, stream in zip(spans, ps, self._streams, strict=True):
            if one > 0:
                alone = x.new_empty(last - first + (first - last) % filled, *x.shape[1:])
                found[first:last] = mask(alone, one, stream.generator)[: last - first]
        return found


@dataclass(eq=False)
class _Update:
    """The members' low-rank updates of the columns `out` of a group's result; `part` are its rows of the stacked A."""

    out: slice
    part: slice
    b: Stack
    dropouts: list[float]
    on_device: Tensor
    """The same, (K,) fp32."""
    site: int


class MemberGroup(Group):
    """Linear layers that share their input and their frozen weights, each with K low-rank updates, and with K biases
    where these are trained: a row takes its member's.

    The interface of :class:`loratory.engine.groups.Group`, whose products of adapters this does otherwise.
    """

    def __init__(
        self,
        layers: Sequence[Sequence[nn.Module]],
        ranks: Sequence[int],
        rows: Rows,
        stacks: Stacks,
        shadows: Shadows,
        draws: Draws,
    ) -> None:
        """
        Args:
            layers: of each member, the same layers of its model.
            ranks: of each of these layers, the largest that a member has; 0 where none has an update.
        """
        bases: list[Any] = [_base(layer) for layer in layers[0]]
        biases = [[_base(of_member[number]).bias for of_member in layers] for number in range(len(bases))]
        super().__init__(bases, shadows, draws)
        self._of, self._shadows = rows, shadows
        self._stacked_biases: list[tuple[slice, Stack]] = []
        if any(self.free_biases):
            assert self.bias is not None
            self.bias = self.bias.clone()
        self.updates: list[_Update] = []
        start = row = 0
        multiple = 16 if bases[0].weight.is_cuda else 1  # Triton's products need as many rows
        sources: list[tuple[slice, list[Any]]] = []
        self._scales: list[Tensor] = []  # (K, R) of each update
        for number, base in enumerate(bases):
            size = len(base.weight)
            adapted: list[Any] = [each[number] for each in layers]
            if self.free_biases[number]:
                assert self.bias is not None
                place = slice(start, start + size)
                self.bias[place] = 0.0
                self._stacked_biases.append((place, stacks.add(biases[number], (size,), decays=False)))
            if ranks[number]:
                rank = -(-ranks[number] // multiple) * multiple
                bs = [_weight(layer, "lora_B") for layer in adapted]
                stack = stacks.add(bs, (size, rank), decays=True)
                drops = [dropout_of(layer) for layer in adapted]
                place, part = slice(start, start + size), slice(row, row + rank)
                there = torch.tensor(drops, device=self.weight.device)
                self.updates.append(_Update(place, part, stack, drops, there, self.sites[number]))
                sources.append((part, [_weight(layer, "lora_A") for layer in adapted]))
                scale = torch.tensor([[_scale(layer)] * rank for layer in adapted])
                self._scales.append(scale.to(self.weight.device))
                row += rank
            start += size
        width = self.weight.shape[1]
        self.stacked_a = [stacks.add(of_a, (part.stop - part.start, width), decays=True) for part, of_a in sources]
        self.rank = row

    def ready(self) -> None:
        """Once the stacks have their memory."""
        self._a = [self._shadows.of(stack.leaf) for stack in self.stacked_a]
        self._b = [self._shadows.of(one.b.leaf) for one in self.updates]
        self._shifts = [(place, self._shadows.of(stack.leaf)) for place, stack in self._stacked_biases]
        self.parameters = [stack.leaf for _, stack in self._stacked_biases]
        self.parameters += [stack.leaf for stack in self.stacked_a] + [one.b.leaf for one in self.updates]

    @property
    def wants_sum(self) -> bool:
        """Never: a sum over the rows of all members is nobody's."""
        return False

    @property
    def keeps_input(self) -> bool:
        """As of a group."""
        return bool(self.updates)

    def _drops(self, one: _Update, training: bool) -> bool:
        return training and any(p > 0 for p in one.dropouts)

    def _masked(self, x: Tensor, one: _Update, masks: Sequence[Tensor], *, into: Tensor | None = None) -> Tensor:
        """x∘M of an update, added to `into` where that is given, by each member's own dropout."""
        if x.is_cuda:
            return self._draws.drop(x, one.on_device, one.site, into=into)
        return x * masks[0] if into is None else into.addcmul_(x, masks[0])

    def forward(self, x: Tensor, *, training: bool) -> tuple[Tensor, list[Tensor]]:
        """As of a group."""
        y = torch.nn.functional.linear(x, self.weight, self.bias)
        for place, shift in self._shifts:
            self._of.shift(y[:, place], shift)
        if not self.updates:
            return y, []
        hidden = x.new_empty(len(x), self.rank)
        masks = []
        for one, a, b, scale in zip(self.updates, self._a, self._b, self._scales, strict=True):
            if self._drops(one, training) and not x.is_cuda:
                masks.append(self._draws.mask(x, one.dropouts))
            dropped = self._masked(x, one, masks[-1:]) if self._drops(one, training) else x
            part = hidden[:, one.part]
            self._of.narrow(dropped, a, scale, part)
            self._of.widen(part, b, y[:, one.out])
        return y, [hidden, *masks]

    def inner(self, grad: Tensor) -> Tensor | None:
        """As of a group."""
        if not self.updates:
            return None
        inner = grad.new_empty(len(grad), self.rank)
        for one, b, scale in zip(self.updates, self._b, self._scales, strict=True):
            self._of.narrow(grad[:, one.out], b.transpose(1, 2), scale, inner[:, one.part])
        return inner

    def backward(
        self, grad: Tensor, inner: Tensor | None, kept: Sequence[Tensor], *, training: bool, into: Tensor | None = None
    ) -> Tensor:
        """As of a group."""
        result = grad @ self.weight if into is None else into.addmm_(grad, self.weight)
        if inner is None:
            return result
        masks = iter(kept[1:])
        for one, a in zip(self.updates, self._a, strict=True):
            if self._drops(one, training):
                through = torch.zeros_like(result)
                self._of.widen(inner[:, one.part], a.transpose(1, 2), through)
                self._masked(through, one, [next(masks)] if kept[1:] else [], into=result)
            else:
                self._of.widen(inner[:, one.part], a.transpose(1, 2), result)
        return result

    def gradients(
        self,
        grad: Tensor,
        inner: Tensor | None,
        x: Tensor | None,
        kept: Sequence[Tensor],
        *,
        training: bool,
        summed: Tensor | None = None,
    ) -> list[Tensor]:
        """As of a group."""
        of_biases = [self._of.sums(grad[:, place]) for place, _ in self._stacked_biases]
        if inner is None:
            return of_biases
        assert x is not None
        hidden, masks = kept[0], iter(kept[1:])
        of_a, of_b = [], []
        for one, a in zip(self.updates, self.stacked_a, strict=True):
            dropped = x
            if self._drops(one, training):
                dropped = self._masked(x, one, [next(masks)] if kept[1:] else [])
            of_a.append(x.new_empty(self._of.members, *a.shape, dtype=torch.float32))
            self._of.outer(inner[:, one.part], dropped, of_a[-1])
            of_b.append(x.new_empty(self._of.members, *one.b.shape, dtype=torch.float32))
            self._of.outer(grad[:, one.out], hidden[:, one.part], of_b[-1])
        return of_biases + of_a + of_b


def _base(layer: Any) -> Any:
    return layer.base_layer if isinstance(layer, LoraLayer) else layer


def _adapter(layer: Any) -> str | None:
    return next(iter(layer.active_adapters)) if isinstance(layer, LoraLayer) else None


def rank_of(layer: Any) -> int:
    """Of the layer's update; 0 where it has none."""
    name = _adapter(layer)
    return 0 if name is None or name not in layer.lora_A else len(layer.lora_A[name].weight)


def _weight(layer: Any, kind: str) -> nn.Parameter | None:
    name = _adapter(layer)
    return None if name is None else getattr(layer, kind)[name].weight


def _scale(layer: Any) -> float:
    name = _adapter(layer)
    return 0.0 if name is None else float(layer.scaling[name])


def dropout_of(layer: Any) -> float:
    """Of the input of the layer's update; 0 where it has none."""
    name = _adapter(layer)
    return 0.0 if name is None else float(getattr(layer.lora_dropout[name], "p", 0.0))
