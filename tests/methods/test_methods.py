"""What each method trains, on every family: counts, parts, errors, and that LoRA begins as the identity."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from peft.tuners.lora import LoraLayer
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.pytorch_utils import Conv1D

from loratory.data import collate
from loratory.engine.fit import fit
from loratory.engine.hardware import Hardware
from loratory.engine.meter import Meter
from loratory.errors import SettingsError
from loratory.methods import METHODS, TrainableModel, method_named, method_settings, refusal
from loratory.methods.hybrid import layer_names
from loratory.methods.lora import find_targets
from loratory.models.families import FAMILIES, family_of
from loratory.models.flat import Classifier
from loratory.models.load import Base, load_base
from loratory.spec import HardwareSpec, TrainingSpec

LABELS = ("a", "b", "c")


def prepared(base: Base, method: str, **own: Any) -> TrainableModel:
    return method_named(method).prepare(base, method_settings({"name": method, **own}), seed=0)


def without_weights(config: Any) -> Base:
    """A base for counting: on the meta device."""
    with torch.device("meta"):
        return Base(AutoModelForSequenceClassification.from_config(config), None, family_of(config), "", "")


def adapted_modules(trainable: TrainableModel) -> set[str]:
    return {name.split(".lora_")[0] for name, part in trainable.parts.items() if part == "adapter"}


@pytest.fixture
def roberta_base() -> Base:
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


def test_standard_trains_all_of_roberta_base(roberta_base: Base) -> None:
    counts = prepared(roberta_base, "standard").counts()
    assert counts["trainable"] == counts["total"] == 124_647_939
    assert counts["head"] == 592_899
    assert counts["frozen"] == counts["adapter"] == 0


def test_lora_on_roberta_base_has_the_known_counts(roberta_base: Base) -> None:
    counts = prepared(roberta_base, "lora", rank=8, targets="attention").counts()
    assert counts["adapter"] == 294_912
    assert counts["head"] == 592_899
    assert counts["trainable"] == 887_811
    assert counts["unfrozen"] == 0
    assert counts["frozen"] == 124_647_939 - 592_899
    assert round(100 * counts["trainable"] / counts["total"], 2) == 0.71
    assert {parameter.device.type for parameter in roberta_base.model.parameters()} == {"meta"}


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
def test_lora_adapts_the_encoder_and_never_the_head(family: str, targets: str, model_directory: Any) -> None:
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


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_is_all_that_stands_between_encoder_and_logits(family: str, model_directory: Any) -> None:
    base = load_base(str(model_directory(family)), labels=LABELS, seed=0)
    names = {name for name, _ in base.model.named_parameters()}
    prefix = base.model.base_model_prefix + "."
    outside = {name for name in names if not name.startswith(prefix)}
    pooler = {name for name in names if name.startswith(prefix + "pooler.")}
    assert set(prepared(base, "head").parts) == outside | pooler
    assert outside


def test_targets_may_be_names(tiny_bert: Any) -> None:
    base = load_base(str(tiny_bert), labels=LABELS, seed=0)
    adapted = adapted_modules(prepared(base, "lora", rank=2, targets="key, word_embeddings,layer.1.output.dense"))
    assert adapted == {
        "bert.embeddings.word_embeddings",
        "bert.encoder.layer.0.attention.self.key",
        "bert.encoder.layer.1.attention.self.key",
        "bert.encoder.layer.1.output.dense",
    }


@pytest.mark.parametrize("unfrozen", [0, 1, 2])
def test_hybrid_of_rank_0_trains_the_top_layers_and_nothing_below(unfrozen: int, tiny_bert: Path) -> None:
    base = load_base(str(tiny_bert), labels=LABELS, seed=0)
    top = tuple(name + "." for name in layer_names(base)[2 - unfrozen :])
    trainable = prepared(base, "hybrid", rank=0, unfrozen_layers=unfrozen)
    found = {name for name, part in trainable.parts.items() if part == "unfrozen"}
    assert found == {name for name, _ in base.model.named_parameters() if name.startswith(top)}
    assert bool(found) == (unfrozen > 0)
    assert trainable.adapter is None
    counts, head = trainable.counts(), prepared(load_base(str(tiny_bert), labels=LABELS, seed=0), "head").counts()
    assert counts["adapter"] == 0
    assert counts["trainable"] == head["trainable"] + counts["unfrozen"]


def test_hybrid_without_an_unfrozen_layer_is_lora(tiny_bert: Path) -> None:
    one, two = (load_base(str(tiny_bert), labels=LABELS, seed=0) for _ in range(2))
    hybrid = prepared(one, "hybrid", rank=2, unfrozen_layers=0).trained_tensors()
    lora = prepared(two, "lora", rank=2).trained_tensors()
    assert hybrid.keys() == lora.keys()
    assert all(torch.equal(tensor, lora[name]) for name, tensor in hybrid.items())


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "albert"])
def test_hybrid_trains_the_top_layer_and_adapts_those_below(family: str, model_directory: Any) -> None:
    base = load_base(str(model_directory(family)), labels=LABELS, seed=0)
    *below, top = layer_names(base)
    trainable = prepared(base, "hybrid", rank=2, unfrozen_layers=1)
    unfrozen = {name for name, part in trainable.parts.items() if part == "unfrozen"}
    assert unfrozen == {name for name, _ in base.model.named_parameters() if name.startswith(top + ".")}
    assert not any("lora_" in name for name in unfrozen)
    assert all(any(name.startswith(layer + ".") for layer in below) for name in adapted_modules(trainable))
    assert {layer for layer in below for name in adapted_modules(trainable) if name.startswith(layer + ".")} == set(
        below
    )
    frozen = [name for name, parameter in base.model.named_parameters() if not parameter.requires_grad]
    assert any(name.startswith(below[0] + ".") for name in frozen)
    assert any("embeddings" in name or "embed_tokens" in name or "wte" in name for name in frozen)


CHOICES = st.fixed_dictionaries(
    {
        "family": st.sampled_from(sorted(FAMILIES)),
        "method": st.sampled_from(sorted(METHODS)),
        "rank": st.integers(1, 16),
        "targets": st.sampled_from(["attention", "all-linear"]),
    }
)


@settings(max_examples=30, deadline=None)
@given(CHOICES)
def test_the_parts_divide_what_is_trainable_and_the_counts_add_up(model_directory: Any, chosen: dict[str, Any]) -> None:
    assume(refusal(METHODS[chosen["method"]], FAMILIES[chosen["family"]]) is None)
    base = without_weights(AutoConfig.from_pretrained(model_directory(chosen["family"]), num_labels=3))
    before = sum(parameter.numel() for parameter in base.model.parameters())
    own = {"rank": chosen["rank"], "targets": chosen["targets"]} if chosen["method"] in ("lora", "hybrid") else {}
    trainable = prepared(base, chosen["method"], **own)
    parameters = dict(base.model.named_parameters())
    assert set(trainable.parts) == {name for name, parameter in parameters.items() if parameter.requires_grad}
    assert set(trainable.trainable()) == set(trainable.parts)
    counts = trainable.counts()
    assert counts["adapter"] + counts["head"] + counts["unfrozen"] == counts["trainable"]
    ranks = sum(".ranknum." in name for name in parameters)  # AdaLoRA's layers hold their rank as a frozen number
    assert counts["trainable"] + counts["frozen"] == counts["total"] == before + counts["adapter"] + ranks
    assert counts["head"] > 0
    assert (counts["adapter"] > 0) == (chosen["method"] in ("lora", "hybrid", "ia3", "adalora"))
    assert (counts["unfrozen"] > 0) == (chosen["method"] in ("standard", "hybrid", "bitfit", "layernorm"))
    assert all(("lora_" in name or "ia3_" in name) == (part == "adapter") for name, part in trainable.parts.items())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("targets", ["attention", "all-linear"])
def test_lora_begins_as_the_identity(family: str, targets: str, model_directory: Any, labelled: Any) -> None:
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


@pytest.mark.parametrize("method", ["lora", "hybrid", "head"])
@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert", "deberta-v2"])
def test_frozen_weights_held_in_bf16_give_the_very_same_logits(
    family: str, method: str, model_directory: Any, labelled: Any
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


@pytest.mark.parametrize(
    ("family", "method", "own", "message"),
    [
        ("bert", "lora", {"rank": 33}, "--rank 33 is above the width 32"),
        ("electra", "lora", {"rank": 17, "targets": "embeddings_project"}, "--rank 17 is above the width 16"),
        ("bert", "lora", {"targets": "qurey"}, "did you mean 'query'?"),
        ("bert", "lora", {"targets": "query,"}, "matches no layer of bert"),
        ("bert", "lora", {"targets": "classifier"}, "matches no layer of bert"),
        ("albert", "hybrid", {}, "albert shares one layer's weights"),
        ("bert", "hybrid", {"unfrozen_layers": 2}, "the model has 2 layers, so at most 1 can be unfrozen"),
        ("bert", "hybrid", {"rank": 0, "unfrozen_layers": 3}, "the model has 2 layers, so at most 2 can be unfrozen;"),
        ("bert", "hybrid", {"rank": 0, "frozen_layers": 1}, "with --rank 0 every layer below the unfrozen ones is"),
        ("bert", "lora", {"rank": 0}, "--rank 0: input should be greater than or equal to 1"),
        ("bert", "hybrid", {"targets": "layer.1.output.dense"}, "no layer is left to adapt between"),
        ("bert", "hybrid", {"frozen_layers": 1}, "no layer is left for LoRA"),
        ("bert", "lora", {"unfrozen_layers": 1}, "it belongs to hybrid"),
        ("bert", "standard", {"rank": 8}, "it belongs to lora, hybrid"),
        ("modernbert", "bitfit", {}, "modernbert has no biases"),
        ("bert", "adalora", {"initial_rank": 4, "target_rank": 4}, "leaves nothing to cut down to --target-rank 4"),
        ("bert", "adalora", {"before_cutting": 0.5, "after_cutting": 0.5}, "leave no steps to cut in"),
        ("bert", "adalora", {"targets": "word_embeddings"}, "is an embedding, and AdaLoRA adapts linear layers"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused(
    family: str, method: str, own: dict[str, Any], message: str, model_directory: Any
) -> None:
    base = load_base(str(model_directory(family)), labels=LABELS, seed=0)
    with pytest.raises(SettingsError) as caught:
        prepared(base, method, **own)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_rank_as_wide_as_the_layer_is_allowed(family: str, model_directory: Any) -> None:
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
    tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
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


def test_bitfit_trains_every_bias_and_layernorm_every_norm_of_the_encoder(tiny_bert: Path) -> None:
    base = load_base(str(tiny_bert), labels=LABELS, seed=0)
    encoder = {name for name, _ in base.model.named_parameters() if "pooler" not in name and "classifier" not in name}
    chosen = {"bitfit": lambda name: name.endswith(".bias"), "layernorm": lambda name: "LayerNorm" in name}
    for method, wanted in chosen.items():
        parts = prepared(base, method).parts
        assert {name for name, part in parts.items() if part == "unfrozen"} == set(filter(wanted, encoder))


@pytest.mark.parametrize("family", FAMILIES)
def test_ia3_scales_keys_values_and_inner_activations_of_every_layer(family: str, model_directory: Any) -> None:
    base = load_base(str(model_directory(family)), labels=LABELS, seed=0)
    modules = dict(base.model.named_modules())
    layers = len(base.family.blocks(base.model))
    sizes: dict[str, int] = {}
    for name, part in prepared(base, "ia3").parts.items():
        if part == "adapter":
            sizes[name.split(".ia3_l")[0]] = base.model.get_parameter(name).numel()
    assert len(sizes) == layers * (len(base.family.keys_and_values) + 1)
    for name, size in sizes.items():
        width, turned = modules[name].weight.shape, isinstance(modules[name], Conv1D)  # (in, out) in a Conv1D
        assert size == width[name.endswith(base.family.down) != turned]


def test_adalora_cuts_ranks_down_to_their_mean_and_adds_its_penalty(tiny_bert: Path, labelled: Any) -> None:
    base = load_base(str(tiny_bert), labels=("a", "b"), seed=0, dropout=0.0)
    own = {"initial_rank": 6, "target_rank": 2, "cut_every": 1}
    trainable = prepared(base, "adalora", **own)
    companion = trainable.companion
    assert companion is not None
    matrices = [p for name, p in trainable.trainable().items() if ".lora_A." in name or ".lora_B." in name]
    apart = []
    for matrix in matrices:
        square = matrix @ matrix.T if len(matrix) == 6 else matrix.T @ matrix
        apart.append(torch.linalg.norm(square - torch.eye(6)))
    torch.testing.assert_close(companion.penalty(), 0.5 * sum(apart) / len(apart))
    data, hardware = labelled([5, 9, 2, 7]), Hardware.of(HardwareSpec(device="cpu", precision="fp32"))
    fit(
        Classifier(base.model, base.family, base.pad_id), data, None, TrainingSpec(epochs=10, batch_size=4),
        lr=0.01, seed=0, hardware=hardware, meter=Meter(hardware), score=lambda logits: {},
        better=lambda new, old: True, companion=companion,
    )  # fmt: skip
    kept = [int((p != 0).sum()) for name, p in trainable.trainable().items() if "lora_E" in name]
    assert sum(kept) == 2 * len(kept)
    assert len(kept) == 4
    assert trainable.adapter is not None
    assert (trainable.adapter.total_step, trainable.adapter.tinit, trainable.adapter.tfinal) == (10, 1, 3)
    shapes = {tuple(t.shape) for name, t in trainable.trained_tensors().items() if "lora_E" in name}
    assert shapes == {(6, 1)}
