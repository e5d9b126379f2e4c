"""Runs that are interrupted, and what must be the same when they have gone on."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from loratory.engine.epoch import Progress
from loratory.errors import Interrupted
from loratory.run import Run, train
from loratory.spec import RunSpec
from loratory.store.directory import read_run


def interrupted(spec: RunSpec, output: Path, steps: Sequence[int], number: int = signal.SIGTERM, **given: Any) -> None:
    """Train, and send the signal after each of these steps; begun again each time."""
    for last in steps:

        def stop(progress: Progress, last: int = last) -> None:
            if progress.step == last:
                signal.raise_signal(number)

        with pytest.raises(Interrupted, match=f"after step {last}, of which a checkpoint is kept") as caught:
            train(spec, output=output, on_step=stop, **given)
        assert caught.value.exit_code == 128 + number
        assert read_run(output).status == "interrupted"


def assert_same(found: Run, expected: Run) -> None:
    """Weights, predictions and history to the last bit, and the same work counted."""
    (one,), (other,) = (sorted(run.directory.glob("*model.safetensors")) for run in (found, expected))
    assert one.name == other.name
    assert one.read_bytes() == other.read_bytes()
    files = (run.directory / "predictions.parquet" for run in (found, expected))
    assert len({file.read_bytes() for file in files}) == 1
    assert history(found) == history(expected)
    for name in ("steps", "examples", "tokens", "padded_tokens"):
        assert found.record.cost[name] == expected.record.cost[name], name
    assert found.record.quality == expected.record.quality


def history(run: Run) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run.directory / "history.jsonl").read_text("utf8").splitlines()]
    seconds = [row.pop("train_seconds") for row in rows]
    assert seconds == sorted(seconds)
    return rows


def checkpoints(output: Path) -> list[Path]:
    return sorted(output.parent.glob(f".{output.name}.checkpoint-*"))
