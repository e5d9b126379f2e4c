"""Runs that can be trained at once, and what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from loratory import cohorts
from loratory.cli import main
from loratory.engine.cohort import fit_cohort
from loratory.engine.member_steps import Member
from loratory.inputs import Inputs
from loratory.methods import parse_spec
from loratory.store.record import Place
from loratory.study.jobs import Asked, Job, known
from loratory.study.tasks import Done


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


def both_ways(text: str, place: Path, most: int) -> dict[str, Path]:
    """The same study, its runs one after the other, and in cohorts of `most`."""
    (place / "study.yaml").write_text(text, encoding="utf8")
    ways = {"alone": "off", "together": str(most)}
    for name, cohort in ways.items():
        command = ["study", "run", str(place / "study.yaml"), "--output", str(place / name), "--cohort", cohort]
        assert main(command) == 0
    return {name: place / name for name in ways}


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
