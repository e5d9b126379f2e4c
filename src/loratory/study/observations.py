"""What may be said of a study, in sentences: each from the figures beside it, none beyond its verdict.

sizes ─▶ parameters ─▶ quality of each pair ─▶ the best ─▶ baselines ─▶ ranks ─▶ time ─▶ cohorts ─▶ memory ─▶ fronts
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from loratory.study.observed import Scene, place_said
from loratory.study.observed_costs import fronts_seen, memory, parameters, reached, time, together, total_time
from loratory.study.observed_quality import beside_baselines, best, comparisons, incomplete, ranks
from loratory.study.observed_sizes import sizes_seen
from loratory.study.parts import BaselineSummary, CellSummary, Front, Observation, Pair, size_of

TOPICS: Mapping[str, Callable[[Scene], list[Observation]]] = {
    "parameters": parameters,
    "incomplete": incomplete,
    "pairs": comparisons,
    "best": best,
    "baselines": beside_baselines,
    "ranks": ranks,
    "time": time,
    "together": together,
    "reached": reached,
    "total_time": total_time,
    "memory": memory,
    "fronts": fronts_seen,
}
"""What is said of each data set x model x size, in this order."""


def observe(
    cells: Sequence[CellSummary],
    pairs: Sequence[Pair],
    fronts: Sequence[Front],
    baselines: Sequence[BaselineSummary] = (),
    *,
    metric: str,
    margin: float,
) -> tuple[Observation, ...]:
    """The sentences, one data set x model x size after the other, what is said over sizes first.

    Args:
        metric: by which cells are compared, a key of METRICS.
        margin: the difference in it that counts as none.
    """
    sized = len({cell.limit for cell in cells}) > 1
    several = len({(cell.data, cell.model) for cell in cells}) > 1
    found: list[Observation] = []
    for data, model, limit in dict.fromkeys(cell.group for cell in cells):
        members = tuple(cell for cell in cells if cell.group == (data, model, limit))
        names = {cell.id for cell in members}
        place = f"{data}, {model}" if several else ""
        scene = Scene(
            cells=members,
            pairs=tuple(pair for pair in pairs if pair.a in names),
            fronts=tuple(front for front in fronts if front.group == (data, model, limit)),
            baselines=tuple(one for one in baselines if (one.data, one.limit) == (data, limit)),
            metric=metric,
            margin=margin,
            where=place_said(place, size_of(members) if sized else ""),
        )
        if sized and members[0] is next(cell for cell in cells if (cell.data, cell.model) == (data, model)):
            alike = [cell for cell in cells if (cell.data, cell.model) == (data, model)]
            found += sizes_seen(alike, pairs, title=scene.title, where=place_said(place, ""))
        found += [replace(one, topic=topic) for topic, say in TOPICS.items() for one in say(scene)]
    return tuple(found)
