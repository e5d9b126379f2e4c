"""What sentences about one data set x model x size are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from loratory import units
from loratory.evaluation.metrics import METRICS, Metric
from loratory.study.fronts import verdicts_of
from loratory.study.measured import Spread
from loratory.study.parts import BaselineSummary, CellSummary, Front, Observation, Pair, Verdict

NAMED = 3
"""More approaches than this are counted in a sentence, not named: the table has their names."""


@dataclass(frozen=True)
class Scene:
    """The cells of one data set x model x size, and how they compare."""

    cells: tuple[CellSummary, ...]
    pairs: tuple[Pair, ...]
    fronts: tuple[Front, ...]
    baselines: tuple[BaselineSummary, ...]
    metric: str
    margin: float
    where: str
    """How its sentences begin, where a study has several data sets, models or sizes."""

    @cached_property
    def verdicts(self) -> dict[tuple[str, str], Verdict | None]:
        """The verdict on the first cell against the second, for both orders."""
        return verdicts_of(self.pairs)

    @cached_property
    def name(self) -> dict[str, str]:
        """What each cell is called, by id."""
        return {cell.id: cell.approach for cell in self.cells}

    @property
    def measure(self) -> Metric:
        """The metric's declaration."""
        return METRICS[self.metric]

    @property
    def title(self) -> str:
        """The metric inside a sentence: test accuracy, test macro-F1."""
        return f"test {self.short}"

    @property
    def short(self) -> str:
        """The metric alone: accuracy, macro-F1."""
        return self.measure.in_words

    @property
    def tested(self) -> tuple[CellSummary, ...]:
        """The cells that have been scored on test."""
        return tuple(cell for cell in self.cells if self.metric in cell.quality.get("test", {}))

    def score(self, cell: CellSummary) -> Spread:
        """A tested cell's metric on test."""
        return cell.quality["test"][self.metric]

    def say(
        self, text: str, cells: Sequence[CellSummary], figures: Mapping[str, Any], verdict: Verdict | None = None
    ) -> Observation:
        """One sentence about `cells`; a verdict is seen from the first of them."""
        return Observation(f"{self.where}{text}", tuple(cell.id for cell in cells), dict(figures), verdict)

    def value(self, number: float) -> str:
        """The metric's value as a reader sees it."""
        return self.measure.shown(number)

    def gap(self, number: float, *, sign: bool = True) -> str:
        """A difference of the metric without its unit; accuracy in points of 1%."""
        number, digits = (100 * number, 2) if "accuracy" in self.metric else (number, 4)
        text = f"{number:{'+' if sign else ''}.{digits}f}".replace("-", units.MINUS)
        return text if float(f"{number:.{digits}f}") else text.lstrip("+−")

    @property
    def unit(self) -> str:
        """What follows a difference."""
        if "accuracy" in self.metric:
            return " points"
        return " nats" if self.measure.unit == "nats" else ""


def place_said(place: str, size: str) -> str:
    """How sentences about one place and size begin: `hutto:movies, minilm, 100 training examples: `; "" for neither."""
    words = ", ".join(filter(None, (place, size)))
    return f"{words}: " if words else ""


def listed(names: Sequence[str]) -> str:
    """One; one and two; one, two and three; with semicolons where a name holds a comma."""
    if len(names) > 1 and any(", " in name for name in names):
        return "; and ".join(["; ".join(names[:-1]), names[-1]])
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
