"""What a run costs: time by phase, work done, peak memory.

Training time is the optimizer steps alone, the device synchronised at both ends; set-up, evaluation and total stand
beside it. Peak memory is that of training, from when model and data stand in memory: not of the process's past, not of
making tokens, which a cache may hold already, and not of evaluation, whose batches are larger.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import psutil
import torch

from loratory.engine.energy import energy_counter, identity, used
from loratory.engine.hardware import Hardware
from loratory.engine.timing import Clock

Phase = Literal["setup", "train", "eval", "checkpoint"]

ASIDE = ("eval", "checkpoint")
"""Phases whose memory is not what training needs."""


class Costs(Protocol):
    """What a run cost, as its record has it: a meter's count, or a member's part of what its cohort cost."""

    checkpoint_bytes: int | None
    """Of the weights that it saves, or would."""

    def phase(self, name: Phase) -> AbstractContextManager[None]:
        """Count the time inside towards `name`."""
        ...

    def record(self) -> dict[str, Any]:
        """The `cost` part of run.json."""
        ...

    def cohort(self) -> dict[str, Any] | None:
        """The `cohort` part of run.json; None of a run that trained alone."""
        ...


class Meter:
    """Counts time, work and memory from its construction on."""

    def __init__(self, hardware: Hardware) -> None:
        self.hardware = hardware
        self.seconds: dict[Phase, float] = dict.fromkeys(get_args(Phase), 0.0)
        self.steps = self.examples = self.tokens = self.padded_tokens = 0
        self.checkpoint_bytes: int | None = None
        self.resumed_at_steps: list[int] = []
        """At which steps an interrupted run was taken up again."""
        self.memory_parts: dict[str, int] | None = None
        """Bytes of what training must hold, by part, on its largest batch; the rest of the peak is added."""
        self.clock = Clock(hardware.device)
        """Divides the training time."""
        gc.collect()
        hardware.release()
        self._resident = _resident_meter()
        self._peak: dict[str, int | None] | None = None
        self._stopped = False
        self._joules = energy_counter(hardware.device)
        self._energy = 0.0
        self._used: tuple[int, float | None] | None = None
        """Devices of all processes, and their joules, once all have trained."""
        if hardware.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self._start = time.perf_counter()

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """Count the time inside towards `name`; the peak of memory inside those in :data:`ASIDE` is left out."""
        if name in ASIDE:
            self._peak = self._highest()
        self.hardware.synchronize()
        joules = self._joules() if self._joules is not None and name == "train" else None
        start = time.perf_counter()
        try:
            yield
        finally:
            self.hardware.synchronize()
            self.seconds[name] += time.perf_counter() - start
            if joules is not None and self._joules is not None:
                self._energy += self._joules() - joules
            if name in ASIDE:
                self._restart_peak()

    def of_part(self, part: str) -> AbstractContextManager[None]:
        """The phase that a pass over a part of the data counts towards: a frozen bottom's over the training texts is a
        cost of training, though it is paid once."""
        return self.phase("train" if part == "train" else "eval")

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Count the time inside towards nothing, the total neither; no phase is open."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._start += time.perf_counter() - start

    def count(self, *, examples: int, tokens: int, padded_tokens: int) -> None:
        """One optimizer step was made on so much.

        Args:
            padded_tokens: rows that the linear layers computed, padding and filler included.
        """
        self.steps += 1
        self.examples += examples
        self.tokens += tokens
        self.padded_tokens += padded_tokens

    def state(self) -> dict[str, Any]:
        """What was counted so far, in JSON's types; no phase is open. In every process."""
        return {
            "seconds": dict(self.seconds),
            "elapsed": time.perf_counter() - self._start,
            "counts": [self.steps, self.examples, self.tokens, self.padded_tokens],
            "peak": self._highest(),
            "energy": self.hardware.processes.gathered(self._energy),
            "clock": self.clock.state(),
            "resumed_at_steps": self.resumed_at_steps,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` gave, before the first step: what was counted since then is set-up.

        What was done between that state and an interruption is counted nowhere.
        """
        again, before = sum(self.seconds.values()), state["seconds"]
        self.seconds = {**before, "setup": before["setup"] + again}
        self._start -= state["elapsed"]
        self.steps, self.examples, self.tokens, self.padded_tokens = state["counts"]
        now = self._highest()
        self._peak = {kind: None if one is None else max(one, state["peak"][kind] or 0) for kind, one in now.items()}
        self._energy = state["energy"][self.hardware.processes.rank]
        self.clock.restore(state["clock"])
        self.resumed_at_steps = [*state["resumed_at_steps"], self.steps]

    def start_memory(self) -> None:
        """Forget the peak so far: what comes now is training."""
        gc.collect()
        self._restart_peak()

    def stop_memory(self) -> None:
        """Take the peak now: what comes after (scoring, saving, loading back) is not what the method needs.

        Of processes that train together the largest peak is taken, and the rows that all of them computed and the
        energy of all their devices.
        """
        peak, processes, device = self._highest(), self.hardware.processes, self.hardware.device
        most = processes.largest([value or 0 for value in peak.values()], device)
        self._peak = {kind: now if peak[kind] is not None else None for kind, now in zip(peak, most, strict=True)}
        rows = torch.tensor(self.padded_tokens, device=device)
        processes.sum_(rows)
        self.padded_tokens = int(rows)
        self._used = used(processes.gathered((identity(device), self._joules_used())))
        self._stopped = True

    def _joules_used(self) -> float | None:
        return self._energy if self._joules is not None else None

    def _highest(self) -> dict[str, int | None]:
        """The largest peak so far, by kind."""
        now = self._peak_memory()
        if self._stopped or self._peak is None:
            return self._peak or now
        return {kind: max(now[kind] or 0, was) if was is not None else None for kind, was in self._peak.items()}

    def _restart_peak(self) -> None:
        if self.hardware.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        self._resident = _resident_meter()

    def _parts(self, peak: dict[str, int | None]) -> dict[str, int] | None:
        if self.memory_parts is None:
            return None
        most = peak["allocated"] if peak["allocated"] is not None else peak["resident"] or 0
        return {**self.memory_parts, "rest": most - sum(self.memory_parts.values())}

    def _peak_memory(self) -> dict[str, int | None]:
        cuda = self.hardware.device.type == "cuda"
        return {
            "allocated": torch.cuda.max_memory_allocated() if cuda else None,
            "reserved": torch.cuda.max_memory_reserved() if cuda else None,
            "resident": self._resident.peak(),
        }

    def record(self) -> dict[str, Any]:
        """The `cost` part of run.json; seconds, bytes and joules.

        `devices` are those of all processes that trained: GPUs, or machines whose CPUs did; `energy_joules` is theirs.
        Both are null where several processes did not end their training together.
        """
        train = self.seconds["train"]
        alone = (1, self._joules_used()) if self.hardware.processes.count == 1 else (None, None)
        devices, joules = self._used or alone
        return {
            "setup_seconds": self.seconds["setup"],
            "train_seconds": train,
            "time_parts_seconds": self.clock.parts(train),
            "eval_seconds": self.seconds["eval"],
            "checkpoint_seconds": self.seconds["checkpoint"],
            "total_seconds": time.perf_counter() - self._start,
            "steps": self.steps,
            "resumed_at_steps": self.resumed_at_steps,
            "examples": self.examples,
            "tokens": self.tokens,
            "padded_tokens": self.padded_tokens,
            "tokens_per_second": self.tokens / train if train > 0 else None,
            "peak_memory_bytes": (peak := self._highest()),
            "memory_parts_bytes": self._parts(peak),
            "resident_measured": self._resident.how,
            "checkpoint_bytes": self.checkpoint_bytes,
            "devices": devices,
            "energy_joules": joules,
        }

    def cohort(self) -> None:
        """None: what a meter counts trained alone."""


class _KernelPeak:
    """The kernel's own high-water mark (VmHWM), set back to the present at the start. Linux only."""

    how = "kernel high-water mark"

    def __init__(self) -> None:
        _release_free_memory()
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # 5: reset the peak resident set, proc(5)

    def peak(self) -> int:
        """Bytes."""
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("/proc/self/status has no VmHWM")


class _SampledPeak:
    """The largest of samples taken every 20 ms: where the kernel keeps no mark that can be set back."""

    how = "sampled every 20 ms"

    def __init__(self) -> None:
        _release_free_memory()
        self._process = psutil.Process()
        self._peak = self._process.memory_info().rss
        self._done = threading.Event()
        threading.Thread(target=self._sample, daemon=True).start()

    def _sample(self) -> None:
        while not self._done.wait(0.02):
            self._peak = max(self._peak, self._process.memory_info().rss)

    def peak(self) -> int:
        """Bytes; the sampling ends here."""
        self._done.set()
        return max(self._peak, self._process.memory_info().rss)


def _resident_meter() -> _KernelPeak | _SampledPeak:
    try:
        return _KernelPeak()
    except OSError:  # not Linux, or a kernel that does not let the mark be reset; the record says which was used
        return _SampledPeak()


def _release_free_memory() -> None:
    """Give memory freed by earlier work back to the system, so that it does not count as this run's."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
        if trim is not None:
            trim(0)
