"""What the members of a cohort train, in flat memory: a row for each member, a view of all rows for each parameter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
