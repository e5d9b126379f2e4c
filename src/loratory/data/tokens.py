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
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from loratory.data.columns import chunked
from loratory.data.splits import Split
from loratory.errors import DataError, StorageError, counted

log = logging.getLogger("loratory")


@dataclass(frozen=True, eq=False)
class TokenTable:
    """N token sequences end to end; sequence i is `ids[offsets[i]:offsets[i + 1]]`. Read-only."""

    ids: NDArray[np.int32]
    """(T,) token ids, special tokens included."""
    offsets: NDArray[np.int64]
    """(N + 1,) where each sequence begins; the last is T."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(N,) tokens of each sequence."""
        return np.diff(self.offsets)


def tokenize(split: Split, tokenizer: Any, max_length: int, cache: Path) -> TokenTable:
    """Tokenise the N texts of `split`, or map what `cache` already holds for them.

    `tokenizer` is a transformers tokenizer, fast or slow. Texts are cut to `max_length` tokens, special
    tokens included.

    Raises:
        DataError: a text has no token at all (a tokenizer without special tokens).
        StorageError: `cache` cannot be written.
    """
    key = hashlib.sha256(f"{split.digest}\0{tokenizer_digest(tokenizer)}\0{max_length}".encode()).hexdigest()
    folder = cache / key[:32]
    damaged = folder.exists()
    if damaged:
        try:
            return _load(folder, len(split))
        except (OSError, ValueError, EOFError) as error:
            log.warning("%s: damaged token cache (%s); made anew", folder, " ".join(str(error).split()))
    try:
        _store(folder, _encoded(split.texts, tokenizer, max_length), damaged=damaged)
    except OSError as error:
        raise _not_kept(folder, error) from None
    try:
        return _load(folder, len(split))
    except (OSError, ValueError) as error:
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


def encode(texts: Sequence[str], tokenizer: Any, max_length: int) -> TokenTable:
    """The token sequences of N texts, in memory; cut to `max_length` tokens, special tokens included.

    Raises:
        DataError: a text has no token at all (a tokenizer without special tokens).
    """
    parts = [(np.empty(0, np.int32), np.empty(0, np.int64)), *_encoded(texts, tokenizer, max_length)]
    ids, lengths = map(np.concatenate, zip(*parts, strict=True))
    return TokenTable(ids, np.concatenate([[0], np.cumsum(lengths)]))


def _encoded(
    texts: Sequence[str], tokenizer: Any, max_length: int
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int64]]]:
    """The ids of some texts end to end, and how many each has, until all texts were given.

    Raises:
        DataError: as :func:`encode`, at the end.
    """
    empty, first, begin = 0, 0, 0
    for encoded in token_ids(texts, tokenizer, truncation=True, max_length=max_length):
        lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
        without = np.flatnonzero(lengths == 0)
        if len(without):
            first = first if empty else begin + int(without[0])
            empty += len(without)
        begin += len(encoded)
        yield np.fromiter((token for sequence in encoded for token in sequence), dtype=np.int32), lengths
    if empty:
        found = counted(empty, "text")
        raise DataError(
            f"{found} without a token for this tokenizer, first {texts[first][:40]!r}; remove what has none"
        )


def token_ids(texts: Sequence[str], tokenizer: Any, **settings: Any) -> Iterator[list[list[int]]]:
    """The token ids of N texts, special tokens included, some thousands of texts at a time."""
    for chunk in chunked(texts):
        encoded: list[list[int]] = tokenizer(
            chunk, add_special_tokens=True, return_attention_mask=False, return_token_type_ids=False, **settings
        )["input_ids"]
        yield encoded


def _store(folder: Path, parts: Iterator[tuple[NDArray[np.int32], NDArray[np.int64]]], *, damaged: bool) -> None:
    """Write beside `folder` as the parts come, then rename: a reader sees all or nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".tokens-", dir=folder.parent))
    try:
        ready = work / "ready"
        ready.mkdir()
        lengths = array("i")
        with (ready / "ids.npy").open("wb") as file:
            _write_header(file, 0)  # room for the number, which is known at the end
            for ids, of in parts:
                file.write(ids.data)
                lengths.extend(of.tolist())
            _write_header(file, sum(lengths))
        np.save(ready / "offsets.npy", np.cumsum(np.concatenate([[0], lengths]), dtype=np.int64))
        if damaged and folder.exists():
            folder.replace(work / "damaged")
        try:
            ready.replace(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first, with the same content
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write_header(file: IO[bytes], count: int) -> None:
    """NumPy's header of an array (count,) of int32 at the beginning of a file; it has one length for every count."""
    file.seek(0)
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.int32)), "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(file, header)


def _load(folder: Path, texts: int) -> TokenTable:
    # as plain arrays over the map: indexing np.memmap itself costs microseconds a call
    ids, offsets = (
        np.load(os.fspath(folder / name), mmap_mode="r", allow_pickle=False).view(np.ndarray)
        for name in ("ids.npy", "offsets.npy")
    )
    if ids.dtype != np.int32 or offsets.dtype != np.int64 or ids.ndim != 1 or offsets.shape != (texts + 1,):
        raise ValueError(f"{ids.dtype} {ids.shape} and {offsets.dtype} {offsets.shape} for {texts} texts")
    if offsets[0] != 0 or offsets[-1] != len(ids) or np.any(np.diff(offsets) <= 0):
        raise ValueError("offsets do not fit the ids")
    return TokenTable(ids, offsets)
