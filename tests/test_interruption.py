"""A signal before the first step: the message says what the same command does."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from loratory.engine import frozen
from loratory.errors import Interrupted
from loratory.run import train


def test_a_signal_before_the_first_step_says_that_the_same_command_starts_anew(
    spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = frozen._stopped

    def told(*given: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return before(*given)

    monkeypatch.setattr(frozen, "_stopped", told)
    monkeypatch.setattr(frozen, "AT_ONCE", 64)
    said = "^terminated before its first step, with nothing to keep; the same command starts anew$"
    with pytest.raises(Interrupted, match=said):
        train(spec("head"), output=tmp_path / "run")
    assert not list(tmp_path.glob(".run.checkpoint-*"))


@pytest.mark.parametrize(("signalled", "word"), [(KeyboardInterrupt(), "interrupted"), (Interrupted(15), "terminated")])
def test_a_signal_while_a_run_is_made_ready_says_what_the_same_command_does(
    signalled: KeyboardInterrupt, word: str, spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*given: Any, **settings: Any) -> None:
        raise signalled

    monkeypatch.setattr("loratory.run.prepare", stopped)
    with pytest.raises(Interrupted, match=f"^{word} before its first step; the same command goes on from a checkpoint"):
        train(spec("head"), output=tmp_path / "run")
