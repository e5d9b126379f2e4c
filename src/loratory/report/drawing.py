"""Which charts a group of cells has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loratory import units
from loratory.errors import counted
from loratory.report import axes, comparing, curves
from loratory.report.beside import baselines
from loratory.report.calibration import calibration, scatter
from loratory.report.charts import Chart, parts
from loratory.report.evidence import CellEvidence
from loratory.report.families import members
from loratory.report.fronts import quality_against_cost
from loratory.report.grids import Grid
from loratory.report.study_table import over_runs
from loratory.store.record import MEMORY_PARTS, TIME_PARTS
from loratory.study.document import Group, Summary
from loratory.study.observed_costs import AXIS_TITLES, noun_of
from loratory.study.parts import CellSummary

TIMES = ("setup", "train", "eval", "other")


@dataclass(frozen=True)
class Numbered:
    """A chart and the table of its numbers."""

    chart: Chart
    grid: Grid | None


@dataclass(frozen=True)
class Drawn:
    """The charts of a group; None or empty where there is nothing to draw.

    Attributes:
        quality: by the cost that quality is set against.
    """

    quality: dict[str, Chart]
    learning: Numbered | None
    settings: tuple[Numbered, ...]
    tuning: Numbered | None
    expected_best: Numbered | None
    time: Numbered | None
    training: Numbered | None
    memory: Numbered | None
    calibration: Chart | None
    """Of single labels."""
    scatter: Chart | None
    """Of a regression."""

    @property
    def close(self) -> Chart | None:
        """The chart of one cell at a time."""
        return self.calibration or self.scatter

    @property
    def all(self) -> list[Chart]:
        """Every chart, in the order of the page."""
        curves = (self.learning, *self.settings, self.tuning, self.expected_best, self.time, self.training, self.memory)
        found = [*self.quality.values(), *(one.chart for one in curves if one is not None)]
        return [*found, *([self.close] if self.close is not None else [])]


def draw(study: Summary, group: Group, evidence: Mapping[str, CellEvidence]) -> Drawn:
    """Every chart of the group that its cells and runs allow.

    Args:
        evidence: of the group's cells, by id.
    """
    places = members(group.cells)
    all_members = list(places.values())
    quality = {}
    scores = baselines(study, group)
    judged = any(pair.verdict is not None for pair in study.pairs if pair.a in group.ids)
    for key in axes.COSTS:
        here = group.data, group.model, group.limit
        fronts = [front for front in study.fronts if (front.group, front.axis) == (here, key)]
        for front in fronts[:1]:
            if (chart := quality_against_cost(front, places, study.select, scores, judged=judged)) is not None:
                quality[key] = chart
    by_setting = [(name, curves.by_setting(name, all_members, study.select)) for name in curves.SETTINGS]
    learning = curves.learning(all_members, evidence, study.select)
    tuning = curves.tuning(all_members, study.select)
    best = curves.expected_best(all_members, study.select)
    return Drawn(
        quality=quality,
        learning=_with(learning, comparing.learning_numbers(group, evidence, study.select)),
        settings=tuple(Numbered(chart, None) for _, chart in by_setting if chart is not None),
        tuning=_with(tuning, _tuning_numbers(study, group)),
        expected_best=_with(best, _best_numbers(study, group)),
        time=_parts(group, "time", "Total time", {cell.id: times(cell) for cell in group.cells}, TIMES),
        training=_parts(
            group, "training", "Training time", {cell.id: training(cell) for cell in group.cells}, TIME_PARTS
        ),
        memory=_parts(group, "memory", "Peak memory", {cell.id: memory(cell) for cell in group.cells}, MEMORY_PARTS),
        calibration=calibration(all_members, evidence),
        scatter=scatter(all_members, evidence),
    )


def _with(chart: Chart | None, grid: Grid) -> Numbered | None:
    return None if chart is None else Numbered(chart, grid)


def bar_said(study: Summary, cells: Sequence[CellSummary], key: str) -> str:
    """Which run each bar of a cost over time is, and a space; nothing where each cell has one run."""
    costs = [cost for cell in cells if (cost := cell.cost.get(key)) is not None]
    if study.lone_seed or not costs:
        return ""
    what = f"Each bar is the run with the median {AXIS_TITLES[key]}"
    if all(cost.has_middle for cost in costs):
        return f"{what}. "
    return f"{what}, of an even number of runs the shorter of the two in the middle, between which the median lies. "


def times(cell: CellSummary) -> dict[str, float] | None:
    """Seconds by part of the run that :func:`bar_said` names: medians of parts do not add up to that of the whole.

    `other` is what the total has beyond them.
    """
    total = cell.cost.get("total_seconds")
    costs = {part: cell.cost.get(f"{part}_seconds") for part in TIMES}
    if total is None:
        return None
    found = {
        part: cost.values[total.middle]
        for part, cost in costs.items()
        if cost is not None and len(cost.values) == len(total.values)
    }
    return {**found, "other": max(0.0, total.values[total.middle] - sum(found.values()))} if found else None


def training(cell: CellSummary) -> dict[str, float] | None:
    """Seconds by part of the run that :func:`bar_said` names."""
    found = cell.time_parts_seconds
    return None if not found else {part: found[part] for part in TIME_PARTS if part in found}


def memory(cell: CellSummary) -> dict[str, float] | None:
    """Bytes by part; `rest` is left out where the parts were measured above the peak."""
    found = cell.memory_parts_bytes
    return None if not found else {part: max(0.0, found[part]) for part in MEMORY_PARTS if part in found}


def _parts(
    group: Group, name: str, what: str, values: Mapping[str, dict[str, float] | None], kinds: Sequence[str]
) -> Numbered | None:
    having = [(cell, found) for cell in group.cells if (found := values[cell.id])]
    if not having:
        return None
    unit = axes.unit_of(
        "peak_memory_bytes" if name == "memory" else "train_seconds", [sum(v.values()) for _, v in having]
    )
    rows = [
        {"approach": cell.approach, "part": part, "value": value}
        for cell, found in having
        for part, value in found.items()
    ]
    present = [kind for kind in kinds if any(row["part"] == kind for row in rows)]
    largest = max(present, key=lambda kind: sum(found.get(kind, 0.0) for _, found in having))
    summary = f"{what} of {len(having)} cells divided into {', '.join(present)}; the largest part overall is {largest}."
    show = units.memory if name == "memory" else units.duration
    columns = {kind: kind.capitalize() for kind in present}
    lines = [(cell.approach, found) for cell, found in having]
    several = any(len(cell.runs) > 1 for cell, _ in having)
    over = f", medians over {noun_of(having[0][0])}s" if name == "memory" else ", of the runs that the bars show"
    caption = f"{what} by part{over if several else ''}"
    grid = comparing.numbers(f"{group.key}-{name}", caption, columns, lines, show)
    return Numbered(parts(name, what, rows, present, unit, summary), grid)


def _tuning_numbers(study: Summary, group: Group) -> Grid:
    rates = sorted({one.lr for cell in group.cells for one in cell.tuning.rates})
    lines = [line for cell in group.cells for line in _tried(cell)]
    columns = {rate: units.rate(rate) for rate in rates}
    over = f",{said}" if study.tune_seeds == "each" and (said := over_runs(study, "mean")) else ""
    caption = f"{axes.metric_title(study.select)} on validation by learning rate{over}"
    return comparing.numbers(f"{group.key}-tuning", caption, columns, lines, axes.show_metric(study.select))


def _tried(cell: CellSummary) -> list[tuple[str, dict[float, float]]]:
    """The mean score of each rate; with halving a line for each rung, with those that went no further."""
    rates = [(one.epochs, one.lr, one.score.mean) for one in cell.tuning.rates if one.score is not None]
    found = []
    for epochs in sorted({epochs for epochs, _, _ in rates}, key=lambda epochs: epochs or 0):
        name = cell.approach if epochs is None else f"{cell.approach}, {counted(epochs, 'epoch')}"
        found.append((name, {lr: mean for of, lr, mean in rates if of == epochs}))
    return found or [(cell.approach, {})]


def _best_numbers(study: Summary, group: Group) -> Grid:
    lines = [(cell.approach, {b.trials: b.score for b in cell.tuning.expected_best}) for cell in group.cells]
    columns = {n: f"{n} tried" for n in sorted({n for _, values in lines for n in values})}
    caption = f"Expected best {axes.metric_words(study.select)} on validation"
    return comparing.numbers(f"{group.key}-best", caption, columns, lines, axes.show_metric(study.select))
