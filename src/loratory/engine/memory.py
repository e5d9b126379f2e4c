"""What takes memory in training, and how to need less of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from loratory.engine.modules import stand_in


class Storages:
    """Memory that tensors occupy; what several of them share counts once."""

    def __init__(self, tensors: Iterable[Tensor] = ()) -> None:
        self._sizes: dict[tuple[torch.device, int], int] = {}
        self._held: list[Tensor] = []
        for tensor in tensors:
            self.add(tensor)

    def add(self, tensor: Tensor) -> None:
        """Count `tensor`'s memory, and hold it, so that no other tensor comes to lie there."""
        storage = tensor.untyped_storage()
        key = tensor.device, storage.data_ptr()
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self._held.append(tensor.detach())

    def __contains__(self, tensor: Tensor) -> bool:
        return (tensor.device, tensor.untyped_storage().data_ptr()) in self._sizes

    @property
    def bytes(self) -> int:
        """Of all together."""
        return sum(self._sizes.values())


_counting: list[Callable[[Tensor], object]] = []
"""Who counts what is kept for backward, while somebody does: checkpointed layers keep theirs themselves."""


@contextmanager
def kept_for_backward(*, beside: Storages) -> Iterator[Storages]:
    """Count what forward passes inside keep for their backward passes, but for what lies `beside` (weights)."""
    kept = Storages()

    def count(tensor: Tensor) -> Tensor:
        if tensor not in beside:
            kept.add(tensor)
        return tensor.detach()  # what a node gives out, kept by the node itself, would keep the whole graph alive

    _counting.append(count)
    try:
        with saved_tensors_hooks(count, lambda tensor: tensor):
            yield kept
    finally:
        _counting.pop()


@contextmanager
def checkpointed(layers: Iterable[nn.Module], *, random: bool) -> Iterator[None]:
    """Let each layer keep its input alone in training, and compute the rest again in backward (Chen et al. 2016).

    Args:
        random: whether layers draw from torch's generators, whose state must then be kept too.
    """

    def forward(original: Callable[..., Any], module: nn.Module, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not (module.training and torch.is_grad_enabled()):
            return original(hidden, *args, **kwargs)
        for count in _counting:
            count(hidden)
        again = partial(original, **kwargs)
        return checkpoint(again, hidden, *args, use_reentrant=False, preserve_rng_state=random)

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(stand_in(layer, partial(forward, layer.forward, layer)))
        yield
