"""What training time and peak memory go into, and what dominates: why a method is not faster, or not smaller.

Every sentence is about measured parts of runs (`time_parts_seconds`, `memory_parts_bytes` of the record).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from loratory import units

Parts = Mapping[str, float]

WAITING = 0.25
"""From this share of training time on, a device that waits for its host is what is said first."""

DOMINANT = 0.4
"""From this share on, a part is said to dominate."""

_NAMES = {
    False: {"data": "waiting for batches", "gaps": "waiting for launches"},
    True: {"data": "making batches", "gaps": "between the parts"},
}
"""What a reader calls the parts whose names are no plain words; True: where the host is the device."""


def shares(parts: Parts | None) -> dict[str, float] | None:
    """Each part of the whole, largest first; None where there is no whole, or a part was measured above it."""
    if not parts or sum(parts.values()) <= 0 or min(parts.values()) < 0:  # medians of parts need not add up
        return None
    whole = sum(parts.values())
    return {name: number / whole for name, number in sorted(parts.items(), key=lambda item: -item[1])}


def listed_parts(
    parts: Parts, show: Callable[[float], str], other: tuple[str, Parts] | None = None, *, cpu: bool = False
) -> str:
    """`backward 50% (2.10 s; standard 4.20 s), forward …`, largest first; parts that round to nothing are left out.

    Args:
        other: whose parts stand beside these, and its name.
        cpu: whether the host is the device.
    """
    found = []
    for name, share in (shares(parts) or {}).items():
        if share < 0.005:
            continue
        beside = f"; {other[0]} {show(other[1][name])}" if other is not None and name in other[1] else ""
        found.append(f"{_NAMES[cpu].get(name, name)} {share:.0%} ({show(parts[name])}{beside})")
    return ", ".join(found)


def time_dominated(parts: Parts, *, frozen: bool, cpu: bool = False) -> str:
    """What dominates training time, as a sentence's end; empty where nothing does, or it is not known.

    Args:
        frozen: whether some of the model's weights are not trained.
        cpu: whether the host is the device: then it waits for nobody.
    """
    found = shares(parts)
    if found is None:
        return ""
    waiting = found.get("data", 0.0) + found.get("gaps", 0.0)
    if waiting >= WAITING and not cpu:
        return (
            f"for {waiting:.0%} of its time the device waits for the host, which fewer trained parameters do not "
            "change and larger batches do"
        )
    passes = found.get("forward", 0.0) + found.get("backward", 0.0)
    if frozen and found.get("forward", 0.0) >= 1 - DOMINANT:
        return "forward passes dominate, which go through frozen layers too"
    if frozen and passes >= DOMINANT:
        return f"{passes:.0%} are forward and backward passes, which go through frozen layers too"
    if found.get("optimizer", 0.0) >= DOMINANT:
        return "the optimizer dominates, which fewer trained parameters shorten"
    if passes >= DOMINANT:
        return f"{passes:.0%} are forward and backward passes through the whole model, all of which is trained"
    if found.get("communication", 0.0) >= DOMINANT:
        return "the exchange between processes dominates, which fewer trained parameters shorten"
    if waiting >= DOMINANT:
        return f"{waiting:.0%} goes into making batches and into Python between the parts, whatever is trained"
    return ""


def memory_dominated(parts: Parts) -> str:
    """What dominates peak memory, and what lowers it; empty where nothing does."""
    found = shares(parts)
    if found is None:
        return ""
    state = found.get("gradients", 0.0) + found.get("optimizer", 0.0)
    if state >= DOMINANT:
        return f"{state:.0%} are gradients and optimizer state, which fewer trained parameters save"
    if found.get("activations", 0.0) >= DOMINANT:
        return (
            "activations dominate, which grow with a batch's tokens, not with what is trained: --accumulate and "
            "--activation-checkpointing lower them"
        )
    if found.get("rest", 0.0) >= DOMINANT:
        return "most is neither the model nor its training state: libraries, kernels' workspace, what is freed between"
    if found.get("weights", 0.0) >= DOMINANT:
        return "the model's own weights dominate"
    return ""


NOTHING = "no part of it dominates"


def unknown(parts: Parts | None, show: Callable[[float], str]) -> str:
    """Why it cannot be said what dominates, as a sentence's end; empty where it can."""
    if shares(parts) is not None:
        return ""
    below = [f"{name} {units.MINUS}{show(-number)}" for name, number in (parts or {}).items() if number < 0]
    if not below:
        return "what it went into is not known"
    return (
        f"its parts, measured apart, come to more than the whole ({', '.join(below)}), so that none is said to dominate"
    )


def time_said(parts: Parts | None, *, frozen: bool, cpu: bool) -> tuple[str, str]:
    """The parts of a run's training time, largest first, and what dominates; no parts, and why, where they do not add
    up."""
    if parts is None or shares(parts) is None:
        return "", unknown(parts, units.duration)
    return listed_parts(parts, units.duration, cpu=cpu), time_dominated(parts, frozen=frozen, cpu=cpu) or NOTHING


def memory_said(parts: Parts | None) -> tuple[str, str]:
    """As :func:`time_said`, of what a run's peak memory held."""
    if parts is None or shares(parts) is None:
        return "", unknown(parts, units.memory)
    return listed_parts(parts, units.memory), memory_dominated(parts) or NOTHING
