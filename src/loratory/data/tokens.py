"""Texts as token ids: each split is tokenised once into two flat arrays, kept on disk and memory-mapped.

texts ─▶ some thousands at a time ─▶ ids at the end of a file ─▶ the file, mapped
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from loratory.data.columns import Text, are_pairs, as_text, chunked
from loratory.data.splits import Split
from loratory.disk.files import sync
from loratory.disk.manifest import seal, verified
from loratory.errors import DataError, StorageError, counted
from loratory.panics import panics

log = logging.getLogger("loratory")


@dataclass(frozen=True, eq=False)
class TokenTable:
    """N token sequences end to end; sequence i is `ids[offsets[i]:offsets[i + 1]]`. Read-only."""

    ids: NDArray[np.int32]
    """(T,) token ids, special tokens included."""
    offsets: NDArray[np.int64]
    """(N + 1,) where each sequence begins; the last is T."""
    types: NDArray[np.uint8] | None = None
    """(T,) 0 in the first text of a pair and 1 in the second; None where the model does not tell them apart."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(N,) tokens of each sequence."""
        return np.diff(self.offsets)

    @cached_property
    def single(self) -> bool:
        """Whether each sequence is one token, such as the rows that a frozen encoder left of each text."""
        return bool((self.lengths == 1).all())

    def first(self, count: int) -> TokenTable:
        """The first `count` sequences."""
        end = self.offsets[count]
        return TokenTable(self.ids[:end], self.offsets[: count + 1], None if self.types is None else self.types[:end])

    def take(self, indices: NDArray[np.int64]) -> TokenTable:
        """The sequences `indices` (B,), in that order."""
        starts, lengths = self.offsets[:-1][indices], self.lengths[indices]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        chosen = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
        return TokenTable(self.ids[chosen], offsets, None if self.types is None else self.types[chosen])


def tokenize(split: Split, tokenizer: Any, max_length: int, cache: Path, *, types: bool = False) -> TokenTable:
    """Tokenise the N texts of `split`, or map what `cache` already holds for them.

    `tokenizer` is a transformers tokenizer, fast or slow. Texts are cut to `max_length` tokens, special
    tokens included; of a pair the longer text is cut first.

    Args:
        types: whether the model tells the two texts of a pair apart by types of tokens.

    Raises:
        DataError: a text has no token at all (a tokenizer without special tokens).
        ModelError: the tokenizer panics.
        StorageError: `cache` cannot be written.
    """
    types = types and are_pairs(split.texts)
    parts = [split.digest, tokenizer_digest(tokenizer), str(max_length), *(["types"] if types else [])]
    folder = cache / hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
    damaged = folder.exists()
    if damaged:
        try:
            return _load(folder, len(split), types=types)
        except (OSError, ValueError, EOFError, StorageError) as error:
            log.warning("%s: damaged token cache (%s); made anew", folder, " ".join(str(error).split()))
    try:
        _store(folder, _encoded(split.texts, tokenizer, max_length, types=types), damaged=damaged)
    except OSError as error:
        raise _not_kept(folder, error) from None
    try:
        return _load(folder, len(split), types=types)
    except (OSError, ValueError, StorageError) as error:
        raise _not_kept(folder, error) from None


def _not_kept(folder: Path, error: Exception) -> StorageError:
    return StorageError(f"{folder}: cannot keep the tokens here ({error}); choose a folder that can be written")


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 of what decides a tokenizer's output, whatever it was last used for."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    outside = ("truncation_side", "padding_side", "split_special_tokens")  # what a backend's own text does not hold
    called = [getattr(tokenizer, name, None) for name in outside]
    if backend is None:
        given = getattr(
            tokenizer, "init_kwargs", {}
        ).items()  # lower case, language and the like; files may lie anywhere
        settings = {name: str(value) for name, value in given if name != "name_or_path" and not name.endswith("_file")}
        state: Any = [type(tokenizer).__name__, sorted(tokenizer.get_vocab().items()), settings]
    else:
        state = json.loads(backend.to_str())
        for leftover in ("truncation", "padding"):  # the last call's arguments, not the tokenizer's own
            state.pop(leftover, None)
    return hashlib.sha256(json.dumps([called, state], sort_keys=True).encode()).hexdigest()


def encode(texts: Sequence[Text], tokenizer: Any, max_length: int, *, types: bool = False) -> TokenTable:
    """The token sequences of N texts or pairs, in memory; as :func:`tokenize`.

    Raises:
        DataError: a text has no token at all (a tokenizer without special tokens).
        ModelError: the tokenizer panics.
    """
    types = types and are_pairs(texts)
    parts = [_Encoded.none(types=types), *_encoded(texts, tokenizer, max_length, types=types)]
    offsets = np.concatenate([[0], np.cumsum(np.concatenate([part.lengths for part in parts]))])
    of = [part.types for part in parts if part.types is not None]
    return TokenTable(np.concatenate([part.ids for part in parts]), offsets, np.concatenate(of) if types else None)


@dataclass(frozen=True, eq=False)
class _Encoded:
    """The ids of some texts end to end, how many each has, and the types where they are kept."""

    ids: NDArray[np.int32]
    lengths: NDArray[np.int64]
    types: NDArray[np.uint8] | None

    @classmethod
    def none(cls, *, types: bool) -> _Encoded:
        """Of no text."""
        return cls(np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.uint8) if types else None)


def _encoded(texts: Sequence[Text], tokenizer: Any, max_length: int, *, types: bool) -> Iterator[_Encoded]:
    """Some texts after the other, until all were given.

    Raises:
        DataError: as :func:`encode`, at the end.
    """
    empty, first, begin = 0, 0, 0
    settings = {"truncation": True, "max_length": max_length}  # True: the longest text of a pair first
    for found in _tokenized(texts, tokenizer, types=types, **settings):
        encoded = found["input_ids"]
        lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
        without = np.flatnonzero(lengths == 0)
        if len(without):
            first = first if empty else begin + int(without[0])
            empty += len(without)
        begin += len(encoded)
        of = np.fromiter(chain.from_iterable(found["token_type_ids"]), dtype=np.uint8) if types else None
        yield _Encoded(np.fromiter(chain.from_iterable(encoded), dtype=np.int32), lengths, of)
    if empty:
        found_empty, text = counted(empty, "text"), as_text(texts[first])
        raise DataError(f"{found_empty} without a token for this tokenizer, first {text[:40]!r}; remove what has none")


def token_ids(texts: Sequence[Text], tokenizer: Any, **settings: Any) -> Iterator[list[list[int]]]:
    """The token ids of N texts or pairs, special tokens included, some thousands at a time."""
    for found in _tokenized(texts, tokenizer, types=False, **settings):
        yield found["input_ids"]


def _tokenized(texts: Sequence[Text], tokenizer: Any, *, types: bool, **settings: Any) -> Iterator[dict[str, Any]]:
    for chunk in chunked(texts):
        columns = list(zip(*chunk, strict=True)) if are_pairs(chunk) else [chunk]
        with panics(f"model {getattr(tokenizer, 'name_or_path', type(tokenizer).__name__)!r}"):
            found = tokenizer(
                *map(list, columns),
                add_special_tokens=True,
                return_attention_mask=False,
                return_token_type_ids=types,
                **settings,
            )
        yield found


def _store(folder: Path, parts: Iterator[_Encoded], *, damaged: bool) -> None:
    """Write beside `folder` as the parts come, then rename: a reader sees all or nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".tokens-", dir=folder.parent))
    try:
        ready = work / "ready"
        ready.mkdir()
        lengths = array("i")
        with _Growing(ready / "ids.npy", np.int32) as ids, _Growing(ready / "types.npy", np.uint8) as types:
            ids.extend(np.empty(0, np.int32))  # it is there for no text, too
            for part in parts:
                ids.extend(part.ids)
                lengths.extend(part.lengths.tolist())
                if part.types is not None:
                    types.extend(part.types)
        np.save(ready / "offsets.npy", np.cumsum(np.concatenate([[0], lengths]), dtype=np.int64))
        seal(ready)
        if damaged and folder.exists():
            folder.replace(work / "damaged")
        try:
            ready.replace(folder)
            sync(folder.parent)
        except OSError:
            if not folder.is_dir():  # else another process was first, with the same content
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


class _Growing:
    """NumPy's file of an array whose length is known at its end; there is none where nothing was added."""

    def __init__(self, path: Path, kind: type[np.generic]) -> None:
        self._path, self._kind, self._count = path, np.dtype(kind), 0
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            with self._file:
                self._write_header()

    def extend(self, values: NDArray[Any]) -> None:
        """Write some more."""
        if self._file is None:
            self._file = self._path.open("wb")
            self._write_header()  # room for the number: a header has one length for every count
        self._file.write(values.data)
        self._count += len(values)

    def _write_header(self) -> None:
        assert self._file is not None
        header = {"descr": np.lib.format.dtype_to_descr(self._kind), "fortran_order": False, "shape": (self._count,)}
        self._file.seek(0)
        np.lib.format.write_array_header_1_0(self._file, header)


def _load(folder: Path, texts: int, *, types: bool) -> TokenTable:
    verified(folder)
    # as plain arrays over the map: indexing np.memmap itself costs microseconds a call
    ids, offsets, *of = (
        np.load(os.fspath(folder / f"{name}.npy"), mmap_mode="r", allow_pickle=False).view(np.ndarray)
        for name in ("ids", "offsets", *(["types"] if types else []))
    )
    if ids.dtype != np.int32 or offsets.dtype != np.int64 or ids.ndim != 1 or offsets.shape != (texts + 1,):
        raise ValueError(f"{ids.dtype} {ids.shape} and {offsets.dtype} {offsets.shape} for {texts} texts")
    if offsets[0] != 0 or offsets[-1] != len(ids) or np.any(np.diff(offsets) <= 0):
        raise ValueError("offsets do not fit the ids")
    if any(one.dtype != np.uint8 or one.shape != ids.shape for one in of):
        raise ValueError("types do not fit the ids")
    return TokenTable(ids, offsets, *of)
