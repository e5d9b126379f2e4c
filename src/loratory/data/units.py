"""What is never parted: equal texts, and all that share a group, also by way of a third."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loratory.data.columns import Pairs
from loratory.data.rows import Rows, first_places, hashes, ranked, runs_of_equals
from loratory.problems import Targets


@dataclass(frozen=True, eq=False)
class Units:
    """What is never parted, U units in the order of their places."""

    of: NDArray[np.int64]
    """The unit of each id of a text; -1 where no row has it."""
    strata: NDArray[np.int64]
    """(U,) the commonest stratum of each unit's texts, the lowest among equals."""
    holding: NDArray[np.int64]
    """How many units have a text of each stratum."""


def _commonest(
    owners: NDArray[np.int64], classes: NDArray[np.int64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The owners, rising, and the commonest of the classes of each, the lowest among equals; of `count` classes."""
    pairs = owners * count
    pairs += classes
    pairs.sort()
    firsts = first_places(pairs)
    often = np.diff(np.append(firsts, len(pairs)))
    owner, of_class = np.divmod(pairs[firsts], count)
    del pairs
    order = np.lexsort((of_class, -often, owner))
    firsts = order[first_places(owner)]  # owners stand sorted in both orders
    return owner[firsts], of_class[firsts]


def conflicts_in(rows: Rows) -> int:
    """Texts with more than one label; of pairs only those with both in the same order, as what holds of two texts may
    not hold the other way round."""
    found = _with_several(rows.ids, rows.labels)
    if isinstance(rows.texts, Pairs):
        again = np.flatnonzero(np.isin(rows.ids, found))
        found = _with_several(ranked(hashes(rows.texts.take(again), in_order=True))[1], rows.labels[again])
    return len(found)


def _with_several(ids: NDArray[np.int64], labels: Targets) -> NDArray[np.int64]:
    """The ids of texts that stand beside more than one label."""
    _, kinds = np.unique(labels, return_inverse=True)
    count = int(kinds.max(initial=0)) + 1
    owners = np.unique(ids * count + kinds) // count  # rising
    again: NDArray[np.int64] = owners[1:][owners[1:] == owners[:-1]]
    return again[first_places(again)]


def units_of(rows: Rows, places: NDArray[np.uint64] | None, strata: int) -> Units:
    """What is never parted, in the order of the places. A text whose rows disagree counts for its commonest stratum."""
    texts, of_text = _commonest(rows.ids, rows.strata, strata)
    unit = np.arange(len(texts))
    if rows.groups is not None and places is not None:
        joined = together(rows.ids, rows.groups)
        unit = np.empty(len(texts), dtype=np.int64)
        unit[np.searchsorted(texts, rows.ids)] = joined
        unit = _by_place(unit, places[:, texts])
    _, of_unit = _commonest(unit, of_text, strata)
    held = np.unique(unit * strata + of_text) % strata
    of = np.full(int(rows.ids.max(initial=-1)) + 1, -1, dtype=np.int64)
    of[texts] = unit
    return Units(of, of_unit, np.bincount(held, minlength=strata))


def _by_place(unit: NDArray[np.int64], places: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The units (T,) of texts whose places (4, T) rise, numbered anew in the order of the units' own places."""
    order = np.argsort(unit, kind="stable")
    found = places[:, order[first_places(unit[order])]]
    for begin, end in runs_of_equals(unit[order]):  # the least of its texts' places would put a large unit first
        inside = places[:, order[begin:end]].T.astype(">u8").tobytes()
        found[:, unit[order[begin]]] = np.frombuffer(hashlib.sha256(inside).digest(), dtype=">u8")
    return ranked(found)[1][unit]


def together(ids: NDArray[np.int64], groups: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """(N,) numbers from 0, the same for rows whose texts are equal or share a group, also by way of a third."""
    _, texts = np.unique(ids, return_inverse=True)
    if groups is None:
        return texts
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    behind = int(texts.max(initial=-1)) + 1
    size = behind + int(groups.max(initial=-1)) + 1
    links = coo_array((np.ones(len(texts), dtype=np.int8), (texts, behind + groups)), shape=(size, size))
    _, joined = np.unique(connected_components(links, directed=False)[1][texts], return_inverse=True)
    return joined.astype(np.int64)
