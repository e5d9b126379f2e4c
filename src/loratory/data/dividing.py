"""How units are cut into parts: each stratum by itself in the order of hashes, by shares or by folds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from loratory.data.gathering import Examples
from loratory.data.rows import PARTS, Meaning, Rows, in_hash_order
from loratory.data.targets import alike_but_for_case
from loratory.data.units import Units, units_of
from loratory.errors import DataError, SettingsError, counted
from loratory.problems import MULTI, SINGLE
from loratory.spec import DataSpec
from loratory.units import quoted

NAMED = 5
"""Further classes that an error names."""

Refuse = Callable[[DataError], None]
"""What becomes of a class that cannot be learned, or not be scored: it is raised, or told."""


def raised(error: DataError) -> None:
    """Raise it."""
    raise error


def fold_of(spec: DataSpec) -> tuple[int, int] | None:
    """Which fold is the test, from 1, and of how many; None where there are none.

    Raises:
        SettingsError: one without the other, no such fold, or beside what says the test split, too.
    """
    if spec.folds is None and spec.fold is None:
        return None
    if spec.folds is None:
        raise SettingsError(f"--fold {spec.fold}: of how many? Give --folds too")
    if spec.fold is None or spec.fold > spec.folds:
        given = "" if spec.fold is None else f", --fold {spec.fold}"
        raise SettingsError(f"--folds {spec.folds}{given}: say which one is the test, --fold 1 to {spec.folds}")
    other = {"--test": spec.test, "--test-split": spec.test_split}
    if (flag := next((flag for flag, value in other.items() if value is not None), None)) is not None:
        raise SettingsError(f"{flag} beside --folds: a fold is the test; leave one of them out")
    if spec.test_fraction != DataSpec.model_fields["test_fraction"].default:
        raise SettingsError(f"--test-fraction beside --folds: a fold is 1/{spec.folds}; leave one of them out")
    return spec.fold, spec.folds


def divide(
    rows: Rows,
    places: NDArray[np.uint64] | None,
    fractions: Mapping[str, float | Fraction],
    meaning: Meaning,
    where: str,
    examples: Examples,
    fold: tuple[int, int] | None = None,
    refuse: Refuse = raised,
) -> dict[str, Rows]:
    """Cut `rows` into `train` and the parts of `fractions`, each stratum by itself, units whole.

    Args:
        examples: those that the rows are.
        fold: which fold is the test, from 1, and of how many.
        refuse: given what speaks against classes that not every part, and not every fold, would have.
    """
    if sum(Fraction(str(share)) for share in fractions.values()) >= 1:
        raise SettingsError("--validation-fraction and --test-fraction leave nothing to train on; lower one")
    units = units_of(rows, places, meaning.strata)
    if meaning.problem == SINGLE and (few := _small(rows, units, fractions, fold)):
        refuse(_small_said(few, rows, meaning, where, examples, fractions, fold))
    side = _sides(units, meaning.strata, fractions, fold)
    if meaning.problem != SINGLE:
        _refuse_few(rows, units, side, fractions, where, fold)
    if meaning.problem == MULTI and fold is not None:
        _refuse_rare(rows, units, fractions, meaning, where, fold[1])
    order = in_hash_order(rows, meaning)
    sides = side[units.of[rows.ids[order]]]
    return {part: rows.take(order[sides == number]) for number, part in enumerate((*fractions, "train"))}


def _small(
    rows: Rows, units: Units, fractions: Mapping[str, float | Fraction], fold: tuple[int, int] | None
) -> dict[int, int]:
    """The classes that not every part, and not every fold, would have; how many units have a text of each."""
    held = {label: int(units.holding[label]) for label in np.unique(rows.strata).tolist()}  # of others no row is here
    if fold is not None:
        return {label: count for label, count in held.items() if not _enough(count, fold[1], len(fractions))}
    return {label: count for label, count in held.items() if fractions and count <= len(fractions)}


def _small_said(
    few: Mapping[int, int],
    rows: Rows,
    meaning: Meaning,
    where: str,
    examples: Examples,
    fractions: Mapping[str, float | Fraction],
    fold: tuple[int, int] | None,
) -> DataError:
    """What is said of them, with the rows that bear them."""
    first, *others = few

    def at(label: int) -> str:
        return f"({examples.said(rows.numbers[rows.strata == label])})"

    found = f"{counted(few[first], 'distinct text' if rows.groups is None else 'group')} {at(first)}"
    named = ", ".join(f"{quoted(meaning.names[label])} {few[label]} {at(label)}" for label in others[:NAMED])
    also = f", also {named}{', …' if len(others) > NAMED else ''}" if others else ""
    into, fewer = (f"{len(fractions) + 1} parts", "") if fold is None else (f"{fold[1]} folds", "take fewer folds, ")
    remedy = f"{fewer}add some, correct the label, merge the class with another, or remove it{meaning.otherwise}"
    small = f"{where}: class {quoted(meaning.names[first])} has {found}, too few for {into}{also}"
    return DataError(f"{small}; {_alike_said(meaning, first)}{remedy}")


def _alike_said(meaning: Meaning, label: int) -> str:
    """The beginning of a remedy for a class that differs from others by case alone."""
    name = meaning.names[label]
    same = next((names for names in alike_but_for_case(meaning.names) if name in names), ())
    others = [repr(other) for other in same if other != name]
    return f"it differs from {' and '.join(others)} by case alone: write them alike, " if others else ""


def _refuse_few(
    rows: Rows,
    units: Units,
    side: NDArray[np.int8],
    fractions: Mapping[str, float | Fraction],
    where: str,
    fold: tuple[int, int] | None,
) -> None:
    """Refuse to leave a part without any unit, or a fold."""
    count = len(units.strata)
    if len(np.unique(side)) <= len(fractions) or (fold is not None and count < fold[1]):
        found = counted(count, "distinct text" if rows.groups is None else "group")
        into = f"{len(fractions) + 1} parts" if fold is None else f"{fold[1]} folds"
        raise DataError(f"{where}: {found} with its labels, too few for {into}; add some")


def _refuse_rare(
    rows: Rows,
    units: Units,
    fractions: Mapping[str, float | Fraction],
    meaning: Meaning,
    where: str,
    folds: int,
) -> None:
    """Refuse labels that some fold would not train on, before any of the folds is trained."""
    known = meaning.there(rows.labels)
    for fold in range(1, folds + 1):
        training = _sides(units, meaning.strata, fractions, (fold, folds))[units.of[rows.ids]] == len(fractions)
        for label in sorted(known - meaning.there(rows.labels[training])):
            raise DataError(
                f"{where}: no text with the label {meaning.names[label]!r} is left to train on beside fold {fold} of "
                f"{folds}; take fewer folds, add some, merge the label with another, or remove it"
            )


def _sides(
    units: Units, strata: int, fractions: Mapping[str, float | Fraction], fold: tuple[int, int] | None
) -> NDArray[np.int8]:
    """(U,) the part of each unit: its position among the `fractions`, or behind them for training."""
    names = (*fractions, "train")
    side = np.empty(len(units.strata), dtype=np.int8)
    before = 0
    for stratum in range(strata):
        members, begin = np.flatnonzero(units.strata == stratum), 0
        if fold is None:
            counts = _counts(len(members), fractions)
        else:
            first, test = _stretch(len(members), before, *fold)
            counts = _beside(len(members), test, fractions)
            before, members = before + len(members), np.roll(members, -first)
        for part, count in counts.items():
            side[members[begin : begin + count]] = names.index(part)
            begin += count
    return side


def _enough(units: int, folds: int, parts: int) -> bool:
    """Whether so many units of a class give every fold one, and leave one for each other part beside the largest."""
    return units >= folds and units + units // -folds >= parts


def _stretch(units: int, before: int, fold: int, folds: int) -> tuple[int, int]:
    """Where a fold begins in its stratum's units, and how many of them it takes.

    Units are dealt to folds in turn, stratum after stratum, so that neither a stratum's nor all units of two folds
    differ by more than one (as scikit-learn's StratifiedKFold deals them).

    Args:
        before: units of the strata before.
        fold: from 1.
    """
    dealt = np.bincount(np.arange(before, before + units) % folds, minlength=folds)
    return int(dealt[: fold - 1].sum()), int(dealt[fold - 1])


def _beside(total: int, test: int, fractions: Mapping[str, float | Fraction]) -> dict[str, int]:
    """Whole shares of `total` units of which a fold takes `test`; validation has its share of them all, as far as one
    is left to train on."""
    rest = total - test
    shares = {part: Fraction(str(share)) * total for part, share in fractions.items() if part != "test" and rest}
    return {
        "test": test,
        **_counts(rest, {part: min(share, Fraction(rest - 1)) / rest for part, share in shares.items()}),
    }


def _counts(total: int, fractions: Mapping[str, float | Fraction]) -> dict[str, int]:
    """Whole shares of `total` by largest remainder, `train` taking what the fractions leave; none is 0."""
    exact = {part: Fraction(str(share)) * total for part, share in fractions.items()}
    exact["train"] = total - sum(exact.values(), Fraction(0))
    counts = {part: int(share) for part, share in exact.items()}
    by_remainder = sorted(exact, key=lambda part: (counts[part] - exact[part], PARTS.index(part)))
    for part in by_remainder[: total - sum(counts.values())]:
        counts[part] += 1
    while total >= len(counts) and 0 in counts.values():
        empty = next(part for part in counts if counts[part] == 0)
        counts[max(counts, key=counts.__getitem__)] -= 1
        counts[empty] += 1
    return counts
