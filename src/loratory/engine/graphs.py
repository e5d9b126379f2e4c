"""Whole optimizer steps as CUDA graphs: captured once for each shape of a batch, replayed for every step.

A short step's cost is launching its thousands of kernels one by one; a replay launches them at once. Batches are
filled up to a few shapes, so that a few graphs serve a whole run:

    tokens     up to the next of a few sizes; the tail is filled with sequences of padding that nothing reads
    examples   always a whole batch's number; those added weigh nothing
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from loratory.data.batches import Batch, Shape, collate, filled, filler
from loratory.data.tokens import TokenTable
from loratory.engine.compiling import Compiled
from loratory.engine.passes import Passes
from loratory.engine.shapes import FILLER, Shapes
from loratory.engine.timing import Marks, between

log = logging.getLogger("loratory")

FEWEST = 4
"""Fewer steps are not worth a capture."""


class Held:
    """A batch of one shape in one buffer on a device, so that one copy fills it.

    Attributes:
        shape: that of the batch.
        batch: views of the buffer.
    """

    def __init__(self, shape: Shape, label: torch.Tensor, device: torch.device, *, types: bool) -> None:
        """
        Args:
            label: one example's, whose shape and type all labels have.
            types: whether tokens have types.
        """
        sizes = {
            "input_ids": (shape.tokens, torch.int64),
            "position_ids": (shape.tokens, torch.int64),
            "labels": (shape.examples * label.numel(), label.dtype),  # of 8 bytes each, as what stands before
            "cu_seqlens": (shape.examples + shape.fillers + 1, torch.int32),
            "weights": (shape.examples, torch.float32),
        }
        if types:  # at the beginning: what is of 64 bits must stand before what is of 32
            sizes = {"token_type_ids": (shape.tokens, torch.int64), **sizes}
        self.shape, self._fields = shape, list(sizes)
        self._more: Mapping[str, torch.Tensor] = {}
        self._more_bytes: list[torch.Tensor] = []
        self.buffer = torch.zeros(sum(n * kind.itemsize for n, kind in sizes.values()), dtype=torch.uint8)
        self.buffer = self.buffer.to(device)
        views, start = {}, 0
        for name, (count, kind) in sizes.items():
            views[name] = self.buffer[start : start + count * kind.itemsize].view(kind)
            start += count * kind.itemsize
        views["labels"] = views["labels"].view(shape.examples, *label.shape)
        self.batch = Batch(**views, max_seqlen=shape.longest)

    def load(self, batch: Batch, pad_id: int) -> None:
        """Fill the buffer with `batch`, which stands on the host, filled up; nobody waits for a device."""
        own, more = batch.tensors(), filler(batch, self.shape, pad_id)
        if more is not self._more:
            self._more, self._more_bytes = more, [_bytes(more[name]) for name in self._fields]
        parts = [
            part
            for name, filling in zip(self._fields, self._more_bytes, strict=True)
            for part in (_bytes(own[name]), filling)
        ]
        packed = torch.empty(self.buffer.numel(), dtype=torch.uint8, pin_memory=self.buffer.is_cuda)
        self.buffer.copy_(torch.cat(parts, out=packed), non_blocking=True)


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)


class _Captured(Held):
    """A graph and the batch on the device that it reads."""

    def __init__(self, shape: Shape, label: torch.Tensor, device: torch.device, *, types: bool) -> None:
        super().__init__(shape, label, device, types=types)
        self.graph = torch.cuda.CUDAGraph()
        self.marks: Marks = ()
        self.full: Sequence[torch.cuda.Event] = ()


class Graphs:
    """Makes the steps of a :class:`Passes` by replaying them; without a capture they run eagerly, filled alike."""

    def __init__(self, step: Passes, shapes: Shapes, *, types: bool = False) -> None:
        self._step, self._shapes, self._types = step, shapes, types
        self._device = step.hardware.device
        self._captured: dict[int, _Captured] = {}
        self._update: torch.cuda.CUDAGraph | None = None
        self._update_marks: Marks = ()
        self._replayed: _Captured | None = None
        step.clock.on_look = self._sample

    def __len__(self) -> int:
        """Shapes captured."""
        return len(self._captured)

    def __call__(self, parts: Iterable[Batch]) -> int:
        """As :meth:`Passes.__call__`."""
        rows, updated, clock = 0, False, self._step.clock
        full: Sequence[torch.cuda.Event] = ()
        for part in parts:
            clock.begin("data")
            shape, pad_id = self._shapes.shape(part.tokens), self._step.classifier.pad_id
            captured = self._captured.get(shape.tokens)
            if captured is None:
                self._step.backward(filled(part, shape, pad_id).to(self._device))
            else:
                captured.load(part, pad_id)
                clock.begin("launching")
                captured.graph.replay()
                updated, self._replayed, full = not self._step.separate, captured, captured.full
            clock.made(shape.tokens)
            rows += shape.tokens
        self._step.share(full)
        if self._update is not None:
            self._update.replay()
        elif not updated:
            self._step.update()
        clock.updated()
        return rows

    def placed(self, part: Batch) -> tuple[Batch, int]:
        """As :meth:`Passes.placed`: filled up."""
        shape = self._shapes.shape(part.tokens)
        return filled(part, shape, self._step.classifier.pad_id).to(self._device), shape.tokens

    def capture(self, *, warm_all: bool = False) -> None:
        """Capture every shape, in the place of what was captured before.

        Nothing is trained meanwhile: warming up runs on a batch of weight 0.

        Args:
            warm_all: whether each shape is warmed up and not the largest alone: what is compiled may differ by shape.

        Raises:
            RuntimeError: the model does something that cannot be captured.
        """
        self.release()
        clock = self._step.clock
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]  # torch's own
        stream.wait_stream(torch.cuda.current_stream(self._device))
        pool = torch.cuda.graph_pool_handle()
        captured: dict[int, _Captured] = {}
        with _closed_if_it_fails(pool, self._device), torch.cuda.stream(stream):
            for tokens in reversed(self._shapes.sizes):  # the largest first: the others find their memory in its pool
                captured[tokens] = self._blank(tokens)
                if len(captured) == 1 or warm_all:
                    self._step.warm_up(captured[tokens].batch)
                graph = captured[tokens].graph
                with torch.cuda.graph(graph, pool=pool, stream=stream), clock.marking() as captured[tokens].marks:
                    self._step.backward(captured[tokens].batch)
                    if not self._step.separate:
                        self._step.update()
                captured[tokens].full = self._step.captured_full()
            update = torch.cuda.CUDAGraph() if self._step.separate else None
            marks: Marks = ()
            if update is not None:
                with torch.cuda.graph(update, pool=pool, stream=stream), clock.marking() as marks:
                    self._step.update()
        torch.cuda.current_stream(self._device).wait_stream(stream)
        self._captured, self._update, self._update_marks = captured, update, marks

    def release(self) -> None:
        """Forget what was captured: steps run eagerly."""
        self._captured, self._update, self._update_marks, self._replayed = {}, None, (), None

    def _sample(self) -> None:
        """Tell the clock what the device took for the step that was replayed last; it is done."""
        if self._replayed is not None:
            rows = self._replayed.batch.tokens
            self._step.clock.sample(rows, between(self._replayed.marks) | between(self._update_marks))

    def seconds(self, *, replays: int = 5) -> float:
        """What a step of the middle shape takes, the mean over `replays` and over all processes; nothing is trained."""
        middle = self._captured[self._shapes.sizes[len(self._shapes.sizes) // 2]]
        processes = self._step.processes
        with self._step.idle():
            took = torch.zeros(1, device=self._device)
            for timed in (False, True):
                self._step.hardware.synchronize()
                begin = time.perf_counter()
                for _ in range(replays):
                    self._step.restart()
                    middle.graph.replay()
                    if self._update is not None:
                        self._update.replay()
                self._step.hardware.synchronize()
                if timed:
                    took += time.perf_counter() - begin
        processes.sum_(took)  # one number for all: they decide alike
        return float(took) / replays / processes.count

    def _blank(self, tokens: int) -> _Captured:
        """A graph whose batch holds padding alone, in examples of like lengths and of weight 0."""
        shape = self._shapes.shape(tokens - 1)
        label = self._step.classifier.blank_label
        captured = _Captured(shape, label, self._device, types=self._types)
        each, more = divmod(min(tokens - 1, shape.examples * shape.longest), shape.examples)
        lengths = np.full(shape.examples, each) + (np.arange(shape.examples) < more)
        table = TokenTable(
            np.full(lengths.sum(), self._step.classifier.pad_id, np.int32),
            np.concatenate([[0], lengths.cumsum()]),
            np.zeros(lengths.sum(), np.uint8) if self._types else None,
        )
        labels = label.expand(shape.examples, *label.shape).numpy()
        batch = collate(table, labels, np.arange(shape.examples), weight=0.0)
        captured.load(batch, self._step.classifier.pad_id)
        return captured


def captured(
    step: Passes,
    totals: Sequence[int],
    *,
    steps: int,
    examples: int,
    longest: int,
    compiled: Compiled,
    types: bool = False,
    why_eager: str | None = None,
) -> tuple[Graphs | Passes, dict[str, Any]]:
    """The quickest way to make the steps of `step`, and what the record says of it.

    Args:
        totals: tokens of every part of a batch that will come.
        steps: how many steps will be made.
        examples: sequences of a whole batch.
        longest: tokens of the longest sequence.
        compiled: layers that may be compiled.
        types: whether batches have types of tokens.
        why_eager: what stands against graphs, if anything does.
    """
    why = "not on CUDA" if step.hardware.device.type != "cuda" else None
    if why is None and (why := why_eager or step.classifier.why_eager) is not None:
        log.info("no CUDA graphs: %s; steps run eagerly", why)
    if why is not None:
        return step, _made(why, compiled)
    config: Any = step.classifier.model.config
    filler = min(FILLER, step.classifier.family.longest(config))
    graphs = Graphs(step, Shapes.of(totals, examples=examples, longest=longest, filler=filler), types=types)
    if not step.hardware.graphs:
        return graphs, _made("switched off", compiled)
    if len(totals) < FEWEST:
        return graphs, _made("too few steps", compiled)
    begin = time.perf_counter()
    why = _tried(graphs, step)
    if why is not None:
        log.warning("no CUDA graphs: %s; steps run eagerly", why)
        return graphs, _made(why, compiled)
    made = {"graphs": len(graphs), "capture_seconds": time.perf_counter() - begin, "why_eager": None}
    return graphs, {**made, "compiled": _compiled(graphs, step, compiled, steps=steps)}


def _made(why_eager: str, compiled: Compiled) -> dict[str, Any]:
    """What the record says where steps are not captured, so that nothing is compiled."""
    why = compiled.why_not or "steps are not captured"
    return {"graphs": 0, "why_eager": why_eager, "compiled": {"layers": 0, "why": why}}


def _tried(graphs: Graphs, step: Passes, *, warm_all: bool = False) -> str | None:
    """Capture; where that fails, why, and all is as it was before.

    Raises:
        OutOfMemoryError: the device's memory does not hold a step.
    """
    drawn = torch.cuda.get_rng_state(step.hardware.device)
    why: str | None = None
    try:
        graphs.capture(warm_all=warm_all)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        why = str(error).strip().splitlines()[0]
    (failed,) = step.processes.largest([int(why is not None)], step.hardware.device)  # all capture, or none
    if failed:
        graphs.release()
        step.forget()  # what the capture that failed left
        _renew_generator(step.hardware.device, drawn)
        return why or "another process could not"
    return None


def _compiled(graphs: Graphs, step: Passes, compiled: Compiled, *, steps: int) -> dict[str, Any]:
    """Compile the layers if the run's `steps` are expected to pay for it and become faster; what the record says."""
    if compiled.why_not is not None:
        return {"layers": 0, "why": compiled.why_not}
    before = graphs.seconds()
    said = {"layers": 0, "step_seconds": before}
    if not compiled.pays(before, steps):
        return {**said, "why": f"{steps} steps of {before * 1e3:.1f} ms do not pay for it"}
    log.info("compiling %d layers for %d steps of %.1f ms", len(compiled.layers), steps, before * 1e3)
    begin = time.perf_counter()
    compiled.start()
    why = _tried(graphs, step, warm_all=True)
    said["compile_seconds"] = time.perf_counter() - begin
    if why is None:
        said["compiled_step_seconds"] = after = graphs.seconds()
        if after < before:
            return {**said, "layers": len(compiled.layers), "why": None}
        why = f"steps took {after * 1e3:.1f} ms compiled"
    compiled.stop()
    log.warning("layers run uncompiled: %s", why)
    again = _tried(graphs, step)
    if again is not None:
        log.warning("no CUDA graphs: %s; steps run eagerly", again)
    return {**said, "why": why}


@contextmanager
def _closed_if_it_fails(pool: tuple[int, int], device: torch.device) -> Iterator[None]:
    """Close the device's pool of a capture that failed, which torch leaves open: as long as it is, the allocator takes
    a capture for under way, and frees nothing that several streams have used. (That of pinned memory stays open, too,
    and no call from Python closes it.)
    """
    try:
        yield
    except RuntimeError:
        try:
            torch._C._cuda_endAllocateToPool(_index(device), pool)
        except RuntimeError as error:  # nothing was being captured, or torch has closed it
            log.debug("no pool of a capture to close: %s", error)
        else:
            torch._C._cuda_releasePool(_index(device), pool)
        raise


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


def _renew_generator(device: torch.device, state: torch.Tensor) -> None:
    """Give `device`'s generator another state, that says `state`: a capture that failed lets its own draw no more."""
    fresh = torch.Generator(device)
    fresh.set_state(state)
    torch.cuda.default_generators[_index(device)].graphsafe_set_state(fresh.graphsafe_get_state())
