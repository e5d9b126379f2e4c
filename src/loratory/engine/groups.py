"""Linear layers that share their input as one product, with the low-rank updates they carry.

A layer may carry an update W + s·B·A (Hu et al. 2021); on CUDA zeros fill the rank of A and B to a multiple of 8. A
frozen weight costs no product in backward and keeps no input, also where its bias is trained; products run in the lower
precision under autocast; weight gradients are fp32, on CUDA from products summed so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from loratory.engine.draws import Draws, kernels


class Shadows:
    """Copies of trained fp32 weights in the precision of products, made once a step and all together.

    Attributes:
        copies: all of them.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._originals: list[Tensor] = []
        self.copies: list[Tensor] = []
        self._scaled: list[Tensor] = []
        self._scales: list[float] = []

    def of(self, tensor: Tensor) -> Tensor:
        """What stands for `tensor` in products."""
        tensor = tensor.detach()
        if tensor.dtype == self._dtype:
            return tensor
        copy = tensor.to(self._dtype)
        self._keep(tensor, copy)
        return copy

    def blocks(self, blocks: Sequence[tuple[slice, slice, Tensor, float]], rows: int, columns: int) -> Tensor:
        """One matrix (rows, columns) that stands for several: each in a place of its own, zeros elsewhere.

        Args:
            blocks: the rows and columns of each matrix, the matrix, and what it is multiplied by.
        """
        whole = blocks[0][2].new_zeros(rows, columns, dtype=self._dtype)
        for place, across, matrix, scale in blocks:
            part = whole[place, across]
            part.copy_(matrix.detach()).mul_(scale)
            self._keep(matrix.detach(), part)
            if scale != 1.0:
                self._scaled.append(part)
                self._scales.append(scale)
        return whole

    def _keep(self, original: Tensor, copy: Tensor) -> None:
        self._originals.append(original)
        self.copies.append(copy)

    def refresh(self) -> None:
        """Copy what the optimizer changed."""
        if self.copies:
            torch._foreach_copy_(self.copies, self._originals)
        if self._scaled:
            torch._foreach_mul_(self._scaled, self._scales)


def product32(a: Tensor, b: Tensor) -> Tensor:
    """a·b in fp32: weight gradients."""
    if a.dtype == torch.float32:
        return a @ b
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=torch.float32)
    return (a @ b).float()


def _column_sums(x: Tensor) -> Tensor:
    """The sum over the rows in fp32: bias gradients."""
    return kernels().column_sums(x) if x.is_cuda else x.sum(0, dtype=torch.float32)


def _one(parameters: Sequence[Tensor], rows: Sequence[int] | None = None) -> Tensor:
    """The parameters' values one below the other in one tensor, of the widest of their types; from now on they are
    views of it.

    Args:
        rows: how many each has there, zeros below its own; by default as many as it has.
    """
    rows = rows or [len(parameter) for parameter in parameters]
    first = parameters[0].detach()
    kind = reduce(torch.promote_types, (parameter.dtype for parameter in parameters))
    whole = first.new_zeros(sum(rows), *first.shape[1:], dtype=kind)
    for parameter, part in zip(parameters, torch.split(whole, list(rows)), strict=True):
        parameter.data = part[: len(parameter)].copy_(parameter.detach())
    return whole


def _multiple(device: torch.device) -> int:
    """Ranks are filled to a multiple of it. Tensor cores are most efficient where rows begin at multiples of 16 bytes,
    8 numbers in bf16 (NVIDIA, "Matrix Multiplication Background User's Guide"); a CPU has nothing to gain."""
    return 8 if device.type == "cuda" else 1


@dataclass
class _Adapter:
    """A low-rank update of the columns `out` of a group's result; `part` are its rows of all A's, of which the first
    `rank` are its own and the rest zeros."""

    out: slice
    part: slice
    rank: int
    a: nn.Parameter
    b: nn.Parameter
    scale: float
    site: int
    """Where its input's mask is drawn: of its layer, whichever others have updates."""


def joins(layers: Sequence[nn.Module]) -> bool:
    """Whether linear layers can be one :class:`Group`: weights all trained or none, adapters of one dropout."""
    bases: list[Any] = [layer.base_layer if isinstance(layer, LoraLayer) else layer for layer in layers]
    adapters: list[Any] = [layer for layer in layers if isinstance(layer, LoraLayer)]
    kinds = set()
    for adapter in adapters:
        (name,) = adapter.active_adapters
        drop = getattr(adapter.lora_dropout[name], "p", 0.0)
        kinds.add((drop, adapter.lora_A[name].weight.requires_grad))
    return len({base.weight.requires_grad for base in bases}) == 1 and len(kinds) <= 1


class Group:
    """Linear layers that share their input, as one: x (T, I) -> (T, O), O the sum of theirs.

    Attributes:
        parameters: those that are trained, in the order in which `backward` gives their gradients.
    """

    def __init__(self, layers: Sequence[nn.Module], shadows: Shadows, draws: Draws) -> None:
        bases: list[Any] = [layer.base_layer if isinstance(layer, LoraLayer) else layer for layer in layers]
        weights, biases = [base.weight for base in bases], [base.bias for base in bases]
        self._joint = [(one, one.dtype) for one in (*weights, *biases) if one is not None and len(bases) > 1]
        self.weight = shadows.of(_one(weights) if len(weights) > 1 else weights[0])
        self.bias = None  # as in ModernBERT
        if biases[0] is not None:
            self.bias = shadows.of(_one(biases) if len(biases) > 1 else biases[0])
        self._sizes = [len(base.weight) for base in bases]
        self.free = bool(bases[0].weight.requires_grad)
        self.free_biases = [base.bias is not None and bool(base.bias.requires_grad) for base in bases]
        self.adapters: list[_Adapter] = []
        self.dropout = 0.0
        start = row = 0
        multiple = _multiple(self.weight.device)
        self._draws, self.sites = draws, [draws.site() for _ in layers]
        for layer, size, site in zip(layers, self._sizes, self.sites, strict=True):
            if isinstance(layer, LoraLayer):
                known: Any = layer
                (name,) = known.active_adapters
                a, b = known.lora_A[name].weight, known.lora_B[name].weight
                rank, rows = len(a), -(-len(a) // multiple) * multiple
                place, part = slice(start, start + size), slice(row, row + rows)
                self.adapters.append(_Adapter(place, part, rank, a, b, float(known.scaling[name]), site))
                self.dropout = float(getattr(known.lora_dropout[name], "p", 0))
                row += rows
            start += size
        self._rows = [one.part.stop - one.part.start for one in self.adapters]
        self._stacked_a = [adapter.a for adapter in self.adapters]
        if self.adapters:
            self.a = shadows.of(_one(self._stacked_a, self._rows))  # (r of all, I)
            own = [slice(one.part.start, one.part.start + one.rank) for one in self.adapters]
            blocks = [(one.out, columns, one.b, one.scale) for one, columns in zip(self.adapters, own, strict=True)]
            self.b = shadows.blocks(blocks, start, row)  # s·B, (O, r of all)
        self.parameters: list[Any] = [*weights] if self.free else []
        self.parameters += [bias for bias, free in zip(biases, self.free_biases, strict=True) if free]
        self.parameters += [p for adapter in self.adapters for p in (adapter.a, adapter.b)]

    @property
    def wants_sum(self) -> bool:
        """Whether backward needs the sum of its result's gradient: a bias is trained."""
        return any(self.free_biases)

    @property
    def keeps_input(self) -> bool:
        """Whether backward needs the input."""
        return self.free or bool(self.adapters)

    def restore(self) -> None:
        """Give each parameter memory of its own again."""
        for parameter, kind in self._joint:
            parameter.data = parameter.data.to(kind, copy=True)
        for parameter in self._stacked_a:
            parameter.data = parameter.data.clone()

    def forward(self, x: Tensor, *, training: bool) -> tuple[Tensor, list[Tensor]]:
        """The result (T, O), and what backward needs beside x."""
        y = F.linear(x, self.weight, self.bias)
        if not self.adapters:
            return y, []
        drops = training and self.dropout > 0
        masks = [self._draws.mask(x, self.dropout) for _ in self.adapters] if drops and not x.is_cuda else []
        if drops:
            parts = [self._drop(x, number, masks) @ self.a[one.part].t() for number, one in enumerate(self.adapters)]
            hidden = torch.cat(parts, dim=1)
        else:
            hidden = x @ self.a.t()  # x·Aᵀ of all, (T, r of all)
        y.addmm_(hidden, self.b.t())
        return y, [hidden, *masks]

    def inner(self, grad: Tensor) -> Tensor | None:
        """s·dy·B of all adapters, (T, r of all), which both halves of backward need; None without adapters."""
        return grad @ self.b if self.adapters else None

    def backward(
        self,
        grad: Tensor,
        inner: Tensor | None,
        kept: Sequence[Tensor],
        *,
        training: bool,
        into: Tensor | None = None,
    ) -> Tensor:
        """The input's gradient (T, I).

        Args:
            inner: of `grad`.
            into: a gradient to which it is added, in place.
        """
        result = grad @ self.weight if into is None else into.addmm_(grad, self.weight)
        if inner is None:
            return result
        if not (training and self.dropout > 0):
            return result.addmm_(inner, self.a)
        for number, one in enumerate(self.adapters):
            self._drop(inner[:, one.part] @ self.a[one.part], number, kept[1:], into=result)
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
        """Those of `parameters`, in fp32.

        Args:
            inner: of `grad`.
            x: the input, where :attr:`keeps_input`.
            summed: the sum of `grad` over T in fp32 (O,), where whoever made it has it.
        """
        gradients: list[Tensor] = []
        if self.free:
            assert x is not None
            gradients += torch.split(product32(grad.t(), x), self._sizes)
        if self.wants_sum:
            of_biases = torch.split(_column_sums(grad) if summed is None else summed, self._sizes)
            gradients += [one for one, free in zip(of_biases, self.free_biases, strict=True) if free]
        if inner is None:
            return gradients
        assert x is not None
        hidden, masks = kept[0], kept[1:]
        if training and self.dropout > 0:  # each drops its input by a mask of its own
            grads_a = [
                product32(inner[:, one.part].t(), self._drop(x, number, masks))
                for number, one in enumerate(self.adapters)
            ]
        else:
            grads_a = list(torch.split(product32(inner.t(), x), self._rows))
        for of_a, one in zip(grads_a, self.adapters, strict=True):
            of_b = product32(grad[:, one.out].t(), hidden[:, one.part])
            gradients += [of_a[: one.rank], of_b[:, : one.rank].mul_(one.scale)]
        return gradients

    def _drop(self, x: Tensor, number: int, masks: Sequence[Tensor], *, into: Tensor | None = None) -> Tensor:
        """x∘M of the adapter `number`, added to `into` where that is given. On CUDA M is drawn again, not kept."""
        if x.is_cuda:
            return self._draws.drop(x, self.dropout, self.adapters[number].site, into=into)
        return x * masks[number] if into is None else into.addcmul_(x, masks[number])
