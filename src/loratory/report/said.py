"""What else the results say, by question: a handful of statements each, the rest behind them, nothing that stands in a
table or chart beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loratory import units
from loratory.report import prose
from loratory.report.beside import above_all
from loratory.study.document import Group, Summary
from loratory.study.observed import place_said
from loratory.study.parts import Observation

FIRST = 4
"""Statements of a question that stand in front."""

QUESTIONS = {
    "How good they are": ("incomplete", "best", "baselines", "ranks", "pairs"),
    "What is trained": ("parameters",),
    "How long it takes": ("time", "together", "reached", "total_time"),
    "How much memory it takes": ("memory",),
    "Quality against cost": ("fronts",),
}
"""The topics of each question; statements of any other topic stand under none."""


@dataclass(frozen=True)
class Statement:
    """One sentence of the page, with the verdict that it rests on."""

    text: str
    verdict: str | None = None


@dataclass(frozen=True)
class Question:
    """What is said to one question: `first` at once, `rest` where a reader asks for more."""

    title: str
    first: tuple[Statement, ...]
    rest: tuple[Statement, ...]


def questions(study: Summary, group: Group) -> list[Question]:
    """The statements about the group by question, in the order of `QUESTIONS`; without those that it says elsewhere."""
    first = prose.leading(study, group)
    answered = first is not None and first.topic == "pairs"  # of two cells the answer says which is better
    found = [
        one
        for one in prose.further(study, group)
        if not _elsewhere(study, one) and not (answered and one.topic == "best")
    ]
    known = {topic for topics in QUESTIONS.values() for topic in topics}
    by_title = {"": [one for one in found if one.topic not in known]}
    by_title |= {title: [one for one in found if one.topic in topics] for title, topics in QUESTIONS.items()}
    return [_question(group, title, said) for title, said in by_title.items() if said]


def _elsewhere(study: Summary, one: Observation) -> bool:
    """Whether a table, a chart or an alert of the page says the same."""
    if one.topic in ("time", "memory"):  # beside another cell: the comparison stands nowhere else
        return len(one.cells) == 1
    if one.topic == "fronts":  # the chart says that there is none
        return not any(pair.verdict is not None for pair in study.pairs if pair.a in one.cells)
    if one.topic == "baselines":
        return one.figures.get("above") == 0 and bool(above_all(study))
    return one.topic in ("pairs", "total_time")


def _question(group: Group, title: str, said: Sequence[Observation]) -> Question:
    statements = [Statement(_here(group, one.text), one.verdict) for one in said]
    if len(statements) <= FIRST + 1:  # to hide one alone saves nothing
        return Question(title, tuple(statements), ())
    if said[0].topic == "parameters":
        return Question(title, (_heads(group, said),), tuple(statements))
    order = sorted(range(len(said)), key=lambda number: _soon(said[number]))
    sorted_ = [statements[number] for number in order]
    return Question(title, tuple(sorted_[:FIRST]), tuple(sorted_[FIRST:]))


def _here(group: Group, text: str) -> str:
    """A sentence without what the heading above it says: its data set, model and size."""
    for place in (f"{group.data}, {group.model}", ""):
        if (prefix := place_said(place, group.size)) and text.startswith(prefix):
            return text.removeprefix(prefix)
    return text


def _soon(one: Observation) -> tuple[bool, float]:
    """Statements as they come, but those of when a score is reached after the others, the soonest first."""
    if one.topic != "reached":
        return False, 0.0
    seconds = one.figures.get("seconds")
    return True, float("inf") if seconds is None else float(seconds)


def _heads(group: Group, said: Sequence[Observation]) -> Statement:
    """One sentence for many: how much of what they train is the classifier head."""
    shares = {one.cells[0]: one.figures["head"] / one.figures["trainable"] for one in said}
    one, other = min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__)
    names = {cell.id: cell.approach for cell in group.cells}
    return Statement(
        "Of the parameters that are trained the classifier head's are from "
        f"{units.percent(shares[one])} ({names[one]}) to {units.percent(shares[other])} ({names[other]})."
    )
