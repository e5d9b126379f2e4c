"""Charts of how a number changes: with training time, with a setting, with the learning rate, with trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

from loratory import units
from loratory.errors import counted
from loratory.report import axes, theme
from loratory.report.charts import (
    Along,
    Chart,
    chart,
    finished,
    names_at_ends,
    pale,
    room_for,
    series,
    x_ticks,
    y_metric,
)
from loratory.report.evidence import CellEvidence
from loratory.report.families import Member
from loratory.study.measured import Spread
from loratory.study.observed_costs import noun_of
from loratory.study.parts import RateTried

SETTINGS = {"rank": "Rank r of the update", "unfrozen_layers": "Top layers trained fully"}
"""Settings whose curve is drawn where cells differ in them."""


COUNTED = 4
"""Cells of which all have written beside their rings how many seeds chose them."""

BROUGHT_OUT = "How many seeds chose a rate stands beside the approach that is brought out, and in the table above."

CHOSEN_ON = "validation, on which the rate was chosen"
"""What the scores of tuning are: no measure of what is to be expected of other texts."""

AS_TYPED = "replace(datum.label, '−', '-')"
"""How an axis writes learning rates: 5e-5, as tables and study files do."""


def learning(members: Sequence[Member], evidence: Mapping[str, CellEvidence], metric: str) -> Chart | None:
    """Validation after each epoch against training time so far: mean and range over seeds. None without histories."""
    import altair as alt

    rows = [row for member in members if member.cell.id in evidence for row in _epochs(member, evidence, metric)]
    if not rows:
        return None
    times = [row["seconds"] for row in rows]
    unit = axes.unit_of("train_seconds", times)
    rows = [{**row, "x": row["seconds"] / unit.size} for row in rows]
    values = [row[key] for row in rows for key in ("y", "low", "high")]
    log = axes.is_log(times)
    x = alt.X(
        "x:Q",
        title=unit.title("Training time") + (", logarithmic" if log else ""),
        scale=scale_of([row["x"] for row in rows], _labels(rows), log=log),
        axis=alt.Axis(**x_ticks((min(times) / unit.size, max(times) / unit.size), log=log, most=6)),
    )
    y, low = (y_metric(metric, values, split="validation", field=field) for field in ("y", "low"))
    color, shape = series(members)
    base = chart(rows)
    tooltip = [alt.Tooltip("approach:N", title="Approach"), alt.Tooltip("epoch:N", title="Epoch")]
    tooltip += [alt.Tooltip("shown:N", title=axes.metric_title(metric))]
    layers = [
        base.mark_rule(opacity=pale()).encode(x=x, y=low, y2="high:Q", color=color),
        base.mark_line(strokeWidth=1.8, opacity=pale()).encode(x=x, y=y, color=color, detail="cell:N"),
        base.mark_point(size=45, filled=True, opacity=pale()).encode(
            x=x, y=y, color=color, shape=shape, tooltip=tooltip
        ),
        names_at_ends(last(rows), y, x, axes.bounds(values), along=along(rows, log=log)),
    ]
    summary = (
        f"{axes.metric_title(metric)} on validation after each epoch against training time, "
        f"{len({row['cell'] for row in rows})} cells."
    )
    return finished("learning", layers, summary)


def _epochs(member: Member, evidence: Mapping[str, CellEvidence], metric: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    show, over = axes.show_metric(metric), noun_of(member.cell)
    for epoch in zip(*evidence[member.cell.id].histories, strict=False):
        scores = [float(row[f"validation_{metric}"]) for row in epoch if row.get(f"validation_{metric}") is not None]
        if not scores:
            continue
        found.append(
            {
                **_names(member),
                "epoch": epoch[0].get("epoch", len(found) + 1),
                "seconds": median(float(row["train_seconds"]) for row in epoch),
                "y": fmean(scores),
                "low": min(scores),
                "high": max(scores),
                "shown": f"{show(fmean(scores))} ({show(min(scores))} to {show(max(scores))} over {over}s)",
            }
        )
    return found


def by_setting(setting: str, members: Sequence[Member], metric: str) -> Chart | None:
    """Quality on the test split against a setting, one line a family, beside the cells that have no such setting.

    None where no family differs in it.
    """
    import altair as alt

    scored = [(member, mean) for member in members if (mean := member.cell.score(metric)) is not None]
    having = [(member, mean) for member, mean in scored if isinstance(member.cell.method.get(setting), int)]
    lines: dict[str, set[int]] = {}
    for member, _ in having:
        lines.setdefault(member.family, set()).add(member.cell.method[setting])
    having = [(member, mean) for member, mean in having if len(lines[member.family]) > 1]
    if not having:
        return None
    rows = [_setting_row(member, mean, metric, x=member.cell.method[setting]) for member, mean in having]
    ranks = sorted({row["x"] for row in rows})
    log = axes.is_log(ranks)
    others = [
        _setting_row(member, mean, metric, x=ranks[-1]) for member, mean in scored if setting not in member.cell.method
    ]
    across = [{**row, "x": x} for row in others for x in (ranks[0], ranks[-1])]
    values = [row[key] for row in (*rows, *others) for key in ("y", "low", "high") if row[key] is not None]
    scale = scale_of(ranks, _labels([*rows, *others]), log=log, base=2)
    x = alt.X("x:Q", title=SETTINGS[setting], scale=scale, axis=alt.Axis(values=ranks, format="d"))
    y, low = (y_metric(metric, values, split="test", field=field) for field in ("y", "low"))
    shown = [member for member, _ in scored if setting not in member.cell.method or member.family in lines]
    color, shape = series(shown, named=False)
    tooltip = [alt.Tooltip("approach:N", title="Approach"), alt.Tooltip("shown:N", title=axes.metric_title(metric))]
    base = chart(rows)
    layers = [
        chart(across).mark_line(strokeDash=[5, 4], strokeWidth=1.3).encode(x=x, y=y, color=color, detail="cell:N"),
        base.mark_rule(strokeWidth=1.5).encode(x=x, y=low, y2="high:Q", color=color),
        base.mark_line(strokeWidth=1.8).encode(x=x, y=y, color=color),
        base.mark_point(size=70, filled=True, opacity=1).encode(x=x, y=y, color=color, shape=shape, tooltip=tooltip),
        names_at_ends([*last(rows, by="family"), *others], y, x, axes.bounds(values)),
    ]
    summary = (
        f"{axes.metric_title(metric)} on the test split against {SETTINGS[setting].lower()} ({ranks[0]} to {ranks[-1]})"
        f" for {', '.join(dict.fromkeys(row['family'] for row in rows))}, with intervals."
    )
    return finished(f"by-{setting}", layers, summary)


def _setting_row(member: Member, mean: Spread, metric: str, *, x: int) -> dict[str, Any]:
    show, mean = axes.show_metric(metric), axes.on_scale(metric, mean)
    ends = f" ({show(mean.low)} to {show(mean.high)})" if mean.low is not None else ""
    names = {**_names(member), "label": member.family}
    return {**names, "x": x, "y": mean.mean, "low": mean.low, "high": mean.high, "shown": show(mean.mean) + ends}


def tuning(members: Sequence[Member], metric: str) -> Chart | None:
    """Validation score against the learning rate, mean and range over seeds, the chosen ones ringed.

    None where nothing was tuned.
    """
    import altair as alt

    rows = [
        _rate_row(member, one, one.score, metric)
        for member in members
        for one in member.cell.tuning.rates
        if one.score is not None
    ]
    if len(rows) < 2:
        return None
    values = [row[key] for row in rows for key in ("y", "low", "high")]
    x = alt.X(
        "x:Q",
        title="Learning rate, logarithmic",
        scale=scale_of([row["x"] for row in rows], _labels(rows), log=True),
        axis=alt.Axis(
            values=sorted({row["x"] for row in rows}), format=".3~e", labelExpr=AS_TYPED, labelOverlap="greedy"
        ),
    )
    y, low = (y_metric(metric, values, split=CHOSEN_ON, field=field) for field in ("y", "low"))
    color, shape = series(members)
    base = chart(rows)
    tooltip = [alt.Tooltip("approach:N", title="Approach"), alt.Tooltip("rate:N", title="Learning rate")]
    tooltip += [alt.Tooltip("shown:N", title=axes.metric_title(metric)), alt.Tooltip("chosen:Q", title="Chosen by")]
    ringed = base.transform_filter("datum.chosen > 0")
    ink = theme.color("ink")
    joined = ["cell:N", "epochs:N"] if any("epochs" in row for row in rows) else "cell:N"
    crowded = len({row["cell"] for row in rows}) > COUNTED  # their counts would cover one another
    counts = alt.ExprRef("datum.cell === cell ? 1 : 0") if crowded else pale()
    layers = [
        base.mark_rule(opacity=pale()).encode(x=x, y=low, y2="high:Q", color=color),
        base.mark_line(strokeWidth=1.4, opacity=pale()).encode(x=x, y=y, color=color, detail=joined),
        base.mark_point(size=50, filled=True, opacity=pale()).encode(
            x=x, y=y, color=color, shape=shape, tooltip=tooltip
        ),
        ringed.mark_point(size=260, filled=False, shape="circle", color=ink, strokeWidth=1.3, opacity=pale()).encode(
            x=x, y=y
        ),
        ringed.mark_text(align="right", dx=-9, dy=-9, color=ink, opacity=counts).encode(x=x, y=y, text="count:N"),
        names_at_ends(last(rows), y, x, axes.bounds(values), along=along(rows, log=True)),
    ]
    summary = f"{axes.metric_title(metric)} on validation against the learning rate; the chosen rates are ringed."
    return finished("tuning", layers, summary, note=BROUGHT_OUT if crowded else "")


def _rate_row(member: Member, tried: RateTried, score: Spread, metric: str) -> dict[str, Any]:
    show = axes.show_metric(metric)
    low, high = min(score.values), max(score.values)
    ends = f" ({show(low)} to {show(high)} over {noun_of(member.cell)}s)" if len(score.values) > 1 else ""
    runs = tried.runs or sum(trial.lr == tried.lr for trial in member.cell.tuning.trials)
    if len(score.values) < runs:
        ends += f", {len(score.values)} of {runs} completed"
    if tried.epochs is not None:
        ends += f", after {counted(tried.epochs, 'epoch')}"
    if tried.failed is not None:
        ends += f"; failed where it was to train {counted(tried.failed, 'epoch')}"
    return {
        **_names(member),
        "x": tried.lr,
        "y": score.mean,
        "low": low,
        "high": high,
        "rate": units.rate(tried.lr),
        "chosen": tried.chosen,
        "count": f"×{tried.chosen}" if len(member.cell.tuning.chosen) > 1 else "",
        **({} if tried.epochs is None else {"epochs": tried.epochs}),
        "gap": 14 if tried.chosen else 8,  # beyond the ring
        "shown": show(score.mean) + ends,
    }


def expected_best(members: Sequence[Member], metric: str) -> Chart | None:
    """The score to expect of the best of n learning rates drawn from those tried; None where nothing was tuned."""
    import altair as alt

    rows: list[dict[str, Any]] = [
        {**_names(member), "x": best.trials, "y": best.score, "shown": axes.show_metric(metric)(best.score)}
        for member in members
        for best in member.cell.tuning.expected_best
    ]
    numbers = sorted({row["x"] for row in rows})
    if len(numbers) < 2:
        return None
    values = [row["y"] for row in rows]
    x = alt.X(
        "x:Q",
        title="Learning rates tried",
        scale=scale_of(numbers, _labels(rows), log=False),
        axis=alt.Axis(values=numbers, format="d"),
    )
    y = y_metric(metric, values, split=CHOSEN_ON)
    color, shape = series(members)
    base = chart(rows)
    tooltip = [alt.Tooltip("approach:N", title="Approach"), alt.Tooltip("shown:N", title=axes.metric_title(metric))]
    layers = [
        base.mark_line(strokeWidth=1.8, opacity=pale()).encode(x=x, y=y, color=color, detail="cell:N"),
        base.mark_point(size=45, filled=True, opacity=pale()).encode(
            x=x, y=y, color=color, shape=shape, tooltip=tooltip
        ),
        names_at_ends(last(rows), y, x, axes.bounds(values), height=280, along=along(rows, log=False)),
    ]
    summary = f"Expected best {axes.metric_words(metric)} on validation for 1 to {numbers[-1]} learning rates."
    return finished("expected-best", layers, summary, height=280)


def _names(member: Member) -> dict[str, str]:
    return {
        "cell": member.cell.id,
        "approach": member.cell.approach,
        "family": member.family,
        "label": member.label,
    }


def last(rows: Sequence[dict[str, Any]], *, by: str = "cell") -> list[dict[str, Any]]:
    """The row with the largest x of each line."""
    last: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row[by] not in last or row["x"] >= last[row[by]]["x"]:
            last[row[by]] = row
    return list(last.values())


def _labels(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [row["label"] for row in rows]


def scale_of(values: Sequence[float], names: Sequence[str], *, log: bool, base: int = 10) -> Any:
    """A scale over these values with room on the right for the lines' names."""
    import altair as alt

    low, high = _ends(values, log=log)
    if not log:
        return alt.Scale(domain=[low, high], nice=False, range=room_for(names))
    return alt.Scale(type="log", base=base, domain=[low, high], nice=False, range=room_for(names))


def _ends(values: Sequence[float], *, log: bool) -> tuple[float, float]:
    return axes.log_bounds(values, beyond=0.04) if log else axes.bounds(values, beyond=0.04)


def along(rows: Sequence[dict[str, Any]], *, log: bool) -> Along:
    """What the names of lines must not cover, on a scale of :func:`scale_of`."""
    return Along(rows, _ends([row["x"] for row in rows], log=log), log)
