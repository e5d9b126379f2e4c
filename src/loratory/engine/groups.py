"""Linear layers that share their input as one product, with the low-rank updates they carry.

A layer may carry an update W + s·B·A (Hu et al. 2021). A frozen weight costs no product in backward and keeps no input;
products run in the lower precision under autocast; weight gradients are fp32, on CUDA from products summed so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from loratory.engine.modules import Dropout


def kernels() -> ModuleType:
    """The CUDA kernels; Triton is there where CUDA is."""
    from loratory.engine import kernels

    return kernels


class Draws:
    """A seed on the device, drawn anew for each forward pass, from which every dropout site draws its own numbers."""

    def __init__(self, device: torch.device) -> None:
        self.seed = torch.zeros(1, dtype=torch.int64, device=device)
        self._sites = 0

    def refresh(self) -> None:
        """Draw from torch's generator of the device."""
        self.seed.random_(2**31)

    def site(self) -> int:
        """A number that no other site has."""
        self._sites += 1
        return self._sites


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

    def of(self, tensor: Tensor, *, scale: float = 1.0) -> Tensor:
        """What stands for `tensor` times `scale` in products."""
        tensor = tensor.detach()
        if tensor.dtype == self._dtype and scale == 1.0:
            return tensor
        copy = tensor.to(self._dtype, copy=True).mul_(scale)
        self._keep(tensor, copy)
        if scale != 1.0:
            self._scaled.append(copy)
            self._scales.append(scale)
        return copy

    def diagonal(self, blocks: Sequence[tuple[slice, Tensor]], rows: int) -> Tensor:
        """One matrix of `rows` rows that stands for several: each in rows and columns of its own, zeros elsewhere.

        Args:
            blocks: the rows (o,) of each matrix, and the matrix (o, r).
        """
        columns = [matrix.shape[1] for _, matrix in blocks]
        whole = blocks[0][1].new_zeros(rows, sum(columns), dtype=self._dtype)
        for (place, matrix), part in zip(blocks, torch.split(whole, columns, dim=1), strict=True):
            part[place].copy_(matrix.detach())
            self._keep(matrix.detach(), part[place])
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


def _product32(a: Tensor, b: Tensor) -> Tensor:
    """a·b in fp32: weight gradients."""
    if a.dtype == torch.float32:
        return a @ b
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=torch.float32)
    return (a @ b).float()


def _column_sums(x: Tensor) -> Tensor:
    """The sum over the rows in fp32: bias gradients."""
    return kernels().column_sums(x) if x.is_cuda else x.sum(0, dtype=torch.float32)


def _one(parameters: Sequence[Tensor]) -> Tensor:
    """The parameters' values side by side in one tensor; from now on they are views of it."""
    whole = torch.cat([parameter.detach() for parameter in parameters])
    for parameter, part in zip(parameters, torch.split(whole, [len(p) for p in parameters]), strict=True):
        parameter.data = part
    return whole


@dataclass
class _Adapter:
    """A low-rank update of the columns `out` of a group's result."""

    out: slice
    a: nn.Parameter
    b: nn.Parameter


def joins(layers: Sequence[nn.Module]) -> bool:
    """Whether linear layers can be one :class:`Group`: all trained or none, adapters of one rank, scale and dropout."""
    bases: list[Any] = [layer.base_layer if isinstance(layer, LoraLayer) else layer for layer in layers]
    adapters: list[Any] = [layer for layer in layers if isinstance(layer, LoraLayer)]
    kinds = set()
    for adapter in adapters:
        (name,) = adapter.active_adapters
        drop = getattr(adapter.lora_dropout[name], "p", 0.0)
        kinds.add((adapter.r[name], adapter.scaling[name], drop, adapter.lora_A[name].weight.requires_grad))
    return len({base.weight.requires_grad for base in bases}) == 1 and len(kinds) <= 1


class Group:
    """Linear layers that share their input, as one: x (T, I) -> (T, O), O the sum of theirs.

    Attributes:
        parameters: those that are trained, in the order in which `backward` gives their gradients.
    """

    def __init__(self, layers: Sequence[nn.Module], shadows: Shadows, draws: Draws) -> None:
        bases: list[Any] = [layer.base_layer if isinstance(layer, LoraLayer) else layer for layer in layers]
        self._stacked = [base.weight for base in bases], [base.bias for base in bases]
        weights, biases = self._stacked
        self.weight = shadows.of(_one(weights) if len(weights) > 1 else weights[0])
        self.bias = None  # as in ModernBERT
        if biases[0] is not None:
            self.bias = shadows.of(_one(biases) if len(biases) > 1 else biases[0])
        self._sizes = [len(base.weight) for base in bases]
        self.free = bool(bases[0].weight.requires_grad)
        self.adapters: list[_Adapter] = []
        self.scale, self.dropout = 1.0, 0.0
        start = 0
        for layer, size in zip(layers, self._sizes, strict=True):
            if isinstance(layer, LoraLayer):
                known: Any = layer
                (name,) = known.active_adapters
                a, b = known.lora_A[name].weight, known.lora_B[name].weight
                self.adapters.append(_Adapter(slice(start, start + size), a, b))
                self.scale, self.dropout = float(known.scaling[name]), float(getattr(known.lora_dropout[name], "p", 0))
            start += size
        self._stacked_a = [adapter.a for adapter in self.adapters]
        if self.adapters:
            self.a = shadows.of(_one(self._stacked_a), scale=self.scale)  # s·A, (r of all, I)
            self.b = shadows.diagonal([(adapter.out, adapter.b) for adapter in self.adapters], start)  # (O, r of all)
        self.rank = len(self.adapters[0].a) if self.adapters else 0
        self._draws, self._sites = draws, [draws.site() for _ in self.adapters]
        trained = [*weights, *(biases if self.bias is not None else [])] if self.free else []
        self.parameters: list[Any] = trained
        self.parameters += [p for adapter in self.adapters for p in (adapter.a, adapter.b)]

    @property
    def wants_sum(self) -> bool:
        """Whether backward needs the sum of its result's gradient: a bias is trained."""
        return self.free and self.bias is not None

    @property
    def keeps_input(self) -> bool:
        """Whether backward needs the input."""
        return self.free or bool(self.adapters)

    def restore(self) -> None:
        """Give each parameter memory of its own again."""
        for parts in (*self._stacked, self._stacked_a):
            if len(parts) > 1 and parts[0] is not None:
                for parameter in parts:
                    parameter.data = parameter.data.clone()

    def forward(self, x: Tensor, *, training: bool) -> tuple[Tensor, list[Tensor]]:
        """The result (T, O), and what backward needs beside x."""
        y = F.linear(x, self.weight, self.bias)
        if not self.adapters:
            return y, []
        drops = training and self.dropout > 0
        masks = [Dropout(self.dropout).mask(x) for _ in self.adapters] if drops and not x.is_cuda else []
        if drops:
            parts = [
                self._drop(x, number, masks) @ self.a[self._part(number)].t() for number in range(len(self.adapters))
            ]
            hidden = torch.cat(parts, dim=1)
        else:
            hidden = x @ self.a.t()  # s·x·Aᵀ of all, (T, r of all)
        y.addmm_(hidden, self.b.t())
        return y, [hidden, *masks]

    def inner(self, grad: Tensor) -> Tensor | None:
        """dy·B of all adapters, (T, r of all), which both halves of backward need; None without adapters."""
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
        for number in range(len(self.adapters)):
            part = self._part(number)
            self._drop(inner[:, part] @ self.a[part], number, kept[1:], into=result)
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
            gradients += torch.split(_product32(grad.t(), x), self._sizes)
            if self.wants_sum:
                gradients += torch.split(_column_sums(grad) if summed is None else summed, self._sizes)
        if inner is None:
            return gradients
        assert x is not None
        hidden, masks = kept[0], kept[1:]
        grads_a: list[Tensor] = []
        drops = training and self.dropout > 0
        for number, part in enumerate(self._parts(drops)):
            dropped = self._drop(x, number, masks) if drops else x
            grads_a += torch.split(_product32(inner[:, part].t(), dropped).mul_(self.scale), self.rank)
        for number, adapter in enumerate(self.adapters):
            gradients += [grads_a[number], _product32(grad[:, adapter.out].t(), hidden[:, self._part(number)])]
        return gradients

    def _part(self, number: int) -> slice:
        return slice(number * self.rank, (number + 1) * self.rank)

    def _drop(self, x: Tensor, number: int, masks: Sequence[Tensor], *, into: Tensor | None = None) -> Tensor:
        """x∘M of the adapter `number`, added to `into` where that is given. On CUDA M is drawn again, not kept."""
        if x.is_cuda:
            dropped: Tensor = kernels().drop(x, self.dropout, self._draws.seed, self._sites[number], into=into)
            return dropped
        return x * masks[number] if into is None else into.addcmul_(x, masks[number])

    def _parts(self, drops: bool) -> list[slice]:
        """All A's in one product, or, where each drops its input by a mask of its own, one after the other."""
        if drops:
            return [self._part(number) for number in range(len(self.adapters))]
        return [slice(0, self.rank * len(self.adapters))]
