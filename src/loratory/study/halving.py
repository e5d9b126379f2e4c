"""Successive halving: of many learning rates tried for few epochs the better ones are tried for more.

9 rates for 1 epoch ─▶ the best 3 for 3 epochs ─▶ the best 1 for all 9
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from loratory.errors import counted
from loratory.evaluation.metrics import Metric


@dataclass(frozen=True)
class Rung:
    """Trials that are trained for as long: how many rates, and for how many of the epochs."""

    rates: int
    epochs: int


def rungs(rates: int, epochs: int, factor: int | None) -> tuple[Rung, ...]:
    """The rungs of one choice, the first with every rate, the last with every epoch.

    Successive halving of Jamieson & Talwalkar (2016, "Non-stochastic best arm identification and hyperparameter
    optimization", AISTATS) with the factor η of Li et al. (2018, "Hyperband", JMLR): with n rates, E epochs and s
    halvings, rung i = 0 … s has floor(n / η^i) rates, each trained for max(1, floor(E / η^(s-i))) epochs. s is the most
    that leaves a rate in the last rung and gives every rung more epochs than the one before. A trial of a later rung is
    trained from the first step on: earlier epochs are made again, and count again. Both are rounded down, so that this
    never trains more epochs than the whole grid; with η = 2 and one halving it trains about as many.

    Args:
        factor: η; None for the whole grid, one rung.
    """
    if factor is None:
        return (Rung(rates, epochs),)
    most = rates.bit_length()  # no more halvings leave a rate
    return next(one for count in range(most, -1, -1) if _drops(one := _with(count, rates, epochs, factor)))


def budget(found: Sequence[Rung]) -> int:
    """How many epochs the trials of one choice train, all in all."""
    return sum(rung.rates * rung.epochs for rung in found)


def trials(found: Sequence[Rung]) -> int:
    """How many trials one choice has."""
    return sum(rung.rates for rung in found)


def _with(halvings: int, rates: int, epochs: int, factor: int) -> tuple[Rung, ...]:
    return tuple(Rung(rates // factor**i, max(1, epochs // factor ** (halvings - i))) for i in range(halvings + 1))


def _drops(found: Sequence[Rung]) -> bool:
    """Whether a rate is left, and every rung is trained for longer than the one before."""
    return found[-1].rates >= 1 and all(a.epochs < b.epochs for a, b in pairwise(found))


def said(found: Sequence[Rung]) -> str:
    """`9 rates for 1 epoch, 3 for 3, 1 for 9`."""
    first, *others = found
    words = [f"{first.rates} rates for {first.epochs} epoch{'' if first.epochs == 1 else 's'}"]
    return ", ".join([*words, *(f"{one.rates} for {one.epochs}" for one in others)])


def failure_said(
    found: Sequence[Rung], tried: Iterable[tuple[int | None, float | None]], metric: Metric, of: str = ""
) -> str:
    """`every learning rate failed`, of choices none of whose rates completed the last rung; with several rungs the best
    score of the deepest one that any completed.

    Args:
        tried: the epochs and the score of each trial of these choices; None where it did not complete.
        of: whose rates they are, in words.
    """
    scored = [(epochs, score) for epochs, score in tried if epochs is not None and score is not None]
    if len(found) < 2:
        return f"every learning rate{of} failed"
    if not scored:
        return f"every learning rate{of} failed in rung 1 of {len(found)}"
    last = max(epochs for epochs, _ in scored)
    top = (max if metric.higher_is_better else min)(score for epochs, score in scored if epochs == last)
    best = f"validation {metric.in_words} after {counted(last, 'epoch')} was at best {metric.shown(top)}"
    return f"no learning rate{of} completed rung {len(found)} of {len(found)} ({best})"
