"""The parts of training time: forward, backward, optimizer, data, and gaps.

On a CPU the parts of every step are timed as they come. CUDA works behind the host's back: there the device's own
events stand at the parts' borders, inside captured graphs too, and are read where the loop waits for the device anyway.
What training took beyond the device's work is time in which it waited for the host.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from loratory.data.batches import Batch

if TYPE_CHECKING:
    from loratory.engine.passes import Passes

PASSES = ("forward", "backward")
"""The parts that grow with a batch; the others come once a step."""

Marks = Sequence[tuple[str | None, torch.cuda.Event]]
"""Where each part begins on the device; the last ends the part before it."""


class Clock:
    """Divides the time of training steps; :meth:`begin` says which part begins.

    `forward` holds what a frozen bottom took, and copies of weights rounded for a step; `backward` what checkpointed
    layers compute again; `optimizer` clipping, the update and the schedule; `communication` waiting for the sum of
    gradients over processes; `data` the making of batches and their way to the device, as far as the device waits for
    it; `gaps` all else in which the device waits for the host, launches above all (CPU: Python between the parts).
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.bottom = 0.0
        """Seconds of training before the first step: the pass of a frozen bottom."""
        self.on_look: Callable[[], None] = lambda: None
        """Reads the marks of what was replayed last."""
        self._host: defaultdict[str, float] = defaultdict(float)
        self._open: str | None = None
        self._since = 0.0
        self._running = False
        self._marks: list[tuple[str | None, torch.cuda.Event]] | None = None
        self._sleeper: _Sleeper | None = None
        self._passes: Counter[int] = Counter()
        self._updates = 0
        self._sampled: defaultdict[int, list[dict[str, float]]] = defaultdict(list)
        self._once: defaultdict[str, list[float]] = defaultdict(list)
        self._communicated: Marks = ()

    def begin(self, part: str | None) -> None:
        """What was under way ends, and `part` begins; None: nothing does."""
        if self._running:
            now = time.perf_counter()
            if self._open is not None:
                self._host[self._open] += now - self._since
            self._open, self._since = part, now
        if self._sleeper is not None:
            self._sleeper.begin(part)
        elif self._marks is not None:
            self._marks.append((part, recorded(external=True)))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Training steps are made: the host's time counts."""
        self._running = True
        try:
            yield
        finally:
            self.begin(None)
            self._running = False

    def launched(self, act: Callable[[], None]) -> dict[str, float]:
        """Seconds of the host by part of what `act` does, which count towards nothing; before the first step."""
        with self.running():
            act()
        found = dict(self._host)
        self._host.clear()
        return found

    def alone(self, act: Callable[[], None], launched: Mapping[str, float]) -> dict[str, float] | None:
        """Seconds of the device by part of what `act` does, on CUDA; None where the host did not keep ahead of it.

        Args:
            launched: what the host takes for each part.
        """
        self._sleeper = sleeper = _Sleeper(launched, self.device)
        try:
            act()
            self.begin(None)
        finally:
            self._sleeper = None
        torch.cuda.synchronize(self.device)
        return sleeper.seconds()

    @contextmanager
    def marking(self) -> Iterator[Marks]:
        """A graph is captured: parts that begin leave their marks in it, read after each replay."""
        marks: list[tuple[str | None, torch.cuda.Event]] = []
        self._marks = marks
        try:
            yield marks
            self.begin(None)
        finally:
            self._marks = None

    def made(self, rows: int) -> None:
        """The passes of a batch that came to `rows` were made."""
        self._passes[rows] += 1

    def updated(self) -> None:
        """A step was made."""
        self._updates += 1

    def sample(self, rows: int, seconds: Mapping[str, float]) -> None:
        """What parts of a step took on the device whose batch came to `rows`."""
        passes = {part: seconds[part] for part in PASSES if part in seconds}
        if passes:
            self._sampled[rows].append(passes)
        for part in seconds.keys() - passes.keys():
            self._once[part].append(seconds[part])

    @contextmanager
    def communicating(self) -> Iterator[None]:
        """Processes exchange what they have, which no graph holds."""
        self.begin("communication")
        if self.device.type != "cuda":
            yield
            return
        start = recorded()
        yield
        self._communicated = [("communication", start), (None, recorded())]

    def look(self) -> None:
        """The device has done all that was launched: read its marks."""
        self.on_look()
        if self._communicated:
            self.sample(0, between(self._communicated))
            self._communicated = ()

    def state(self) -> dict[str, Any]:
        """What was found so far, in JSON's types; no step is under way."""
        return {
            "bottom": self.bottom,
            "host": dict(self._host),
            "passes": list(self._passes.items()),
            "updates": self._updates,
            "sampled": list(self._sampled.items()),
            "once": dict(self._once),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        self.bottom, self._updates = float(state["bottom"]), int(state["updates"])
        self._host = defaultdict(float, state["host"])
        self._passes = Counter({int(rows): int(count) for rows, count in state["passes"]})
        self._sampled = defaultdict(list, {int(rows): list(found) for rows, found in state["sampled"]})
        self._once = defaultdict(list, {part: list(found) for part, found in state["once"].items()})

    def parts(self, train_seconds: float) -> dict[str, float] | None:
        """Seconds by part, which add up to `train_seconds`; None where the device's work is not known."""
        steps = max(0.0, train_seconds - self.bottom)
        busy = self._timed() if self.device.type == "cpu" else self._worked()
        if busy is None or not self._updates:
            return None
        worked = sum(busy.values())
        if worked > steps:  # samples are not the whole
            busy = {part: seconds * steps / worked for part, seconds in busy.items()}
        waited = max(0.0, steps - worked)
        busy["forward"] = busy.get("forward", 0.0) + train_seconds - steps
        if self.device.type == "cpu":
            return {**busy, "gaps": waited}
        host = sum(self._host.values()) - self._host["waiting"]
        share = self._host["data"] / host if host > 0 else 0.0
        return {**busy, "data": waited * share, "gaps": waited * (1 - share)}

    def _timed(self) -> dict[str, float]:
        kinds = (*PASSES, "optimizer", *(["communication"] if "communication" in self._host else []), "data")
        return {kind: self._host[kind] for kind in kinds}

    def _worked(self) -> dict[str, float] | None:
        """The device's work: that of each batch as much as of the batches sampled about as large."""
        if not self._sampled or not self._once:
            return None
        sizes = sorted(self._sampled)
        rows, counts = np.array(list(self._passes)), np.array(list(self._passes.values()))
        found = {}
        for part in PASSES:
            means = [fmean(one[part] for one in self._sampled[size]) for size in sizes]
            found[part] = float((np.interp(rows, sizes, means) * counts).sum()) if len(rows) else 0.0
        return found | {part: fmean(seconds) * self._updates for part, seconds in self._once.items()}


def between(marks: Marks) -> dict[str, float]:
    """Seconds of each part between its mark and the next; the device has passed them all."""
    found: defaultdict[str, float] = defaultdict(float)
    for (part, start), (_, end) in pairwise(marks):
        if part is not None:
            found[part] += _seconds(start, end)
    return dict(found)


class _Sleeper:
    """Before each part the device sleeps until the host has launched all of it: so its work holds no gaps."""

    def __init__(self, launched: Mapping[str, float], device: torch.device) -> None:
        self._launched = launched
        self._per_second = _cycles_per_second(device)
        self._under_way: tuple[str, torch.cuda.Event] | None = None
        self._done: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._behind = False

    def begin(self, part: str | None) -> None:
        if self._under_way is not None:
            name, start = self._under_way
            self._behind |= bool(start.query())  # type: ignore[no-untyped-call]  # the device was awake before the host was done
            self._done.append((name, start, recorded()))
        self._under_way = None
        if part is not None:
            _sleep(int((3 * self._launched.get(part, 0.0) + 2e-3) * self._per_second))
            self._under_way = part, recorded()

    def seconds(self) -> dict[str, float] | None:
        """Of each part, once the device has done them; None where the host did not keep ahead."""
        return None if self._behind else {part: _seconds(start, end) for part, start, end in self._done}


def recorded(*, external: bool = False) -> torch.cuda.Event:
    """A mark behind all that was launched so far; an external one stays in the graph that is being captured."""
    event = torch.cuda.Event(enable_timing=True, external=external)  # type: ignore[no-untyped-call]  # torch's own
    event.record()
    return event


def _cycles_per_second(device: torch.device) -> float:
    cycles = 5_000_000
    _sleep(cycles)  # the first call loads the kernel
    start = recorded()
    _sleep(cycles)
    end = recorded()
    torch.cuda.synchronize(device)
    return cycles / _seconds(start, end)


def _sleep(cycles: int) -> None:
    torch.cuda._sleep(cycles)  # type: ignore[no-untyped-call]  # torch's own


def _seconds(start: torch.cuda.Event, end: torch.cuda.Event) -> float:
    return float(start.elapsed_time(end)) / 1e3


def probe(step: Passes, batches: Sequence[tuple[Batch, int]]) -> None:
    """Before the first step of those that are launched one by one on CUDA: tell the clock what the device's work on
    steps like these is. Nothing is trained.

    Args:
        batches: of weight 0, on the device, each with the rows it comes to.
    """
    clock, hardware = step.clock, step.hardware
    with step.idle():
        for batch, rows in batches:
            made = partial(_made, step, batch)
            for _ in range(2):  # the first time kernels are loaded
                hardware.synchronize()
                launched = clock.launched(made)
            hardware.synchronize()
            if (seconds := clock.alone(made, launched)) is not None:
                clock.sample(rows, seconds)


def _made(step: Passes, batch: Batch) -> None:
    step.restart()
    step.backward(batch)
    step.update()
