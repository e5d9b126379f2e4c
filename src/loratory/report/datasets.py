"""What there is to learn from, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from loratory.errors import counted
from loratory.units import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from loratory.data import Dataset

SAMPLES = 2
"""Training texts of each class that are shown."""


def packaged_rows() -> list[dict[str, str]]:
    """The packaged items: name, kind, description, licence, citation, requirement."""
    from loratory.data import PACKAGED

    keys = ("name", "kind", "description", "licence", "citation", "requirement")
    return [{key: str(getattr(item, key)) for key in keys} for item in PACKAGED.values()]


def packaged_table() -> RenderableType:
    """The packaged items, one block each."""
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 1, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for row in packaged_rows():
        table.add_row(
            row["name"], f"{row['kind']}: {row['description']}\nLicence: {row['licence']}\nCite: {row['citation']}"
        )
    return table


def described(dataset: Dataset) -> dict[str, Any]:
    """The data set's record, with `words`, how long its texts are, and `samples`, in the order of `labels`."""
    texts = [text for part in (dataset.train, dataset.validation, dataset.test) for text in part.texts]
    lengths = np.array([len(text.split()) for text in texts])
    median, long, longest = np.percentile(lengths, [50, 95, 100], method="inverted_cdf").tolist()
    first = [np.flatnonzero(dataset.train.labels == label)[:SAMPLES] for label in range(len(dataset.labels))]
    return {
        **dataset.record(),
        "words": {"median": median, "percentile_95": long, "longest": longest},
        "samples": [[dataset.train.texts[row] for row in rows] for rows in first],
    }


def dataset_table(record: Mapping[str, Any]) -> RenderableType:
    """Sizes and classes of each split, what was found while dividing, lengths, and samples cut to the width.

    Args:
        record: what :func:`described` gives.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, title=Text(printable(record["source"])), title_justify="left", pad_edge=False)
    table.add_column("Split")
    table.add_column("Examples", justify="right")
    for label in record["labels"]:
        table.add_column(Text(printable(str(label))), justify="right", overflow="fold")
    for part, size in record["sizes"].items():
        table.add_row(part, f"{size:,}", *(f"{count:,}" for count in record["class_counts"][part]))
    found = [
        *(
            f"{counted(count, 'text')} of {second} also in {first}"
            for (first, second), count in ((pair.split("-"), count) for pair, count in record["overlap"].items())
            if count
        ),
        *(f"{counted(count, 'duplicate row')} in {part}" for part, count in record["duplicates"].items() if count),
    ]
    if record["conflicts"]:
        found.append(f"{counted(record['conflicts'], 'text')} more than once, with different labels")
    if record["dropped"]:
        found.append(f"{counted(record['dropped'], 'example')} left out: no class in this task")
    words = record["words"]
    found.append(
        f"Words per text: median {words['median']:,}, 95th percentile {words['percentile_95']:,}, "
        f"longest {words['longest']:,}"
    )

    def one_line(text: str) -> Text:
        return Text(printable(" ".join(text.split())), no_wrap=True, overflow="ellipsis")

    samples = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    samples.add_column(no_wrap=True, overflow="ellipsis", max_width=20)
    samples.add_column()
    for label, texts in zip(record["labels"], record["samples"], strict=True):
        for text in texts:
            samples.add_row(Text(f" {printable(str(label))}"), one_line(text))
    return Group(table, *(Text(f" {line}", style="dim") for line in found), Text(), samples)
