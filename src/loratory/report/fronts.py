"""The chart of quality against cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from loratory.report import axes, theme
from loratory.report.charts import NARROW, PLAIN, PLOTS, Chart, Rows, chart, finished, series, y_metric
from loratory.report.families import Member
from loratory.report.labels import Box, Place, placed
from loratory.study.parts import Front, FrontPoint


def quality_against_cost(front: Front, members: Mapping[str, Member], metric: str) -> Chart | None:
    """Each cell's mean and interval against one cost; the front joined. None where no cell has both numbers."""
    import altair as alt

    points = [point for point in front.points if point.cell in members]
    if not points:
        return None
    costs = [point.cost for point in points]
    unit, log = axes.unit_of(front.axis, costs), axes.is_log(costs)
    values = [value for p in points for value in (p.quality, p.low, p.high) if value is not None]
    ends = axes.log_bounds(costs, beyond=0.12) if log else axes.bounds(costs, beyond=0.12)
    x_scale = alt.Scale(type="log" if log else "linear", domain=[end / unit.size for end in ends], nice=False)
    x_axis = alt.Axis(format="~s" if not unit.name else PLAIN, tickCount=alt.ExprRef(f"width < {NARROW} ? 4 : 8"))
    title = unit.title(axes.COSTS[front.axis]) + (", logarithmic" if log else "")
    x = alt.X("x:Q", title=title, scale=x_scale, axis=x_axis)
    y, low = (y_metric(metric, values, split="test", field=field) for field in ("y", "low"))
    base = chart(_front_rows(front, points, members, unit, metric, ends, log=log))
    color, shape = series([members[point.cell] for point in points])
    tooltip = [alt.Tooltip(f"{key}:N", title=key.capitalize()) for key in ("approach", "cost", "quality", "standing")]
    layers = [
        base.transform_filter("datum.fill === 1")
        .mark_line(color=theme.color("muted"), strokeDash=[2, 3], strokeWidth=1)
        .encode(x=x, y=y),
        base.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=1.5)
        .encode(x=x, y=low, y2="high:Q", color=color),
        base.mark_point(size=85, filled=True).encode(
            x=x, y=y, color=color, shape=shape, opacity=alt.Opacity("fill:Q", scale=None, legend=None)
        ),
        base.mark_point(size=85, filled=False, strokeWidth=1.6, opacity=1).encode(
            x=x, y=y, color=color, shape=shape, tooltip=tooltip
        ),
        *names_beside(base, x, y),
    ]
    best = max(points, key=lambda point: point.quality)
    summary = (
        f"{axes.metric_title(metric)} on the test split against {axes.COSTS[front.axis].lower()}, "
        f"{len(points)} cells. Highest mean: {members[best.cell].cell.approach}. On the front: "
        f"{'; '.join(members[point.cell].cell.approach for point in points if point.on_front) or 'none'}."
    )
    return finished(f"quality-{front.axis}", layers, summary)


def _front_rows(
    front: Front,
    points: Sequence[FrontPoint],
    members: Mapping[str, Member],
    unit: axes.Unit,
    metric: str,
    ends: tuple[float, float],
    *,
    log: bool,
) -> Rows:
    values = [value for p in points for value in (p.quality, p.low, p.high) if value is not None]
    heights = axes.bounds(values)
    show = axes.show_metric(metric)
    places = {
        name: _places(points, [members[p.cell].label for p in points], size, ends, heights, log=log)
        for name, size in PLOTS.items()
    }
    rows = []
    for number, point in enumerate(points):
        member = members[point.cell]
        tied = front.tied_with_cheaper(point)
        row = {
            "approach": member.cell.approach,
            "family": member.family,
            "label": member.label,
            "x": point.cost / unit.size,
            "y": point.quality,
            "low": point.low,
            "high": point.high,
            "fill": 0.35 if tied else 1.0 if point.on_front else 0.0,
            "cost": unit.show(point.cost),
            "quality": show(point.quality)
            + (f" ({show(point.low)} to {show(point.high)})" if point.low is not None else ""),
            "standing": "tied with a cheaper approach"
            if tied
            else "on the front"
            if point.on_front
            else "a cheaper one is better",
        }
        for name, found in places.items():
            place = found[number]
            row |= {f"{name}_dx": place.dx, f"{name}_dy": place.dy, f"{name}_align": place.align}
        rows.append(row)
    return rows


def _places(
    points: Sequence[FrontPoint],
    names: Sequence[str],
    size: tuple[float, float],
    ends: tuple[float, float],
    heights: tuple[float, float],
    *,
    log: bool,
) -> list[Place]:
    def across(point: FrontPoint) -> float:
        return size[0] * axes.position(point.cost, ends, log=log)

    def down(value: float) -> float:
        return size[1] * (1 - axes.position(value, heights))

    intervals: list[Box] = [
        (across(p) - 1, down(p.high), across(p) + 1, down(p.low))
        for p in points
        if p.low is not None and p.high is not None
    ]
    return placed([(across(p), down(p.quality)) for p in points], names, intervals, size)


def names_beside(base: Any, x: Any, y: Any) -> list[Any]:
    """The points' names, where the rows say for a wide and a narrow plot."""
    import altair as alt

    def pick(key: str) -> Any:
        return alt.ExprRef(f"width < {NARROW} ? datum.narrow_{key} : datum.wide_{key}")

    mark = base.mark_text(dx=pick("dx"), dy=pick("dy"), align=pick("align"), baseline="middle")
    return [mark.encode(x=x, y=y, text="label:N")]
