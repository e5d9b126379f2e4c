"""What the members of a cohort have of their own in a model that they share: low-rank updates and heads, stacked.

    flat batch      ─▶ rows of member 1 │ rows of member 2 │ …      all go through the base's products at once
    adapter (K, r, I), head layer (K, O, I)                         each row goes through its own member's

A rank smaller than the largest is filled up with zeros, which stay zero: their gradients are products with zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from types import ModuleType
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from loratory.engine.groups import Draws, Group, Shadows, product32
from loratory.engine.modules import Dropout


def member_kernels() -> ModuleType:
    """The CUDA kernels; Triton is there where CUDA is."""
    from loratory.engine import member_kernels as kernels

    return kernels


@dataclass(eq=False)
class Rows:
    """Which rows of the flat batch under way are whose.

    Attributes:
        members: K.
        bounds: (K + 1,) int32 on the device, where each member's rows begin, and where the last one's end.
        most: rows that a member has at most, in any batch.
    """

    members: int
    most: int
    bounds: Tensor
    spans: list[tuple[int, int]] = field(default_factory=list)

    def begin(self, cu_seqlens: Tensor, examples: int) -> None:
        """Of a batch that holds `examples` sequences of each member, one member after the other."""
        self.bounds = cu_seqlens[: self.members * examples + 1 : examples].contiguous()
        if not self.bounds.is_cuda:
            ends = self.bounds.tolist()
            self.spans = list(pairwise(ends))

    def narrow(self, x: Tensor, weight: Tensor, scale: Tensor, into: Tensor) -> None:
        """`into[t] = scale[m] * (x[t] @ weight[m].T)` for rows t of member m: (T, I), (K, R, I), (K, R) to (T, R)."""
        if x.is_cuda:
            member_kernels().narrow(x, weight, scale, self.bounds, self.most, into)
            return
        for member, (first, last) in enumerate(self.spans):
            torch.mul(x[first:last] @ weight[member].t(), scale[member].to(x.dtype), out=into[first:last])

    def widen(self, hidden: Tensor, weight: Tensor, into: Tensor) -> None:
        """`into[t] += hidden[t] @ weight[m].T` for each row t of member m: (T, R), (K, O, R) to (T, O)."""
        if hidden.is_cuda:
            member_kernels().widen(hidden, weight, self.bounds, self.most, into)
            return
        for member, (first, last) in enumerate(self.spans):
            into[first:last].addmm_(hidden[first:last], weight[member].t())

    def outer(self, p: Tensor, q: Tensor, into: Tensor) -> None:
        """`into[m] = p[rows of m].T @ q[rows of m]` in fp32: (T, P), (T, Q) to (K, P, Q)."""
        if p.is_cuda:
            member_kernels().outer(p, q, self.bounds, into)
            return
        for member, (first, last) in enumerate(self.spans):
            into[member] = product32(p[first:last].t(), q[first:last])

    def masks(self, x: Tensor, dropouts: Sequence[float]) -> Tensor:
        """Dropout's mask of `x` (T, I) over its keeping probability, each member's rows by its own probability."""
        mask = torch.ones_like(x)
        for (first, last), p in zip(self.spans, dropouts, strict=True):
            if p > 0:
                mask[first:last] = Dropout(p).mask(x[first:last])
        return mask


@dataclass(eq=False)
class Stack:
    """One parameter of all K members: (K, …) a view of the flat memory of all of them."""

    parameters: Sequence[nn.Parameter | None]
    """Each member's own; None where it has none, whose place stays zero."""
    shape: tuple[int, ...]
    decays: bool
    place: slice = field(default_factory=lambda: slice(0))
    leaf: Tensor = field(default_factory=lambda: torch.empty(0))
    """What is trained."""
    gradient: Tensor = field(default_factory=lambda: torch.empty(0))
    """(K, …) where its gradient is gathered, a view too."""

    @property
    def size(self) -> int:
        """Numbers of one member's."""
        return int(torch.Size(self.shape).numel())


class Stacks:
    """What K members train, in rows of flat memory: weights and gradients (K, P) in fp32.

    Attributes:
        weights, gradients: (K, P); made by :meth:`allocate`.
        decayed: (P,) 1 where weight decay counts, else 0.
    """

    def __init__(self, members: int) -> None:
        self.members = members
        self.stacks: list[Stack] = []

    def add(self, parameters: Sequence[nn.Parameter | None], shape: Sequence[int], *, decays: bool) -> Stack:
        """A parameter of the members, in `shape`, of which each fills the corner that it has."""
        self.stacks.append(Stack(parameters, tuple(shape), decays))
        return self.stacks[-1]

    def allocate(self, device: torch.device) -> None:
        """Make the memory, and let the members' own parameters be views of it."""
        total = 0
        for stack in self.stacks:
            stack.place = slice(total, total + stack.size)
            total += -(-stack.size // 16) * 16  # each begins at a multiple of 64 bytes
        self.weights = torch.zeros(self.members, total, device=device)
        self.gradients = torch.zeros_like(self.weights)
        self.decayed = torch.zeros(total, device=device)
        for stack in self.stacks:
            leaf = self.weights[:, stack.place].view(self.members, *stack.shape)
            for member, parameter in enumerate(stack.parameters):
                if parameter is not None:
                    corner = leaf[member][tuple(slice(0, size) for size in parameter.shape)]
                    parameter.data = corner.copy_(parameter.detach())
            stack.leaf = leaf.detach().requires_grad_()
            stack.gradient = self.gradients[:, stack.place].view(self.members, *stack.shape)
            self.decayed[stack.place] = float(stack.decays)

    def gather(self) -> None:
        """Bring all gradients into their memory, and drop them where autograd left them."""
        found = [stack.leaf.grad for stack in self.stacks if stack.leaf.grad is not None]
        torch._foreach_copy_([stack.gradient for stack in self.stacks], found)
        for stack in self.stacks:
            stack.leaf.grad = None

    def restore(self) -> None:
        """Give each member's parameters memory of their own again."""
        for stack in self.stacks:
            for parameter in stack.parameters:
                if parameter is not None:
                    parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)


@dataclass(eq=False)
class _Update:
    """The members' low-rank updates of the columns `out` of a group's result; `part` are its rows of the stacked A."""

    out: slice
    part: slice
    b: Stack
    dropouts: list[float]


class MemberGroup(Group):
    """Frozen linear layers that share their input, each with K low-rank updates, of which a row takes its member's.

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
        bases: list[Any] = [layer.base_layer if isinstance(layer, LoraLayer) else layer for layer in layers[0]]
        super().__init__(bases, shadows, draws)
        self._of, self._shadows = rows, shadows
        self.updates: list[_Update] = []
        start = row = 0
        multiple = 16 if bases[0].weight.is_cuda else 1  # Triton's products need as many rows
        sources: list[tuple[slice, list[Any]]] = []
        self._scales: list[Tensor] = []  # (K, R) of each update
        for number, base in enumerate(bases):
            size = len(base.weight)
            adapted: list[Any] = [each[number] for each in layers]
            if ranks[number]:
                rank = -(-ranks[number] // multiple) * multiple
                bs = [_weight(layer, "lora_B") for layer in adapted]
                stack = stacks.add(bs, (size, rank), decays=True)
                drops = [dropout_of(layer) for layer in adapted]
                self.updates.append(_Update(slice(start, start + size), slice(row, row + rank), stack, drops))
                sources.append((slice(row, row + rank), [_weight(layer, "lora_A") for layer in adapted]))
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
        self.parameters = [stack.leaf for stack in self.stacked_a] + [one.b.leaf for one in self.updates]

    @property
    def keeps_input(self) -> bool:
        """As of a group."""
        return bool(self.updates)

    def _drops(self, one: _Update, training: bool) -> bool:
        return training and any(p > 0 for p in one.dropouts)

    def forward(self, x: Tensor, *, training: bool) -> tuple[Tensor, list[Tensor]]:
        """As of a group."""
        y = torch.nn.functional.linear(x, self.weight, self.bias)
        if not self.updates:
            return y, []
        hidden = x.new_empty(len(x), self.rank)
        masks = []
        for one, a, b, scale in zip(self.updates, self._a, self._b, self._scales, strict=True):
            dropped = x
            if self._drops(one, training):
                masks.append(self._of.masks(x, one.dropouts))
                dropped = x * masks[-1]
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
                result.addcmul_(through, next(masks))
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
        if inner is None:
            return []
        assert x is not None
        hidden, masks = kept[0], iter(kept[1:])
        of_a, of_b = [], []
        for one, a in zip(self.updates, self.stacked_a, strict=True):
            dropped = x * next(masks) if self._drops(one, training) else x
            of_a.append(x.new_empty(self._of.members, *a.shape, dtype=torch.float32))
            self._of.outer(inner[:, one.part], dropped, of_a[-1])
            of_b.append(x.new_empty(self._of.members, *one.b.shape, dtype=torch.float32))
            self._of.outer(grad[:, one.out], hidden[:, one.part], of_b[-1])
        return of_a + of_b


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


def stacked_layers(heads: Sequence[nn.Module], stacks: Stacks) -> list[tuple[nn.Module, Callable[[Tensor], Tensor]]]:
    """For each layer with weights in the members' heads, the first member's, what computes it for all of them.

    Args:
        heads: the same part of each member's head.

    Raises:
        TypeError: a layer that is neither linear nor a LayerNorm.
    """
    found: list[tuple[nn.Module, Callable[[Tensor], Tensor]]] = []
    for same in zip(*(head.modules() for head in heads), strict=True):
        own = [dict(module.named_parameters(recurse=False)) for module in same]
        if not own[0]:
            continue
        if not isinstance(same[0], nn.Linear | nn.LayerNorm):
            raise TypeError(f"a head with a {type(same[0]).__name__}")
        stacked = {
            name: stacks.add([one[name] for one in own], parameter.shape, decays=parameter.ndim > 1)
            for name, parameter in own[0].items()
        }
        make = _linear if isinstance(same[0], nn.Linear) else _normed
        found.append((same[0], make(same[0], stacked)))
    return found


def _linear(layer: nn.Module, stacked: dict[str, Stack]) -> Callable[[Tensor], Tensor]:
    weight, bias = stacked["weight"], stacked.get("bias")

    def forward(x: Tensor) -> Tensor:
        members = len(weight.leaf)
        rows = x.reshape(members, -1, x.shape[-1])
        y = torch.bmm(rows, weight.leaf.transpose(1, 2))
        if bias is not None:
            y = y + bias.leaf.unsqueeze(1)
        return y.view(*x.shape[:-1], y.shape[-1])

    return forward


def _normed(layer: Any, stacked: dict[str, Stack]) -> Callable[[Tensor], Tensor]:
    weight, bias = stacked["weight"], stacked.get("bias")

    def forward(x: Tensor) -> Tensor:
        rows = x.reshape(len(weight.leaf), -1, x.shape[-1])
        y = torch.nn.functional.layer_norm(rows, rows.shape[-1:], eps=layer.eps) * weight.leaf.unsqueeze(1)
        if bias is not None:
            y = y + bias.leaf.unsqueeze(1)
        return y.view(x.shape)

    return forward
