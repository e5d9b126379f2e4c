"""Layers compiled by torch.compile, where the steps left save more time than compiling takes.

Layers of BERT's shape need it not: :mod:`loratory.engine.layers` computes them. Others gain by a compiler that joins
their norms, activations and rotations. What they would gain is known only after compiling, so that the decision rests
on what was measured before (:data:`SECONDS`, :data:`SAVED`), and is taken back where a step did not become faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import nn

from loratory.engine.modules import stand_in
from loratory.models import flat_attention

SECONDS = 30.0
"""What compiling the layers of an encoder takes: ModernBERT-base on an H100, 20 to 30 s."""

SAVED = 0.3
"""The share of a step that compiled layers save: ModernBERT-base on an H100, batches of 32, 0.29 to 0.44."""


class Compiled:
    """Layers that can be compiled.

    Attributes:
        layers: all of them; none where compiling is out of the question.
        why_not: why there are none.
    """

    def __init__(self, layers: Iterable[nn.Module] = (), *, why_not: str | None = None, backend: str = "inductor"):
        self.layers, self.why_not = list(layers), why_not
        self._backend = backend
        self._undo = ExitStack()

    def pays(self, seconds: float, steps: int) -> bool:
        """Whether `steps` steps of `seconds` each are expected to save more than compiling takes."""
        return bool(self.layers) and SAVED * seconds * steps > SECONDS

    def start(self) -> None:
        """Let passes in training run compiled from now on; what computes otherwise, and attention, stay as they are."""

        def forward(plain: Callable[..., Any], quick: Callable[..., Any], layer: nn.Module, *a: Any, **k: Any) -> Any:
            return (quick if layer.training and torch.is_grad_enabled() else plain)(*a, **k)

        for layer in self.layers:
            for part in layer.modules():
                if "forward" in vars(part):
                    apart = torch.compiler.disable(part.forward)  # type: ignore[no-untyped-call]  # torch's own
                    self._undo.callback(stand_in(part, apart))
            plain: Any = layer.forward
            quick = torch.compile(plain, dynamic=True, backend=self._backend)
            self._undo.callback(stand_in(layer, partial(forward, plain, quick, layer)))
        flat_attention.register(torch.compiler.disable(flat_attention.attend))  # type: ignore[no-untyped-call]  # torch's own
        self._undo.callback(flat_attention.register)

    def stop(self) -> None:
        """Let the layers compute as before."""
        self._undo.close()
