"""Sentences about cost: parameters, time, memory, and quality against each; where a method saves nothing, why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from loratory import units
from loratory.errors import counted
from loratory.study import why
from loratory.study.measured import RESOLUTION, Cost, about_the_same, resolution
from loratory.study.observed import NAMED, Scene, listed
from loratory.study.parts import CellSummary, Front, FrontPoint, Observation
from loratory.study.statistics import MIN_SEEDS

AXIS_TITLES = {
    "trainable": "trainable parameters",
    "train_seconds": "training time",
    "total_seconds": "total time",
    "peak_memory_bytes": "peak memory",
    "checkpoint_bytes": "bytes on disk",
}


def parameters(scene: Scene) -> list[Observation]:
    """What each cell trains, and how much of it is the head."""
    found = []
    for cell in scene.cells:
        if cell.parameters is None:
            continue
        total, trainable, head = (cell.parameters[key] for key in ("total", "trainable", "head"))
        of_these = f"{units.count(head)} of these ({units.percent(head / trainable)}) are the classifier head's"
        if 0 < cell.parameters["adapter"] < head:
            of_these += f", more than the {units.count(cell.parameters['adapter'])} of the adapter"
        if trainable == total:
            text = f"{cell.approach} trains all {units.count(total)} parameters; {of_these}."
        else:
            share = units.percent(trainable / total)
            text = f"{cell.approach} trains {units.count(trainable)} of {units.count(total)} parameters, {share}; "
            text += "all of them are the classifier head's." if head == trainable else f"{of_these}."
        figures = {"trainable": trainable, "total": total, "head": head, "adapter": cell.parameters["adapter"]}
        found.append(scene.say(text, (cell,), figures))
    return found


def time(scene: Scene) -> list[Observation]:
    """Training time beside that of standard fine-tuning."""
    return _against_standard(scene, "train_seconds", "trains for", units.duration, _why_not_faster, _time_went_into)


def together(scene: Scene) -> list[Observation]:
    """What training at once came to, of all cells of which runs did: a measured time beside an estimated one."""
    cells = [cell for cell in scene.cells if cell.together is not None]
    found = [cell.together for cell in cells if cell.together is not None]
    runs, shares, alone = (
        sum(getattr(one, key) for one in found) for key in ("runs", "share_seconds", "alone_seconds")
    )
    if not runs or not alone:
        return []
    text = (
        f"{counted(runs, 'completed run')} trained in cohorts, tuning and final runs counted: their shares of the "
        f"cohorts' training come to {units.duration(shares)} in all; one at a time their steps would have taken an "
        f"estimated {units.duration(alone)}, from steps timed alone with random weights, of which the shares are about "
        f"{units.percent(shares / alone)}."
    )
    return [scene.say(text, cells, {"runs": runs, "share_seconds": shares, "alone_seconds": alone})]


def reached(scene: Scene) -> list[Observation]:
    """How soon validation scores reach one level."""
    return [found for cell in scene.cells if (found := _reached(scene, cell)) is not None]


def total_time(scene: Scene) -> list[Observation]:
    """What total time is made of."""
    return [found for cell in scene.cells if (found := _total_time(scene, cell)) is not None]


def memory(scene: Scene) -> list[Observation]:
    """Peak memory beside that of standard fine-tuning; where it is not smaller, what it is made of."""
    return _against_standard(scene, "peak_memory_bytes", "needs at most", units.memory, _why_not_smaller, _memory_holds)


def _against_standard(
    scene: Scene,
    key: str,
    verb: str,
    show: Callable[[float], str],
    why_not: Callable[[CellSummary, CellSummary], tuple[str, dict[str, Any]]],
    dominates: Callable[[CellSummary], str],
) -> list[Observation]:
    """A sentence for each cell about its cost `key`, compared with the standard cell's where there is one.

    Less or more is only said where the ranges over seeds do not touch, and of peak memory on a CPU where the difference
    is more than is resolved. What the cost is made of is said at length
    where a method does not save it (`why_not`), else what dominates it.
    """
    costed = [cell for cell in scene.cells if key in cell.cost]
    standard = next((cell for cell in costed if cell.method["name"] == "standard"), None)
    found = []
    for cell in costed:
        cost = cell.cost[key]
        text = f"{cell.approach} {verb} {show(cost.median)}{_range(cell, cost, show)}"
        figures: dict[str, Any] = {"median": cost.median, "low": cost.low, "high": cost.high, "kind": cost.kind}
        cells = (cell,) if standard is None or cell is standard else (cell, standard)
        reason = ""
        if len(cells) == 2 and standard is not None:
            other = standard.cost[key]
            figures |= {"standard": other.median, "ratio": cost.median / other.median if other.median else None}
            same = cost.kind == other.kind and cell.compares(standard, key)
            saved = cost.high < other.low and not _alike(cost, other)
            reason, more = ("", {}) if not same or saved else why_not(cell, standard)
            text, figures = f"{text}, {_relation(cost, other, show, same=same, noun=noun_of(cell))}", figures | more
        said = "" if cell.cohorts else dominates(cell)
        end = reason or (f"; {said}" if said else "")
        found.append(scene.say(f"{text}{end}.", cells, figures))
    return found


def noun_of(cell: CellSummary) -> str:
    """What a cell has several numbers of: seeds, or runs where each seed has several folds."""
    return "seed" if len(cell.runs) == len(cell.seeds) else "run"


def _range(cell: CellSummary, cost: Cost, show: Callable[[float], str]) -> str:
    kind = {"allocated": "allocated on the GPU, ", "resident": "resident set, "}.get(cost.kind or "", "")
    seeds = counted(len(cost.values), noun_of(cell))
    if cell.cohorts:
        return f" ({kind}estimated from steps made alone with random weights, as its runs trained in cohorts)"
    if show(cost.low) == show(cost.high):
        return f" ({kind}{seeds})"
    return f" ({kind}median of {seeds}, {show(cost.low)} to {show(cost.high)})"


def _relation(cost: Cost, other: Cost, show: Callable[[float], str], *, same: bool, noun: str) -> str:
    if not same or not other.median:
        return f"which does not compare with the {show(other.median)} of standard"
    if _alike(cost, other):
        why = f"on a CPU differences below {RESOLUTION:.0%} are not resolved"
        return f"about the same as the {show(other.median)} of standard, as {why}"
    if not cost.high < other.low and not cost.low > other.high:
        return f"not shown to differ from the {show(other.median)} of standard, as their ranges touch"
    side, share = "less" if cost.high < other.low else "more", units.percent(abs(1 - cost.median / other.median))
    fewest = min(len(cost.values), len(other.values))
    caution = f" ({counted(fewest, noun)}: too few to rely on)" if fewest < MIN_SEEDS else ""
    return f"{share} {side} than the {show(other.median)} of standard{caution}"


def _alike(cost: Cost, other: Cost) -> bool:
    """Whether their difference is below what is measured."""
    return about_the_same(cost.median, other.median, resolution(cost.kind))


def _why_not_faster(cell: CellSummary, standard: CellSummary) -> tuple[str, dict[str, Any]]:
    """The parts of both times; the work that fewer trained parameters leave as it is, and padding, from the records."""
    parts: list[str] = []
    figures: dict[str, Any] = {}
    if (found := cell.time_parts_seconds) and (others := standard.time_parts_seconds):
        parts.append(why.listed_parts(found, units.duration, ("standard", others), cpu=_on_cpu(cell)))
        figures |= {f"seconds {name}": seconds for name, seconds in found.items()}
        figures |= {f"seconds standard {name}": seconds for name, seconds in others.items()}
    for name, one in ((cell.approach, cell), ("standard", standard)):
        if one.padding_share is not None:
            figures[f"padding_share {one.id}"] = one.padding_share
            parts.append(f"{units.percent(one.padding_share)} of the rows computed for {name} were padding or filler")
    reason = "the layers above the lowest trained one are computed forward and backward all the same"
    if cell.time_parts_seconds and standard.time_parts_seconds:
        reason = why.time_dominated(cell.time_parts_seconds, frozen=True, cpu=_on_cpu(cell)) or reason
    return f": {'; '.join([reason, *parts])}", figures


def _why_not_smaller(cell: CellSummary, standard: CellSummary) -> tuple[str, dict[str, Any]]:
    """What the peak is made of, and how little of it the state of trained parameters is."""
    shares, others = why.shares(cell.memory_parts_bytes), why.shares(standard.memory_parts_bytes)
    if shares is None or others is None:
        return "", {}
    text = ", ".join(f"{name} {units.percent(share)}" for name, share in shares.items())
    state = others.get("gradients", 0.0) + others.get("optimizer", 0.0)
    figures = {f"share {name}": share for name, share in shares.items()}
    return (
        f": its peak is {text}, and gradients and optimizer state, which fewer trained parameters save, are "
        f"{units.percent(state)} of standard's, no more"
    ), {**figures, "standard gradients and optimizer": state}


def _time_went_into(cell: CellSummary) -> str:
    parts, whole = cell.time_parts_seconds, cell.share == 1.0
    found = why.time_dominated(parts, frozen=not whole, cpu=_on_cpu(cell)) if parts is not None else ""
    return found or why.unknown(parts, units.duration) or why.NOTHING


def _memory_holds(cell: CellSummary) -> str:
    parts = cell.memory_parts_bytes
    found = why.memory_dominated(parts) if parts is not None else ""
    return found or why.unknown(parts, units.memory) or why.NOTHING


def _on_cpu(cell: CellSummary) -> bool:
    """Where nothing was allocated on a GPU."""
    peak = cell.cost.get("peak_memory_bytes")
    return peak is not None and peak.kind == "resident"


def _reached(scene: Scene, cell: CellSummary) -> Observation | None:
    """How soon a cell's validation score reaches the level that all cells reach on average."""
    if cell.time_to is None:
        return None
    level, found = scene.value(cell.time_to.score), cell.time_to.seconds
    seeds = counted(len(cell.runs), noun_of(cell))
    of = _of_those_that_do(found.reached, len(cell.runs), noun_of(cell))
    whose = "every approach's mean reaches at the end" if len(scene.cells) > 1 else "its mean reaches at the end"
    text = f"{cell.approach} reaches a validation {scene.short} of {level}, the level that {whose}, "
    if found.median is None:
        text += f"with none of {seeds}."
    else:
        text += f"after {units.duration(found.median)} of training{of}, looked at after each epoch."
    return scene.say(text, (cell,), {"score": cell.time_to.score, "seconds": found.median, "reached": found.reached})


def _of_those_that_do(reached: int, runs: int, noun: str) -> str:
    """What a time over the seeds that reach a score is of; nothing where there is one run."""
    if runs == 1:
        return ""
    if reached == runs:
        return f" (median of {counted(runs, noun)})"
    if reached == 1:
        return f" (one of {counted(runs, noun)}; no other reaches it)"
    return f" (median of {counted(reached, noun)}; the other {runs - reached:,} of {runs:,} do not reach it)"


def _total_time(scene: Scene, cell: CellSummary) -> Observation | None:
    keys = ("setup_seconds", "train_seconds", "eval_seconds", "total_seconds")
    if any(key not in cell.cost for key in keys) or not cell.cost["total_seconds"].median:
        return None
    run = cell.cost["total_seconds"].middle
    setup, train, evaluated, total = (cell.cost[key].values[run] for key in keys)
    which = "its median run" if cell.cost["total_seconds"].has_middle else "the shorter of its two middle runs"
    text = (
        f"In all, {cell.approach} takes {units.duration(total)} in {which}: "
        f"{units.percent(train / total)} of it training, "
        f"{units.percent(setup / total)} set-up, {units.percent(evaluated / total)} evaluation."
    )
    figures = {"total_seconds": total, "train_share": train / total, "setup_share": setup / total}
    return scene.say(text, (cell,), {**figures, "eval_share": evaluated / total})


def fronts_seen(scene: Scene) -> list[Observation]:
    """The cells that none is better than at no more cost, and which of them are not told apart; one sentence for the
    costs of which the same is to be said."""
    alike: dict[str, list[Front]] = defaultdict(list)
    for front in scene.fronts:
        if len(front.points) > 1:
            alike[_standing(scene, front)].append(front)
    return [_front(scene, standing, fronts) for standing, fronts in alike.items()]


def _front(scene: Scene, standing: str, fronts: Sequence[Front]) -> Observation:
    by_id = {cell.id: cell for cell in scene.cells}
    costs = listed([AXIS_TITLES[front.axis] for front in fronts])
    text = f"{scene.title[0].upper()}{scene.title[1:]} against {costs}: {standing}."
    figures = {
        front.axis: {point.cell: {"cost": point.cost, "quality": point.quality} for point in front.points}
        for front in fronts
    }
    return scene.say(text, [by_id[point.cell] for point in fronts[0].points], figures)


def _standing(scene: Scene, front: Front) -> str:
    on = [point for point in front.points if point.on_front]
    ids = [point.cell for point in front.points]
    if not on or all(scene.verdicts.get((a, b)) is None for a in ids for b in ids):
        return "no pair has a verdict, so there is no front to speak of"
    text = f"on the front {'is' if len(on) == 1 else 'are'} {_named(scene, on, front.points)}"
    tied = [point for point in on[1:] if point.cell in on[0].tied_with]
    if tied:
        alone = all(front.cheaper(on[0], point) for point in on[1:])
        which = "the cheapest of them" if alone else "no dearer than the others"
        text += f"; {scene.name[on[0].cell]}, {which}, is not shown to differ from "
        text += "any other on it" if len(tied) == len(on) - 1 > NAMED else _named(scene, tied, on[1:])
    beaten = [point for point in front.points if not point.on_front]
    if beaten:
        verb = "is" if len(beaten) == 1 else "are"
        text += f"; {_named(scene, beaten, front.points)} {verb} worse than one that costs no more"
    return text


def _named(scene: Scene, points: Sequence[FrontPoint], among: Sequence[FrontPoint]) -> str:
    """Their names, or where these are many how many they are: 12 of 14."""
    if len(points) <= NAMED:
        return listed([scene.name[point.cell] for point in points])
    return f"all {len(points)}" if len(points) == len(among) else f"{len(points)} of {len(among)}"
