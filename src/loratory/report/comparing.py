"""The page's tables that compare cells: the study's table, its pairs, all data sets side by side, numbers of charts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median
from typing import TypeVar

from loratory import units
from loratory.errors import counted
from loratory.evaluation.metrics import METRICS
from loratory.report import axes
from loratory.report.evidence import CellEvidence
from loratory.report.grids import Entry, Grid, Heading, Whisker, differences, missing, number, row, whiskers, words
from loratory.report.study_table import COST, interval, means_said, over_runs, runs_of, shown_metrics, spread
from loratory.report.tables import priced
from loratory.study.document import Group, Summary
from loratory.study.observed_costs import noun_of
from loratory.study.parts import CellSummary, Pair
from loratory.study.statistics import MIN_FOR_INTERVAL

Key = TypeVar("Key", bound=str | float)

MARKS = {"better": "▲", "worse": "▼", "equivalent": "≈", "inconclusive": "?"}
"""A sign for each verdict, so that colour is not needed to tell them apart."""


def quality_grid(study: Summary, group: Group) -> Grid:
    """The study's own table: parameters, times, memory, quality; baselines below."""
    metrics = shown_metrics(study)
    titles = [METRICS[metric].title for metric in metrics]
    headings = [
        Heading("Approach", numeric=False),
        Heading("Trainable parameters", meaning="parameters that training changes"),
        Heading("Share", meaning="trainable of all parameters"),
        *(
            Heading(title, meaning=over_runs(study, "median").strip())
            for key, (title, _) in COST.items()
            if key != "checkpoint_bytes"
        ),
        *_price_heading(study),
        *(Heading(title, meaning=f"test split, {means_said(study)}", lead=True) for title in titles),
    ]
    means = [cell.score(study.select) for cell in group.cells]
    drawn = whiskers([None if mean is None else axes.on_scale(study.select, mean) for mean in means])
    show_share = units.percent_of(cell.share for cell in group.cells)
    rows = []
    for position, cell in enumerate(group.cells):
        scores = [_score(cell, metric, drawn[position] if metric == study.select else None) for metric in metrics]
        costs = [*_costs(cell, show_share), *_price(study, _median(cell, "total_seconds"))]
        rows.append(row([_approach(cell, study), *costs, *scores], cell.id))
    foot = [
        row(
            [
                words(one.name),
                number(one.parameters, units.count),
                *(missing() for _ in range(2)),
                number(one.seconds, units.duration),
                missing(),
                *_price(study, one.seconds),
                *(number(one.value(metric), METRICS[metric].shown) for metric in metrics),
            ]
        )
        for one in study.baselines
        if (one.data, one.limit) == (group.data, group.limit) and one.reason is None
    ]
    on = f"{group.data}, {group.size}" if group.size else group.data
    caption = f"What each approach costs on {on}, and how good it is on the test split ({means_said(study)})"
    return Grid(f"{group.key}-table", units.printable(caption), tuple(headings), tuple(rows), tuple(foot))


def _approach(cell: CellSummary, study: Summary) -> Entry:
    """With its learning rates below where they were chosen, and how many seeds finished where some did not."""
    shown = units.rates(cell.tuning.chosen).replace(" ×", "\N{NO-BREAK SPACE}×")
    rates = [f"lr {shown}"] if cell.tuning.trials else []
    ended = [counted(len(cell.failed), "failed run")] if cell.failed else []
    if len(cell.seeds) != len(study.seeds) or ended:
        whole = " with every fold" if study.folds is not None else ""
        ended.insert(0, f"{len(cell.seeds)} of {counted(len(study.seeds), 'seed')}{whole}")
    return Entry(units.printable(cell.approach), "; ".join([*rates, *([", ".join(ended)] if ended else [])]))


def _costs(cell: CellSummary, show_share: Callable[[float | None], str]) -> list[Entry]:
    found = [number(cell.parameter("trainable"), units.count), number(cell.share, show_share)]
    for key, (_, show) in COST.items():
        if key != "checkpoint_bytes":
            found.append(number(_median(cell, key), show))
    return found


def _median(cell: CellSummary, cost: str) -> float | None:
    return None if (found := cell.cost.get(cost)) is None else found.median


def _price_heading(study: Summary) -> list[Heading]:
    if study.price_per_hour is None:
        return []
    return [Heading("Price", meaning=f"of the median total time, at {study.price_per_hour:g} an hour")]


def _price(study: Summary, seconds: float | None) -> list[Entry]:
    """What so many seconds cost, in tables of a study that has a price."""
    return [] if study.price_per_hour is None else [number(priced(seconds, study.price_per_hour), units.price)]


def _score(cell: CellSummary, metric: str, whisker: Whisker | None) -> Entry:
    value, show = cell.score(metric), METRICS[metric].shown
    if value is None:
        return missing()
    value = axes.on_scale(metric, value)
    return Entry(show(value.mean), interval(value.low, value.high, show), value.mean, whisker)


def pairs_grid(study: Summary, group: Group) -> Grid | None:
    """Every pair of the group's cells on the metric of the study, with its difference and verdict; None without one,
    or with one seed, of which no difference has an interval."""
    pairs = [p for p in study.pairs if p.a in group.ids and p.b in group.ids and p.metric == study.select]
    if not pairs or study.lone_seed:
        return None
    rows = []
    known = any(pair.low is not None for pair in pairs)
    several = pairs[0].family > 1 and known
    for pair, whisker in zip(pairs, differences(pairs, study.margin), strict=True):
        a, b = (units.printable(study.cell(name).approach) for name in (pair.a, pair.b))
        shown = points(pair.difference, study.select)
        entries = [
            Entry(f"{a} − {b}"),
            Entry(shown, _ends(pair.low, pair.high, study.select), pair.difference, whisker),
            *([_together(pair, study.select)] if several else []),
            *([number(pair.p_holm if pair.p_holm is not None else pair.p, _p)] if known else []),
            _verdict(pair, a, b),
        ]
        rows.append(row(entries, pair.a, pair.b))
    headings = (
        Heading("Pair", numeric=False),
        _difference_heading(study, known=known, several=several),
        *(
            [
                Heading(
                    f"{study.confidence:.0%} interval for all pairs at once",
                    meaning="Bonferroni, over all pairs of this data set and model; within the margin: equivalent",
                )
            ]
            if several
            else []
        ),
        *(
            [
                Heading(
                    "p, Holm" if several else "p",
                    meaning="two-sided, after Holm's correction over the pairs of this data set and model",
                )
            ]
            if known
            else []
        ),
        Heading("Verdict", numeric=False, lead=True),
    )
    caption = f"Differences in {axes.metric_words(study.select)} on the test split, {group.title}"
    return Grid(f"{group.key}-pairs", units.printable(caption), headings, tuple(rows), wide=True)


def _difference_heading(study: Summary, *, known: bool, several: bool) -> Heading:
    """Of the pairs' differences, and of the interval of each alone where any has one."""
    unit = "in points" if METRICS[study.select].unit == "share" else f"in {METRICS[study.select].unit}"
    title = f"{axes.metric_title(study.select)} of the first minus the second"
    if not known:
        no = f"no interval below {MIN_FOR_INTERVAL} common {'seeds' if study.folds is None else 'folds'}"
        return Heading(f"Difference {unit}; {no}", meaning=title)
    shown = f"{study.confidence:.0%} interval{', not corrected' if several else ''}"
    return Heading(f"Difference {unit}; {shown}", meaning=f"{title}; interval of this pair alone")


def _verdict(pair: Pair, a: str, b: str) -> Entry:
    if pair.verdict is None:
        return Entry("no verdict", pair.why_none or "", "~")
    text = {"better": f"{a} is better", "worse": f"{b} is better"}.get(pair.verdict, pair.verdict)
    return Entry(f"{MARKS[pair.verdict]}\N{NO-BREAK SPACE}{text}", tag=pair.verdict, value=pair.verdict)


def _ends(low: float | None, high: float | None, metric: str) -> str:
    return "" if low is None or high is None else f"{points(low, metric)} to {points(high, metric)}"


def _together(pair: Pair, metric: str) -> Entry:
    """The interval that holds for all pairs at once, sorted by its width."""
    low, high = pair.family_low, pair.family_high
    return missing() if low is None or high is None else Entry(_ends(low, high, metric), value=high - low)


def points(value: float | None, metric: str) -> str:
    """A difference: shares in points (+1.23), others as they are (+0.012); a true minus sign."""
    if value is None:
        return units.MISSING
    shown = f"{100 * value:+.2f}" if METRICS[metric].unit == "share" else f"{value:+.4f}"
    return shown.replace("-", units.MINUS) if shown.strip("+-0.") else shown.lstrip("+-")


def _p(value: float | None) -> str:
    return units.MISSING if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def over_data(study: Summary) -> Grid | None:
    """Each approach on each data set, model and size; None for one of them only."""
    groups = study.groups
    if len(groups) < 2:
        return None
    approaches = dict.fromkeys(cell.approach for group in groups for cell in group.cells)
    show = axes.show_metric(study.select)
    scores = {(cell.approach, group.key): cell.score(study.select) for group in groups for cell in group.cells}
    rows = []
    for approach in approaches:
        entries = []
        for mean in (scores.get((approach, group.key)) for group in groups):
            m = None if mean is None else axes.on_scale(study.select, mean)
            entries.append(missing() if m is None else Entry(show(m.mean), interval(m.low, m.high, show), m.mean))
        rows.append(row([words(approach), *entries]))
    foot = []
    if study.select in shown_metrics(study):
        for name in dict.fromkeys(one.name for one in study.baselines if one.reason is None):
            found = {(one.data, one.limit): one.value(study.select) for one in study.baselines if one.name == name}
            foot.append(row([words(name), *(number(found.get((g.data, g.limit)), show) for g in groups)]))
    varied = [key for key in ("data", "model", "size") if len({getattr(group, key) for group in groups}) > 1]
    titles = [", ".join(getattr(group, key) for key in varied) for group in groups]
    headings = (Heading("Approach", numeric=False), *(Heading(units.printable(title)) for title in titles))
    caption = f"{axes.metric_title(study.select)} on the test split, {means_said(study)}"
    return Grid("over-data", caption, headings, tuple(rows), tuple(foot))


def numbers(
    grid: str,
    caption: str,
    columns: Mapping[Key, str],
    lines: Sequence[tuple[str, Mapping[Key, float]]],
    show: Callable[[float | None], str],
) -> Grid:
    """The numbers of a chart: a line a cell, `columns` by the key that lines have them under, with their headings."""
    headings = (Heading("Approach", numeric=False), *(Heading(title) for title in columns.values()))
    rows = [row([words(name), *(number(found.get(key), show) for key in columns)]) for name, found in lines]
    return Grid(grid, caption, headings, tuple(rows))


def cost_numbers(study: Summary, group: Group) -> Grid:
    """Every cost with its spread over seeds."""
    headings = (
        Heading("Approach", numeric=False),
        *(
            Heading(title, meaning=over_runs(study, "median, smallest to largest").strip())
            for title, _ in COST.values()
        ),
        *_price_heading(study),
        Heading("Tokens a second"),
        Heading("Padding", meaning="share of the rows computed that are no tokens"),
    )
    show_share = units.percent_of(cell.padding_share for cell in group.cells)
    rows = []
    for cell in group.cells:
        entries = []
        for key, (_, show) in COST.items():
            cost = cell.cost.get(key)
            entries.append(missing() if cost is None else number(cost.median, show, spread(cost, show)))
        entries += _price(study, _median(cell, "total_seconds"))
        entries.append(number(_median(cell, "tokens_per_second"), units.count))
        entries.append(number(cell.padding_share, show_share))
        rows.append(row([words(cell.approach), *entries], cell.id))
    caption = "Costs" if study.lone_seed else f"Medians over {runs_of(study)}s, with the smallest and the largest"
    return Grid(f"{group.key}-costs", caption, headings, tuple(rows))


def learning_numbers(group: Group, evidence: Mapping[str, CellEvidence], metric: str) -> Grid:
    """Validation after each epoch, mean over seeds, with the median training time until then."""
    show = axes.show_metric(metric)
    lines = []
    for cell in group.cells:
        if cell.id not in evidence:
            continue
        epochs = list(zip(*evidence[cell.id].histories, strict=False))
        entries = []
        for epoch in epochs:
            scores = [run[f"validation_{metric}"] for run in epoch if run.get(f"validation_{metric}") is not None]
            after = median(float(run["train_seconds"]) for run in epoch)
            entries.append(number(fmean(scores), show, units.duration(after)) if scores else missing())
        lines.append((cell, entries))
    longest = max((len(entries) for _, entries in lines), default=0)
    rows = [row([words(c.approach), *e, *(missing() for _ in range(longest - len(e)))], c.id) for c, e in lines]
    headings = (Heading("Approach", numeric=False), *(Heading(f"Epoch {n}") for n in range(1, longest + 1)))
    over = f", mean over {noun_of(group.cells[0])}s" if any(len(cell.runs) > 1 for cell in group.cells) else ""
    caption = f"{axes.metric_title(metric)} on validation{over}, and the training time until then"
    return Grid(f"{group.key}-learning", caption, headings, tuple(rows))
