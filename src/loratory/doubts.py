"""What is allowed and may not be meant: data and rates of which a line is said before anything is trained."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence

from loratory.data import Dataset
from loratory.data.targets import joined_by
from loratory.errors import counted
from loratory.problems import MULTI, REGRESSION, SINGLE
from loratory.spec import DataSpec, RunSpec
from loratory.units import quoted

log = logging.getLogger("loratory")

FEW = 5
"""Below so many test texts a class's own scores say nothing: one text is a fifth of its recall."""

HIGHEST_RATE = 1.0
"""A learning rate above it may be another number: AdamW's steps are as large as the rate, and weights below 1."""

OWN_RATE = 1e-2
"""No method's own rate is higher."""

NAMED = 5
"""Classes that are named in a line."""

SHOWN = "loratory data show"


def warn_of_run(spec: RunSpec, dataset: Dataset) -> None:
    """Say what is doubtful about a run and its data, a line for each, in the log."""
    rates = {"lr": spec.training.lr} | {
        name: rate for name, rate in spec.method.model_dump().items() if name.endswith("_lr")
    }
    warn(line for name, rate in rates.items() if rate for line in of_rates(f"--{name.replace('_', '-')}", [rate]))
    warn(of_data(dataset, spec.data))


def warn(lines: Iterable[str]) -> None:
    """Log each."""
    for line in lines:
        log.warning("%s", line)


def of_rates(where: str, rates: Sequence[float]) -> list[str]:
    """A line about learning rates that are higher than any that is usual.

    Args:
        where: what they are called.
    """
    high = sorted({rate for rate in rates if rate > HIGHEST_RATE})
    if not high:
        return []
    said = f"{where} {', '.join(f'{rate:g}' for rate in high)}"
    return [f"{said}: far above every method's own rate, which is {OWN_RATE:g} at most; is it meant?"]


def of_data(dataset: Dataset, spec: DataSpec, *, tested: bool = True) -> list[str]:
    """Lines about texts with several labels, labels of which a score says little, and labels that may be several.

    Args:
        tested: whether the test split is the whole test, and not one fold of it.
    """
    found = []
    if dataset.conflicts:
        what = counted(dataset.conflicts, "text")
        have, them = ("has", "it") if dataset.conflicts == 1 else ("have", "them")
        found.append(f"{spec.dataset}: {what} {have} more than one label; {SHOWN} names {them}")
    if tested:
        found += _of_few(dataset, spec)
    if dataset.problem == SINGLE and spec.problem is None and (mark := joined_by(dataset.labels)) is not None:
        label = next(name for name in dataset.labels if mark in str(name).strip(mark))
        found.append(
            f"{spec.dataset}: labels such as {quoted(label)} share {mark!r}, and what stands between comes again: if "
            f"each is several labels, say --label-separator {mark!r}; --problem single-label says that it is one"
        )
    return found


def _of_few(dataset: Dataset, spec: DataSpec) -> list[str]:
    if dataset.problem == REGRESSION or not len(dataset.test):
        return []
    labels = dataset.test.labels
    if dataset.problem == MULTI:
        counts = dict(enumerate(labels.sum(axis=0).tolist()))
    else:
        counts = dict.fromkeys(range(len(dataset.labels)), 0) | Counter(labels.tolist())
    few = {str(dataset.labels[number]): count for number, count in counts.items() if count < FEW}
    if not few:
        return []
    what = counted(len(few), "label") if dataset.problem == MULTI else counted(len(few), "class", "classes")
    named = ", ".join(f"{quoted(name)} {count}" for name, count in [*few.items()][:NAMED])
    more = ", …" if len(few) > NAMED else ""
    return [
        f"{spec.where('test')}: {what} with fewer than {FEW} test texts ({named}{more}): scores of "
        f"{'it' if len(few) == 1 else 'them'} say little; {SHOWN} has all counts"
    ]
