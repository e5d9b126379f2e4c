"""Columns of as many values as a disk holds: texts in a file that is mapped, names as numbers of the distinct ones.

A column is a sequence like a tuple of its values, which come into being when they are asked for, and go again.
"""

from __future__ import annotations

import mmap
import tempfile
from array import array
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from loratory.errors import StorageError

Text = str | tuple[str, str]
"""What a label belongs to: a text, or two that are judged together."""

AT_ONCE = 4096
"""Texts that are held together: enough for all threads of a tokenizer, little memory."""

LONGEST = 1_000_000
"""Characters of a text, above which it is refused. A tokenizer reads all of a text before it cuts it to the model's
length, in some 2 s and half a GiB for each million characters; and no cut before it is safe for every tokenizer, as one
may read a text as a whole, or keep its end.
"""

RELEASED = 256 * AT_ONCE
"""After so many texts in a row the pages that were read count no longer as the process's memory."""

HELD = 2**28
"""Or after so many bytes of them."""

T = TypeVar("T", bound=Hashable)
U = TypeVar("U", bound=Hashable)


class Texts(Sequence[str]):
    """N texts in a mapped file, in any order of them. Build it with :meth:`of` or a :class:`TextWriter`."""

    def __init__(self, content: _Mapped, chosen: NDArray[np.int64] | None = None) -> None:
        self._content = content
        self._chosen = chosen

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        """A column of these texts; one that is a column already is itself."""
        if isinstance(texts, cls):
            return texts
        with TextWriter() as writer:
            for text in texts:
                writer.add(text)
            return writer.done()

    def __len__(self) -> int:
        return self._content.count if self._chosen is None else len(self._chosen)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> Texts: ...
    def __getitem__(self, place: int | slice) -> str | Texts:
        if isinstance(place, slice):
            return self.take(np.arange(*place.indices(len(self)), dtype=np.int64))
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        return self._pulled(place % len(self), place % len(self) + 1)[0]

    def __iter__(self) -> Iterator[str]:
        for chunk in self.chunks():
            yield from chunk

    def __eq__(self, other: object) -> Any:
        """Equal to every sequence of the same texts."""
        return _equal(self, other)

    __hash__ = None  # type: ignore[assignment]  # as a list has none

    def __repr__(self) -> str:
        return f"Texts({len(self):,})"

    def chunks(self) -> Iterator[list[str]]:
        """The texts in order, :data:`AT_ONCE` at a time."""
        for begin in range(0, len(self), AT_ONCE):
            yield self._pulled(begin, min(begin + AT_ONCE, len(self)))
            if (begin + AT_ONCE) % RELEASED == 0 or self._content.held > HELD:
                self._content.release()
        self._content.release()

    def take(self, places: NDArray[np.int64]) -> Texts:
        """The texts at `places` (M,), in that order; none of them is read."""
        return Texts(self._content, places if self._chosen is None else self._chosen[places])

    def _pulled(self, begin: int, end: int) -> list[str]:
        return self._content.read(slice(begin, end) if self._chosen is None else self._chosen[begin:end])


class Pairs(Sequence[tuple[str, str]]):
    """N pairs of texts."""

    def __init__(self, first: Texts, second: Texts) -> None:
        self.first, self.second = first, second

    def __len__(self) -> int:
        return len(self.first)

    @overload
    def __getitem__(self, place: int) -> tuple[str, str]: ...
    @overload
    def __getitem__(self, place: slice) -> Pairs: ...
    def __getitem__(self, place: int | slice) -> tuple[str, str] | Pairs:
        if isinstance(place, slice):
            return Pairs(self.first[place], self.second[place])
        return self.first[place], self.second[place]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return zip(self.first, self.second, strict=True)

    def __eq__(self, other: object) -> Any:
        """Equal to every sequence of the same pairs."""
        return _equal(self, other)

    __hash__ = None  # type: ignore[assignment]  # as a list has none

    def __repr__(self) -> str:
        return f"Pairs({len(self):,})"

    def chunks(self) -> Iterator[list[tuple[str, str]]]:
        """The pairs in order, :data:`AT_ONCE` at a time."""
        for first, second in zip(self.first.chunks(), self.second.chunks(), strict=True):
            yield list(zip(first, second, strict=True))

    def take(self, places: NDArray[np.int64]) -> Pairs:
        """The pairs at `places` (M,), in that order; none of them is read."""
        return Pairs(self.first.take(places), self.second.take(places))


def stored(texts: Sequence[Text]) -> Texts | Pairs:
    """Texts or pairs as columns; those that are columns already are themselves."""
    if isinstance(texts, Texts | Pairs):
        return texts
    if are_pairs(texts):
        return Pairs(*(Texts.of(pair[side] for pair in texts) for side in (0, 1)))
    return Texts.of(text for text in texts if isinstance(text, str))


def are_pairs(texts: Sequence[Text]) -> bool:
    """Whether they are pairs, all of them: data is of one kind."""
    return isinstance(texts, Pairs) or (bool(texts) and isinstance(texts[0], tuple | list))


def parts(text: Text) -> dict[str, str]:
    """A text, or both of a pair, by the columns in which we write them."""
    return {"text": text} if isinstance(text, str) else dict(zip(("text", "pair"), text, strict=True))


def as_text(text: Text) -> str:
    """A text as it stands; of a pair both, a line break between them."""
    return text if isinstance(text, str) else "\n".join(text)


def on_one_line(text: Text) -> str:
    """A text as people are shown it, without its line breaks; of a pair both, a bar between them."""
    return " | ".join(" ".join(one.split()) for one in ([text] if isinstance(text, str) else text))


def _equal(column: Sequence[Any], other: object) -> Any:
    if not isinstance(other, Sequence) or isinstance(other, str):
        return NotImplemented
    return len(column) == len(other) and all(one == another for one, another in zip(column, other, strict=True))


def chunked(texts: Sequence[Text]) -> Iterator[Sequence[Text]]:
    """Texts or pairs in order, :data:`AT_ONCE` at a time."""
    if isinstance(texts, Texts | Pairs):
        yield from texts.chunks()
    else:
        yield from (texts[begin : begin + AT_ONCE] for begin in range(0, len(texts), AT_ONCE))


class _Mapped:
    """The bytes of texts, end to end, in a file without a name, which goes with its last reader."""

    def __init__(self, file: Any, bounds: NDArray[np.int64]) -> None:
        self.count = len(bounds) - 1
        self.held = 0
        """Bytes that were read since the pages were last released."""
        self._starts, self._ends = bounds[:-1], bounds[1:]
        size = int(bounds[-1])
        self._bytes = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else None  # maps no empty file

    def read(self, chosen: slice | NDArray[np.int64]) -> list[str]:
        """The chosen texts."""
        content = self._bytes
        if content is None:
            return [""] * len(self._ends[chosen])
        starts, ends = self._starts[chosen], self._ends[chosen]
        self.held += int((ends - starts).sum())
        return [content[start:end].decode() for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]

    def release(self) -> None:
        """Let the system take back the memory of the pages that were read; they are read again when they are needed."""
        if self._bytes is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._bytes.madvise(mmap.MADV_DONTNEED)
        self.held = 0


class TextWriter:
    """Writes texts one after the other to a file in the system's folder for temporary files (`TMPDIR`)."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # it is open as long as the column lives
        self._bounds = array("q", [0])
        self._written = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, text: str) -> None:
        """Write one text.

        Raises:
            UnicodeEncodeError: it holds half a surrogate pair.
            StorageError: the disk is full.
        """
        content = text.encode()
        self._written += len(content)
        try:
            self._file.write(content)
        except OSError as error:
            raise _full(error) from error
        self._bounds.append(self._written)

    def done(self) -> Texts:
        """All texts that were written."""
        try:
            self._file.flush()
            mapped = _Mapped(self._file, np.frombuffer(self._bounds, dtype=np.int64))
        except OSError as error:
            raise _full(error) from error
        return Texts(mapped)


def _full(error: OSError) -> StorageError:
    place = tempfile.gettempdir()
    return StorageError(f"{place}: cannot keep the texts here ({error.strerror}); set TMPDIR to a folder with room")


@dataclass(frozen=True, eq=False)
class Coded(Sequence[T], Generic[T]):
    """N values, of which few are distinct."""

    values: tuple[T, ...]
    """The distinct ones."""
    codes: NDArray[np.int32]
    """(N,) the position of each among them."""

    @classmethod
    def of(cls, values: Iterable[T]) -> Coded[T]:
        """A column of these values; one that is a column already is itself. True is another value than 1."""
        if isinstance(values, cls):
            return values
        coder: Coder[T] = Coder()
        for value in values:
            coder.add(value)
        return coder.done()

    def converted(self, convert: Callable[[T], U]) -> Coded[U]:
        """What `convert` makes of each value; it is asked once for each distinct one."""
        found = Coded.of(map(convert, self.values))
        return Coded(found.values, found.codes[self.codes])

    def __len__(self) -> int:
        return len(self.codes)

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> Coded[T]: ...
    def __getitem__(self, place: int | slice) -> T | Coded[T]:
        found = self.codes[place]
        return Coded(self.values, found) if isinstance(place, slice) else self.values[int(found)]

    def __iter__(self) -> Iterator[T]:
        values = self.values
        for begin in range(0, len(self), AT_ONCE):
            yield from (values[code] for code in self.codes[begin : begin + AT_ONCE].tolist())

    def __eq__(self, other: object) -> Any:
        """Equal to every sequence of the same values."""
        return _equal(self, other)

    __hash__ = None  # type: ignore[assignment]  # as a list has none


class Coder(Generic[T]):
    """Takes values one after the other."""

    def __init__(self) -> None:
        self._codes = array("i")
        self._known: dict[tuple[Any, T], int] = {}

    def add(self, value: T) -> int:
        """Take one value, and say its number: how many distinct ones came before it."""
        code = self._known.setdefault((_kind(value), value), len(self._known))
        self._codes.append(code)
        return code

    def knows(self, value: T) -> bool:
        """Whether it was there before.

        Raises:
            TypeError: it is a list or another value that changes.
        """
        return (_kind(value), value) in self._known

    def done(self) -> Coded[T]:
        """All values that were taken."""
        values = tuple(value for _, value in self._known)
        return Coded(values, np.frombuffer(self._codes, dtype=np.int32) if self._codes else np.empty(0, np.int32))


def _kind(value: object) -> Any:
    """What tells values apart that Python calls equal, such as True and 1."""
    return tuple(map(type, value)) if isinstance(value, tuple) else type(value)
