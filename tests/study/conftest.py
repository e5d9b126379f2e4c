"""A study's directory as it is after its runs, written through the store, without training."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loratory.evaluation import predictions
from loratory.evaluation.metrics import score
from loratory.evaluation.predictions import Predictions
from loratory.store.directory import HISTORY, PREDICTIONS, RECORD, commit, read_run, staging
from loratory.store.record import RunRecord
from loratory.study.layout import digest_of

LABELS = ("negative", "positive")
STANDARD = {"name": "standard"}
TOTAL, HEAD = 22_861_826, 148_610


def lora(rank: int) -> dict[str, Any]:
    return {"name": "lora", "rank": rank, "alpha": 2 * rank, "targets": "attention"}


@dataclasses.dataclass
class Cell:
    """One cell to fabricate: `accuracy` of its runs, and what they cost."""

    method: dict[str, Any]
    accuracy: float = 0.85
    seconds: float = 10.0
    memory: int = 2**30
    seed_sd: float = 0.003
    data: str = "hutto:movies"
    model: str = "minilm"
    lrs: Sequence[float] = (1e-3, 2e-3)
    failed: Mapping[int, str] = dataclasses.field(default_factory=dict)
    absent: Sequence[int] = ()
    """Seeds whose runs are not there yet."""
    chosen: Sequence[int | None] = ()
    """For each seed that chooses for itself the place of its rate, None where every trial fails; empty: the first
    seed chooses the last rate for all."""
    like: int | None = None
    """Draw as the cell at this place does: two such cells are identical."""
    limit: int | None = None
    """Training examples at most."""
    at_once: Sequence[int | None] = (None,)
    """`runs_at_once` of its runs: of the first seed, the second, and so on again."""


def _parameters(method: Mapping[str, Any]) -> dict[str, int]:
    adapter = 9216 * method.get("rank", 0)
    unfrozen = TOTAL - HEAD if method["name"] == "standard" else 0
    trainable = HEAD + adapter + unfrozen
    total = TOTAL + adapter
    return {
        "total": total,
        "trainable": trainable,
        "adapter": adapter,
        "head": HEAD,
        "unfrozen": unfrozen,
        "frozen": total - trainable,
    }


def _answers(labels: np.ndarray, accuracy: float, hard: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Logits (N, 2): right where difficulty, shared by all runs, and this run's own noise allow."""
    latent = 0.9 * hard + 0.436 * draw.normal(size=len(labels))  # variance 1
    ease = np.quantile(latent, accuracy)
    right = np.where(latent < ease, 1.0, -1.0) * (0.2 + np.abs(latent - ease))
    logits = np.zeros((len(labels), 2))
    logits[np.arange(len(labels)), labels] = right
    return logits.astype(np.float32)


class Fabricated:
    """Writes a study's directory."""

    def __init__(self, directory: Path, cells: Sequence[Cell], seeds: Sequence[int], sizes: tuple[int, int]) -> None:
        self.directory, self.cells, self.seeds, self.select = directory, cells, tuple(seeds), "accuracy"
        fixed = np.random.default_rng(7)
        self.labels = {
            part: fixed.integers(0, 2, size) for part, size in zip(("validation", "test"), sizes, strict=True)
        }
        self.hard = {part: fixed.normal(size=len(labels)) for part, labels in self.labels.items()}

    def write(self, **plan: Any) -> Path:
        """Runs, selections and plan.json; `plan` replaces keys of the plan."""
        self.select = plan.get("select", "accuracy")
        cells = [self._cell(number, cell) for number, cell in enumerate(self.cells, start=1)]
        document = {
            "schema": 2,
            "name": "fabricated",
            "select": "accuracy",
            "margin": 0.01,
            "seeds": list(self.seeds),
            "tune_seeds": "each" if any(cell.chosen for cell in self.cells) else "first",
            "keep": "none",
            "cells": cells,
        }
        (self.directory / "plan.json").write_text(json.dumps({**document, **plan}), encoding="utf8")
        return self.directory

    def _cell(self, number: int, cell: Cell) -> dict[str, Any]:
        own = [((seed,), place) for seed, place in zip(self.seeds, cell.chosen, strict=bool(cell.chosen))]
        return {
            "id": f"c{number}",
            "data": cell.data,
            "model": cell.model,
            "method": cell.method,
            "limit": cell.limit,
            "tune": list(cell.lrs),
            "choices": [self._choice(number, cell, *one) for one in own or [(self.seeds, len(cell.lrs) - 1)]],
        }

    def _choice(self, number: int, cell: Cell, seeds: tuple[int, ...], chosen: int | None) -> dict[str, Any]:
        status = "completed" if chosen is not None else "diverged"
        trials = [
            self._trial(number, cell, seeds[0], place, abs(place - (chosen or 0)), status)
            for place in range(len(cell.lrs))
        ]
        if chosen is None:
            return {"seeds": list(seeds), "trials": trials, "selection": None, "finals": []}
        lr = cell.lrs[chosen]
        selection = {"schema": 2, "cell": number, "select": self.select, "trials": trials, "chosen": {"lr": lr}}
        text = json.dumps(selection)
        digest = digest_of(text)
        (self.directory / "selections").mkdir(exist_ok=True)
        (self.directory / "selections" / f"{digest}.json").write_text(text, encoding="utf8")
        finals = [
            {
                "seed": seed,
                "run": None if seed in cell.absent else self._run(number, cell, seed, lr, selection=digest),
            }
            for seed in seeds
        ]
        return {"seeds": list(seeds), "trials": trials, "selection": digest, "finals": finals}

    def _trial(self, number: int, cell: Cell, seed: int, place: int, distance: int, status: str) -> dict[str, Any]:
        """One rate, the worse the further it is from the chosen one."""
        lr = cell.lrs[place]
        name = self._run(number, cell, seed, lr, ("validation",), place, status, worse=0.1 * distance)
        quality = read_run(self.directory / "runs" / name).quality
        return {"lr": lr, "run": name, "score": quality["validation"][self.select] if quality else None}

    def _run(
        self,
        number: int,
        cell: Cell,
        seed: int,
        lr: float,
        parts: Sequence[str] = ("validation", "test"),
        trial: int | None = None,
        status: str = "completed",
        *,
        selection: str | None = None,
        worse: float = 0.0,
    ) -> str:
        draw = np.random.default_rng([cell.like or number, seed, 99 if trial is None else 98])
        accuracy = cell.accuracy + cell.seed_sd * draw.normal() - worse
        logits = {part: _answers(self.labels[part], accuracy, self.hard[part], draw) for part in parts}
        status = cell.failed.get(seed, "completed") if trial is None else status
        quality = {part: score(self.labels[part], logits[part], None, LABELS).record() for part in parts}
        name = f"{number}-s{seed}" + ("" if trial is None else f"-t{trial}")
        record = self._record(name, cell, seed, lr, status, quality if status == "completed" else {}, selection)
        with staging(self.directory / "runs" / name) as stage:
            (stage / RECORD).write_text(record.to_json(), encoding="utf8")
            if status == "completed":
                kept = {}
                for part in parts:
                    numbers = np.arange(len(logits[part]))
                    kept[part] = Predictions(self.labels[part], logits[part], numbers, numbers)
                predictions.write(stage / PREDICTIONS, kept)
                (stage / HISTORY).write_text(self._history(record, cell), encoding="utf8")
            commit(stage, self.directory / "runs" / name)
        return name

    def _record(
        self,
        name: str,
        cell: Cell,
        seed: int,
        lr: float,
        status: Any,
        quality: dict[str, Any],
        selection: str | None,
    ) -> RunRecord:
        parts = {"weights": 90e6, "gradients": 1e6, "optimizer": 2e6, "activations": 500e6}
        parts["rest"] = cell.memory - sum(parts.values())
        return RunRecord(
            id=name,
            fingerprint="f" * 64,
            status=status,
            spec={
                "method": cell.method,
                "model": cell.model,
                "seed": seed,
                "data": {"dataset": cell.data, "limit": cell.limit},
                "training": {"lr": lr},
            },
            data={
                "source": cell.data,
                "digest": "d" * 64,
                "labels": list(LABELS),
                "sizes": {"train": cell.limit or 7398, **{part: len(labels) for part, labels in self.labels.items()}},
                "digests": {"train": "a", "validation": "b", "test": "c"},
            },
            parameters=_parameters(cell.method),
            cost={
                "setup_seconds": 4.0,
                "train_seconds": cell.seconds + 0.1 * seed,
                "eval_seconds": 2.0,
                "total_seconds": cell.seconds + 6.0,
                "tokens": 800,
                "padded_tokens": 1000,
                "tokens_per_second": 800 / cell.seconds,
                "peak_memory_bytes": {"allocated": None, "reserved": None, "resident": cell.memory},
                "memory_parts_bytes": parts,
                "checkpoint_bytes": _parameters(cell.method)["trainable"] * 4,
            },
            quality=quality,
            environment={"device": "cpu", "device_type": "cpu", "versions": {"torch": "2.13.0"}},
            error=None if status == "completed" else "on purpose",
            study={
                "stage": "tuning" if selection is None else "final",
                "selection": selection,
                "runs_at_once": cell.at_once[seed % len(cell.at_once)],
            },
        )

    def _history(self, record: RunRecord, cell: Cell) -> str:
        reached = record.quality["validation"]["accuracy"]
        rows = [
            {"epoch": epoch, "train_seconds": cell.seconds * epoch / 2, "validation_accuracy": reached - gap}
            for epoch, gap in ((1, 0.05), (2, 0.0))
        ]
        return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def without_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """A study that ends writes its summary and no page: drawing it takes longer than the small study's runs."""
    monkeypatch.setattr("loratory.finish.write", lambda directory, summary, inputs: [directory / "report.html"])


@pytest.fixture(scope="session")
def fabricated(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Fabricated]:
    """(cells, seeds=0 … 4, sizes of validation and test) -> a study that `write()` puts on disk."""

    def make(
        cells: Sequence[Cell], *, seeds: Sequence[int] = range(5), sizes: tuple[int, int] = (300, 1000)
    ) -> Fabricated:
        return Fabricated(tmp_path_factory.mktemp("study"), cells, seeds, sizes)

    return make


@pytest.fixture(scope="session")
def cell() -> type[Cell]:
    """What :func:`fabricated` makes a cell from."""
    return Cell
