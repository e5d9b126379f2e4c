"""Small files, written whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from loratory.errors import StorageError, first_line

TRIES = 3

FULL = {errno.ENOSPC, errno.EDQUOT}
"""What a disk without room answers."""

_WORK = re.compile(r"\..+\.[0-9a-f]{8}(?:-(\d+))?\.new")

_TRIED = 4096
"""Bytes that are written to see whether there is room at all."""

_WRITABLE = "make the place writable"

_OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""The errno, as Rust's standard library writes it."""


def refused(place: Path, error: OSError, *, otherwise: str = "choose another --output") -> StorageError:
    """The error where the disk refuses a write: where, why, and what to do.

    Args:
        place: the one that people know, not a temporary one beside it.
        otherwise: what to do where it is not for want of room.
    """
    remedy = "make room; the same command goes on" if error.errno in FULL else otherwise
    return StorageError(f"cannot write {place}: {error.strerror or first_line(error)}; {remedy}")


def check_writable(path: Path) -> None:
    """Refuse a path at which no file can be written now, before work is done for it. Nothing is left there.

    Raises:
        StorageError: the directory, or the nearest above it that is there, takes no file.
    """
    there = next(one for one in path.absolute().parents if os.path.lexists(one))
    try:
        with tempfile.TemporaryFile(dir=there, buffering=0) as file:
            file.write(bytes(_TRIED))
    except OSError as error:
        raise refused(path, error) from error


def write_durably(path: Path, text: str, *, check: Callable[[], None] = lambda: None, mark: str = "") -> None:
    """Write beside `path`, reach the disk, rename: after a crash the file is the old one or the new one.

    Args:
        check: called right before the rename; what it raises leaves the old file.
        mark: `-` and the number of whoever holds the place, for the temporary name.

    Raises:
        StorageError: the disk refuses.
    """
    for left in reversed(range(TRIES)):
        try:
            _write(path, text, check, mark)
        except FileNotFoundError as error:  # the work was cleared away: by a successor, or by a study that began now
            check()
            if mark or not left:
                raise refused(path, error, otherwise=_WRITABLE) from error
        except OSError as error:
            raise refused(path, error, otherwise=_WRITABLE) from error
        else:
            return


def _write(path: Path, text: str, check: Callable[[], None], mark: str) -> None:
    work = path.with_name(f".{path.name}.{secrets.token_hex(4)}{mark}.new")  # its own name: two may write at once
    make_directory(path.parent)
    try:
        with work.open("x", encoding="utf8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        check()
        os.replace(work, path)
    except BaseException:  # an interruption too must leave nothing beside the file
        with suppress(OSError):
            work.unlink()
        raise
    sync(path.parent)


@contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """A file of bytes that comes to stand at `path` whole, where nothing stands yet, or not at all.

    Raises:
        OSError: something stands there, or the disk refuses.
    """
    make_directory(path.parent)
    work = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        with work.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.link(work, path)  # unlike a rename it replaces nothing
        sync(path.parent)
    finally:
        work.unlink(missing_ok=True)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Give what the disk said as Python does, where safetensors and tokenizers write: theirs are no OSErrors.

    Args:
        path: where they write, for the error.

    Raises:
        OSError: the disk refuses.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # tokenizers raises the very class
        found = _OS_ERROR.search(str(error))
        if found is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(path)) from error


def clear_work(directory: Path, below: int) -> None:
    """Remove what killed processes were writing in `directory`, or stopped ones that lost it.

    Args:
        below: the number of whoever holds the directory.

    Raises:
        OSError: something cannot be removed.
    """
    for path in directory.glob(".*.new"):
        if (found := _WORK.fullmatch(path.name)) and int(found[1] or 0) < below:
            path.unlink(missing_ok=True)


def make_directory(directory: Path) -> None:
    """Make `directory`, and those above it, unless they are there; the disk holds their names.

    Raises:
        OSError: the disk refuses.
    """
    if directory.is_dir():
        return
    make_directory(directory.parent)
    with suppress(FileExistsError):  # another process was first
        directory.mkdir()
    sync(directory.parent)


def sync(path: Path) -> None:
    """Have the disk hold a file, or the names in a directory, as they are now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
