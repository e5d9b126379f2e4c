"""In fp32 and without dropout the engine's losses are those of a plain padded loop of stock parts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import get_linear_schedule_with_warmup

from loratory.data import Labelled, epoch_order
from loratory.engine.fit import fit
from loratory.engine.hardware import Hardware
from loratory.engine.meter import Meter
from loratory.methods import TrainableModel, method_named, method_settings
from loratory.models.families import FAMILIES
from loratory.models.flat import Classifier
from loratory.models.load import Base, load_base
from loratory.spec import HardwareSpec, TrainingSpec

LENGTHS = [5, 9, 2, 7, 12, 3, 8, 6, 4, 11, 10, 7]
LR = 0.01
CUDA = pytest.param(
    "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
)


def prepared(directory: Any, method: str, *, flat_tokens: bool, **own: Any) -> tuple[Base, TrainableModel]:
    base = load_base(str(directory), labels=("a", "b"), seed=0, dropout=0.0, flat_tokens=flat_tokens)
    return base, method_named(method).prepare(base, method_settings({"name": method, **own}), seed=0)


def plain_loop(
    directory: Any,
    method: str,
    data: Labelled,
    epochs: int,
    size: int,
    *,
    lr: float = LR,
    device: str = "cpu",
    **own: Any,
) -> tuple[list[float], dict[str, Tensor]]:
    """Padded batches, transformers' own forward, AdamW and schedule: mean loss of each epoch, and the weights."""
    base, trainable = prepared(directory, method, flat_tokens=False, **own)
    base.model.to(device)
    free = trainable.trainable()
    optimizer = torch.optim.AdamW(
        [
            {"params": [p], "weight_decay": 0.01 if p.ndim > 1 else 0.0, "lr": lr * trainable.rates.get(name, 1.0)}
            for name, p in free.items()
        ],
        lr=lr,
        fused=False,
    )
    steps = epochs * math.ceil(len(data.labels) / size)
    schedule = get_linear_schedule_with_warmup(optimizer, math.ceil(0.06 * steps), steps)
    sequences = [torch.from_numpy(s.astype(np.int64)) for s in np.split(data.tokens.ids, data.tokens.offsets[1:-1])]
    base.model.train()
    losses = []
    for epoch in range(1, epochs + 1):
        total = 0.0
        order = epoch_order(len(data.labels), 0, epoch)
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            ids = torch.nn.utils.rnn.pad_sequence([sequences[row] for row in rows], batch_first=True)
            mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(sequences[row]) for row in rows], batch_first=True)
            labels = torch.from_numpy(data.labels[rows])
            loss = F.cross_entropy(
                base.model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits, labels.to(device)
            )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(free.values(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            total += loss.item() * len(rows)
        losses.append(total / len(order))
    return losses, {name: value.detach().cpu() for name, value in trainable.trainable().items()}


def our_loop(
    directory: Any,
    method: str,
    data: Labelled,
    epochs: int,
    size: int,
    *,
    lr: float = LR,
    device: str = "cpu",
    **own: Any,
) -> tuple[list[dict[str, Any]], TrainableModel]:
    """The engine's history, and the trained model."""
    hardware = Hardware.of(HardwareSpec.model_validate({"device": device, "precision": "fp32"}))
    base, trainable = prepared(directory, method, flat_tokens=True, **own)
    base.model.to(device)
    result = fit(
        Classifier(base.model, base.family, base.pad_id), data, None, TrainingSpec(epochs=epochs, batch_size=size),
        lr=lr, seed=0, hardware=hardware, meter=Meter(hardware), score=lambda logits: {},
        better=lambda new, old: True, rates=trainable.rates,
    )  # fmt: skip
    return result.history, trainable


@pytest.mark.parametrize("method", ["standard", "lora", "hybrid", "head"])
@pytest.mark.parametrize(("epochs", "size"), [(10, 12), (3, 5)], ids=["a step an epoch", "a smaller last batch"])
def test_losses_are_those_of_a_plain_padded_loop(
    method: str, epochs: int, size: int, tiny_bert: Any, labelled: Any
) -> None:
    data = labelled(LENGTHS)
    expected, expected_weights = plain_loop(tiny_bert, method, data, epochs, size)
    history, trainable = our_loop(tiny_bert, method, data, epochs, size)
    assert [row["loss"] for row in history] == pytest.approx(expected, abs=1e-4, rel=1e-4)
    assert min(expected) < expected[0] - 0.05  # it learned, so that the later losses say something
    head = next(name for name, part in trainable.parts.items() if part == "head" and name.endswith("weight"))
    torch.testing.assert_close(trainable.trainable()[head], expected_weights[head], atol=1e-3, rtol=1e-3)
    steps = math.ceil(len(LENGTHS) / size)
    assert [row["step"] for row in history] == [steps * epoch for epoch in range(1, epochs + 1)]
    assert [row["epoch"] for row in history] == list(range(1, epochs + 1))
    assert history[-1]["lr"] == 0


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("method", ["standard", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_ten_steps_of_every_family_give_the_losses_of_a_plain_padded_loop(
    family: str, method: str, device: str, model_directory: Any, labelled: Any
) -> None:
    data, directory = labelled(LENGTHS), model_directory(family)
    lr = 2e-3 if method == "standard" else 2e-2  # AdamW turns the rounding of a tiny gradient into a whole step
    expected, _ = plain_loop(directory, method, data, 10, len(LENGTHS), lr=lr, device=device)
    history, _ = our_loop(directory, method, data, 10, len(LENGTHS), lr=lr, device=device)
    assert [row["loss"] for row in history] == pytest.approx(expected, abs=1e-4)
    assert abs(expected[-1] - expected[0]) > 0.05  # it moved, so that the later losses say something


VARIANTS: dict[str, dict[str, Any]] = {
    "patterns": {"rank_pattern": "layer.0.*query=2", "alpha_pattern": "value=4", "rslora": "on"},
    "dora": {"dora": "on"},
    "pissa": {"init": "pissa"},
    "lora+": {"lora_plus": 8, "lr": 2e-3},
    "biases": {"bias": "all"},
}


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("what", VARIANTS)
def test_variants_of_lora_give_the_losses_of_a_plain_padded_loop(
    what: str, device: str, tiny_bert: Any, labelled: Any
) -> None:
    data = labelled(LENGTHS)
    expected, _ = plain_loop(tiny_bert, "lora", data, 10, len(LENGTHS), device=device, **VARIANTS[what])
    history, _ = our_loop(tiny_bert, "lora", data, 10, len(LENGTHS), device=device, **VARIANTS[what])
    assert [row["loss"] for row in history] == pytest.approx(expected, abs=1e-4)
    assert abs(expected[-1] - expected[0]) > 0.05


HYBRIDS: dict[str, dict[str, Any]] = {
    "all that may be": {"unfrozen_layers": 1, "also_unfrozen": "layernorm,biases,embeddings"},
    "without layers": {"unfrozen_layers": 0, "also_unfrozen": "layernorm"},
    "without LoRA": {"unfrozen_layers": 1, "also_unfrozen": "embeddings", "rank": 0},
}


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("what", HYBRIDS)
def test_hybrids_give_the_losses_of_a_plain_padded_loop(what: str, device: str, tiny_bert: Any, labelled: Any) -> None:
    data, own = labelled(LENGTHS), {"rank": 4, "lr": 3e-3, **HYBRIDS[what]}
    expected, _ = plain_loop(tiny_bert, "hybrid", data, 10, len(LENGTHS), device=device, **own)
    history, _ = our_loop(tiny_bert, "hybrid", data, 10, len(LENGTHS), device=device, **own)
    assert [row["loss"] for row in history] == pytest.approx(expected, abs=1e-4)
    assert abs(expected[-1] - expected[0]) > 0.05
