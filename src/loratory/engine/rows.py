"""Whose the rows of a cohort's flat batch are, and products, sums and shifts by their owners."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from types import ModuleType

import torch
from torch import Tensor

from loratory.data.batches import Batch
from loratory.engine.groups import product32
from loratory.models.flat import ROUNDED


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
        spans: the same bounds on the host, on a CPU.
        examples: sequences of each.
        owner: (T,) int64 whose each row of the layers is, on CUDA; filler counts as the last one's.
    """

    members: int
    most: int
    bounds: Tensor
    spans: list[tuple[int, int]] = field(default_factory=list)
    examples: int = 0
    owner: Tensor | None = None
    _own: list[tuple[int, int]] = field(default_factory=list)
    _counted: int = 0

    def begin(self, batch: Batch) -> None:
        """Of a batch that holds as many sequences of each member, one member after the other; those of weight 0, behind
        a member's own, only fill it up."""
        self.examples = each = len(batch) // self.members
        self.bounds = batch.cu_seqlens[: self.members * each + 1 : each].contiguous()
        if self.bounds.is_cuda:
            rows = batch.tokens + -batch.tokens % ROUNDED
            places = torch.arange(rows, dtype=torch.int32, device=self.bounds.device)
            self.owner = torch.searchsorted(self.bounds[1:-1], places, right=True)
            return
        ends = batch.cu_seqlens.tolist()
        self.spans = list(pairwise(ends[: self.members * each + 1 : each]))
        self._counted = int(batch.weights[:each].count_nonzero())
        self._own = [(first, ends[each * member + self._counted]) for member, (first, _) in enumerate(self.spans)]

    def divided(self, rows: int) -> tuple[list[tuple[int, int]], int]:
        """Each member's own part of so many rows, on a CPU: of a batch's tokens, or of its pooled sequences; and to a
        multiple of what these would be filled up if the member were alone."""
        if rows != self.members * self.examples:
            return self._own, ROUNDED
        firsts = [self.examples * member for member in range(self.members)]
        return [(first, first + self._counted) for first in firsts], 1

    def owned(self, rows: int) -> tuple[Tensor, Tensor]:
        """Whose each of so many rows is, and where each member's begin, on CUDA."""
        assert self.owner is not None
        if rows == len(self.owner):
            return self.owner, self.bounds
        assert rows == self.members * self.examples
        each = self.examples
        bounds = torch.arange(self.members + 1, dtype=torch.int32, device=self.bounds.device) * each
        return torch.arange(rows, device=self.bounds.device) // each, bounds

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

    def shift(self, y: Tensor, bias: Tensor) -> None:
        """`y[t] += bias[m]` for each row t of member m, in place: (T, O), (K, O)."""
        if y.is_cuda:
            y.add_(self.spread(bias, len(y)))
            return
        for member, (first, last) in enumerate(self.spans):
            y[first:last] += bias[member]

    def spread(self, each: Tensor, rows: int) -> Tensor:
        """Each row's member's of (K, H), for so many rows: (T, H); on a CPU filler has zeros."""
        if each.is_cuda:
            return each.index_select(0, self.owned(rows)[0])
        whole = each.new_zeros(rows, each.shape[1])
        for member, (first, last) in enumerate(self.spans):
            whole[first:last] = each[member]
        return whole

    def sums(self, grad: Tensor) -> Tensor:
        """The sum of each member's rows, (T, O) to (K, O), in fp32."""
        if grad.is_cuda:
            shift: Tensor = member_kernels().sums(grad, self.bounds)[0]
            return shift
        return torch.stack([grad[first:last].sum(0, dtype=torch.float32) for first, last in self.spans])
