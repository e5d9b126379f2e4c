"""The chart of quality against cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from loratory.evaluation.metrics import METRICS
from loratory.report import axes, theme
from loratory.report.charts import HEIGHT, PLOTS, Chart, Rows, chart, finished, pick, series, x_ticks, y_metric
from loratory.report.families import Member
from loratory.report.labels import LETTER, LINE, Box, Place, apart, covered, placed
from loratory.study.parts import Front, FrontPoint

CORE = {"front": 85, "tied": 16, "beaten": 0, "unknown": 0}
"""Area of the filled part of a point: all of it, a dot, or nothing."""

STANDING = {
    "front": "on the front",
    "tied": "on the front, not shown to differ from a cheaper one",
    "beaten": "a cheaper one is better",
    "unknown": "no pair has a verdict",
}

FILLED = (
    "Filled: on the front, and shown to be better than all that costs less, if anything does. With a dot: on the "
    "front, but not shown to differ from a cheaper one. Empty: one that costs no more is better."
)
UNJUDGED = "No pair has a verdict, so that no point is filled: none is known to be on a front."
UNNAMED = "Points that stand too close have no name: point at them, or see the costs below."

ROOMY = 6
"""Points for which a chart of the usual height has room."""

Scores = Sequence[tuple[str, float]]


def quality_against_cost(
    front: Front, members: Mapping[str, Member], metric: str, baselines: Scores = (), *, judged: bool = True
) -> Chart | None:
    """Each cell's mean and interval against one cost; the front joined. None where no cell has both numbers.

    Args:
        baselines: names and scores, drawn as lines across; those far below all cells are named in the chart's note.
        judged: whether any pair of the cells has a verdict; without one there is no front.
    """
    import altair as alt

    points = [_on_scale(point, metric) for point in front.points if point.cell in members]
    if not points:
        return None
    costs = [point.cost for point in points]
    unit, log = axes.unit_of(front.axis, costs), axes.is_log(costs)
    values = [value for p in points for value in (p.quality, p.low, p.high) if value is not None]
    near, far = _near(baselines, values)
    values += [score for _, score in near]
    ends = axes.log_bounds(costs, beyond=0.12) if log else axes.bounds(costs, beyond=0.12)
    shown = (ends[0] / unit.size, ends[1] / unit.size)
    x_scale = alt.Scale(type="log" if log else "linear", domain=list(shown), nice=False)
    x_axis = alt.Axis(**x_ticks(shown, log=log) | ({} if unit.name else {"format": "~s"}))
    title = unit.title(axes.COSTS[front.axis]) + (", logarithmic" if log else "")
    x = alt.X("x:Q", title=title, scale=x_scale, axis=x_axis)
    y, low = (y_metric(metric, values, split="test", field=field) for field in ("y", "low"))
    heights = axes.bounds(values)
    height = HEIGHT + 14 * min(max(0, len(points) - ROOMY), 14)
    plots = {name: (across, down + height - HEIGHT) for name, (across, down) in PLOTS.items()}
    lines = {name: _lines(near, points, size, ends, heights, log=log) for name, size in plots.items()}
    rows = _front_rows(front, points, members, unit, metric, ends, heights, lines, plots, log=log, judged=judged)
    base = chart(rows)
    color, shape = series([members[point.cell] for point in points])
    tooltip = [alt.Tooltip(f"{key}:N", title=key.capitalize()) for key in ("approach", "cost", "quality", "standing")]
    layers = [
        *_baseline_layers(near, lines, y),
        base.transform_filter("datum.core === 85")
        .mark_line(color=theme.color("muted"), strokeDash=[2, 3], strokeWidth=1)
        .encode(x=x, y=y),
        base.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=1.5)
        .encode(x=x, y=low, y2="high:Q", color=color),
        base.transform_filter("datum.core > 0")
        .mark_point(filled=True, opacity=1)
        .encode(x=x, y=y, color=color, shape=shape, size=alt.Size("core:Q", scale=None, legend=None)),
        base.mark_point(size=85, filled=False, strokeWidth=1.6, opacity=1).encode(
            x=x, y=y, color=color, shape=shape, tooltip=tooltip
        ),
        *names_beside(base, x, y),
    ]
    summary = _summary(front, points, members, metric, judged=judged)
    if near:
        summary += f" Lines across: {_scored(near, metric)}."
    note = _baselines_said(near, far, metric)
    unnamed = any(not row[f"{plot}_seen"] for row in rows for plot in PLOTS)
    note = " ".join(part for part in (FILLED if judged else UNJUDGED, UNNAMED * unnamed, note) if part)
    return finished(f"quality-{front.axis}", layers, summary, height=height, note=note)


def _summary(
    front: Front, points: Sequence[FrontPoint], members: Mapping[str, Member], metric: str, *, judged: bool
) -> str:
    """What the chart shows, for who hears it."""
    sign = 1 if METRICS[metric].higher_is_better else -1
    best = max(points, key=lambda point: sign * point.quality)
    on = "; ".join(members[point.cell].cell.approach for point in points if point.on_front) or "none"
    return (
        f"{axes.metric_title(metric)} on the test split against {axes.COSTS[front.axis].lower()}, "
        f"{len(points)} cells. Best mean: {members[best.cell].cell.approach}. "
        f"{f'On the front: {on}.' if judged else UNJUDGED}"
    )


def _baselines_said(near: Scores, far: Scores, metric: str) -> str:
    """What the lines across are, and which baselines stand below what is drawn."""
    note = f"Dashed lines: baselines. Below what is drawn: {_scored(far, metric)}." if near and far else ""
    note = note or ("Dashed lines: baselines." if near else "")
    return note or (f"Baselines, below what is drawn: {_scored(far, metric)}." if far else "")


def _on_scale(point: FrontPoint, metric: str) -> FrontPoint:
    return replace(point, low=axes.within(metric, point.low), high=axes.within(metric, point.high))


def _scored(baselines: Scores, metric: str) -> str:
    return ", ".join(f"{name} {axes.show_metric(metric)(score)}" for name, score in baselines)


def _near(baselines: Scores, values: Sequence[float]) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
    """Baselines above all cells, or no farther below than half of what the cells and those span; and the others."""
    top = max([*values, *(score for _, score in baselines)])
    least = min(values) - 0.5 * (top - min(values))
    return [one for one in baselines if one[1] >= least], [one for one in baselines if one[1] < least]


@dataclass(frozen=True)
class _Line:
    """Where a line's name stands: the share of the width at which its end is, and the pixels from its line."""

    at: float
    dy: float
    box: Box

    @property
    def align(self) -> str:
        """Which end of the name is there."""
        return "right" if self.at == 1 else "left"


ALONG = (1.0, 0.0, 0.75, 0.5, 0.25)
"""Where along its line a name may begin, 1 for where it ends; tried in this order."""


def _lines(
    baselines: Scores,
    points: Sequence[FrontPoint],
    size: tuple[float, float],
    ends: tuple[float, float],
    heights: tuple[float, float],
    *,
    log: bool,
) -> list[_Line]:
    """Where the baselines' names stand: above their lines, where they cover least."""
    taken = _marks(points, size, ends, heights, log=log)
    wanted = [size[1] * (1 - axes.position(score, heights)) - LINE / 2 - 1 for _, score in baselines]
    found = []
    for (name, score), middle in zip(baselines, apart(wanted, LINE), strict=True):
        width = LETTER * len(name)
        boxes: dict[float, Box] = {}
        for at in ALONG:
            left = size[0] - width if at == 1 else at * size[0]
            if at in (0, 1) or left + width <= size[0]:
                boxes[at] = (left, middle - LINE / 2, left + width, middle + LINE / 2)
        _, best = min((covered(box, taken), order) for order, box in enumerate(boxes.values()))
        line = size[1] * (1 - axes.position(score, heights))
        at, box = list(boxes.items())[best]
        found.append(_Line(at, middle - line, box))
    return found


def _baseline_layers(baselines: Scores, lines: Mapping[str, Sequence[_Line]], y: Any) -> list[Any]:
    import altair as alt

    if not baselines:
        return []
    rows = []
    for number, (name, score) in enumerate(baselines):
        row: dict[str, Any] = {"label": name, "y": score}
        for plot, found in lines.items():
            row |= {
                f"{plot}_align": found[number].align,
                f"{plot}_at": found[number].at,
                f"{plot}_dy": found[number].dy,
            }
        rows.append(row)
    base = chart(rows)
    across = alt.value(alt.ExprRef(f"({pick('at').expr}) * width"))
    muted = theme.color("muted")
    names = base.mark_text(align=pick("align"), dy=pick("dy"), baseline="middle", color=muted, fontSize=11)
    return [
        base.mark_rule(color=muted, strokeDash=[6, 3], strokeWidth=1).encode(y=y),
        names.encode(x=across, y=y, text="label:N"),
    ]


def _front_rows(
    front: Front,
    points: Sequence[FrontPoint],
    members: Mapping[str, Member],
    unit: axes.Unit,
    metric: str,
    ends: tuple[float, float],
    heights: tuple[float, float],
    lines: Mapping[str, Sequence[_Line]],
    plots: Mapping[str, tuple[float, float]],
    *,
    log: bool,
    judged: bool,
) -> Rows:
    show = axes.show_metric(metric)
    places = {
        name: _places(
            points,
            [members[p.cell].label for p in points],
            size,
            ends,
            heights,
            [line.box for line in lines[name]],
            log=log,
        )
        for name, size in plots.items()
    }
    rows = []
    for number, point in enumerate(points):
        member = members[point.cell]
        standing = "tied" if front.tied_with_cheaper(point) else "front" if point.on_front else "beaten"
        standing = standing if judged else "unknown"
        row = {
            "approach": member.cell.approach,
            "family": member.family,
            "label": member.label,
            "x": point.cost / unit.size,
            "y": point.quality,
            "low": point.low,
            "high": point.high,
            "core": CORE[standing],
            "cost": unit.show(point.cost),
            "quality": show(point.quality)
            + (f" ({show(point.low)} to {show(point.high)})" if point.low is not None else ""),
            "standing": STANDING[standing],
        }
        for name, found in places.items():
            place = found[number]
            row |= {f"{name}_dx": place.dx, f"{name}_dy": place.dy, f"{name}_align": place.align}
            row[f"{name}_seen"] = place.seen
        rows.append(row)
    return rows


def _places(
    points: Sequence[FrontPoint],
    names: Sequence[str],
    size: tuple[float, float],
    ends: tuple[float, float],
    heights: tuple[float, float],
    others: Sequence[Box],
    *,
    log: bool,
) -> list[Place]:
    marks = _marks(points, size, ends, heights, log=log)
    middles = [((left + right) / 2, (top + foot) / 2) for left, top, right, foot in marks[: len(points)]]
    order = sorted(range(len(points)), key=lambda at: (not points[at].on_front, -points[at].quality))
    found = placed(
        [middles[at] for at in order],
        [names[at] for at in order],
        [*marks[len(points) :], *others],
        size,
        crowded=True,
    )
    return [found[order.index(at)] for at in range(len(points))]


def _marks(
    points: Sequence[FrontPoint],
    size: tuple[float, float],
    ends: tuple[float, float],
    heights: tuple[float, float],
    *,
    log: bool,
) -> list[Box]:
    """What the points cover, then what their intervals do."""

    def across(point: FrontPoint) -> float:
        return size[0] * axes.position(point.cost, ends, log=log)

    def down(value: float) -> float:
        return size[1] * (1 - axes.position(value, heights))

    spots: list[Box] = [(across(p) - 5, down(p.quality) - 5, across(p) + 5, down(p.quality) + 5) for p in points]
    return spots + [
        (across(p) - 1, down(p.high), across(p) + 1, down(p.low))
        for p in points
        if p.low is not None and p.high is not None
    ]


def names_beside(base: Any, x: Any, y: Any) -> list[Any]:
    """The points' names, where the rows say for a wide and a narrow plot."""
    mark = base.mark_text(dx=pick("dx"), dy=pick("dy"), align=pick("align"), opacity=pick("seen"), baseline="middle")
    return [mark.encode(x=x, y=y, text="label:N")]
