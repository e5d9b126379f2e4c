"""Quickened layers give the logits and gradients of transformers' and PEFT's own modules."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor

from loratory.data import Batch, collate
from loratory.engine import groups, layers
from loratory.engine.draws import Draws
from loratory.engine.hardware import Hardware
from loratory.engine.layers import Layer, quickened
from loratory.methods import method_named, method_settings
from loratory.models.families import FAMILIES
from loratory.models.flat import Classifier
from loratory.models.load import load_base
from loratory.spec import HardwareSpec

DEVICE: Literal["cpu", "cuda"] = "cuda" if torch.cuda.is_available() else "cpu"
EXACT = Hardware.of(HardwareSpec(device=DEVICE, precision="fp32"))
ROUNDED = Hardware.of(HardwareSpec(device=DEVICE, precision="bf16"))
LENGTHS = [5, 9, 2, 7, 12]
BERTS = sorted(name for name, family in FAMILIES.items() if family.own_layers)
SETTINGS: dict[str, dict[str, Any]] = {
    "standard": {"name": "standard"},
    "lora": {"name": "lora", "rank": 3},
    "lora-key": {"name": "lora", "targets": "key,dense", "alpha": 5.0},
    "lora-all": {"name": "lora", "targets": "all-linear"},
    "hybrid": {"name": "hybrid"},
    "head": {"name": "head"},
}


def prepared(directory: Any, method: str, **settings: Any) -> Classifier:
    base = load_base(str(directory), labels=("a", "b", "c"), seed=0, dropout=0.0)
    chosen = {**SETTINGS[method], **settings}
    if base.family.name == "distilbert" and method == "lora-key":
        chosen["targets"] = "k_lin,out_lin,lin1,lin2"
    method_named(chosen["name"]).prepare(base, method_settings(chosen), seed=0)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        for name, parameter in base.model.named_parameters():
            if "lora_B" in name:  # zeros at first, which would hide half of the gradients
                parameter.data.normal_(std=0.2)
    base.model.train().to(DEVICE)
    return Classifier(base.model, base.family, base.pad_id)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The masks that our layers draw from now on, in their order."""
    masks: list[Tensor] = []
    draw = Draws.mask

    def recorded(self: Draws, x: Tensor, p: Any) -> Tensor:
        masks.append(draw(self, x, p))
        return masks[-1]

    monkeypatch.setattr(Draws, "mask", recorded)
    return masks


def some(labelled: Any) -> Batch:
    data = labelled(LENGTHS, classes=3)
    return collate(data.tokens, data.labels, np.arange(len(LENGTHS))).to(EXACT.device)


def computed(classifier: Classifier, batch: Batch, hardware: Hardware = EXACT) -> tuple[Tensor, dict[str, Tensor]]:
    with hardware.autocast():
        logits = classifier(batch)
    F.cross_entropy(logits.float(), batch.labels).backward()
    grads = {name: p.grad for name, p in classifier.model.named_parameters() if p.grad is not None}
    for parameter in classifier.model.parameters():
        parameter.grad = None
    return logits.detach(), grads


def assert_agree(ours: dict[str, Tensor], stock: dict[str, Tensor], tolerance: float) -> None:
    assert ours.keys() == stock.keys()
    for name, expected in stock.items():
        size = float(torch.linalg.vector_norm(expected))
        assert ours[name].dtype == torch.float32
        assert float(torch.linalg.vector_norm(ours[name] - expected)) <= tolerance * max(size, 1e-2), name


@pytest.mark.parametrize("method", SETTINGS)
@pytest.mark.parametrize("family", BERTS)
def test_logits_and_gradients_are_those_of_the_stock_modules(
    family: str, method: str, model_directory: Any, labelled: Any
) -> None:
    classifier, batch = prepared(model_directory(family), method), some(labelled)
    expected, stock = computed(classifier, batch)
    names = {module: name for name, module in classifier.model.named_modules()}
    with quickened(classifier.model, EXACT) as quick:
        assert [type(part) for part in quick.parts if "embeddings_project" not in names[part.module]] == [Layer] * 2
        logits, ours = computed(classifier, batch)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert_agree(ours, stock, 1e-5)
    back, again = computed(classifier, batch)  # and afterwards the modules are what they were
    assert torch.equal(back, expected)
    assert all(torch.equal(again[name], stock[name]) for name in stock)
    pointers = [p.untyped_storage().data_ptr() for p in classifier.model.parameters()]
    assert len(set(pointers)) == len(pointers)


@pytest.mark.parametrize("method", ["lora", "lora-all"])
@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(BERTS)))
def test_other_families_adapted_layers_agree_too(family: str, method: str, model_directory: Any, labelled: Any) -> None:
    classifier, batch = prepared(model_directory(family), method), some(labelled)
    expected, stock = computed(classifier, batch)
    with quickened(classifier.model, EXACT) as quick:
        assert bool(quick.parts) == (family != "gpt2")  # whose layers are no nn.Linear: PEFT's own stay
        logits, ours = computed(classifier, batch)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert_agree(ours, stock, 1e-5)


@pytest.mark.parametrize("method", ["standard", "lora", "lora-all"])
def test_in_bf16_they_are_as_near_to_fp32_as_autocast(method: str, tiny_bert: Any, labelled: Any) -> None:
    batch = some(labelled)
    exact, grads = computed(prepared(tiny_bert, method), batch)
    _, rounded = computed(prepared(tiny_bert, method), batch, ROUNDED)
    classifier = prepared(tiny_bert, method)
    with quickened(classifier.model, ROUNDED) as quick:
        quick.refresh()
        logits, ours = computed(classifier, batch, ROUNDED)
    assert float((logits - exact).norm() / exact.norm()) < 2e-2
    assert_agree(ours, grads, 0.1)

    def distance(some: dict[str, Tensor]) -> float:
        return sum(float((some[name] - grads[name]).square().sum()) for name in grads) ** 0.5

    assert distance(ours) < 1.5 * distance(rounded)


def test_trained_weights_are_copied_anew_for_each_pass(tiny_bert: Any, labelled: Any) -> None:
    classifier, batch = prepared(tiny_bert, "lora-all"), some(labelled)
    with quickened(classifier.model, ROUNDED) as quick:
        before, _ = computed(classifier, batch, ROUNDED)
        with torch.no_grad():
            for name, parameter in classifier.model.named_parameters():
                if "lora_B" in name:
                    parameter.mul_(3)
        quick.refresh()
        after, _ = computed(classifier, batch, ROUNDED)
    stock, _ = computed(classifier, batch, ROUNDED)
    torch.testing.assert_close(after, stock, atol=0.1, rtol=0.1)
    assert float((after - before).norm()) > 3 * float((after - stock).norm())


@pytest.mark.skipif(DEVICE == "cuda", reason="masks are drawn inside kernels there")
@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_hidden_dropout_is_where_the_stock_modules_have_it(
    family: str, model_directory: Any, labelled: Any, drawn: list[Tensor]
) -> None:
    """The stock modules are given the masks that ours drew, in the order in which ours drew them."""
    classifier, batch = prepared(model_directory(family), "standard"), some(labelled)
    blocks = classifier.family.blocks(classifier.model)
    for block in blocks:
        for module in block.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.3
    for block in blocks:  # attention's own is another matter
        block.attention.get_submodule("self.dropout" if family == "bert" else "dropout").p = 0.0
    with quickened(classifier.model, EXACT):
        logits, ours = computed(classifier, batch)
    assert len(drawn) == len(blocks) * (2 if family == "bert" else 1)
    zeros = float(torch.cat([mask.flatten() for mask in drawn]).eq(0).float().mean())
    assert zeros == pytest.approx(0.3, abs=0.05)
    given = iter(drawn)
    for block in blocks:
        for module in block.modules():
            if isinstance(module, torch.nn.Dropout) and module.p > 0:
                module.forward = lambda x: x * next(given).view_as(x)
    expected, stock = computed(classifier, batch)
    assert next(given, None) is None
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert_agree(ours, stock, 1e-5)


VARIANTS: dict[str, tuple[dict[str, Any], int]] = {
    "ranks": ({"rank_pattern": {"query": 3}}, 2),
    "scales": ({"alpha_pattern": {"query": 64}}, 2),
    "ranks and scales by layer": ({"rank_pattern": {"layer.0.*": 3}, "alpha_pattern": {"layer.1.*value": 5}}, 2),
    "rank-stabilised": ({"use_rslora": True, "rank_pattern": {"value": 4}}, 2),
    "orthogonal": ({"init_lora_weights": "orthogonal"}, 2),
    "principal": ({"init_lora_weights": "pissa"}, 2),
    "biases of B": ({"lora_bias": True}, 0),
    "biases of targets": ({"bias": "lora_only"}, 2),
    "all biases": ({"bias": "all"}, 2),
    "magnitudes": ({"use_dora": True}, 0),
}
"""Kinds of LoRA that PEFT knows, and how many layers of two the engine computes itself."""


@pytest.mark.parametrize("what", VARIANTS)
def test_variants_are_computed_exactly_or_left_to_stock_modules(what: str, tiny_bert: Any, labelled: Any) -> None:
    settings, computes = VARIANTS[what]
    base = load_base(str(tiny_bert), labels=("a", "b", "c"), seed=0, dropout=0.0)
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"], **settings)
    model = inject_adapter_in_model(config, base.model)
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.2)
    classifier, batch = Classifier(model.train().to(DEVICE), base.family, base.pad_id), some(labelled)
    expected, stock = computed(classifier, batch)
    with quickened(model, EXACT) as quick:
        assert sum(isinstance(part, Layer) for part in quick.parts) == computes
        logits, ours = computed(classifier, batch)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert_agree(ours, stock, 1e-5)


def test_a_part_of_a_joint_projection_may_be_trained_alone(tiny_bert: Any, labelled: Any) -> None:
    classifier, batch = prepared(tiny_bert, "standard"), some(labelled)
    for name, parameter in classifier.model.named_parameters():
        parameter.requires_grad_(".value." in name or name.endswith(("output.dense.bias", "0.output.LayerNorm.bias")))
    expected, stock = computed(classifier, batch)
    with quickened(classifier.model, EXACT) as quick:
        assert not quick.parts
        logits, ours = computed(classifier, batch)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert_agree(ours, stock, 1e-5)


def test_biases_trained_beside_frozen_ones_in_bf16_stay_in_fp32(tiny_bert: Any, labelled: Any) -> None:
    """A query that is frozen whole is held in bf16; the value's bias, which is trained, is not."""
    classifier, batch = prepared(tiny_bert, "standard"), some(labelled)
    named = dict(classifier.model.named_parameters())
    for name, parameter in named.items():
        parameter.requires_grad_(name.endswith(".value.bias"))
        if ".query." in name:
            parameter.data = parameter.data.bfloat16()
    before = {name: (parameter.dtype, parameter.detach().clone()) for name, parameter in named.items()}
    with quickened(classifier.model, ROUNDED) as quick:
        assert len(quick.parts) == 2
        assert all(named[name].dtype == torch.float32 for name in named if name.endswith(".value.bias"))
        computed(classifier, batch, ROUNDED)
    for name, (kind, value) in before.items():
        assert named[name].dtype == kind, name
        assert torch.equal(named[name], value), name


@pytest.mark.parametrize("settings", [{"rank": 1}, {"targets": "query,key,dense", "rank_pattern": "key=9,dense=2"}])
def test_ranks_filled_with_zeros_compute_the_same(
    settings: dict[str, Any], tiny_bert: Any, labelled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "_multiple", lambda device: 8)
    classifier, batch = prepared(tiny_bert, "lora", **settings), some(labelled)
    with quickened(classifier.model, EXACT) as quick:
        filled = [group for group in all_groups(quick) if group.adapters]
        for _ in range(3):
            _, ours = computed(classifier, batch)
            with torch.no_grad():
                for name, parameter in classifier.model.named_parameters():
                    if name in ours:
                        parameter -= 0.1 * ours[name]
            quick.refresh()
        logits, ours = computed(classifier, batch)
        for group in filled:
            assert group.a.shape[0] == group.b.shape[1] == sum(-(-one.rank // 8) * 8 for one in group.adapters)
            assert group.a.abs().sum(1).count_nonzero() == sum(one.rank for one in group.adapters)
            assert group.b.abs().sum(0).count_nonzero() == sum(one.rank for one in group.adapters)
    expected, stock = computed(classifier, batch)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert_agree(ours, stock, 1e-5)
    adapted = [p for name, p in classifier.model.named_parameters() if "lora_" in name]
    assert all(p.untyped_storage().nbytes() == p.numel() * 4 for p in adapted)


def all_groups(quick: layers.Quickened) -> list[groups.Group]:
    assert all(isinstance(part, Layer) for part in quick.parts)
    return [group for part in quick.parts for group in (part.project, part.out, part.up, part.down)]


@pytest.mark.skipif(DEVICE == "cuda", reason="masks are drawn inside kernels there")
@pytest.mark.parametrize("method", ["lora", "lora-all"])
def test_adapter_dropout_is_the_same_mask_in_both_directions(
    method: str, tiny_bert: Any, labelled: Any, drawn: list[Tensor]
) -> None:
    """The stock modules are given the masks that ours drew, in the order in which ours drew them."""
    classifier, batch = prepared(tiny_bert, method, lora_dropout=0.3), some(labelled)
    with quickened(classifier.model, EXACT):
        logits, ours = computed(classifier, batch)
    zeros = float(torch.cat([mask.flatten() for mask in drawn]).eq(0).float().mean())
    assert zeros == pytest.approx(0.3, abs=0.03)
    given = iter(drawn)
    for module in classifier.model.modules():
        for dropout in getattr(module, "lora_dropout", {}).values():
            dropout.forward = lambda x: x * next(given).view_as(x)
    expected, stock = computed(classifier, batch)
    assert next(given, None) is None
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert_agree(ours, stock, 1e-5)


def test_dropout_is_the_same_mask_in_both_directions(tiny_bert: Any, labelled: Any) -> None:
    """The gradient is that of the very function that forward computed: it foretells what a small step changes."""
    classifier, batch = prepared(tiny_bert, "lora-all", lora_dropout=0.3), some(labelled)
    for module in classifier.model.modules():
        if isinstance(module, torch.nn.Dropout) and module is not classifier.model.dropout:
            module.p = 0.3

    def loss() -> Tensor:
        torch.manual_seed(3)
        quick.refresh()
        return F.cross_entropy(classifier(batch), batch.labels)

    with quickened(classifier.model, EXACT) as quick:
        loss().backward()
        assert loss().item() == loss().item()
        free = [p for p in classifier.model.parameters() if p.grad is not None]
        step = [torch.randn_like(p) * 1e-3 for p in free]
        foretold = sum(float((p.grad * d).sum()) for p, d in zip(free, step, strict=True) if p.grad is not None)
        values = []
        with torch.no_grad():
            for sign in (1, -2):
                for parameter, change in zip(free, step, strict=True):
                    parameter.add_(change, alpha=sign)
                values.append(float(loss()))
    assert (values[0] - values[1]) / 2 == pytest.approx(foretold, rel=0.02, abs=1e-5)
