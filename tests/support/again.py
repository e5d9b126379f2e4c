"""Training made again in one process: do the same bytes come of it?"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import product
from typing import Any

import torch
from torch import Tensor

from loratory.engine.hardware import Hardware
from loratory.engine.meter import Meter
from loratory.engine.predict import predict
from loratory.inputs import Inputs
from loratory.methods import METHODS, refusal
from loratory.models.families import FAMILIES
from loratory.run import optimize
from loratory.setup import prepare
from loratory.spec import RunSpec

KINDS: dict[str, dict[str, Any]] = {
    "standard": {"method": "standard"},
    "lora": {"method": "lora", "rank": 8, "targets": "attention", "dropout": 0.1},
    "hybrid": {"method": "hybrid", "rank": 8, "unfrozen_layers": 1},
}
"""The kinds of fine-tuning, by their flags."""


def supported() -> list[tuple[str, str]]:
    """Every family with every kind that it takes."""
    pairs = product(FAMILIES, KINDS)
    return [(family, kind) for family, kind in pairs if refusal(METHODS[kind], FAMILIES[family]) is None]


def fitted(spec: RunSpec, inputs: Inputs) -> str:
    """Train from the beginning: the SHA-256 of the trained weights and of the logits on validation."""
    setup = prepare(spec, Hardware.of(spec.hardware), inputs)
    optimize(setup, Meter(setup.hardware))
    logits = predict(setup.classifier, setup.tokens["validation"], hardware=setup.hardware)
    return _digest({**setup.trainable.trained_tensors(), "logits": logits})


def fitted_twice(spec: RunSpec) -> tuple[str, str]:
    """:func:`fitted`, two times; other random numbers are drawn before the second."""
    inputs = Inputs()
    first = fitted(spec, inputs)
    torch.manual_seed(spec.seed + 1)
    return first, fitted(spec, inputs)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
