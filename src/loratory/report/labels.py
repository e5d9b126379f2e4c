"""Where the names of points stand, so that they hide neither a point nor one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

GAP = 9
"""Pixels between a point's centre and its name."""
LETTER, LINE = 6.3, 14
"""Pixels that a letter is wide, and a line high, at 12 pixels; about the mean of sans-serif faces."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclass(frozen=True)
class Place:
    """Where a name stands: pixels from its point, which of its ends is there, and whether it is seen at all."""

    dx: float
    dy: float
    align: Literal["left", "right", "center"]
    seen: float = 1.0


_PLACES = (
    Place(GAP, 0, "left"),
    Place(-GAP, 0, "right"),
    Place(GAP - 3, -GAP, "left"),
    Place(GAP - 3, GAP, "left"),
    Place(-GAP + 3, -GAP, "right"),
    Place(-GAP + 3, GAP, "right"),
    Place(0, -GAP - 6, "center"),
    Place(0, GAP + 6, "center"),
    *(Place(GAP - 3, dy, "left") for dy in (-22, 22, -36, 36)),
    *(Place(-GAP + 3, dy, "right") for dy in (-22, 22, -36, 36)),
)
"""Tried in this order."""


def placed(
    points: Sequence[tuple[float, float]],
    names: Sequence[str],
    obstacles: Sequence[Box],
    size: tuple[float, float],
    *,
    crowded: bool = False,
) -> list[Place]:
    """A place for each name, in order, where it covers least.

    Args:
        points: pixels (x, y) from the left and the top.
        obstacles: what else must not be covered, such as intervals.
        size: width and height of the plot, which names should not leave.
        crowded: leave out a name that would cover another, or stand outside, wherever it stood.
    """
    taken: list[Box] = [(x - 5, y - 5, x + 5, y + 5) for x, y in points] + list(obstacles)
    written: list[Box] = []
    found = []
    for point, name in zip(points, names, strict=True):
        best = min(_PLACES, key=lambda place: _cost(_box(point, name, place), taken, size))
        box = _box(point, name, best)
        if crowded and (covered(box, written) > 0 or _cost(box, [], size) > 0):
            found.append(replace(best, seen=0.0))
            continue
        taken.append(box)
        written.append(box)
        found.append(best)
    return found


def _box(point: tuple[float, float], name: str, place: Place) -> Box:
    width = LETTER * len(name)
    start = {"left": 0.0, "right": -width, "center": -width / 2}[place.align]
    left, middle = point[0] + place.dx + start, point[1] + place.dy
    return left, middle - LINE / 2, left + width, middle + LINE / 2


def _cost(box: Box, taken: Sequence[Box], size: tuple[float, float]) -> float:
    """Pixels of the box that cover something, or lie outside, which is worse."""
    outside = max(0, -box[0]) + max(0, box[2] - size[0]) + max(0, -box[1]) + max(0, box[3] - size[1])
    return covered(box, taken) + 50 * outside


def covered(box: Box, taken: Sequence[Box]) -> float:
    """Square pixels of `taken` that the box covers."""
    return sum(_overlap(box, other) for other in taken)


def _overlap(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)


def apart(heights: Sequence[float], gap: float, ends: tuple[float, float] | None = None) -> list[float]:
    """The heights, moved as little as keeps neighbours at least `gap` apart, in the order given.

    Those that stand too close form a block around their mean.

    Args:
        ends: between which they stay, as far as there is room for all of them.
    """
    order = sorted(range(len(heights)), key=heights.__getitem__)
    blocks: list[tuple[list[int], float]] = []  # members, and the middle of the block
    for position in order:
        members, middle = [position], heights[position]
        while blocks and middle - blocks[-1][1] < gap * (len(members) + len(blocks[-1][0])) / 2:
            before, _ = blocks.pop()
            members = [*before, *members]
            middle = sum(heights[member] for member in members) / len(members)
        blocks.append((members, middle))
    found = [0.0] * len(heights)
    for members, middle in blocks:
        for number, member in enumerate(members):
            found[member] = middle + gap * (number - (len(members) - 1) / 2)
    if ends is not None:
        for number, position in enumerate(order):
            found[position] = max(found[position], ends[0] + gap * number)
        for number, position in enumerate(reversed(order)):
            found[position] = min(found[position], ends[1] - gap * number)
    return found
