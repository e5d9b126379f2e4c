"""A data set looked at with a model's tokenizer: one document for programs, one view for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from loratory.data.columns import as_text
from loratory.data.profile import Bin, Profile, Reader, profile
from loratory.data.splits import Dataset
from loratory.errors import DataError
from loratory.models.families import family_of
from loratory.models.source import pretrained
from loratory.problems import MULTI, REGRESSION
from loratory.report.findings import ROWS_SAID, findings
from loratory.report.provenance import groups_said
from loratory.units import percent, printable, signed

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table

SAMPLES = 2
"""Training texts of each class that are shown."""

CLASSES = 24
"""Classes that are shown: the largest and the smallest half of so many where there are more."""

EXTREMES = ("smallest", "middle", "largest")
"""The numbers of a regression of which texts are shown."""

BAR = 30
"""Characters of the histogram's longest bar."""


@dataclass(frozen=True)
class Profiled:
    """A data set's record, what was found in it, and a few texts of each class."""

    record: Mapping[str, Any]
    """The `data` part of run.json."""
    profile: Profile
    samples: tuple[tuple[str, ...], ...]
    """The first training texts of each class, in the order of `labels`; of a regression those of the smallest, the
    middle and the largest number."""
    refused: tuple[str, ...] = ()
    """Why training would refuse it as it is."""

    def to_dict(self) -> dict[str, Any]:
        """The document that `--json` prints; its keys stand in docs/data.md."""
        return {
            **self.record,
            **self.profile.to_dict(),
            "samples": [list(texts) for texts in self.samples],
            "refused": list(self.refused),
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.padding import Padding
        from rich.text import Text

        yield Text(printable(str(self.record["source"])), style="bold")
        yield self._classes()
        for why in self.refused:
            yield Text(f"\nTraining would refuse it: {printable(why)}")
        if groups := self.record["groups"]:
            parts = ", ".join(f"{part} {count:,}" for part, count in self.record["units"].items())
            yield Text(f"Groups: {groups_said(groups)}. Together with those that share a text: {parts}.")
        if tokens := self.profile.tokens:
            yield Text(f"\nTokens of {printable(tokens.model)}, special ones included", style="bold")
            yield self._lengths()
            yield Text()
            yield _histogram(tokens.histogram)
        for finding in findings(self.profile, self.record["sizes"]):
            yield Text(f"\n{finding.title}", style="bold")
            for sentence in finding.sentences:
                yield Text(printable(sentence))
            for rows, texts in finding.rows:
                yield Padding(Text(printable(rows), style="dim"), (0, 0, 0, 2))
                for text in texts:
                    yield Padding(_one_line(text), (0, 0, 0, 4))
        yield Text(f"\n{ROWS_SAID}", style="dim")
        if dropped := self.record["dropped"]:
            yield Text(f"Left out, without a class in this task: {dropped:,}.", style="dim")
        yield Text("\nSome texts of train", style="bold")
        yield self._samples()

    def _targets(self) -> RenderableType:
        """What the numbers of each split are like."""
        found = self.record["targets"]
        table = _table(printable(str(self.record["labels"][0])), *found)
        for name in ("mean", "sd", "min", "max"):
            table.add_row(name, *(signed(f"{one[name]:.4g}") for one in found.values()))
        table.add_section()
        table.add_row("all", *(f"{self.record['sizes'][part]:,}" for part in found))
        return table

    def _classes(self) -> RenderableType:
        from rich.text import Text

        if "targets" in self.record:
            return self._targets()
        sizes, counts = self.record["sizes"], self.record["class_counts"]
        table = _table("Class", *sizes)
        order = self._order()
        for place, number in enumerate(order):
            if place == CLASSES // 2 and len(order) < len(self.record["labels"]):
                left_out = len(self.record["labels"]) - len(order)
                table.add_row(Text(f"{left_out:,} more, in --json", style="dim"))
            shares = (
                f"{counts[part][number]:,} ({percent(counts[part][number] / max(1, sizes[part]))})" for part in sizes
            )
            table.add_row(Text(printable(str(self.record["labels"][number]))), *shares)
        table.add_section()
        table.add_row("all", *(f"{size:,}" for size in sizes.values()))
        return table

    def _order(self) -> Sequence[int]:
        """The classes that are shown: all as they are numbered, or the largest and smallest of many by size."""
        labels, counts = self.record["labels"], self.record.get("class_counts")
        if counts is None or len(labels) <= CLASSES:
            return range(len(labels))
        ordered = sorted(range(len(labels)), key=lambda n: (-sum(counts[part][n] for part in counts), n))
        return [*ordered[: CLASSES // 2], *ordered[-CLASSES // 2 :]]

    def _lengths(self) -> RenderableType:
        assert self.profile.tokens is not None
        table = _table("Split", "Texts", "Mean", "Median", "95%", "99%", "Longest")
        for part, found in self.profile.tokens.lengths.items():
            whole = (found.median, found.percentile_95, found.percentile_99, found.longest)
            table.add_row(part, f"{found.texts:,}", f"{found.mean:,.1f}", *(f"{value:,}" for value in whole))
        return table

    def _samples(self) -> RenderableType:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True, overflow="ellipsis", max_width=20)
        table.add_column()
        names = EXTREMES if "targets" in self.record else self.record["labels"]
        for number in range(len(names)) if "targets" in self.record else self._order():
            for text in self.samples[number]:
                table.add_row(Text(printable(str(names[number]))), _one_line(text))
        return table


def described(dataset: Dataset, model: str, max_length: int, refused: Sequence[DataError] = ()) -> Profiled:
    """Look at a data set as `model` reads it.

    Args:
        max_length: the maximum length of the settings, in tokens.
        refused: what speaks against training on it.

    Raises:
        LoratoryError: the model's files cannot be read, as :func:`loratory.models.source.pretrained` says.
    """
    found = dataset.train.labels
    if dataset.problem == REGRESSION:
        order = np.argsort(found, kind="stable")
        middle = max(0, (len(order) - SAMPLES) // 2)
        first = [order[:SAMPLES], order[middle : middle + SAMPLES], order[-SAMPLES:]]
    else:
        having = found.T > 0 if dataset.problem == MULTI else [found == label for label in range(len(dataset.labels))]
        first = [np.flatnonzero(one)[:SAMPLES] for one in having]
    samples = tuple(tuple(as_text(dataset.train.texts[row]) for row in rows) for rows in first)
    return Profiled(dataset.record(), profile(dataset, reader_of(model), max_length), samples, tuple(map(str, refused)))


def reader_of(model: str) -> Reader:
    """The tokenizer of `model`, and the most tokens it takes.

    Raises:
        LoratoryError: as :func:`loratory.models.source.pretrained`.
    """
    found = pretrained(model)
    return Reader(model, found.tokenizer, family_of(found.plain).longest(found.plain))


def bins_said(bins: Sequence[Bin]) -> list[str]:
    """What each bin holds: 1–4, 5–8 … 49 and more."""
    return [
        f"{one.first:,} and more"
        if one.last is None
        else f"{one.first:,}"
        if one.first == one.last
        else f"{one.first:,}–{one.last:,}"
        for one in bins
    ]


def _histogram(bins: Sequence[Bin]) -> RenderableType:
    table = _table("Tokens", "Texts")
    table.add_column("")
    most = max(one.texts for one in bins)
    for said, one in zip(bins_said(bins), bins, strict=True):
        length = max(1, round(BAR * one.texts / most)) if one.texts else 0
        table.add_row(said, f"{one.texts:,}", "█" * length)
    return table


def _table(first: str, *columns: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column(first, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _one_line(text: str) -> RenderableType:
    from rich.text import Text

    return Text(printable(" ".join(text.split())), no_wrap=True, overflow="ellipsis")
