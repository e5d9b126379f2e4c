"""Cells that are one series: equal but for a number such as the rank. A family has one colour and one shape."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from loratory.store.naming import variant
from loratory.study.parts import CellSummary

SERIES = {"rank": "r={}", "unfrozen_layers": "top {}", "frozen_layers": "bottom {}", "alpha": "α={}"}
"""The settings along which cells form a series, and how a label names their value."""


@dataclass(frozen=True)
class Member:
    """A cell's place in its family.

    Attributes:
        family: the family's name, or the approach where the cell stands alone.
        label: what tells the cell from its family, short enough to stand beside a point.
        order: the family's number among all, in the order of the plan.
    """

    cell: CellSummary
    family: str
    label: str
    order: int


def members(cells: Sequence[CellSummary]) -> dict[str, Member]:
    """Each cell's place in its family, by the cell's id."""
    groups: dict[str, list[CellSummary]] = defaultdict(list)
    for cell in cells:
        groups[_family(cell)].append(cell)
    taken = {cell.approach for cell in cells}
    found: dict[str, Member] = {}
    for order, (name, group) in enumerate(groups.items()):
        labels = _labels(group)
        shown = group[0].approach if len(group) == 1 else name if name not in taken else f"{name} …"
        for cell, label in zip(group, labels, strict=True):
            found[cell.id] = Member(cell, shown, label, order)
    return found


def _family(cell: CellSummary) -> str:
    """The method, its targets and what else is not its default; a hybrid of rank 0, which adapts nothing, is a family
    apart from those with LoRA."""
    targets = cell.method.get("targets")
    words = [str(cell.method.get("name", "unknown"))]
    if cell.method.get("rank") == 0:
        words.append("without LoRA")
    elif targets is not None:
        words.append(targets if isinstance(targets, str) else ",".join(map(str, targets)))
    return " ".join(words) + variant(cell.method)


def _labels(cells: Sequence[CellSummary]) -> list[str]:
    if len(cells) == 1:
        return [cells[0].approach]
    varying = [key for key in SERIES if len({str(cell.method.get(key)) for cell in cells}) > 1]
    if varying == ["rank", "alpha"]:  # α follows the rank in most grids
        varying = ["rank"]
    labels = [" ".join(SERIES[key].format(cell.method.get(key)) for key in varying) for cell in cells]
    return labels if len(set(labels)) == len(labels) and all(labels) else [cell.approach for cell in cells]
