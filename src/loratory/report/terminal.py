"""Tables for the terminal, with Rich; readable at 80 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loratory import units
from loratory.evaluation.metrics import metrics_of
from loratory.evaluation.quality import AnyQuality, ClassQuality, NumberQuality, Quality
from loratory.store.record import MEMORY_PARTS

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table as RichTable

    from loratory.report.tables import Column, Row, Table

PARTS = ("adapter", "head", "unfrozen")
"""The columns that stand in a table of their own where the terminal is narrow."""

MEMORY = tuple(f"{part}_bytes" for part in MEMORY_PARTS)
"""The parts of an estimate's memory: always in a table of their own, too."""

WIDE = 110
"""From this many characters on, all columns stand side by side."""

RATES = ("lr",)
"""The column that always stands in a table of its own: a cell may have as many as it has seeds."""

ROW = ("data", "model", "train_examples", "approach")
"""The columns that say which row it is, in every table."""

COST = ("train_seconds", "total_seconds", "peak_memory_bytes", "energy_joules", "price")
"""The columns that stand in a table of their own where even that leaves too little room for the approach."""

APPROACH = 16
"""The least characters for the column of approaches."""


@dataclass(frozen=True)
class ComparisonTable:
    """The comparison, one line a row: one table from `WIDE` on, with learning rates in one of their own; else also the
    parts of the parameters and, where it is narrower still, the cost in tables of their own.
    """

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        columns, rows = self.table.shown, self.table.rows
        wide = options.max_width >= WIDE
        asides = {"Peak memory by part": MEMORY, "Chosen": RATES}
        if not wide:
            asides = {"Trainable parameters by part": PARTS, **asides}
        main = [column for column in columns if not any(column.key in keys for keys in asides.values())]
        if not wide and APPROACH + sum(1 + _width(column, rows) for column in main[1:]) > options.max_width:
            main = [column for column in main if column.key not in COST]
            asides = {"Time and memory": COST, **asides}
        yield _grid(main, rows, gap=2 if wide else 1)
        for title, keys in asides.items():
            having = [row for row in rows if any(row.get(key) is not None for key in keys)]
            aside = [column for column in columns if column.key in (*ROW, *keys)]
            if having and any(column.key in keys for column in aside):
                yield Text(f"\n{title}", style="bold")
                yield _grid(aside, having, gap=2)
        yield Text()
        for note in self.table.notes:
            yield Text(units.printable(note), style="dim")


def _width(column: Column, rows: Sequence[Row]) -> int:
    return max(len(text) for text in (*column.title.split(), *(column.show(row) for row in rows)))


def _grid(columns: Sequence[Column], rows: Sequence[Row], *, gap: int) -> RenderableType:
    """One word of a heading a line, so that a column is hardly wider than its numbers."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable
    from rich.text import Text

    grid = RichTable(
        box=SIMPLE_HEAD, show_edge=False, padding=(0, gap - 1, 0, 0), pad_edge=False
    )  # the box has a gap of 1
    height = max(column.title.count(" ") for column in columns)
    for column in columns:
        heading = "\n" * (height - column.title.count(" ")) + column.title.replace(" ", "\n")
        left = column.align == "left"
        grid.add_column(Text(heading), justify=column.align, no_wrap=not left, overflow="fold")
    for row in rows:
        grid.add_row(*(Text(column.show(row)) for column in columns))
    return grid


def quality_table(quality: AnyQuality, title: str) -> RenderableType:
    """One split's metrics with their meaning; then each class's own and the confusion matrix, each label's own, or
    what the true numbers are like.

    Args:
        quality: what `score` found.
        title: what was evaluated, such as the run and the split.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table as RichTable
    from rich.text import Text

    metrics = RichTable(box=SIMPLE_HEAD, title=Text(units.printable(title)), title_justify="left", pad_edge=False)
    metrics.add_column("Metric", no_wrap=True)
    metrics.add_column("Value", justify="right", no_wrap=True)
    metrics.add_column("Meaning", style="dim")
    for metric in metrics_of(quality.problem).values():
        metrics.add_row(metric.title, metric.shown(quality.value(metric.name)), Text(metric.meaning))
    if isinstance(quality, NumberQuality):
        said = ", ".join(f"{name} {units.signed(f'{value:.4g}')}" for name, value in quality.target.items())
        return Group(metrics, Text(f"The true numbers: {said}.", style="dim"))
    if isinstance(quality, Quality):
        return Group(metrics, _classes("Class", quality.labels, quality.per_class), ConfusionMatrix(quality))
    return Group(metrics, _classes("Label", quality.labels, quality.per_label, quality.thresholds))


def _classes(
    what: str, names: Sequence[str], found: Mapping[str, ClassQuality], thresholds: Sequence[float] | None = None
) -> RichTable:
    """Each class or label on a line of its own, with the probability from which it is predicted where it has one."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable
    from rich.text import Text

    classes = RichTable(box=SIMPLE_HEAD, pad_edge=False)
    classes.add_column("No.", justify="right", no_wrap=True)
    classes.add_column(what, overflow="fold")
    for heading in ("Precision", "Recall", "F1", *(["Threshold"] if thresholds else []), "Examples"):
        classes.add_column(heading, justify="right", no_wrap=True)
    for number, name in enumerate(names):
        one = found[name]
        shares = [one.precision, one.recall, one.f1, *(thresholds[number : number + 1] if thresholds else [])]
        shown = [*map(units.fraction, shares), f"{one.support:,}"]
        classes.add_row(str(number + 1), Text(units.printable(name)), *shown)
    return classes


@dataclass(frozen=True)
class ConfusionMatrix:
    """A row for each true class; columns by name, by number where the names are too wide, or left to `--json`."""

    quality: Quality

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        names = [units.printable(name) for name in self.quality.labels]
        numbers = [str(number) for number in range(1, len(names) + 1)]
        wider = options.update_width(options.max_width + 1)  # a measure never says more than it may
        for headings, by in ((names, ""), (numbers, ", by No.")):
            matrix = self._table(headings)
            if console.measure(matrix, options=wider).maximum <= options.max_width:
                yield Text(f"Confusion matrix: true classes in rows, predicted ones in columns{by}\n")
                yield matrix
                return
        yield Text(f"The confusion matrix of {len(names)} classes is in --json.", style="dim")

    def _table(self, headings: Sequence[str]) -> RichTable:
        from rich.box import SIMPLE_HEAD
        from rich.table import Table as RichTable
        from rich.text import Text

        matrix = RichTable(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
        matrix.add_column("True", no_wrap=True)
        for heading in headings:
            matrix.add_column(Text(heading), justify="right", no_wrap=True)
        for heading, row in zip(headings, self.quality.confusion, strict=True):
            matrix.add_row(Text(heading), *(f"{value:,}" for value in row))
        return matrix
