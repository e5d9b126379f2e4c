"""What the members of a cohort train, in flat memory: a row for each member, a view of all rows for each parameter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


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

    @contextmanager
    def gathering(self) -> Iterator[Tensor]:
        """Memory (K, …) for a gradient: its own, or where one stands there already, some that is added to that."""
        first = self.leaf.grad is None
        into = self.gradient if first else torch.empty_like(self.gradient)
        yield into
        if first:
            self.leaf.grad = self.gradient
        else:
            self.gradient += into


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
        """Bring all gradients into their memory where they are not there yet, and drop them where autograd has them."""
        into, found = list[Tensor](), list[Tensor]()
        for stack in self.stacks:
            grad, stack.leaf.grad = stack.leaf.grad, None
            assert grad is not None
            if grad is not stack.gradient:
                into.append(stack.gradient)
                found.append(grad)
        if into:
            torch._foreach_copy_(into, found)

    def restore(self) -> None:
        """Give each member's parameters memory of their own again."""
        for stack in self.stacks:
            for parameter in stack.parameters:
                if parameter is not None:
                    parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)


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
        rows = x.reshape(len(weight.leaf), -1, x.shape[-1])
        leaves = (weight.leaf,) if bias is None else (weight.leaf, bias.leaf)
        y: Tensor = _Products.apply(rows, weight, bias, *leaves)  # type: ignore[no-untyped-call]  # torch's own
        return y.view(*x.shape[:-1], y.shape[-1])

    return forward


class _Products(torch.autograd.Function):
    """Each member's rows by its own linear layer, in the precision that autocast asks for; gradients of weights and
    biases go straight into their memory, in fp32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Stack, bias: Stack | None, *leaves: Tensor) -> Tensor:
        """(K, B, I) to (K, B, O)."""
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        x, each = x.to(dtype), leaves[0].to(dtype)
        ctx.save_for_backward(x, each)
        ctx.stacks, ctx.wanted = (weight, bias), ctx.needs_input_grad[0]
        if bias is None:
            return torch.bmm(x, each.transpose(1, 2))
        return torch.baddbmm(leaves[1].to(dtype).unsqueeze(1), x, each.transpose(1, 2))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Autograd is given those of `x` alone."""
        x, each = ctx.saved_tensors
        weight, bias = ctx.stacks
        grad = gradients[0].to(x.dtype)
        with weight.gathering() as into:
            _products32(grad.transpose(1, 2), x, into)
        if bias is not None:
            with bias.gathering() as into:
                torch.sum(grad, 1, dtype=torch.float32, out=into)
        return (torch.bmm(grad, each) if ctx.wanted else None), None, None, *[None for one in ctx.stacks if one]


def _products32(a: Tensor, b: Tensor, into: Tensor) -> None:
    """Each member's a·b, (K, P, B) by (K, B, Q), into (K, P, Q) in fp32."""
    if a.dtype == torch.float32:
        torch.bmm(a, b, out=into)
    elif a.is_cuda:
        torch.bmm(a, b, out_dtype=torch.float32, out=into)
    else:
        into.copy_(torch.bmm(a, b))


def _normed(layer: Any, stacked: dict[str, Stack]) -> Callable[[Tensor], Tensor]:
    weight, bias = stacked["weight"], stacked.get("bias")

    def forward(x: Tensor) -> Tensor:
        rows = x.reshape(len(weight.leaf), -1, x.shape[-1])
        y = torch.nn.functional.layer_norm(rows, rows.shape[-1:], eps=layer.eps) * weight.leaf.unsqueeze(1)
        if bias is not None:
            y = y + bias.leaf.unsqueeze(1)
        return y.view(x.shape)

    return forward
