"""What dominates the time and the memory of runs that are compared: the lines under their table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from loratory.errors import counted
from loratory.report.notes import few
from loratory.store.naming import Record, lookup, setting
from loratory.study import why

MOST = 4
"""Settings that are spoken of; a table of more says how many it leaves out."""

Said = tuple[str, str, str]
"""A run's name, the parts of a cost, and what dominates."""


def dominating(records: Sequence[Record], names: Sequence[str]) -> list[str]:
    """The parts of the time and of the memory of each setting's first run, and what dominates: once where runs share
    it."""
    first: dict[str, tuple[str, Record]] = {}
    for record, name in zip(records, names, strict=True):
        if record.get("status") == "completed" and lookup(record, "cost") is not None:
            first.setdefault(setting(record), (name, record))
    chosen = list(first.values())[:MOST]
    times = [(name, *_time(record)) for name, record in chosen if _has(record, "train_seconds")]
    held = [
        (name, *why.memory_said(_parts(record, "memory_parts_bytes")))
        for name, record in chosen
        if _has(record, "peak_memory_bytes")
    ]
    lines = [*_lines("Training time", times), *_lines("Peak memory", held)]
    if len(first) > MOST:
        lines.append(f"What time and memory of {counted(len(first) - MOST, 'more setting')} went into: --json.")
    return lines


def _lines(what: str, found: Sequence[Said]) -> list[str]:
    of: dict[str, list[str]] = defaultdict(list)
    for name, _, end in found:
        of[end].append(name)
    lines = []
    for name, parts, end in found:
        said = "; ".join(one for one in (parts, end if len(of[end]) == 1 else "") if one)
        lines += [f"{what} of {name}: {said}."] if said else []
    return lines + [f"{what} of {few(names)}: {end}." for end, names in of.items() if len(names) > 1]


def _time(record: Record) -> tuple[str, str]:
    trainable, total = (lookup(record, "parameters", key) for key in ("trainable", "total"))
    cpu = lookup(record, "environment", "device_type") != "cuda"
    return why.time_said(_parts(record, "time_parts_seconds"), frozen=trainable != total, cpu=cpu)


def _has(record: Record, cost: str) -> bool:
    return lookup(record, "cost", cost) is not None


def _parts(record: Record, key: str) -> Mapping[str, float] | None:
    """The parts, where the record has them."""
    found = lookup(record, "cost", key)
    return found if isinstance(found, Mapping) else None
