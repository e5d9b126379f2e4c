"""Rates of the parts, layer by layer, and gradual unfreezing: what each parameter gets, and what that does."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import get_linear_schedule_with_warmup

from loratory.data import Labelled, collate, epoch_order
from loratory.engine.fit import FitResult, fit
from loratory.engine.hardware import Hardware
from loratory.engine.meter import Meter
from loratory.errors import SettingsError
from loratory.methods import TrainableModel, prepare, spec_from_flags
from loratory.methods.rates import depths
from loratory.models.families import FAMILIES
from loratory.models.flat import Classifier
from loratory.models.load import Base, load_base
from loratory.run import Run, train
from loratory.spec import HardwareSpec

LENGTHS = [5, 9, 2, 7, 12, 3, 8, 6, 4, 11, 10, 7]
LR = 0.01


def prepared(directory: Path, method: str, *, flat_tokens: bool = True, **own: Any) -> tuple[Base, TrainableModel]:
    base = load_base(str(directory), labels=("a", "b"), seed=0, dropout=0.0, flat_tokens=flat_tokens)
    return base, prepare(base, spec_from_flags({"method": method, "lr": LR, **own}))


def fitted(
    directory: Path, method: str, data: Labelled, device: str = "cpu", **own: Any
) -> tuple[FitResult, TrainableModel]:
    hardware = Hardware.of(HardwareSpec.model_validate({"device": device, "precision": "fp32"}))
    spec = spec_from_flags({"method": method, "lr": LR, "batch_size": 4, **own})
    base, trainable = prepared(directory, method, **own)
    base.model.to(device)
    result = fit(
        Classifier(base.model, base.family, base.pad_id), data, None, spec.training, lr=spec.training.lr or LR, seed=0,
        hardware=hardware, meter=Meter(hardware), score=lambda logits: {}, better=lambda new, old: True,
        rates=trainable.rates, starts=trainable.starts,
    )  # fmt: skip
    return result, trainable


def plain_loop(directory: Path, method: str, data: Labelled, epochs: int, **own: Any) -> list[float]:
    """Padded batches, transformers' forward, and AdamW over the same groups: the mean loss of each epoch. A parameter
    comes to the optimizer with its first epoch."""
    base, trainable = prepared(directory, method, flat_tokens=False, epochs=epochs, **own)
    free = trainable.trainable()
    optimizer = torch.optim.AdamW(
        [
            {"params": [p], "weight_decay": 0.01 if p.ndim > 1 else 0.0, "lr": LR * trainable.rates.get(name, 1.0)}
            for name, p in free.items()
        ]
    )
    steps = epochs * math.ceil(len(data.labels) / 4)
    schedule = get_linear_schedule_with_warmup(optimizer, math.ceil(0.06 * steps), steps)
    classifier = Classifier(base.model.train(), base.family, base.pad_id)
    losses = []
    for epoch in range(1, epochs + 1):
        total = 0.0
        order = epoch_order(len(data.labels), 0, epoch)
        for start in range(0, len(order), 4):
            batch = collate(data.tokens, data.labels, order[start : start + 4])
            loss = F.cross_entropy(classifier(batch), batch.labels)
            loss.backward()
            for name, parameter in free.items():
                if trainable.starts.get(name, 1) > epoch:
                    parameter.grad = None
            torch.nn.utils.clip_grad_norm_(free.values(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            total += loss.item() * len(batch)
        losses.append(total / len(order))
    return losses


def weights(trainable: TrainableModel) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().cpu() for name, parameter in trainable.trainable().items()}


def same(one: TrainableModel, other: TrainableModel) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


CUDA = pytest.param(
    "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
)
PACES: dict[str, tuple[str, dict[str, Any]]] = {
    "head": ("lora", {"head_lr": 2e-3}),
    "adapter and LoRA+": ("lora", {"adapter_lr": 2e-3, "lora_plus": 4.0}),
    "three rates": (
        "hybrid",
        {"head_lr": 5e-3, "adapter_lr": 2e-2, "unfrozen_lr": 1e-3, "also_unfrozen": "layernorm,biases,embeddings"},
    ),
    "decay of standard": ("standard", {"layer_decay": 0.5, "unfrozen_lr": 4e-3}),
    "decay of hybrid": ("hybrid", {"layer_decay": 0.5, "also_unfrozen": "layernorm,embeddings"}),
    "gradual standard": ("standard", {"gradual_unfreezing": 1, "unfrozen_lr": 2e-3}),
    "gradual, two at once": ("standard", {"gradual_unfreezing": 2, "layer_decay": 0.9, "unfrozen_lr": 2e-3}),
    "gradual hybrid": ("hybrid", {"gradual_unfreezing": 1, "also_unfrozen": "layernorm", "unfrozen_lr": 2e-3}),
    "gradual biases": ("hybrid", {"gradual_unfreezing": 1, "also_unfrozen": "biases,embeddings", "unfrozen_lr": 2e-3}),
}


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("what", PACES)
def test_losses_are_those_of_a_plain_loop_with_the_same_groups(
    what: str, device: str, tiny_bert: Path, labelled: Any
) -> None:
    data, (method, own) = labelled(LENGTHS), PACES[what]
    expected = plain_loop(tiny_bert, method, data, 5, **own)
    result, _ = fitted(tiny_bert, method, data, device, epochs=5, **own)
    assert [row["loss"] for row in result.history] == pytest.approx(expected, abs=2e-4)
    assert abs(expected[-1] - expected[0]) > 0.05


@pytest.mark.parametrize(
    ("method", "own"),
    [
        ("lora", {"head_lr": LR}),
        ("lora", {"adapter_lr": LR, "lora_plus": 2.0}),
        ("standard", {"layer_decay": 1.0, "unfrozen_lr": LR}),
        ("hybrid", {"head_lr": LR, "adapter_lr": LR, "unfrozen_lr": LR, "layer_decay": 1.0}),
    ],
)
def test_the_rate_of_the_run_and_a_decay_of_1_change_nothing(
    method: str, own: dict[str, Any], tiny_bert: Path, labelled: Any
) -> None:
    data, plain = labelled(LENGTHS), {key: value for key, value in own.items() if key == "lora_plus"}
    one, other = (fitted(tiny_bert, method, data, epochs=2, **given)[1] for given in (own, plain))
    assert same(one, other)
    moved = fitted(tiny_bert, method, data, epochs=2, **plain, head_lr=LR / 2)[1]
    assert not same(moved, other)


@settings(max_examples=25, deadline=None)
@given(
    family=st.sampled_from([name for name in sorted(FAMILIES) if name != "albert"]),
    method=st.sampled_from(["standard", "hybrid"]),
    decay=st.floats(0.1, 1.0),
    head=st.floats(1e-5, 1.0),
    unfrozen=st.floats(1e-5, 1.0),
)
def test_each_parameter_has_the_rate_of_its_part_and_layer(
    model_directory: Any, family: str, method: str, decay: float, head: float, unfrozen: float
) -> None:
    own = {"head_lr": head, "unfrozen_lr": unfrozen, "layer_decay": decay}
    base, trainable = prepared(model_directory(family), method, **own)
    blocks = len(base.family.blocks(base.model))
    depth = depths(base.model, base.family, trainable.parts)
    assert set(depth.values()) <= set(range(1, blocks + 2))
    for name, part in trainable.parts.items():
        rate = {"head": head, "adapter": LR, "unfrozen": unfrozen * decay ** depth[name]}[part]
        assert LR * trainable.rates.get(name, 1.0) == pytest.approx(rate)
    assert 1.0 not in trainable.rates.values()


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "albert"])
def test_depth_counts_from_the_top(family: str, model_directory: Any) -> None:
    base, trainable = prepared(model_directory(family), "standard")
    layers = base.family.blocks(base.model)
    path = f"{base.model.base_model_prefix}.{base.family.layers}."
    for name, depth in depths(base.model, base.family, trainable.parts).items():
        if name.startswith(path):
            assert depth == len(layers) - int(name.removeprefix(path).split(".")[0])
        elif "embed" in name or "wte" in name or "wpe" in name or "relative_attention_bias" in name:
            assert depth == len(layers) + 1
        elif trainable.parts[name] == "unfrozen" and family in ("gpt2", "llama", "qwen2", "qwen3", "modernbert"):
            assert depth == 1


@settings(max_examples=25, deadline=None)
@given(family=st.sampled_from(["bert", "modernbert", "gpt2"]), each=st.integers(1, 5), epochs=st.integers(1, 6))
def test_all_are_free_by_the_last_epoch_and_the_top_before_the_bottom(
    model_directory: Any, family: str, each: int, epochs: int
) -> None:
    base = load_base(str(model_directory(family)), labels=("a", "b"), seed=0)
    units = len(base.family.blocks(base.model)) + 1
    if 1 + math.ceil(units / each) > epochs:
        with pytest.raises(SettingsError, match="--gradual-unfreezing"):
            prepared(model_directory(family), "standard", gradual_unfreezing=each, epochs=epochs)
        return
    base, trainable = prepared(model_directory(family), "standard", gradual_unfreezing=each, epochs=epochs)
    depth = depths(base.model, base.family, trainable.parts)
    for name, part in trainable.parts.items():
        assert trainable.starts.get(name, 1) == (1 if part == "head" else 1 + math.ceil(depth[name] / each))


def test_a_weight_that_is_still_frozen_is_not_moved_and_begins_afresh(tiny_bert: Path, labelled: Any) -> None:
    data, own = labelled(LENGTHS), {"gradual_unfreezing": 1, "epochs": 4, "weight_decay": 0.5}
    before = weights(prepared(tiny_bert, "standard", **own)[1])
    seen: dict[int, set[str]] = {}
    base, trainable = prepared(tiny_bert, "standard", **own)
    hardware = Hardware.of(HardwareSpec(device="cpu", precision="fp32"))

    def on_step(progress: Any) -> None:
        moved = {name for name, value in weights(trainable).items() if not torch.equal(value, before[name])}
        seen.setdefault(progress.epoch, set()).update(moved)

    spec = spec_from_flags({"method": "standard", "batch_size": 4, "warmup": 0, **own}).training
    result = fit(
        Classifier(base.model, base.family, base.pad_id), data, None, spec, lr=LR, seed=0, hardware=hardware,
        meter=Meter(hardware), score=lambda logits: {}, better=lambda new, old: True, starts=trainable.starts,
        on_step=on_step,
    )  # fmt: skip
    for epoch, moved in seen.items():
        # a table of types has one row in use; biases of keys have no gradient but rounding's: softmax takes them out
        allowed = {name for name in trainable.parts if trainable.starts.get(name, 1) <= epoch}
        assert moved <= allowed
        assert {name for name in allowed if name.endswith("weight")} <= moved
    sizes = {name: p.numel() for name, p in trainable.trainable().items()}
    assert result.engine["trained_by_epoch"] == [
        sum(size for name, size in sizes.items() if trainable.starts.get(name, 1) <= epoch) for epoch in range(1, 5)
    ]
    assert result.engine["trained_by_epoch"][-1] == trainable.counts()["trainable"]
    assert all(parameter.requires_grad for parameter in trainable.trainable().values())


GRADUAL = {"gradual_unfreezing": 1, "epochs": 5, "dropout": 0.0}


@pytest.fixture(scope="module")
def gradual(spec: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that unfreezes a layer each epoch."""
    return train(spec("standard", **GRADUAL), output=tmp_path_factory.mktemp("gradual") / "run")


@pytest.mark.parametrize(
    "own", [{"accumulate": 2}, {"activation_checkpointing": "on"}, {"keep": "best", "patience": 2}], ids=str
)
def test_gradual_unfreezing_goes_with_other_settings(
    own: dict[str, Any], gradual: Run, spec: Any, tmp_path: Path
) -> None:
    one = train(spec("standard", **GRADUAL, **own), output=tmp_path / "one")
    first, second = (
        [json.loads(line) for line in (run.directory / "history.jsonl").read_text("utf8").splitlines()]
        for run in (one, gradual)
    )
    for row, expected in zip(first, second, strict="patience" not in own):
        assert row["loss"] == pytest.approx(expected["loss"], abs=1e-3)


def test_a_run_records_its_rates_and_says_how_it_was_made(spec: Any, tmp_path: Path) -> None:
    own = {"head_lr": 0.002, "unfrozen_lr": 0.001, "layer_decay": 0.9, "gradual_unfreezing": 2, "epochs": 3}
    run = train(spec("standard", **own), output=tmp_path / "run")
    assert {key: run.record.spec["method"].get(key, own[key]) for key in own} == own
    counts = run.record.environment["engine"]["trained_by_epoch"]
    assert counts[0] == run.record.parameters["head"]
    assert counts[-1] == run.record.parameters["trainable"]
    assert run.record.environment["engine"]["why_eager"] == "not on CUDA"
    rows = [json.loads(line) for line in (run.directory / "history.jsonl").read_text("utf8").splitlines()]
    assert rows[-1]["lr"] == 0


@pytest.mark.parametrize(
    ("family", "method", "own", "message"),
    [
        ("bert", "standard", {"adapter_lr": 1e-3}, "--adapter-lr 0.001: no adapter is trained; leave it out"),
        ("bert", "lora", {"unfrozen_lr": 1e-3}, "--unfrozen-lr 0.001: no pretrained weight is unfrozen; leave it out"),
        ("bert", "head", {"head_lr": 0}, "--head-lr 0: input should be greater than 0"),
        ("bert", "lora", {"layer_decay": 0.9}, "it belongs to standard, hybrid"),
        ("bert", "bitfit", {"gradual_unfreezing": 1}, "it belongs to standard, hybrid"),
        ("bert", "standard", {"layer_decay": 1.1}, "--layer-decay 1.1: input should be less than or equal to 1"),
        ("bert", "hybrid", {"layer_decay": 0.9, "unfrozen_layers": 0}, "--layer-decay: no layer is unfrozen"),
        ("albert", "standard", {"layer_decay": 0.9}, "--layer-decay: albert shares one layer's weights"),
        ("albert", "standard", {"gradual_unfreezing": 1}, "--gradual-unfreezing: albert shares one layer's weights"),
        (
            "bert",
            "standard",
            {"gradual_unfreezing": 1},
            "3 layers, embeddings counted as one, is free in epoch 4, and --epochs is 3; give at least 2, or more",
        ),
        ("bert", "standard", {"gradual_unfreezing": 9, "epochs": 1}, "and --epochs is 1; give more epochs"),
    ],
)
def test_what_means_nothing_is_refused_in_one_line(
    family: str, method: str, own: dict[str, Any], message: str, model_directory: Any
) -> None:
    with pytest.raises(SettingsError) as caught:
        prepared(model_directory(family), method, **own)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_kind_of_peft_has_rates_too(tiny_bert: Path) -> None:
    _, trainable = prepared(tiny_bert, "peft:vera", adapter_lr=LR * 3, head_lr=LR / 2, r="4")
    parts = {
        part: {trainable.rates[n] for n, p in trainable.parts.items() if p == part} for part in ("adapter", "head")
    }
    assert parts == {"adapter": {LR * 3 / LR}, "head": {LR / 2 / LR}}
