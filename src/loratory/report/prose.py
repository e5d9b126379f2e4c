"""The page's sentences: the answer, what is missing, how it was done, and what the study does not show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from loratory.errors import counted
from loratory.evaluation.metrics import ECE_BINS, METRICS
from loratory.report import axes, units
from loratory.report.comparing import points
from loratory.report.document import Cell, Observation, Study
from loratory.report.evidence import Evidence

ENOUGH = 5
"""Seeds below which no verdict is given."""


def listed(words: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def answer(study: Study) -> str:
    """The study in a sentence: its first observation, or why there is none."""
    if study.observations:
        return study.observations[0].text
    done = [cell for cell in study.cells if cell.seeds]
    if not study.cells:
        return "This study has no settings to run."
    if not done:
        return "No setting has a finished run yet, so there is nothing to compare."
    if len(study.cells) == 1:
        return f"One setting only, {done[0].approach}: there is nothing to compare it with."
    if len(done) == 1:
        return f"Only {done[0].approach} has finished runs yet, so there is nothing to compare it with."
    metric = axes.metric_title(study.select).lower()
    scored = [(mean.mean, cell) for cell in done if (mean := cell.score(study.select)) is not None]
    if not scored:
        return "No finished run has a score on the test split, so there is nothing to compare."
    rises = METRICS[study.select].higher_is_better
    best = (max if rises else min)(scored, key=lambda one: one[0])
    shown = axes.show_metric(study.select)(best[0])
    return f"{best[1].approach} has the best mean {metric} ({shown}); no statement goes further than that."


def further(study: Study, ids: frozenset[str]) -> list[Observation]:
    """The observations about these cells but the first of all, which leads the page."""
    return [one for one in study.observations[1:] if not one.cells or ids.issuperset(one.cells)]


def facts(study: Study) -> list[str]:
    """The study's size, a few words each."""
    trials = {len(cell.tuning.trials) for cell in study.cells if cell.tuning and cell.tuning.trials}
    tuned = " to ".join(map(str, sorted({min(trials), max(trials)}))) if trials else ""
    device = (study.environment or {}).get("device")
    data = len({cell.data for cell in study.cells})
    models = len({cell.model for cell in study.cells})
    return (
        [
            study.cells[0].data if data == 1 else counted(data, "data set"),
            study.cells[0].model if models == 1 else counted(models, "model"),
            counted(len({cell.approach for cell in study.cells}), "approach", "approaches"),
            counted(len(study.seeds), "seed"),
            *([f"{tuned} learning rates each"] if tuned else []),
            *([str(device)] if device else []),
        ]
        if study.cells
        else []
    )


def alerts(study: Study, evidence: Evidence) -> list[str]:
    """What a reader must know before believing a number."""
    found = []
    if not study.complete:
        found.append(f"Not finished: {counted(study.missing, 'run')} missing. Every number below can still change.")
    if study.failed:
        kinds = Counter(run.status.replace("_", " ") for run in study.failed)
        ends = listed([f"{number} {status}" for status, number in kinds.items()])
        count = counted(len(study.failed), "run")
        found.append(f"{count} did not complete ({ends}). They count in no mean; every run is listed below.")
    fewest = min((len(cell.seeds) for cell in study.cells), default=0)
    if fewest < ENOUGH and study.cells:
        seeds = f"{counted(fewest, 'seed')} of some cell" if fewest < len(study.seeds) else counted(fewest, "seed")
        found.append(f"Only {seeds} finished: below {ENOUGH} seeds no verdict is given.")
    if evidence.absent:
        count = counted(len(evidence.absent), "finished run")
        found.append(f"The directories of {count} are not there: curves, classes and examples go without them.")
    return found


def how(study: Study) -> list[str]:
    """How the numbers came about."""
    metric = axes.metric_title(study.select).lower()
    margin = points(study.margin, study.select).lstrip("+")
    unit = " points" if METRICS[study.select].unit == "share" else ""
    trials = [cell.tuning.trials for cell in study.cells if cell.tuning and cell.tuning.trials]
    tuned = (
        f"For each approach {counted(max(map(len, trials)), 'learning rate')} were tried with the first seed, scored "
        f"on validation alone; the one with the best validation {metric} was kept, and the choice written down before "
        "any of its runs saw the test split."
        if trials
        else "Learning rates were not tuned: each approach has one that was given or is its default."
    )
    return [
        tuned,
        f"Then every approach was trained with the same {counted(len(study.seeds), 'seed')}; a seed decides the order "
        "of the data, initialisation and dropout. The split into training, validation and test is the same for all.",
        f"Means have {study.confidence:.0%} intervals over seeds. Pairs are compared by a paired bootstrap over seeds "
        "and test examples; p-values are corrected by Holm's method within each data set and model.",
        f"Better: the interval of the difference leaves zero out, after correction. Equivalent: the interval lies "
        f"within ±{margin}{unit}. Inconclusive: neither. Below {ENOUGH} seeds there is no verdict.",
        "On the front: no other approach has a higher mean at a lower cost. Tied with the front: its quality cannot be "
        "told from that of a cell on the front.",
        "Training time counts optimizer steps only, the device synchronised at both ends; total time adds set-up, "
        "evaluation, saving and the check of what was saved. Times and memory are medians over seeds.",
        f"Calibration: predictions in {ECE_BINS} equal bins of the top label's probability, all seeds together.",
    ]


def limits(study: Study) -> list[str]:
    """What the study does not show."""
    names = sorted({cell.data for cell in study.cells})
    models = sorted({cell.model for cell in study.cells})
    device = (study.environment or {}).get("device")
    found = [
        f"It speaks of {listed(names)} with {listed(models)}: other data or models may come out otherwise.",
        "Intervals cover the seeds and the draw of test examples, not another split of the data or another "
        "pretrained model.",
    ]
    if device:
        found.append(
            f"Times and memory are those of one device ({device}) and of this program: their ratios may differ "
            "elsewhere."
        )
    if any(cell.tuning and cell.tuning.trials for cell in study.cells):
        found.append(
            "Only the learning rate was tuned, with one seed. Batch size, epochs, warm-up and decay are the same for "
            "all, and may suit one approach better than another."
        )
    else:
        found.append("Nothing was tuned for an approach: a better setting of one may change the order.")
    if any(_at_edge(cell) for cell in study.cells):
        edge = listed([units.printable(cell.approach) for cell in study.cells if _at_edge(cell)][:4])
        found.append(
            f"The best learning rate of some cells ({edge}) is the smallest or largest tried: a wider range may do "
            "better."
        )
    if len(study.cells) == 1:
        found.append("With one setting there is no comparison.")
    return found


def _at_edge(cell: Cell) -> bool:
    rates = [trial.lr for trial in cell.tuning.trials] if cell.tuning else []
    return len(rates) > 1 and cell.lr in (min(rates), max(rates))
