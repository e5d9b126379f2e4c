"""Tasks of several runs: as many at once as fit, the others alone, and nothing lost."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cohort_jobs import jobs_of, records_of, trained

from loratory import cohorts
from loratory.cli import main
from loratory.engine import calibrate
from loratory.engine.cohort import fit_cohort
from loratory.engine.member_steps import Member
from loratory.engine.share import Alone
from loratory.errors import StorageError
from loratory.inputs import Inputs
from loratory.store.directory import read_run
from loratory.store.record import Place
from loratory.study.jobs import Job
from loratory.study.tasks import NO_OTHER, SLOTS, Cohorts, Task, carry_out_task, gathered


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
    monkeypatch.setattr(cohorts, "available_memory", lambda: room)
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
    monkeypatch.setattr(cohorts, "why_unlike", lambda members: "they quarrel" if len(members) > 1 else None)
    done = carry_out_task(Task(tuple(jobs_of(tiny_bert, tiny_csv, tmp_path))), Inputs())
    assert [(one.status, one.study["apart"], one.cohort) for one in records_of(done)] == [
        ("completed", "they quarrel", None)
    ] * 4


def test_a_defect_in_the_cohorts_way_ends_no_run(
    tiny_bert: Path, tiny_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(monkeypatch, broken="odd")
    done = carry_out_task(Task(tuple(jobs_of(tiny_bert, tiny_csv, tmp_path))), Inputs())
    why = "training at once stopped with ValueError: odd; --debug shows where"
    assert [(one.status, one.study["apart"]) for one in records_of(done)] == [("completed", why)] * 4
    ((trace,),) = {outcome.traces for outcome in done.outcomes}
    assert "in fitted\n" in trace
    assert trace.endswith("ValueError: odd\n")


PAIR = """
name: pair
data: [{data}]
models: [{model}]
methods: [{{name: lora, tune: {{lr: [5e-3, 1e30]}}}}]
seeds: [3]
train: {{epochs: 1, max_length: 32, batch_size: 32, device: cpu, precision: fp32, threads: 1,
  warmup: 0, max_grad_norm: 0}}
"""


@pytest.mark.parametrize("debug", [False, True])
def test_people_are_told_of_a_defect_in_the_cohorts_way_once_and_shown_where_if_they_ask(
    debug: bool, study_file: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    trained(monkeypatch, broken="odd")
    monkeypatch.setattr("loratory.finish.write", lambda directory, summary, inputs: [directory / "report.html"])
    command = ["study", "run", str(study_file(PAIR)), "--output", str(tmp_path / "out"), "--cohort", "2"]
    assert main([*command, *["--debug"] * debug]) == 0
    err = capsys.readouterr().err
    told = "trained alone and in no cohort: training at once stopped with ValueError: odd; --debug shows where"
    assert err.count(told) == 1
    assert [err.count("ValueError: odd\n"), err.count("DivergedError: ")] == [int(debug)] * 2
    assert ("Traceback" in err) == debug


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
    with pytest.raises(KeyboardInterrupt, match="terminated in a cohort, whose runs begin anew with the same command"):
        carry_out_task(task, Inputs())
    assert not [path for path in tmp_path.iterdir() if path.name[0] != "."]
    sizes = trained(monkeypatch)
    assert {record.status for record in records_of(carry_out_task(task, Inputs()))} == {"completed"}
    assert sizes == [4]


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
    for dropout, count in ((0.0, 2), (0.1, 1)):  # of attention, which would be drawn for all at once
        same = [
            dataclasses.replace(
                job,
                spec=job.spec.model_copy(
                    update={
                        "hardware": job.spec.hardware.model_copy(update={"deterministic": True}),
                        "training": job.spec.training.model_copy(update={"attention_dropout": dropout}),
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


@pytest.mark.parametrize(
    ("count", "most", "slots", "parts"), [(9, 8, 1, [5, 4]), (17, 16, 1, [9, 8]), (6, 4, 2, [3, 3])]
)
def test_cohorts_are_even(
    count: int, most: int, slots: int, parts: list[int], tiny_bert: Path, tiny_csv: Path, tmp_path: Path
) -> None:
    job = jobs_of(tiny_bert, tiny_csv, tmp_path)[0]
    waiting, found = [job] * count, list[int]()
    while waiting:
        found.append(len(gathered(waiting, Cohorts(most), slots if not found else 1)))
        del waiting[: found[-1]]
    assert found == parts


def test_one_that_is_alone_says_why_where_cohorts_were_asked_for(
    tiny_bert: Path, tiny_csv: Path, tmp_path: Path
) -> None:
    jobs, asked = jobs_of(tiny_bert, tiny_csv, tmp_path), Cohorts(16, finals=True)

    def changed(job: Job, part: str, **settings: Any) -> Job:
        given = getattr(job.spec, part).model_copy(update=settings)
        return dataclasses.replace(job, spec=job.spec.model_copy(update={part: given}))

    for job, why in (
        (jobs[0], NO_OTHER),
        (changed(jobs[0], "method", dora="on"), "lora, as it is set, does not train beside others on one base"),
        (changed(jobs[0], "training", attention_dropout=0.1), "attention's dropout would be drawn for all at once"),
        (changed(jobs[0], "training", quantize="8bit"), "its base is held in fewer bits"),
    ):
        others = [] if job is jobs[0] else jobs[1:]
        ((alone,), (unasked,)) = (gathered([job, *others], which, 1) for which in (asked, Cohorts(16)))
        assert (alone.id, alone.place.apart) == (job.id, why)
        assert unasked == job
        assert gathered([alone, *jobs[1:]], asked, 1) == [alone]
    assert gathered(jobs, asked, len(jobs))[0].place.apart == SLOTS


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
    rung = spec.training.model_copy(update={"until": 1})
    cohorts.alone_of(spec.model_copy(update={"training": rung}), inputs)
    assert len(made) == 1
    cohorts.alone_of(jobs_of(tiny_bert, tiny_csv, tmp_path)[1].spec, inputs)
    assert len(made) == 2


def test_the_steps_that_are_timed_alone_are_the_same_in_every_rung(
    tiny_bert: Path, tiny_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, sampled = list[Any](), calibrate._sampled
    monkeypatch.setattr(
        calibrate, "_sampled", lambda *given, **how: samples.append(sampled(*given, **how)) or samples[-1]
    )
    spec = jobs_of(tiny_bert, tiny_csv, tmp_path)[0].spec
    for until in (1, None):
        training = spec.training.model_copy(update={"epochs": 5, "until": until})
        cohorts.estimate(spec.model_copy(update={"training": training}), seconds=0.0)
    one, whole = (sample.data.take(sample.typical).tokens.ids.tolist() for sample in samples)
    assert one == whole


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
