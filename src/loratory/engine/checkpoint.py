"""All that training stands at between two steps, so that it can go on from there as if nothing had been.

    weights of what is trained, AdamW's moments, what a method keeps itself, the sum of losses      tensors
    torch's generators, of every process                                                            tensors
    place in schedule and data, history, best epoch so far (and its weights), meter                 facts

Everything else is made anew from the spec and the seed: frozen weights, the orders of the epochs, a frozen bottom's
output. On a CPU with the same number of threads, and on one CUDA device in deterministic mode, a run that goes on from
such a state ends with the same bits as one that was never interrupted, unless what :meth:`Hardware.rounding` gives has
changed since: then one line says so, and the record.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from loratory.engine.epoch import Ready
from loratory.engine.processes import Agreement

log = logging.getLogger("loratory")

CHANGED = "changed_at_resuming"
"""Of what the record says of the engine: what was not as before when the run went on, where anything was."""


@dataclass
class Standing:
    """Where the loop stands."""

    epoch: int = 1
    """The one under way."""
    seen: int = 0
    """Of how many examples of its order steps were made."""
    history: list[dict[str, Any]] = field(default_factory=list)
    best: tuple[int, dict[str, float]] | None = None
    """The best epoch so far and its scores, where they are watched."""
    kept: dict[str, Tensor] | None = None
    """The weights of that epoch, where they will be wanted."""
    stopped: bool = False
    """Whether patience is at its end."""


@dataclass(frozen=True)
class State:
    """A state of training, as it is stored.

    Attributes:
        tensors: on the CPU, by name; where it is taken by several processes, whole in the first.
        facts: in JSON's types.
    """

    tensors: dict[str, Tensor]
    facts: dict[str, Any]

    @property
    def step(self) -> int:
        """How many steps were made."""
        return int(self.facts["meter"]["counts"][0])


class Keeper(Protocol):
    """Decides when a state is kept, and keeps it."""

    found: State | None
    """The one to go on from, until it was taken."""

    def due(self, steps: int) -> bool:
        """Whether one is to be kept now; the loop asks after every step."""
        ...

    def ends(self) -> bool:
        """Whether the run is to end now with a state; the loop asks between the batches of a validation, which is then
        made anew."""
        ...

    def end(self) -> None:
        """End the run, by an exception, where that is asked for: nothing was done that a state would hold."""
        ...

    def keep(self, state: State) -> None:
        """Keep it. In every process; it ends the run where that is asked for."""
        ...


class NoKeeper:
    """Keeps nothing."""

    found: State | None = None

    def due(self, steps: int) -> bool:
        """Never."""
        return False

    def ends(self) -> bool:
        """Never."""
        return False

    def end(self) -> None:
        """Never."""

    def keep(self, state: State) -> None:
        """Nothing."""


@dataclass
class Pauses:
    """When the loop pauses for a state to be kept: of several processes all at the same step."""

    keeper: Keeper
    agreement: Agreement
    asked: bool = False
    """Whether it is to pause now."""

    def __call__(self, steps: int) -> bool:
        """Asked after each step."""
        self.asked = self.agreement(self.keeper.due(steps))
        return self.asked

    def now(self, steps: int) -> bool:
        """Asked before a validation and after it: what is due is kept before the loop goes on."""
        self.asked = self.asked or self.agreement.now(self.keeper.due(steps))
        return self.asked

    def within(self) -> bool:
        """Asked within a validation, which is broken off where the run is to end."""
        self.asked = self.agreement(self.keeper.ends())
        return self.asked


def taken(run: Ready, at: Standing) -> State:
    """The state of training now; no step is under way. Of several processes, which all have the same weights, the first
    alone brings them to its memory.
    """
    processes, tensors = run.hardware.processes, dict[str, Tensor]()
    if processes.first:
        tensors |= {f"step/{name}": tensor for name, tensor in run.one.state().items()}
        tensors |= {f"kept/{name}": tensor for name, tensor in (at.kept or {}).items()}
    found = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    for rank, generators in enumerate(processes.gathered(_generators(run.hardware.device))):
        found |= {f"generator/{rank}/{kind}": state for kind, state in generators.items()}
    facts = {
        "epoch": at.epoch,
        "seen": at.seen,
        "history": at.history,
        "best": at.best,
        "stopped": at.stopped,
        "threads": torch.get_num_threads(),
        "meter": run.meter.state(),
        "rounding": run.hardware.rounding(),
        CHANGED: run.engine.get(CHANGED, []),
    }
    return State(found, facts)


def restored(run: Ready, state: State) -> Standing:
    """Bring a state back, before the first step, and say where the loop stands; and what is not as it was then."""
    facts, rank = state.facts, run.hardware.processes.rank
    run.one.restore(_under("step/", state.tensors))
    run.meter.restore(facts["meter"])
    _compare(run, state)
    _draw_on(_under(f"generator/{rank}/", state.tensors), run.hardware.device)
    kept = {name: tensor.to(run.hardware.device, copy=True) for name, tensor in _under("kept/", state.tensors).items()}
    best = None if facts["best"] is None else (int(facts["best"][0]), dict(facts["best"][1]))
    return Standing(facts["epoch"], facts["seen"], list(facts["history"]), best, kept or None, facts["stopped"])


def _compare(run: Ready, state: State) -> None:
    """Say in log and record in which of what may decide how sums are rounded the run goes on otherwise."""
    before, now = (_flat(one) for one in (state.facts["rounding"], run.hardware.rounding()))
    found = [
        {"step": state.step, "what": name, "before": before.get(name), "after": now.get(name)}
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if changes := [*state.facts[CHANGED], *found]:
        run.engine[CHANGED] = changes
    if found and run.hardware.processes.first:
        said = ", ".join(f"{one['what']} ({one['before'] or 'none'} → {one['after'] or 'none'})" for one in found)
        log.warning(
            "goes on after step %d with another %s: sums may be rounded otherwise than in a run without interruption; "
            "run.json says so",
            state.step,
            said,
        )


def _flat(rounding: Mapping[str, Any]) -> dict[str, str | None]:
    """Each variable of the environment by its own name."""
    return {**{key: value for key, value in rounding.items() if key != "variables"}, **rounding["variables"]}


def _under(begin: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(begin): tensor for name, tensor in tensors.items() if name.startswith(begin)}


def _generators(device: torch.device) -> dict[str, Tensor]:
    """The states of the generators that steps draw from; orders and initial values come from seeds of their own."""
    found = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(device)
    return found


def _draw_on(generators: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(generators["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(generators["cuda"], device)
