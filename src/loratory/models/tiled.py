# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call, attr-defined"
# (Triton's kernels are its own language: their arguments have no Python types.)
"""Attention for sequences of more than one tile on CUDA, as three Triton kernels.

A program holds one tile of queries (or of keys) of one head of one sequence, and walks over the sequence's tiles of
keys (or of queries), as FlashAttention does (Dao 2023, arXiv:2307.08691):

    forward   S = s·QKᵀ,  O = softmax(S)·V by running maxima and sums;  L = log2 Σ 2^(S·log2 e) is kept
    queries   P = 2^(S·log2 e - L),  Δ = rowsum(dO∘O),  dS = P∘((dO·Vᵀ)∘M - Δ),  dQ = s·dS·K
    keys      P and dS again, transposed;  dV = (P∘M)ᵀ·dO,  dK = s·dSᵀ·Q

M is 1, or dropout's mask over its keeping probability, drawn in each pass from the same seed. Queries and keys take a
kernel each, so that nothing is added up by atomics and the same input gives the same bits; the gradients of query, key
and value are written side by side, as the projection of all three takes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from loratory.models.short import Settings


@dataclass(frozen=True)
class Tiles:
    """How a kernel is cut: rows of its own tile, rows of the tiles it walks over, warps, and loads under way."""

    own: int
    other: int
    warps: int
    stages: int


FORWARD = {64: Tiles(64, 64, 4, 3), 128: Tiles(64, 64, 4, 2)}
QUERIES = {64: Tiles(64, 32, 4, 3), 128: Tiles(64, 32, 4, 2)}
KEYS = {64: Tiles(64, 32, 4, 3), 128: Tiles(64, 32, 4, 2)}
"""By the width of a head, up to; for 64 the best of `python benchmarks/attention.py --search` on an H100."""


@triton.jit
def _mask(seed, pair, rows, columns, dropout):
    """Dropout's mask over its keeping probability for queries `rows` and keys `columns` of one head."""
    places = rows * 65536 + columns  # a number for each pair of tokens, whatever the tiles
    return tl.where(tl.rand(seed * 1048576 + pair, places) >= dropout, 1.0 / (1.0 - dropout), 0.0)


@triton.jit
def _attention_forward(
    Q, K, V, O, L, bounds, seeds, total, heads, q_row, k_row, v_row, o_row, scale, dropout,
    WINDOW: tl.constexpr, CAUSAL: tl.constexpr, DROP: tl.constexpr, OWN: tl.constexpr, OTHER: tl.constexpr,
    D: tl.constexpr,
):  # fmt: skip
    sequence = tl.program_id(1)
    head = tl.program_id(2)
    start = tl.load(bounds + sequence).to(tl.int64)
    n = (tl.load(bounds + sequence + 1) - start).to(tl.int32)
    first = tl.program_id(0) * OWN
    if first < n:
        seed = tl.load(seeds) if DROP else 0
        pair = sequence * heads + head
        rows = first + tl.arange(0, OWN)
        lanes = head * D + tl.arange(0, D)[None, :]
        inside = (rows < n)[:, None]
        q = tl.load(Q + (start + rows)[:, None] * q_row + lanes, mask=inside, other=0.0)
        low, high = 0, n
        if WINDOW >= 0:
            low = tl.maximum(0, first - WINDOW) // OTHER * OTHER
            high = tl.minimum(n, first + OWN + WINDOW)
        if CAUSAL:
            high = tl.minimum(high, first + OWN)
        highest = tl.full((OWN,), -1.0e30, tl.float32)
        sums = tl.zeros((OWN,), tl.float32)
        out = tl.zeros((OWN, D), tl.float32)
        for begin in range(low, high, OTHER):
            columns = begin + tl.arange(0, OTHER)
            there = (columns < n)[:, None]
            k = tl.load(K + (start + columns)[:, None] * k_row + lanes, mask=there, other=0.0)
            scores = tl.dot(q, tl.trans(k), input_precision="ieee") * (scale * 1.4426950408889634)
            seen = (columns < n)[None, :]
            if WINDOW >= 0:
                seen = seen & (tl.abs(rows[:, None] - columns[None, :]) <= WINDOW)
            if CAUSAL:
                seen = seen & (columns[None, :] <= rows[:, None])
            scores = tl.where(seen, scores, -1.0e30)
            higher = tl.maximum(highest, tl.max(scores, 1))
            weights = tl.exp2(scores - higher[:, None])
            fading = tl.exp2(highest - higher)
            sums = sums * fading + tl.sum(weights, 1)
            if DROP:
                weights *= _mask(seed, pair, rows[:, None], columns[None, :], dropout)
            v = tl.load(V + (start + columns)[:, None] * v_row + lanes, mask=there, other=0.0)
            out = out * fading[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
            highest = higher
        out /= sums[:, None]
        tl.store(O + (start + rows)[:, None] * o_row + lanes, out.to(O.dtype.element_ty), mask=inside)
        tl.store(L + head * total + start + rows, highest + tl.log2(sums), mask=rows < n)


@triton.jit
def _attention_queries(
    Q, K, V, O, G, DQ, L, DELTA, bounds, seeds, total, heads, q_row, k_row, v_row, o_row, g_row, d_row, scale, dropout,
    WINDOW: tl.constexpr, CAUSAL: tl.constexpr, DROP: tl.constexpr, OWN: tl.constexpr, OTHER: tl.constexpr,
    D: tl.constexpr,
):  # fmt: skip
    sequence = tl.program_id(1)
    head = tl.program_id(2)
    start = tl.load(bounds + sequence).to(tl.int64)
    n = (tl.load(bounds + sequence + 1) - start).to(tl.int32)
    first = tl.program_id(0) * OWN
    if first < n:
        seed = tl.load(seeds) if DROP else 0
        pair = sequence * heads + head
        rows = first + tl.arange(0, OWN)
        lanes = head * D + tl.arange(0, D)[None, :]
        inside = (rows < n)[:, None]
        q = tl.load(Q + (start + rows)[:, None] * q_row + lanes, mask=inside, other=0.0)
        g = tl.load(G + (start + rows)[:, None] * g_row + lanes, mask=inside, other=0.0)
        o = tl.load(O + (start + rows)[:, None] * o_row + lanes, mask=inside, other=0.0)
        delta = tl.sum(o.to(tl.float32) * g.to(tl.float32), 1)
        tl.store(DELTA + head * total + start + rows, delta, mask=rows < n)
        logs = tl.load(L + head * total + start + rows, mask=rows < n, other=0.0)
        low, high = 0, n
        if WINDOW >= 0:
            low = tl.maximum(0, first - WINDOW) // OTHER * OTHER
            high = tl.minimum(n, first + OWN + WINDOW)
        if CAUSAL:
            high = tl.minimum(high, first + OWN)
        grad = tl.zeros((OWN, D), tl.float32)
        for begin in range(low, high, OTHER):
            columns = begin + tl.arange(0, OTHER)
            there = (columns < n)[:, None]
            k = tl.load(K + (start + columns)[:, None] * k_row + lanes, mask=there, other=0.0)
            v = tl.load(V + (start + columns)[:, None] * v_row + lanes, mask=there, other=0.0)
            scores = tl.dot(q, tl.trans(k), input_precision="ieee") * (scale * 1.4426950408889634)
            seen = (columns < n)[None, :]
            if WINDOW >= 0:
                seen = seen & (tl.abs(rows[:, None] - columns[None, :]) <= WINDOW)
            if CAUSAL:
                seen = seen & (columns[None, :] <= rows[:, None])
            weights = tl.exp2(tl.where(seen, scores - logs[:, None], -1.0e30))
            through = tl.dot(g, tl.trans(v), input_precision="ieee")
            if DROP:
                through *= _mask(seed, pair, rows[:, None], columns[None, :], dropout)
            grad_scores = weights * (through - delta[:, None])
            grad += tl.dot(grad_scores.to(k.dtype), k, input_precision="ieee")
        grad *= scale
        tl.store(DQ + (start + rows)[:, None] * d_row + lanes, grad.to(DQ.dtype.element_ty), mask=inside)


@triton.jit
def _attention_keys(
    Q, K, V, G, DK, DV, L, DELTA, bounds, seeds, total, heads, q_row, k_row, v_row, g_row, d_row, scale, dropout,
    WINDOW: tl.constexpr, CAUSAL: tl.constexpr, DROP: tl.constexpr, OWN: tl.constexpr, OTHER: tl.constexpr,
    D: tl.constexpr,
):  # fmt: skip
    sequence = tl.program_id(1)
    head = tl.program_id(2)
    start = tl.load(bounds + sequence).to(tl.int64)
    n = (tl.load(bounds + sequence + 1) - start).to(tl.int32)
    first = tl.program_id(0) * OWN
    if first < n:
        seed = tl.load(seeds) if DROP else 0
        pair = sequence * heads + head
        columns = first + tl.arange(0, OWN)
        lanes = head * D + tl.arange(0, D)[None, :]
        inside = (columns < n)[:, None]
        k = tl.load(K + (start + columns)[:, None] * k_row + lanes, mask=inside, other=0.0)
        v = tl.load(V + (start + columns)[:, None] * v_row + lanes, mask=inside, other=0.0)
        low, high = 0, n
        if WINDOW >= 0:
            low = tl.maximum(0, first - WINDOW) // OTHER * OTHER
            high = tl.minimum(n, first + OWN + WINDOW)
        if CAUSAL:
            low = first // OTHER * OTHER
        grad_k = tl.zeros((OWN, D), tl.float32)
        grad_v = tl.zeros((OWN, D), tl.float32)
        for begin in range(low, high, OTHER):
            rows = begin + tl.arange(0, OTHER)
            there = (rows < n)[:, None]
            q = tl.load(Q + (start + rows)[:, None] * q_row + lanes, mask=there, other=0.0)
            g = tl.load(G + (start + rows)[:, None] * g_row + lanes, mask=there, other=0.0)
            logs = tl.load(L + head * total + start + rows, mask=rows < n, other=0.0)
            delta = tl.load(DELTA + head * total + start + rows, mask=rows < n, other=0.0)
            scores = tl.dot(k, tl.trans(q), input_precision="ieee") * (scale * 1.4426950408889634)
            seen = inside  # a query that is not there adds nothing below: q and g are zero
            if WINDOW >= 0:
                seen = seen & (tl.abs(rows[None, :] - columns[:, None]) <= WINDOW)
            if CAUSAL:
                seen = seen & (columns[:, None] <= rows[None, :])
            weights = tl.exp2(tl.where(seen, scores - logs[None, :], -1.0e30))
            through = tl.dot(v, tl.trans(g), input_precision="ieee")
            if DROP:
                kept = _mask(seed, pair, rows[None, :], columns[:, None], dropout)
                grad_v += tl.dot((weights * kept).to(g.dtype), g, input_precision="ieee")
                through *= kept
            else:
                grad_v += tl.dot(weights.to(g.dtype), g, input_precision="ieee")
            grad_scores = weights * (through - delta[None, :])
            grad_k += tl.dot(grad_scores.to(q.dtype), q, input_precision="ieee")
        grad_k *= scale
        place = (start + columns)[:, None] * d_row + lanes
        tl.store(DK + place, grad_k.to(DK.dtype.element_ty), mask=inside)
        tl.store(DV + place, grad_v.to(DV.dtype.element_ty), mask=inside)


def _tiles(table: dict[int, Tiles], width: int) -> Tiles:
    return table[64 if width <= 64 else 128]


def forward(
    q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, seeds: Tensor, settings: Settings
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """(T, H, D) each -> (T, H, D), and what backward needs beside the arguments: that, and L (H, T)."""
    total, heads, width = q.shape
    out = torch.empty(total, heads, width, dtype=q.dtype, device=q.device)
    logs = torch.empty(heads, total, dtype=torch.float32, device=q.device)
    tiles = _tiles(FORWARD, width)
    _attention_forward[(triton.cdiv(settings.longest, tiles.own), bounds.shape[0] - 1, heads)](
        q, k, v, out, logs, bounds, seeds, total, heads, q.stride(0), k.stride(0), v.stride(0), out.stride(0),
        settings.scale, settings.dropout, WINDOW=settings.window, CAUSAL=settings.causal, DROP=settings.dropout > 0,
        OWN=tiles.own, OTHER=tiles.other, D=width, num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip
    return out, (out, logs)


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, kept: Sequence[Tensor], bounds: Tensor, seeds: Tensor,
    settings: Settings,
) -> Tensor:  # fmt: skip
    """The gradients of query, key and value side by side, (T, 3, H, D)."""
    total, heads, width = q.shape
    out, logs = kept
    grads = torch.empty(total, 3, heads, width, dtype=q.dtype, device=q.device)
    grad_q, grad_k, grad_v = grads.unbind(1)
    delta = torch.empty_like(logs)
    tiles, sequences = _tiles(QUERIES, width), bounds.shape[0] - 1
    _attention_queries[(triton.cdiv(settings.longest, tiles.own), sequences, heads)](
        q, k, v, out, grad, grad_q, logs, delta, bounds, seeds, total, heads, q.stride(0), k.stride(0), v.stride(0),
        out.stride(0), grad.stride(0), grads.stride(0), settings.scale, settings.dropout, WINDOW=settings.window,
        CAUSAL=settings.causal, DROP=settings.dropout > 0, OWN=tiles.own, OTHER=tiles.other, D=width,
        num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip
    tiles = _tiles(KEYS, width)
    _attention_keys[(triton.cdiv(settings.longest, tiles.own), sequences, heads)](
        q, k, v, grad, grad_k, grad_v, logs, delta, bounds, seeds, total, heads, q.stride(0), k.stride(0), v.stride(0),
        grad.stride(0), grads.stride(0), settings.scale, settings.dropout, WINDOW=settings.window,
        CAUSAL=settings.causal, DROP=settings.dropout > 0, OWN=tiles.own, OTHER=tiles.other, D=width,
        num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip
    return grads
