"""How often predictions of a given confidence are right; of a regression, predicted against true numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from loratory.errors import counted
from loratory.problems import REGRESSION
from loratory.report import axes, theme
from loratory.report.charts import Chart, chart, finished
from loratory.report.evidence import CellEvidence
from loratory.report.families import Member


def calibration(members: Sequence[Member], evidence: Mapping[str, CellEvidence]) -> Chart | None:
    """Accuracy against confidence in 15 bins, of the cell that the parameter `cell` names. None without predictions."""
    import altair as alt

    rows: list[dict[str, Any]] = [
        {
            "cell": member.cell.id,
            "approach": member.cell.approach,
            "x": one.confidence,
            "y": one.accuracy,
            "share": one.share,
        }
        for member in members
        if member.cell.id in evidence
        for one in evidence[member.cell.id].reliability
    ]
    if not rows:
        return None
    low = min(0.5, *(min(row["x"], row["y"]) for row in rows))
    scale = alt.Scale(domain=[low, 1], nice=False)
    x = alt.X("x:Q", title="Confidence", scale=scale, axis=alt.Axis(format=".0%", tickCount=5))
    y = alt.Y("y:Q", title="Accuracy (test)", scale=scale, axis=alt.Axis(format=".0%", tickCount=5))
    which = alt.param(name="cell", value=rows[0]["cell"])
    one = chart(rows).transform_filter("datum.cell === cell")
    tooltip = [
        alt.Tooltip("x:Q", title="Confidence", format=".1%"),
        alt.Tooltip("y:Q", title="Accuracy", format=".1%"),
        alt.Tooltip("share:Q", title="Predictions", format=".1%"),
    ]
    size = alt.Size("share:Q", title="Predictions", scale=alt.Scale(domain=[0, 1], range=[20, 900]), legend=None)
    layers = [
        chart([{"x": low, "y": low}, {"x": 1, "y": 1}])
        .mark_line(color=theme.color("muted"), strokeDash=[4, 4], strokeWidth=1)
        .encode(x=x, y=y),
        one.mark_line(color=theme.category(0), strokeWidth=1.5).encode(x=x, y=y),
        one.mark_point(filled=True, color=theme.category(0), opacity=0.75)
        .encode(x=x, y=y, size=size, tooltip=tooltip)
        .add_params(which),
    ]
    summary = (
        "Accuracy against confidence in 15 equal bins; points on the diagonal are calibrated, points below it are "
        f"overconfident. {counted(len({row['cell'] for row in rows}), 'cell')}, one at a time."
    )
    return finished("calibration", layers, summary, height=380, widest=460)


DOTS = 300
"""Test examples that a chart of a regression shows of each cell: evenly spread over the split."""


def scatter(members: Sequence[Member], evidence: Mapping[str, CellEvidence]) -> Chart | None:
    """Predicted against true numbers on the test split, of the first seed of the cell that the parameter `cell` names.
    None where labels are no numbers, or without predictions."""
    import altair as alt

    rows: list[dict[str, Any]] = []
    for member in members:
        one = evidence.get(member.cell.id)
        if one is None or one.problem != REGRESSION:
            continue
        test = one.tests[0]
        chosen = np.unique(np.linspace(0, len(test.labels) - 1, DOTS).round().astype(np.int64))
        pairs = zip(test.labels[chosen].tolist(), test.predictions[chosen].tolist(), strict=True)
        rows += [{"cell": member.cell.id, "approach": member.cell.approach, "x": x, "y": y} for x, y in pairs]
    if not rows:
        return None
    ends = axes.bounds([row[key] for row in rows for key in ("x", "y")])
    scale = alt.Scale(domain=list(ends), nice=False)
    name = next(evidence[member.cell.id].labels[0] for member in members if member.cell.id in evidence)
    x = alt.X("x:Q", title=f"True {name}", scale=scale, axis=alt.Axis(tickCount=5))
    y = alt.Y("y:Q", title=f"Predicted {name} (test)", scale=scale, axis=alt.Axis(tickCount=5))
    which = alt.param(name="cell", value=rows[0]["cell"])
    tooltip = [alt.Tooltip("x:Q", title="True", format=".4~g"), alt.Tooltip("y:Q", title="Predicted", format=".4~g")]
    layers = [
        chart([{"x": ends[0], "y": ends[0]}, {"x": ends[1], "y": ends[1]}])
        .mark_line(color=theme.color("muted"), strokeDash=[4, 4], strokeWidth=1)
        .encode(x=x, y=y),
        chart(rows)
        .transform_filter("datum.cell === cell")
        .mark_point(filled=True, color=theme.category(0), opacity=0.5, size=30)
        .encode(x=x, y=y, tooltip=tooltip)
        .add_params(which),
    ]
    summary = (
        "Predicted against true numbers on the test split; on the diagonal they are the same. "
        f"{counted(len({row['cell'] for row in rows}), 'cell')}, one at a time."
    )
    return finished("scatter", layers, summary, height=380, widest=460)
