"""A member's part of what its cohort cost, and what it would have cost alone."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from loratory.engine.meter import Phase


@dataclass(frozen=True)
class Alone:
    """What such a run takes by itself, from a few of its steps that were made alone on the same device.

    Attributes:
        bottom_seconds: of the one pass of a frozen bottom, if it has one.
        step_seconds: of an optimizer step.
        timed_steps: how many were timed.
        memory_kind: `allocated` on CUDA, `resident` on a CPU.
        peak_bytes: of its heaviest step.
        parts_bytes: what that is made of.
    """

    bottom_seconds: float
    step_seconds: float
    timed_steps: int
    memory_kind: str
    peak_bytes: int
    parts_bytes: dict[str, int]

    def train_seconds(self, steps: int) -> float:
        """Of so many optimizer steps, and of what is before them."""
        return self.bottom_seconds + self.step_seconds * steps

    @property
    def own_bytes(self) -> int:
        """What a member adds to its cohort, at most: all but the weights, and on a CPU but the process itself."""
        parts = self.parts_bytes
        rest = parts["rest"] if self.memory_kind == "allocated" else 0
        return parts["gradients"] + parts["optimizer"] + parts["activations"] + rest


@dataclass(eq=False)
class Share:
    """What a member cost, in the place of a meter.

    The record's `cost` says what the run takes alone, so that nothing that reads it credits a method with the speed of
    a cohort: seconds of training are its steps times the seconds of a step made alone, memory that of such a step.
    What was not measured alone is null there. Its `cohort` says how it was trained: equal shares of the cohort's
    seconds among the members that were under way, and the cohort's own peak.

    Attributes:
        name: the cohort's, the same for all members.
        members: the runs' ids.
        seconds: its share by phase.
        peak: the cohort's peak memory by kind, bytes.
        steps, examples, tokens: the member's own.
    """

    name: str
    members: Sequence[str]
    alone: Alone
    seconds: dict[Phase, float]
    peak: Mapping[str, int | None]
    steps: int
    examples: int
    tokens: int
    resident_measured: str
    checkpoint_bytes: int | None = None

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """Count the time inside towards `name`."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - begin

    def record(self) -> dict[str, Any]:
        """The `cost` part of run.json."""
        alone, train = self.alone, self.alone.train_seconds(self.steps)
        peak = dict.fromkeys(("allocated", "reserved", "resident")) | {alone.memory_kind: alone.peak_bytes}
        return {
            "setup_seconds": None,
            "train_seconds": train,
            "time_parts_seconds": None,
            "eval_seconds": None,
            "checkpoint_seconds": self.seconds["checkpoint"],
            "total_seconds": None,
            "steps": self.steps,
            "resumed_at_steps": [],
            "examples": self.examples,
            "tokens": self.tokens,
            "padded_tokens": None,
            "tokens_per_second": self.tokens / train if train > 0 else None,
            "peak_memory_bytes": peak,
            "memory_parts_bytes": alone.parts_bytes,
            "resident_measured": self.resident_measured,
            "checkpoint_bytes": self.checkpoint_bytes,
            "devices": 1,
            "energy_joules": None,
        }

    def cohort(self) -> dict[str, Any]:
        """The `cohort` part of run.json."""
        return {
            "name": self.name,
            "members": list(self.members),
            "share_seconds": dict(self.seconds),
            "peak_memory_bytes": dict(self.peak),
            "alone": {key: getattr(self.alone, key) for key in ("bottom_seconds", "step_seconds", "timed_steps")},
        }
