"""The page's sentences on how the learning rates were chosen."""

from __future__ import annotations

from loratory import units
from loratory.errors import counted
from loratory.report import axes
from loratory.study import halving
from loratory.study.document import Group, Summary
from loratory.study.observed import listed
from loratory.study.parts import CellSummary, ChoiceSummary

EDGES = 4
"""Cells that are named whose seeds chose the smallest or largest rate."""

RUNGS = (
    "With halving a rate's score is that of the last rung that it completed; lines join rates that were trained for as "
    "many epochs. What to expect of the best of so many rates is not shown: those that were dropped have no score "
    "after all epochs."
)
"""What is to be said of the chart of learning rates where rates were dropped."""


def tuned(study: Summary) -> list[ChoiceSummary]:
    """The choices that had trials."""
    return [choice for cell in study.cells for choice in cell.tuning.choices if choice.trials]


def how_chosen(study: Summary) -> str:
    """How many rates were tried by whom, and which was kept."""
    if not (choices := tuned(study)):
        return "Learning rates were not tuned: each approach has one that was given or is its default."
    tried = counted(max(len(choice.rates) for choice in choices), "learning rate")
    who = " by every seed for itself" if study.tune_seeds == "each" else " with the first seed, for all seeds"
    who = "" if study.lone_seed else who
    best = axes.metric_words(study.select) + (" after all epochs" if study.halved else "")
    return (
        f"For each approach {tried} were tried{who}, scored on validation alone; the one with the best validation "
        f"{best} was kept{_written_down(study)}."
        f"{halving_said(study)}"
    )


def halving_said(study: Summary) -> str:
    """What tuning with successive halving cost, and what it costs in certainty."""
    kinds = list(dict.fromkeys(cell.tuning.rungs for cell in study.cells if cell.tuning.rungs))
    if not kinds:
        return ""
    how = "; or ".join(f"{halving.said(rungs)}: {counted(halving.trials(rungs), 'run')}" for rungs in kinds)
    return (
        f" Rates were dropped at equal epochs by successive halving ({how}). Every approach had the same budget, "
        f"{counted(halving.budget(kinds[0]), 'epoch')} for each choice; those that a run of a later rung makes again "
        "count again. A rate that starts slowly may have been dropped too early."
    )


def tuning_said(study: Summary) -> str:
    """What stands under the chart of learning rates."""
    return _points_said(study) + (f" {RUNGS}{_failed_said(study)}" if study.halved else "")


def _failed_said(study: Summary) -> str:
    """The rates that have a score, and failed in a later rung."""
    several = len(study.groups) > 1
    found = [
        f"{_where(study, cell) if several else ''}{units.printable(cell.approach)} {units.rate(one.lr)} "
        f"({counted(one.failed, 'epoch')})"
        for cell in study.cells
        for one in cell.tuning.rates
        if one.failed is not None
    ]
    if not found:
        return ""
    further = [counted(len(found) - EDGES, "further rate")] if len(found) > EDGES else []
    return f" Failed in a later rung: {listed([*found[:EDGES], *further])}."


def _points_said(study: Summary) -> str:
    if study.lone_seed:
        return "Scored on validation, on which the rate was chosen. Ringed: chosen."
    if study.tune_seeds == "each":
        whose, who = ("seeds whose run", "seeds") if study.folds is None else ("runs that", "seeds of a fold or of two")
        marked = f", ×2 by two {who}" if study.several_rates else ""
        return (
            f"Points: the mean over the {whose} completed, on validation, on which the rate was chosen. "
            f"Vertical lines: their range. Ringed: chosen{marked}; a seed trained its final run with what it chose."
        )
    first = "The first seed" if study.folds is None else "The first seed of every fold"
    return f"{first}, scored on validation, on which the rate was chosen. Ringed: chosen, and trained with every seed."


def expected_best_said(study: Summary, group: Group) -> str:
    """What stands under the chart of the expected best rate, with how many seeds it is the mean of."""
    counts = sorted({_whole(cell) for cell in group.cells if cell.tuning.expected_best})
    if study.tune_seeds == "first":
        over = "of the first seed alone" if study.folds is None else "mean over folds, each of the first seed alone"
    elif counts[-1:] == counts[:1]:
        over = f"mean over {counted(counts[0], _choosing_noun(study))}" if counts else ""
    else:
        over = f"mean over {counts[0]} to {counts[-1]} {_choosing_noun(study)}s, those whose every rate completed"
    over = "" if study.lone_seed else f"{over}; "
    return (
        "What to expect of the best of so many rates drawn from those tried: how much an approach gains from tuning "
        f"({over}scores on validation, on which the rate was chosen)."
    )


def _choosing_noun(study: Summary) -> str:
    """Who chooses a rate: a seed, or in each fold one anew."""
    return "seed" if study.folds is None else "choice"


def _whole(cell: CellSummary) -> int:
    """How many choices of the cell have a score for every rate."""
    choices = (choice for choice in cell.tuning.choices if choice.trials)
    return sum(all(trial.score is not None for trial in choice.trials) for choice in choices)


def _written_down(study: Summary) -> str:
    """What the records prove of the choice: each final run names the selection that was there before it."""
    late = sum(cell.scored_before for cell in study.cells)
    if late:
        its, were = ("its", "was") if late == 1 else ("their", "were")
        return (
            f"; but {counted(late, 'final run')} had been scored on test before {its} choice was made, for an earlier "
            f"study file, and {were} used again"
        )
    return ", and each choice written down before any final run of it saw the test split"


def at_the_edge(study: Summary) -> list[str]:
    """The cells whose seeds chose the smallest or largest rate, worst first; two rates have no middle to choose."""
    found = []
    for cell in study.cells:
        choices = [choice for choice in cell.tuning.choices if len(choice.rates) > 2]
        if ends := sum(len(choice.seeds) for choice in choices if choice.at_end):
            found.append((ends, sum(len(choice.seeds) for choice in choices), cell))
    if not found:
        return []
    found.sort(key=lambda one: -one[0] / one[1])
    several = len(study.groups) > 1
    names = [
        f"{_where(study, cell) if several else ''}{units.printable(cell.approach)}: {ends} of {counted(seeds, 'seed')}"
        for ends, seeds, cell in found[:EDGES]
    ]
    further = [counted(len(found) - EDGES, "further cell")] if len(found) > EDGES else []
    return [
        f"The chosen learning rate of some cells is the smallest or largest tried ({listed([*names, *further])}): a "
        "wider range may do better."
    ]


def _where(study: Summary, cell: CellSummary) -> str:
    """`hutto:movies, ` with model and size too where there are several."""
    model = f" with {cell.model}" if len({one.model for one in study.cells}) > 1 else ""
    return f"{cell.data}{model}, {f'{cell.size}, ' if study.sized else ''}"
