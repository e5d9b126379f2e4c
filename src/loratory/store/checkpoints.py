"""Checkpoints of a run that is under way: they stand beside its place until it is committed.

    .NAME.checkpoint-0000000120/    state.safetensors, state.json, manifest.json (SHA-256 of both, written last)
    .NAME.checkpoint-0000000120-1/  another of the same step: none is renamed over another, or out of its way

Two are kept, so that one that is damaged leaves another. Whoever asks holds the run's place (`claim`); one that was
stopped and has lost it meanwhile finds its stage gone, and leaves what its successor wrote as it is.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from loratory.disk.files import disk_errors, refused, sync
from loratory.disk.json_text import parsed
from loratory.disk.manifest import RESTORE, Sealed, seal, verified, vouch
from loratory.errors import DamagedError, StorageError, counted, first_line
from loratory.store.directory import check_claim, claim, set_aside, staging
from loratory.store.lock import is_held

log = logging.getLogger("loratory")

TENSORS, FACTS = "state.safetensors", "state.json"

SCHEMA = 1

KEPT = 2
"""Checkpoints that stand at once."""


@dataclass(frozen=True)
class Found:
    """A checkpoint that is whole."""

    path: Path
    sealed: Sealed
    """What its manifest says of the tensors."""
    facts: dict[str, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    """On the CPU, in the file's own pages until somebody writes to them; none where they are still to be read."""

    def told(self) -> Found:
        """What another process needs to read it: little."""
        return replace(self, tensors={})

    def read(self) -> Found:
        """With the tensors, in a process that was told of it.

        Raises:
            StorageError: they are not there, as on another machine, or not those that the first process read.
        """
        try:
            vouch(self.path / TENSORS, self.sealed)
        except DamagedError as error:
            raise StorageError(
                f"{self.path / TENSORS} is not here as the first process found it; where several machines train "
                "together, the run's directory must be one that they share"
            ) from error
        return replace(self, tensors=_tensors(self.path))


class Checkpoints:
    """The checkpoints of the run whose place is `output`."""

    def __init__(self, output: Path, fingerprint: str, kin: str) -> None:
        """
        Args:
            kin: what runs share with it that differ in their number of CPU threads alone.
        """
        self.output = output
        self._fingerprint, self._kin = fingerprint, kin

    def newest(self) -> Found | None:
        """The newest that is whole, its tensors read. What is damaged is set aside and told. Where there is none, it is
        told where one stands of this run with another number of threads.

        Raises:
            StorageError: they are another run's, or cannot be read.
        """
        for path in reversed(self._paths()):
            try:
                manifest = verified(path)
                if not {TENSORS, FACTS} <= manifest.keys():
                    raise DamagedError(f"{path} lacks {TENSORS} or {FACTS}")
                document = parsed((path / FACTS).read_text("utf8"))
                owner, schema, facts = document["fingerprint"], document["schema"], document["facts"]
                tensors = _tensors(path) if owner == self._fingerprint and schema == SCHEMA else {}
            except OSError as error:
                raise StorageError(f"the checkpoint {path} cannot be read: {error.strerror}") from error
            except (DamagedError, ValueError, KeyError, TypeError, SafetensorError) as error:
                check_claim(self.output)  # else it may be a successor's, and whole
                why = first_line(error).removesuffix(f"; {RESTORE}")
                set_aside(path, f"{why}; the checkpoint before it is used, where there is one")
                continue
            if owner != self._fingerprint:
                self.check_threads()
            if owner != self._fingerprint or schema != SCHEMA:
                others = counted(len(self._paths()), "checkpoint")
                raise StorageError(
                    f"{self.output}: {others} of another run stand beside it ({path.name}), begun with other settings, "
                    "data, threads, device or versions; give those again, remove them, or choose another --output"
                )
            return Found(path, manifest[TENSORS], facts, tensors)
        if (found := self._of_other_threads(_found(self.output.parent, ".+"))) is not None:
            log.warning("%s to go on from it", found)
        return None

    def check_threads(self) -> None:
        """Refuse a place whose checkpoints are this run's with another number of threads.

        Raises:
            StorageError: says which.
        """
        if (found := self._of_other_threads(self._paths())) is not None:
            raise StorageError(f"{found}, or choose another --output")

    def _of_other_threads(self, paths: Sequence[Path]) -> str | None:
        """Why the newest of these that is this run's with another number of threads is not used; None without one."""
        for path in reversed(paths):
            try:
                document = parsed((path / FACTS).read_text("utf8"))
                kin, threads = document["kin"], document["facts"]["threads"]
            except (OSError, ValueError, KeyError, TypeError):  # another's, or damaged: whoever goes on from it says so
                continue
            if kin == self._kin and threads != (now := torch.get_num_threads()):
                return (
                    f"{path}, of this run with {counted(threads, 'CPU thread')}, is not used: with {now} "
                    f"sums are rounded otherwise; give --threads {threads}"
                )
        return None

    def write(self, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
        """Commit one, and remove those that it makes superfluous.

        Raises:
            StorageError: the disk refuses, or the place has been lost; those before are as they were.
        """
        place = self._next(step)
        document = {"schema": SCHEMA, "fingerprint": self._fingerprint, "kin": self._kin, "facts": facts}
        try:
            with staging(self.output) as stage:
                with disk_errors(stage / TENSORS):
                    save_file(dict(tensors), stage / TENSORS)
                (stage / FACTS).write_text(json.dumps(document, allow_nan=False) + "\n", encoding="utf8")
                seal(stage)
                check_claim(self.output)
                os.rename(stage, place)
                sync(place.parent)
            check_claim(self.output)
            for path in self._paths()[:-KEPT]:
                shutil.rmtree(path)
        except OSError as error:
            raise refused(place, error, otherwise="make it writable") from error
        return place

    def clear(self) -> int:
        """Remove them all: the run is committed, or cannot go on. Returns how many there were.

        Raises:
            StorageError: one cannot be removed, or the place has been lost.
        """
        check_claim(self.output)
        found = self._paths()
        try:
            for path in found:
                shutil.rmtree(path)
        except OSError as error:
            raise StorageError(f"cannot remove {error.filename}: {error.strerror}") from error
        return len(found)

    def _next(self, step: int) -> Path:
        """Where the next one of that step is to stand: others may stand there since before an interruption, or since
        before the validation after this step."""
        first = self.output.parent / f".{self.output.name}.checkpoint-{step:010d}"
        same = [path for path in self._paths() if path.name.startswith(first.name)]
        if not same:
            return first
        number = int(same[-1].name.removeprefix(first.name).removeprefix("-") or 0)
        return first.with_name(f"{first.name}-{number + 1}")

    def _paths(self) -> list[Path]:
        """Those that stand there, the oldest first."""
        return _found(self.output.parent, re.escape(self.output.name))


def _tensors(path: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = load_file(path / TENSORS)
    return tensors


def has_any(output: Path) -> bool:
    """Whether there is a checkpoint of the run whose place is `output`, whole or not."""
    return bool(_found(output.parent, re.escape(output.name)))


def clear_orphans(parent: Path, wanted: Collection[str]) -> int:
    """Remove the checkpoints in `parent` of all runs but those called `wanted`; those stay, too, in whose place another
    process is at work.

    Returns:
        How many checkpoints were removed.

    Raises:
        StorageError: one cannot be removed.
    """
    found = _found(parent, ".+")
    removed = 0
    for name in sorted({path.name[1:].rpartition(".checkpoint-")[0] for path in found} - {*wanted}):
        if not is_held(parent / f".{name}.lock"):
            with claim(parent / name):
                removed += Checkpoints(parent / name, "", "").clear()
    return removed


def _found(parent: Path, name: str) -> list[Path]:
    """The checkpoints in `parent` of runs whose name has the form `name`, those of each run the oldest first."""
    form = re.compile(rf"(\.{name}\.checkpoint-\d{{10}})(?:-(\d+))?")
    found = [(one, path) for path in parent.iterdir() if (one := form.fullmatch(path.name))] if parent.is_dir() else []
    return [path for _, path in sorted(found, key=lambda each: (each[0][1], int(each[0][2] or 0)))]
