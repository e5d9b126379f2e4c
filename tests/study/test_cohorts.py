"""Runs of a study that are trained at once leave what they would leave alone, and say so."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cohort_jobs import both_ways
from peft import AutoPeftModelForSequenceClassification
from safetensors.torch import load_file

from loratory import cohorts
from loratory.cli import main
from loratory.evaluation import predictions
from loratory.models.source import quiet
from loratory.rerunning import rerun
from loratory.store.directory import read_run
from loratory.study import jobs as jobs_module
from loratory.study.tasks import NO_OTHER, SLOTS, Cohorts

STUDY = """
name: small
data: [{data}]
models: [{model}]
methods:
  - {{name: head, tune: {{lr: [1e-3, 5e-3]}}}}
  - {{name: lora, rank: [2, 4], tune: {{lr: [5e-3, 1e-2]}}}}
seeds: [3, 4]
keep: all
train: {{epochs: 2, max_length: 32, batch_size: 32, dropout: 0, device: cpu, precision: fp32, threads: 1}}
"""


@pytest.fixture(scope="module")
def studied(study_text: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same study, its runs one after the other, and in cohorts of five."""
    return both_ways(study_text(STUDY), tmp_path_factory.mktemp("cohorts"), 5)


def test_a_study_in_cohorts_comes_out_as_one_by_one(studied: dict[str, Path], records: Any) -> None:
    one, other = records(studied["alone"]), records(studied["together"])
    assert (studied["alone"] / "plan.json").read_text() == (studied["together"] / "plan.json").read_text()
    assert sorted(one) == sorted(other)
    assert {record.cohort is None for record in one.values()} == {True}
    sizes = [len(record.cohort["members"]) for record in other.values()]
    assert (len(sizes), set(sizes)) == (18, {2, 4})
    for name, record in other.items():
        assert name in record.cohort["members"]
        assert record.status == "completed"
        assert record.quality["validation"]["accuracy"] == one[name].quality["validation"]["accuracy"]
        assert record.parameters == one[name].parameters
        assert record.cost["steps"] == one[name].cost["steps"]
        assert (record.cost["examples"], record.cost["tokens"]) == tuple(
            one[name].cost[key] for key in ("examples", "tokens")
        )


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT calls it by its old name
def test_final_runs_are_ordinary_ones(studied: dict[str, Path], records: Any) -> None:
    """Predictions, histories and weights are those of the run alone, and stock PEFT opens the adapters."""
    finals = [record for record in records(studied["together"]).values() if record.study["stage"] == "final"]
    assert len(finals) == 6
    for record in finals:
        here, there = (studied[how] / "runs" / record.id for how in ("together", "alone"))
        assert read_run(here) == record
        ours, theirs = (predictions.read(place / "predictions.parquet")["test"].logits for place in (here, there))
        assert np.abs(ours - theirs).max() < 2e-3
        rows = [
            [json.loads(row) for row in (place / "history.jsonl").read_text().splitlines()] for place in (here, there)
        ]
        assert [row.keys() for row in rows[0]] == [row.keys() for row in rows[1]]
        assert [row["loss"] for row in rows[0]] == pytest.approx([row["loss"] for row in rows[1]], abs=1e-4)
        if record.spec["method"]["name"] == "lora":
            with quiet():
                model = AutoPeftModelForSequenceClassification.from_pretrained(here, num_labels=2)
            assert model.active_peft_config.r == record.spec["method"]["rank"]
            tensors = [load_file(place / "adapter_model.safetensors") for place in (here, there)]
            assert tensors[0].keys() == tensors[1].keys()
            assert max(float((tensors[0][name] - one).abs().max()) for name, one in tensors[1].items()) < 2e-3


def test_cost_is_that_of_a_run_alone_and_the_cohorts_stands_beside_it(studied: dict[str, Path], records: Any) -> None:
    for record in records(studied["together"]).values():
        cost, cohort = record.cost, record.cohort
        each = cohort["alone"]["step_seconds"]
        assert cohort["alone"]["timed_steps"] > 0
        bottom = cohort["alone"]["bottom_seconds"]
        assert (bottom > 0) == (record.spec["method"]["name"] == "head")
        assert cost["train_seconds"] == pytest.approx(bottom + each * cost["steps"])
        assert cost["peak_memory_bytes"]["resident"] > 0
        assert [cost[key] for key in ("total_seconds", "eval_seconds", "energy_joules")] == [None] * 3
        assert record.seconds == pytest.approx(sum(cohort["share_seconds"].values()))
        assert 0 < cohort["share_seconds"]["train"] <= record.seconds
    page = (studied["together"] / "report.html").read_text("utf8")
    assert "trained in cohorts" in page
    assert "steps made alone, with random weights" in page
    summary = json.loads((studied["together"] / "summary.json").read_text("utf8"))
    said = [one["text"] for one in summary["observations"] if one["topic"] in ("time", "memory")]
    assert len(said) == 6
    estimated = "estimated from steps made alone with random weights, as its runs trained in cohorts)."
    assert all(text.endswith(estimated) for text in said)
    (one,) = [one for one in summary["observations"] if one["topic"] == "together"]
    made = [record for record in records(studied["together"]).values() if record.cohort is not None]
    shares = sum(record.cohort["share_seconds"]["train"] for record in made)
    assert one["figures"]["runs"] == len(made)
    assert one["figures"]["share_seconds"] == pytest.approx(shares)
    assert one["figures"]["alone_seconds"] == pytest.approx(sum(record.cost["train_seconds"] for record in made))
    assert one["text"].startswith(f"{len(made)} completed runs trained in cohorts")
    assert "an estimated" in one["text"]
    assert "their shares of the cohorts" in page
    alone = json.loads((studied["alone"] / "summary.json").read_text("utf8"))
    assert not [one for one in alone["observations"] if one["topic"] == "together"]


def test_training_one_again_says_that_it_trained_at_once_with_others(studied: dict[str, Path], records: Any) -> None:
    record = next(one for one in records(studied["together"]).values() if one.study["stage"] == "final")
    found = rerun(studied["together"] / "runs" / record.id)
    assert ("training at once with others", f"{len(record.cohort['members'])} in a cohort", "alone") in [
        dataclasses.astuple(one) for one in found.differences
    ]


def test_runs_of_a_cohort_whose_process_was_lost_are_carried_out_alone(
    studied: dict[str, Path], study_text: Any, tmp_path: Path, records: Any, caplog: Any, monkeypatch: Any
) -> None:
    """Each by itself: a run that always takes its process with it is the only one that fails."""
    fork = multiprocessing.get_context("fork")  # with the libraries loaded, and with what is patched here
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: fork)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setattr(cohorts, "fit_cohort", lambda *given, **more: os.kill(os.getpid(), signal.SIGKILL))
    deadly = next(one for one in records(studied["alone"]).values() if one.study["stage"] == "final")
    train = jobs_module.train

    def dies(spec: Any, **given: Any) -> Any:
        if given["output"].name == deadly.id:
            os.kill(os.getpid(), signal.SIGKILL)
        return train(spec, **given)

    monkeypatch.setattr(jobs_module, "train", dies)
    (tmp_path / "study.yaml").write_text(study_text(STUDY), encoding="utf8")
    command = ["study", "run", str(tmp_path / "study.yaml"), "--output", str(tmp_path / "out"), "--workers", "2"]
    assert main([*command, "--cohort", "5"]) == 0
    found = records(tmp_path / "out")
    assert {name for name, one in found.items() if one.status != "completed"} == {deadly.id}
    assert "its process ended with SIGKILL, 3 times" in found[deadly.id].error
    reasons = {one.study["apart"] for one in found.values() if one.status == "completed"}
    assert "its process ended with SIGKILL" in reasons
    assert reasons <= {"its process ended with SIGKILL", NO_OTHER, SLOTS, None}
    assert "trained alone and in no cohort: its process ended with SIGKILL" in caplog.text


def test_auto_lets_tuning_runs_on_cuda() -> None:
    assert Cohorts.read(None, cuda=True, alone=True, tracked=False) == Cohorts(16)
    assert Cohorts.read("auto", cuda=False, alone=False, tracked=False) == Cohorts()
    assert Cohorts.read("auto", cuda=True, alone=False, tracked=True) == Cohorts()
    assert Cohorts.read("auto", cuda=True, kept=True) == Cohorts()
    assert Cohorts.read("off", cuda=True, alone=False, tracked=False) == Cohorts()
    assert Cohorts.read("3", cuda=False, alone=False, tracked=False) == Cohorts(3, finals=True)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--cohort", "1"], "--cohort 1: give off, auto, or how many runs at once, 2 or more"),
        (["--cohort", "many"], "--cohort many: give off, auto, or how many"),
        (["--cohort", "4", "--alone"], "--cohort 4: final runs would share a device"),
        (["--cohort", "4", "--checkpoint-every", "5m"], "--cohort 4: of runs that train at once no states are kept"),
        (["--cohort", "4", "--tracker", "tensorboard"], "--cohort 4: a tracker follows runs that are trained alone"),
    ],
)
def test_what_cannot_be_meant_is_one_line(
    words: list[str], says: str, study_file: Any, tmp_path: Path, capsys: Any
) -> None:
    assert main(["study", "run", str(study_file()), "--output", str(tmp_path / "out"), *words]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()
