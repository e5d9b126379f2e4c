"""Where dropout's masks come from: on a CPU torch's generator, on CUDA a seed that kernels draw from by themselves.

Dropout of a sequence classifier stands in its layers, before them and in its head; all of it is drawn here, so that a
run's masks follow from its seed alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

_CUT = 1 << 16
"""A 64-bit random integer is cut into four draws of 16 bits: p is met to 1/65536."""


_CALLS = 3072
"""Sites from here on are calls of one pass, and those below places in layers; there are 4,096."""


def kernels() -> ModuleType:
    """The CUDA kernels; Triton is there where CUDA is."""
    from loratory.engine import kernels

    return kernels


def mask(x: Tensor, p: float, generator: torch.Generator | None = None) -> Tensor:
    """0 or 1/(1-p) for each element of `x`, in its dtype, drawn on the CPU.

    Cut from 64-bit random integers, as `bernoulli_` draws each element by itself. Kept elements are scaled by the
    inverse of the probability with which they are really kept, so that the expectation is exact, up to the rounding of
    that number to the input's dtype.

    Args:
        generator: by default torch's own.
    """
    count, dropped = x.numel(), min(round(p * _CUT), _CUT - 1)  # of 65536 equally likely draws
    draws = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None, generator=generator)
    kept = torch.empty_like(x)
    # written as 0 and 1 straight into x's dtype: a boolean mask would be converted in another pass
    torch.ge(draws.view(torch.int16)[:count].view(x.shape), dropped - _CUT // 2, out=kept)
    return kept.mul_(_CUT / (_CUT - dropped))


class Seeds(NamedTuple):
    """What kernels draw masks from.

    Attributes:
        seed: (1,) int64 on the device; of a cohort (K,), each member's own.
        owner: (T,) int64 whose each row is, in a cohort.
        bounds: (K + 1,) where each member's rows begin, in a cohort.
    """

    seed: Tensor
    owner: Tensor | None = None
    bounds: Tensor | None = None


class Draws:
    """A run's masks.

    On CUDA there is a seed on the device, drawn anew for each forward pass from torch's generator, from which every
    site draws its own numbers.
    """

    def __init__(self, device: torch.device) -> None:
        self.seed = torch.zeros(1, dtype=torch.int64, device=device)
        self._sites = self._calls = 0

    def refresh(self) -> None:
        """To be called before each forward pass in training."""
        self._calls = 0
        self.seed.random_(2**31)

    def site(self) -> int:
        """A number that no other site has."""
        self._sites += 1
        return self._sites

    def seeds(self, rows: int) -> Seeds:
        """What kernels draw from, for a tensor of so many rows."""
        return Seeds(self.seed)

    def mask(self, x: Tensor, p: float | Sequence[float]) -> Tensor:
        """0 or 1/(1-p) for each element of `x` (T, I) on the CPU; of a cohort `p` may be each member's own."""
        assert isinstance(p, float)
        return mask(x, p)

    def drop(self, x: Tensor, p: float | Tensor, site: int, *, into: Tensor | None = None) -> Tensor:
        """x∘M on CUDA, (T, I), or `into` with that added to it in place: drawn again alike until the next pass.

        Args:
            p: of a cohort, (K,) on the device, each member's own.
        """
        dropped: Tensor = kernels().drop(x, p, self.seeds(len(x)), site, into=into)
        return dropped

    def dropped(self, x: Tensor, p: float) -> Tensor:
        """x∘M of any shape, which autograd knows; each call of a pass draws a mask of its own."""
        self._calls += 1
        rows = x.reshape(-1, x.shape[-1])
        if not x.is_cuda:
            return (rows * self.mask(rows, p)).view(x.shape)
        found: Tensor = _Drop.apply(rows, p, self, _CALLS + self._calls)  # type: ignore[no-untyped-call]  # torch's own
        return found.view(x.shape)


class _Drop(torch.autograd.Function):
    """x∘M by the kernel, whose mask is drawn again in backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, draws: Draws, site: int) -> Tensor:
        ctx.given = p, draws, site
        return draws.drop(x.contiguous(), p, site)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        p, draws, site = ctx.given
        return draws.drop(gradients[0].contiguous(), p, site), None, None, None
