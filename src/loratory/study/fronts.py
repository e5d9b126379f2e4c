"""Quality against cost: which cells are on the front, where a tie is called a tie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from loratory.study.measured import about_the_same, resolution
from loratory.study.parts import CellSummary, Front, FrontPoint, Pair, Verdict

AXES = ("trainable", "train_seconds", "total_seconds", "peak_memory_bytes", "checkpoint_bytes")
"""Costs that quality is set against."""

_OTHER_WAY: Mapping[Verdict | None, Verdict | None] = {"better": "worse", "worse": "better"}


def fronts(cells: Sequence[CellSummary], pairs: Sequence[Pair], *, metric: str) -> tuple[Front, ...]:
    """A front for each data set x model x size and axis, over the cells that have both the cost and `metric` on test.

    A cell is on the front unless another one that costs no more is better by its pair's verdict. A measured cost is no
    more where it compares, and its median is not higher or its middle half over seeds touches the other's: one slow
    seed is not enough; peak memory on a CPU also where both are about the same. Cells of which neither is better are
    tied: so are all that have no verdict.
    """
    verdicts = verdicts_of(pairs)
    found = []
    for key in dict.fromkeys(cell.group for cell in cells):
        data, model, limit = key
        members = [cell for cell in cells if cell.group == key]
        for axis in AXES:
            points = _points(members, axis, metric, verdicts)
            if points:
                found.append(Front(data, model, axis, points, limit, _resolution(members, axis)))
    return tuple(found)


def verdicts_of(pairs: Sequence[Pair]) -> dict[tuple[str, str], Verdict | None]:
    """The verdict on the first cell against the second, for both orders."""
    given = {(pair.a, pair.b): pair.verdict for pair in pairs}
    return given | {(b, a): _OTHER_WAY.get(verdict, verdict) for (a, b), verdict in given.items()}


def _points(
    cells: Sequence[CellSummary], axis: str, metric: str, verdicts: Mapping[tuple[str, str], Verdict | None]
) -> tuple[FrontPoint, ...]:
    costs = {cell.id: cost for cell in cells if (cost := _cost(cell, axis)) is not None and _tested(cell, metric)}
    by_id = {cell.id: cell for cell in cells}
    points = []
    for cell in sorted((cell for cell in cells if cell.id in costs), key=lambda cell: costs[cell.id]):
        others = [other for other in costs if other != cell.id]
        beaten = any(
            verdicts.get((other, cell.id)) == "better" and _no_more(by_id[other], cell, axis) for other in others
        )
        tied = tuple(other for other in others if verdicts.get((other, cell.id)) not in ("better", "worse"))
        spread = cell.quality["test"][metric]
        points.append(FrontPoint(cell.id, costs[cell.id], spread.mean, spread.low, spread.high, not beaten, tied))
    return tuple(points)


def _no_more(one: CellSummary, other: CellSummary, axis: str) -> bool:
    if not one.compares(other, axis):
        return False
    if axis in one.cost and axis in other.cost:
        a, b = one.cost[axis], other.cost[axis]
        if about_the_same(a.median, b.median, _resolution((one, other), axis)):
            return True
        return a.median <= b.median or float(np.percentile(a.values, 25)) <= float(np.percentile(b.values, 75))
    own, others = _cost(one, axis), _cost(other, axis)
    return own is not None and others is not None and own <= others


def _resolution(cells: Sequence[CellSummary], axis: str) -> float:
    """The share below which costs of these cells are about the same; 0 where not all are measured alike."""
    kinds = {cell.cost[axis].kind for cell in cells if axis in cell.cost}
    return resolution(kinds.pop()) if len(kinds) == 1 else 0.0


def _cost(cell: CellSummary, axis: str) -> float | None:
    if axis == "trainable":
        return cell.parameter("trainable")
    return cell.cost[axis].median if axis in cell.cost else None


def _tested(cell: CellSummary, metric: str) -> bool:
    return metric in cell.quality.get("test", {})
