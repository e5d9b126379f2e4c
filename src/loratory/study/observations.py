"""What may be said of a study, in sentences: each from the figures beside it, none beyond its verdict.

parameters ─▶ quality of each pair ─▶ the best ─▶ baselines ─▶ ranks ─▶ time ─▶ memory ─▶ fronts
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from loratory.study.observed import Scene
from loratory.study.observed_costs import fronts_seen, memory, parameters, reached, time, total_time
from loratory.study.observed_quality import beside_baselines, best, comparisons, incomplete, ranks
from loratory.study.parts import BaselineSummary, CellSummary, Front, Observation, Pair

TOPICS: Mapping[str, Callable[[Scene], list[Observation]]] = {
    "parameters": parameters,
    "incomplete": incomplete,
    "pairs": comparisons,
    "best": best,
    "baselines": beside_baselines,
    "ranks": ranks,
    "time": time,
    "reached": reached,
    "total_time": total_time,
    "memory": memory,
    "fronts": fronts_seen,
}
"""What is said of each data set x model, in this order."""


def observe(
    cells: Sequence[CellSummary],
    pairs: Sequence[Pair],
    fronts: Sequence[Front],
    baselines: Sequence[BaselineSummary] = (),
    *,
    metric: str,
    margin: float,
) -> tuple[Observation, ...]:
    """The sentences, one data set x model after the other.

    Args:
        metric: by which cells are compared, a key of METRICS.
        margin: the difference in it that counts as none.
    """
    groups = dict.fromkeys((cell.data, cell.model) for cell in cells)
    found: list[Observation] = []
    for data, model in groups:
        members = tuple(cell for cell in cells if (cell.data, cell.model) == (data, model))
        names = {cell.id for cell in members}
        scene = Scene(
            cells=members,
            pairs=tuple(pair for pair in pairs if pair.a in names),
            fronts=tuple(front for front in fronts if (front.data, front.model) == (data, model)),
            baselines=tuple(one for one in baselines if one.data == data),
            metric=metric,
            margin=margin,
            where=f"{data}, {model}: " if len(groups) > 1 else "",
        )
        found += [replace(one, topic=topic) for topic, say in TOPICS.items() for one in say(scene)]
    return tuple(found)
