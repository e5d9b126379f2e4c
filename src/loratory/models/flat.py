"""Flat batches: all tokens of all sequences in one row, padding only inside attention and only where it must be.

transformers lets a program register an attention function by name. With :data:`ATTENTION` registered, an encoder whose
configuration names it runs a batch of shape (1, T), PEFT layers included: the linear layers see T rows, and attention
finds the sequence bounds in the :class:`Layout` that travels with the call. On CUDA in bf16 the tokens go to
`torch.nn.attention.varlen`; elsewhere attention runs on a padded view of the same rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from loratory.data.batches import Batch, padded
from loratory.models.families import Family

ATTENTION = "loratory_flat"
"""The name under which flat attention is registered with transformers."""

_MASKED = -1e30
"""Added to a score that must not count: finite, because a padding row may have no key left in its window."""


@dataclass(frozen=True)
class Layout:
    """Where each sequence of a flat batch stands.

    Attributes:
        cu_seqlens: int32 (B + 1,), the sequences' bounds in the flat row.
        max_seqlen: L, the longest sequence.
        slots: int64 (T,), each token's place in the padded view of B·L rows.
        key_bias: (B, 1, 1, L), 0 at tokens and a very negative number at padding.
    """

    cu_seqlens: Tensor
    max_seqlen: int
    slots: Tensor
    key_bias: Tensor

    @classmethod
    def of(cls, batch: Batch) -> Layout:
        """The layout of `batch`, on its device."""
        bounds, longest = batch.cu_seqlens, batch.max_seqlen
        lengths = bounds.diff().long()
        rows = torch.arange(len(lengths), device=bounds.device).repeat_interleave(lengths, output_size=batch.tokens)
        columns = torch.arange(longest, device=bounds.device)
        bias = torch.zeros(len(lengths), longest, device=bounds.device)
        bias.masked_fill_(columns >= lengths.unsqueeze(1), _MASKED)
        return cls(bounds, longest, rows * longest + batch.position_ids, bias[:, None, None, :])


class _PaddedAttention(torch.autograd.Function):
    """softmax(s·QKᵀ + bias)·V over a padded view, forward and backward by plain products.

    torch's fused CPU kernel spends more than half of a step in its backward when sequences are short; two batched
    products and a softmax do not. Each token stands in the padded view exactly once, so that padding and its reverse
    are row copies in both directions and need no accumulation.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        layout: Layout,
        bias: Tensor,
        scaling: float,
        dropout: float,
    ) -> Tensor:
        """(T, H, D) each -> (T, H, D)."""
        batch, length = len(layout.cu_seqlens) - 1, layout.max_seqlen
        _, heads, width = query.shape
        shape = (batch * heads, length, width)
        q, k, v = (_pad(rows, layout, batch).view(shape) for rows in (query, key, value))
        scores = torch.bmm(q, k.transpose(1, 2)).view(batch, heads, length, length)
        weights = torch.softmax(scores.float().mul_(scaling).add_(bias), dim=-1).to(q.dtype).view(-1, length, length)
        kept = None
        dropped = weights
        if dropout > 0.0:
            kept = torch.empty_like(weights).bernoulli_(1.0 - dropout).div_(1.0 - dropout)
            dropped = weights * kept
        out = torch.bmm(dropped, v)
        ctx.save_for_backward(q, k, v, weights, kept)
        ctx.layout, ctx.scaling, ctx.batch = layout, scaling, batch
        return _unpad(out.view(batch, heads, length, width), layout)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of query, key and value, (T, H, D) each."""
        q, k, v, weights, kept = ctx.saved_tensors
        batch, layout = ctx.batch, ctx.layout
        shape = (batch, q.shape[0] // batch, *q.shape[1:])
        grad_out = _pad(gradients[0].to(q.dtype), layout, batch).view(q.shape)
        dropped = weights if kept is None else weights * kept
        grad_v = torch.bmm(dropped.transpose(1, 2), grad_out)
        grad_weights = torch.bmm(grad_out, v.transpose(1, 2))
        if kept is not None:
            grad_weights = grad_weights * kept
        # softmax backward: dS = P∘(dP - rowsum(dP∘P))
        grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype).mul_(ctx.scaling)
        grad_q = torch.bmm(grad_scores, k)
        grad_k = torch.bmm(grad_scores.transpose(1, 2), q)
        flat = (_unpad(g.view(shape), layout) for g in (grad_q, grad_k, grad_v))
        return (*flat, None, None, None, None)


def _pad(rows: Tensor, layout: Layout, batch: int) -> Tensor:
    """(T, H, D) -> (B, H, L, D), zeros at padding."""
    length = layout.max_seqlen
    view = rows.new_zeros(batch * length, *rows.shape[1:]).index_copy_(0, layout.slots, rows)
    return view.view(batch, length, *rows.shape[1:]).transpose(1, 2).contiguous()


def _unpad(view: Tensor, layout: Layout) -> Tensor:
    """(B, H, L, D) -> (T, H, D)."""
    return view.transpose(1, 2).reshape(-1, view.shape[1], view.shape[3]).index_select(0, layout.slots)


def _window_bias(layout: Layout, window: int) -> Tensor:
    """(1, 1, L, L): very negative where query and key stand more than `window` tokens apart."""
    places = torch.arange(layout.max_seqlen, device=layout.slots.device)
    apart = (places[:, None] - places[None, :]).abs() > window
    return torch.zeros(apart.shape, device=apart.device).masked_fill_(apart, _MASKED)[None, None]


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
        query, key, value: (1, H, T, D).
        attention_mask: always None; `layout` holds the sequence bounds.
        sliding_window: transformers' half-window plus one (ModernBERT's local layers), or None.

    Returns:
        (1, T, H, D) and no attention weights.
    """
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    window = None if sliding_window is None else sliding_window - 1
    q, k, v = (rows[0].transpose(0, 1) for rows in (query, key, value))  # (T, H, D): a view, no copy
    if q.is_cuda and q.dtype == torch.bfloat16 and dropout == 0.0:
        from torch.nn.attention.varlen import varlen_attn

        bounds, longest = layout.cu_seqlens, layout.max_seqlen
        sides = (-1, -1) if window is None else (window, window)
        out = varlen_attn(q, k, v, bounds, bounds, longest, longest, scale=scale, window_size=sides)
        assert isinstance(out, Tensor)
        return out.unsqueeze(0), None
    bias = layout.key_bias if window is None else layout.key_bias + _window_bias(layout, window)
    out = _PaddedAttention.apply(q, k, v, layout, bias, scale, dropout)  # type: ignore[no-untyped-call]  # torch's own
    return out.unsqueeze(0), None


def _no_mask(*_: Any, **__: Any) -> None:
    """The mask function: sequence bounds travel in the layout."""


def register() -> None:
    """Make :data:`ATTENTION` known to transformers. Calling it again changes nothing."""
    AttentionInterface.register(ATTENTION, attend)
    AttentionMaskInterface.register(ATTENTION, _no_mask)


@dataclass(frozen=True)
class Classifier:
    """A batch in, logits out: flat where the model was loaded for it, padded otherwise.

    Attributes:
        model: a transformers sequence classifier, PEFT layers inside or not.
        pad_id: the padding token's id, for the padded path.
    """

    model: nn.Module
    family: Family
    pad_id: int

    @property
    def flat(self) -> bool:
        """Whether batches run flat."""
        config: Any = self.model.config
        return bool(config._attn_implementation == ATTENTION)

    def rows(self, batch: Batch) -> int:
        """Rows that the linear layers compute for `batch`: its tokens, and its padding where it runs padded."""
        return batch.tokens if self.flat else len(batch) * batch.max_seqlen

    def __call__(self, batch: Batch) -> Tensor:
        """Logits (B, C) of a batch that stands on the model's device."""
        model, family = self.model, self.family
        if self.flat and family.apply_head is not None:
            hidden = family.encoder(model)(
                input_ids=batch.input_ids.unsqueeze(0),
                position_ids=(batch.position_ids + family.first_position(model.config)).unsqueeze(0),
                layout=Layout.of(batch),
            ).last_hidden_state[0]
            rows = hidden.index_select(0, batch.cu_seqlens[:-1].long())  # (B, H): each sequence's first token
            return family.apply_head(model, rows)
        ids, mask = padded(batch, self.pad_id)
        logits: Tensor = model(input_ids=ids, attention_mask=mask).logits
        return logits
