"""Attention over flat batches: all tokens of all sequences in one row, padding only where it must be.

transformers lets a program register an attention function by name. With :data:`ATTENTION` registered, an encoder whose
configuration names it runs a batch of shape (1, T), PEFT layers included: the linear layers see T rows, and attention
finds the sequence bounds in the :class:`Layout` that travels with the call. On CUDA sequences of up to 2,048 tokens go
to kernels of our own, longer ones in bf16 to `torch.nn.attention.varlen`; elsewhere attention runs on a padded view of
the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from loratory.data.batches import Batch

ATTENTION = "loratory_flat"
"""The name under which flat attention is registered with transformers."""

APART = 80
"""On a CPU batches with a sequence longer than this are attended sequence by sequence: scores of a padded view would
take more time and memory than that saves in calls."""

WIDTHS = 32
"""On a CPU lengths in bf16 are filled up to a multiple of this inside attention: oneDNN makes and keeps a kernel for
every shape, and torch's own attention does in every thread."""

_MASKED = -1e30
"""Added to a score that must not count: finite, because a padding row may have no key left in its window."""


@dataclass(frozen=True, eq=False)
class Group:
    """Neighbouring sequences of a flat batch, as the padded view holds them.

    Attributes:
        tokens: where the group's tokens stand in the flat row.
        size: its number of sequences, b.
        length: its longest sequence, L.
        slots: int64, each of its tokens' place in the padded view of b·L rows.
        key_bias: (b, 1, 1, L), 0 at tokens and a very negative number at padding.
    """

    tokens: slice
    size: int
    length: int
    slots: Tensor
    key_bias: Tensor

    def pad(self, rows: Tensor) -> Tensor:
        """The group's rows of (T, H, D) -> (b, H, L, D), zeros at padding."""
        view = rows.new_zeros(self.size * self.length, *rows.shape[1:]).index_copy_(0, self.slots, rows[self.tokens])
        return view.view(self.size, self.length, *rows.shape[1:]).transpose(1, 2).contiguous()

    def unpad(self, view: Tensor) -> Tensor:
        """(b, H, L, D) -> the group's rows, (·, H, D)."""
        return view.transpose(1, 2).reshape(-1, view.shape[1], view.shape[3]).index_select(0, self.slots)


@dataclass(frozen=True, eq=False)
class Layout:
    """Where each sequence of a flat batch stands.

    Attributes:
        cu_seqlens: int32 (B + 1,), the sequences' bounds in the flat row.
        max_seqlen: the longest sequence.
        position_ids: int64 (T,), each token's position in its sequence.
        causal: whether a token sees those before it and itself alone.
    """

    cu_seqlens: Tensor
    max_seqlen: int
    position_ids: Tensor
    causal: bool = False

    @classmethod
    def of(cls, batch: Batch, *, causal: bool = False) -> Layout:
        """The layout of `batch`, on its device."""
        return cls(batch.cu_seqlens, batch.max_seqlen, batch.position_ids, causal)

    @cached_property
    def lengths(self) -> list[int]:
        """The sequences' lengths, on the host."""
        lengths: list[int] = self.cu_seqlens.diff().tolist()
        return lengths

    @cached_property
    def groups(self) -> list[Group]:
        """The padded view, made once a batch and used by every layer.

        On a CPU in two halves, each as wide as its own longest sequence: batches come sorted by length, so that the
        shorter half is spared the longer one's width. On CUDA in one, because lengths there are not known to the host.
        """
        return self._halves(1)

    @cached_property
    def wide_groups(self) -> list[Group]:
        """The same, its lengths multiples of :data:`WIDTHS`."""
        return self._halves(WIDTHS)

    def _halves(self, multiple: int) -> list[Group]:
        count = len(self.cu_seqlens) - 1
        if self.cu_seqlens.device.type == "cpu" and count >= 8:
            return [self._group(0, count // 2, multiple), self._group(count // 2, count, multiple)]
        return [self._group(0, count, multiple)]

    def _group(self, first: int, last: int, multiple: int) -> Group:
        bounds = self.cu_seqlens[first : last + 1]
        device = bounds.device
        lengths = bounds.diff().long()
        whole = last - first == len(self.cu_seqlens) - 1
        tokens = slice(None) if whole else slice(int(bounds[0]), int(bounds[-1]))
        longest = self.max_seqlen if whole else int(lengths.max())
        longest += -longest % multiple
        places = self.position_ids[tokens]
        rows = torch.arange(last - first, device=device).repeat_interleave(lengths, output_size=len(places))
        bias = torch.zeros(last - first, longest, device=device)
        bias.masked_fill_(torch.arange(longest, device=device) >= lengths.unsqueeze(1), _MASKED)
        return Group(tokens, last - first, longest, rows * longest + places, bias[:, None, None, :])


def _widened(rows: Tensor) -> bool:
    """Whether attention over `rows` fills lengths up to multiples of :data:`WIDTHS`."""
    return rows.device.type == "cpu" and rows.dtype == torch.bfloat16


class _PaddedAttention(torch.autograd.Function):
    """softmax(s·QKᵀ + bias)·V over padded views, forward and backward by plain products.

    torch's fused CPU kernel spends more than half of a step in its backward when sequences are short; two batched
    products and a softmax do not. Each token stands in a padded view exactly once, so that padding and its reverse
    are row copies in both directions and need no accumulation.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        layout: Layout,
        window: int | None,
        scaling: float,
        dropout: float,
    ) -> Tensor:
        """(T, H, D) each -> (T, H, D)."""
        out = torch.empty_like(query, memory_format=torch.contiguous_format)
        groups = layout.wide_groups if _widened(query) else layout.groups
        kept: list[Tensor | None] = []
        for group in groups:
            q, k, v = (group.pad(rows).flatten(0, 1) for rows in (query, key, value))  # (b·H, L, D)
            scores = torch.bmm(q, k.transpose(1, 2)).view(group.size, -1, group.length, group.length)
            bias = group.key_bias
            if window is not None or layout.causal:
                bias = bias + _place_bias(group, window, causal=layout.causal)
            weights = torch.softmax(scores.float().mul_(scaling).add_(bias), dim=-1).to(q.dtype).flatten(0, 1)
            mask = None
            if dropout > 0.0:
                mask = torch.empty_like(weights).bernoulli_(1.0 - dropout).div_(1.0 - dropout)
            attended = torch.bmm(weights if mask is None else weights * mask, v)
            out[group.tokens] = group.unpad(attended.view(group.size, -1, *attended.shape[1:]))
            kept += [q, k, v, weights, mask]
        ctx.save_for_backward(*kept)
        ctx.groups, ctx.scaling = groups, scaling
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of query, key and value, (T, H, D) each."""
        saved = ctx.saved_tensors
        grad_out = gradients[0].to(saved[0].dtype)
        results = [torch.empty_like(grad_out, memory_format=torch.contiguous_format) for _ in range(3)]
        for number, group in enumerate(ctx.groups):
            q, k, v, weights, mask = saved[5 * number : 5 * number + 5]
            grad = group.pad(grad_out).flatten(0, 1)
            grad_v = torch.bmm((weights if mask is None else weights * mask).transpose(1, 2), grad)
            grad_weights = torch.bmm(grad, v.transpose(1, 2))
            if mask is not None:
                grad_weights = grad_weights * mask
            # softmax backward: dS = P∘(dP - rowsum(dP∘P))
            grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype).mul_(ctx.scaling)
            grad_q = torch.bmm(grad_scores, k)
            grad_k = torch.bmm(grad_scores.transpose(1, 2), q)
            for result, part in zip(results, (grad_q, grad_k, grad_v), strict=True):
                result[group.tokens] = group.unpad(part.view(group.size, -1, *part.shape[1:]))
        return (*results, None, None, None, None)


def _place_bias(group: Group, window: int | None, *, causal: bool) -> Tensor:
    """(1, 1, L, L): very negative where a key stands more than `window` tokens from its query, or, if `causal`,
    behind it."""
    places = torch.arange(group.length, device=group.slots.device)
    ahead = places[None, :] - places[:, None]  # of the key, from the query
    hidden = ahead > 0 if causal else torch.zeros_like(ahead, dtype=torch.bool)
    if window is not None:
        hidden = hidden | (ahead.abs() > window)
    return torch.zeros(hidden.shape, device=hidden.device).masked_fill_(hidden, _MASKED)[None, None]


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: Layout,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Flat attention behind transformers' attention interface.

    Args:
        module: the attention module that calls (unused; the interface passes it).
        query, key, value: (1, H, T, D); keys and values may have fewer heads, each of which serves neighbouring ones of
            the queries.
        attention_mask: always None; `layout` holds the sequence bounds.
        sliding_window: transformers' half-window plus one (ModernBERT's local layers; a decoder's window), or None.

    Returns:
        (1, T, H, D) and no attention weights.
    """
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    window = None if sliding_window is None else sliding_window - 1
    q, k, v = (rows[0].transpose(0, 1) for rows in (query, key, value))  # (T, H, D): a view, no copy
    q, k = q.to(v.dtype), k.to(v.dtype)  # rotations in fp32 leave them there under autocast
    if q.shape[1] != k.shape[1]:
        k, v = (rows.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for rows in (k, v))
    return _attend(q, k, v, layout, scale=scale, window=window, dropout=dropout).unsqueeze(0), None


def _attend(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, *, scale: float, window: int | None, dropout: float
) -> Tensor:
    """(T, H, D) each -> (T, H, D), by the kernels that fit the device and the lengths."""
    bounds, longest = layout.cu_seqlens, layout.max_seqlen
    if own_kernels(q, longest):
        from loratory.models.attention import attention

        return attention(
            q, k, v, bounds, longest=longest, scale=scale, window=window, dropout=dropout, causal=layout.causal
        )
    if q.is_cuda and q.dtype == torch.bfloat16 and dropout == 0.0:
        from torch.nn.attention.varlen import varlen_attn

        side = -1 if window is None else window
        sides = (side, 0 if layout.causal else side)
        out = varlen_attn(q, k, v, bounds, bounds, longest, longest, scale=scale, window_size=sides)
        assert isinstance(out, Tensor)
        return out
    if not q.is_cuda and longest > APART and window is None and dropout == 0.0:
        parts = [torch.split(part, layout.lengths) for part in (q, k, v)]
        return _attend_apart(parts, scale=scale, causal=layout.causal)
    rows: Tensor = _PaddedAttention.apply(q, k, v, layout, window, scale, dropout)  # type: ignore[no-untyped-call]  # torch's own
    return rows


def _attend_apart(parts: Sequence[Sequence[Tensor]], *, scale: float, causal: bool) -> Tensor:
    """Query, key and value, each as its sequences (L, H, D) -> (T, H, D): torch's fused kernel, once a sequence."""
    attended, multiple = [], WIDTHS if _widened(parts[0][0]) else 1
    for sequence in zip(*parts, strict=True):
        length = len(sequence[0])
        missing = -length % multiple
        q, k, v = (F.pad(rows, (0, 0, 0, 0, 0, missing)).transpose(0, 1).unsqueeze(0) for rows in sequence)
        mask = None
        if missing and not causal:  # what fills up stands behind all that it could be seen from
            mask = q.new_zeros(length + missing).index_fill_(0, torch.arange(length, length + missing), _MASKED)
            mask = mask.expand(1, 1, length + missing, -1)
        filled = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, is_causal=causal)
        attended.append(filled[0, :, :length].transpose(0, 1))
    return torch.cat(attended)


def attend_packed(mixed: Tensor, layout: Layout, *, dropout: float) -> Tensor:
    """Flat attention over query, key and value side by side, (T, 3, H, D) -> (T, H, D), scaled by 1/√D."""
    bounds, longest, scale = layout.cu_seqlens, layout.max_seqlen, mixed.shape[-1] ** -0.5
    if own_kernels(mixed, longest):
        from loratory.models.attention import attention

        return attention(mixed, None, None, bounds, longest=longest, scale=scale, dropout=dropout)
    query, key, value = mixed.unbind(1)
    return _attend(query, key, value, layout, scale=scale, window=None, dropout=dropout)


def own_kernels(query: Tensor, longest: int) -> bool:
    """Whether attention over `query` (…, D) goes to :mod:`loratory.models.attention`; Triton is there where CUDA is."""
    if not query.is_cuda:
        return False
    from loratory.models.attention import takes

    return takes(query, longest)


def _no_mask(*_: Any, **__: Any) -> None:
    """The mask function: sequence bounds travel in the layout."""


def register(attention: Callable[..., tuple[Tensor, None]] = attend) -> None:
    """Make :data:`ATTENTION` known to transformers, as `attention` computes it."""
    AttentionInterface.register(ATTENTION, attention)
    AttentionMaskInterface.register(ATTENTION, _no_mask)
