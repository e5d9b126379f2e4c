"""Successive halving: poor rates are dropped at equal epochs, what is left trains on, the budget is known."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cohort_jobs import both_ways
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from loratory import units
from loratory.cli import main
from loratory.errors import SettingsError
from loratory.evaluation.metrics import METRICS
from loratory.report.choosing import how_chosen, tuning_said
from loratory.report.drawing import draw
from loratory.report.study_table import study_table
from loratory.store.record import RunRecord
from loratory.study.cells import cells
from loratory.study.document import Summary
from loratory.study.halving import Rung, budget, failure_said, rungs, trials
from loratory.study.jobs import Job
from loratory.study.observations import observe
from loratory.study.plan import Plan
from loratory.study.progress import progress_of, read_status
from loratory.study.reading import parse_study
from loratory.study.results import load_study
from loratory.study.selection import Kept, ranked
from loratory.study.spec import StudySpec
from loratory.study.yaml_file import read_yaml
from loratory.study_view import status_table

RATES = [1e-4 * step for step in range(1, 10)]


def spec_of(tune: str, *others: str, epochs: int = 9) -> StudySpec:
    named = zip(("head", "lora"), (tune, *others), strict=False)
    methods = ", ".join(f"{{name: {name}, tune: {one}}}" for name, one in named)
    text = (
        f"{{name: s, data: [hutto:movies], models: [minilm], methods: [{methods}], seeds: [0, 1], keep: none, "
        f"train: {{epochs: {epochs}}}}}"
    )
    return parse_study(read_yaml(text.encode(), "s.yaml"))


@given(st.integers(1, 200), st.integers(1, 100), st.integers(2, 10))
def test_rungs_begin_with_every_rate_and_end_with_every_epoch(rates: int, epochs: int, factor: int) -> None:
    found = rungs(rates, epochs, factor)
    assert (found[0].rates, found[-1].epochs) == (rates, epochs)
    for before, after in pairwise(found):
        assert before.epochs < after.epochs
        assert 1 <= after.rates <= before.rates / factor
    assert [rung.rates for rung in found] == [rates // factor**i for i in range(len(found))]
    assert budget(found) <= rates * epochs
    assert len(found) > 1 or rates < factor or epochs == 1
    assert rungs(rates, epochs, None) == (Rung(rates, epochs),)


def test_a_choice_of_nine_rates_costs_three_whole_grids_of_one() -> None:
    found = rungs(9, 9, 3)
    assert found == (Rung(9, 1), Rung(3, 3), Rung(1, 9))
    assert (trials(found), budget(found)) == (13, 27)
    assert rungs(9, 3, 3) == (Rung(9, 1), Rung(3, 3))  # a further halving would train no longer


def test_what_goes_on_is_the_best_and_of_equals_the_smaller_rate() -> None:
    scores = [(3.0, 0.5), (1.0, 0.5), (2.0, 0.9), (4.0, None)]
    assert ranked(scores, METRICS["accuracy"]) == [2.0, 1.0, 3.0]
    assert ranked(scores, METRICS["log_loss"]) == [1.0, 3.0, 2.0]


HALVED = "{lr: [1e-4, 2e-4, 3e-4, 4e-4], halving: 2}"


def test_the_budget_of_tuning_is_the_same_for_every_method() -> None:
    assert budget(spec_of(HALVED, epochs=4).cells()[0].rungs) == 12
    assert spec_of(HALVED, HALVED).runs == 2 * 2 * (7 + 1)
    same = spec_of(f"{{lr: {RATES}, halving: 3}}", f"{{lr: {RATES[:6]}}}", epochs=3)
    assert [budget(cell.rungs) for cell in same.cells()] == [18, 18]
    assert [len(cell.rungs) for cell in same.cells()] == [2, 1]
    with pytest.raises(
        SettingsError,
        match=r"tuning lora trains 36 epochs for each choice and tuning head 25 \(runs x epochs\); with halving every",
    ):
        spec_of(HALVED, "{lr: [1e-4, 2e-4, 3e-4, 4e-4]}")


class Fake:
    """Gives runs names and records without training: a rate's score, None where it diverges."""

    def __init__(
        self, spec: StudySpec, directory: Path, scores: Mapping[float, float | None], lasting: int = 99
    ) -> None:
        """
        Args:
            lasting: epochs after which every rate diverges.
        """
        self.spec, self.directory, self.scores, self.lasting = spec, directory, scores, lasting

    def known(self, asked: Any) -> list[Any]:
        found = []
        for one in asked:
            training = one.spec.training
            name = f"{one.spec.method.name}-{one.place.stage}-{training.lr:g}-{training.until}-{one.spec.seed}"
            found.append((name, name, one.spec))
        return found

    def record(self, job: Job) -> RunRecord:
        score = self.scores[job.spec.training.lr or 0.0] if job.spec.training.last_epoch <= self.lasting else None
        return RunRecord(
            id=job.id, fingerprint=job.fingerprint, status="diverged" if score is None else "completed",
            spec=job.spec.model_dump(mode="json"), data={}, parameters={}, cost={"total_seconds": 1.0},
            quality={} if score is None else {"validation": {"accuracy": score}}, environment={},
        )  # fmt: skip

    def plan(self) -> Plan:
        (self.directory / "selections").mkdir(parents=True, exist_ok=True)
        return Plan(self.spec, self.directory, known=self.known)


def ended(fake: Fake, plan: Plan) -> list[tuple[float, int]]:
    """Carry the plan's runs out; the rate and epochs of each tuning run, in order."""
    waiting, seen = plan.missing(), []
    while waiting:
        job, *waiting = waiting
        if job.place.stage == "tuning":
            seen.append((job.spec.training.lr or 0.0, job.spec.training.last_epoch))
        more = plan.finished(job, fake.record(job))
        assert not {one.id for one in more} & {one.id for one in waiting}
        waiting += more
    return seen


def test_the_next_rung_begins_when_the_one_before_has_ended_with_the_best_of_it(tmp_path: Path) -> None:
    spec = spec_of("{lr: [1e-4, 2e-4, 3e-4, 4e-4], halving: 2}", epochs=4)
    fake = Fake(spec, tmp_path, {1e-4: 0.6, 2e-4: 0.9, 3e-4: 0.7, 4e-4: 0.7})
    plan = fake.plan()
    assert (plan.total, plan.tuning) == (2 * 8, 2 * 7)
    progress = progress_of(plan.to_dict(), {})
    assert (progress.runs, progress.cells[0].trials, progress.cells[0].tuning_epochs) == (16, 14, (0, 24))
    assert sorted(ended(fake, plan)) == sorted(
        2 * [*[(lr, 1) for lr in (1e-4, 2e-4, 3e-4, 4e-4)], (2e-4, 2), (3e-4, 2), (2e-4, 4)]
    )
    assert (plan.total, plan.tuning, plan.done) == (16, 14, 16)
    choice = plan.cells[0].choices[0]
    assert [[trial.lr for trial in rung] for rung in choice.rungs] == [[1e-4, 2e-4, 3e-4, 4e-4], [2e-4, 3e-4], [2e-4]]
    assert choice.selection is not None
    document = json.loads((tmp_path / "selections" / f"{choice.selection.digest}.json").read_text("utf8"))
    assert [(one["lr"], one["epochs"]) for one in document["trials"]] == [
        (1e-4, 1), (2e-4, 1), (3e-4, 1), (4e-4, 1), (2e-4, 2), (3e-4, 2), (2e-4, 4)
    ]  # fmt: skip
    progress = progress_of(plan.to_dict(), plan.records)
    assert (progress.seconds_left, progress.cells[0].tuning_epochs) == (0.0, (24, 24))
    assert (progress.cells[0].score, progress.best) == (0.9, progress.cells[0])
    early = {name: record for name, record in plan.records.items() if record.epochs != spec.epochs}
    assert progress_of(plan.to_dict(), early).best is None  # scores after fewer epochs are put beside no others
    assert {job.spec.training.until for job in plan.cells[0].finals} == {None}


def test_what_fails_is_dropped_first_and_a_rung_without_survivors_ends_the_choice(tmp_path: Path) -> None:
    spec = spec_of("{lr: [1e-4, 2e-4, 3e-4, 4e-4], halving: 2}", epochs=4)
    fake = Fake(spec, tmp_path / "one", {1e-4: None, 2e-4: None, 3e-4: 0.1, 4e-4: None})
    plan = fake.plan()
    assert [one for one in ended(fake, plan) if one[1] > 1] == 2 * [(3e-4, 2)] + 2 * [(3e-4, 4)]
    assert (plan.tuning, plan.total) == (2 * 6, 2 * 7)
    fake = Fake(spec, tmp_path / "none", dict.fromkeys((1e-4, 2e-4, 3e-4, 4e-4)))
    plan = fake.plan()
    ended(fake, plan)
    assert all(choice.hopeless for choice in plan.cells[0].choices)
    assert (plan.tuning, plan.total, plan.missing()) == (8, 8, [])


def test_rates_that_all_fail_in_a_later_rung_are_said_with_that_rung_and_the_last_score(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = spec_of("{lr: [1e-4, 2e-4, 3e-4, 4e-4], halving: 2}", epochs=4)
    fake = Fake(spec, tmp_path, {1e-4: 0.6, 2e-4: 0.9, 3e-4: 0.7, 4e-4: 0.7}, lasting=1)
    plan = fake.plan()
    ended(fake, plan)
    assert all(choice.hopeless for choice in plan.cells[0].choices)
    said = "no learning rate completed rung 3 of 3 (validation accuracy after 1 epoch was at best 90.0%)"
    assert f"seed 0: {said}, so none is chosen" in caplog.text
    found, accuracy = spec.cells()[0].rungs, METRICS["accuracy"]
    assert failure_said(found, [(1, 0.9), (1, None), (2, None)], accuracy) == said
    assert failure_said(found, [(1, None)], accuracy, " of head") == "every learning rate of head failed in rung 1 of 3"
    assert failure_said(found[-1:], [(None, None)], accuracy) == "every learning rate failed"
    deeper = failure_said(found, [(1, 0.3), (2, 0.5), (2, 0.4), (4, None)], METRICS["log_loss"])
    assert deeper.endswith("completed rung 3 of 3 (validation log loss after 2 epochs was at best 0.400)")


STUDY = """
name: small
data: [{data}]
models: [{model}]
methods:
  - {{name: head, tune: {{lr: [1e-3, 5e-3, 2e-2, 1e-1], halving: 2}}}}
  - {{name: lora, rank: 2, tune: {{lr: [1e-3, 5e-3, 1e-2, 2e-2], halving: 2}}}}
seeds: [3, 4]
tune_seeds: first
train: {{epochs: 2, max_length: 32, batch_size: 32, dropout: 0, device: cpu, precision: fp32, threads: 1}}
"""


@pytest.fixture(scope="module")
def studied(study_text: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same study, its runs one after the other, and in cohorts of four."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("loratory.finish.write", lambda directory, summary, inputs: [directory / "report.html"])
        return both_ways(study_text(STUDY), tmp_path_factory.mktemp("halving"), 4)


def test_a_study_halves_alone_and_in_cohorts_alike(studied: dict[str, Path], records: Any) -> None:
    one, other = records(studied["alone"]), records(studied["together"])
    assert (studied["alone"] / "plan.json").read_text() == (studied["together"] / "plan.json").read_text()
    assert len(one) == len(other) == 2 * (4 + 2 + 2)
    found = [record for record in one.values() if record.study["stage"] == "tuning"]
    assert sorted(record.epochs for record in found) == [1] * 8 + [2] * 4
    for record in found:
        rows = (studied["alone"] / "runs" / record.id / "history.jsonl").read_text("utf8").splitlines()
        assert len(rows) == record.epochs
        assert record.cost["steps"] == json.loads(rows[-1])["step"]


def test_a_rung_is_the_beginning_of_the_next(studied: dict[str, Path]) -> None:
    for cell in load_study(studied["alone"]).cells:
        for trial in cell.trials:
            longest = max((other for other in cell.trials if other.lr == trial.lr), key=lambda one: one.epochs or 0)
            for row, whole in zip(trial.history, longest.history, strict=False):
                assert row["loss"] == whole["loss"]
                assert row["lr"] == whole["lr"]


def test_the_summary_says_rungs_and_budget_and_mixes_no_epochs(studied: dict[str, Path]) -> None:
    summary = Summary.read(studied["alone"])
    assert (summary.complete, summary.missing) == (True, 0)
    for cell in summary.cells:
        tuning = cell.tuning
        assert (tuning.rungs, tuning.budget) == ((Rung(4, 1), Rung(2, 2)), (6, 8))
        assert tuning.expected_best == ()
        assert [len(tuning.rates), *sorted(rate.epochs or 0 for rate in tuning.rates)] == [4, 1, 1, 2, 2]
        for rate in tuning.rates:
            (trial,) = [one for one in tuning.trials if (one.lr, one.epochs) == (rate.lr, rate.epochs)]
            assert rate.score is not None
            assert rate.score.values == (trial.score,)
        (choice,) = tuning.choices
        assert choice.lr in [rate.lr for rate in tuning.rates if rate.epochs == 2]
        assert choice.at_end == (choice.lr in (tuning.rates[0].lr, tuning.rates[-1].lr))
    status = read_status(studied["alone"]).to_dict()
    assert [cell["rungs"] for cell in status["cells"]] == 2 * [
        ({"epochs": 1, "trials": 4, "trials_done": 4}, {"epochs": 2, "trials": 2, "trials_done": 2})
    ]


def test_a_rate_that_fails_in_a_later_rung_keeps_its_last_score(studied: dict[str, Path]) -> None:
    study = load_study(studied["alone"])
    first, second = study.cells
    (choice,) = first.choices
    broken = tuple(
        dataclasses.replace(one, status="diverged", score=None) if one.epochs == 2 else one for one in choice.trials
    )
    choice = dataclasses.replace(choice, trials=broken, hopeless=True, lr=None, finals=())
    study = dataclasses.replace(study, cells=(dataclasses.replace(first, choices=(choice,)), second))
    cell, other = cells(study)
    went_on = {one.lr for one in broken if one.epochs == 2}
    assert {one.lr: one.failed for one in cell.tuning.rates if one.failed is not None} == dict.fromkeys(went_on, 2)
    for rate in cell.tuning.rates:
        assert rate.score is not None
        assert rate.epochs == 1
        assert rate.score.values == tuple(one.score for one in broken if (one.lr, one.epochs) == (rate.lr, 1))
    assert not any(one.failed for one in other.tuning.rates)
    summary = dataclasses.replace(Summary.read(studied["alone"]), cells=(cell, other))
    named = ", ".join(f"{cell.approach} {units.rate(lr)} (2 epochs)" for lr in sorted(went_on)).replace(", ", " and ")
    assert tuning_said(summary).endswith(f" Failed in a later rung: {named}.")
    said = [one.text for one in observe((cell,), (), (), metric="accuracy", margin=0.01) if one.topic == "incomplete"]
    assert "no learning rate of head completed rung 2 of 2 (validation accuracy after 1 epoch" in said[0]


def test_status_shows_a_rung_a_line_at_80_columns(studied: dict[str, Path]) -> None:
    shown = io.StringIO()
    Console(file=shown, width=80).print(status_table(read_status(studied["alone"])))
    text = shown.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert [text.count(rung) for rung in ("4/4, 1 epoch", "2/2, 2 epochs")] == [2, 2]


@pytest.mark.usefixtures("without_page")
def test_what_was_halved_is_not_run_again(
    studied: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def refuse(*arguments: Any, **settings: Any) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr("loratory.study.jobs.train", refuse)
    command = ["study", "run", str(studied["alone"].parent / "study.yaml"), "--output", str(studied["alone"])]
    assert main(command) == 0
    assert "2 cells: 12 tuning runs and 4 final runs, 16 exist" in capsys.readouterr().out


def test_a_selection_whose_rungs_do_not_follow_is_found(tmp_path: Path) -> None:
    tried = {"a": (1, 1.0, 0.9), "b": (1, 2.0, 0.5), "c": (2, 2.0, 0.8)}
    assert not Kept(tmp_path, 2.0, tried).follows(METRICS["accuracy"])
    assert Kept(tmp_path, 2.0, {**tried, "b": (1, 2.0, 0.95)}).follows(METRICS["accuracy"])
    assert not Kept(tmp_path, 1.0, {**tried, "b": (1, 2.0, 0.95)}).follows(METRICS["accuracy"])


def test_the_page_says_how_rates_were_dropped_and_what_it_cost(studied: dict[str, Path], tmp_path: Path) -> None:
    summary = Summary.read(studied["alone"])
    said = how_chosen(summary)
    assert "4 learning rates were tried with the first seed" in said
    assert (
        "(4 rates for 1 epoch, 2 for 2: 6 runs). Every approach had the same budget, 8 epochs for each choice" in said
    )
    assert "A rate that starts slowly may have been dropped too early." in said
    (group,) = summary.groups
    drawn = draw(summary, group, {})
    assert drawn.expected_best is None
    assert drawn.tuning is not None
    assert drawn.tuning.grid is not None
    names = [line.entries[0].text for line in drawn.tuning.grid.rows]
    assert names == [f"{cell.approach}, {epochs}" for cell in group.cells for epochs in ("1 epoch", "2 epochs")]
    header, *rows = study_table(summary).to_csv().splitlines()
    places = [header.split(",").index(name) for name in ("tuning_runs", "tuning_epochs")]
    assert [row.split(",")[place] for row in rows[:2] for place in places] == ["6", "8", "6", "8"]


@pytest.mark.usefixtures("without_page")
def test_a_method_that_needs_all_its_steps_is_refused_before_anything_runs(
    study_file: Any, tmp_path: Path, capsys: Any
) -> None:
    text = "name: s\ndata: [{data}]\nmodels: [{model}]\nseeds: [3]\ntrain: {{epochs: 2, max_length: 32, device: cpu}}\n"
    text += "methods: [{{name: adalora, tune: {{lr: [1e-3, 5e-3, 1e-2], halving: 3}}}}]\n"
    assert main(["study", "run", str(study_file(text)), "--output", str(tmp_path / "out")]) == 2
    assert "it needs all steps of a run, and halving stops runs early; leave that out" in capsys.readouterr().err
    assert not (tmp_path / "out" / "runs").exists()
