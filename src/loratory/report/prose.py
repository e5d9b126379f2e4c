"""The page's sentences: the answer, what is missing, how it was done, and what the study does not show."""

from __future__ import annotations

from collections import Counter

from loratory import units
from loratory.errors import counted
from loratory.evaluation.measures import ECE_BINS
from loratory.evaluation.metrics import METRICS
from loratory.report import axes, choosing
from loratory.report.beside import above_all
from loratory.report.evidence import Evidence
from loratory.report.study_table import LEFT_OVER, beside, close_memory, over_folds_said, over_runs
from loratory.report.tables import priced
from loratory.study.document import Group, Summary
from loratory.study.measured import RESOLUTION
from loratory.study.observed import listed
from loratory.study.parts import Observation
from loratory.study.resampling import DRAWS
from loratory.study.statistics import MIN_FOLDS, MIN_FOR_INTERVAL, MIN_SEEDS, MIN_UNITS

MANY = (
    "Many pairs give many chances to err. The interval under a difference is that of the pair alone, not "
    "corrected: read it where a pair was chosen before the study. The one for all pairs at once (Bonferroni) and "
    "the p-value after Holm's correction are over all pairs of a data set and model, and verdicts rest on these "
    "two. Holm's correction finds more than Bonferroni's, so that an interval for all pairs may hold 0 where p is "
    "at most 0.05."
)
"""Why pairs have two intervals, where they are several."""

SIZES_SAID = 3
"""Sentences over sizes of the training set that stand in the answer; all stand beneath their chart."""

SIZED = (
    "Smaller training sets lie within the larger ones and hold the classes in the same shares; validation and test "
    "are the same at every size. Approaches are compared at the same size, and the pairs of all sizes are corrected "
    "for together, so that what is said over sizes holds at once. Each size has one draw of examples: another may "
    "give other scores, most of all where it is small."
)
"""What is done where the training set has several sizes."""

WIDER = (
    "Folds: all examples are tested, each by models that were trained without it, and are resampled together. As the "
    "folds' training sets overlap, runs are not independent: to this variance that of the folds' own differences s² is "
    "added, as (1/K + n_test/n_train) s² (Nadeau & Bengio 2003; Bouckaert & Frank 2004), and Student's t has K - 1 "
    "degrees of freedom. The tested examples so count twice, which leaves room for what training sets share."
)
"""How a pair's interval is made where there are folds."""

COVERED = (
    "Intervals of differences cover the seeds and the draw of test examples; those of means, in the table and the "
    "charts, cover the seeds alone, on these test examples. None covers another split of the data or another "
    "pretrained model."
)
"""What intervals cover."""

ONE_SEED = (
    "There is one seed: another one, or other test examples, may order the approaches otherwise, and nothing here says "
    "how easily."
)
"""In place of what intervals cover, where there is none."""

COVERED_BY_FOLDS = (
    "Intervals are a guarded estimate: how much folds vary together, by the examples that their training sets share, "
    "cannot be estimated without bias from one data set (Bengio & Grandvalet 2004). They err seldom where the draw of "
    "the training examples moves a difference by about as much as the draw of the tested ones, or less; where it moves "
    "it far more, verdicts may err more often than one in twenty, with ten folds sooner than with five, as their "
    "training sets share more. None covers another pretrained model."
)
"""What intervals over folds cover."""

CHOSEN_IN_FOLDS = (
    "Verdicts are on the whole procedure: in each fold choosing among these rates on its own validation, then "
    "training. The approaches learned from less than all examples: a model trained on all may be better."
)
"""What verdicts over folds are on."""

NOT_COVERED = {
    "each": "Verdicts are on the whole procedure: choosing among these rates, then training. Every seed is a "
    "repetition of it, so that intervals cover what seeds change in the choice; all of them chose on the same "
    "validation texts, and what those favour is not covered.",
    "first": "Verdicts hold at the rates that were chosen, and take the choice as given: with another seed or other "
    "validation texts another rate may be chosen, and no interval covers that. More seeds make it weigh more; "
    "tune_seeds: each lets every seed choose.",
}
"""What intervals and verdicts leave out of the choice of the rates, by the study's `tune_seeds`."""


def answers(study: Summary) -> list[str]:
    """A sentence for each data set and model: what is said of all its cells together, or why nothing can be."""
    if not study.cells:
        return ["This study has no settings to run."]
    done = [cell for cell in study.cells if cell.seeds]
    if not done:
        return ["No setting has a finished run yet, so there is nothing to compare."]
    if len(study.cells) == 1:
        return [f"One setting only, {done[0].approach}: there is nothing to compare it with."]
    if len(done) == 1:
        return [f"Only {done[0].approach} has finished runs yet, so there is nothing to compare it with."]
    found: list[str | None] = [one.text for one in of_sizes(study)[:SIZES_SAID]]
    found += [
        one.text if (one := leading(study, group)) is not None else best_mean(study, group) for group in study.groups
    ]
    return [text for text in found if text is not None] or ["No two settings have a score on the same test split yet."]


def of_sizes(study: Summary) -> list[Observation]:
    """What is said of every two approaches over sizes of the training set: those that cross first."""
    return [one for one in study.observations if one.topic == "sizes"]


def leading(study: Summary, group: Group) -> Observation | None:
    """The first observation about every cell of the group that has a test score; None below two such cells."""
    tested = {cell.id for cell in group.cells if cell.score(study.select) is not None}
    return next((one for one in study.observations if len(tested) > 1 and set(one.cells) == tested), None)


def best_mean(study: Summary, group: Group) -> str | None:
    """Which cell has the best mean, and no more than that; None below two cells with a test score."""
    scored = [(mean.mean, cell) for cell in group.cells if (mean := cell.score(study.select)) is not None]
    if len(scored) < 2:
        return None
    best = (max if METRICS[study.select].higher_is_better else min)(scored, key=lambda one: one[0])
    where = f"{group.title}: " if len(study.groups) > 1 else ""
    shown = f"{axes.metric_words(study.select)} ({axes.show_metric(study.select)(best[0])})"
    return f"{where}{best[1].approach} has the best mean {shown}; no statement goes further than that."


def further(study: Summary, group: Group) -> list[Observation]:
    """The observations about the group's cells but the leading one; with one group also those about no cell."""
    first = leading(study, group)
    alone = len(study.groups) == 1
    return [
        one
        for one in study.observations
        if one is not first and ((one.cells and group.ids.issuperset(one.cells)) or (alone and not one.cells))
    ]


def facts(study: Summary) -> list[str]:
    """The study's size, a few words each."""
    tried = {len(choice.rates) for choice in choosing.tuned(study)}
    tuned = " to ".join(map(str, sorted({min(tried), max(tried)}))) if tried else ""
    seeds = " for every seed" if study.tune_seeds == "each" and not study.lone_seed else ""
    seeds += "" if study.folds is None else " and fold" if seeds else " for every fold"
    device = (study.environment or {}).get("device")
    data = len({cell.data for cell in study.cells})
    models = len({cell.model for cell in study.cells})
    return (
        [
            study.cells[0].data if data == 1 else counted(data, "data set"),
            study.cells[0].model if models == 1 else counted(models, "model"),
            *(
                [counted(len({cell.limit for cell in study.cells}), "size") + " of the training set"]
                if study.sized
                else []
            ),
            counted(len({cell.approach for cell in study.cells}), "approach", "approaches"),
            *([counted(study.folds, "fold")] if study.folds is not None else []),
            counted(len(study.seeds), "seed"),
            *([f"{tuned} learning rates each{seeds}"] if tuned else []),
            *([str(device)] if device else []),
        ]
        if study.cells
        else []
    )


def alerts(study: Summary, evidence: Evidence) -> list[str]:
    """What a reader must know before believing a number."""
    found = []
    if not study.complete:
        found.append(f"Not finished: {counted(study.missing, 'run')} missing. Every number below can still change.")
    if study.failed:
        kinds = Counter(run.status.replace("_", " ") for run in study.failed)
        ends = listed([f"{number} {status}" for status, number in kinds.items()])
        count = counted(len(study.failed), "run")
        found.append(f"Left out of every mean: {count} that did not complete ({ends}); every run is listed below.")
    fewest = min((len(cell.seeds) for cell in study.cells), default=0)
    if study.folds is not None and study.folds < MIN_FOLDS:
        found.append(f"Only {counted(study.folds, 'fold')}: below {MIN_FOLDS} folds no verdict is given.")
    if study.folds is not None and not fewest:
        found.append("Some cell has no seed of which every fold's run is there: it has no score.")
    if study.folds is None and fewest < MIN_SEEDS and study.cells:
        seeds = f"{counted(fewest, 'seed')} of some cell" if fewest < len(study.seeds) else counted(fewest, "seed")
        found.append(f"Only {seeds} finished: below {MIN_SEEDS} seeds no verdict is given.")
    found += above_all(study)
    if evidence.absent:
        count = counted(len(evidence.absent), "finished run")
        found.append(f"The directories of {count} are not there, or damaged: curves, classes and examples lack them.")
    return found


def how(study: Summary) -> list[str]:
    """How the numbers came about."""
    return [
        choosing.how_chosen(study),
        f"Then every approach was trained with {'the same ' if len(study.seeds) > 1 else ''}"
        f"{counted(len(study.seeds), 'seed')}; a seed decides the order "
        "of the data, initialisation and dropout. "
        + (
            "The split into training, validation and test is the same for all."
            if study.folds is None
            else f"The data are divided into {study.folds} folds, equal texts and groups in one, the same for all; "
            "each fold is the test once, and its validation is split off from the others."
        ),
        *([SIZED] if study.sized else []),
        *(_judging(study) if not study.lone_seed else []),
        "Training time counts optimizer steps only, the device synchronised at both ends; total time adds set-up, "
        "evaluation, saving and the check of what was saved, not the imports of a new process."
        + (f" Times and memory are{medians}." if (medians := over_runs(study, "medians")) else ""),
        f"Calibration: predictions in {ECE_BINS} equal bins of the top label's probability"
        + ("." if study.lone_seed else ", all seeds together."),
    ]


def _judging(study: Summary) -> list[str]:
    """How intervals, verdicts and fronts came about."""
    share = METRICS[study.select].unit == "share"
    margin, unit = f"{study.margin * (100 if share else 1):.4g}", " points" if share else ""
    return [
        f"Means of at least {MIN_FOR_INTERVAL} seeds have {study.confidence:.0%} intervals over seeds (Student's t), "
        "shown as far as the metric's scale goes."
        if study.folds is None
        else over_folds_said(study.problem),
        "Pairs: the difference is the mean over common seeds. Its error has two parts. Test examples are resampled "
        f"{DRAWS:,} times, those of one text or one group as one unit, with the same draws for both approaches and "
        "every seed; seeds are not resampled but enter by the variance of their differences. The interval and the "
        "p-value are Student's t on the sum of both variances, its degrees of freedom between those of the seeds and "
        "of the units (Satterthwaite). "
        + f"Below {MIN_FOR_INTERVAL} {'common seeds' if study.folds is None else 'folds'} there is neither.",
        *([WIDER] if study.folds is not None else []),
        *([MANY] if any(pair.family > 1 for pair in study.pairs) else []),
        f"Equivalent: the interval that holds for all pairs at once lies within ±{margin}{unit}, also where it leaves "
        f"out 0. Better: else, where the corrected p-value is at most {1 - study.confidence:.2g}. Inconclusive: "
        "neither. "
        + (f"Below {MIN_SEEDS} common seeds" if study.folds is None else f"Below {MIN_FOLDS} folds")
        + f" or {MIN_UNITS} units of one size there is no verdict.",
        "On the front: no approach that costs no more is shown to be better. A measured cost is no more where its "
        "median is not higher, or the middle halves of both over seeds touch, or both are peak memory on a CPU and "
        f"differ by less than {RESOLUTION:.0%}. Without a verdict on any pair there is no front.",
    ]


def price_said(study: Summary, evidence: Evidence) -> str:
    """What a run's price is, and what the whole study has cost; nothing where it has no price."""
    if study.price_per_hour is None:
        return ""
    records = evidence.records.values()
    joint, seconds = sum(record.cohort is not None for record in records), sum(record.seconds for record in records)
    each = f"Price of a run: its total time at {study.price_per_hour:g} an hour."
    if not seconds:
        return each
    came = f"took {units.duration(seconds)}, one after the other"
    if joint:
        came = f"come to {units.duration(seconds)}, {_added(joint, len(records))}"
    whole = units.price(priced(seconds, study.price_per_hour))
    return f"{each} The {counted(len(records), 'run')} that are here, tuning among them, {came}: {whole}."


def _added(joint: int, runs: int) -> str:
    """What is added where `joint` of the runs trained in cohorts."""
    shares = "their shares of the time that their cohorts took"
    if joint == runs:
        return f"the sum of {shares}"
    return f"the sum of the total times of {runs - joint:,} and, of the {joint:,} that trained in cohorts, {shares}"


def limits(study: Summary) -> list[str]:
    """What the study does not show."""
    names = sorted({cell.data for cell in study.cells})
    models = sorted({cell.model for cell in study.cells})
    device = (study.environment or {}).get("device")
    found = [
        f"It speaks of {listed(names)} with {listed(models)}: other data or models may come out otherwise.",
        ONE_SEED if study.lone_seed else COVERED if study.folds is None else COVERED_BY_FOLDS,
    ]
    if device:
        of_one = f"Times and memory are those of one device ({device}) and of this program: their ratios may differ"
        found.append(" ".join([of_one, "elsewhere.", *beside(study)]))
    if any(cost.kind == "resident" for cell in study.cells if (cost := cell.cost.get("peak_memory_bytes"))):
        found += [LEFT_OVER, *close_memory(study)]
    found += _made_otherwise(study)
    if choosing.tuned(study):
        found.append(
            "Only the learning rate was tuned. Batch size, epochs, warm-up and decay are the same for all, and may "
            "suit one approach better than another."
        )
        not_covered = [] if study.lone_seed else [NOT_COVERED[study.tune_seeds]]
        found += not_covered if study.folds is None else [CHOSEN_IN_FOLDS]
        found.append(
            f"Each setting had the same {'budget of epochs' if study.halved else 'number of trials'}; an approach with "
            "more settings had more chances to be the best by luck."
        )
    else:
        found.append("Nothing was tuned for an approach: a better setting of one may change the order.")
    found += choosing.at_the_edge(study)
    if len(study.cells) == 1:
        found.append("With one setting there is no comparison.")
    return found


def _made_otherwise(study: Summary) -> list[str]:
    """That the engine computes the layers of some cells itself and leaves those of others to stock modules, and that
    frozen layers have no dropout."""
    stock = sorted({units.printable(cell.approach) for cell in study.cells if cell.own_layers == 0})
    own = any(cell.own_layers for cell in study.cells)
    found = []
    if stock and own:
        found.append(
            f"Stock modules compute the layers of {listed(stock)}, the engine itself those of the others: the times of "
            "these approaches say more of the modules than of the methods."
        )
    still = sorted({units.printable(cell.approach) for cell in study.cells if cell.frozen_bottom})
    if still and len(still) < len({cell.approach for cell in study.cells}):
        found.append(
            f"The frozen layers at the bottom run once, without dropout, in {listed(still)}; elsewhere dropout is on "
            "in every layer."
        )
    return found
