"""What the tests of methods share: bases without weights, prepared models, and the one table of refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from loratory.methods import TrainableModel, method_named, method_settings
from loratory.models.families import family_of
from loratory.models.load import Base
from loratory.run import Run, train

REFUSED = {
    ("hybrid", "albert"): "albert shares one layer's weights",
    ("bitfit", "modernbert"): "has no biases",
    ("bitfit", "llama"): "has no biases",
    ("bitfit", "qwen3"): "has no biases",
    **{
        ("prefix", family): "takes no keys and values from outside"
        for family in ("distilbert", "albert", "modernbert", "mpnet", "deberta", "deberta-v2")
    },
    **{
        ("prompt", family): "finds no end of a padded text that is given as vectors"
        for family in ("gpt2", "llama", "qwen2", "qwen3")
    },
}
"""Why a method is refused on a family, with its default settings."""


@pytest.fixture(scope="session")
def refused() -> Callable[[str, str], str | None]:
    """(method, family) -> what its refusal says; None where it runs."""
    return lambda method, family: REFUSED.get((method, family))


@pytest.fixture(scope="session")
def learnt(spec: Any, model_directory: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Run]:
    """(method, family) -> a run of three epochs, which brought its loss down and loaded back what it saved."""
    made: dict[tuple[str, str], Run] = {}

    def learn(method: str, family: str) -> Run:
        if (method, family) not in made:
            chosen = spec(method, model=str(model_directory(family)), epochs=3)
            run = train(chosen, output=tmp_path_factory.mktemp("learnt") / "run")
            losses = [json.loads(line)["loss"] for line in (run.directory / "history.jsonl").read_text().splitlines()]
            assert losses[-1] < losses[0]
            made[method, family] = run
        return made[method, family]

    return learn


@pytest.fixture(scope="session")
def prepared() -> Callable[..., TrainableModel]:
    """(base, method, **own settings) -> what the method makes of it."""

    def make(base: Base, method: str, **own: Any) -> TrainableModel:
        return method_named(method).prepare(base, method_settings({"name": method, **own}), seed=0)

    return make


@pytest.fixture(scope="session")
def without_weights() -> Callable[[Any], Base]:
    """(configuration) -> a base for counting: on the meta device."""

    def make(config: Any) -> Base:
        with torch.device("meta"):
            return Base(AutoModelForSequenceClassification.from_config(config), None, family_of(config), "", "")

    return make
