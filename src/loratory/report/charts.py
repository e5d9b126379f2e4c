"""The charts, as Vega-Lite specifications: the page draws them, and so do the figures in files of their own.

A field's name is ours and never comes from the data, whose text stands in values alone. Colours are names that the
theme explains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loratory.report import axes, theme, units
from loratory.report.document import Front, FrontPoint
from loratory.report.families import Member
from loratory.report.labels import LETTER, LINE, Box, Place, apart, placed

if TYPE_CHECKING:
    import altair as alt

WIDTH, HEIGHT = 720, 340
"""Pixels of a chart in a file; in the page its width is that of the column."""
WIDEST = 976
"""Pixels of a chart in the page, at most: those of the column."""
NARROW = 480
"""Below this width a chart is laid out for a phone."""
PLOTS = {"wide": (WIDTH - 50.0, HEIGHT - 70.0), "narrow": (270.0, HEIGHT - 90.0)}
"""Width and height left for the points, about, for which names are placed."""

PLAIN = ".3~r"
"""Vega's format of a number as it is written: 0.5, 20, 1250."""

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Chart:
    """A chart for the page and for a file.

    Attributes:
        name: of the file, and of its place in the page; [a-z0-9_-].
        spec: Vega-Lite's, without data from elsewhere and without configuration.
        summary: what it shows, in words, for who does not see it.
    """

    name: str
    spec: dict[str, Any]
    summary: str


def chart(rows: Rows) -> alt.Chart:
    """An empty chart over these rows, which stand in the specification itself."""
    import altair as alt

    return alt.Chart(alt.Data(values=[dict(row) for row in rows]))  # type: ignore[arg-type]  # altair takes it


def finished(name: str, layers: Sequence[Any], summary: str, *, height: int = HEIGHT, widest: int = WIDEST) -> Chart:
    """The layers on one plane, as wide as there is room, and at most `widest` pixels."""
    import altair as alt

    whole = alt.layer(*layers).properties(
        width=min(WIDTH, widest), height=height, usermeta={"widest": widest}, autosize=alt.AutoSizeParams(type="fit", contains="padding")
    )
    spec = whole.to_dict()
    for key in ("$schema", "config"):
        spec.pop(key, None)
    return Chart(name, spec, summary)


def series(members: Sequence[Member], *, named: bool = True) -> tuple[Any, Any]:
    """Colour and shape by family; a legend of the families with more than one cell, whose points do not name them.

    Args:
        named: False leaves the legend out, where every line has its family's name.
    """
    import altair as alt

    families = list(dict.fromkeys((member.family, member.order) for member in members))
    names = [family for family, _ in families]
    several = [name for name in names if sum(member.family == name for member in members) > 1]
    columns = alt.ExprRef(f"width < {NARROW} ? 1 : 4")
    legend = alt.Legend(title=None, columns=columns, values=several, offset=26) if several and named else None
    colors = alt.Scale(domain=names, range=[theme.category(order) for _, order in families])
    shapes = alt.Scale(domain=names, range=[theme.shape(order) for _, order in families])
    return alt.Color("family:N", scale=colors, legend=legend), alt.Shape("family:N", scale=shapes, legend=legend)


def y_metric(metric: str, values: Sequence[float], *, split: str, field: str = "y") -> Any:
    """The vertical axis of a metric, as far as these values reach."""
    import altair as alt

    axis = alt.Axis(format=axes.metric_format(metric, values), tickCount=6)
    title = f"{axes.metric_title(metric)} ({split})"
    return alt.Y(f"{field}:Q", title=title, axis=axis, scale=alt.Scale(domain=list(axes.bounds(values)), nice=False))


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
    base = chart(_front_rows(points, members, unit, metric, ends, log=log))
    color, shape = series([members[point.cell] for point in points])
    tooltip = [alt.Tooltip(f"{key}:N", title=key.capitalize()) for key in ("approach", "cost", "quality", "standing")]
    layers = [
        base.transform_filter("datum.on_front")
        .mark_line(color=theme.color("muted"), strokeDash=[2, 3], strokeWidth=1)
        .encode(x=x, y=y),
        base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=1.5).encode(x=x, y=low, y2="high:Q", color=color),
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
        tied = bool(point.tied_with) and not point.on_front
        row = {
            "approach": member.cell.approach,
            "family": member.family,
            "label": member.label,
            "x": point.cost / unit.size,
            "y": point.quality,
            "low": point.low,
            "high": point.high,
            "on_front": point.on_front,
            "fill": 1.0 if point.on_front else 0.35 if tied else 0.0,
            "cost": unit.show(point.cost),
            "quality": show(point.quality)
            + (f" ({show(point.low)} to {show(point.high)})" if point.low is not None else ""),
            "standing": "on the front" if point.on_front else "tied with the front" if tied else "not on the front",
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


def chosen() -> Any:
    """The parameter that says which cell a chart brings out; "" for all alike."""
    import altair as alt

    return alt.param(name="cell", value="")


def pale() -> Any:
    """The opacity of a mark: less for other cells than the one that is brought out."""
    import altair as alt

    return alt.ExprRef("cell === '' || datum.cell === cell ? 1 : 0.15")


def room_for(names: Sequence[str]) -> Any:
    """The range of a horizontal scale that leaves room for these names at its end, at most two fifths of the plot."""
    import altair as alt

    return [0, alt.ExprRef(f"width - {_room(names)}")]


def _room(names: Sequence[str]) -> str:
    widest = max(map(len, names), default=0) * LETTER + 18
    return f"min({widest:.0f}, 0.4 * width)"


def names_at_ends(rows: Rows, y: Any, x: Any, ends: tuple[float, float], *, height: int = HEIGHT) -> Any:
    """The name of each line right of its last point, moved apart where lines end close together.

    Args:
        rows: a row a line: x, y, label.
        ends: the values at the foot and the top of the plot.
        height: of the whole chart.
    """
    import altair as alt

    inner = height - HEIGHT + PLOTS["wide"][1]
    wanted = [inner * (1 - axes.position(row["y"], ends)) for row in rows]
    moved = apart(wanted, LINE - 1)
    found = [{**row, "dy": new - old} for row, old, new in zip(rows, wanted, moved, strict=True)]
    room = _room([row["label"] for row in rows])
    mark = chart(found).mark_text(
        align="left", dx=8, dy=alt.ExprRef("datum.dy"), baseline="middle", limit=alt.ExprRef(f"{room} - 8"), opacity=pale()
    )
    return mark.encode(x=x, y=y, text="label:N").add_params(chosen())


def parts(name: str, what: str, rows: Rows, kinds: Sequence[str], unit: axes.Unit, summary: str) -> Chart:
    """A bar a cell, divided into parts; its name above it, its total behind it.

    Args:
        rows: a row a cell and part: approach, part, value (0 or more).
        kinds: the parts, in the order in which they stand in the bar.
    """
    import altair as alt

    totals: dict[str, float] = {}
    for row in rows:
        totals[row["approach"]] = totals.get(row["approach"], 0.0) + row["value"]
    names = list(totals)
    bars = [
        {
            "approach": row["approach"],
            "part": row["part"],
            "order": kinds.index(row["part"]),
            "x": row["value"] / unit.size,
            "shown": unit.show(row["value"]),
        }
        for row in rows
    ]
    ends = [{"approach": name, "x": total / unit.size, "shown": unit.show(total)} for name, total in totals.items()]
    scale = alt.Scale(domain=[0, 1.18 * max(totals.values()) / unit.size], nice=False)
    x = alt.X("x:Q", title=unit.title(what), scale=scale, axis=alt.Axis(tickCount=5, format=PLAIN))
    y = alt.Y("approach:N", sort=names, title=None, axis=None)
    colors = alt.Scale(domain=list(kinds), range=[theme.category(number) for number in range(len(kinds))])
    legend = alt.Legend(title=None, columns=alt.ExprRef(f"width < {NARROW} ? 3 : 5"), symbolType="square")
    layers = [
        chart(bars)
        .mark_bar(size=12, stroke=theme.color("paper"), strokeWidth=1)
        .encode(
            x=x,
            y=y,
            color=alt.Color("part:N", scale=colors, legend=legend),
            order=alt.Order("order:Q"),
            tooltip=[alt.Tooltip(f"{key}:N", title=key.capitalize()) for key in ("approach", "part")]
            + [alt.Tooltip("shown:N", title=what)],
        ),
        chart(ends).mark_text(align="left", dx=6).encode(x=x, y=y, text="shown:N"),
        chart(ends).mark_text(align="left", dy=-14).encode(x=alt.value(0), y=y, text="approach:N"),
    ]
    return finished(name, layers, summary, height=70 + 38 * len(names))

