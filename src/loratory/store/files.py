"""Small files, written whole or not at all."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from loratory.errors import StorageError


def write_durably(path: Path, text: str) -> None:
    """Write beside `path`, reach the disk, rename: after a crash the file is the old one or the new one.

    Raises:
        StorageError: the disk refuses.
    """
    work = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")  # its own name: two may write at once
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with work.open("x", encoding="utf8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(work, path)
        except BaseException:  # an interruption too must leave nothing beside the file
            with suppress(OSError):
                work.unlink()
            raise
        sync(path.parent)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error


def sync(path: Path) -> None:
    """Have the disk hold a file, or the names in a directory, as they are now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
