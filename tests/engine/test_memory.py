"""Checkpointed layers train the same weights and keep less; the parts of memory are what they say."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from loratory.engine.fit import FitResult, fit
from loratory.engine.hardware import Hardware
from loratory.engine.memory import Storages, checkpointed, kept_for_backward
from loratory.engine.meter import Meter
from loratory.methods import TrainableModel, method_named, method_settings
from loratory.models.families import FAMILIES
from loratory.models.flat import Classifier
from loratory.models.load import load_base
from loratory.spec import HardwareSpec, TrainingSpec

LENGTHS = [5, 9, 2, 7, 12, 3, 8, 6, 4, 11, 10, 7]


def trained(
    directory: Any, data: Any, *, checkpointing: str = "off", method: str = "lora", precision: str = "fp32", **own: Any
) -> tuple[TrainableModel, FitResult, dict[str, Any]]:
    """One epoch with every dropout there is; the trained model, what fit says, and the cost."""
    given = {"device": "cpu", "precision": precision, "activation_checkpointing": checkpointing}
    hardware = Hardware.of(HardwareSpec.model_validate(given))
    base = load_base(str(directory), labels=("a", "b"), seed=0, dropout=0.2, attention_dropout=0.1)
    trainable = method_named(method).prepare(base, method_settings({"name": method, **own}), seed=0)
    meter = Meter(hardware)
    result = fit(
        Classifier(base.model, base.family, base.pad_id), data, None,
        TrainingSpec(epochs=1, batch_size=4, attention_dropout=0.1), lr=0.01, seed=0, hardware=hardware, meter=meter,
        score=lambda logits: {}, better=lambda new, old: True,
    )  # fmt: skip
    return trainable, result, meter.record()


@pytest.mark.parametrize(
    ("family", "precision"),  # autocast is torch's own to bring back, whatever the layer
    [*((name, "fp32") for name in FAMILIES), *((name, "bf16") for name in ("bert", "modernbert", "gpt2", "qwen3"))],
)
def test_checkpointed_layers_train_the_very_same_weights(
    family: str, precision: str, model_directory: Any, labelled: Any
) -> None:
    data = labelled(LENGTHS)
    own = {"lora_dropout": 0.3, "targets": "all-linear"}
    one, first, kept = trained(model_directory(family), data, precision=precision, **own)
    two, second, less = trained(model_directory(family), data, checkpointing="on", precision=precision, **own)
    assert first.history[0]["loss"] == second.history[0]["loss"]
    weights = two.trainable()
    assert all(torch.equal(value, weights[name]) for name, value in one.trainable().items())
    assert less["memory_parts_bytes"]["activations"] < 0.6 * kept["memory_parts_bytes"]["activations"]
    assert not any("forward" in vars(module) for module in two.model.modules())


def test_the_parts_add_up_to_the_peak_and_count_what_is_held(tiny_bert: Any, labelled: Any) -> None:
    for method in ("standard", "lora"):
        trainable, _, cost = trained(tiny_bert, labelled(LENGTHS), method=method)
        parts = cost["memory_parts_bytes"]
        assert sum(parts.values()) == cost["peak_memory_bytes"]["resident"]
        assert parts["gradients"] == 4 * trainable.counts()["trainable"]
        assert parts["optimizer"] == 2 * parts["gradients"]
        held = 4 * (trainable.counts()["total"] + sum(b.numel() * 2 for b in trainable.model.buffers()))
        assert parts["weights"] == held + (0 if method == "standard" else scaled_copies(trainable))


def scaled_copies(trainable: TrainableModel) -> int:
    """LoRA's B's of query and value are held once more, with their scale in them, in one matrix of all three layers."""
    b = sum(4 * p.numel() for name, p in trainable.trainable().items() if "lora_B" in name)
    return b // 2 * 3 * 2  # (3·32, 2·8) holds two of (32, 8)


def test_what_is_kept_for_backward_counts_once_and_weights_do_not() -> None:
    layer, x = nn.Linear(8, 8, bias=False), torch.ones(16, 8, requires_grad=True)
    with kept_for_backward(beside=Storages(layer.parameters())) as kept:
        y = layer(x).exp()  # keeps x, and its own result
        z = y * y  # keeps y, which exp keeps already
    assert kept.bytes == 4 * (16 * 8 + 16 * 8)
    z.sum().backward()
    assert x.grad is not None


class Mark:
    """Something that lives as long as the node that holds it."""


def test_the_graph_of_a_forward_that_was_counted_goes_with_its_result() -> None:
    gc.collect()
    gc.disable()
    try:
        x = torch.ones(16, requires_grad=True)
        with kept_for_backward(beside=Storages()) as kept:
            y = x.exp()  # keeps its own result
        y.grad_fn.metadata["mark"] = mark = Mark()
        gone = weakref.ref(mark)
        del mark, y
        assert kept.bytes == 64
        assert gone() is None
    finally:
        gc.enable()


def test_a_checkpointed_layer_keeps_its_input_alone_and_runs_once_where_nothing_is_trained() -> None:
    class Layer(nn.Module):
        runs = 0

        def forward(self, x: Tensor, *, scale: float) -> Tensor:
            self.runs += 1
            return (x * scale).exp().exp()

    layer, x = Layer(), torch.ones(4, requires_grad=True)
    with checkpointed([layer], random=False):
        with kept_for_backward(beside=Storages()) as kept:
            y = layer(x, scale=0.5)
        assert kept.bytes == 16
        y.sum().backward()
        assert layer.runs == 2
        layer.eval()(x, scale=0.5).sum().backward()
        assert layer.runs == 3
    assert "forward" not in vars(layer)
