"""LoRA: which layers it adapts, how it begins, and what it is saved with."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from transformers.pytorch_utils import Conv1D

from loratory.data import collate
from loratory.methods import METHODS, TrainableModel, method_named, method_settings
from loratory.methods.lora import find_targets
from loratory.models.families import FAMILIES
from loratory.models.flat import Classifier
from loratory.models.load import load_base

LABELS = ("a", "b", "c")


def adapted_modules(trainable: TrainableModel) -> set[str]:
    return {name.split(".lora_")[0] for name, part in trainable.parts.items() if part == "adapter"}


QUERY_AND_VALUE = {
    "distilbert": {"q_lin", "v_lin"},
    "modernbert": {"Wqkv"},
    "mpnet": {"q", "v"},
    "deberta": {"in_proj"},
    "deberta-v2": {"query_proj", "value_proj"},
    "gpt2": {"c_attn"},
    **{family: {"q_proj", "v_proj"} for family in ("llama", "qwen2", "qwen3")},
}


@pytest.mark.parametrize("targets", ["attention", "all-linear"])
@pytest.mark.parametrize("family", FAMILIES)
def test_lora_adapts_the_encoder_and_never_the_head(
    family: str, targets: str, model_directory: Any, prepared: Any
) -> None:
    base = load_base(str(model_directory(family)), labels=LABELS, seed=0)
    linear = {name for name, module in base.model.named_modules() if isinstance(module, (torch.nn.Linear, Conv1D))}
    heads = base.family.head
    trainable = prepared(base, "lora", rank=2, targets=targets)
    adapted = adapted_modules(trainable)
    in_head = {name for name in linear if any(name == head or name.startswith(head + ".") for head in heads)}
    assert in_head
    assert adapted
    if targets == "all-linear":
        assert adapted == linear - in_head
    else:
        last = QUERY_AND_VALUE.get(family, {"query", "value"})
        assert adapted == {name for name in linear - in_head if name.rsplit(".", 1)[-1] in last}
        layers = 1 if family == "albert" else 3 if family == "modernbert" else 2
        assert len(adapted) == layers * len(last)
    assert not any(".lora_" in name for name, part in trainable.parts.items() if part == "head")


def test_targets_may_be_names(tiny_bert: Any, prepared: Any) -> None:
    base = load_base(str(tiny_bert), labels=LABELS, seed=0)
    adapted = adapted_modules(prepared(base, "lora", rank=2, targets="key, word_embeddings,layer.1.output.dense"))
    assert adapted == {
        "bert.embeddings.word_embeddings",
        "bert.encoder.layer.0.attention.self.key",
        "bert.encoder.layer.1.attention.self.key",
        "bert.encoder.layer.1.output.dense",
    }


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("targets", ["attention", "all-linear"])
def test_lora_begins_as_the_identity(
    family: str, targets: str, model_directory: Any, labelled: Any, prepared: Any
) -> None:
    data = labelled([5, 9, 2], classes=3)
    batch = collate(data.tokens, data.labels, range(3))
    base = load_base(str(model_directory(family)), labels=LABELS, seed=0, dropout=0.0)
    classifier = Classifier(base.model.eval(), base.family, base.pad_id)
    with torch.no_grad():
        before = classifier(batch)
        prepared(base, "lora", rank=4, targets=targets)
        assert torch.equal(classifier(batch), before)


def test_the_seed_of_the_run_decides_what_lora_begins_with(tiny_bert: Any) -> None:
    def first(seed: int) -> torch.Tensor:
        base = load_base(str(tiny_bert), labels=LABELS, seed=0)
        trainable = method_named("lora").prepare(base, method_settings({"name": "lora"}), seed=seed)
        return next(value for name, value in trainable.trainable().items() if "lora_A" in name).detach()

    state = torch.get_rng_state()
    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_rank_as_wide_as_the_layer_is_allowed(family: str, model_directory: Any, prepared: Any) -> None:
    base = load_base(str(model_directory(family)), labels=LABELS, seed=0)
    narrowest = min(
        min(base.model.get_submodule(name).weight.shape) for name in find_targets(base.model, base.family, "attention")
    )
    assert prepared(base, "lora", rank=narrowest).counts()["adapter"] > 0


def test_targets_are_found_in_the_order_of_the_model_and_once(tiny_bert: Any) -> None:
    base = load_base(str(tiny_bert), labels=LABELS, seed=0)
    found = find_targets(base.model, base.family, "query,self.query,attention.self.query")
    assert found == [f"bert.encoder.layer.{n}.attention.self.query" for n in (0, 1)]


def test_an_adapter_names_its_base_so_that_it_is_found_from_anywhere(
    tiny_bert: Path, monkeypatch: pytest.MonkeyPatch, prepared: Any
) -> None:
    monkeypatch.chdir(tiny_bert.parent)
    base = load_base(tiny_bert.name, labels=LABELS, seed=0)
    adapter = prepared(base, "lora").adapter
    assert adapter is not None
    assert adapter.base_model_name_or_path == str(tiny_bert)
    base = dataclasses.replace(load_base(str(tiny_bert), labels=LABELS, seed=0), source="FacebookAI/roberta-base")
    adapter = prepared(base, "lora").adapter
    assert adapter is not None
    assert adapter.base_model_name_or_path == "FacebookAI/roberta-base"


def test_the_update_is_scaled_by_alpha_over_rank(tiny_bert: Any) -> None:
    base = load_base(str(tiny_bert), labels=("a", "b"), seed=0)
    trainable = METHODS["lora"].prepare(base, method_settings({"name": "lora", "rank": 4, "alpha": 10}), seed=0)
    scales = {m.scaling["default"] for m in base.model.modules() if isinstance(m, LoraLayer)}
    assert scales == {2.5}
    assert trainable.adapter is not None
    assert (trainable.adapter.lora_alpha, trainable.adapter.r) == (10, 4)
