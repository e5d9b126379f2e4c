"""The page's tables that look closer: confusion, classes, examples that divide the methods, every run."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from loratory import units
from loratory.problems import MULTI, SINGLE
from loratory.report import axes
from loratory.report.disagreement import Disagreement
from loratory.report.evidence import CellEvidence, Evidence
from loratory.report.families import Member, members
from loratory.report.grids import Entry, Grid, Heading, missing, number, row, words
from loratory.store.record import RunRecord
from loratory.study.document import Group, Summary
from loratory.study.parts import CellSummary

WIDEST = 12
"""Classes of the largest confusion matrix that is shown whole; of a larger one the most frequent confusions are."""
CONFUSIONS = 15

SIDE = 4
"""Approaches that stand side by side in the table of disputed examples; more are listed."""


def confusion_grid(group: Group, cell: CellSummary, evidence: CellEvidence) -> Grid:
    """True classes by predicted ones, mean number of examples over seeds, shaded by the share of the true class."""
    names = [units.printable(label) for label in evidence.labels]
    counts = evidence.confusion
    totals = counts.sum(axis=1)
    name = f"{group.key}-{cell.id}-confusion"
    over = f", mean over {seeds} seeds" if (seeds := len(evidence.tests)) > 1 else ""
    if len(names) > WIDEST:
        worst = sorted(
            ((counts[i, j], i, j) for i in range(len(names)) for j in range(len(names)) if i != j and counts[i, j]),
            reverse=True,
        )[:CONFUSIONS]
        rows = [
            row([Entry(names[i]), Entry(names[j]), number(count, _mean), number(count / totals[i], units.accuracy)])
            for count, i, j in worst
        ]
        headings: tuple[Heading, ...] = (
            Heading("True class", numeric=False),
            Heading("Predicted", numeric=False),
            Heading("Examples"),
            Heading("Share of the true class"),
        )
        return Grid(name, f"Most frequent confusions{over}", headings, tuple(rows))
    rows = []
    for i, label in enumerate(names):
        entries = []
        for j in range(len(names)):
            share = counts[i, j] / totals[i] if totals[i] else 0.0
            shown = _mean(float(counts[i, j]))
            entries.append(Entry(shown, units.accuracy(share), float(counts[i, j]), shade=round(10 * share)))
        rows.append(row([Entry(label), *entries]))
    headings = (Heading("True class", numeric=False), *(Heading(f"predicted {label}") for label in names))
    caption = f"Test examples of each true class by predicted class{over}; share of the true class"
    return Grid(name, caption, headings, tuple(rows), sortable=False)


def _mean(value: float | None) -> str:
    if value is None:
        return units.MISSING
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def classes_grid(group: Group, cell: CellSummary, evidence: CellEvidence) -> Grid:
    """Precision, recall and F1 of each class or label, over all seeds; an undefined share is 0."""
    seeds = len(evidence.tests)
    if evidence.problem == MULTI:
        hits_of, true_of, given_of = (one / seeds for one in evidence.of_labels)
    else:
        counts = evidence.confusion
        hits_of, true_of, given_of = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    rows = []
    for label, hits, true, given in zip(evidence.labels, hits_of, true_of, given_of, strict=True):
        precision, recall = (float(hits / size) if size else 0.0 for size in (given, true))
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        shares = (number(value, units.fraction) for value in (precision, recall, f1))
        rows.append(row([words(label), *shares, number(float(true), units.count)]))
    what = "class" if evidence.problem == SINGLE else "label"
    headings = (
        Heading(what.capitalize(), numeric=False),
        Heading("Precision"),
        Heading("Recall"),
        Heading("F1"),
        Heading("Examples"),
    )
    together = f", all predictions of {seeds} seeds together" if seeds > 1 else ""
    caption = f"Each {what} on the test split{together}"
    return Grid(f"{group.key}-{cell.id}-classes", caption, headings, tuple(rows))


def disagreement_grid(group: Group, found: Disagreement) -> Grid:
    """The most disputed examples: text or row, label, and seeds right of each cell.

    Of more than `SIDE` cells, for which no page is wide enough, those that are right with every seed and with none are
    listed by family.
    """
    with_text = any(one.text is not None for one in found.examples)
    cells = [cell for cell in group.cells if any(cell.id in one.right for one in found.examples)]
    places = members(cells)
    if len(cells) > SIDE:
        right = [Heading("Right with every seed", numeric=False), Heading("Right with none", numeric=False)]
    else:
        right = [Heading(units.printable(cell.approach), meaning="seeds that are right") for cell in cells]
    headings = (Heading("Text and label" if with_text else "Row and label", numeric=False), *right)
    rows = []
    for one in found.examples:
        at, label = one.place, units.printable(one.label)
        first = Entry(units.printable(one.text), f"{label}; {at}") if one.text else Entry(at, label, at.split()[1])
        if len(cells) > SIDE:
            every = [places[cell.id] for cell in cells if _share(one.right, cell) == 1]
            none = [places[cell.id] for cell in cells if _share(one.right, cell) == 0]
            entries = [_families(every, cells), _families(none, cells)]
        else:
            entries = _right(one.right, cells)
        rows.append(row([first, *entries]))
    caption = "Test examples on which the approaches differ most, with their label and the seeds that are right"
    return Grid(f"{group.key}-disputed", caption, headings, tuple(rows), dense=len(cells) > 2)


def _right(right: Mapping[str, tuple[int, int]], cells: Sequence[CellSummary]) -> list[Entry]:
    found = []
    for cell in cells:
        if cell.id not in right:
            found.append(missing())
            continue
        hits, seeds = right[cell.id]
        found.append(Entry(f"{hits} of {seeds}", value=hits / seeds, shade=round(10 * hits / seeds)))
    return found


def _share(right: Mapping[str, tuple[int, int]], cell: CellSummary) -> float | None:
    hits, seeds = right.get(cell.id, (0, 0))
    return hits / seeds if seeds else None


def _families(some: Sequence[Member], cells: Sequence[CellSummary]) -> Entry:
    """`lora attention: r=1, r=2; head`, sorted by how many they are, which stands below."""
    families: dict[str, list[str]] = {}
    for one in some:
        families.setdefault(one.family, []).append(one.label)
    names = [name if labels == [name] else f"{name}: {', '.join(labels)}" for name, labels in families.items()]
    text = units.printable("; ".join(names)) or units.MISSING
    return Entry(text, f"{len(some)} of {len(cells)}", f"{len(some)}")


def runs_grid(study: Summary, evidence: Evidence) -> Grid:
    """Every run of the study, trials first, with how it ended, what it scored, and whether its weights are there."""
    metric, several = axes.metric_words(study.select), len(study.groups) > 1
    headings = (
        Heading("Run", numeric=False),
        Heading("Stage", numeric=False),
        Heading("Approach", numeric=False, lead=True),
        *([Heading("Data and model", numeric=False)] if several else []),
        *([Heading("Fold")] if study.folds is not None else []),
        *([Heading("Epochs")] if study.halved else []),
        Heading("Seed"),
        Heading("Learning rate"),
        Heading("Status", numeric=False),
        Heading(f"Validation {metric}", lead=True),
        Heading(f"Test {metric}"),
        Heading("Training time"),
        Heading("Peak memory"),
        Heading("Weights", numeric=False, meaning="whether the run's directory holds the trained weights"),
    )
    failed = {one.run: one for one in study.failed}
    rows = []
    for group in study.groups:
        for cell in group.cells:
            stages: dict[str, str] = {trial.run: "tuning" for trial in cell.tuning.trials}
            stages |= {run.run: run.stage for run in study.failed if run.cell == cell.id}
            for name in (*cell.runs, *cell.failed):
                stages.setdefault(name, "final")
            where = [words(group.title)] if several else []
            for name, stage in stages.items():
                error = failed[name].error if name in failed else None
                status = failed[name].status if name in failed else "completed"
                record = evidence.records.get(name)
                fold = (record.spec.get("data") or {}).get("fold") if record is not None else None
                said = [number(fold, _whole)] if study.folds is not None else []
                said += [number(None if record is None else record.epochs, _whole)] if study.halved else []
                said += _run_entries(record, study.select, status, error)
                rows.append(row([_run_name(name), Entry(stage), words(cell.approach), *where, *said], cell.id))
    caption = "Every run, with how it ended; the name of its directory ends in what stands under Run"
    return Grid("runs", caption, headings, tuple(rows), dense=True)


def _run_name(name: str) -> Entry:
    """The last part of a run's name, which no other run has; the rest says what other columns say."""
    end = name.rpartition("-")[2]
    return Entry(units.printable(end if re.fullmatch("[0-9a-f]{12}", end) else name), whole=units.printable(name))


def _run_entries(record: RunRecord | None, metric: str, status: str, error: str | None) -> list[Entry]:
    """From the seed on."""
    if record is None:
        return [missing(), missing(), _ended(status, error), *(missing() for _ in range(5))]
    spec, cost = record.spec, record.cost
    scores = [(record.quality.get(part) or {}).get(metric) for part in ("validation", "test")]
    peak = cost.get("peak_memory_bytes") or {}
    kept = record.status == "completed" and record.weights
    return [
        number(spec.get("seed"), _whole),
        number((spec.get("training") or {}).get("lr"), units.rate),
        _ended(record.status, error or record.error),
        *(number(value, axes.show_metric(metric)) for value in scores),
        number(cost.get("train_seconds"), units.duration),
        number(peak.get("allocated") or peak.get("resident"), units.memory),
        Entry("kept" if kept else "not kept"),
    ]


def _ended(status: str, error: str | None) -> Entry:
    tag = "" if status == "completed" else "failed"
    return Entry(status.replace("_", " "), units.printable(error or ""), tag=tag)


def _whole(value: float | None) -> str:
    return units.MISSING if value is None else f"{value:.0f}"


def settings_of(study: Summary, cell: CellSummary, evidence: Evidence) -> str:
    """The settings that the cell's runs share, as JSON, or its method's where no record is there.

    They are those of its first finished run without the seed, with the rate of every seed. A final run selects nothing,
    so that the metric by which the study chose stands in place of its own.
    """
    record = next((evidence.records[name] for name in cell.runs if name in evidence.records), None)
    if record is None:
        return json.dumps({"method": cell.method, "lr": _rates(cell)}, indent=1, ensure_ascii=False)
    shared = {key: value for key, value in record.spec.items() if key != "seed"}
    if study.folds is not None:
        shared["data"] = {key: value for key, value in shared["data"].items() if key != "fold"}
    shared["training"] = {**(shared.get("training") or {}), "lr": _rates(cell), "select": study.select}
    return json.dumps(shared, indent=1, ensure_ascii=False)


def _rates(cell: CellSummary) -> float | dict[str, float] | None:
    """The rate that all seeds take, or that of each seed."""
    chosen = cell.tuning.chosen
    if len(chosen) < 2:
        return next(iter(chosen), None)
    return {
        f"seed {seed}" if one.fold is None else f"fold {one.fold}, seed {seed}": one.lr
        for one in cell.tuning.choices
        if one.lr is not None
        for seed in one.seeds
    }
