"""The few shapes that a run's batches are filled up to, so that a few captured graphs serve all of them."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loratory.data.batches import Shape

FILLER = 64
"""The longest filler sequence: attention over it must not outweigh that over the examples."""

CAPTURED = 30
"""What it costs to capture one shape, in steps of a run, about: as seen once, for sixteen members of `minilm`'s shape
(benchmarks/README.md); for a run alone it was not measured."""


@dataclass(frozen=True)
class Shapes:
    """The shapes that a run's batches are filled up to.

    Sizes are multiples of half of a batch's standard deviation in tokens, as a power of two between 64 and 512. Of
    these, those are taken that cost least, where a batch's filler costs what so many tokens cost in the mean, and each
    size :data:`CAPTURED` steps: a few for some hundred steps, and more, with a filler of a few per cent, for many
    thousand.

    Attributes:
        sizes: tokens of each shape, ascending; the last is larger than every batch.
        smallest: tokens of the smallest batch.
        filler: tokens of the longest filler sequence: no more than the model takes.
    """

    sizes: tuple[int, ...]
    smallest: int
    examples: int
    longest: int
    filler: int

    @classmethod
    def of(cls, totals: Sequence[int], *, examples: int, longest: int, filler: int = FILLER) -> Shapes:
        """Shapes for batches of `totals` tokens, one for each that will come, with at most `examples` sequences of at
        most `longest` tokens, filled up with sequences of at most `filler`."""
        half = max(1.0, float(np.std(totals)) / 2)
        multiple = min(512, max(64, 2 ** round(math.log2(half))))
        sizes = _cheapest(totals, multiple, CAPTURED * float(np.mean(totals)))
        return cls(sizes, min(totals), examples, max(longest, filler), filler)

    def shape(self, tokens: int) -> Shape:
        """The shape for a batch of so many tokens; at least one filler token is left."""
        place = bisect_right(self.sizes, tokens)
        size = self.sizes[place]
        missing = size - (self.sizes[place - 1] if place else self.smallest)  # at most
        return Shape(size, self.examples, -(-missing // self.filler), self.longest)


def _cheapest(totals: Sequence[int], multiple: int, each: float) -> tuple[int, ...]:
    """Those multiples, ascending, that cost least where every total is filled up to a larger one of them: the tokens of
    all filler, and `each` for every size."""
    counts = Counter(total // multiple + 1 for total in totals)
    sizes = np.array(sorted(counts))
    serves = np.concatenate([[0], np.cumsum([counts[size] for size in sizes])])  # batches up to each size
    sizes *= multiple
    least, before = np.zeros(len(sizes) + 1), np.zeros(len(sizes) + 1, np.int64)
    for last in range(1, len(sizes) + 1):  # the totals themselves are in every sum, and left out
        costs = least[:last] + sizes[last - 1] * (serves[last] - serves[:last]) + each
        before[last] = costs.argmin()
        least[last] = costs[before[last]]
    taken, place = list[int](), len(sizes)
    while place:
        taken.append(int(sizes[place - 1]))
        place = int(before[place])
    return tuple(reversed(taken))
