"""What a reader must know before two rows of a table are compared."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from loratory.data.overlap import is_most
from loratory.errors import counted
from loratory.evaluation.baselines import Baseline
from loratory.evaluation.quality import Quality
from loratory.problems import MULTI, REGRESSION, SINGLE, Problem, problem_in
from loratory.store.naming import Record, flat, lookup, setting, short
from loratory.store.surroundings import FACTS, MODEL

ALONE_SAID = (
    "Many share a base at once there: times and memory stand here as of steps made alone, with random weights, and in "
    "run.json as of the cohort, too."
)
"""What has to be said of runs that trained in cohorts."""


def no_total_said(*, price: bool) -> str:
    """Why runs that trained in cohorts have an empty total time.

    Args:
        price: whether there are prices, too.
    """
    what = "Total time and price are" if price else "Total time is"
    return f"{what} empty for runs that trained in cohorts: what is trained at once has no total time of its own."


def notes(
    records: Sequence[Record], names: Sequence[str], baselines: Sequence[Baseline], *, price: bool = False
) -> list[str]:
    """The lines under a table of `records`, called `names`, and `baselines`: what does not compare, and why.

    Args:
        price: whether total time is money in it, too.
    """
    return [
        *_tested(records, baselines),
        *_data(records, baselines),
        *_leaked(records),
        *_settings(records),
        *_surroundings(records, names),
        *_beside(records, price=price),
        *_seeds(records, names),
        *(f"{one.name} left out: {one.reason}." for one in baselines if one.reason is not None),
    ]


SCORED: Mapping[Problem, tuple[str, str]] = MappingProxyType(
    {
        SINGLE: ("Accuracy and macro-F1", "Macro-F1 is the plain mean over all classes."),
        MULTI: (
            "Micro-F1 and macro-F1",
            "Micro-F1 is over all pairs of example and label, macro-F1 the plain mean over labels; from which "
            "probability on a label is predicted was chosen on validation.",
        ),
        REGRESSION: ("Pearson, Spearman and RMSE", "RMSE, the root mean squared error, is in the target's unit."),
    }
)
"""What the leading metrics of each problem are called together, and what has to be said of them."""


def _tested(records: Sequence[Record], baselines: Sequence[Baseline]) -> list[str]:
    problems = {problem_in(lookup(record, "data", "problem")) for record in records}
    sizes = sorted({sum(support) for support in _supports(records, baselines)})
    if not sizes:
        return []
    splits = f"the test split, {counted(sizes[0], 'example')}"
    if len(sizes) > 1:
        splits = f"test splits of {', '.join(f'{size:,}' for size in sizes)} examples"
    return [f"{SCORED[problem][0]}: on {splits}. {SCORED[problem][1]}" for problem in SCORED if problem in problems]


def _data(records: Sequence[Record], baselines: Sequence[Baseline]) -> list[str]:
    if len(_digests(records, "test")) > 1 or len(_supports(records, baselines)) > 1:
        return ["Different test splits: accuracy and F1 do not compare between these rows."]
    if len(_digests(records, "train")) > 1:
        return ["Trained on different examples: rows differ by their data too, not by their method alone."]
    return []


def _leaked(records: Sequence[Record]) -> list[str]:
    """Where most of a test stands in training, too."""
    places = (("data", "overlap", "train-test"), ("data", "sizes", "test"))
    found = {tuple(lookup(record, *place) for place in places) for record in records}
    counts = [(count, size) for count, size in found if isinstance(count, int) and isinstance(size, int)]
    most = [f"{count:,} of {size:,}" for count, size in sorted(counts) if is_most(count, size)]
    said = f"Test texts that stand in training too: {', '.join(most)}; scores on them say little of new texts."
    return [said] if most else []


def _digests(records: Sequence[Record], part: str) -> set[str]:
    found = (lookup(record, "data", "digests", part) for record in records)
    return {str(digest) for digest in found if digest is not None}


def _supports(records: Sequence[Record], baselines: Sequence[Baseline]) -> set[tuple[int, ...]]:
    found = {_support(lookup(record, "quality", "test", "confusion")) for record in records}
    found |= {(int(count),) for record in records if (count := lookup(record, "quality", "test", "examples"))}
    found |= {_support(one.quality.confusion) for one in baselines if isinstance(one.quality, Quality)}
    return {support for support in found if support is not None}


def _support(confusion: object) -> tuple[int, ...] | None:
    """True examples of each class: rows of a confusion matrix, summed."""
    if not isinstance(confusion, (list, tuple)):
        return None
    return tuple(sum(row) for row in confusion)


def _settings(records: Sequence[Record]) -> list[str]:
    """What differs beside the method and its learning rate; seeds, where cells have as many but not the same."""
    specs = [spec for record in records if (spec := flat(record))]
    found = {
        key.rpartition(".")[2].replace("_", " "): list(dict.fromkeys(short(spec.get(key), key) for spec in specs))
        for key in dict.fromkeys(key for spec in specs for key in spec)
        if key == "hardware.precision" or (key.startswith(("data.", "training.")) and key != "training.lr")
    }
    cells = _seeds_of_cells(records).values()
    if len(set(map(frozenset, cells))) > 1 and len(set(map(len, cells))) == 1:
        found["seed"] = sorted(set().union(*cells))
    lines = "; ".join(f"{name}: {', '.join(values)}" for name, values in found.items() if len(values) > 1)
    return [f"Settings differ too: rows do not differ by their method alone ({lines})."] if lines else []


NAMED = 3
"""Runs that a line names; of more it says how many."""


def _surroundings(records: Sequence[Record], names: Sequence[str]) -> list[str]:
    """A line for each thing in which the runs' surroundings differ: what, which runs, why it matters."""
    models: dict[object, list[int]] = defaultdict(list)
    for number, record in enumerate(records):
        models[lookup(record, "spec", "model")].append(number)
    alike = [(MODEL, numbers) for numbers in models.values()]
    lines = []
    for fact, numbers in [*((one, range(len(records))) for one in FACTS), *alike]:
        found: dict[str, list[str]] = defaultdict(list)
        for number in numbers:
            if (value := fact.of(records[number])) is not None:  # a record of an older version does not say it
                found[value[:12] if fact is MODEL else value].append(names[number])
        if len(found) > 1:
            sides = "; ".join(f"{value}: {few(found[value])}" for value in sorted(found))
            lines.append(f"Different {fact.title} ({sides}): {fact.why}.")
    return lines


def few(names: Sequence[str]) -> str:
    """The names, or the first of them and how many more there are."""
    more = len(names) - NAMED
    shown = list(names) if more <= 0 else [*names[:NAMED], f"{more:,} more"]
    return " and ".join(shown) if len(shown) < 3 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _beside(records: Sequence[Record], *, price: bool) -> list[str]:
    found = [lookup(record, "study", "runs_at_once") for record in records]
    crowded = [value for value in found if isinstance(value, int) and value > 1]
    lines = []
    if crowded:
        some = "" if len(crowded) == len(found) else f" with {len(crowded):,} of these {len(found):,} runs"
        lines.append(f"Up to {max(crowded)} runs of a study went at once on one device{some}: they slowed one another.")
    if joint := sum(lookup(record, "cohort") is not None for record in records):
        said = f"{ALONE_SAID} {no_total_said(price=price)}"
        lines.append(f"{joint:,} of these {len(found):,} runs trained in cohorts. {said}")
    return lines


def _seeds_of_cells(records: Sequence[Record]) -> dict[str, set[str]]:
    seeds: dict[str, set[str]] = defaultdict(set)
    for record in records:
        if (seed := lookup(record, "spec", "seed")) is not None:
            seeds[setting(record)].add(str(seed))
    return seeds


def _seeds(records: Sequence[Record], names: Sequence[str]) -> list[str]:
    seeds = _seeds_of_cells(records)
    first: dict[str, str] = {}
    for record, name in zip(records, names, strict=True):
        first.setdefault(setting(record), name)
    single = [first[cell] for cell, found in seeds.items() if len(found) == 1]
    if not seeds:
        return []
    if len(single) == len(seeds):
        return ["One seed: no interval, so differences may be chance."]
    if single:
        return [f"One seed only of {'; '.join(single)}: no interval, so differences may be chance."]
    return ["Each row is one seed: differences smaller than the spread between seeds may be chance."]
