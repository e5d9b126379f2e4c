"""What a run saves is opened by stock libraries, with the very base it was trained on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from loratory import trained
from loratory.data import make_dataset
from loratory.errors import ModelError, StorageError
from loratory.evaluation import predictions
from loratory.exporting import FORMATS
from loratory.exporting.export import export
from loratory.methods import METHODS
from loratory.models.source import quiet
from loratory.run import train
from loratory.spec import HardwareSpec

CPU = HardwareSpec(device="cpu", precision="fp32")
ADAPTERS = ("lora", "hybrid", "ia3", "adalora", "prefix", "prompt")


@pytest.fixture(scope="session")
def three_classes(tmp_path_factory: pytest.TempPathFactory, texts: list[tuple[str, str]]) -> Path:
    """`texts`, of which those that hold w6 to w50 last are in a class of their own."""
    path = tmp_path_factory.mktemp("three") / "three.csv"
    rows = [(text, "odd" if int(text.rpartition("w")[2]) < 50 else label) for text, label in texts]
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows), encoding="utf8")
    return path


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT calls it by its old name
def test_stock_libraries_open_a_run_and_give_its_logits(
    method: str, spec: Any, tiny_bert: Path, three_classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import AutoPeftModelForSequenceClassification, PeftModel

    with monkeypatch.context() as elsewhere:
        elsewhere.chdir(tiny_bert.parent)
        chosen = spec(method, model=tiny_bert.name, dataset=str(three_classes))
        run = train(chosen, output=tmp_path / "run")
    with quiet():
        if method in ADAPTERS:
            base = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=3)
            models = [
                PeftModel.from_pretrained(base, run.directory),
                AutoPeftModelForSequenceClassification.from_pretrained(run.directory, num_labels=3),
            ]
        else:
            models = [AutoModelForSequenceClassification.from_pretrained(run.directory)]
            assert models[0].config.id2label == {0: "bad", 1: "good", 2: "odd"}
    dataset = make_dataset(chosen.data)
    kept = predictions.read(run.directory / "predictions.parquet")
    tokenizer = AutoTokenizer.from_pretrained(run.directory)
    for part in ("validation", "test"):
        split = getattr(dataset, part)
        encoded = tokenizer(list(split.texts), padding=True, truncation=True, max_length=32, return_tensors="pt")
        for model in models:
            with torch.no_grad():
                logits = model.eval()(**encoded).logits
            np.testing.assert_allclose(kept[part].logits, logits.numpy(), atol=1e-4, rtol=0)
        assert kept[part].labels.tolist() == split.labels.tolist()
    assert kept["test"].logits.shape == (len(dataset.test), 3)
    assert np.ptp(kept["test"].logits) > 0.1


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT calls it by its old name
def test_stock_peft_opens_adapted_embeddings_under_any_name(spec: Any, tmp_path: Path, tiny_bert: Path) -> None:
    from peft import PeftModel

    run = train(spec("lora", targets="word_embeddings,query", epochs=1, lr=0.05), output=tmp_path / "run")
    test = make_dataset(spec("lora").data).test
    encoded = AutoTokenizer.from_pretrained(run.directory)(list(test.texts), padding=True, return_tensors="pt")
    with quiet():
        base = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
        model = PeftModel.from_pretrained(base, run.directory, adapter_name="mine").eval()
    with torch.no_grad():
        logits = model(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"]).logits
    kept = predictions.read(run.directory / "predictions.parquet")["test"].logits
    np.testing.assert_allclose(kept, logits.numpy(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_is_opened_with_the_base_it_was_trained_on_alone(
    method: str, spec: Any, tmp_path: Path, tiny_bert: Path
) -> None:
    base = Path(shutil.copytree(tiny_bert, tmp_path / "base"))
    run = train(spec(method, model=str(base), epochs=1), output=tmp_path / "run")
    path = base / "model.safetensors"
    tensors = load_file(path)
    name = "encoder.layer.0.attention.self.key.weight"
    save_file({**tensors, name: tensors[name] + 0.01}, path, metadata={"format": "pt"})
    if method not in ADAPTERS:  # these hold all weights themselves
        assert trained.open_trained(run.directory, hardware=CPU).labels == ("bad", "good")
        return
    with pytest.raises(ModelError, match="has other weights, configuration or tokenizer than it was trained on"):
        trained.open_trained(run.directory, hardware=CPU)
    for kind in FORMATS:
        with pytest.raises(ModelError, match="has other weights, configuration or tokenizer than it was trained on"):
            export(run.directory, tmp_path / "exported.pth", kind)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "run"]


def reconfigured(base: Path) -> None:
    path = base / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "hidden_act": "relu"}))


def renumbered(base: Path) -> None:
    path = base / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    words = tokenizer["model"]["vocab"]
    words["w0"], words["w3"] = words["w3"], words["w0"]
    path.write_text(json.dumps(tokenizer))


@pytest.mark.parametrize("change", [reconfigured, renumbered])
def test_another_configuration_or_vocabulary_is_another_model(
    change: Callable[[Path], None], spec: Any, tmp_path: Path, tiny_bert: Path
) -> None:
    base = Path(shutil.copytree(tiny_bert, tmp_path / "base"))
    chosen = spec("lora", model=str(base), epochs=1)
    run = train(chosen, output=tmp_path / "run")
    change(base)
    with pytest.raises(ModelError, match="has other weights, configuration or tokenizer"):
        trained.open_trained(run.directory, hardware=CPU)
    with pytest.raises(StorageError, match="already holds another run"):
        train(chosen, output=tmp_path / "run")
    assert train(chosen, output=tmp_path / "other").record.fingerprint != run.record.fingerprint
