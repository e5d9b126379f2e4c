"""The bytes of a file, gone through once and never held: their digest, and whether they are text.

Every fault is a DataError of one line that names the file and the place.
"""

from __future__ import annotations

import codecs
import hashlib
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from loratory.errors import DataError


def read_bytes(path: Path) -> bytes:
    """The bytes of a regular file.

    Raises:
        DataError: it is missing, cannot be read, or is a directory, pipe or device.
    """
    return b"".join(_blocks(path))


def decoded(path: Path, data: bytes) -> str:
    """UTF-8 text, without a byte order mark.

    Raises:
        DataError: not UTF-8 (byte offset from 0), or a NUL character in it.
    """
    _looked_over(path, [data], text=True)
    return data.decode("utf-8-sig")


_BLOCK = 2**20


def _blocks(path: Path) -> Iterator[bytes]:
    """The bytes of a regular file, some at a time."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise DataError(f"{path}: a directory; name a file in it")
        if not stat.S_ISREG(mode):  # reading a pipe would wait for ever
            raise DataError(f"{path}: not a regular file (a pipe or device); copy it to a file first")
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                yield block
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the path (working directory: {Path.cwd()})") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise DataError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


@dataclass(frozen=True)
class Content:
    """What the bytes of a file are, before its rows are read."""

    digest: str
    blank: bool
    ended: bool
    """Whether the last line has its end."""
    state: tuple[int, int] = (0, 0)
    """Of the file, before its bytes were read, as :func:`state_of`."""


def looked_through(path: Path, *, text: bool) -> Content:
    """Go through the bytes of a file once.

    Raises:
        DataError: as :func:`read_bytes`, and of a `text` as :func:`decoded`.
    """
    before = state_of(path) if path.is_file() else (0, 0)  # what is no file is refused by name
    found = _looked_over(path, _blocks(path), text=text)
    return Content(found.digest, found.blank, found.ended, before)


def _looked_over(path: Path, blocks: Iterable[bytes], *, text: bool) -> Content:
    digest, decoder = hashlib.sha256(), codecs.getincrementaldecoder("utf-8")()
    offset, nul, blank, last = 0, -1, True, b""
    for block in blocks:
        digest.update(block)
        blank = blank and not block.strip()
        if text:
            _decode(path, decoder, block, offset)
            if nul < 0 and (found := block.find(b"\0")) >= 0:
                nul = offset + found
        offset, last = offset + len(block), block[-1:]
    if text:
        _decode(path, decoder, b"", offset, final=True)
    if nul >= 0:
        place = f"line {_line(path, nul)}"
        raise DataError(f"{path}: NUL character at byte {nul} ({place}); is the file damaged? Remove it")
    return Content(digest.hexdigest(), blank, last in (b"\n", b"\r"))


def _decode(path: Path, decoder: codecs.IncrementalDecoder, block: bytes, offset: int, *, final: bool = False) -> None:
    """Refuse what is no UTF-8; `offset` is where the block begins."""
    pending = len(decoder.getstate()[0])
    try:
        decoder.decode(block, final)
    except UnicodeDecodeError as error:
        start = offset - pending + error.start
        place = f"0x{error.object[error.start]:02x}, line {_line(path, start)}"
        raise DataError(f"{path}: not UTF-8 at byte {start} ({place}); save the file as UTF-8") from None


def state_of(path: Path) -> tuple[int, int]:
    """Size, and the time of the last change."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _line(path: Path, offset: int) -> int:
    """The number of the line in which the byte at `offset` of the file stands."""
    ends, before = 1, b""
    for block in _blocks(path):
        part = before + block[:offset]
        ends += part.count(b"\n") + part.count(b"\r") - part.count(b"\r\n")
        offset -= len(block)
        if offset <= 0:
            break
        before = block[-1:] if block.endswith(b"\r") else b""
        ends -= len(before)  # it is counted with what comes after it
    return ends
