"""LayerNorms of a cohort's members where these train them: each row takes its member's scale and shift."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loratory.engine.draws import Draws
from loratory.engine.layers import AddNorm
from loratory.engine.rows import Rows, member_kernels
from loratory.engine.stacks import Stack, Stacks


class _Own:
    """A norm's scale and shift of K members, (K, H) each: stacks where they are trained, else the first one's; zeros
    for a shift that is not there."""

    def __init__(self, norms: Sequence[nn.LayerNorm], stacks: Stacks) -> None:
        self._norms = norms
        self._stacks = [
            stacks.add([getattr(norm, name) for norm in norms], first.shape, decays=False)
            if first is not None and first.requires_grad
            else None
            for name, first in (("weight", norms[0].weight), ("bias", norms[0].bias))
        ]

    @property
    def stacked(self) -> list[Stack]:
        """What is trained."""
        return [stack for stack in self._stacks if stack is not None]

    def leaves(self) -> tuple[Tensor, Tensor]:
        """Once the stacks have their memory."""
        scale, shift = self._norms[0].weight, self._norms[0].bias
        weight, bias = (
            whole.detach().float().expand(len(self._norms), -1).contiguous() if stack is None else stack.leaf.detach()
            for stack, whole in zip(
                self._stacks, (scale, torch.zeros_like(scale) if shift is None else shift), strict=True
            )
        )
        return weight, bias

    def given(self) -> list[Tensor]:
        """Both, as autograd is to know them."""
        return [one if stack is None else stack.leaf for stack, one in zip(self._stacks, self.leaves(), strict=True)]


class MemberNorm(AddNorm):
    """LN(residual + drop(branch)) by each member's own scale and shift, where one of them is trained."""

    def __init__(
        self, norms: Sequence[nn.LayerNorm], dropout: nn.Module | None, draws: Draws, rows: Rows, stacks: Stacks
    ) -> None:
        super().__init__(norms[0], dropout, draws)
        self._rows, self._own = rows, _Own(norms, stacks)

    def ready(self) -> None:
        """Once the stacks have their memory."""
        self._weight, self._bias = self._own.leaves()
        self.parameters = [stack.leaf for stack in self._own.stacked]

    def forward(self, branch: Tensor, residual: Tensor, *, training: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        """As of :class:`AddNorm`."""
        if branch.is_cuda:
            return self._fused(branch, residual, self._weight, self._bias, training=training)
        x, mask = self._added(branch, residual, training=training)
        y, mean, rstd = torch.zeros_like(x), *(torch.zeros(len(x), 1) for _ in range(2))
        for member, (first, last) in enumerate(self._rows.spans):
            mine = slice(first, last)
            y[mine], mean[mine], rstd[mine] = torch.native_layer_norm(
                x[mine], x.shape[-1:], self._weight[member], self._bias[member], self.norm.eps
            )
        return y, (x, mean, rstd, *mask)

    def backward(
        self, grad: Tensor, kept: Sequence[Tensor], *, training: bool, summed: bool
    ) -> tuple[Tensor, Tensor, list[Tensor], Tensor | None]:
        """As of :class:`AddNorm`; the gradients are (K, H)."""
        x, mean, rstd, *mask = kept
        if x.is_cuda:
            branch, residual, _ = self._fused_backward(
                grad, (x, mean, rstd), self._weight, training=training, weights=False, summed=False
            )
            shift, scale = member_kernels().sums(grad, self._rows.bounds, (x, mean, rstd))
            return branch, residual, self._trained([scale, shift]), None
        residual, sums = torch.zeros_like(x), [torch.zeros_like(self._weight) for _ in range(2)]
        for member, (first, last) in enumerate(self._rows.spans):
            mine = slice(first, last)
            residual[mine], sums[0][member], sums[1][member] = torch.ops.aten.native_layer_norm_backward(
                grad[mine], x[mine], x.shape[-1:], mean[mine], rstd[mine], self._weight[member], self._bias[member],
                [True, True, True],
            )  # fmt: skip
        return residual * mask[0] if mask else residual, residual, self._trained(sums), None


class _Affine(torch.autograd.Function):
    """x·w[m] + b[m] for each row of member m, in fp32: (T, H), (K, H) each."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Rows, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.rows = rows
        return rows.spread(weight, len(x)).mul_(x).add_(rows.spread(bias, len(x)))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        rows, grad = ctx.rows, gradients[0].contiguous()
        return rows.spread(weight, len(x)).mul_(grad), None, rows.sums(grad * x), rows.sums(grad)


class FreeNorm:
    """A LayerNorm outside the layers, by each member's own scale and shift."""

    def __init__(self, norms: Sequence[nn.LayerNorm], rows: Rows, stacks: Stacks) -> None:
        self.module, self._rows, self._own = norms[0], rows, _Own(norms, stacks)

    def ready(self) -> None:
        """Once the stacks have their memory."""
        self._given = self._own.given()

    def __call__(self, x: Tensor) -> Tensor:
        """(…, T, H) -> the same shape, in fp32."""
        with torch.autocast(x.device.type, enabled=False):
            normal = F.layer_norm(x.reshape(-1, x.shape[-1]).float(), x.shape[-1:], eps=self.module.eps)
            y: Tensor = _Affine.apply(normal, self._rows, *self._given)  # type: ignore[no-untyped-call]  # torch's own
        return y.view(x.shape)
