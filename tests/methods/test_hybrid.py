"""Hybrids: LoRA below unfrozen layers, and norms, biases or embeddings trained beside it; stock PEFT opens them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from loratory.data import make_dataset
from loratory.errors import SettingsError
from loratory.evaluation import predictions
from loratory.exporting.export import export
from loratory.methods import TrainableModel, method_named, method_settings
from loratory.methods.hybrid import layer_names
from loratory.models.families import FAMILIES
from loratory.models.load import Base, load_base
from loratory.models.source import quiet
from loratory.run import train
from loratory.store.naming import approach

ALSO = ("layernorm", "biases", "embeddings", "layernorm,biases,embeddings")
BIASLESS = ("modernbert", "llama", "qwen3")


def made(directory: Path, **own: Any) -> tuple[Base, TrainableModel]:
    base = load_base(str(directory), labels=("a", "b", "c"), seed=0)
    given = {"name": "hybrid", "unfrozen_layers": 0, **own}
    return base, method_named("hybrid").prepare(base, method_settings(given), seed=0)


def unfrozen(trainable: TrainableModel) -> set[str]:
    return {name.replace(".base_layer", "") for name, part in trainable.parts.items() if part == "unfrozen"}


def adapted(trainable: TrainableModel) -> set[str]:
    return {name.split(".lora_")[0] for name, part in trainable.parts.items() if part == "adapter"}


@pytest.mark.parametrize("unfrozen", [0, 1, 2])
def test_hybrid_of_rank_0_trains_the_top_layers_and_nothing_below(
    unfrozen: int, tiny_bert: Path, prepared: Any
) -> None:
    base = load_base(str(tiny_bert), labels=("a", "b", "c"), seed=0)
    top = tuple(name + "." for name in layer_names(base)[2 - unfrozen :])
    trainable = prepared(base, "hybrid", rank=0, unfrozen_layers=unfrozen)
    found = {name for name, part in trainable.parts.items() if part == "unfrozen"}
    assert found == {name for name, _ in base.model.named_parameters() if name.startswith(top)}
    assert bool(found) == (unfrozen > 0)
    assert trainable.adapter is None
    counts, head = (
        trainable.counts(),
        prepared(load_base(str(tiny_bert), labels=("a", "b", "c"), seed=0), "head").counts(),
    )
    assert counts["adapter"] == 0
    assert counts["trainable"] == head["trainable"] + counts["unfrozen"]


def test_hybrid_without_an_unfrozen_layer_is_lora(tiny_bert: Path, prepared: Any) -> None:
    one, two = (load_base(str(tiny_bert), labels=("a", "b", "c"), seed=0) for _ in range(2))
    hybrid = prepared(one, "hybrid", rank=2, unfrozen_layers=0).trained_tensors()
    lora = prepared(two, "lora", rank=2).trained_tensors()
    assert hybrid.keys() == lora.keys()
    assert all(torch.equal(tensor, lora[name]) for name, tensor in hybrid.items())


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "albert"])
def test_hybrid_trains_the_top_layer_and_adapts_those_below(family: str, model_directory: Any, prepared: Any) -> None:
    base = load_base(str(model_directory(family)), labels=("a", "b", "c"), seed=0)
    *below, top = layer_names(base)
    trainable = prepared(base, "hybrid", rank=2, unfrozen_layers=1)
    unfrozen = {name for name, part in trainable.parts.items() if part == "unfrozen"}
    assert unfrozen == {name for name, _ in base.model.named_parameters() if name.startswith(top + ".")}
    assert not any("lora_" in name for name in unfrozen)
    assert all(any(name.startswith(layer + ".") for layer in below) for name in adapted(trainable))
    assert {layer for layer in below for name in adapted(trainable) if name.startswith(layer + ".")} == set(below)
    frozen = [name for name, parameter in base.model.named_parameters() if not parameter.requires_grad]
    assert any(name.startswith(below[0] + ".") for name in frozen)
    assert any("embeddings" in name or "embed_tokens" in name or "wte" in name for name in frozen)


WANTED = {
    "layernorm": lambda name: "LayerNorm" in name,
    "biases": lambda name: name.endswith("bias"),
    "embeddings": lambda name: name.endswith("embeddings.weight"),
}


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("also", ALSO)
def test_what_is_named_is_trained_and_nothing_else(also: str, rank: int, tiny_bert: Path) -> None:
    names = {name for name, _ in load_base(str(tiny_bert), labels=("a", "b", "c"), seed=0).model.named_parameters()}
    encoder = {name for name in names if "pooler" not in name and "classifier" not in name}
    _, trainable = made(tiny_bert, also_unfrozen=also, rank=rank)
    assert unfrozen(trainable) == {name for name in encoder if any(WANTED[kind](name) for kind in also.split(","))}
    assert (trainable.counts()["adapter"] > 0) == (rank > 0)


def test_named_weights_of_frozen_layers_stay_as_they_were(model_directory: Any) -> None:
    directory = model_directory("bert", num_hidden_layers=3)
    _, trainable = made(directory, also_unfrozen="layernorm,biases", frozen_layers=1, unfrozen_layers=1)
    names = unfrozen(trainable)
    assert not any(".layer.0." in name for name in names)
    assert {name for name in names if ".layer.1." in name and name.endswith("weight")} == {
        "bert.encoder.layer.1.attention.output.LayerNorm.weight",
        "bert.encoder.layer.1.output.LayerNorm.weight",
    }
    assert "bert.encoder.layer.2.output.dense.weight" in names
    assert "bert.embeddings.LayerNorm.weight" in names


@settings(max_examples=30, deadline=None)
@given(
    family=st.sampled_from(sorted(FAMILIES)),
    kinds=st.sets(st.sampled_from(["layernorm", "biases", "embeddings"]), min_size=1),
    rank=st.integers(0, 4),
    layers=st.integers(0, 1),
)
def test_parts_add_up_on_every_family(
    model_directory: Any, family: str, kinds: set[str], rank: int, layers: int
) -> None:
    own = {"also_unfrozen": ",".join(kinds), "rank": rank, "unfrozen_layers": layers}
    if (family == "albert" and layers) or (family in BIASLESS and "biases" in kinds):
        with pytest.raises(SettingsError):
            made(model_directory(family), **own)
        return
    base, trainable = made(model_directory(family), **own)
    counts = trainable.counts()
    free = {name for name, parameter in base.model.named_parameters() if parameter.requires_grad}
    assert free == set(trainable.parts)
    assert counts["adapter"] + counts["head"] + counts["unfrozen"] == counts["trainable"]
    assert counts["trainable"] + counts["frozen"] == counts["total"]
    _, without = made(model_directory(family), rank=rank, unfrozen_layers=layers)
    assert counts["unfrozen"] > without.counts()["unfrozen"]
    assert {part: counts[part] for part in ("adapter", "head")} == {
        part: without.counts()[part] for part in ("adapter", "head")
    }


@pytest.mark.parametrize(
    ("family", "own"),
    [
        *(("bert", {"also_unfrozen": also}) for also in ALSO),
        ("bert", {"also_unfrozen": ALSO[-1], "unfrozen_layers": 1, "targets": "all-linear"}),
        ("bert", {"also_unfrozen": ALSO[-1], "rank": 0}),
        ("bert", {"also_unfrozen": "layernorm", "init": "pissa"}),
        ("gpt2", {"also_unfrozen": ALSO[-1], "unfrozen_layers": 1}),
        ("albert", {"also_unfrozen": ALSO[-1]}),
        ("deberta-v2", {"also_unfrozen": ALSO[-1]}),
    ],
    ids=str,
)
def test_it_learns_and_stock_libraries_give_its_logits(
    family: str, own: dict[str, Any], spec: Any, model_directory: Any, tmp_path: Path
) -> None:
    given = {"rank": 4, "unfrozen_layers": 0, "model": str(model_directory(family)), **own}
    chosen = spec("hybrid", **given)
    run = train(chosen, output=tmp_path / "run")
    losses = [json.loads(line)["loss"] for line in (run.directory / "history.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]
    with quiet():
        if given["rank"] == 0:
            model: Any = AutoModelForSequenceClassification.from_pretrained(run.directory)
        else:
            base = AutoModelForSequenceClassification.from_pretrained(given["model"], num_labels=2)
            model = PeftModel.from_pretrained(base, run.directory)
    encoded = AutoTokenizer.from_pretrained(run.directory)(
        list(make_dataset(chosen.data).test.texts), padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        logits = model.eval()(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"]).logits
    kept = predictions.read(run.directory / "predictions.parquet")["test"].logits
    np.testing.assert_allclose(kept, logits.numpy(), atol=2e-4, rtol=0)


def test_it_is_exported_merged_and_as_an_adapter(spec: Any, tmp_path: Path) -> None:
    chosen = spec("hybrid", unfrozen_layers=0, also_unfrozen="layernorm,biases,embeddings")
    run = train(chosen, output=tmp_path / "run")
    for kind in ("merged", "adapter"):  # each is compared with the run before it is there
        export(run.directory, tmp_path / kind, kind)
        assert (tmp_path / kind / "README.md").is_file()


@pytest.mark.parametrize(
    ("family", "own", "message"),
    [
        ("bert", {"also_unfrozen": "layer-norm"}, "--also-unfrozen 'layer-norm': did you mean 'layernorm'?"),
        ("bert", {"also_unfrozen": "biases,heads"}, "--also-unfrozen 'biases,heads': known: biases, embeddings"),
        ("llama", {"also_unfrozen": "biases"}, "--also-unfrozen biases: llama has none; leave it out"),
        (
            "bert",
            {"also_unfrozen": "embeddings", "targets": "query,word_embeddings"},
            "adapts bert.embeddings.word_embeddings; leave one out",
        ),
        ("albert", {"unfrozen_layers": 1}, "give --unfrozen-layers 0"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    family: str, own: dict[str, Any], message: str, model_directory: Any
) -> None:
    with pytest.raises(SettingsError) as caught:
        made(model_directory(family), **own)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_setting_has_one_spelling_and_a_name() -> None:
    one, two = (
        method_settings({"name": "hybrid", "unfrozen_layers": 0, "also_unfrozen": also})
        for also in ("biases, layernorm", "layernorm,biases")
    )
    assert one == two
    assert approach(one.model_dump()) == "hybrid r=8 attention + layernorm + biases"
