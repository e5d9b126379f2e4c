"""Training by several processes at once, each with its own share of every batch, as `torchrun` starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """The processes that train together, seen from one of them. Alone, everything here costs nothing.

    Attributes:
        rank: this one's number, from 0.
        count: how many there are.
        local_rank: its number on its machine: the GPU that is its own.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @classmethod
    def here(cls) -> Processes:
        """The processes that were joined, or this one alone."""
        if not dist.is_initialized():
            return cls()
        return cls(dist.get_rank(), dist.get_world_size(), int(os.environ["LOCAL_RANK"]))

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def seed(self, seed: int) -> int:
        """A seed for this process's own draws, in 32 bits: torch's generator on a CPU reads no more; alone, `seed`."""
        if self.count == 1:
            return seed
        return int(np.random.SeedSequence([seed, self.rank]).generate_state(1)[0])

    def sum_(self, tensor: Tensor) -> None:
        """Put the sum over all processes into `tensor`."""
        if self.count > 1:
            dist.all_reduce(tensor)

    def largest(self, values: Sequence[int], device: torch.device) -> list[int]:
        """Of each value the largest that a process has."""
        if self.count == 1:
            return list(values)
        tensor = torch.tensor(values, device=device)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return [int(value) for value in tensor.tolist()]

    def gathered(self, value: T) -> list[T]:
        """Every process's `value`, in all of them, by rank."""
        if self.count == 1:
            return [value]
        held: list[T] = [value] * self.count
        dist.all_gather_object(held, value)
        return held

    def told(self, value: T) -> T:
        """The first process's `value`, in all of them."""
        if self.count == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held, src=0)
        return held[0]


ALONE = Processes()


class Agreement:
    """Whether any process wishes something. Where all ask at the same places, all get the same answer.

    On a CPU the answer is that to the question itself. CUDA works behind the host's back, which must not wait for it:
    there it is that to the question before, so that the host is never ahead by more than a step.
    """

    def __init__(self, processes: Processes, device: torch.device) -> None:
        """
        Args:
            device: where the processes compute.
        """
        self._processes, self._device = processes, device
        self._asked: tuple[Tensor, torch.cuda.Event] | None = None

    def __call__(self, wish: bool) -> bool:
        """The answer that is there by now. After a yes the next question is the first."""
        if self._processes.count == 1 or self._device.type != "cuda":
            return self.now(wish)
        before, self._asked = self._asked, self._ask(wish)
        if before is None or not _heard(*before):
            return False
        self._asked = None
        return True

    def now(self, wish: bool) -> bool:
        """The answer to this question, and to one that is open."""
        self._asked = None
        (wished,) = self._processes.largest([int(wish)], self._device)
        return bool(wished)

    def _ask(self, wish: bool) -> tuple[Tensor, torch.cuda.Event]:
        flag = torch.full((1,), int(wish), device=self._device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        heard = flag.to("cpu", non_blocking=True)  # into pinned memory
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's own
        event.record()
        return heard, event


def _heard(answer: Tensor, event: torch.cuda.Event) -> bool:
    event.synchronize()
    return bool(answer.item())


@contextmanager
def joined(*, cuda: bool) -> Iterator[None]:
    """Join the processes that `torchrun` started together with this one; without it, nothing.

    Args:
        cuda: whether they compute on GPUs, one each: NCCL joins them, Gloo elsewhere.
    """
    if not dist.is_torchelastic_launched() or dist.is_initialized():
        yield
        return
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()
