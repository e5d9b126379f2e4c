"""Failures, kills, two at once, several processes: every run once, and the same numbers."""

from __future__ import annotations

import dataclasses
import gc
import json
import logging
import multiprocessing
import os
import shutil
import weakref
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
import torch
from carried_out import at_once, failing, numbers

import loratory.study.jobs as jobs
from loratory.cli import main
from loratory.errors import DivergedError, LoratoryError, StorageError
from loratory.inputs import Inputs
from loratory.study.execute import InProcess
from loratory.study.jobs import Outcome
from loratory.study.launch import launch
from loratory.study.lock import launching
from loratory.study.reading import read_study
from loratory.study.tasks import Done
from loratory.study.workers import Workers, serve

pytestmark = pytest.mark.usefixtures("without_page")


def run_with(place: Path, study: Path, **settings: Any) -> Any:
    spec, text = read_study(study)
    told = settings.pop("told", lambda plan, job: None)
    return launch(spec, text, place, planned=lambda plan, tuning, finals: None, told=told, **settings)


def test_two_processes_give_the_same_numbers_and_lost_ones_are_replaced(
    study_file: Any, tmp_path: Path, records: Any, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork = multiprocessing.get_context("fork")  # with the libraries loaded; the next test's are spawned, as all else
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: fork)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")  # its threads are not in a fork
    started: list[Any] = []
    start = Workers._start
    monkeypatch.setattr(Workers, "_start", lambda self: started.append(start(self)) or started[-1])

    def kill(plan: Any, job: Any) -> None:
        if len(started) == 2:  # after the first run, the one that is at work
            next(worker for worker in started if worker.task is not None).process.kill()
            started.append(None)

    study = study_file(tune_seeds="each")
    run_with(tmp_path / "two", study, workers=2, told=kill)
    run_with(tmp_path / "one", study)
    assert len(started) == 4
    assert "its process ended with SIGKILL; it is run again" in caplog.text
    assert numbers(records(tmp_path / "two")) == numbers(records(tmp_path / "one"))
    assert (at_once(records(tmp_path / "two")), at_once(records(tmp_path / "one"))) == ({2}, {1})
    assert (tmp_path / "two" / "plan.json").read_text() == (tmp_path / "one" / "plan.json").read_text()
    assert not multiprocessing.active_children()


def test_a_process_that_ends_as_it_gets_a_job_is_replaced(
    ran: Path, study_file: Any, tmp_path: Path, records: Any, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []
    start = Workers._start

    def starting(self: Any) -> Any:
        started.append(worker := start(self))
        if len(started) == 1:
            worker.process.kill()
            worker.process.join()
            monkeypatch.setattr(worker.process, "is_alive", lambda: True)  # as it was when it was asked
        return worker

    monkeypatch.setattr(Workers, "_start", starting)
    plan = run_with(tmp_path / "out", study_file(), workers=2)
    assert (plan.done, len(plan.failed)) == (8, 0)
    assert "its process ended with SIGKILL; it is run again" in caplog.text
    assert numbers(records(tmp_path / "out")) == numbers(records(ran))
    assert at_once(records(tmp_path / "out")) == {2}
    assert not [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


def test_what_is_told_twice_or_late_counts_once(
    ran: Path, study_file: Any, tmp_path: Path, records: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = records(ran)

    class Twice(InProcess):
        """Tells each end twice, and once more, as a failure, when the next has been told."""

        def __init__(self, inputs: Inputs) -> None:
            super().__init__(inputs)
            self.ended: list[Done] = []
            self.late: list[Done] = []

        def next(self) -> Done:
            if not self.ended:
                task = self._tasks.popleft()
                (job,) = task.jobs
                shutil.copytree(ran / "runs" / job.id, job.output)
                done, late = Done(task, [Outcome(job, before[job.id])]), self.late
                failed = dataclasses.replace(before[job.id], status="failed")
                self.late = [Done(task, [Outcome(job, failed, StorageError("late"))])]
                self.ended = [done, *late, done]
            told.append(self.ended[0].task.name)
            return self.ended.pop(0)

    told: list[str] = []
    counted: list[str] = []
    monkeypatch.setattr("loratory.study.launch.InProcess", Twice)
    plan = run_with(tmp_path / "out", study_file(), told=lambda plan, job: counted.append(job.id))
    assert len(told) > 2 * len(before)
    assert sorted(counted) == sorted(before)
    assert (plan.records, plan.done, plan.failed) == (before, 8, [])
    assert records(tmp_path / "out") == before
    assert (tmp_path / "out" / "plan.json").read_bytes() == (ran / "plan.json").read_bytes()


def test_each_process_gets_the_gpu_that_the_fewest_have(monkeypatch: pytest.MonkeyPatch) -> None:
    class Process:
        def __init__(self, target: Any, args: Any, daemon: bool) -> None:
            self.pipe = args[0]

        def start(self) -> None:
            seen.append(os.environ["CUDA_VISIBLE_DEVICES"])

    seen: list[str] = []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 3")
    monkeypatch.setattr("multiprocessing.context.SpawnContext.Process", Process)
    workers = Workers(3, Inputs(), cuda=True)
    for _ in range(3):
        workers._start()
    assert seen == ["2", "3", "2"]
    workers._workers.pop(1)
    assert workers._start().gpu == "3"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2, 3"
    for worker in workers._workers:
        worker.pipe.close()


def test_a_process_holds_nothing_of_a_run_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Held:
        """What a traceback holds: a cycle."""

        def __init__(self) -> None:
            self.me = self

    class Pipe:
        def recv(self) -> Any:
            if held:
                raise EOFError

        def send(self, outcome: Any) -> None:
            pass

    def carry_out(task: Any, inputs: Inputs) -> None:
        held.append(weakref.ref(Held()))

    held: list[weakref.ref[Held]] = []
    monkeypatch.setattr("loratory.study.workers.carry_out_task", carry_out)
    monkeypatch.setattr("loratory.study.workers._end_with_parent", lambda: None)
    monkeypatch.setattr("loratory.study.workers.signal.signal", lambda number, handler: None)
    monkeypatch.setattr(logging.Logger, "setLevel", lambda logger, level: None)
    gc.disable()
    try:
        serve(cast(Any, Pipe()))
    finally:
        gc.enable()
    gc.collect()
    assert held[0]() is None


def test_a_run_that_fails_is_a_record_and_the_study_goes_on(
    study_file: Any, tmp_path: Path, records: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["study", "run", str(study_file()), "--output", str(tmp_path / "out")]
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "train", failing(DivergedError("too far"), lambda spec: spec.training.lr == 1e-2))
        assert main(command) == 0
    err = capsys.readouterr().err
    assert "lora r=2 attention (tuning, lr 0.01, seed 3): diverged: too far" in err
    found = records(tmp_path / "out")
    assert sorted(record.status for record in found.values()) == ["completed"] * 7 + ["diverged"]
    (failed,) = (name for name, record in found.items() if record.status == "diverged")
    assert main(command) == 0  # not run again
    assert records(tmp_path / "out") == found
    assert "1 run failed and will not be run again" in capsys.readouterr().out
    assert main([*command, "--retry-failed"]) == 0
    again = records(tmp_path / "out")
    assert again[failed].status == "completed"
    assert {name: record.cost for name, record in again.items() if name in found and name != failed} == {
        name: record.cost for name, record in found.items() if name != failed
    }


def test_a_run_that_does_not_fit_into_memory_is_a_record_that_says_so_and_the_study_goes_on(
    study_file: Any, tmp_path: Path, records: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = torch.OutOfMemoryError("CUDA out of memory.")
    monkeypatch.setattr(jobs, "train", failing(full, lambda spec: spec.training.lr == 1e-2))
    assert main(["study", "run", str(study_file()), "--output", str(tmp_path / "out")]) == 0
    found = records(tmp_path / "out").values()
    assert sorted(record.status for record in found) == ["completed"] * 7 + ["out_of_memory"]
    (error,) = (record.error for record in found if record.error)
    assert "--batch-size" in error or "--method" in error


def test_a_cell_of_which_all_trials_fail_has_no_final_runs(
    study_file: Any, tmp_path: Path, plan: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "train", failing(RuntimeError("odd"), lambda spec: spec.method.name == "lora"))
    command = ["study", "run", str(study_file()), "--output", str(tmp_path / "out"), "--json"]
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert "c2 (lora), seed 3: every learning rate failed, so none is chosen" in err
    (lora,) = plan(tmp_path / "out")["cells"][1]["choices"]
    assert (lora["selection"], lora["finals"]) == (None, [])
    status = json.loads(out)
    assert (status["runs"], status["done"], status["failed"]) == (6, 6, 2)
    monkeypatch.setattr(jobs, "train", failing(RuntimeError("odd"), lambda spec: True))
    assert main([*command[:-2], str(tmp_path / "none")]) == 7
    assert "no final run completed" in capsys.readouterr().err


def test_a_full_disk_ends_the_study_and_leaves_nothing_that_would_not_be_run_again(
    study_file: Any, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["study", "run", str(study_file()), "--output", str(tmp_path / "out")]
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "train", failing(StorageError("full"), lambda spec: spec.seed == 4))
        assert main(command) == 5
    assert capsys.readouterr().err.endswith("error: full\n")
    assert main(command) == 0
    assert "8 runs in" in capsys.readouterr().out


def test_the_second_launcher_names_the_first_and_stops(ran: Path, study_file: Any, capsys: Any) -> None:
    command = ["study", "run", str(study_file()), "--output", str(ran)]
    before = (ran / "plan.json").read_bytes()
    with launching(ran):
        capsys.readouterr()
        assert main(command) == 5
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert f"process {os.getpid()} on " in err
        assert "has been running it since " in err
        assert main(["compare", *[str(path) for path in (ran / "runs").iterdir()]]) == 0
        capsys.readouterr()
        assert main(["study", "status", str(ran)]) == 0
        assert f"process {os.getpid()} on" in " ".join(capsys.readouterr().out.split())
    assert (ran / "plan.json").read_bytes() == before
    assert main(["study", "status", str(ran), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["running"], status["runs"], status["done"]) == (None, 8, 8)
    assert [cell["id"] for cell in status["cells"]] == ["c1", "c2"]
    assert all(cell["finals"] == cell["finals_done"] == 2 for cell in status["cells"])
    assert [set(cell["lr"]) for cell in status["cells"]] == [{"3", "4"}] * 2


def test_a_place_that_is_something_else_is_left_alone(
    study_file: Any, tmp_path: Path, capsys: Any, snapshot: Any
) -> None:
    place = tmp_path / "other"
    place.mkdir()
    (place / "thesis.txt").write_text("mine")
    before = snapshot(place)
    command = ["study", "run", str(study_file()), "--output", str(place)]
    assert main(command) == 5
    assert "is not empty and holds no study" in capsys.readouterr().err
    assert main(["study", "status", str(place)]) == 5
    assert "plan.json is not there; give the directory of a study" in capsys.readouterr().err
    assert main([*command[:-1], str(place / "thesis.txt")]) == 5
    assert snapshot(place) == before


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--executor", "rya"], 2, "--executor 'rya'; did you mean 'ray'?"),
        (["--workers", "0"], 2, "--workers 0: give 1 or more"),
        (["--set", "data=none.csv"], 3, "none.csv"),
        (["--set", "train.text_column=review"], 3, "no column 'review' (train: {text_column: …}); it has "),
        (
            ["--set", "train.text_column=a", "--set", "train.label_column=b"],
            *(3, "no column 'a', 'b' (train: {text_column: …, label_column: …}); it has "),
        ),
        (["--set", "train.text_column=label"], 3, "train: {text_column: …, label_column: …} are both 'label'"),
        (["--set", "models=./none"], 4, "model './none' is not a directory"),
        (["--set", "seeds"], 2, "--set 'seeds': write it as a.b=c"),
        (["--set", "seeds=[]"], 2, "--set seeds: seeds is an empty list"),
    ],
)
def test_a_command_that_cannot_be_meant_is_one_line(
    words: list[str], code: int, says: str, study_file: Any, tmp_path: Path, capsys: Any
) -> None:
    assert main(["study", "run", str(study_file()), "--output", str(tmp_path / "out"), *words]) == code
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1


def test_a_worker_with_other_data_than_the_plans_does_not_run(
    study_file: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry_out = jobs.carry_out

    def elsewhere(job: Any, inputs: Inputs) -> Any:
        return carry_out(dataclasses.replace(job, fingerprint="0" * 64), Inputs())

    monkeypatch.setattr("loratory.study.tasks.carry_out", elsewhere)
    with pytest.raises(jobs.ResourceError, match="are not those of the plan here"):
        run_with(tmp_path / "out", study_file())
    assert not (tmp_path / "out" / "runs").exists()


def test_what_a_worker_does_not_find_is_no_failure_of_its_runs(
    study_file: Any, tiny_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry_out, data = jobs.carry_out, shutil.copyfile(tiny_csv, tmp_path / "data.csv")
    monkeypatch.chdir(tmp_path)  # which is gone to afterwards

    def without_folder(job: Any, inputs: Inputs) -> Any:
        return carry_out(dataclasses.replace(job, folder=tmp_path / "none"), inputs)

    def without_data(job: Any, inputs: Inputs) -> Any:
        data.unlink()
        return carry_out(job, Inputs())

    path = study_file()
    path.write_text(path.read_text("utf8").replace(str(tiny_csv), str(data)), encoding="utf8")
    for elsewhere, says in (
        (without_folder, "none, where the study was started, is not here"),
        (without_data, "data.csv"),
    ):
        monkeypatch.setattr("loratory.study.tasks.carry_out", elsewhere)
        with pytest.raises(LoratoryError, match=says):
            run_with(tmp_path / "out", path)
        assert not (tmp_path / "out" / "runs").exists()


@pytest.mark.usefixtures("without_page")
def test_the_end_names_the_runs_that_kept_their_weights(
    ran: Path, study_file: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", "run", str(study_file()), "--output", str(ran)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("weights of ")]
    named = {Path(line.rpartition(": ")[2]) for line in lines}
    assert len(named) == len(lines) > 0
    assert named == {path.parent for path in (ran / "runs").glob("*/*.safetensors")}
