"""Final runs that have their device to themselves: when they begin, where, and what their records promise."""

from __future__ import annotations

import dataclasses
import os
import random
import threading
import time
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import pytest

from loratory.cli import main
from loratory.inputs import Inputs
from loratory.methods.head import HeadSettings
from loratory.spec import RunSpec
from loratory.store.directory import glance
from loratory.store.record import Place, RunRecord, Stage
from loratory.study.execute import Executor, InProcess, execute
from loratory.study.jobs import Job, Outcome
from loratory.study.launch import launch
from loratory.study.lock import launching
from loratory.study.plan import Plan
from loratory.study.progress import progress_of, read_status
from loratory.study.reading import read_study
from loratory.study.tasks import Done, Task
from loratory.study.workers import Workers


def job_of(name: str, stage: Stage) -> Job:
    return Job(name, "f" * 64, RunSpec(method=HeadSettings()), Place(stage), Path(name), False, Path.cwd())


RECORD = cast(RunRecord, types.SimpleNamespace(study=None))


class Cells:
    """As a plan is: cells of some trials each, whose end makes two final runs known."""

    def __init__(self, *trials: int) -> None:
        self.left = dict(enumerate(trials))

    def missing(self) -> list[Job]:
        """All trials; the final runs of a cell without any."""
        trials = [job_of(f"{cell}-t{number}", "tuning") for cell, size in self.left.items() for number in range(size)]
        return [*(job for cell, size in self.left.items() if not size for job in self.finals(cell)), *trials]

    def finals(self, cell: int) -> list[Job]:
        return [job_of(f"{cell}-f{number}", "final") for number in range(2)]

    def finished(self, job: Job, record: RunRecord) -> list[Job]:
        if job.place.stage == "final":
            return []
        cell = int(job.id.partition("-")[0])
        self.left[cell] -= 1
        return [] if self.left[cell] else self.finals(cell)


@dataclass
class Ran:
    job: Job
    gpu: str
    begin: float
    processes: int
    """Those that the GPU had when it began, busy or not."""
    end: float = 0.0


@dataclass
class Threads:
    """Stand in for processes: each job takes the seconds that are given, and is written down."""

    takes: Callable[[Job], float]
    ran: list[Ran] = field(default_factory=list)
    alive: set[Any] = field(default_factory=set)

    def process(self, target: Any, args: tuple[Connection], daemon: bool) -> Any:
        threads = self

        class Process:
            exitcode = -9

            def start(self) -> None:
                self.gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "")
                self.pipe = Connection(os.dup(args[0].fileno()))
                threads.alive.add(self)
                threading.Thread(target=self.serve, daemon=True).start()

            def serve(self) -> None:
                try:
                    while True:
                        task = self.pipe.recv()
                        (job,) = task.jobs
                        here = sum(one.gpu == self.gpu for one in list(threads.alive))
                        threads.ran.append(ran := Ran(job, self.gpu, time.perf_counter(), here))
                        time.sleep(threads.takes(job))
                        ran.end = time.perf_counter()
                        self.pipe.send(Done(task, [Outcome(job, RECORD)]))
                except EOFError:
                    self.pipe.close()

            def is_alive(self) -> bool:
                return self in threads.alive

            def kill(self) -> None:
                threads.alive.discard(self)

            def join(self) -> None:
                pass

        return Process()

    def at_once(self, one: Ran) -> int:
        """The most runs that its device had at once while it ran."""
        beside = [two for two in self.ran if two.gpu == one.gpu and two.begin < one.end and one.begin < two.end]
        return max(sum(two.begin <= three.begin < two.end for two in beside) for three in beside)


@pytest.fixture
def carried_out(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Threads]:
    """(cells, slots, gpus, alone) -> what ran where and when."""

    def run(cells: tuple[int, ...], slots: int, gpus: str, alone: bool) -> Threads:
        draw = random.Random(slots)
        threads = Threads(lambda job: draw.uniform(0.001, 0.01))
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
        monkeypatch.setattr("multiprocessing.context.SpawnContext.Process", threads.process)
        plan = Cells(*cells)
        with Workers(slots, Inputs(), cuda=bool(gpus)) as place:
            execute(cast(Plan, plan), place, told=lambda plan, job: None, alone=alone)
        assert len({ran.job.id for ran in threads.ran}) == len(threads.ran) == sum(cells) + 2 * len(cells)
        assert not threads.alive
        return threads

    return run


@pytest.mark.parametrize(("slots", "gpus", "tuning"), [(3, "", 3), (4, "2,3", 2), (3, "0,1", 2), (2, "0,1,2", 1)])
@pytest.mark.parametrize("cells", [(3, 1, 5, 2), (0, 3, 0), (0, 0, 0, 0)])
def test_final_runs_begin_after_all_tuning_runs_and_have_their_device_to_themselves(
    cells: tuple[int, ...], slots: int, gpus: str, tuning: int, carried_out: Callable[..., Threads]
) -> None:
    found = carried_out(cells, slots, gpus, alone=True)
    trials, finals = ([ran for ran in found.ran if ran.job.place.stage == stage] for stage in ("tuning", "final"))
    assert max((ran.end for ran in trials), default=0.0) <= min(ran.begin for ran in finals)
    assert [(found.at_once(ran), ran.processes) for ran in finals] == [(1, 1)] * len(finals)
    assert {ran.job.place.runs_at_once for ran in finals} == {1}
    assert len({ran.gpu for ran in finals}) == min(slots, len(gpus.split(",")))
    assert {ran.job.place.runs_at_once for ran in trials} <= {tuning}
    assert max((found.at_once(ran) for ran in trials), default=0) <= tuning


@pytest.mark.parametrize(("slots", "gpus", "most"), [(3, "", 3), (4, "2,3", 2), (3, "0,1", 2), (2, "0,1,2", 1)])
def test_else_runs_begin_when_they_are_known_and_no_device_has_more_than_was_promised(
    slots: int, gpus: str, most: int, carried_out: Callable[..., Threads]
) -> None:
    found = carried_out((0, 1, 3, 5), slots, gpus, alone=False)
    stages = [ran.job.place.stage for ran in sorted(found.ran, key=lambda ran: ran.begin)]
    assert "tuning" in stages[stages.index("final") :]
    assert {ran.job.place.runs_at_once for ran in found.ran} == {most}
    assert max(found.at_once(ran) for ran in found.ran) <= most


def test_a_job_finds_a_gpu_that_has_room_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = Threads(lambda job: 0.4 if job.id == "long" else 0.0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr("multiprocessing.context.SpawnContext.Process", threads.process)
    with Workers(3, Inputs(), cuda=True) as place:
        for name in ("first", "second", "long"):
            place.submit(Task((job_of(name, "tuning"),)))
        assert {place.next().task.name, place.next().task.name} == {"first", "second"}
        place.submit(Task((job_of("final", "final"),), at_once=1))
        assert [place.next().task.name, place.next().task.name] == ["final", "long"]
    assert {ran.job.id: ran.gpu for ran in threads.ran} == {"first": "0", "second": "1", "long": "0", "final": "1"}


@pytest.mark.parametrize("alone", [True, False])
def test_in_one_process_final_runs_come_last_in_any_case(alone: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Job] = []

    def carry_out(job: Job, inputs: Inputs) -> Outcome:
        ran.append(job)
        return Outcome(job, RECORD)

    monkeypatch.setattr("loratory.study.tasks.carry_out", carry_out)
    with InProcess(Inputs()) as place:
        execute(cast(Plan, Cells(0, 2)), place, told=lambda plan, job: None, alone=alone)
    assert [job.id for job in ran] == ["1-t0", "1-t1", "0-f0", "0-f1", "1-f0", "1-f1"]
    assert {job.place.runs_at_once for job in ran} == {1}


@pytest.mark.parametrize("alone", [True, False])
def test_final_runs_of_one_process_go_seed_by_seed(alone: bool, study_file: Any, tmp_path: Path) -> None:
    ran: list[Job] = []
    spec, text = read_study(study_file())

    def told(plan: Plan, job: Job) -> None:
        ran.append(job)

    launch(spec, text, tmp_path / "out", alone=alone, planned=lambda plan, tuning, finals: None, told=told)
    assert [job.spec.seed for job in ran if job.place.stage == "final"] == [3, 3, 4, 4]
    assert [job.spec.method.name for job in ran][-4:] == ["head", "lora"] * 2


def test_final_runs_of_before_that_were_not_alone_are_told(
    ran: Path, study_file: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["study", "run", str(study_file()), "--output", str(ran), "--alone"]
    monkeypatch.setattr("loratory.finish.write", lambda directory, summary, inputs: [directory / "report.html"])
    monkeypatch.setattr("loratory.study.jobs.train", None)
    capsys.readouterr()
    assert main(command) == 0
    assert "device" not in capsys.readouterr().err
    monkeypatch.setattr("loratory.study.plan.whole_run", _crowded)
    assert main(command) == 0
    err = capsys.readouterr().err
    assert "4 final runs of before shared a device, or may have; remove their directories" in err
    assert main(command[:-1]) == 0
    assert "device" not in capsys.readouterr().err


def _crowded(run: Path) -> RunRecord | None:
    record = glance(run)
    assert record is None or record.study is not None
    return record and dataclasses.replace(record, study={**(record.study or {}), "runs_at_once": 2})


def test_the_plan_and_the_status_count_with_fewer_final_runs_at_once(
    ran: Path, records: Any, plan: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    document, found = plan(ran), records(ran)
    trial = found[document["cells"][0]["choices"][0]["trials"][0]["run"]]
    progress = progress_of(document, {trial.id: trial})
    each = trial.cost["total_seconds"]
    assert progress.seconds_until(3, 1) == pytest.approx(3 * each / 3 + 4 * each)
    assert progress_of(document, {}).seconds_until(3, 1) is None
    assert progress_of(document, found).seconds_until(3, 1) == 0.0
    with launching(ran) as tell:
        assert (status := read_status(ran)).launcher is not None
        assert (status.launcher.workers, status.launcher.finals) == (1, None)
        tell(3, 1)
        assert (status := read_status(ran)).launcher is not None
        assert (status.launcher.workers, status.launcher.finals) == (3, 1)


def test_where_the_devices_are_not_known_nothing_is_promised() -> None:
    class Somewhere:
        slots, devices = 2, None

        def submit(self, task: Task) -> None:
            ran.append(task)

        def next(self) -> Done:
            ended.append(ran[len(ended)])
            return Done(ended[-1], [Outcome(ended[-1].jobs[0], RECORD)])

    ran, ended = list[Task](), list[Task]()
    execute(cast(Plan, Cells(1)), cast(Executor, Somewhere()), told=lambda plan, job: None)
    assert [(task.at_once, task.jobs[0].place.runs_at_once) for task in ended] == [(None, None)] * 3


def test_ray_refuses_it(study_file: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["study", "run", str(study_file()), "--output", str(tmp_path / "out"), "--alone", "--executor", "ray"]
    assert main(command) == 2
    err = capsys.readouterr().err
    assert "--alone goes with --executor local; a Ray worker has its GPU, or its CPU cores, reserved" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()
