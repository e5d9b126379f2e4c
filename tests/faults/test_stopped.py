"""A process that was stopped, and lost its place meanwhile, takes nothing from its successor."""

from __future__ import annotations

import dataclasses
import os
import signal
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from disturbed import RECORD, code_of, committed, forked, left, stopped
from faulting import faults, stop

from loratory.store.checkpoints import Checkpoints
from loratory.store.directory import claim, read_run


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_process_that_was_stopped_and_lost_its_lock_commits_nothing_over_its_successor(tmp_path: Path) -> None:
    theirs = dataclasses.replace(RECORD, parameters={"total": 1})
    stops = 0
    for at in count(1):
        output = tmp_path / str(at) / "run"
        pid = forked(partial(stopped, output, theirs, at))
        if os.WIFEXITED(state := os.waitpid(pid, os.WUNTRACED)[1]):
            assert os.WEXITSTATUS(state) == 0
            break
        stops += 1
        (output.parent / ".run.lock").unlink(missing_ok=True)
        committed(output)
        record, inode = read_run(output), output.stat().st_ino
        os.kill(pid, signal.SIGCONT)
        ended = code_of(pid)
        assert (read_run(output), output.stat().st_ino) == (record, inode)
        assert ended in (0, 5)
        committed(output)
        assert left(output.parent) == []
    assert stops > 15


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_process_that_was_stopped_and_lost_its_lock_leaves_its_successor_s_checkpoints(tmp_path: Path) -> None:
    stops = 0
    for at in count(1):
        output = tmp_path / str(at) / "run"
        keeping(output, "before", 2)

        def stopped_there(output: Path = output, at: int = at) -> None:
            with claim(output), faults(at, stop):
                states(output).write(4, *state("theirs"))

        pid = forked(stopped_there)
        if os.WIFEXITED(code := os.waitpid(pid, os.WUNTRACED)[1]):
            assert os.WEXITSTATUS(code) == 0
            break
        stops += 1
        (output.parent / ".run.lock").unlink()
        keeping(output, "ours", 4)
        names = left(output.parent)
        os.kill(pid, signal.SIGCONT)
        assert code_of(pid) in (0, 5)
        assert [name for name in left(output.parent) if "checkpoint" in name] == names
        with claim(output):
            found = states(output).newest()
            assert found is not None
            assert found.facts == {"whose": "ours"}
        assert left(output.parent) == names
    assert stops > 8


def states(output: Path) -> Checkpoints:
    return Checkpoints(output, "f" * 64, "k" * 64)


def state(whose: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    return {"weight": torch.zeros(4)}, {"whose": whose}


def keeping(output: Path, whose: str, step: int) -> None:
    """What a run does with a state, without the training."""
    with claim(output):
        states(output).write(step, *state(whose))
