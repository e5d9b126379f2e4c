"""Tables for the terminal, with Rich; readable at 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loratory.evaluation.metrics import METRICS
from loratory.evaluation.quality import Quality
from loratory.report import units

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

    from loratory.report.tables import Column, Row, Table

PARTS = ("adapter", "head", "unfrozen")
"""The columns that stand in a table of their own where the terminal is narrow."""

WIDE = 110
"""From this many characters on, all columns stand side by side."""

CONFUSION_UP_TO = 8
"""The widest confusion matrix that is printed."""


@dataclass(frozen=True)
class ComparisonTable:
    """The comparison, one line a row: as one table, or below `WIDE` with the parts of the parameters in a second."""

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        columns, rows = self.table.shown, self.table.rows
        if options.max_width >= WIDE:
            yield _grid(columns, rows, gap=2)
        else:
            yield _grid([column for column in columns if column.key not in PARTS], rows, gap=1)
            parted = [row for row in rows if any(row.get(key) is not None for key in PARTS)]
            if parted:
                yield Text("\nTrainable parameters by part", style="bold")
                yield _grid([column for column in columns if column.key in ("approach", *PARTS)], parted, gap=2)
        yield Text()
        for note in self.table.notes:
            yield Text(units.printable(note), style="dim")


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


def quality_table(quality: Quality, title: str) -> RenderableType:
    """One split's metrics with their meaning, then each class with its row of the confusion matrix.

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
    for metric in METRICS.values():
        show = units.accuracy if metric.name == "accuracy" else units.fraction
        metrics.add_row(metric.title, show(quality.value(metric.name)), Text(metric.meaning))

    names = [units.printable(name) for name in quality.labels]
    matrix = len(names) <= CONFUSION_UP_TO
    classes = RichTable(box=SIMPLE_HEAD, pad_edge=False)
    classes.add_column("Class", overflow="fold")
    for heading in ("Precision", "Recall", "F1", "Examples"):
        classes.add_column(heading, justify="right", no_wrap=True)
    for number, name in enumerate(names if matrix else []):
        above = Text(f"{'Predicted' if number == 0 else ''}\n{name}")
        width = max(len("Predicted") if number == 0 else 5, min(len(name), 10))
        classes.add_column(above, justify="right", overflow="ellipsis", no_wrap=True, min_width=width)
    for name, shown, row in zip(quality.labels, names, quality.confusion, strict=True):
        one = quality.per_class[name]
        shares = [units.fraction(value) for value in (one.precision, one.recall, one.f1)]
        counts = [f"{value:,}" for value in (one.support, *(row if matrix else ()))]
        classes.add_row(Text(shown), *shares, *counts)
    hidden = [] if matrix else [Text(f"The confusion matrix of {len(names)} classes is in --json.", style="dim")]
    return Group(metrics, classes, *hidden)
