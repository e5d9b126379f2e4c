"""Virtual tokens before every text: stock PEFT gives the logits, and what cannot be is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from loratory.data import collate, make_dataset
from loratory.errors import ModelError, SettingsError
from loratory.evaluation import predictions
from loratory.exporting.export import export
from loratory.methods import TrainableModel, method_named, method_settings, prepare, spec_from_flags
from loratory.models.flat import Classifier
from loratory.models.load import Base, load_base
from loratory.models.source import quiet
from loratory.run import train

PAIRS = [
    *(("prefix", family) for family in ("bert", "roberta", "electra", "gpt2", "qwen3")),
    *(("prompt", family) for family in ("bert", "electra", "distilbert", "albert", "modernbert", "deberta-v2")),
]


def prepared(directory: Path, method: str, **own: Any) -> tuple[Base, TrainableModel]:
    base = load_base(str(directory), labels=("a", "b", "c"), seed=0, dropout=0.0)
    return base, method_named(method).prepare(base, method_settings({"name": method, **own}), seed=0)


@pytest.mark.parametrize(("method", "family"), PAIRS)
def test_it_learns_and_stock_peft_gives_its_logits(
    method: str, family: str, spec: Any, model_directory: Any, learnt: Any
) -> None:
    run = learnt(method, family)
    assert not run.record.environment["flat"]
    assert "frozen_bottom" not in run.record.environment["engine"]
    assert run.record.environment["engine"]["own_layers"]["layers"] == 0
    with quiet():
        base = AutoModelForSequenceClassification.from_pretrained(model_directory(family), num_labels=2)
        model = PeftModel.from_pretrained(base, run.directory).eval()
    tokenizer = AutoTokenizer.from_pretrained(run.directory)
    encoded = tokenizer(list(make_dataset(spec().data).test.texts), padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"]).logits
    kept = predictions.read(run.directory / "predictions.parquet")["test"].logits
    np.testing.assert_allclose(kept, logits.numpy(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", ["prefix", "prompt"])
def test_tokens_and_head_are_trained_and_move_and_the_rest_stays(method: str, spec: Any, tmp_path: Path) -> None:
    base, trainable = prepared(Path(spec().model), method, virtual_tokens=3)
    counts = trainable.counts()
    width, layers = base.config.hidden_size, base.config.num_hidden_layers
    assert counts["adapter"] == 3 * width * (2 * layers if method == "prefix" else 1)
    assert counts["unfrozen"] == 0
    assert counts["adapter"] + counts["head"] == counts["trainable"]
    assert counts["trainable"] + counts["frozen"] == counts["total"]
    before = trainable.trained_tensors()["prompt_embeddings"]
    run = train(spec(method, virtual_tokens=3, head_lr=1e-5), output=tmp_path / "run")
    from safetensors.torch import load_file

    after = load_file(run.directory / "adapter_model.safetensors")
    assert after.keys() == trainable.trained_tensors().keys()
    assert (after["prompt_embeddings"] - before).abs().max() > 1e-3


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", ["prefix", "prompt"])
def test_padding_changes_no_logits(method: str, precision: str, tiny_bert: Path, labelled: Any) -> None:
    data = labelled([9, 5, 2], classes=3)
    base, trainable = prepared(tiny_bert, method)
    if precision == "bf16":
        trainable.hold_frozen(torch.bfloat16)
    classifier = Classifier(base.model.eval(), base.family, base.pad_id)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        together = classifier(collate(data.tokens, data.labels, range(3)))
        alone = [classifier(collate(data.tokens, data.labels, [row])) for row in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5 if precision == "fp32" else 0.1, rtol=0)


def test_the_seed_of_the_run_decides_what_the_tokens_begin_as(tiny_bert: Path) -> None:
    def first(method: str, seed: int) -> torch.Tensor:
        base = load_base(str(tiny_bert), labels=("a", "b"), seed=0)
        made = method_named(method).prepare(base, method_settings({"name": method}), seed=seed)
        return made.trained_tensors()["prompt_embeddings"]

    state = torch.get_rng_state()
    for method in ("prefix", "prompt"):
        assert torch.equal(first(method, 1), first(method, 1))
        assert not torch.equal(first(method, 1), first(method, 2))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("method", ["prefix", "prompt"])
def test_it_is_exported_as_an_adapter_and_cannot_be_merged(method: str, spec: Any, tmp_path: Path) -> None:
    run = train(spec(method, virtual_tokens=4), output=tmp_path / "run")
    export(run.directory, tmp_path / "adapter", "adapter")
    assert (tmp_path / "adapter" / "README.md").is_file()
    for kind in ("merged", "pth"):
        with pytest.raises(ModelError, match="virtual tokens cannot be folded into a base; export it as an adapter"):
            export(run.directory, tmp_path / f"out.{kind}", kind)
        assert not (tmp_path / f"out.{kind}").exists()


@pytest.mark.parametrize(
    ("method", "own", "message"),
    [
        ("prompt", {"virtual_tokens": 0}, "--virtual-tokens 0: input should be greater than or equal to 1"),
        ("prompt", {"virtual_tokens": 33, "max_length": 32}, "--virtual-tokens 33: the model takes 64 tokens at most"),
        ("prefix", {"virtual_tokens": 60, "max_length": 32}, "--max-length is 32; give less of either"),
        (
            "prefix",
            {"activation_checkpointing": "on", "max_length": 32},
            "--activation-checkpointing on: a layer would keep the prefix twice",
        ),
        ("lora", {"virtual_tokens": 4}, "it belongs to prefix, prompt"),
        ("peft:prompt_tuning", {}, "use --method prompt"),
        ("peft:prefix-tuning", {}, "use --method prefix"),
        ("peft:p_tuning", {}, "it is no adapter beside a model's layers"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(method: str, own: dict[str, Any], message: str, tiny_bert: Path) -> None:
    base = load_base(str(tiny_bert), labels=("a", "b"), seed=0)
    with pytest.raises(SettingsError) as caught:
        prepare(base, spec_from_flags({"method": method, **own}))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
