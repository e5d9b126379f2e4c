"""What each method trains: known counts, and parts that add up on every family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig

from loratory.data import collate
from loratory.errors import SettingsError
from loratory.methods import METHODS
from loratory.models.families import FAMILIES
from loratory.models.flat import Classifier
from loratory.models.load import Base, load_base

LABELS = ("a", "b", "c")


@pytest.fixture
def roberta_base(without_weights: Any) -> Base:
    return without_weights(
        AutoConfig.for_model(
            "roberta",
            vocab_size=50265,
            hidden_size=768,
            num_hidden_layers=12,
            num_attention_heads=12,
            intermediate_size=3072,
            max_position_embeddings=514,
            type_vocab_size=1,
            pad_token_id=1,
            num_labels=3,
        )
    )


def test_standard_trains_all_of_roberta_base(roberta_base: Base, prepared: Any) -> None:
    counts = prepared(roberta_base, "standard").counts()
    assert counts["trainable"] == counts["total"] == 124_647_939
    assert counts["head"] == 592_899
    assert counts["frozen"] == counts["adapter"] == 0


def test_lora_on_roberta_base_has_the_known_counts(roberta_base: Base, prepared: Any) -> None:
    counts = prepared(roberta_base, "lora", rank=8, targets="attention").counts()
    assert counts["adapter"] == 294_912
    assert counts["head"] == 592_899
    assert counts["trainable"] == 887_811
    assert counts["unfrozen"] == 0
    assert counts["frozen"] == 124_647_939 - 592_899
    assert round(100 * counts["trainable"] / counts["total"], 2) == 0.71
    assert {parameter.device.type for parameter in roberta_base.model.parameters()} == {"meta"}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_is_all_that_stands_between_encoder_and_logits(
    family: str, model_directory: Any, prepared: Any
) -> None:
    base = load_base(str(model_directory(family)), labels=LABELS, seed=0)
    names = {name for name, _ in base.model.named_parameters()}
    prefix = base.model.base_model_prefix + "."
    outside = {name for name in names if not name.startswith(prefix)}
    pooler = {name for name in names if name.startswith(prefix + "pooler.")}
    assert set(prepared(base, "head").parts) == outside | pooler
    assert outside


CHOICES = st.fixed_dictionaries(
    {
        "family": st.sampled_from(sorted(FAMILIES)),
        "method": st.sampled_from(sorted(METHODS)),
        "rank": st.integers(1, 16),
        "targets": st.sampled_from(["attention", "all-linear"]),
    }
)


@settings(max_examples=60, deadline=None)
@given(chosen=CHOICES)
def test_the_parts_divide_what_is_trainable_and_the_counts_add_up(
    model_directory: Any, chosen: dict[str, Any], prepared: Any, without_weights: Any, refused: Any
) -> None:
    reason = refused(chosen["method"], chosen["family"])
    base = without_weights(AutoConfig.from_pretrained(model_directory(chosen["family"]), num_labels=3))
    before = sum(parameter.numel() for parameter in base.model.parameters())
    own = {"rank": chosen["rank"], "targets": chosen["targets"]} if chosen["method"] in ("lora", "hybrid") else {}
    if reason is not None:
        with pytest.raises(SettingsError, match=reason):
            prepared(base, chosen["method"], **own)
        return
    trainable = prepared(base, chosen["method"], **own)
    parameters = dict(base.model.named_parameters())
    assert set(trainable.parts) == {name for name, parameter in parameters.items() if parameter.requires_grad}
    assert set(trainable.trainable()) == set(trainable.parts)
    counts = trainable.counts()
    assert counts["adapter"] + counts["head"] + counts["unfrozen"] == counts["trainable"]
    ranks = sum(".ranknum." in name for name in parameters)  # AdaLoRA's layers hold their rank as a frozen number
    assert counts["trainable"] + counts["frozen"] == counts["total"] == before + counts["adapter"] + ranks
    assert counts["head"] > 0
    assert (counts["adapter"] > 0) == (chosen["method"] in ("lora", "hybrid", "ia3", "adalora", "prefix", "prompt"))
    assert (counts["unfrozen"] > 0) == (chosen["method"] in ("standard", "hybrid", "bitfit", "layernorm"))
    assert all(
        any(mark in name for mark in ("lora_", "ia3_", "prompt_encoder")) == (part == "adapter")
        for name, part in trainable.parts.items()
    )


@pytest.mark.parametrize("method", ["lora", "hybrid", "head"])
@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert", "deberta-v2"])
def test_frozen_weights_held_in_bf16_give_the_very_same_logits(
    family: str, method: str, model_directory: Any, labelled: Any, prepared: Any
) -> None:
    data = labelled([5, 9, 2], classes=3)
    batch = collate(data.tokens, data.labels, range(3))
    base = load_base(str(model_directory(family)), labels=LABELS, seed=0, dropout=0.0)
    trainable = prepared(base, method)
    for name, parameter in base.model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(generator=torch.Generator().manual_seed(0))
    classifier = Classifier(base.model.eval(), base.family, base.pad_id)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        before = classifier(batch)
        trainable.hold_frozen(torch.bfloat16)
        assert torch.equal(classifier(batch), before)
    kinds = {name: parameter.dtype for name, parameter in base.model.named_parameters()}
    assert {kinds[name] for name in trainable.parts} == {torch.float32}
    assert torch.bfloat16 in kinds.values()
