"""The table of a study: what each cell costs, and how good it is over its seeds. One row a cell, baselines below."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from loratory import units
from loratory.errors import counted
from loratory.evaluation.metrics import LEADING, METRICS, metrics_of
from loratory.problems import SINGLE, Problem
from loratory.report import axes
from loratory.report.beside import above_all
from loratory.report.notes import ALONE_SAID, SCORED, no_total_said
from loratory.report.tables import (
    MEMORY,
    SHARE,
    TIMES,
    Column,
    Row,
    Table,
    coefficients_said,
    price_said,
    priced,
)
from loratory.study.document import Group, Summary
from loratory.study.measured import Cost, close_said
from loratory.study.observed import listed
from loratory.study.parts import CellSummary
from loratory.study.statistics import MIN_FOR_INTERVAL

Show = Callable[[float | None], str]

COST: dict[str, tuple[str, Show]] = {
    "train_seconds": ("Training time", units.duration),
    "total_seconds": ("Total time", units.duration),
    "peak_memory_bytes": ("Peak memory", units.memory),
    "checkpoint_bytes": ("On disk", units.memory),
}


CHOSEN = {
    "each": "Learning rate: each seed chose its own on validation.",
    "first": "Learning rate: chosen on validation with the first seed, for all; intervals and verdicts do not cover "
    "that choice.",
    "alone": "Learning rate: chosen on validation.",
}
"""How rates came about, by the study's `tune_seeds`; `alone` where it has one seed."""


CHOSEN_BY_FOLD = {
    "each": "Learning rate: each seed chose its own in each fold, on that fold's validation.",
    "first": "Learning rate: chosen in each fold on its validation with the first seed, for all.",
    "alone": "Learning rate: chosen in each fold on its validation.",
}
"""The same in a study by folds."""


LEFT_OVER = (
    "On a CPU peak memory is the process's: where a process carried out several runs, a later one may hold some of "
    "what earlier ones needed."
)
"""What is said of resident memory in a study, whose records do not tell which runs shared a process."""


def shown_metrics(study: Summary) -> tuple[str, ...]:
    """The metrics of the table that people read; the CSV has all."""
    return LEADING[study.problem]


def interval(low: float | None, high: float | None, show: Show) -> str:
    """The ends of a mean's interval, `84.9% to 85.9%`; nothing where there is none."""
    return "" if low is None or high is None else f"{show(low)} to {show(high)}"


def study_table(study: Summary) -> Table:
    """Every cell in the order of the plan, with baselines after the cells of their data set.

    Numbers are means over seeds with their interval, costs are medians. Cells without a finished run have a row too.
    """
    rows: list[Row] = []
    for group in study.groups:
        rows += [_cell_row(cell) for cell in group.cells]
        rows += [_baseline_row(study, number, group) for number in baselines_of(study, group)]
    if study.price_per_hour is not None:
        rows = [{**row, "price": priced(row.get("total_seconds"), study.price_per_hour)} for row in rows]
    money = [] if study.price_per_hour is None else price_said(study.price_per_hour, rows)
    return Table(_columns(study), tuple(rows), (*notes(study), *money))


def baselines_of(study: Summary, group: Group) -> list[int]:
    """Positions in `study.baselines` of the data set's baselines, at the first group that has the data set and size."""
    key = group.data, group.limit
    first = next(one for one in study.groups if (one.data, one.limit) == key)
    if first.key != group.key:
        return []
    return [n for n, one in enumerate(study.baselines) if (one.data, one.limit) == key and one.reason is None]


def _cell_row(cell: CellSummary) -> dict[str, str | int | float | None]:
    row: dict[str, str | int | float | None] = {
        "data": cell.data,
        "model": cell.model,
        "train_examples": cell.train_examples,
        "cell": cell.id,
        "approach": cell.approach,
        "seeds": len(cell.seeds),
        "failed": len(cell.failed),
        "lr": _rates(cell),
        "trainable_share": cell.share,
        **{key: cell.parameter(key) for key in ("trainable", "total", "adapter", "head", "unfrozen")},
    }
    for key in COST:
        cost = cell.cost.get(key)
        row |= {key: cost.median, f"{key}_low": cost.low, f"{key}_high": cost.high} if cost is not None else {}
    if (budget := cell.tuning.budget) is not None:
        row |= {"tuning_runs": budget[0], "tuning_epochs": budget[1]}
    memory = cell.cost.get("peak_memory_bytes")
    row["peak_memory_kind"] = memory.kind if memory is not None else None
    for metric in METRICS:
        value = cell.score(metric)
        if value is not None:
            row |= {metric: value.mean} | {f"{metric}_{key}": getattr(value, key) for key in ("sd", "low", "high")}
    return row


def _rates(cell: CellSummary) -> str | float | None:
    """The rate as a number where all seeds take the same, else each with how many seeds take it."""
    chosen = cell.tuning.chosen
    return next(iter(chosen), None) if len(chosen) < 2 else units.rates(chosen)


def _baseline_row(study: Summary, number: int, group: Group) -> Row:
    one = study.baselines[number]
    return {
        "data": one.data,
        "model": "",
        "train_examples": group.cells[0].train_examples,
        "cell": "",
        "approach": one.name,
        "trainable": one.parameters,
        "total_seconds": one.seconds,
        **{metric: value for metric in metrics_of(study.problem) if (value := one.value(metric)) is not None},
    }


def _number(row: Row, key: str) -> float | None:
    value = row.get(key)
    return value if isinstance(value, (int, float)) else None


def _show_mean(metric: str) -> Callable[[Row], str]:
    """`85.4% (84.9% to 85.9%)`, the mean alone where there is no interval, a dash where there is no mean."""
    show = METRICS[metric].shown

    def cell(row: Row) -> str:
        mean = show(_number(row, metric))
        low, high = (axes.within(metric, _number(row, f"{metric}_{end}")) for end in ("low", "high"))
        ends = interval(low, high, show)
        return f"{mean} ({ends})" if ends else mean

    return cell


def _show_rates(row: Row) -> str:
    value = row.get("lr")
    return value if isinstance(value, str) else units.rate(value)


def _text(key: str, title: str, meaning: str, shown: bool) -> Column:
    return Column(key, title, "left", meaning, lambda row: units.printable(str(row.get(key) or "")), shown)


def _column(key: str, title: str, show: Show, meaning: str, shown: bool = True) -> Column:
    return Column(key, title, "right", meaning, lambda row: show(_number(row, key)), shown)


def _columns(study: Summary) -> tuple[Column, ...]:
    shown, of_problem = shown_metrics(study), metrics_of(study.problem)
    ends = [
        (f"{key}_{end}", f"{title}, {word}", f"the seeds' {word}")
        for key, (title, _) in COST.items()
        for end, word in (("low", "smallest"), ("high", "largest"))
    ]
    show_share = units.percent_of(cell.share for cell in study.cells)
    uneven = len({len(cell.seeds) for cell in study.cells}) > 1
    return (
        _text("data", "Data", "data set", len({group.data for group in study.groups}) > 1),
        _text("model", "Model", "pretrained model", len({group.model for group in study.groups}) > 1),
        *([_column("train_examples", "Training examples", units.count, "trained on")] if study.sized else []),
        _text("approach", "Approach", "method and settings, or baseline", True),
        _text("cell", "Cell", "the cell's id in the study", False),
        _column("seeds", "Seeds", units.count, "seeds that finished", uneven),
        _column("failed", "Failed", units.count, "runs that did not complete", False),
        Column("lr", "Learning rate", "left", "chosen", _show_rates, any(cell.tuning.trials for cell in study.cells)),
        *(
            [
                _column("tuning_runs", "Tuning runs", units.count, "of all its choices of a rate"),
                _column("tuning_epochs", "Tuning epochs", units.count, "that these runs trained, some of them again"),
            ]
            if study.halved
            else []
        ),
        _column("trainable", "Trainable parameters", units.count, "parameters that training changes"),
        _column("total", "Total", units.count, "all parameters", False),
        _column("trainable_share", "Share", show_share, "trainable of all parameters"),
        *(
            _column(key, key.title(), units.count, f"trainable parameters: {key}", False)
            for key in ("adapter", "head", "unfrozen")
        ),
        *(
            _column(key, title, show, "median over seeds", key != "checkpoint_bytes")
            for key, (title, show) in COST.items()
        ),
        *([] if study.price_per_hour is None else [_column("price", "Price", units.price, "of the median total time")]),
        *(_column(key, title, units.fraction, meaning, False) for key, title, meaning in ends),
        _text("peak_memory_kind", "Memory kind", "allocated or resident", False),
        *(
            Column(key, f"{METRICS[key].title} (test)", "right", "mean over seeds, with its interval", _show_mean(key))
            for key in shown
        ),
        *(
            _column(key, key, units.fraction, "mean over seeds, test split", False)
            for key in of_problem
            if key not in shown
        ),
        *(
            _column(f"{key}_{part}", f"{key}, {part}", units.fraction, "over seeds, test split", False)
            for key in of_problem
            for part in ("sd", "low", "high")
        ),
    )


def over_folds_said(problem: Problem) -> str:
    """How the numbers of a study by folds came about."""
    own = [metric.in_words for metric in metrics_of(problem).values() if metric.of_one_model]
    means = "means are over all of them together"
    if own:
        means += f", those of {listed(own)} over the folds: outputs of two models do not share a scale"
    return (
        f"Folds: every example is tested once for each seed, by a model that was trained without it; {means}. "
        "Intervals are Student's t over folds, the variance corrected for the training examples that folds share "
        "(Nadeau & Bengio 2003)."
    )


def notes(study: Summary) -> list[str]:
    """What a reader must know before two rows are compared."""
    counts = sorted({len(cell.seeds) for cell in study.cells})
    kinds = {cost.kind for cell in study.cells if (cost := cell.cost.get("peak_memory_bytes")) is not None}
    found = [
        *above_all(study),
        f"{SCORED[study.problem][0]}: on the test split, {means_said(study)}.{beside_metrics(study)}",
        *([over_folds_said(study.problem)] if study.folds is not None else []),
        *([f"Times and memory:{over_runs(study, 'medians')}."] if counts[-1:] > [1] or study.folds else []),
        SHARE,
        *coefficients_said((one.name, one.parameters or 0) for one in study.baselines),
        TIMES,
        *beside(study),
        *no_totals(study, study.cells),
        *(text for kind, text in MEMORY.items() if kind in kinds),
        *([LEFT_OVER] if "resident" in kinds else []),
        *close_memory(study),
    ]
    if any(cell.tuning.trials for cell in study.cells):
        found.append(_chosen_said(study))
    found += dict.fromkeys(
        f"{one.name} left out on {one.data}: {one.reason}." for one in study.baselines if one.reason is not None
    )
    if not study.complete:
        found.insert(0, f"The study is not finished: {counted(study.missing, 'run')} missing.")
    if study.failed:
        found.insert(0, f"Left out of every number here: {counted(len(study.failed), 'run')} that did not complete.")
    return found


def _chosen_said(study: Summary) -> str:
    """How rates came about, and what ×2 means where a cell has several."""
    who = "alone" if len(study.seeds) == 1 else study.tune_seeds
    said = CHOSEN[who] if study.folds is None else CHOSEN_BY_FOLD[who]
    if not study.several_rates:
        return said
    if study.folds is None:
        return f"{said} ×2 means that two seeds chose it."
    return f"{said} ×2: for two {'folds' if who == 'alone' else 'runs'}."


def beside_metrics(study: Summary) -> str:
    """What has to be said of the metrics where labels are not single."""
    return "" if study.problem == SINGLE else f" {SCORED[study.problem][1]}"


def means_said(study: Summary) -> str:
    """What the means are over, and whether they have intervals: there is none below MIN_FOR_INTERVAL seeds."""
    counts = sorted({len(cell.seeds) for cell in study.cells})
    if study.folds is not None:
        return _folds_said(study, counts)
    if not counts or counts[-1] < 2:
        return "one seed: no interval, so differences may be chance"
    seeds = f"{counts[0]} to {counts[-1]} seeds" if len(counts) > 1 else counted(counts[0], "seed")
    if counts[-1] < MIN_FOR_INTERVAL:
        return f"means over {seeds}: no interval below {MIN_FOR_INTERVAL} seeds, so differences may be chance"
    few = f", none below {MIN_FOR_INTERVAL} seeds" if counts[0] < MIN_FOR_INTERVAL else ""
    return f"means over {seeds} with {study.confidence:.0%} intervals over seeds, on these examples{few}"


def runs_of(study: Summary) -> str:
    """What there are several numbers of: a seed, or a run where each seed has several folds."""
    return "seed" if study.folds is None else "run"


def over_runs(study: Summary, what: str) -> str:
    """` medians over seeds`, a space before it; nothing where a study has one seed."""
    return "" if study.lone_seed else f" {what} over {runs_of(study)}s"


def _folds_said(study: Summary, counts: Sequence[int]) -> str:
    most = counts[-1] if counts else 0
    seeds = f"{counts[0]} to {most} seeds" if len(set(counts)) > 1 else counted(most, "seed")
    folds = f"over {study.folds} folds and {seeds}"
    if (study.folds or 0) < MIN_FOR_INTERVAL:
        return f"means {folds}: no interval below {MIN_FOR_INTERVAL} folds, so differences may be chance"
    return f"means {folds} with {study.confidence:.0%} intervals over folds"


def beside(study: Summary) -> list[str]:
    """How many of the study's runs went at once on one device while final runs were timed, as their records say."""
    cells = [cell for cell in study.cells if cell.seeds]
    crowded = [cell for cell in cells if (cell.runs_at_once or 1) > 1]
    unknown = [cell for cell in cells if cell.runs_at_once is None]
    found = []
    if crowded:
        most = max(cell.runs_at_once or 1 for cell in crowded)
        found.append(
            f"Up to {most} runs of the study went at once on one device{_of(crowded, cells)}: they slowed one another, "
            "and their times do not compare with those of runs that have a device to themselves (--alone)."
        )
    if unknown:
        found.append(
            f"How many runs of the study went at once on one device is not known{_of(unknown, cells)}: those that did "
            "slowed one another."
        )
    joint = [cell for cell in cells if cell.cohorts]
    if joint:
        found.append(f"Final runs{_of(joint, cells)} trained in cohorts. {ALONE_SAID}")
    if cells and not found:
        found.append("Each final run had its device to itself: no other run of the study was there.")
    return found


def close_memory(study: Summary) -> list[str]:
    """That peak memory of cells that are compared is about the same, where it is."""
    peaks = [[(c.median, c.kind) for one in g.cells if (c := one.cost.get("peak_memory_bytes"))] for g in study.groups]
    return list(dict.fromkeys(line for group in peaks for line in close_said(group)))


def no_totals(study: Summary, cells: Sequence[CellSummary]) -> list[str]:
    """Why some of these cells have no total time, where cohorts are the reason."""
    empty = any(cell.cohorts and "total_seconds" not in cell.cost for cell in cells)
    return [no_total_said(price=study.price_per_hour is not None)] if empty else []


def _of(some: Sequence[CellSummary], cells: Sequence[CellSummary]) -> str:
    return "" if len(some) == len(cells) else f" in {len(some):,} of {counted(len(cells), 'cell')}"


def spread(value: Cost | None, show: Show) -> str:
    """`31.0 s to 33.2 s`, the smallest and largest over seeds; nothing where they read the same."""
    if value is None or show(value.low) == show(value.high):
        return ""
    return interval(value.low, value.high, show)
