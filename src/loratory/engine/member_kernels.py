# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call, attr-defined"
# (Triton's kernels are its own language: their arguments have no Python types.)
"""Products of a cohort's adapters as Triton kernels for CUDA: of each row with its own member's matrix.

A member's rows stand together; where each one's begin is a tensor on the device, so that a captured graph serves
batches that are divided otherwise. No row of one member is ever multiplied into another's result, not even by zero: a
member whose numbers are not finite leaves no trace in the others.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS = 64
"""Of a tile."""


@triton.jit
def _rows_times(
    found, X, W, rows, there, across, inside, x_row, w_column, w_along,
    PRECISION: tl.constexpr, WIDTH: tl.constexpr, ALONG: tl.constexpr,
):  # fmt: skip
    """`found` and, added to it, the products of the rows of X that are `there` with the columns `inside` of W."""
    along = tl.arange(0, ALONG)
    for begin in range(0, WIDTH, ALONG):
        known = begin + along < WIDTH
        x_place = X + rows[:, None] * x_row + (begin + along)[None, :]
        w_place = W + across[None, :] * w_column + (begin + along)[:, None] * w_along
        x = tl.load(x_place, mask=there[:, None] & known[None, :], other=0.0)
        w = tl.load(w_place, mask=inside[None, :] & known[:, None], other=0.0)
        found = tl.dot(x, w, found, input_precision=PRECISION)
    return found


@triton.jit
def _narrow(
    X, W, S, Y, BOUNDS, columns, x_row, w_member, w_column, w_along, y_row,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, ALONG: tl.constexpr,
):  # fmt: skip
    member = tl.program_id(1)
    first = tl.load(BOUNDS + member).to(tl.int64) + tl.program_id(0) * ROWS
    last = tl.load(BOUNDS + member + 1).to(tl.int64)
    if first >= last:
        return
    rows, across = first + tl.arange(0, ROWS), tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    there, inside = rows < last, across < columns
    found = _rows_times(
        tl.zeros((ROWS, COLUMNS), tl.float32), X, W + member.to(tl.int64) * w_member, rows, there, across, inside,
        x_row, w_column, w_along, PRECISION, WIDTH, ALONG,
    )  # fmt: skip
    found *= tl.load(S + member * columns + across, mask=inside, other=0.0)[None, :]
    place = Y + rows[:, None] * y_row + across[None, :]
    tl.store(place, found.to(Y.dtype.element_ty), mask=there[:, None] & inside[None, :])


@triton.jit
def _widen(
    H, W, Y, BOUNDS, columns, h_row, w_member, w_column, w_along, y_row,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, ALONG: tl.constexpr,
):  # fmt: skip
    member = tl.program_id(1)
    first = tl.load(BOUNDS + member).to(tl.int64) + tl.program_id(0) * ROWS
    last = tl.load(BOUNDS + member + 1).to(tl.int64)
    if first >= last:
        return
    rows, across = first + tl.arange(0, ROWS), tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    there, inside = rows < last, across < columns
    place = Y + rows[:, None] * y_row + across[None, :]
    before = tl.load(place, mask=there[:, None] & inside[None, :], other=0.0).to(tl.float32)
    found = _rows_times(
        before, H, W + member.to(tl.int64) * w_member, rows, there, across, inside, h_row, w_column, w_along,
        PRECISION, WIDTH, ALONG,
    )  # fmt: skip
    tl.store(place, found.to(Y.dtype.element_ty), mask=there[:, None] & inside[None, :])


@triton.jit
def _outer(
    P, Q, Y, BOUNDS, height, width, p_row, q_row, y_member, y_row, y_column,
    PRECISION: tl.constexpr, ROWS: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    member = tl.program_id(0).to(tl.int64)
    down = tl.program_id(1) * HEIGHT + tl.arange(0, HEIGHT)
    across = tl.program_id(2) * WIDTH + tl.arange(0, WIDTH)
    first, last = tl.load(BOUNDS + member), tl.load(BOUNDS + member + 1)
    found = tl.zeros((HEIGHT, WIDTH), tl.float32)
    for begin in range(first, last, ROWS):
        rows = (begin + tl.arange(0, ROWS)).to(tl.int64)
        p = tl.load(
            P + rows[None, :] * p_row + down[:, None], mask=(rows < last)[None, :] & (down < height)[:, None], other=0.0
        )
        q = tl.load(
            Q + rows[:, None] * q_row + across[None, :],
            mask=(rows < last)[:, None] & (across < width)[None, :],
            other=0.0,
        )
        found = tl.dot(p, q, found, input_precision=PRECISION)
    place = Y + member * y_member + down[:, None] * y_row + across[None, :] * y_column
    tl.store(place, found, mask=(down < height)[:, None] & (across < width)[None, :])


@triton.jit
def _sums(
    G, X, MEAN, RSTD, SHIFT, SCALE, BOUNDS, width, g_row,
    NORM: tl.constexpr, ROWS: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    member = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * N + tl.arange(0, N)
    first, last = tl.load(BOUNDS + member), tl.load(BOUNDS + member + 1)
    of_shift = tl.zeros((ROWS, N), tl.float32)
    of_scale = tl.zeros((ROWS, N), tl.float32)
    for begin in range(first, last, ROWS):
        rows = (begin + tl.arange(0, ROWS)).to(tl.int64)
        there = (rows < last)[:, None] & (columns < width)[None, :]
        g = tl.load(G + rows[:, None] * g_row + columns[None, :], mask=there, other=0.0).to(tl.float32)
        of_shift += g
        if NORM:
            x = tl.load(X + rows[:, None] * width + columns[None, :], mask=there, other=0.0).to(tl.float32)
            mean = tl.load(MEAN + rows, mask=rows < last, other=0.0)
            rstd = tl.load(RSTD + rows, mask=rows < last, other=0.0)
            of_scale += g * (x - mean[:, None]) * rstd[:, None]
    tl.store(SHIFT + member * width + columns, tl.sum(of_shift, 0), mask=columns < width)
    if NORM:
        tl.store(SCALE + member * width + columns, tl.sum(of_scale, 0), mask=columns < width)


@triton.jit
def _adamw(
    W, G, FIRST, SECOND, DECAYED, CLIP, RATE, DECAY, CORRECTIONS, width,
    BETA: tl.constexpr, BETA2: tl.constexpr, EPS: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    member = tl.program_id(1).to(tl.int64)
    columns = tl.program_id(0) * N + tl.arange(0, N)
    inside = columns < width
    place = member * width + columns
    rate = tl.load(RATE + member)
    g = tl.load(G + place, mask=inside, other=0.0) * tl.load(CLIP + member)
    w = tl.load(W + place, mask=inside, other=0.0)
    w -= w * tl.load(DECAYED + columns, mask=inside, other=0.0) * rate * tl.load(DECAY + member)
    first = tl.load(FIRST + place, mask=inside, other=0.0)
    first += (g - first) * (1 - BETA)
    second = tl.load(SECOND + place, mask=inside, other=0.0) * BETA2 + g * g * (1 - BETA2)
    w -= first * (rate / tl.load(CORRECTIONS)) / (tl.sqrt(second / tl.load(CORRECTIONS + 1)) + EPS)
    tl.store(FIRST + place, first, mask=inside)
    tl.store(SECOND + place, second, mask=inside)
    tl.store(W + place, w, mask=inside)


def _precision(x: Tensor) -> str:
    return "ieee" if x.dtype == torch.float32 else "tf32"


def _block(size: int, most: int) -> int:
    """A power of two of at least 16, of which `tl.dot` needs so many."""
    return int(min(most, max(16, triton.next_power_of_2(size))))


def narrow(x: Tensor, weight: Tensor, scale: Tensor, bounds: Tensor, most: int, into: Tensor) -> None:
    """`into[t] = scale[m] * (x[t] @ weight[m].T)` for each row t of member m.

    Args:
        x: (T, I), rows contiguous.
        weight: (K, R, I).
        scale: (K, R) fp32.
        bounds: (K + 1,) where each member's rows begin, and where the last one's end.
        most: rows that a member has at most.
        into: (T, R), rows contiguous.
    """
    members, columns, width = weight.shape
    across = _block(columns, 128)
    grid = (triton.cdiv(most, _ROWS), members, triton.cdiv(columns, across))
    _narrow[grid](
        x, weight, scale, into, bounds, columns, x.stride(0), *weight.stride(), into.stride(0),
        PRECISION=_precision(x), ROWS=_ROWS, COLUMNS=across, WIDTH=width, ALONG=64, num_warps=4,
    )  # fmt: skip


def widen(hidden: Tensor, weight: Tensor, bounds: Tensor, most: int, into: Tensor) -> None:
    """`into[t] += hidden[t] @ weight[m].T` for each row t of member m.

    Args:
        hidden: (T, R), rows contiguous.
        weight: (K, O, R).
        bounds, most: as of :func:`narrow`.
        into: (T, O), rows contiguous.
    """
    members, columns, width = weight.shape
    across = _block(columns, 128)
    grid = (triton.cdiv(most, _ROWS), members, triton.cdiv(columns, across))
    _widen[grid](
        hidden, weight, into, bounds, columns, hidden.stride(0), *weight.stride(), into.stride(0),
        PRECISION=_precision(hidden), ROWS=_ROWS, COLUMNS=across, WIDTH=width, ALONG=_block(width, 64), num_warps=4,
    )  # fmt: skip


def outer(p: Tensor, q: Tensor, bounds: Tensor, into: Tensor) -> None:
    """`into[m] = p[rows of m].T @ q[rows of m]` in fp32.

    Args:
        p, q: (T, P) and (T, Q), rows contiguous.
        bounds: as of :func:`narrow`.
        into: (K, P, Q) fp32, of any strides.
    """
    members, height, width = into.shape
    down, across = _block(height, 64), _block(width, 64)
    grid = (members, triton.cdiv(height, down), triton.cdiv(width, across))
    _outer[grid](
        p, q, into, bounds, height, width, p.stride(0), q.stride(0), *into.stride(),
        PRECISION=_precision(p), ROWS=_ROWS, HEIGHT=down, WIDTH=across, num_warps=4,
    )  # fmt: skip


def sums(
    grad: Tensor, bounds: Tensor, normed: tuple[Tensor, Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor | None]:
    """Of each member the sum over its rows of `grad`, and of `grad` times the normalized input: (K, H) fp32 each.

    Args:
        grad: (T, H), rows contiguous.
        bounds: as of :func:`narrow`.
        normed: the norm's input (T, H), contiguous, its mean and its reciprocal standard deviation (T,).
    """
    width, members = grad.shape[1], len(bounds) - 1
    shift = grad.new_empty(members, width, dtype=torch.float32)
    scale = None if normed is None else torch.empty_like(shift)
    x, mean, rstd = (grad, shift, shift) if normed is None else normed  # not read
    _sums[(members, triton.cdiv(width, 64))](
        grad, x, mean, rstd, shift, shift if scale is None else scale, bounds, width, grad.stride(0),
        NORM=normed is not None, ROWS=32, N=64, num_warps=4,
    )  # fmt: skip
    return shift, scale


def adamw(
    weights: Tensor,
    gradients: Tensor,
    moments: tuple[Tensor, Tensor],
    decayed: Tensor,
    *,
    clip: Tensor,
    rate: Tensor,
    decay: Tensor,
    corrections: Tensor,
    betas: tuple[float, float],
    eps: float,
) -> None:
    """A step of AdamW of every member, as :meth:`loratory.engine.member_steps.MemberSteps.update` writes it out, which
    reads and writes each number once.

    Args:
        weights, gradients, moments: (K, P) fp32, contiguous.
        decayed: (P,) 1 where weight decay counts, else 0.
        clip, rate, decay: (K,) what a member's gradients are multiplied by, its rate, its weight decay.
        corrections: (2,) 1 - beta^t for both moments.
    """
    members, width = weights.shape
    _adamw[(triton.cdiv(width, 1024), members)](
        weights, gradients, *moments, decayed, clip, rate, decay, corrections, width,
        BETA=betas[0], BETA2=betas[1], EPS=eps, N=1024, num_warps=4,
    )  # fmt: skip
