"""The table of families says what transformers' configurations, tiny models and the engine show."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from loratory.engine.hardware import Hardware
from loratory.engine.layers import quickened
from loratory.models.families import FAMILIES
from loratory.models.flat import Classifier
from loratory.models.load import load_base
from loratory.spec import HardwareSpec


@pytest.mark.parametrize("name", FAMILIES)
def test_a_familys_row_is_what_its_model_shows(name: str, model_directory: Any) -> None:
    family, usual = FAMILIES[name], AutoConfig.for_model(name)
    base = load_base(str(model_directory(name)), labels=("a", "b"), seed=0)
    encoder = family.encoder(base.model)
    assert family.grouped == hasattr(usual, "num_key_value_heads")
    assert family.local == ("sliding_attention" in (getattr(usual, "layer_types", None) or ()))
    assert family.biases == any(parameter.endswith("bias") for parameter, _ in encoder.named_parameters())
    assert family.takes_keys == ("past_key_values" in inspect.signature(encoder.forward).parameters)
    assert family.flat == Classifier(base.model, family, base.pad_id).flat
    with quickened(base.model, Hardware.of(HardwareSpec(device="cpu", precision="fp32"))) as quick:
        assert {quick.computes(block) for block in family.blocks(base.model)} == {family.own_layers}


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.flat])
def test_a_decoders_token_sees_none_that_comes_after_it(name: str, model_directory: Any, labelled: Any) -> None:
    base = load_base(str(model_directory(name)), labels=("a", "b"), seed=0)
    classifier = Classifier(base.model.eval(), base.family, base.pad_id)
    ((_, one),) = labelled([6]).by_length(tokens=64)
    other = one.input_ids.clone()
    other[5] = 7 if one.input_ids[5] != 7 else 8
    with torch.no_grad():
        before, after = (classifier.encode(batch)[:5] for batch in (one, replace(one, input_ids=other)))
    assert torch.allclose(before, after, atol=1e-6) == FAMILIES[name].causal
