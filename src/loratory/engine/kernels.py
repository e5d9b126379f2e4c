# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call, attr-defined"
# (Triton's kernels are its own language: their arguments have no Python types.)
"""LayerNorm of a residual and a dropped-out branch, and dropout alone, as Triton kernels for CUDA.

    x = residual + h∘M,   y = (x - mean)·rstd·w + b          M: dropout's mask over its keeping probability

The mask is drawn from a seed on the device and a site number, and drawn again in backward: it is never stored, and a
captured graph draws new numbers at each replay because the seed is drawn on the device too. Of a cohort each member has
a seed, and draws what it would draw alone.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from loratory.engine.draws import Seeds

_ROUNDS = 7
"""Of Philox4x32: seven pass every test of randomness that Salmon et al. (2011, table 2) put it to."""


@triton.jit
def _kept(
    SEEDS, OWNER, BOUNDS, DROPOUTS, site, rows, count, dropout,
    MANY: tl.constexpr, EACH: tl.constexpr, ROUNDS: tl.constexpr, R: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """(R, N) mask of `rows` over its keeping probability: four numbers a Philox call. Of `MANY` members each row has
    its member's seed, and is counted from that one's first; where `EACH` has a dropout of its own, that too."""
    if MANY:
        member = tl.load(OWNER + rows, mask=rows < count, other=0)
        seed = (tl.load(SEEDS + member) * 4096 + site)[:, None]
        rows -= tl.load(BOUNDS + member)
        if EACH:
            dropout = tl.load(DROPOUTS + member)[:, None]
    else:
        seed = tl.load(SEEDS) * 4096 + site
    places = rows.to(tl.int32)[:, None] * (N // 4) + tl.arange(0, N // 4)[None, :]
    a, b, c, d = tl.randint4x(seed, places, ROUNDS)
    draws = tl.reshape(tl.join(tl.join(a, b), tl.join(c, d)), (R, N))
    return tl.where(tl.uint_to_uniform_float(draws) >= dropout, 1.0 / (1.0 - dropout), 0.0)


@triton.jit
def _weights(W, OWNER, rows, count, columns, width, w_member, OWN: tl.constexpr):
    """One row for all `rows`; or, of (K, H), where members have their `OWN`, each row's member's."""
    if OWN:
        member = tl.load(OWNER + rows, mask=rows < count, other=0)
        place = member[:, None] * w_member + columns[None, :]
    else:
        place = columns[None, :]
    return tl.load(W + place, mask=columns[None, :] < width, other=0.0).to(tl.float32)


@triton.jit
def _norm_forward(
    H, R, W, B, Y, X, MEAN, RSTD, SEEDS, OWNER, BOUNDS, site, count, width, w_member, b_member, eps, dropout,
    DROP: tl.constexpr, MANY: tl.constexpr, OWN: tl.constexpr, ROUNDS: tl.constexpr, ROWS: tl.constexpr,
    N: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, N)
    inside = (rows < count)[:, None] & (columns < width)[None, :]
    place = rows[:, None] * width + columns[None, :]
    h = tl.load(H + place, mask=inside, other=0.0).to(tl.float32)
    if DROP:
        h *= _kept(SEEDS, OWNER, BOUNDS, SEEDS, site, rows, count, dropout, MANY, False, ROUNDS, ROWS, N)
    x = h + tl.load(R + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(X + place, x.to(X.dtype.element_ty), mask=inside)
    mean = tl.sum(x, 1) / width
    centred = tl.where(inside, x - mean[:, None], 0.0)
    rstd = tl.rsqrt(tl.sum(centred * centred, 1) / width + eps)
    tl.store(MEAN + rows, mean, mask=rows < count)
    tl.store(RSTD + rows, rstd, mask=rows < count)
    w = _weights(W, OWNER, rows, count, columns, width, w_member, OWN)
    b = _weights(B, OWNER, rows, count, columns, width, b_member, OWN)
    y = centred * rstd[:, None] * w + b
    tl.store(Y + place, y.to(Y.dtype.element_ty), mask=inside)


@triton.jit
def _norm_backward(
    G, X, W, MEAN, RSTD, DR, DH, SUMS, SEEDS, OWNER, BOUNDS, site, count, width, w_member, dropout,
    EACH: tl.constexpr, DROP: tl.constexpr, WEIGHTS: tl.constexpr, BRANCH: tl.constexpr, MANY: tl.constexpr,
    OWN: tl.constexpr, ROUNDS: tl.constexpr, ROWS: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    columns = tl.arange(0, N)
    if not OWN:
        w = _weights(W, OWNER, columns, count, columns, width, w_member, OWN)
    grad_w = tl.zeros((ROWS, N), tl.float32)
    grad_b = tl.zeros((ROWS, N), tl.float32)
    grad_h = tl.zeros((ROWS, N), tl.float32)
    for number in range(EACH):
        rows = (program * EACH + number).to(tl.int64) * ROWS + tl.arange(0, ROWS)
        there = (rows < count)[:, None] & (columns < width)[None, :]
        place = rows[:, None] * width + columns[None, :]
        x = tl.load(X + place, mask=there, other=0.0).to(tl.float32)
        g = tl.load(G + place, mask=there, other=0.0).to(tl.float32)
        mean = tl.load(MEAN + rows, mask=rows < count, other=0.0)
        rstd = tl.load(RSTD + rows, mask=rows < count, other=0.0)
        normal = tl.where(there, (x - mean[:, None]) * rstd[:, None], 0.0)
        if WEIGHTS:
            grad_w += g * normal
            grad_b += g
        if OWN:
            w = _weights(W, OWNER, rows, count, columns, width, w_member, OWN)
        g *= w
        down = tl.sum(g, 1) / width
        along = tl.sum(g * normal, 1) / width
        dx = tl.where(there, rstd[:, None] * (g - down[:, None] - normal * along[:, None]), 0.0)
        tl.store(DR + place, dx.to(DR.dtype.element_ty), mask=there)
        if DROP:
            dx *= _kept(SEEDS, OWNER, BOUNDS, SEEDS, site, rows, count, dropout, MANY, False, ROUNDS, ROWS, N)
            tl.store(DH + place, dx.to(DH.dtype.element_ty), mask=there)
        if BRANCH:
            grad_h += dx
    sums = SUMS + program * width + columns
    stride = tl.num_programs(0) * width
    if WEIGHTS:
        tl.store(sums, tl.sum(grad_w, 0), mask=columns < width)
        tl.store(sums + stride, tl.sum(grad_b, 0), mask=columns < width)
    if BRANCH:
        tl.store(sums + (2 * stride if WEIGHTS else 0), tl.sum(grad_h, 0), mask=columns < width)


@triton.jit
def _dropped(
    X, Y, SEEDS, OWNER, BOUNDS, DROPOUTS, site, count, width, dropout,
    ADD: tl.constexpr, MANY: tl.constexpr, EACH: tl.constexpr, ROUNDS: tl.constexpr, ROWS: tl.constexpr,
    N: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, N)
    inside = (rows < count)[:, None] & (columns < width)[None, :]
    place = rows[:, None] * width + columns[None, :]
    y = tl.load(X + place, mask=inside, other=0.0).to(tl.float32)
    y *= _kept(SEEDS, OWNER, BOUNDS, DROPOUTS, site, rows, count, dropout, MANY, EACH, ROUNDS, ROWS, N)
    if ADD:
        y += tl.load(Y + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(Y + place, y.to(Y.dtype.element_ty), mask=inside)


@triton.jit
def _gelu_backward(
    G, X, DX, Y, SUMS, count, width,
    EACH: tl.constexpr, ACTIVE: tl.constexpr, SUM: tl.constexpr, ROWS: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    columns = tl.program_id(0) * N + tl.arange(0, N)
    summed = tl.zeros((ROWS, N), tl.float32)
    for number in range(EACH):
        rows = (tl.program_id(1) * EACH + number).to(tl.int64) * ROWS + tl.arange(0, ROWS)
        there = (rows < count)[:, None] & (columns < width)[None, :]
        place = rows[:, None] * width + columns[None, :]
        x = tl.load(X + place, mask=there, other=0.0).to(tl.float32)
        g = tl.load(G + place, mask=there, other=0.0).to(tl.float32)
        below = 0.5 + 0.5 * tl.erf(x * 0.7071067811865476)  # Φ(x)
        if ACTIVE:
            tl.store(Y + place, (x * below).to(Y.dtype.element_ty), mask=there)
        g *= below + x * tl.exp(-0.5 * x * x) * 0.3989422804014327  # 1/√(2π)
        tl.store(DX + place, g.to(DX.dtype.element_ty), mask=there)
        if SUM:
            summed += g
    if SUM:
        tl.store(SUMS + tl.program_id(1) * width + columns, tl.sum(summed, 0), mask=columns < width)


@triton.jit
def _column_sums(
    G, SUMS, count, width, EACH: tl.constexpr, ROWS: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    columns = tl.program_id(0) * N + tl.arange(0, N)
    summed = tl.zeros((ROWS, N), tl.float32)
    for number in range(EACH):
        rows = (tl.program_id(1) * EACH + number).to(tl.int64) * ROWS + tl.arange(0, ROWS)
        there = (rows < count)[:, None] & (columns < width)[None, :]
        summed += tl.load(G + rows[:, None] * width + columns[None, :], mask=there, other=0.0).to(tl.float32)
    tl.store(SUMS + tl.program_id(1) * width + columns, tl.sum(summed, 0), mask=columns < width)


def drop(x: Tensor, dropout: float | Tensor, seeds: Seeds, site: int, *, into: Tensor | None = None) -> Tensor:
    """x∘M, (T, H), or `into` with that added to it in place.

    Args:
        dropout: of a cohort it may be each member's own, (K,) fp32 on the device.
    """
    count, width = x.shape
    each = isinstance(dropout, Tensor)
    y = torch.empty_like(x) if into is None else into
    columns, warps = _tile(width)
    _dropped[(count,)](
        x, y, *_pointers(seeds), dropout if each else seeds.seed, site, count, width, 0.0 if each else dropout,
        ADD=into is not None, MANY=seeds.owner is not None, EACH=each, ROUNDS=_ROUNDS, ROWS=1, N=columns,
        num_warps=warps,
    )  # fmt: skip
    return y


def _pointers(seeds: Seeds) -> tuple[Tensor, Tensor, Tensor]:
    """A kernel's arguments; what is not there is not read."""
    seed, owner, bounds = seeds
    return seed, seed if owner is None else owner, seed if bounds is None else bounds


def _tile(width: int) -> tuple[int, int]:
    """Columns of a tile, and warps."""
    columns = max(128, int(triton.next_power_of_2(width)))
    return columns, min(8, max(1, columns // 256))


def add_norm(
    branch: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float, dropout: float, seeds: Seeds, site: int
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """LayerNorm(residual + dropout(branch)), (T, H) each, and what backward needs.

    Args:
        weight, bias: (H,); of a cohort whose members have their own, (K, H), rows contiguous.
    """
    count, width = branch.shape
    y, x = torch.empty_like(branch), torch.empty_like(branch)
    mean, rstd = (torch.empty(count, dtype=torch.float32, device=branch.device) for _ in range(2))
    columns, warps = _tile(width)
    _norm_forward[(count,)](
        branch, residual, weight, bias, y, x, mean, rstd, *_pointers(seeds), site, count, width, weight.stride(0),
        bias.stride(0), eps, dropout,
        DROP=dropout > 0, MANY=seeds.owner is not None, OWN=weight.ndim > 1, ROUNDS=_ROUNDS, ROWS=1, N=columns,
        num_warps=warps,
    )  # fmt: skip
    return y, (x, mean, rstd)


def add_norm_backward(
    grad: Tensor, kept: tuple[Tensor, Tensor, Tensor], weight: Tensor, dropout: float, seeds: Seeds, site: int, *,
    weights: bool, summed: bool = False,
) -> tuple[Tensor, Tensor, list[Tensor]]:  # fmt: skip
    """The gradients of branch and residual (T, H), and sums over T in fp32, (H,) each.

    Args:
        weights: whether the gradients of weight and bias are among the sums.
        summed: whether the sum of the branch's gradient is, after those.
    """
    x, mean, rstd = kept
    count, width = x.shape
    columns, warps = _tile(width)
    kinds = 2 * weights + summed
    rows = 4 if kinds else 1
    each = _each(count, rows, programs=2, device=x.device) if kinds else 1
    programs = triton.cdiv(count, each * rows)
    grad_residual = torch.empty_like(x)
    grad_branch = torch.empty_like(x) if dropout > 0 else grad_residual
    sums = torch.empty(kinds, programs, width, dtype=torch.float32, device=x.device) if kinds else mean
    _norm_backward[(programs,)](
        grad, x, weight, mean, rstd, grad_residual, grad_branch, sums, *_pointers(seeds), site, count, width,
        weight.stride(0), dropout,
        EACH=each, DROP=dropout > 0, WEIGHTS=weights, BRANCH=summed, MANY=seeds.owner is not None,
        OWN=weight.ndim > 1, ROUNDS=_ROUNDS, ROWS=rows, N=columns, num_warps=warps,
    )  # fmt: skip
    return grad_branch, grad_residual, list(sums.sum(1)) if kinds else []


def gelu_backward(
    grad: Tensor, inner: Tensor, *, active: bool, summed: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The gradient of the exact GELU's input (T, I), and where asked for: GELU's result again (T, I), and the sum of
    that gradient over T in fp32 (I,)."""
    count, width = inner.shape
    rows, columns = 16, 128
    across = triton.cdiv(width, columns)
    each = _each(count * across, rows, programs=4, device=inner.device) if summed else 1
    programs = triton.cdiv(count, rows * each)
    result = torch.empty_like(inner)
    again = torch.empty_like(inner) if active else None
    sums = torch.empty(programs, width, dtype=torch.float32, device=inner.device) if summed else None
    _gelu_backward[(across, programs)](
        grad, inner, result, again, sums, count, width,
        EACH=each, ACTIVE=active, SUM=summed, ROWS=rows, N=columns, num_warps=8,
    )  # fmt: skip
    return result, again, None if sums is None else sums.sum(0)


def column_sums(x: Tensor) -> Tensor:
    """The sum of (T, H) over T in fp32, (H,)."""
    count, width = x.shape
    rows, columns = 64, 64
    across = triton.cdiv(width, columns)
    each = _each(count * across, rows, programs=2, device=x.device)
    programs = triton.cdiv(count, rows * each)
    sums = torch.empty(programs, width, dtype=torch.float32, device=x.device)
    _column_sums[(across, programs)](x, sums, count, width, EACH=each, ROWS=rows, N=columns, num_warps=8)
    return sums.sum(0)


def _each(count: int, rows: int, *, programs: int, device: torch.device) -> int:
    """Tiles of `rows` rows for each program, where `programs` of them a processor share `count` rows; a power of 2."""
    processors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
    return int(triton.next_power_of_2(max(1, round(count / (rows * programs * processors)))))
