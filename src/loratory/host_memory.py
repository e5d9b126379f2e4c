"""The machine's memory: how much of it this process may still take, and what training needs of it.

Linux lets a container, a job of a cluster or a systemd unit have less than the machine has, by control groups
(cgroups(7); memory.max of version 2, memory.limit_in_bytes of version 1). Who takes more is killed. psutil knows what
the whole machine has free, and nothing of groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import psutil

MOUNT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
"""In which groups this process is: lines of `number:controllers:path`."""

FLOAT = 4
"""Bytes of a number in fp32."""


@dataclass(frozen=True)
class _Files:
    """What a version of control groups calls its files, and the rows of memory.stat that count files' pages."""

    limit: str
    used: str
    cached: tuple[str, str]


_ONE = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))
_TWO = _Files("memory.max", "memory.current", ("inactive_file", "active_file"))


def available_memory() -> int:
    """Bytes that this process may take: what the machine has free, or what the limit of one of its groups leaves."""
    return min([psutil.virtual_memory().available, *_left_by_groups()])


def training_memory(parameters: Mapping[str, int], *, mapped: bool) -> int:
    """Bytes that training takes at least beside the weights, in fp32: gradients and AdamW's two moments of what is
    trained.

    Args:
        parameters: their numbers, as :meth:`loratory.methods.TrainableModel.counts` gives them.
        mapped: whether the model's weights are pages of their file, of which those that are trained get copies.
    """
    return FLOAT * (3 * parameters["trainable"] + (parameters["unfrozen"] if mapped else 0))


def _left_by_groups() -> Iterator[int]:
    """What the limit of each group that this process is in leaves; those without a limit are passed over."""
    for group, files in _groups():
        try:
            limit = int((group / files.limit).read_text("ascii"))
            used = int((group / files.used).read_text("ascii"))
        except (OSError, ValueError):  # no limit: no such files, or "max"; and a container does not see all groups
            continue
        yield max(0, limit - used + _cached(group, files))


def _cached(group: Path, files: _Files) -> int:
    """Files' pages among what is used, which are given back when room is wanted; 0 where nobody says."""
    with suppress(OSError, ValueError):
        rows = dict(line.split() for line in (group / "memory.stat").read_text("ascii").splitlines())
        return sum(int(rows.get(name, 0)) for name in files.cached)
    return 0


def _groups() -> Iterator[tuple[Path, _Files]]:
    """The group of this process that counts memory, and those above it, whose limits are its own too."""
    try:
        lines = OWN.read_text("utf8").splitlines()
    except OSError:  # not Linux
        return
    for line in filter(None, lines):
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        mount, files = (MOUNT / "memory", _ONE) if controllers else (MOUNT, _TWO)
        inner = PurePosixPath("/" if ".." in path else path).relative_to("/")  # `..`: above what a container sees
        for group in (inner, *inner.parents) if inner.parts else (inner,):
            yield mount / group, files
