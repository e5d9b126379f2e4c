"""What dominates the time and the memory of runs that are compared: the lines under their table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from loratory.errors import counted
from loratory.store.naming import Record, lookup, setting
from loratory.study import why

MOST = 4
"""Settings that are spoken of; a table of more says how many it leaves out."""


def dominating(records: Sequence[Record], names: Sequence[str]) -> list[str]:
    """A sentence on the time and one on the memory of each setting's first run, beside the first standard run's."""
    first: dict[str, tuple[str, Record]] = {}
    for record, name in zip(records, names, strict=True):
        if record.get("status") == "completed" and lookup(record, "cost") is not None:
            first.setdefault(setting(record), (name, record))
    chosen = list(first.values())
    standard = next((one for one in chosen if lookup(one[1], "spec", "method", "name") == "standard"), None)
    lines = [line for one in chosen[:MOST] for line in _said(one, None if one is standard else standard)]
    if len(chosen) > MOST:
        lines.append(f"What time and memory of {counted(len(chosen) - MOST, 'more setting')} went into: --json.")
    return lines


def _said(one: tuple[str, Record], standard: tuple[str, Record] | None) -> list[str]:
    name, record = one
    lines = []
    trainable, total = (lookup(record, "parameters", key) for key in ("trainable", "total"))
    cpu = lookup(record, "environment", "device_type") != "cuda"
    if lookup(record, "cost", "train_seconds") is not None:
        time, other = _parts(record, "time_parts_seconds"), _beside(standard, "time_parts_seconds")
        lines.append(why.time_said(name, time, frozen=trainable != total, cpu=cpu, other=other))
    if lookup(record, "cost", "peak_memory_bytes") is not None:
        memory, other = _parts(record, "memory_parts_bytes"), _beside(standard, "memory_parts_bytes")
        lines.append(why.memory_said(name, memory, other))
    return lines


def _beside(standard: tuple[str, Record] | None, key: str) -> tuple[str, Mapping[str, float]] | None:
    parts = None if standard is None else _parts(standard[1], key)
    if standard is None or parts is None or why.shares(parts) is None:
        return None
    return standard[0], parts


def _parts(record: Record, key: str) -> Mapping[str, float] | None:
    """The parts, where the record has them."""
    found = lookup(record, "cost", key)
    return found if isinstance(found, Mapping) else None
