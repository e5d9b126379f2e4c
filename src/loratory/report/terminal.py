"""Tables for the terminal, with Rich; readable at 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loratory.evaluation.metrics import METRICS
from loratory.evaluation.quality import Quality
from loratory.report import units

if TYPE_CHECKING:
    from rich.console import RenderableType

    from loratory.report.tables import Table

STACKED = (
    ("approach",),
    ("trainable", "trainable_share"),
    ("adapter", "head", "unfrozen"),
    ("train_seconds", "total_seconds"),
    ("peak_memory_bytes",),
    ("accuracy",),
    ("f1_macro",),
)
"""Columns side by side; those of one stack stand below one another, as 80 characters do not hold them all."""

HEADINGS = {
    "total_seconds": "total",
    "peak_memory_bytes": "Peak",
    "f1_macro": "Macro\nF1",
}
"""Shorter titles than a page has room for."""

CONFUSION_UP_TO = 8
"""The widest confusion matrix that is printed."""


def comparison_table(table: Table) -> RenderableType:
    """The comparison with two or three lines a row: share under trainable, head under adapter, total under training."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.padding import Padding
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = {column.key: column for column in table.shown}
    stacks = [[shown[key] for key in keys if key in shown] for keys in STACKED]
    grid = RichTable(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for stack in stacks:
        first, *below = (HEADINGS.get(column.key, column.title) for column in stack)
        if stack[0].key == "peak_memory_bytes" and "(" in stack[0].title:
            below = [stack[0].title.partition("(")[2].rstrip(")")]  # allocated or resident
        heading = Text(first).append("".join(f"\n{title.lower()}" for title in below), style="dim")
        left = stack[0].align == "left"
        grid.add_column(heading, justify=stack[0].align, no_wrap=not left, overflow="fold")
    for row in table.rows:
        cells = []
        for stack in stacks:
            first, *below = (column.show(row) for column in stack)
            if {first, *below} == {units.MISSING}:
                below = []  # one dash says it
            cells.append(Text(first).append("".join(f"\n{text}" for text in below), style="dim"))
        grid.add_row(*cells, end_section=True)
    lines = (Padding(Text(units.printable(note), style="dim"), (0, 0, 0, 1)) for note in table.notes)
    return Group(grid, *lines)


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
