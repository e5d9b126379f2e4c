"""Studies that are killed or interrupted: every run once, and the same numbers."""

from __future__ import annotations

import multiprocessing
import os
import random
import select
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from carried_out import failing, numbers

import loratory.study.jobs as jobs
from loratory.cli import main
from loratory.engine.epoch import Ready
from loratory.errors import StorageError
from loratory.store.checkpoints import clear_orphans
from loratory.store.directory import claim

pytestmark = pytest.mark.usefixtures("without_page")

KILLED = """
name: killed
data: [{data}]
models: [{model}]
methods:
  - {{name: standard, tune: {{lr: [1e-4, 1e-3]}}}}
  - {{name: lora, rank: 2, tune: {{lr: [1e-3, 5e-3]}}}}
  - {{name: head, tune: {{lr: [1e-3, 5e-3]}}}}
seeds: [0, 1]
train: {{epochs: 1, max_length: 32, batch_size: 32, device: cpu, precision: fp32, threads: 1}}
"""
KILLS = 10


def test_killed_at_ten_random_moments_every_run_is_there_once_with_the_same_numbers(
    study_file: Any, forked: Any, tmp_path: Path, records: Any
) -> None:
    path, directory, draw = study_file(KILLED), tmp_path / "out", random.Random(7)
    command = ["study", "run", str(path), "--output", str(directory)]
    seen: dict[str, Any] = {}
    midway = 0
    for _ in range(KILLS):
        process = forked(lambda: main(command))
        time.sleep(draw.uniform(0.15, 0.6))
        process.send_signal(signal.SIGKILL)
        said = process.communicate()
        midway += process.returncode == -signal.SIGKILL
        if (directory / "runs").is_dir():
            seen = {name: record.cost for name, record in records(directory).items()} | seen
    assert midway >= KILLS // 2  # it was still at work
    assert main(command) == 0, said
    found = records(directory)
    assert len(found) == 3 * (2 * 2 + 2)
    assert {name: found[name].cost for name in seen} == seen  # what was there was not run again
    assert {path.name for path in (directory / "runs").iterdir()} == set(found)  # and nothing is left lying about
    assert main(["study", "run", str(path), "--output", str(tmp_path / "whole")]) == 0
    assert numbers(found) == numbers(records(tmp_path / "whole"))
    plans = [(place / "plan.json").read_text("utf8") for place in (directory, tmp_path / "whole")]
    assert plans[0] == plans[1]


def left(place: Path, name: str) -> Path:
    """A checkpoint as it stands there."""
    (checkpoint := place / "runs" / f".{name}.checkpoint-0000000002").mkdir()
    (checkpoint / "state.json").write_text("{}\n", encoding="utf8")
    return checkpoint


def test_at_its_end_a_study_clears_checkpoints_of_runs_that_completed_or_are_no_longer_planned(
    study_file: Any, ran: Path, records: Any, capsys: Any
) -> None:
    name, other = list(records(ran))[:2]
    for one in (name, "mine-000000000000"):
        left(ran, one)
    (damaged := ran / "runs" / f".{other}.checkpoint-0000000002.damaged-1").mkdir()
    assert main(["study", "run", str(study_file()), "--output", str(ran)]) == 0
    assert [*(ran / "runs").glob(".*.checkpoint-*")] == [damaged]  # set aside for whoever wants to look at it
    assert "2 checkpoints removed, of runs that completed or are no longer planned" in capsys.readouterr().err


def test_a_run_that_is_planned_or_under_way_keeps_its_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    wanted, held, gone = (left(tmp_path, name) for name in ("a.b", "held", "a"))
    with claim(tmp_path / "runs" / "held"):
        assert clear_orphans(tmp_path / "runs", {"a.b"}) == 1
    assert (wanted.exists(), held.exists(), gone.exists()) == (True, True, False)
    assert clear_orphans(tmp_path / "none", set()) == 0


def test_runs_under_way_keep_a_checkpoint_when_another_stops_the_study(
    study_file: Any, forked: Any, tmp_path: Path, records: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork, place, stepped = multiprocessing.get_context("fork"), tmp_path / "out", tmp_path / "stepped"
    command = ["study", "run", str(study_file()), "--output", str(place), "--workers", "2"]
    steps_of = Ready.epoch

    def one_fails(self: Ready, number: int, on_step: Any, **given: Any) -> int:
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing)
        try:
            (tmp_path / "first").touch(exist_ok=False)
        except FileExistsError:  # the second one: in its first step until it is told to end

            def step(progress: Any) -> None:
                on_step(progress)
                stepped.touch()
                select.select([reading], [], [], 60)

            return steps_of(self, number, step, **given)
        deadline = time.monotonic() + 60
        while not stepped.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        raise StorageError("the disk is full")

    def work() -> int:
        multiprocessing.get_context = lambda method=None: fork  # in this fork alone
        Ready.epoch = one_fails  # likewise
        return main(command)

    process = forked(work)
    _, err = process.communicate()
    assert (process.returncode, err.splitlines()[-1]) == (5, "error: the disk is full")
    (kept,) = (place / "runs").glob(".*.checkpoint-*")
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: fork)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    assert main(command) == 0
    found = records(place)[kept.name[1:].rpartition(".checkpoint-")[0]]
    assert found.cost["resumed_at_steps"] == [1]


def test_an_interrupted_run_is_run_again(
    study_file: Any, tmp_path: Path, records: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["study", "run", str(study_file()), "--output", str(tmp_path / "out")]
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "train", failing(KeyboardInterrupt(), lambda spec: spec.seed == 4))
        assert main(command) == 130
    assert "interrupted" in {record.status for record in records(tmp_path / "out").values()}
    assert main(command) == 0
    assert {record.status for record in records(tmp_path / "out").values()} == {"completed"}


@pytest.mark.parametrize("workers", [1, 2])
def test_runs_under_way_keep_a_checkpoint_when_a_study_is_interrupted_and_go_on_from_it(
    workers: int, study_file: Any, forked: Any, ran: Path, tmp_path: Path, records: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork, place, stepped = multiprocessing.get_context("fork"), tmp_path / "out", tmp_path / "stepped"
    command = ["study", "run", str(study_file()), "--output", str(place), "--workers", str(workers)]
    epoch = Ready.epoch

    def waiting(self: Ready, number: int, on_step: Any, **given: Any) -> int:
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing)

        def step(progress: Any) -> None:
            on_step(progress)
            stepped.touch()
            select.select([reading], [], [], 60)

        return epoch(self, number, step, **given)

    def work() -> int:
        multiprocessing.get_context = lambda method=None: fork  # in this fork alone
        Ready.epoch = waiting  # likewise
        return main(command)

    process = forked(work)
    deadline = time.monotonic() + 60
    while not stepped.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 143, err
    kept = [path.name for path in (place / "runs").glob(".*.checkpoint-*")]
    assert 1 <= len(kept) <= workers
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: fork)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    assert main(command) == 0
    found = records(place)
    assert sum(record.cost["resumed_at_steps"] == [1] for record in found.values()) == len(kept)
    assert numbers(found) == numbers(records(ran))
    assert not list((place / "runs").glob(".*"))
