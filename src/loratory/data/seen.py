"""The rows of a divided data set as they were read: their texts, those that are equal, and where each stands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from loratory.data.columns import Text, are_pairs, stored
from loratory.data.rows import PARTS, normalised
from loratory.data.splits import Dataset
from loratory.data.targets import shown


@dataclass(frozen=True)
class Place:
    """A row of the data."""

    part: str
    """train, validation or test."""
    row: int
    """0-based row of the file or data set that the part was read from, header and blank lines not counted."""
    line: int | None
    """Where it begins in the file, from 1; None where the source has no lines."""
    label: str


class Seen(Sequence[Text]):
    """The texts of every row: training, validation, test, each by the number of the row."""

    def __init__(self, dataset: Dataset, orders: Sequence[NDArray[np.int64]]) -> None:
        self.dataset, self.orders = dataset, orders
        self.texts = [stored(dataset.split(part).texts).take(order) for part, order in zip(PARTS, orders, strict=True)]
        self.starts = np.cumsum([0, *map(len, orders)])
        self.parts = np.repeat(np.arange(len(PARTS), dtype=np.int8), np.diff(self.starts))
        """(N,) the number of each row's part."""

    @property
    def paired(self) -> bool:
        """Whether the texts are pairs."""
        return any(map(are_pairs, self.texts))

    @classmethod
    def of(cls, dataset: Dataset) -> Seen:
        """All rows of `dataset`."""
        return cls(dataset, [np.argsort(dataset.split(part).rows, kind="stable") for part in PARTS])

    def __len__(self) -> int:
        return int(self.starts[-1])

    @overload
    def __getitem__(self, place: int) -> Text: ...
    @overload
    def __getitem__(self, place: slice) -> list[Text]: ...
    def __getitem__(self, place: int | slice) -> Text | list[Text]:
        if not isinstance(place, slice):
            number = int(self.parts[place])
            return self.texts[number][range(len(self))[place] - int(self.starts[number])]
        begin, end, _ = place.indices(len(self))
        pieces = zip(self.texts, self.starts.tolist(), strict=False)
        return [text for texts, start in pieces for text in texts[max(0, begin - start) : max(0, end - start)]]

    def place(self, row: int) -> Place:
        """Where a row stands in the data."""
        number, position = self._at(row)
        split = self.dataset.split(PARTS[number])
        line = None if split.lines is None else int(split.lines[position])
        return Place(PARTS[number], int(split.rows[position]), line, self.label(row))

    def label(self, row: int) -> str:
        """A row's label."""
        number, position = self._at(row)
        labels = self.dataset.split(PARTS[number]).labels[position : position + 1]
        return shown(labels, self.dataset.labels)[0]

    def _at(self, row: int) -> tuple[int, int]:
        number = int(self.parts[row])
        return number, int(self.orders[number][row - self.starts[number]])


class Alike:
    """The rows of each of D distinct normalised texts."""

    def __init__(self, order: NDArray[np.int64], bounds: NDArray[np.int64]) -> None:
        self.order, self.bounds = order, bounds

    def __len__(self) -> int:
        return max(0, len(self.bounds) - 1)

    def members(self, text: int) -> list[int]:
        """The rows with one text, rising."""
        rows: list[int] = self.order[self.bounds[text] : self.bounds[text + 1]].tolist()
        return rows

    def repeated(self) -> Iterator[list[int]]:
        """The rows of each text that has several."""
        yield from (self.members(text) for text in np.flatnonzero(np.diff(self.bounds) > 1).tolist())


class Normalised(Sequence[str]):
    """The distinct normalised texts."""

    def __init__(self, rows: Seen, alike: Alike) -> None:
        self.rows, self.alike = rows, alike

    def __len__(self) -> int:
        return len(self.alike)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[one] for one in range(len(self))[place]]
        return normalised(self.rows[int(self.alike.order[self.alike.bounds[place]])])
