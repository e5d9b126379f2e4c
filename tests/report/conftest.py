"""A study's directory with numbers that were made up; no model is trained."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from making import AXES, FIVE, HEAD, STANDARD, Maker, Method, front, lora, pair
from rich.console import Console

from loratory.study.document import Summary
from loratory.study.layout import SUMMARY

StudyMaker = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not on PATH; apt-get install chromium")
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="session")
def make_study() -> StudyMaker:
    """(directory, …) -> the document of the summary of a study whose runs are committed below `directory`.

    `levels` are (method, accuracy aimed at); every data set and model has a cell of each.
    """

    def make(
        directory: Path,
        levels: Sequence[tuple[Method, float]] = ((STANDARD, 0.86), (lora(1), 0.83), (lora(8), 0.85), (HEAD, 0.75)),
        *,
        data: Sequence[str] = ("hutto:movies",),
        models: Sequence[str] = ("minilm",),
        seeds: Sequence[int] = FIVE,
        labels: Sequence[Any] = ("negative", "positive"),
        examples: int = 120,
        epochs: int = 2,
        tuned: bool = True,
        device: str = "NVIDIA H100 80GB HBM3",
        **changes: Any,
    ) -> dict[str, Any]:
        maker = Maker(directory, labels=labels, examples=examples, epochs=epochs, device=device)
        cells: list[dict[str, Any]] = []
        pairs: list[dict[str, Any]] = []
        fronts = []
        for place, (name, model) in enumerate((name, model) for name in data for model in models):
            own = []
            for method, level in levels:
                number = len(cells) + len(own) + 1
                level -= 0.03 * place
                own.append(maker.cell(number, name, model, method, level=level, seeds=seeds, tuned=tuned))
            found = [pair(a, b, examples) for i, a in enumerate(own) for b in own[i + 1 :]]
            pairs += [one for one in found if one is not None]
            fronts += [front(own, name, model, axis) for axis in AXES]
            cells += own
        observations = []
        if len(cells) > 1 and seeds:
            share = cells[1]["parameters"]["trainable"] / cells[0]["parameters"]["trainable"]
            observations = [
                {
                    "text": f"{cells[1]['approach']} trains {share:.2%} of the parameters of {cells[0]['approach']}, "
                    "and its accuracy is lower by 1.4 points (0.3 to 2.5).",
                    "cells": [cell["id"] for cell in cells if cell["data"] == data[0]],
                    "figures": {},
                    "verdict": "better",
                },
                {
                    "text": f"{cells[1]['approach']} is not faster by as much as it is smaller: the forward pass and "
                    "most of the backward pass remain, and set-up and evaluation take as long.",
                    "cells": ["c1", "c2"],
                    "figures": {},
                    "verdict": None,
                },
            ]
        baselines = [
            {"data": name, "name": one, "accuracy": accuracy, "f1_macro": f1, "seconds": seconds, "reason": None}
            for name in data
            for one, accuracy, f1, seconds in (
                ("majority class", 0.504, 0.335, 0.0),
                ("VADER", 0.637, 0.635, 0.1),
                ("TF-IDF + logistic regression", 0.781, 0.781, 0.6),
            )
        ]
        return {
            "schema": 2,
            "name": "seed",
            "select": "accuracy",
            "margin": 0.01,
            "seeds": list(seeds),
            "tune_seeds": "first",
            "confidence": 0.95,
            "complete": True,
            "missing": 0,
            "failed": [],
            "cells": cells,
            "pairs": pairs,
            "baselines": baselines,
            "fronts": fronts,
            "observations": observations,
            "environment": maker.environment(),
            "data": [
                {"dataset": name, **{k: v for k, v in maker.data(name).items() if k != "source"}} for name in data
            ],
            **changes,
        }

    return make


@pytest.fixture(scope="session")
def read_back(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Any]], Summary]:
    """(document) -> the summary that is read where `document` is stored."""

    def through_a_file(document: dict[str, Any]) -> Summary:
        place = tmp_path_factory.mktemp("summary")
        (place / SUMMARY).write_text(json.dumps(document), encoding="utf8")
        return Summary.read(place)

    return through_a_file


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def summary(make_study: Any, place: Path) -> dict[str, Any]:
    found: dict[str, Any] = make_study(place)
    return found


@pytest.fixture
def render() -> Callable[..., str]:
    """(renderable, width) -> what a terminal of so many columns shows."""

    def shown(renderable: object, width: int = 80) -> str:
        console = Console(width=width, file=io.StringIO(), force_terminal=False)
        console.print(renderable)
        return console.file.getvalue()

    return shown
