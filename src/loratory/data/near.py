"""Texts that are nearly equal: MinHash with locality-sensitive hashing finds candidates, the exact similarity decides.

texts ─▶ sets of shingles ─▶ MinHash ─▶ buckets of LSH ─▶ Jaccard similarity of each candidate pair ─▶ groups

The similarity of two texts is the Jaccard similarity of their sets of shingles: the size of what both hold over that of
what either holds. A shingle is a run of `SHINGLE` characters (Leskovec, Rajaraman & Ullman, *Mining of Massive
Datasets*, chapter 3, which takes 5 for short documents). A pair of similarity s is a candidate with probability
1 − (1 − s^r)^b for b bands of r rows: 96.3% at 0.7, 99.8% at 0.8. No pair below the threshold is reported, some at it
may be missed.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import index

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger("loratory")

SHINGLE = 5
"""Characters of a shingle; a shorter text is one shingle."""

THRESHOLD = 0.7
"""Similarity from which on two texts are near duplicates: one word of a sentence differs, or its punctuation."""

BANDS, ROWS = 12, 4
"""Of LSH; the product is the number of permutations."""

PERMUTATIONS = BANDS * ROWS

SEED = 0
"""Of the permutations, and of the sample."""

TEXTS = 100_000
"""Above so many texts near duplicates are looked for in a sample."""

CHARACTERS = 25_000_000
"""The same for the characters of all texts together."""

WINDOW = 16
"""Texts of a bucket, in alphabetical order, that are compared with the one after them."""

COMPARISONS = 1_000_000
"""Pairs that are compared at most."""

SAID = 20_000
"""Above so many texts it is said that the search is under way."""

_AT_ONCE = 4  # bands that are held in memory together; MinHashLSH takes no fewer than 2


@dataclass(frozen=True)
class NearGroup:
    """Texts linked by pairs of near duplicates: every text has one in the group, but not every pair is one."""

    members: tuple[int, ...]
    """Positions of the texts, rising, at least two."""
    similarity: float
    """The least Jaccard similarity of the pairs that link them."""


@dataclass(frozen=True)
class Near:
    """What a search found."""

    groups: tuple[NearGroup, ...]
    searched: int
    """Texts that were looked at: all, or those of the sample."""
    finished: bool
    """False where `COMPARISONS` did not suffice, so that pairs are missing."""


def near_duplicates(texts: Sequence[str]) -> Near:
    """Group the near duplicates among N distinct texts, normalised by the caller; their order changes no group.

    Above `TEXTS` texts or `CHARACTERS` characters a sample is searched, the texts with the lowest SHA-256(seed, text).
    A pair is then found only where both its texts are drawn.
    """
    drawn = {position: texts[position] for position in _sample(texts)}
    chosen = sorted(drawn, key=drawn.__getitem__)
    if len(chosen) > SAID:
        log.info("looking for near duplicates among %s texts", f"{len(chosen):,}")
    links = _Links([drawn[position] for position in chosen])
    for bucket in _buckets(links.texts):
        for place, member in enumerate(bucket):
            for other in bucket[max(0, place - WINDOW) : place]:
                links.compare(other, member)
        if links.left == 0:
            break
    groups = (NearGroup(tuple(sorted(chosen[m] for m in members)), least) for members, least in links.groups())
    return Near(tuple(sorted(groups, key=lambda group: group.members)), len(chosen), links.left > 0)


def _jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)


def _shingles(text: str) -> frozenset[str]:
    return frozenset(text[begin : begin + SHINGLE] for begin in range(max(1, len(text) - SHINGLE + 1)))


def _sample(texts: Sequence[str]) -> Sequence[int]:
    """Positions of the texts that are searched."""
    lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    if len(texts) <= TEXTS and lengths.sum() <= CHARACTERS:
        return range(len(texts))
    digests = b"".join(hashlib.sha256(f"{SEED}\0{text}".encode()).digest() for text in texts)
    drawn = np.lexsort(np.frombuffer(digests, dtype=">u8").reshape(-1, 4).T[::-1])
    ends = np.cumsum(lengths[drawn])
    found: list[int] = drawn[: min(TEXTS, int(np.searchsorted(ends, CHARACTERS, side="right")))].tolist()
    return found


def _hashes(text: str) -> NDArray[np.uint32]:
    """Of each shingle a polynomial hash modulo 2^32, which MinHash mixes before it permutes."""
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    count = max(1, len(codes) - SHINGLE + 1)
    hashes = np.zeros(count, dtype=np.uint32)
    for place in range(min(SHINGLE, len(codes))):
        hashes += codes[place : place + count] * np.uint32(pow(2654435761, place, 2**32))
    return hashes


def _buckets(texts: Sequence[str]) -> Iterator[list[int]]:
    """The positions of texts that fall together in a band, rising; two or more."""
    from datasketch import MinHash, MinHashLSH

    sketch = MinHash(PERMUTATIONS, seed=SEED, hashfunc=index)
    values = np.empty((len(texts), PERMUTATIONS), dtype=np.uint32)
    for position, text in enumerate(texts):
        sketch.clear()
        sketch.update_batch(_hashes(text).tolist())
        values[position] = sketch.hashvalues
    width = _AT_ONCE * ROWS
    part = MinHash(width, seed=SEED)
    for begin in range(0, PERMUTATIONS, width):
        lsh = MinHashLSH(num_perm=width, params=(_AT_ONCE, ROWS))
        for position in range(len(texts)):
            part.hashvalues = values[position, begin : begin + width]
            lsh.insert(position, part, check_duplication=False)
        for table in lsh.hashtables:
            for key in table.keys():  # noqa: SIM118  # a storage of datasketch, no mapping
                members = table.get(key)
                if len(members) > 1:
                    yield sorted(members)


class _Links:
    """Which texts are linked so far, and how many comparisons are left."""

    def __init__(self, texts: list[str]) -> None:
        from scipy.cluster.hierarchy import DisjointSet

        self.texts = texts
        self.left = COMPARISONS
        self._sets = DisjointSet(range(len(texts)))
        self._least: dict[int, float] = {}  # of each set's root
        self._shingles = lru_cache(maxsize=4096)(lambda position: _shingles(self.texts[position]))

    def compare(self, a: int, b: int) -> None:
        """Link two texts where they are near duplicates; those that are linked already are not compared."""
        if self.left == 0 or self._sets.connected(a, b):
            return
        self.left -= 1
        found = _jaccard(self._shingles(a), self._shingles(b))
        if found >= THRESHOLD:
            least = min(found, *(self._least.pop(self._sets[one], 1.0) for one in (a, b)))
            self._sets.merge(a, b)
            self._least[self._sets[a]] = least

    def groups(self) -> Iterator[tuple[list[int], float]]:
        """The linked texts, with the least similarity of a link."""
        for root, least in self._least.items():
            yield list(self._sets.subset(root)), least
