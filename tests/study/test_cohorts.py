"""Runs of a study that are trained at once leave what they would leave alone, and say so."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForSequenceClassification
from safetensors.torch import load_file

from loratory import cohorts
from loratory.cli import main
from loratory.engine.cohort import fit_cohort
from loratory.engine.member_steps import Member
from loratory.engine.share import Alone
from loratory.errors import StorageError
from loratory.evaluation import predictions
from loratory.inputs import Inputs
from loratory.methods import parse_spec
from loratory.models.source import quiet
from loratory.rerunning import rerun
from loratory.store.directory import read_run
from loratory.store.record import Place
from loratory.study import jobs as jobs_module
from loratory.study.jobs import Asked, Job, known
from loratory.study.tasks import Cohorts, Done, Task, carry_out_task, gathered

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
    place = tmp_path_factory.mktemp("cohorts")
    (place / "study.yaml").write_text(study_text(STUDY), encoding="utf8")
    for cohort in ("off", "5"):
        command = ["study", "run", str(place / "study.yaml"), "--output", str(place / cohort), "--cohort", cohort]
        assert main(command) == 0
    return {"alone": place / "off", "together": place / "5"}


def test_a_study_in_cohorts_comes_out_as_one_by_one(studied: dict[str, Path], records: Any) -> None:
    one, other = records(studied["alone"]), records(studied["together"])
    assert (studied["alone"] / "plan.json").read_text() == (studied["together"] / "plan.json").read_text()
    assert sorted(one) == sorted(other)
    assert {record.cohort is None for record in one.values()} == {True}
    sizes = [len(record.cohort["members"]) for record in other.values()]
    assert (len(sizes), set(sizes)) == (18, {2, 3, 4, 5})
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


def test_training_one_again_says_that_it_trained_at_once_with_others(studied: dict[str, Path], records: Any) -> None:
    record = next(one for one in records(studied["together"]).values() if one.study["stage"] == "final")
    found = rerun(studied["together"] / "runs" / record.id)
    assert ("training at once with others", f"{len(record.cohort['members'])} in a cohort", "alone") in [
        dataclasses.astuple(one) for one in found.differences
    ]


def jobs_of(
    tiny_bert: Path, tiny_csv: Path, place: Path, *, stage: Any = "tuning", method: Any = None, **settings: Any
) -> list[Job]:
    """Four LoRA runs of a study, their rates and ranks apart."""
    jobs, inputs = [], Inputs()
    for number in range(4):
        training = {"epochs": 1, "batch_size": 32, "dropout": 0, "lr": 1e-3 * (number + 1), **settings}
        spec = parse_spec(
            {
                "method": {"name": "lora", "rank": 2 + number, **(method or {})},
                "model": str(tiny_bert),
                "seed": number,
                "data": {"dataset": str(tiny_csv), "max_length": 32},
                "training": training,
                "hardware": {"device": "cpu", "precision": "fp32", "threads": 1},
            }
        )
        ((name, fingerprint, spec),) = known([Asked(spec, Place(stage))], inputs)
        jobs.append(Job(name, fingerprint, spec, Place(stage), place / name, False, Path.cwd()))
    return jobs


def records_of(done: Done) -> list[Any]:
    return [outcome.record for outcome in done.outcomes]


def trained(monkeypatch: pytest.MonkeyPatch, most: int = 100, broken: str = "") -> list[int]:
    """How many members each cohort has, from now on; more than `most` do not fit into memory, or each `broken`."""
    sizes: list[int] = []

    def fitted(members: Sequence[Member], *given: Any, **more: Any) -> Any:
        sizes.append(len(members))
        if broken:
            raise ValueError(broken)
        if len(members) > most:
            raise torch.OutOfMemoryError("no room")
        return fit_cohort(members, *given, **more)

    monkeypatch.setattr(cohorts, "fit_cohort", fitted)
    return sizes


def test_out_of_memory_halves_the_cohort(
    tiny_bert: Path, tiny_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = trained(monkeypatch, most=2)
    done = carry_out_task(Task(tuple(jobs_of(tiny_bert, tiny_csv, tmp_path))), Inputs())
    assert sizes == [4, 2, 2]
    names = [job.id for job in done.task.jobs]
    assert [record.cohort["members"] for record in records_of(done)] == [names[:2]] * 2 + [names[2:]] * 2


def test_no_more_are_trained_at_once_than_the_estimate_lets(
    tiny_bert: Path, tiny_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = trained(monkeypatch)
    monkeypatch.setattr(cohorts.psutil, "virtual_memory", lambda: type("", (), {"available": room})())
    room = 1e12
    jobs = jobs_of(tiny_bert, tiny_csv, tmp_path)
    inputs = Inputs()
    alone = [cohorts.alone_of(job.spec, inputs) for job in jobs]
    room = (alone[0].parts_bytes["weights"] + sum(one.own_bytes for one in alone[:3]) + 1) / cohorts.FILLED
    done = carry_out_task(Task(tuple(jobs)), inputs)
    assert sizes == [3]
    sizes = [len(record.cohort["members"]) for record in records_of(done) if record.cohort is not None]
    assert sizes == [3, 3, 3]


def test_at_least_one_fits() -> None:
    parts = {"weights": 10**14, "gradients": 0, "optimizer": 0, "activations": 10**14, "rest": 0}
    big = Alone(0.0, 1.0, 4, "resident", 10**15, parts)
    assert cohorts.fitting([big, big]) == 1


def test_what_does_not_fit_together_is_trained_alone_and_says_why(
    tiny_bert: Path, tiny_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cohorts, "why_apart", lambda members, hardware: "they quarrel" if len(members) > 1 else None)
    done = carry_out_task(Task(tuple(jobs_of(tiny_bert, tiny_csv, tmp_path))), Inputs())
    assert [(one.status, one.study["apart"], one.cohort) for one in records_of(done)] == [
        ("completed", "they quarrel", None)
    ] * 4


def test_a_defect_in_the_cohorts_way_ends_no_run(
    tiny_bert: Path, tiny_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(monkeypatch, broken="odd")
    done = carry_out_task(Task(tuple(jobs_of(tiny_bert, tiny_csv, tmp_path))), Inputs())
    assert [(one.status, one.study["apart"]) for one in records_of(done)] == [("completed", "ValueError('odd')")] * 4


def test_one_that_diverges_is_a_record_and_the_others_go_on(tiny_bert: Path, tiny_csv: Path, tmp_path: Path) -> None:
    jobs = jobs_of(tiny_bert, tiny_csv, tmp_path)
    worse = jobs_of(tiny_bert, tiny_csv, tmp_path, lr=1e30, warmup=0, max_grad_norm=0)[1]
    done = carry_out_task(Task((jobs[0], worse, *jobs[2:])), Inputs())
    found = records_of(done)
    assert [record.status for record in found] == ["completed", "diverged", "completed", "completed"]
    assert "use a smaller --lr" in str(found[1].error)
    assert len({record.cohort["name"] for record in found}) == 1
    assert read_run(worse.output) == found[1]


def test_runs_that_exist_or_have_a_checkpoint_are_left_to_themselves(
    tiny_bert: Path, tiny_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = jobs_of(tiny_bert, tiny_csv, tmp_path)
    first = carry_out_task(Task((jobs[0],)), Inputs()).outcomes[0].record
    (tmp_path / f".{jobs[1].id}.checkpoint-0000000001").mkdir()
    sizes = trained(monkeypatch)
    done = carry_out_task(Task(tuple(jobs)), Inputs())
    assert sizes == [2]
    assert [one.job.id for one in done.outcomes] == [job.id for job in jobs]
    assert done.outcomes[0].record == first


def test_a_disk_that_is_full_at_the_third_ends_the_study_and_loses_nothing(
    tiny_bert: Path, tiny_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two are committed, none counts as failed, and the next time the others are trained."""
    jobs, commit, calls = jobs_of(tiny_bert, tiny_csv, tmp_path), cohorts.commit, list[Path]()

    def full(stage: Path, output: Path) -> None:
        calls.append(output)
        if len(calls) == 3:
            raise StorageError("no space left")
        commit(stage, output)

    monkeypatch.setattr(cohorts, "commit", full)
    (outcome,) = carry_out_task(Task(tuple(jobs)), Inputs()).outcomes
    assert (outcome.record, str(outcome.stops)) == (None, "no space left")
    assert sorted(path for path in tmp_path.iterdir() if path.name[0] != ".") == sorted(calls[:2])
    assert [read_run(path).status for path in calls[:2]] == ["completed"] * 2
    sizes = trained(monkeypatch)
    assert [one.status for one in records_of(carry_out_task(Task(tuple(jobs)), Inputs()))] == ["completed"] * 4
    assert sizes == [2]


def test_a_signal_ends_it_and_the_next_time_goes_on(
    tiny_bert: Path, tiny_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Task(tuple(jobs_of(tiny_bert, tiny_csv, tmp_path)))

    def told(members: Sequence[Member], *given: Any, on_step: Any, **more: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return fit_cohort(members, *given, on_step=on_step, **more)

    monkeypatch.setattr(cohorts, "fit_cohort", told)
    with pytest.raises(KeyboardInterrupt, match="terminated and those that trained at once begin anew"):
        carry_out_task(task, Inputs())
    assert not [path for path in tmp_path.iterdir() if path.name[0] != "."]
    sizes = trained(monkeypatch)
    assert {record.status for record in records_of(carry_out_task(task, Inputs()))} == {"completed"}
    assert sizes == [4]


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
    assert reasons <= {"its process ended with SIGKILL", None}
    assert "trained alone and in no cohort: its process ended with SIGKILL" in caplog.text


def test_one_that_does_not_fit_is_trained_alone_and_the_others_at_once(
    tiny_bert: Path, tiny_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, jobs = trained(monkeypatch), jobs_of(tiny_bert, tiny_csv, tmp_path)
    odd = jobs_of(tiny_bert, tiny_csv, tmp_path, method={"head_lr": 1e-3})[2]
    done = carry_out_task(Task((*jobs[:2], odd, jobs[3])), Inputs())
    assert sizes == [3]
    found = {one.id: (one.status, one.study["apart"], one.cohort is None) for one in records_of(done)}
    apart = "parts of a model have rates of their own"
    assert found == {one.id: ("completed", None, False) for one in (*jobs[:2], jobs[3])} | {
        odd.id: ("completed", apart, True)
    }


def test_frozen_weights_stand_once_in_memory(tiny_bert: Path, tiny_csv: Path, tmp_path: Path) -> None:
    """Also where adapters stand elsewhere, so that PEFT names the weights below them otherwise."""
    from loratory.engine.hardware import Hardware
    from loratory.setup import prepare

    one, other = (
        jobs_of(tiny_bert, tiny_csv, tmp_path, method={"targets": targets})[0].spec
        for targets in ("attention", "all-linear")
    )
    hardware, inputs = Hardware.of(one.hardware), Inputs()
    first = prepare(one, hardware, inputs)
    second = prepare(other, hardware, inputs, beside=first)
    frozen = [
        {parameter.data_ptr() for parameter in setup.base.model.parameters() if not parameter.requires_grad}
        for setup in (first, second)
    ]
    assert frozen[1] == frozen[0]


def test_those_that_share_a_base_are_gathered(tiny_bert: Path, tiny_csv: Path, tmp_path: Path) -> None:
    jobs = jobs_of(tiny_bert, tiny_csv, tmp_path)
    final = dataclasses.replace(jobs[3], place=Place("final"))
    larger = jobs_of(tiny_bert, tiny_csv, tmp_path, batch_size=16)[0]
    waiting = [jobs[0], larger, jobs[1], final, jobs[2]]
    assert gathered(waiting, Cohorts(16), 1) == [jobs[0], jobs[1], jobs[2]]
    assert gathered(waiting, Cohorts(2), 1) == [jobs[0], jobs[1]]
    assert gathered(waiting, Cohorts(16), 2) == [jobs[0], jobs[1]]
    assert gathered(waiting, Cohorts(), 1) == [jobs[0]]
    assert gathered([final, *waiting], Cohorts(16), 1) == [final]
    assert gathered([final, jobs[0], final], Cohorts(16, finals=True), 1) == [final, final]
    for dropout, count in ((0.0, 2), (0.1, 1), (None, 1)):
        same = [
            dataclasses.replace(
                job,
                spec=job.spec.model_copy(
                    update={
                        "hardware": job.spec.hardware.model_copy(update={"deterministic": True}),
                        "training": job.spec.training.model_copy(update={"dropout": dropout}),
                    }
                ),
            )
            for job in jobs[:2]
        ]
        assert len(gathered(same, Cohorts(16), 1)) == count
    for changed in ({"dora": "on"}, {"init": "pissa"}, {"bias": "all"}, {"lora_plus": 4.0}):
        method = jobs[0].spec.method.model_copy(update=changed)
        other = dataclasses.replace(jobs[0], spec=jobs[0].spec.model_copy(update={"method": method}))
        assert gathered([other, jobs[1]], Cohorts(16), 1) == [other]


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


def test_the_base_must_be_the_same(tiny_bert: Path, tiny_csv: Path, tmp_path: Path, model_directory: Any) -> None:
    one = jobs_of(tiny_bert, tiny_csv, tmp_path)[0]
    other = jobs_of(model_directory("bert", hidden_size=16), tiny_csv, tmp_path)[1]
    wanted = [cohorts.Wanted(job.spec, job.output, job.place, False) for job in (one, other)]
    with pytest.raises(ValueError, match="has other weights than"):
        cohorts.train_together(wanted, Inputs())


def test_alone_is_measured_once_for_runs_that_take_the_same(
    tiny_bert: Path, tiny_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, made = Inputs(), list[Any]()
    estimate = cohorts.estimate
    monkeypatch.setattr(cohorts, "estimate", lambda spec, **given: made.append(spec) or estimate(spec, **given))
    for seed, lr in ((0, 0.1), (1, 0.2)):
        spec = jobs_of(tiny_bert, tiny_csv, tmp_path, lr=lr)[0].spec.model_copy(update={"seed": seed})
        cohorts.alone_of(spec, inputs)
    assert len(made) == 1
    cohorts.alone_of(jobs_of(tiny_bert, tiny_csv, tmp_path)[1].spec, inputs)
    assert len(made) == 2


def test_where_not_even_one_fits_each_is_left_to_say_so(
    tiny_bert: Path, tiny_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimate = cohorts.estimate
    none = {"peak_memory_bytes": None, "memory_parts_bytes": None, "train_seconds": None}
    monkeypatch.setattr(cohorts, "estimate", lambda spec, **given: dataclasses.replace(estimate(spec, **given), **none))
    done = carry_out_task(Task(tuple(jobs_of(tiny_bert, tiny_csv, tmp_path))), Inputs())
    assert [(one.status, one.study["apart"]) for one in records_of(done)] == [
        ("completed", "alone its step does not fit into the device's memory")
    ] * 4
