# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call, attr-defined"
# (Triton's kernels are its own language: their arguments have no Python types.)
"""Attention for short sequences on CUDA, as two Triton kernels.

FlashAttention's kernels for sequences of any length walk over tiles of 128 keys; a sequence of 27 tokens fills a
fifth of one, and their backward passes take three launches. Here one program holds a whole sequence of one head in one
tile of 32, 64 or 128 tokens, whichever is enough:

    forward   S = s·QKᵀ + mask (of the end, a window, what comes later),  P = softmax(S) in fp32,  O = (P∘M)·V
    backward  P again from Q and K,  dV = (P∘M)ᵀ·dO,  dP = (dO·Vᵀ)∘M,  dS = P∘(dP - rowsum(P∘dP)),  dQ = s·dS·K,
              dK = s·dSᵀ·Q

M is 1, or dropout's mask over its keeping probability, drawn again in backward from the same seed. Nothing is kept but
Q, K, V and the seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _probabilities(q, k, n, scale, WINDOW: tl.constexpr, CAUSAL: tl.constexpr, N: tl.constexpr):
    """softmax(scale·qkᵀ) over the first n keys, (N, N) fp32; rows of no token hold numbers that nobody reads."""
    rows = tl.arange(0, N)[:, None]
    columns = tl.arange(0, N)[None, :]
    seen = columns < n
    if WINDOW >= 0:
        seen = seen & (tl.abs(rows - columns) <= WINDOW)
    if CAUSAL:
        seen = seen & (columns <= rows)
    scores = tl.where(seen, tl.dot(q, tl.trans(k), input_precision="ieee") * scale, -1.0e30)
    weights = tl.exp(scores - tl.max(scores, 1)[:, None])
    return weights / tl.sum(weights, 1)[:, None]


@triton.jit
def _kept(seed, pair, dropout, N: tl.constexpr):
    """Dropout's mask over its keeping probability for one sequence of one head, (N, N)."""
    places = tl.arange(0, N)[:, None] * 128 + tl.arange(0, N)[None, :]  # the same for every N
    return tl.where(tl.rand(seed, pair * 16384 + places) >= dropout, 1.0 / (1.0 - dropout), 0.0)


@triton.jit
def _forward_tile(
    Q, K, V, O, seed, start, n, pair, q_row, k_row, v_row, o_row, scale, dropout,
    WINDOW: tl.constexpr, CAUSAL: tl.constexpr, DROP: tl.constexpr, N: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    rows = tl.arange(0, N)
    lanes = tl.arange(0, D)[None, :]
    inside = (rows < n)[:, None]
    token = (start + rows)[:, None]
    q = tl.load(Q + token * q_row + lanes, mask=inside, other=0.0)
    k = tl.load(K + token * k_row + lanes, mask=inside, other=0.0)
    v = tl.load(V + token * v_row + lanes, mask=inside, other=0.0)
    weights = _probabilities(q, k, n, scale, WINDOW, CAUSAL, N)
    if DROP:
        weights *= _kept(seed, pair, dropout, N)
    out = tl.dot(weights.to(v.dtype), v, input_precision="ieee")
    tl.store(O + token * o_row + lanes, out.to(O.dtype.element_ty), mask=inside)


@triton.jit
def _attention_forward(
    Q, K, V, O, bounds, seeds, heads, q_row, k_row, v_row, o_row, scale, dropout,
    WINDOW: tl.constexpr, CAUSAL: tl.constexpr, DROP: tl.constexpr, N: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    sequence = tl.program_id(0)
    head = tl.program_id(1)
    start = tl.load(bounds + sequence).to(tl.int64)
    n = tl.load(bounds + sequence + 1).to(tl.int64) - start
    seed = tl.load(seeds) if DROP else 0
    pair = sequence * heads + head
    Q += head * D
    K += head * D
    V += head * D
    O += head * D
    if n > 0:
        if n <= 32:
            _forward_tile(
                Q,
                K,
                V,
                O,
                seed,
                start,
                n,
                pair,
                q_row,
                k_row,
                v_row,
                o_row,
                scale,
                dropout,
                WINDOW,
                CAUSAL,
                DROP,
                32,
                D,
            )
        elif n <= 64 and N >= 64:
            _forward_tile(
                Q,
                K,
                V,
                O,
                seed,
                start,
                n,
                pair,
                q_row,
                k_row,
                v_row,
                o_row,
                scale,
                dropout,
                WINDOW,
                CAUSAL,
                DROP,
                64,
                D,
            )
        elif N >= 128:
            _forward_tile(
                Q,
                K,
                V,
                O,
                seed,
                start,
                n,
                pair,
                q_row,
                k_row,
                v_row,
                o_row,
                scale,
                dropout,
                WINDOW,
                CAUSAL,
                DROP,
                128,
                D,
            )


@triton.jit
def _backward_tile(
    Q, K, V, G, DQ, DK, DV, seed, start, n, pair, q_row, k_row, v_row, g_row, d_row, scale, dropout,
    WINDOW: tl.constexpr, CAUSAL: tl.constexpr, DROP: tl.constexpr, N: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    rows = tl.arange(0, N)
    lanes = tl.arange(0, D)[None, :]
    inside = (rows < n)[:, None]
    token = (start + rows)[:, None]
    q = tl.load(Q + token * q_row + lanes, mask=inside, other=0.0)
    k = tl.load(K + token * k_row + lanes, mask=inside, other=0.0)
    v = tl.load(V + token * v_row + lanes, mask=inside, other=0.0)
    grad = tl.load(G + token * g_row + lanes, mask=inside, other=0.0)  # zero outside: those rows add nothing
    weights = _probabilities(q, k, n, scale, WINDOW, CAUSAL, N)
    grad_weights = tl.dot(grad, tl.trans(v), input_precision="ieee")
    if DROP:
        kept = _kept(seed, pair, dropout, N)
        grad_v = tl.dot(tl.trans((weights * kept).to(grad.dtype)), grad, input_precision="ieee")
        grad_weights *= kept
    else:
        grad_v = tl.dot(tl.trans(weights.to(grad.dtype)), grad, input_precision="ieee")
    tl.store(DV + token * d_row + lanes, grad_v.to(DV.dtype.element_ty), mask=inside)
    grad_scores = weights * (grad_weights - tl.sum(weights * grad_weights, 1)[:, None]) * scale
    grad_scores = grad_scores.to(q.dtype)
    grad_q = tl.dot(grad_scores, k, input_precision="ieee")
    tl.store(DQ + token * d_row + lanes, grad_q.to(DQ.dtype.element_ty), mask=inside)
    grad_k = tl.dot(tl.trans(grad_scores), q, input_precision="ieee")
    tl.store(DK + token * d_row + lanes, grad_k.to(DK.dtype.element_ty), mask=inside)


@triton.jit
def _attention_backward(
    Q, K, V, G, DQ, DK, DV, bounds, seeds, heads, q_row, k_row, v_row, g_row, d_row, scale, dropout,
    WINDOW: tl.constexpr, CAUSAL: tl.constexpr, DROP: tl.constexpr, N: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    sequence = tl.program_id(0)
    head = tl.program_id(1)
    start = tl.load(bounds + sequence).to(tl.int64)
    n = tl.load(bounds + sequence + 1).to(tl.int64) - start
    seed = tl.load(seeds) if DROP else 0
    pair = sequence * heads + head
    Q += head * D
    K += head * D
    V += head * D
    G += head * D
    DQ += head * D
    DK += head * D
    DV += head * D
    if n > 0:
        if n <= 32:
            _backward_tile(
                Q, K, V, G, DQ, DK, DV, seed, start, n, pair, q_row, k_row, v_row, g_row, d_row, scale, dropout,
                WINDOW, CAUSAL, DROP, 32, D,
            )  # fmt: skip
        elif n <= 64 and N >= 64:
            _backward_tile(
                Q, K, V, G, DQ, DK, DV, seed, start, n, pair, q_row, k_row, v_row, g_row, d_row, scale, dropout,
                WINDOW, CAUSAL, DROP, 64, D,
            )  # fmt: skip
        elif N >= 128:
            _backward_tile(
                Q, K, V, G, DQ, DK, DV, seed, start, n, pair, q_row, k_row, v_row, g_row, d_row, scale, dropout,
                WINDOW, CAUSAL, DROP, 128, D,
            )  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """What kernels of attention are told beside their tensors; a window of -1 is none."""

    longest: int
    window: int
    scale: float
    dropout: float
    causal: bool = False

    @property
    def tile(self) -> int:
        """Tokens of the largest tile that is needed."""
        return 32 if self.longest <= 32 else 64 if self.longest <= 64 else 128


def forward(
    q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, seeds: Tensor, settings: Settings
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """(T, H, D) each -> (T, H, D), and what backward needs beside the arguments: nothing."""
    tokens, heads, width = q.shape
    out = torch.empty(tokens, heads, width, dtype=q.dtype, device=q.device)
    _attention_forward[(bounds.shape[0] - 1, heads)](
        q, k, v, out, bounds, seeds, heads, q.stride(0), k.stride(0), v.stride(0), out.stride(0), settings.scale,
        settings.dropout, WINDOW=settings.window, CAUSAL=settings.causal, DROP=settings.dropout > 0, N=settings.tile,
        D=width, num_warps=4,
    )  # fmt: skip
    return out, ()


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, kept: Sequence[Tensor], bounds: Tensor, seeds: Tensor,
    settings: Settings,
) -> Tensor:  # fmt: skip
    """The gradients of query, key and value side by side, (T, 3, H, D)."""
    tokens, heads, width = q.shape
    grads = torch.empty(tokens, 3, heads, width, dtype=q.dtype, device=q.device)
    grad_q, grad_k, grad_v = grads.unbind(1)
    _attention_backward[(bounds.shape[0] - 1, heads)](
        q, k, v, grad, grad_q, grad_k, grad_v, bounds, seeds, heads, q.stride(0), k.stride(0), v.stride(0),
        grad.stride(0), grads.stride(0), settings.scale, settings.dropout,
        WINDOW=settings.window, CAUSAL=settings.causal, DROP=settings.dropout > 0, N=settings.tile, D=width,
        num_warps=8 if settings.tile == 128 else 4,
    )  # fmt: skip
    return grads
