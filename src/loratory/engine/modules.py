"""Modules that compute what torch's own compute, at less cost on a CPU.

`quicken` puts them in the place of `nn.Dropout` and `nn.Embedding` before training on a CPU; parameters keep their
names and values.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_DRAWS = 1 << 16
"""A 64-bit random integer is cut into four draws of 16 bits: p is met to 1/65536."""


class Dropout(nn.Module):
    """Dropout with masks cut from 64-bit random integers; `bernoulli_` draws each element by itself.

    Kept elements are scaled by the inverse of the probability with which they are really kept, so that the expectation
    is exact, up to the rounding of that number to the input's dtype.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self._dropped = min(round(p * _DRAWS), _DRAWS - 1)  # of 65536 equally likely draws

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same shape."""
        if not self.training or self._dropped == 0:
            return x
        return x * self.mask(x)

    def mask(self, x: Tensor) -> Tensor:
        """0 or 1/(1-p) for each element of `x`, in its dtype, from torch's global generator."""
        count = x.numel()
        draws = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
        kept = torch.empty_like(x)
        # written as 0 and 1 straight into x's dtype: a boolean mask would be converted in another pass
        torch.ge(draws.view(torch.int16)[:count].view(x.shape), self._dropped - _DRAWS // 2, out=kept)
        return kept.mul_(_DRAWS / (_DRAWS - self._dropped))

    def extra_repr(self) -> str:
        return f"p={self.p}"


class _Lookup(torch.autograd.Function):
    """Rows of a table; the gradient goes into a buffer that is kept, and only rows in use are written or cleared.

    torch fills a new gradient of the table's full size with zeros at each step: for 30,522 rows of which a batch
    touches a few hundred, that costs more than the whole backward pass of a layer.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, module: Embedding) -> Tensor:
        ctx.module = module
        ctx.save_for_backward(ids)
        return F.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None]:
        (ids,) = ctx.saved_tensors
        ctx.module.accumulate(ids.reshape(-1), gradients[0].reshape(ids.numel(), -1))
        return None, None, None


class Embedding(nn.Module):
    """A table of rows whose gradient buffer lives as long as the module; see :class:`_Lookup`.

    The rows' gradients are added up in the order of the ids, as torch does on one thread. After the optimizer's step,
    :meth:`clear` zeroes what was touched, in place of `zero_grad`.
    """

    def __init__(self, original: nn.Embedding) -> None:
        super().__init__()
        self.weight = original.weight
        self.padding_idx = original.padding_idx
        self._touched: list[Tensor] = []

    def forward(self, ids: Tensor) -> Tensor:
        """int64 ids of any shape -> rows (..., H)."""
        if not torch.is_grad_enabled():
            return F.embedding(ids, self.weight)
        rows: Tensor = _Lookup.apply(self.weight, ids, self)  # type: ignore[no-untyped-call]  # torch's own
        return rows

    def accumulate(self, ids: Tensor, gradient: Tensor) -> None:
        """Add `gradient` (N, H) to the rows `ids` (N,) of the weight's gradient; the padding row gets none."""
        if self.padding_idx is not None:
            padding = ids == self.padding_idx
            if padding.any():
                gradient = gradient.masked_fill(padding.unsqueeze(1), 0.0)
        if self.weight.grad is None:
            self.weight.grad = torch.zeros_like(self.weight)
        self.weight.grad.index_add_(0, ids, gradient.to(self.weight.dtype))
        self._touched.append(ids)

    def clear(self, *, whole: bool = False) -> None:
        """Zero the gradient's touched rows; all of it where others have added theirs, or where no row was looked up:
        then the table was used as a whole, as DeBERTa uses its relative positions."""
        if self.weight.grad is not None and (whole or not self._touched):
            self.weight.grad.zero_()
        elif self.weight.grad is not None:
            for ids in self._touched:
                self.weight.grad.index_fill_(0, ids, 0.0)
        self._touched.clear()


def stand_in(module: nn.Module, forward: Callable[..., Any]) -> Callable[[], None]:
    """Let `forward` compute in the place of the module's own; hooks stay.

    Returns:
        What brings back the forward that was there. Stand-ins of one module go in the reverse order of their coming.
    """
    own: Any = module
    before = vars(module).get("forward")
    own.forward = forward

    def leave() -> None:
        if before is None:
            del own.forward
        else:
            own.forward = before

    return leave


@contextmanager
def quicken(model: nn.Module) -> Iterator[list[Embedding]]:
    """Replace dropouts and trained embeddings in `model`, in place; at the end the modules are what they were.

    Gives the embeddings, whose gradients must be cleared after each step.
    """
    keep_freed_memory()
    embeddings: list[Embedding] = []
    with ExitStack() as stack:
        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if type(child) is nn.Dropout:
                    setattr(module, name, Dropout(child.p))
                elif type(child) is nn.Embedding and child.weight.requires_grad and _plain(child):
                    embeddings.append(Embedding(child))
                    setattr(module, name, embeddings[-1])
                else:
                    continue
                stack.callback(setattr, module, name, child)
        yield embeddings
        for embedding in embeddings:
            embedding.weight.grad = None


def _plain(embedding: nn.Embedding) -> bool:
    return embedding.max_norm is None and not embedding.scale_grad_by_freq and not embedding.sparse


def keep_freed_memory() -> None:
    """Tell glibc's allocator to keep freed memory, and not to give it to the system at each step and ask for it again.

    The page faults of fresh memory would be paid at every step. Elsewhere than on glibc nothing is done.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # malloc.h
        mallopt(mmap_threshold, 1 << 30)
        mallopt(trim_threshold, 2**31 - 1)
