# mypy: disable-error-code="no-untyped-call"
"""Attention within the sequences of a flat batch on CUDA, by the kernels that are made for their length.

Up to :data:`SHORT` tokens a sequence is one tile (:mod:`loratory.models.short`); up to :data:`LONG` it is walked over
(:mod:`loratory.models.tiled`). Query, key and value are read where a joint projection left them, and their gradients
are written so.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from loratory.models import short, tiled
from loratory.models.short import Settings

SHORT = 128
"""Tokens that one tile holds."""

LONG = 2048
"""Tokens up to which these kernels were measured to be faster than varlen (`python benchmarks/attention.py`)."""

WIDTHS = (16, 32, 64, 128)
"""Widths of heads that the kernels are made for."""


def takes(query: Tensor, longest: int) -> bool:
    """Whether these kernels serve heads like those of `query` (…, D) in sequences of at most `longest` tokens.

    In fp32 they would use no matrix units, and take minutes to compile.
    """
    return query.dtype == torch.bfloat16 and longest <= LONG and query.shape[-1] in WIDTHS


def _kernels(settings: Settings) -> ModuleType:
    return short if settings.longest <= SHORT else tiled


def _rows(tensor: Tensor) -> Tensor:
    """`tensor` (T, H, D) itself where the kernels can read it: each row's heads side by side."""
    good = tensor.stride(2) == 1 and tensor.stride(1) == tensor.shape[2]
    return tensor if good else tensor.contiguous()


class _Attention(torch.autograd.Function):
    """Query, key and value apart, or, where key is None, side by side in one (T, 3, H, D)."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor | None,
        value: Tensor | None,
        bounds: Tensor,
        seeds: Tensor,
        settings: Settings,
    ) -> Tensor:
        """(T, H, D) each, or (T, 3, H, D), -> (T, H, D)."""
        ctx.packed = key is None or value is None
        q, k, v = query.unbind(1) if key is None or value is None else (_rows(query), _rows(key), _rows(value))
        out: Tensor
        out, kept = _kernels(settings).forward(q, k, v, bounds, seeds, settings)
        ctx.save_for_backward(q, k, v, bounds, seeds, *kept)
        ctx.settings = settings
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bounds, seeds, *kept = ctx.saved_tensors
        settings = ctx.settings
        grads = _kernels(settings).backward(_rows(gradients[0]), q, k, v, kept, bounds, seeds, settings)
        apart = (grads, None, None) if ctx.packed else grads.unbind(1)
        return (*apart, None, None, None)


def attention(
    query: Tensor,
    key: Tensor | None,
    value: Tensor | None,
    bounds: Tensor,
    *,
    longest: int,
    scale: float,
    window: int | None = None,
    dropout: float = 0.0,
    causal: bool = False,
) -> Tensor:
    """softmax(scale·QKᵀ)·V within each sequence: (T, H, D) each -> (T, H, D).

    Args:
        query: or, with key and value None, all three side by side: (T, 3, H, D), and so its gradient.
        bounds: int32 (B + 1,), where each sequence begins; the last is T. None is longer than `longest`.
        window: a key counts only this far from its query; None: everywhere.
        dropout: on attention weights; its seed is drawn from torch's generator of the device.
        causal: whether no key counts for the queries before it.
    """
    seeds = bounds
    if dropout > 0.0:
        seeds = torch.randint(2**31 - 1, (1,), device=query.device)
    settings = Settings(longest, -1 if window is None else window, scale, dropout, causal)
    out: Tensor = _Attention.apply(query, key, value, bounds, seeds, settings)
    return out
