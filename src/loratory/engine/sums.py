"""The sum of gradients over processes that train together, while the backward pass still goes on.

Gradients stand end to end in buckets, in the reverse order of the parameters, in which backward comes to them about.
One that is full is summed while earlier layers are computed (Li et al. 2020, *PyTorch Distributed: Experiences on
Accelerating Data Parallel Training*). A captured pass marks where a bucket is full; its sum waits for that mark, and
stands in no graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from loratory.engine.timing import recorded

BUCKET = 64 << 20
"""The most bytes of a bucket of several gradients: few enough that most are summed before backward ends."""

ALIGNED = 32
"""Numbers between the beginnings of two gradients are multiples of so many, 128 bytes: kernels read them in words."""


class Bucket:
    """The gradients of some parameters, end to end in one tensor; `joint` is zero between them."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = parameters
        starts = [0]
        for parameter in parameters:
            starts.append(starts[-1] + -(-parameter.numel() // ALIGNED) * ALIGNED)
        first = parameters[0]
        self.joint = torch.zeros(starts.pop(), dtype=first.dtype, device=first.device)
        self._views = [
            self.joint[start : start + parameter.numel()].view(parameter.shape)
            for start, parameter in zip(starts, parameters, strict=True)
        ]

    def pack(self) -> None:
        """Bring the gradients that are there to their places; from then on they stand there. Zeros stand for others."""
        if absent := [
            view for parameter, view in zip(self.parameters, self._views, strict=True) if parameter.grad is None
        ]:
            torch._foreach_zero_(absent)
        there = [
            (parameter, parameter.grad, view)
            for parameter, view in zip(self.parameters, self._views, strict=True)
            if parameter.grad is not None and parameter.grad.data_ptr() != view.data_ptr()
        ]
        if there:
            torch._foreach_copy_([view for _, _, view in there], [gradient for _, gradient, _ in there])
        for parameter, _, view in there:
            parameter.grad = view


class Sums:
    """Sums gradients over all processes.

    Attributes:
        full: marks in the graph that was captured last, one for each bucket, behind which it is full.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], *, single: bool, late: Sequence[Tensor] = ()) -> None:
        """
        Args:
            single: whether a step has one backward pass; gradients of several add up, and are summed after the last.
            late: of the parameters those whose gradients are whole only when the backward pass has ended.
        """
        self.full: list[torch.cuda.Event] = []
        self._buckets = _buckets(parameters)
        self._single, self._late = single, {id(parameter) for parameter in late}
        self._without = set[int]()  # parameters to which the last pass gave no gradient: none waits for them again
        self._works: list[dist.Work] = []
        self._aside = torch.cuda.Stream() if parameters[0].is_cuda else None  # type: ignore[no-untyped-call]  # torch's
        self._silent = False

    @contextmanager
    def backward(self) -> Iterator[None]:
        """Around a backward pass: buckets are sent on their way as they become full, everywhere in the same order."""
        if not self._single:
            yield
            if self._silent:
                self._pack()
            return
        self.full = []
        filling, handles = _Filling(self._buckets, self._without, self._send), []
        for number, bucket in enumerate(self._buckets):
            for parameter in bucket.parameters:
                if parameter.requires_grad and id(parameter) not in self._late:
                    parameter.grad = None
                    hook = partial(filling.came, number)
                    handles.append(parameter.register_post_accumulate_grad_hook(hook))  # type: ignore[no-untyped-call]  # torch's own
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        filling.end()
        free = [parameter for bucket in self._buckets for parameter in bucket.parameters if parameter.requires_grad]
        self._without = {id(parameter) for parameter in free if parameter.grad is None}

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Backward passes inside bring gradients to their places, and no process hears of them."""
        self._silent = True
        try:
            yield
        finally:
            self._silent = False

    def finish(self, full: Sequence[torch.cuda.Event] = ()) -> None:
        """Let the device's work that follows wait until all buckets are summed.

        Args:
            full: of a graph that was replayed, its marks.
        """
        if full:
            assert self._aside is not None
            with torch.cuda.stream(self._aside):
                for event, bucket in zip(full, self._buckets, strict=True):
                    self._aside.wait_event(event)
                    self._send(bucket)
        elif not self._single:
            self._pack()
            for bucket in self._buckets:
                self._send(bucket)
        for work in self._works:
            work.wait()
        self._works.clear()

    def _pack(self) -> None:
        for bucket in self._buckets:
            bucket.pack()

    def _send(self, bucket: Bucket) -> None:
        if self._silent:
            return
        if bucket.joint.is_cuda and torch.cuda.is_current_stream_capturing():
            self.full.append(recorded(external=True))
            return
        work = dist.all_reduce(bucket.joint, async_op=True)
        assert work is not None
        self._works.append(work)


class _Filling:
    """Which gradients a backward pass has not come to yet, by bucket; full ones are packed and sent, in order."""

    def __init__(self, buckets: Sequence[Bucket], without: set[int], send: Callable[[Bucket], None]) -> None:
        self._buckets, self._without, self._send = buckets, without, send
        self._missing = [
            sum(parameter.requires_grad and id(parameter) not in without for parameter in bucket.parameters)
            for bucket in buckets
        ]
        self._sent = 0

    def came(self, number: int, parameter: Tensor) -> None:
        """The gradient of `parameter`, in the bucket of that number, is whole.

        Raises:
            RuntimeError: nobody waited for it, and its bucket is on its way.
        """
        if id(parameter) in self._without:
            if number < self._sent:
                raise RuntimeError("a parameter has a gradient that had none in the step before")
            return
        self._missing[number] -= 1
        while self._sent < len(self._buckets) and self._missing[self._sent] == 0:
            self._release()

    def end(self) -> None:
        """The pass has ended: what has no gradient by now gets none."""
        while self._sent < len(self._buckets):
            self._release()

    def _release(self) -> None:
        bucket = self._buckets[self._sent]
        bucket.pack()
        self._send(bucket)
        self._sent += 1


def _buckets(parameters: Sequence[nn.Parameter]) -> list[Bucket]:
    """All parameters, the last first, in buckets of at most :data:`BUCKET` bytes, or of a single parameter."""
    groups: list[list[nn.Parameter]] = []
    room = 0
    for parameter in reversed(parameters):
        if parameter.nbytes > room:
            groups.append([])
            room = BUCKET
        groups[-1].append(parameter)
        room -= parameter.nbytes
    return [Bucket(group) for group in groups]
