"""The charts, as Vega-Lite specifications: the page draws them, and so do the figures in files of their own.

A field's name is ours and never comes from the data, whose text stands in values alone. Colours are names that the
theme explains.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from loratory.report import axes, theme
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

TICKS = 6
"""About how many ticks a vertical axis has."""

SHORT = 16
"""Letters of a name inside the plot of a phone; longer ones are cut."""

BESIDE = 26
"""Pixels beside a line's name: to its last point, and for letters that are wider than the mean."""

PLAIN = ".3~r"
"""Vega's format of the few ticks of a logarithmic axis: 0.5, 20, 1250."""

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Chart:
    """A chart for the page and for a file.

    Attributes:
        name: of the file, and of its place in the page; [a-z0-9_-].
        spec: Vega-Lite's, without data from elsewhere and without configuration.
        summary: what it shows, in words, for who does not see it.
        note: what a reader of the chart must know beside its caption.
    """

    name: str
    spec: dict[str, Any]
    summary: str
    note: str = ""


def chart(rows: Rows) -> alt.Chart:
    """An empty chart over these rows, which stand in the specification itself."""
    import altair as alt

    return alt.Chart(alt.Data(values=[dict(row) for row in rows]))


def finished(
    name: str, layers: Sequence[Any], summary: str, *, height: int = HEIGHT, widest: int = WIDEST, note: str = ""
) -> Chart:
    """The layers on one plane, as wide as there is room, and at most `widest` pixels."""
    import altair as alt

    whole = alt.layer(*layers).properties(
        width=min(WIDTH, widest),
        height=height,
        usermeta={"widest": widest},
        autosize=alt.AutoSizeParams(type="fit", contains="padding"),
    )
    spec = whole.to_dict()
    for key in ("$schema", "config"):
        spec.pop(key, None)
    return Chart(name, _shared_data(spec), summary, note)


def _shared_data(spec: dict[str, Any]) -> dict[str, Any]:
    """The specification with rows that several layers use written once."""
    names: dict[str, str] = {}
    datasets: dict[str, Any] = {}

    def named(part: dict[str, Any]) -> dict[str, Any]:
        if "values" not in part.get("data", {}):
            return part
        values = part["data"]["values"]
        name = names.setdefault(json.dumps(values, sort_keys=True), f"rows{len(names)}")
        datasets[name] = values
        return {**part, "data": {"name": name}}

    whole = {**named(spec), "layer": [named(layer) for layer in spec["layer"]]}
    return {**whole, "datasets": datasets}


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

    ends = axes.bounds(values)
    axis = alt.Axis(format=axes.metric_format(metric, ends, TICKS), tickCount=TICKS)
    title = f"{axes.metric_title(metric)} ({split})"
    return alt.Y(f"{field}:Q", title=title, axis=axis, scale=alt.Scale(domain=list(ends), nice=False))


def x_ticks(ends: tuple[float, float], *, log: bool, most: int = 8) -> dict[str, Any]:
    """How a horizontal axis between these ends is marked: fewer ticks on a phone, no two written alike."""
    import altair as alt

    count = alt.ExprRef(f"width < {NARROW} ? {min(4, most)} : {most}")
    return {"format": PLAIN if log else axes.number_format(ends, most), "tickCount": count, "labelSeparation": 6}


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
    widest = max(map(len, names), default=0) * LETTER + BESIDE
    return f"min({widest:.0f}, 0.4 * width)"


def pick(key: str) -> Any:
    """What the rows say for a wide or a narrow plot."""
    import altair as alt

    return alt.ExprRef(f"width < {NARROW} ? datum.narrow_{key} : datum.wide_{key}")


def names_at_ends(
    rows: Rows, y: Any, x: Any, ends: tuple[float, float], *, height: int = HEIGHT, along: Along | None = None
) -> Any:
    """The name of each line right of its last point, moved apart where lines end close together.

    Args:
        rows: a row a line: x, y, label; gap, the pixels to the name, where it is not 8.
        ends: the values at the foot and the top of the plot.
        height: of the whole chart.
        along: all points, where lines may end inside the plot; their names then stand where they cover least.
    """
    import altair as alt

    inner = height - HEIGHT + PLOTS["wide"][1]
    last = max(row["x"] for row in rows)
    outer = [row for row in rows if along is None or row["x"] == last]
    reach = max((row.get("gap", 8) for row in outer), default=8)
    wanted = [inner * (1 - axes.position(row["y"], ends)) for row in outer]
    moved = apart(wanted, LINE - 1, (0, inner))
    found = []
    for row, old, new in zip(outer, wanted, moved, strict=True):
        place = Place(reach, new - old, "left")
        found.append({**row, "limited": True, **_places(dict.fromkeys(PLOTS, place))})
    if along is not None:
        among = [row for row in rows if row["x"] != last]
        room = {plot: min(_longest(rows), 0.4 * size[0]) for plot, size in PLOTS.items()}
        places = {
            plot: along.places(
                among, (size[0] - room[plot], height - HEIGHT + size[1]), ends, SHORT if plot == "narrow" else None
            )
            for plot, size in PLOTS.items()
        }
        for number, row in enumerate(among):
            found.append({**row, "limited": False, **_places({plot: places[plot][number] for plot in PLOTS})})
    inside = f"width < {NARROW} ? {SHORT * LETTER:.0f} : 0"  # 0 is no limit
    limit = f"datum.limited ? {_room([row['label'] for row in rows])} - {reach} : {inside}"
    mark = chart(found).mark_text(
        align=pick("align"),
        dx=pick("dx"),
        dy=pick("dy"),
        baseline="middle",
        limit=alt.ExprRef(limit),
        opacity=pale(),
    )
    return mark.encode(x=x, y=y, text="label:N").add_params(chosen())


def _longest(rows: Rows) -> float:
    return max(len(row["label"]) for row in rows) * LETTER + BESIDE


def _places(found: Mapping[str, Place]) -> dict[str, Any]:
    return {f"{plot}_{key}": getattr(place, key) for plot, place in found.items() for key in ("dx", "dy", "align")}


@dataclass(frozen=True)
class Along:
    """What the names of lines must not cover: the points of every line, their intervals and what joins them.

    Attributes:
        points: a row a point: cell, x, y, and low and high where it has an interval.
        ends: the values at the left and right end of the horizontal scale.
    """

    points: Rows
    ends: tuple[float, float]
    log: bool

    def places(
        self, rows: Rows, size: tuple[float, float], heights: tuple[float, float], longest: int | None
    ) -> list[Place]:
        """Where the names of `rows`, cut to the `longest`, stand in a plot of this size."""

        def at(row: Mapping[str, Any], key: str = "y") -> tuple[float, float]:
            across = axes.position(row["x"], self.ends, log=self.log)
            return size[0] * across, size[1] * (1 - axes.position(row[key], heights))

        covered: list[Box] = []
        lines: dict[str, list[tuple[float, float]]] = {}
        for row in self.points:
            x, y = at(row)
            reach = row.get("gap", 8) - 4
            covered.append((x - reach, y - reach, x + reach, y + reach))
            lines.setdefault(row["cell"], []).append((x, y))
            if row.get("low") is not None:
                covered.append((x - 1, at(row, "high")[1], x + 1, at(row, "low")[1]))
        for line in lines.values():
            for (x0, y0), (x1, y1) in pairwise(sorted(line)):
                steps = max(1, round(math.dist((x0, y0), (x1, y1)) / 6))
                for step in range(steps + 1):
                    x, y = x0 + (x1 - x0) * step / steps, y0 + (y1 - y0) * step / steps
                    covered.append((x - 2, y - 2, x + 2, y + 2))
        return placed([at(row) for row in rows], [row["label"][:longest] for row in rows], covered, size)


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
    reach = (0.0, 1.18 * max(totals.values()) / unit.size)
    scale = alt.Scale(domain=list(reach), nice=False)
    x = alt.X("x:Q", title=unit.title(what), scale=scale, axis=alt.Axis(**x_ticks(reach, log=False, most=5)))
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
    return finished(name, layers, summary, height=104 + 40 * len(names))  # the legend of a phone has two lines
