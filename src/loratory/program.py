"""Which program computes: its version, and a digest of the code that decides what a run gives."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from loratory import __version__

ROOMS = ("data", "models", "methods", "evaluation", "engine")
FILES = ("run.py", "setup.py", "saving.py")
"""Whose code decides a run's result; reports, commands and studies do not."""

LOOKS = ("data/near.py", "data/profile.py", "engine/calibrate.py", "engine/operations.py")
"""What only looks at data or models, and decides nothing."""


@cache
def code_version() -> str:
    """`0.1.0+` and 12 digits of the SHA-256 of that code: a run made by other code is another run."""
    root = Path(__file__).parent
    paths = {root / name for name in FILES} | {path for room in ROOMS for path in (root / room).rglob("*.py")}
    digest = hashlib.sha256()
    for path in sorted(paths - {root / name for name in LOOKS}):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{__version__}+{digest.hexdigest()[:12]}"
