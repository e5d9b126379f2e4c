"""Sentences about the size of the training set: for every two approaches at which sizes one is better, and whether they
cross."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from loratory.study.fronts import verdicts_of
from loratory.study.observed import listed
from loratory.study.parts import CellSummary, Observation, Pair, Verdict


@dataclass(frozen=True)
class _Series:
    """Two approaches, and the verdict on the first against the second at each size that has both, smallest first."""

    a: str
    b: str
    cells: tuple[CellSummary, ...]
    verdicts: Mapping[str, Verdict | None]
    """By the size in words, without its unit."""

    def at(self, *verdicts: Verdict | None) -> list[str]:
        """The sizes with one of these verdicts."""
        return [size for size, found in self.verdicts.items() if found in verdicts]


def sizes_seen(cells: Sequence[CellSummary], pairs: Sequence[Pair], *, title: str, where: str) -> list[Observation]:
    """A sentence for every two approaches of one data set x model that stand at two sizes or more; those that cross
    come first, those of which nothing is shown last.

    Args:
        title: the metric inside a sentence: test accuracy.
        where: how a sentence begins.
    """
    series = [one for one in _series(cells, verdicts_of(pairs)) if len(one.verdicts) > 1]
    said = [(_order(one), _sentence(one, title)) for one in series]
    return [
        Observation(f"{where}{text}", tuple(cell.id for cell in one.cells), dict(one.verdicts), None, "sizes")
        for one, (_, text) in sorted(zip(series, said, strict=True), key=lambda found: found[1][0])
    ]


def _series(cells: Sequence[CellSummary], verdicts: Mapping[tuple[str, str], Verdict | None]) -> list[_Series]:
    sizes: dict[int | None, dict[str, CellSummary]] = {}
    for cell in cells:
        sizes.setdefault(cell.limit, {})[cell.approach] = cell
    rising = sorted(sizes.values(), key=lambda group: _rank(next(iter(group.values()))))
    found = []
    for a, b in combinations(dict.fromkeys(cell.approach for cell in cells), 2):
        both = [(group[a], group[b]) for group in rising if a in group and b in group]
        at = {one.size.removesuffix(" training examples"): verdicts.get((one.id, other.id)) for one, other in both}
        found.append(_Series(a, b, tuple(cell for pair in both for cell in pair), at))
    return found


def _rank(cell: CellSummary) -> float:
    return float("inf") if cell.limit is None else cell.limit


def _order(series: _Series) -> int:
    """0 where they cross, 1 where one is better somewhere, 2 where no pair is shown to differ."""
    return 2 - bool(series.at("better")) - bool(series.at("worse"))


def _sentence(series: _Series, title: str) -> str:
    better, worse = series.at("better"), series.at("worse")
    rest = _rest(series)
    if not better and not worse:
        return f"In {title} {series.a} and {series.b} are {rest} training examples."
    won = [
        f"{name} is better than {other} with {listed(sizes)}"
        for name, other, sizes in ((series.a, series.b, better), (series.b, series.a, worse))
        if sizes
    ]
    text = f"In {title} {listed(won)} training examples"
    if better and worse:
        text = f"{series.a} and {series.b} cross: {text[0].lower()}{text[1:]}"
    return f"{text}; they are {rest}." if rest else f"{text}."


def _rest(series: _Series) -> str:
    """The sizes at which neither is better, by what is known of them."""
    phrases: list[tuple[Verdict | None, str]] = [
        ("equivalent", "equivalent with {}"),
        ("inconclusive", "not shown to differ with {}"),
        (None, "without a verdict with {}"),
    ]
    return ", ".join(phrase.format(listed(sizes)) for kind, phrase in phrases if (sizes := series.at(kind)))
