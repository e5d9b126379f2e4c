"""A hostile file: what it is, how it is made, what it is given to, and how it must be refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RUNS, DAMAGED = (8,), (3, 4, 5, 8)
"""Exit codes of what could run code or exhaust the machine, and of what is merely wrong."""


@dataclass(frozen=True)
class Bench:
    """Where one case is made; nothing else here may change."""

    place: Path
    """Its own folder, with nothing in it."""
    model: Path
    """A tiny BERT."""
    adapter: Path
    """A run that trained a LoRA of it."""
    table: Path
    """A table of texts and labels."""

    @property
    def mark(self) -> Path:
        """What a payload would leave."""
        return self.place / "it-ran"

    def copied(self, what: Path) -> Path:
        return Path(shutil.copytree(what, self.place / "given"))


Make = Callable[[Bench], Path]


@dataclass(frozen=True)
class Case:
    """One hostile file or directory."""

    what: str
    make: Make
    """Makes it; where it is."""
    command: str
    """Takes it as {given}."""
    codes: tuple[int, ...] = RUNS
    confined: bool = True
    """A `.pth` is read by the process that is there for it; False: by the same function in this process."""


def changed(path: Path, change: dict[str, Any]) -> None:
    """Set keys of a JSON object."""
    document = json.loads(path.read_text("utf8")) if path.is_file() else {}
    path.write_text(json.dumps(document | change), encoding="utf8")
