"""Modules that compute what torch's own compute: dropout with the run's own masks, embeddings at less cost on a CPU.

`quicken` puts them in the place of `nn.Dropout` and `nn.Embedding` before training; parameters keep their names and
values.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loratory.engine.draws import Draws


class Dropout(nn.Module):
    """Dropout whose masks are the run's own."""

    def __init__(self, p: float, draws: Draws) -> None:
        super().__init__()
        self.p, self._draws = float(p), draws

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same shape."""
        return self._draws.dropped(x, self.p) if self.training and self.p > 0 else x

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
def quicken(model: nn.Module, draws: Draws, layers: Iterable[nn.Module]) -> Iterator[list[Embedding]]:
    """Replace dropouts, and on a CPU trained embeddings, in `model`, in place; at the end the modules are what they
    were.

    Gives the embeddings, whose gradients must be cleared after each step.

    Args:
        draws: where masks come from.
        layers: the encoder's. On CUDA dropouts inside them stay torch's: they may be compiled, or have kernels.
    """
    cpu = draws.seed.device.type == "cpu"
    stock = set() if cpu else {module for layer in layers for module in layer.modules()}
    if cpu:
        keep_freed_memory()
    embeddings: list[Embedding] = []
    with ExitStack() as stack:
        for module in [module for module in model.modules() if module not in stock]:
            for name, child in list(module.named_children()):
                if type(child) is nn.Dropout:
                    setattr(module, name, Dropout(child.p, draws))
                elif cpu and type(child) is nn.Embedding and child.weight.requires_grad and _plain(child):
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
