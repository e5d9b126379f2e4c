"""Learning curves over data: the quality of every approach against how many examples it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from loratory import units
from loratory.report import axes, curves
from loratory.report.charts import Chart, chart, finished, names_at_ends, pale, series, y_metric
from loratory.report.families import Member, members
from loratory.report.grids import Grid, Heading, missing, number, row, words
from loratory.report.said import Statement
from loratory.study.document import Group, Summary
from loratory.study.measured import Spread


@dataclass(frozen=True)
class Sizes:
    """One data set and model over the sizes of its training set; `key` is its name in the page: s1, s2 …"""

    key: str
    title: str
    chart: Chart
    grid: Grid
    said: tuple[Statement, ...]


def over_sizes(study: Summary) -> list[Sizes]:
    """Every data set and model of a study with several sizes, where two of them have a score."""
    found = []
    places = list(dict.fromkeys((group.data, group.model) for group in study.groups)) if study.sized else []
    for place, (data, model) in enumerate(places, start=1):
        groups = [group for group in study.groups if (group.data, group.model) == (data, model)]
        drawn = _chart(study, groups)
        if drawn is None:
            continue
        ids = frozenset[str]().union(*(group.ids for group in groups))
        said = [one for one in study.observations if one.topic == "sizes" and ids.issuperset(one.cells)]
        prefix = f"{data}, {model}: "
        statements = tuple(Statement(one.text.removeprefix(prefix)) for one in said)
        found.append(Sizes(f"s{place}", f"{data} with {model}", drawn, _grid(study, groups, f"s{place}"), statements))
    return found


def _scored(study: Summary, groups: Sequence[Group]) -> list[tuple[Member, int, Spread]]:
    """The approach, as a member of the first group that has it, the size and the score of every cell with both."""
    first: dict[str, Member] = {}
    found = []
    for group in groups:
        for member in members(group.cells).values():
            score, size = member.cell.score(study.select), member.cell.train_examples
            if score is not None and size is not None:
                line = first.setdefault(member.cell.approach, member)
                found.append((line, size, axes.on_scale(study.select, score)))
    return found


def _chart(study: Summary, groups: Sequence[Group]) -> Chart | None:
    """None where fewer than two sizes have a score."""
    import altair as alt

    found = _scored(study, groups)
    sizes = sorted({size for _, size, _ in found})
    if len(sizes) < 2:
        return None
    rows = [_row(study, line, size, score) for line, size, score in found]
    values = [point[key] for point in rows for key in ("y", "low", "high") if point[key] is not None]
    labels = alt.Axis(values=sizes, format=",d", labelOverlap="greedy", labelSeparation=6)
    scale = curves.scale_of(sizes, [point["label"] for point in rows], log=True)
    x = alt.X("x:Q", title="Training examples, logarithmic", scale=scale, axis=labels)
    y, low = (y_metric(study.select, values, split="test", field=field) for field in ("y", "low"))
    lines = list({line.cell.id: line for line, _, _ in found}.values())
    color, shape = series(lines, named=len({line.family for line in lines}) < len(lines))
    tooltip = [
        alt.Tooltip(f"{key}:N", title=title) for key, title in (("approach", "Approach"), ("size", "Trained on"))
    ]
    tooltip += [alt.Tooltip("shown:N", title=axes.metric_title(study.select))]
    base = chart(rows)
    layers = [
        base.mark_rule(strokeWidth=1.5, opacity=pale()).encode(x=x, y=low, y2="high:Q", color=color),
        base.mark_line(strokeWidth=1.8, opacity=pale()).encode(x=x, y=y, color=color, detail="cell:N"),
        base.mark_point(size=60, filled=True, opacity=pale()).encode(
            x=x, y=y, color=color, shape=shape, tooltip=tooltip
        ),
        names_at_ends(curves.last(rows), y, x, axes.bounds(values), along=curves.along(rows, log=True)),
    ]
    summary = (
        f"{axes.metric_title(study.select)} on the test split against the number of training examples "
        f"({sizes[0]:,} to {sizes[-1]:,}) for {len(lines)} approaches."
    )
    return finished("by-size", layers, summary)


def _row(study: Summary, line: Member, size: int, score: Spread) -> dict[str, Any]:
    show = axes.show_metric(study.select)
    ends = f" ({show(score.low)} to {show(score.high)})" if score.low is not None else ""
    named = {"cell": line.cell.id, "approach": line.cell.approach, "family": line.family, "label": line.label}
    shown = {"size": f"{size:,} examples", "shown": show(score.mean) + ends}
    return {**named, "x": size, "y": score.mean, "low": score.low, "high": score.high, **shown}


def _grid(study: Summary, groups: Sequence[Group], key: str) -> Grid:
    """The numbers of the chart: a line an approach, a column a size."""
    show = axes.show_metric(study.select)
    scores = {(line.cell.approach, size): score for line, size, score in _scored(study, groups)}
    sizes = sorted({size for _, size in scores})
    rows = []
    for approach in dict.fromkeys(approach for approach, _ in scores):
        entries = []
        for score in (scores.get((approach, size)) for size in sizes):
            ends = "" if score is None or score.low is None else f"{show(score.low)} to {show(score.high)}"
            entries.append(missing() if score is None else number(score.mean, show, ends))
        rows.append(row([words(approach), *entries]))
    headings = (Heading("Approach", numeric=False), *(Heading(units.count(size)) for size in sizes))
    caption = f"{axes.metric_title(study.select)} on the test split by the number of training examples"
    return Grid(f"{key}-sizes", caption, headings, tuple(rows))
