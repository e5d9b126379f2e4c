"""Signals, kills and two commands at once, with real processes."""

from __future__ import annotations

import json
import os
import select
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loratory import run
from loratory.cli import main
from loratory.methods import spec_from_flags
from loratory.run import train
from loratory.store.directory import read_run


def stays_in_its_first_step(command: list[str]) -> int:
    """The command, until a signal ends it."""
    fit = run.fit
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)

    def slow(*arguments: Any, on_step: Any, **settings: Any) -> Any:
        def step(progress: Any) -> None:
            print("training", flush=True)
            select.select([reading], [], [], 60)

        return fit(*arguments, **settings, on_step=step)

    run.fit = slow
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    return main(command)


@pytest.fixture
def settings(tiny_bert: Path, tiny_csv: Path) -> dict[str, Any]:
    """The flags of one run, the same in every process."""
    return {
        "method": "head",
        "model": str(tiny_bert),
        "dataset": str(tiny_csv),
        "epochs": 1,
        "max_length": 32,
        "device": "cpu",
        "precision": "fp32",
        "threads": 1,
    }


@pytest.fixture
def command(settings: dict[str, Any], tmp_path: Path) -> list[str]:
    """The same as a command."""
    return ["train", *(f"--{name}={value}" for name, value in settings.items()), f"--output={tmp_path / 'run'}"]


@pytest.fixture
def start(command: list[str], forked: Any) -> Callable[[], Any]:
    """() -> the command in a process of its own, which stays in its first step until the test ends it."""

    def one() -> Any:
        process = forked(lambda: stays_in_its_first_step(command))
        assert process.stdout.readline() == "training\n", process.communicate()[1]
        return process

    return one


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("number", "code", "says"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_an_interrupted_run_says_so_in_its_exit_code_and_record(
    number: int, code: int, says: str, start: Any, tmp_path: Path
) -> None:
    process = start()
    process.send_signal(number)
    _, err = process.communicate()
    kept = "after step 1, of which a checkpoint is kept; the same command goes on"
    assert (process.returncode, err) == (code, f"error: {says} {kept}\n")
    assert names(tmp_path) == [".run.checkpoint-0000000001", "run"]
    assert read_run(tmp_path / "run").status == "interrupted"
    assert names(tmp_path / "run") == ["manifest.json", "run.json"]


def test_two_at_once_and_a_killed_one(
    start: Any, command: list[str], settings: dict[str, Any], tmp_path: Path, capsys: Any, snapshot: Any
) -> None:
    output = tmp_path / "run"

    def interrupt(progress: Any) -> None:
        raise KeyboardInterrupt

    spec = spec_from_flags(settings)
    with pytest.raises(KeyboardInterrupt):
        train(spec, output=output, on_step=interrupt)
    first = read_run(output)
    process = start()
    before = snapshot(tmp_path)
    capsys.readouterr()
    assert main(command) == 5
    line = f"error: another process is training in {output}; wait for it, or choose another --output\n"
    assert capsys.readouterr().err == line
    assert snapshot(tmp_path) == before
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert read_run(output) == first  # the killed one took nothing away
    assert len(names(tmp_path)) == 4  # its lock with its number and its stage are there still
    assert main([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["status"] == "completed"
    assert names(tmp_path) == ["run"]
