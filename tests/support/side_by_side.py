"""Runs trained alone and in a cohort, side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from loratory.data import Labelled
from loratory.engine.cohort import fit_cohort
from loratory.engine.course import Ended
from loratory.engine.fit import FitResult, fit
from loratory.engine.hardware import Hardware
from loratory.engine.member_steps import Member
from loratory.engine.meter import Meter
from loratory.methods import TrainableModel, method_named, method_settings
from loratory.models.flat import Classifier
from loratory.models.load import load_base
from loratory.problems import REGRESSION, SINGLE, Problem
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

UNSEEN = ("key.bias", "k_lin.bias")
"""Softmax does not see them: their gradients are rounding alone."""

Models = list[tuple[Classifier, TrainableModel]]


def prepared(
    directory: Any, settings: dict[str, Any], seed: int, dropout: float = 0.0, problem: Problem = SINGLE
) -> tuple[Classifier, TrainableModel]:
    names = ("price",) if problem == REGRESSION else ("a", "b")
    base = load_base(str(directory), labels=names, problem=problem, seed=seed, dropout=dropout)
    chosen = method_settings({"name": "lora", **settings})
    trainable = method_named(chosen.name).prepare(base, chosen, seed=seed)
    base.model.to(DEVICE)
    return Classifier(base.model, base.family, base.pad_id), trainable


def models(directory: Any, mixed: Any = MIXED, dropout: float = 0.0, problem: Problem = SINGLE) -> Models:
    return [prepared(directory, settings, others["seed"], dropout, problem) for settings, others in mixed]


def spec(others: dict[str, Any], **more: Any) -> TrainingSpec:
    kept = {name: value for name, value in others.items() if name not in ("lr", "seed")}
    return TrainingSpec(**{"epochs": 13, "batch_size": 4, **kept, **more})


def alone(made: Models, data: Labelled, mixed: Any = MIXED, *, validated: bool = False, **more: Any) -> list[FitResult]:
    results = []
    for (classifier, _), (_, others) in zip(made, mixed, strict=True):
        found = fit(
            classifier, data, data if validated else None, spec(others, **more), lr=others["lr"], seed=others["seed"],
            hardware=HARDWARE, meter=Meter(HARDWARE), score=scores(data), better=better,
        )  # fmt: skip
        results.append(found)
    return results


def together(made: Models, data: Labelled, mixed: Any = MIXED, *, validated: bool = False, **more: Any) -> list[Ended]:
    joined = [
        Member(
            classifier,
            spec(others, **more),
            others["lr"],
            others["seed"],
            *((scores(data), better) if validated else ()),
        )
        for (classifier, _), (_, others) in zip(made, mixed, strict=True)
    ]
    return fit_cohort(joined, data, data if validated else None, hardware=HARDWARE, meter=Meter(HARDWARE))[0]


def scores(data: Labelled) -> Callable[[Tensor], dict[str, float]]:
    """Of logits the loss on the data, which falls first and then need not."""
    labels = torch.from_numpy(data.labels)
    return lambda logits: {"loss": float(F.cross_entropy(logits, 1 - labels))}


def better(new: dict[str, float], old: dict[str, float]) -> bool:
    return new["loss"] < old["loss"]


def weights(made: Models) -> list[dict[str, Tensor]]:
    return [{name: p.detach().clone() for name, p in trainable.trainable().items()} for _, trainable in made]


def same(results: list[FitResult], ended: list[Ended], *, apart: float = 1e-4) -> None:
    for result, end in zip(results, ended, strict=True):
        assert (end.error, end.best_epoch) == (None, result.best_epoch)
        assert [row["step"] for row in end.history] == [row["step"] for row in result.history]
        assert [row["lr"] for row in end.history] == pytest.approx([row["lr"] for row in result.history])
        losses = [row["loss"] for row in result.history]
        assert [row["loss"] for row in end.history] == pytest.approx(losses, abs=apart)


def alike(solo: Models, joint: Models, *, apart: float = 2e-3) -> None:
    """AdamW makes of a gradient near 0 a step of the size of the rate, whichever sign rounding gave it."""
    for one, other in zip(weights(solo), weights(joint), strict=True):
        for name, value in one.items():
            assert name.endswith(UNSEEN) or torch.allclose(value, other[name], atol=apart), name
