"""LoRA's variants: PEFT's own mathematics, trained by the engine, saved so that stock PEFT gives the same logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from loratory.data import collate, make_dataset
from loratory.errors import SettingsError
from loratory.evaluation import predictions
from loratory.methods import TrainableModel, method_named, method_settings
from loratory.models.flat import Classifier
from loratory.models.load import Base, load_base
from loratory.models.source import quiet
from loratory.run import train

VARIANTS: dict[str, dict[str, Any]] = {
    "rslora": {"rslora": "on", "alpha": 4},
    "dora": {"dora": "on"},
    "dora with dropout": {"dora": "on", "lora_dropout": 0.1, "targets": "all-linear"},
    "gaussian": {"init": "gaussian"},
    "orthogonal": {"init": "orthogonal"},
    "olora": {"init": "olora", "rslora": "on", "rank_pattern": "value=2", "alpha_pattern": "query=3"},
    "pissa": {"init": "pissa", "rank_pattern": "value=2", "targets": "all-linear"},
    "pissa of embeddings": {"init": "pissa", "targets": "word_embeddings,query"},
    "pissa by iteration": {"init": "pissa_niter_4", "rslora": "on"},
    "lora+": {"lora_plus": 16, "lr": 1e-3},
    "patterns": {"rank_pattern": "layer.0.*query=2, value=5", "alpha_pattern": "layer.1.*query=32"},
    "biases of targets": {"bias": "lora_only"},
    "all biases": {"bias": "all"},
}


IN_BF16 = ("dora with dropout", "olora", "pissa", "pissa of embeddings", "biases of targets", "all biases")
"""What computes with the frozen weights, changes them or trains some: the others are LoRA's own A and B with other
values, scales and rates, which are held in fp32 in any case.
"""


def prepared(directory: Path, **own: Any) -> tuple[Base, TrainableModel]:
    base = load_base(str(directory), labels=("a", "b", "c"), seed=0, dropout=0.0)
    settings = method_settings({"name": "lora", "rank": 4, **own})
    return base, method_named("lora").prepare(base, settings, seed=0)


@pytest.mark.parametrize(
    ("what", "precision"), [*((what, "fp32") for what in VARIANTS), *((what, "bf16") for what in IN_BF16)]
)
def test_a_variant_learns_and_stock_peft_gives_its_logits(
    what: str, precision: str, spec: Any, tiny_bert: Path, tmp_path: Path
) -> None:
    chosen = spec("lora", **{"rank": 4, "precision": precision, **VARIANTS[what]})
    run = train(chosen, output=tmp_path / "run")
    losses = [json.loads(line)["loss"] for line in (run.directory / "history.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]
    own = 0 if "dora" in VARIANTS[what] else 2
    assert run.record.environment["engine"]["own_layers"] == {"layers": own, "of": 2}
    with quiet():
        base = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
        model = PeftModel.from_pretrained(base, run.directory, adapter_name="mine").eval()
    encoded = AutoTokenizer.from_pretrained(run.directory)(
        list(make_dataset(chosen.data).test.texts), padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        logits = model(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"]).logits
    kept = predictions.read(run.directory / "predictions.parquet")["test"].logits
    np.testing.assert_allclose(kept, logits.numpy(), atol=1e-4 if precision == "fp32" else 0.15, rtol=0)


@pytest.mark.parametrize("what", VARIANTS)
def test_every_variant_begins_as_the_identity(what: str, tiny_bert: Path, labelled: Any) -> None:
    data = labelled([5, 9, 2], classes=3)
    batch = collate(data.tokens, data.labels, range(3))
    plain = load_base(str(tiny_bert), labels=("a", "b", "c"), seed=0, dropout=0.0)
    own = {key: value for key, value in VARIANTS[what].items() if key != "lr"}
    base, trainable = prepared(tiny_bert, **own)
    with torch.no_grad():
        before = Classifier(plain.model.eval(), plain.family, plain.pad_id)(batch)
        after = Classifier(base.model.eval(), base.family, base.pad_id)(batch)
    torch.testing.assert_close(after, before, atol=1e-4, rtol=0)
    unfrozen = {name for name, part in trainable.parts.items() if part == "unfrozen"}
    assert all(name.endswith("bias") for name in unfrozen)
    assert bool(unfrozen) == ("biases" in what)


def test_patterns_give_each_layer_its_rank_and_scale(tiny_bert: Path) -> None:
    base, _ = prepared(tiny_bert, rank_pattern="layer.0.*query=2,value=5", alpha_pattern="layer.1.*query=32")
    found = {
        name.removeprefix("bert.encoder.layer.").replace(".attention.self", ""): (m.r["default"], m.scaling["default"])
        for name, m in base.model.named_modules()
        if isinstance(m, LoraLayer)
    }
    assert found == {"0.query": (2, 8.0), "0.value": (5, 3.2), "1.query": (4, 8.0), "1.value": (5, 3.2)}


def test_only_the_targets_biases_are_trained_or_all_below_the_head(tiny_bert: Path) -> None:
    _, some = prepared(tiny_bert, bias="lora_only")
    base, every = prepared(tiny_bert, bias="all")
    biases = {name for name, _ in base.model.named_parameters() if name.endswith("bias") and "encoder" in name}
    assert {name for name, part in some.parts.items() if part == "unfrozen"} == {
        name for name in biases if ".query." in name or ".value." in name
    }
    assert {name for name, part in every.parts.items() if part == "unfrozen"} == {
        *biases,
        "bert.embeddings.LayerNorm.bias",
    }


def test_lora_plus_multiplies_the_rate_of_b_alone(tiny_bert: Path) -> None:
    _, trainable = prepared(tiny_bert, lora_plus=16, targets="query,word_embeddings")
    assert set(trainable.rates.values()) == {16}
    assert set(trainable.rates) == {
        name for name in trainable.parts if ".lora_B." in name or ".lora_embedding_B." in name
    }
    assert len(trainable.rates) == 3


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"init": "pisa"}, "--init 'pisa': did you mean 'pissa'?"),
        ({"init": "eva"}, "--init 'eva': known: default, gaussian"),
        ({"init": "orthogonal", "rank": 3}, "--init orthogonal: the rank must be even, and 3 is not"),
        ({"init": "pissa", "dora": "on"}, "leave one out"),
        ({"rank_pattern": "qurey=4"}, "--rank-pattern 'qurey' is the first match of no adapted layer; did you mean"),
        ({"rank_pattern": "key=4"}, "--rank-pattern 'key' is the first match of no adapted layer"),
        ({"rank_pattern": "query=4,self.query=3"}, "--rank-pattern 'self.query' is the first match of no"),
        ({"alpha_pattern": "dense=4"}, "--alpha-pattern 'dense' is the first match of no adapted layer"),
        ({"rank_pattern": "value=33"}, "--rank-pattern 33 is above the width 32"),
        ({"rank_pattern": "query"}, "write it as NAME=VALUE,NAME=VALUE with whole numbers of 1 or more"),
        ({"rank_pattern": "query=2.5"}, "write it as NAME=VALUE,NAME=VALUE with whole numbers of 1 or more"),
        ({"rank_pattern": "query=0"}, "write it as NAME=VALUE,NAME=VALUE with whole numbers of 1 or more"),
        ({"alpha_pattern": "query=0.0"}, "with numbers above 0"),
        ({"rank_pattern": "que(=2"}, "'que(' is no regular expression"),
        ({"dora": "yes"}, "--dora 'yes': input should be 'off' or 'on'"),
        ({"lora_plus": 0}, "--lora-plus 0: input should be greater than 0"),
        ({"name": "hybrid", "rank": 0, "dora": "on"}, "--dora: with --rank 0 there is no LoRA; leave it out"),
    ],
)
def test_variants_that_cannot_be_are_refused_in_one_line(own: dict[str, Any], message: str, tiny_bert: Path) -> None:
    base, given = load_base(str(tiny_bert), labels=("a", "b"), seed=0), {"name": "lora", **own}
    with pytest.raises(SettingsError) as caught:
        method_named(given["name"]).prepare(base, method_settings(given), seed=0)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
