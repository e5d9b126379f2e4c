"""Members of a cohort end as they would alone, and leave no trace in one another."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from loratory.data import Labelled
from loratory.engine.cohort import Ended, Member, fit_cohort
from loratory.engine.fit import fit
from loratory.engine.hardware import Hardware
from loratory.engine.meter import Meter
from loratory.engine.predict import predict
from loratory.methods import TrainableModel, method_named, method_settings
from loratory.models.flat import Classifier
from loratory.models.load import load_base
from loratory.spec import HardwareSpec, TrainingSpec

DEVICE: Any = "cuda" if torch.cuda.is_available() else "cpu"
HARDWARE = Hardware.of(HardwareSpec(device=DEVICE, precision="fp32"))
LENGTHS = [5, 9, 2, 7, 12, 3, 8, 6, 4, 11, 10, 7, 5, 3]
"""Fourteen texts: the fourth step of an epoch is half full."""

MIXED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"rank": 1}, {"lr": 0.002, "seed": 0}),
    ({"rank": 4, "alpha": 8.0, "rslora": "on"}, {"lr": 0.001, "seed": 1, "weight_decay": 0.1}),
    ({"rank": 8, "targets": "all-linear"}, {"lr": 0.004, "seed": 2, "max_grad_norm": 0.01, "warmup": 0.3}),
    ({"rank": 64, "targets": "key,dense"}, {"lr": 0.001, "seed": 3, "max_grad_norm": 0.0}),
]
"""The method's settings, and what else differs, of four members."""

Models = list[tuple[Classifier, TrainableModel]]


def prepared(directory: Any, settings: dict[str, Any], seed: int) -> tuple[Classifier, TrainableModel]:
    base = load_base(str(directory), labels=("a", "b"), seed=seed, dropout=0.0)
    trainable = method_named("lora").prepare(base, method_settings({"name": "lora", **settings}), seed=seed)
    base.model.to(DEVICE)
    return Classifier(base.model, base.family, base.pad_id), trainable


def models(directory: Any, mixed: Any = MIXED) -> Models:
    return [prepared(directory, settings, others["seed"]) for settings, others in mixed]


def spec(others: dict[str, Any], **more: Any) -> TrainingSpec:
    kept = {name: value for name, value in others.items() if name not in ("lr", "seed")}
    return TrainingSpec(**{"epochs": 13, "batch_size": 4, **kept, **more})


def alone(made: Models, data: Labelled, mixed: Any = MIXED, **more: Any) -> list[list[dict[str, Any]]]:
    histories = []
    for (classifier, _), (_, others) in zip(made, mixed, strict=True):
        found = fit(
            classifier, data, None, spec(others, **more), lr=others["lr"], seed=others["seed"], hardware=HARDWARE,
            meter=Meter(HARDWARE), score=lambda logits: {}, better=lambda new, old: False,
        )  # fmt: skip
        histories.append(found.history)
    return histories


def together(made: Models, data: Labelled, mixed: Any = MIXED, **more: Any) -> list[Ended]:
    members = [
        Member(classifier, spec(others, **more), others["lr"], others["seed"])
        for (classifier, _), (_, others) in zip(made, mixed, strict=True)
    ]
    return fit_cohort(members, data, None, hardware=HARDWARE, meter=Meter(HARDWARE))[0]


def weights(made: Models) -> list[dict[str, Tensor]]:
    return [{name: p.detach().clone() for name, p in trainable.trainable().items()} for _, trainable in made]


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_each_ends_as_it_would_alone(family: str, model_directory: Any, labelled: Any) -> None:
    """52 steps in fp32 without dropout: losses to 1e-4, weights to what AdamW makes of rounding."""
    wide = {} if family == "distilbert" else {"hidden_size": 64, "intermediate_size": 128}
    directory, data = model_directory(family, **wide), labelled(LENGTHS)
    mixed = MIXED[:3] if family == "distilbert" else MIXED
    solo, joint = models(directory, mixed), models(directory, mixed)
    histories = alone(solo, data, mixed)
    ended = together(joint, data, mixed)
    for history, end in zip(histories, ended, strict=True):
        assert [row["loss"] for row in end.history] == pytest.approx([row["loss"] for row in history], abs=1e-4)
        assert [row["lr"] for row in end.history] == pytest.approx([row["lr"] for row in history])
        assert [row["step"] for row in end.history] == [row["step"] for row in history]
    for one, other in zip(weights(solo), weights(joint), strict=True):
        for name, value in one.items():
            assert torch.allclose(value, other[name], atol=2e-3), name
    for (classifier, _), (other, _) in zip(solo, joint, strict=True):
        assert torch.allclose(
            predict(classifier, data, hardware=HARDWARE), predict(other, data, hardware=HARDWARE), atol=1e-3
        )
