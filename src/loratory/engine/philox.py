"""The numbers that torch draws one by one on CUDA, many at a time on the host."""

from __future__ import annotations

import logging
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

log = logging.getLogger("loratory")

_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = 0x9E3779B9, 0xBB67AE85
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox(key: int, counters: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Philox4x32-10 (Salmon et al. 2011, SC '11): (N, 4) words of 32 bits.

    Args:
        key: of 64 bits.
        counters: (N, 4) words of 32 bits, the lowest first.
    """
    c = list(counters.T)
    for number in range(10):
        k = [np.uint64(((key >> 32 * half) + number * _WEYL[half]) & 0xFFFFFFFF) for half in (0, 1)]
        a, b = _MULTIPLIERS[0] * c[0], _MULTIPLIERS[1] * c[2]
        c = [(b >> _HALF) ^ c[1] ^ k[0], b & _LOW, (a >> _HALF) ^ c[3] ^ k[1], a & _LOW]
    return np.stack(c, axis=1)


def seeds(seed: int, count: int, device: torch.device) -> torch.Tensor:
    """(count,) int64 on `device`: what a CUDA generator with that seed draws in so many calls of `random_(2**31)`, each
    of one number. Where torch draws otherwise than is known here, they are drawn one by one, some microseconds each.
    """
    word = _word(device)
    if word is not None:
        words = philox(seed % 2**64, _counters(count))[:, word]
        return torch.from_numpy((words % np.uint64(2**31)).astype(np.int64)).to(device)
    return _one_by_one(seed, count, device)


@cache
def _word(device: torch.device) -> int | None:
    """Which of a counter's four words torch takes: releases differ. None where it is none of them."""
    key, count = 0x1234_5678_9ABC_DEF0, 8
    drawn = _one_by_one(key, count, device).cpu().numpy().astype(np.uint64)
    words = philox(key, _counters(count)) % np.uint64(2**31)
    found = next((word for word in range(4) if (words[:, word] == drawn).all()), None)
    if found is None:
        log.info("torch %s draws seeds of masks otherwise than is known: they are drawn one by one", torch.__version__)
    return found


def _counters(count: int) -> NDArray[np.uint64]:
    """(count, 4) of the first calls."""
    numbers, none = np.arange(count, dtype=np.uint64), np.zeros(count, np.uint64)
    return np.stack([numbers & _LOW, numbers >> _HALF, none, none], axis=1)


def _one_by_one(seed: int, count: int, device: torch.device) -> torch.Tensor:
    generator = torch.Generator(device).manual_seed(seed)
    found = torch.zeros(count, dtype=torch.int64, device=device)
    for place in found.unbind():
        place.random_(2**31, generator=generator)
    return found
