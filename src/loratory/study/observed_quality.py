"""Sentences about quality: every pair with its verdict, the best cell and its ties, ranks."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from loratory import units
from loratory.errors import counted
from loratory.study.halving import failure_said
from loratory.study.observed import NAMED, Scene, listed
from loratory.study.parts import CellSummary, Observation, Pair, Verdict


def comparisons(scene: Scene) -> list[Observation]:
    """One sentence a pair, with difference, interval and verdict."""
    cells = {cell.id: cell for cell in scene.cells}
    return [_comparison(scene, pair, cells[pair.a], cells[pair.b]) for pair in scene.pairs]


def _comparison(scene: Scene, pair: Pair, a: CellSummary, b: CellSummary) -> Observation:
    figures = {
        key: getattr(pair, key) for key in ("difference", "low", "high", "p", "p_holm", "family", "seeds", "examples")
    }
    if pair.verdict is None or pair.difference is None or pair.low is None or pair.high is None:
        return scene.say(_without_verdict(scene, pair, a, b), (a, b), figures)
    if pair.verdict == "worse":  # the same, seen from the better one
        figures |= {"difference": -pair.difference, "low": -pair.high, "high": -pair.low}
        return scene.say(_better(scene, pair, b, a, figures), (b, a), figures, "better")
    if pair.verdict == "better":
        return scene.say(_better(scene, pair, a, b, figures), (a, b), figures, "better")
    interval = f"{scene.gap(pair.difference)}{scene.unit}, 95% interval {scene.gap(pair.low)} to {scene.gap(pair.high)}"
    if pair.verdict == "equivalent":
        together = f"; {pair.family} pairs taken together" if pair.family > 1 else ""
        text = (
            f"{a.approach} and {b.approach} are equivalent in {scene.title}: their difference ({interval}) lies within "
            f"±{scene.gap(scene.margin, sign=False)}{scene.unit} ({_basis(pair)}{together})."
        )
    else:
        text = (
            f"Whether {a.approach} or {b.approach} has the better {scene.title} remains open: difference {interval} "
            f"({_chance(pair)}; {_basis(pair)})."
        )
    return scene.say(text, (a, b), figures, pair.verdict)


def _better(scene: Scene, pair: Pair, a: CellSummary, b: CellSummary, figures: dict[str, Any]) -> str:
    interval = f"95% interval {scene.gap(figures['low'])} to {scene.gap(figures['high'])}"
    return (
        f"{a.approach} is better than {b.approach} in {scene.title}: {scene.gap(figures['difference'])}{scene.unit}, "
        f"{interval} ({_chance(pair)}; {_basis(pair)})."
    )


def _without_verdict(scene: Scene, pair: Pair, a: CellSummary, b: CellSummary) -> str:
    text = f"No verdict on {a.approach} against {b.approach}: {pair.why_none}."
    if pair.difference is None:
        return text
    return f"{text} Their {scene.title} differs by {scene.gap(pair.difference)}{scene.unit} in the mean."


def _chance(pair: Pair) -> str:
    p = pair.p_holm if pair.p_holm is not None else 1.0
    shown = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    return f"{shown} after Holm's correction over {counted(pair.family, 'pair')}" if pair.family > 1 else shown


def _basis(pair: Pair) -> str:
    units = f" in {counted(pair.units, 'unit')}" if pair.units < pair.examples else ""
    folds = f"{counted(pair.folds, 'fold')}, " if pair.folds is not None else ""
    return f"{folds}{counted(pair.seeds, 'seed')}, {counted(pair.examples, 'example')}{units}"


def incomplete(scene: Scene) -> list[Observation]:
    """Cells of which final runs did not complete or have no rate: what is said of them rests on the others."""
    found = []
    for cell in scene.cells:
        if cell.failed:
            text = (
                f"{len(cell.failed)} of {counted(len(cell.failed) + len(cell.runs), 'final run')} of {cell.approach} "
            )
            text += "did not complete; its numbers are those of the others, which may flatter it."
            found.append(scene.say(text, (cell,), {"failed": len(cell.failed), "completed": len(cell.runs)}))
        if none := cell.tuning.unchosen:
            seeds = sum(len(choice.seeds) for choice in cell.tuning.choices)
            folded = any(choice.fold is not None for choice in cell.tuning.choices)
            of = f"{seeds:,} folds and seeds" if folded else counted(seeds, "seed")
            hopeless = [choice for choice in cell.tuning.choices if choice.hopeless]
            tried = [(trial.epochs, trial.score) for choice in hopeless for trial in choice.trials]
            failed = failure_said(cell.tuning.rungs, tried, scene.measure, f" of {cell.approach}")
            text = f"With {none} of {of} {failed}, so that there is no final run"
            text += "." if none == seeds else "; its numbers are those of the others, which may flatter it."
            found.append(scene.say(text, (cell,), {"without a rate": none, "seeds": seeds}))
    return found


def best(scene: Scene) -> list[Observation]:
    """The best mean on test, and how every other cell stands to it."""
    if len(scene.tested) < 2:
        return []
    sign = 1 if scene.measure.higher_is_better else -1
    top = max(scene.tested, key=lambda cell: sign * scene.score(cell).mean)
    others = [cell for cell in scene.tested if cell.id != top.id]
    by_verdict: dict[Verdict | None, list[CellSummary]] = defaultdict(list)
    for cell in others:
        by_verdict[scene.verdicts.get((top.id, cell.id))].append(cell)
    phrases: list[tuple[Verdict | None, str]] = [
        ("better", "it is better than {}"),
        ("equivalent", "equivalent to {}"),
        ("inconclusive", "not shown to differ from {}"),
        (None, "without a verdict against {}"),
    ]
    parts = [
        phrase.format(_some(by_verdict[one], others, every="any of the" if one == "inconclusive" else "all"))
        for one, phrase in phrases
        if by_verdict[one]
    ]
    text = f"The best mean {scene.title} is {scene.value(scene.score(top).mean)}, of {top.approach}: "
    figures = {cell.id: scene.score(cell).mean for cell in (top, *others)}
    said = [text + "; ".join(parts) + ".", *_smallest(top, by_verdict["equivalent"] + by_verdict["inconclusive"])]
    return [scene.say(" ".join(said), (top, *others), figures)]


def _some(cells: Sequence[CellSummary], others: Sequence[CellSummary], *, every: str = "all") -> str:
    """Their names, or where these are many how many they are: 12 of the 13 others."""
    if len(cells) <= NAMED:
        return listed([cell.approach for cell in cells])
    return f"{every} {len(others)} others" if len(cells) == len(others) else f"{len(cells)} of the {len(others)} others"


def _smallest(top: CellSummary, tied: Sequence[CellSummary]) -> list[str]:
    """Which of those not shown to be worse than the best trains the fewest parameters, where it is not the best."""
    trained = {cell.id: cell.parameters["trainable"] for cell in (top, *tied) if cell.parameters is not None}
    if len(trained) <= len(tied) or not tied:
        return []
    least = min(tied, key=lambda cell: trained[cell.id])
    if trained[least.id] >= trained[top.id]:
        return []
    fewer = "fewer parameters" if len(tied) == 1 else "the fewest parameters of these"
    counts = f"{units.count(trained[least.id])} against {units.count(trained[top.id])}"
    return [f"{least.approach}, not shown to be worse, trains {fewer}: {counts}."]


def beside_baselines(scene: Scene) -> list[Observation]:
    """How the approaches' means stand to the best baseline on the same test split: it has no seeds, so no verdict."""
    scores = {one.name: float(value) for one in scene.baselines if (value := one.value(scene.metric)) is not None}
    if not scores or not scene.tested:
        return []
    best = max if scene.measure.higher_is_better else min
    name = best(scores, key=lambda one: scores[one])
    above = [cell for cell in scene.tested if scene.measure.better(scene.score(cell).mean, scores[name])]
    side = "above" if scene.measure.higher_is_better else "below"
    text = f"The best baseline, {name}, has a {scene.title} of {scene.value(scores[name])}: "
    if not above:
        text += (
            f"the mean of no approach is {side} it, so that more epochs, data or learning rates may be worth trying."
        )
    elif len(above) == len(scene.tested):
        text += f"every approach's mean is {side} it."
    elif len(above) <= NAMED:
        verb = "is the mean" if len(above) == 1 else "are the means"
        text += f"{side} it {verb} of {listed([cell.approach for cell in above])}."
    else:
        below = [cell for cell in scene.tested if cell not in above]
        text += f"{side} it are the means of {len(above)} of the {len(scene.tested)} approaches"
        text += f", all but {listed([cell.approach for cell in below])}." if len(below) <= NAMED else "."
    return [scene.say(text, scene.tested, {"baseline": scores[name], "above": len(above)})]


def ranks(scene: Scene) -> list[Observation]:
    """What more rank gives, for every series of three ranks or more that differ in nothing else."""
    series: dict[str, list[CellSummary]] = defaultdict(list)
    for cell in scene.tested:
        if rank := cell.method.get("rank"):  # 0: the frozen layers stay as they were, there is no update to scale
            alpha = cell.method.get("alpha")
            rest = {key: value for key, value in cell.method.items() if key not in ("rank", "alpha")}
            for scaling in ({"alpha": alpha}, {"alpha per rank": alpha / rank if alpha is not None else None}):
                series[json.dumps([rest, scaling], sort_keys=True, default=str)].append(cell)
    found: dict[tuple[str, ...], list[CellSummary]] = {}
    for cells in series.values():
        ordered = sorted(cells, key=lambda cell: int(cell.method["rank"]))
        if len({cell.method["rank"] for cell in ordered}) >= 3:
            found[tuple(cell.id for cell in ordered)] = ordered
    return [_trend(scene, cells) for cells in found.values()]


def _trend(scene: Scene, cells: Sequence[CellSummary]) -> Observation:
    named = [f"{scene.value(scene.score(cell).mean)} (r={cell.method['rank']})" for cell in cells]
    verdicts = {
        (low.method["rank"], high.method["rank"]): scene.verdicts.get((high.id, low.id))
        for low, high in combinations(cells, 2)
    }
    text = f"From r={cells[0].method['rank']} to r={cells[-1].method['rank']} ({_series(cells)}), {scene.title} is "
    text += f"{listed(named)}. {_conclusion(verdicts)}"
    figures = {f"r={cell.method['rank']}": scene.score(cell).mean for cell in cells}
    ends = verdicts[cells[0].method["rank"], cells[-1].method["rank"]]
    return scene.say(text, (cells[-1], *cells[:-1]), figures, ends)


def _series(cells: Sequence[CellSummary]) -> str:
    return cells[0].approach.replace(f" r={cells[0].method['rank']}", "", 1)


def _conclusion(verdicts: dict[tuple[int, int], Verdict | None]) -> str:
    """What the pairs of ranks allow: (lower, higher) to the verdict on the higher."""
    kinds = set(verdicts.values())
    if None in kinds:
        return "Some of these pairs have no verdict, so nothing is said of a trend."
    if kinds == {"equivalent"}:
        return "All these ranks are equivalent."
    rising = [f"r={high} is better than r={low}" for (low, high), verdict in verdicts.items() if verdict == "better"]
    falling = [f"r={low} is better than r={high}" for (low, high), verdict in verdicts.items() if verdict == "worse"]
    if not rising and not falling:
        return "No rank is shown to be better than another."
    text = f"{listed([*rising, *falling])}; of the other pairs none is shown to differ."
    return text if len(rising) + len(falling) < len(verdicts) else f"{listed([*rising, *falling])}."
