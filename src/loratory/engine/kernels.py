# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call, attr-defined"
# (Triton's kernels are its own language: their arguments have no Python types.)
"""LayerNorm of a residual and a dropped-out branch, and dropout alone, as Triton kernels for CUDA.

    x = residual + h∘M,   y = (x - mean)·rstd·w + b          M: dropout's mask over its keeping probability

The mask is drawn from a seed on the device and a site number, and drawn again in backward: it is never stored, and a
captured graph draws new numbers at each replay because the seed is drawn on the device too.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROUNDS = 7
"""Of Philox4x32: seven pass every test of randomness that Salmon et al. (2011, table 2) put it to."""


@triton.jit
def _kept(seeds, site, row, dropout, ROUNDS: tl.constexpr, N: tl.constexpr):
    """(N,) mask over its keeping probability: four numbers a Philox call."""
    seed = tl.load(seeds) * 4096 + site
    a, b, c, d = tl.randint4x(seed, row * (N // 4) + tl.arange(0, N // 4), ROUNDS)
    draws = tl.reshape(tl.join(tl.join(a, b), tl.join(c, d)), (N,))
    return tl.where(tl.uint_to_uniform_float(draws) >= dropout, 1.0 / (1.0 - dropout), 0.0)


@triton.jit
def _forward(
    H, R, W, B, Y, X, MEAN, RSTD, seeds, site, width, eps, dropout,
    DROP: tl.constexpr, ROUNDS: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, N)
    inside = columns < width
    place = row * width + columns
    h = tl.load(H + place, mask=inside, other=0.0).to(tl.float32)
    if DROP:
        h *= _kept(seeds, site, row, dropout, ROUNDS, N)
    x = h + tl.load(R + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(X + place, x.to(X.dtype.element_ty), mask=inside)
    mean = tl.sum(x, 0) / width
    centred = tl.where(inside, x - mean, 0.0)
    rstd = tl.rsqrt(tl.sum(centred * centred, 0) / width + eps)
    tl.store(MEAN + row, mean)
    tl.store(RSTD + row, rstd)
    w = tl.load(W + columns, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(B + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(Y + place, (centred * rstd * w + b).to(Y.dtype.element_ty), mask=inside)


@triton.jit
def _backward(
    G, X, W, MEAN, RSTD, DR, DH, PW, PB, seeds, site, rows, width, dropout,
    EACH: tl.constexpr, DROP: tl.constexpr, WEIGHTS: tl.constexpr, ROUNDS: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    columns = tl.arange(0, N)
    inside = columns < width
    w = tl.load(W + columns, mask=inside, other=0.0).to(tl.float32)
    grad_w = tl.zeros((N,), tl.float32)
    grad_b = tl.zeros((N,), tl.float32)
    for number in range(EACH):
        row = (program * EACH + number).to(tl.int64)
        there = inside & (row < rows)
        place = row * width + columns
        x = tl.load(X + place, mask=there, other=0.0).to(tl.float32)
        g = tl.load(G + place, mask=there, other=0.0).to(tl.float32)
        mean = tl.load(MEAN + row, mask=row < rows, other=0.0)
        rstd = tl.load(RSTD + row, mask=row < rows, other=0.0)
        normal = tl.where(there, (x - mean) * rstd, 0.0)
        if WEIGHTS:
            grad_w += g * normal
            grad_b += g
        g *= w
        dx = rstd * (g - tl.sum(g, 0) / width - normal * (tl.sum(g * normal, 0) / width))
        tl.store(DR + place, dx.to(DR.dtype.element_ty), mask=there)
        if DROP:
            dx *= _kept(seeds, site, row, dropout, ROUNDS, N)
            tl.store(DH + place, dx.to(DH.dtype.element_ty), mask=there)
    if WEIGHTS:
        tl.store(PW + program * width + columns, grad_w, mask=inside)
        tl.store(PB + program * width + columns, grad_b, mask=inside)


@triton.jit
def _dropped(X, Y, seeds, site, width, dropout, ADD: tl.constexpr, ROUNDS: tl.constexpr, N: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, N)
    inside = columns < width
    place = row * width + columns
    y = tl.load(X + place, mask=inside, other=0.0).to(tl.float32) * _kept(seeds, site, row, dropout, ROUNDS, N)
    if ADD:
        y += tl.load(Y + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(Y + place, y.to(Y.dtype.element_ty), mask=inside)


def drop(x: Tensor, dropout: float, seed: Tensor, site: int, *, into: Tensor | None = None) -> Tensor:
    """x∘M, (T, H), or `into` with that added to it in place."""
    rows, width = x.shape
    y = torch.empty_like(x) if into is None else into
    columns, warps = _tile(width)
    _dropped[(rows,)](
        x, y, seed, site, width, dropout, ADD=into is not None, ROUNDS=_ROUNDS, N=columns, num_warps=warps
    )
    return y


def _tile(width: int) -> tuple[int, int]:
    """Columns of a tile, and warps."""
    columns = max(128, int(triton.next_power_of_2(width)))
    return columns, min(8, max(1, columns // 256))


def add_norm(
    branch: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float, dropout: float, seed: Tensor, site: int
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """LayerNorm(residual + dropout(branch)), (T, H) each, and what backward needs."""
    rows, width = branch.shape
    y, x = torch.empty_like(branch), torch.empty_like(branch)
    mean, rstd = (torch.empty(rows, dtype=torch.float32, device=branch.device) for _ in range(2))
    columns, warps = _tile(width)
    _forward[(rows,)](
        branch, residual, weight, bias, y, x, mean, rstd, seed, site, width, eps, dropout,
        DROP=dropout > 0, ROUNDS=_ROUNDS, N=columns, num_warps=warps,
    )  # fmt: skip
    return y, (x, mean, rstd)


def add_norm_backward(
    grad: Tensor, kept: tuple[Tensor, Tensor, Tensor], weight: Tensor, dropout: float, seed: Tensor, site: int, *,
    weights: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:  # fmt: skip
    """The gradients of branch and residual (T, H), and of weight and bias (H,) where `weights` asks for them."""
    x, mean, rstd = kept
    rows, width = x.shape
    columns, warps = _tile(width)
    each = 1  # rows a program; more where each sums its rows' gradients of the weights
    if weights:
        programs = 4 * torch.cuda.get_device_properties(x.device).multi_processor_count
        each = int(triton.next_power_of_2(-(-rows // programs)))
    programs = -(-rows // each)
    grad_residual = torch.empty_like(x)
    grad_branch = torch.empty_like(x) if dropout > 0 else grad_residual
    partial = torch.empty(2, programs if weights else 1, width, dtype=torch.float32, device=x.device)
    _backward[(programs,)](
        grad, x, weight, mean, rstd, grad_residual, grad_branch, partial[0], partial[1], seed, site, rows, width,
        dropout, EACH=each, DROP=dropout > 0, WEIGHTS=weights, ROUNDS=_ROUNDS, N=columns, num_warps=warps,
    )  # fmt: skip
    if not weights:
        return grad_branch, grad_residual, None, None
    grad_weight, grad_bias = partial.sum(1)
    return grad_branch, grad_residual, grad_weight, grad_bias
