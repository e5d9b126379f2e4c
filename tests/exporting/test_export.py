"""What is exported is the run, and stock libraries open it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from loratory import trained
from loratory.cli import main
from loratory.data import make_dataset
from loratory.errors import ModelError, SettingsError, StorageError
from loratory.evaluation.quality import Quality
from loratory.exporting import FORMATS
from loratory.exporting import export as exporting
from loratory.exporting.export import export
from loratory.methods import METHODS
from loratory.models.load import Base
from loratory.models.source import quiet
from loratory.run import Run, train
from loratory.spec import HardwareSpec

CPU = HardwareSpec(device="cpu", precision="fp32")
TEXTS = ["w0 w1 w2", "w3", "w4 w5 w40 w41 w42 w43 w44 w45 w46 w47 w48 w49"]

FOLDED = [method for method in METHODS if method not in ("prefix", "prompt")]
"""Methods whose runs can be merged: virtual tokens cannot be folded into a base."""


def expected(run: Path) -> Any:
    """The run's own logits of TEXTS."""
    return trained.open_trained(run, hardware=CPU).logits(TEXTS).numpy()


def encoded(directory: Path) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    return tokenizer(TEXTS, padding=True, truncation=True, max_length=32, return_tensors="pt")


def bytes_with(folder: Path, text: str) -> list[str]:
    return [path.name for path in folder.iterdir() if text.encode() in path.read_bytes()]


@pytest.mark.parametrize("method", FOLDED)
def test_merged_opens_in_a_stock_pipeline_with_the_label_names(
    method: str, runs: dict[str, Run], tmp_path: Path
) -> None:
    run, output = runs[method].directory, tmp_path / "deep" / "merged"
    assert export(run, output, "merged") is None
    assert [path.name for path in output.parent.iterdir()] == ["merged"]
    with quiet():
        classify = pipeline("text-classification", model=str(output), top_k=None)
        model = AutoModelForSequenceClassification.from_pretrained(output).eval()
    logits = expected(run)
    for row, found in zip(torch.from_numpy(logits).softmax(-1).tolist(), classify(TEXTS), strict=True):
        shares = {one["label"]: one["score"] for one in found}
        assert shares == pytest.approx(dict(zip(("bad", "good"), row, strict=True)), abs=1e-5)
    assert model.config.label2id == {"bad": 0, "good": 1}
    with torch.no_grad():
        np.testing.assert_allclose(model(**encoded(output)).logits.numpy(), logits, atol=1e-5)
    assert not any("lora" in name or "base_layer" in name for name in load_file(output / "model.safetensors"))
    assert bytes_with(output, str(run.parent)) == []


@pytest.mark.parametrize("method", ["lora", "hybrid", "ia3", "adalora", "prefix", "prompt"])
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT calls it by its old name
def test_stock_peft_opens_an_exported_adapter(method: str, runs: dict[str, Run], tmp_path: Path) -> None:
    from peft import AutoPeftModelForSequenceClassification

    output = tmp_path / "adapter"
    output.mkdir()  # an empty directory is one that nothing is lost in
    export(runs[method].directory, output, "adapter")
    with quiet():
        model = AutoPeftModelForSequenceClassification.from_pretrained(output, num_labels=2).eval()
    with torch.no_grad():
        logits = model(**encoded(output)).logits.numpy()
    np.testing.assert_allclose(logits, expected(runs[method].directory), atol=1e-5)


def test_a_run_without_adapter_is_not_exported_as_one(runs: dict[str, Run], tmp_path: Path) -> None:
    for method in ("standard", "head", "bitfit"):
        with pytest.raises(SettingsError, match=f"is a run of {method} and has no adapter; use merged"):
            export(runs[method].directory, tmp_path / "adapter", "adapter")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("family", "layers"), [("bert", 2), ("roberta", 1)])
def test_onnx_gives_the_runs_logits_for_any_batch_and_length(
    family: str, layers: int, spec: Any, model_directory: Callable[..., Path], tmp_path: Path
) -> None:
    import onnxruntime

    model = Path(shutil.copytree(model_directory(family, num_hidden_layers=layers), tmp_path / "base"))
    settings = model / "tokenizer_config.json"
    types = ["token_type_ids"] if family == "bert" else []  # RoBERTa has one type alone
    names = {"model_input_names": ["input_ids", "attention_mask", "token_type_ids"]}
    settings.write_text(json.dumps({**json.loads(settings.read_text()), **names}))
    run = train(spec("lora", model=str(model), epochs=1), output=tmp_path / "run").directory
    output = tmp_path / "onnx"
    export(run, output, "onnx")
    session = onnxruntime.InferenceSession(output / "model.onnx")
    assert [one.name for one in session.get_inputs()] == ["input_ids", "attention_mask", *types]
    tokenizer, logits = AutoTokenizer.from_pretrained(output), expected(run)
    alone = tokenizer(TEXTS[1], return_tensors="np")
    for given, rows in ((encoded(output), logits), (alone, logits[1:2])):
        (found,) = session.run(None, {one.name: np.asarray(given[one.name]) for one in session.get_inputs()})
        np.testing.assert_allclose(found, rows, atol=1e-4)
    pair = tokenizer(TEXTS[0], TEXTS[1], return_tensors="pt")  # whose second text is of another type
    export(run, tmp_path / "merged", "merged")
    with quiet(), torch.no_grad():
        merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
        wanted = {one.name: pair[one.name] for one in session.get_inputs()}
        rows = merged(**wanted).logits.numpy()
    (found,) = session.run(None, {name: tensor.numpy() for name, tensor in wanted.items()})
    np.testing.assert_allclose(found, rows, atol=1e-4)
    assert json.loads((output / "config.json").read_text())["id2label"] == {"0": "bad", "1": "good"}
    for place in (str(tmp_path), str(Path(sys.prefix)), str(Path(trained.__file__).parent)):
        assert bytes_with(output, place) == []


def test_a_model_that_torch_cannot_export_is_one_line(
    runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any, **settings: Any) -> None:
        raise torch.onnx.OnnxExporterError("no such operator\nmore")

    monkeypatch.setattr("torch.onnx.export", broken)
    with pytest.raises(ModelError, match=r"^bert cannot be exported as ONNX: no such operator$"):
        export(runs["head"].directory, tmp_path / "onnx", "onnx")
    assert list(tmp_path.iterdir()) == []


def test_without_its_packages_onnx_says_what_to_install(
    runs: dict[str, Run], tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "loratory.exporting.onnx", raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    command = ["export", "--model-path", str(runs["head"].directory), "--format", "onnx"]
    assert main([*command, "--output", str(tmp_path / "onnx")]) == 6
    line = 'error: --format onnx needs the package onnxruntime; run: pip install "loratory[onnx]"\n'
    assert capsys.readouterr().err == line
    assert list(tmp_path.iterdir()) == []


def test_what_gives_other_logits_is_not_kept(
    runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = exporting.load_base

    def other(*arguments: Any, **settings: Any) -> Base:
        base = load(*arguments, **settings)
        base.model.classifier.bias.data += torch.tensor([0.0, 0.01])
        return base

    monkeypatch.setattr(exporting, "load_base", other)
    with pytest.raises(ModelError, match=r"as merged it gives other logits \(difference 0.01\); nothing was written"):
        export(runs["lora"].directory, tmp_path / "merged", "merged")
    assert list(tmp_path.iterdir()) == []


def test_without_the_data_random_tokens_are_compared(
    spec: Any, tiny_csv: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = Path(shutil.copy(tiny_csv, tmp_path / "data.csv"))
    run = train(spec("lora", dataset=str(data), epochs=1), output=tmp_path / "run")
    assert len(make_dataset(spec("lora").data).validation) == 12
    export(run.directory, tmp_path / "with", "merged")
    assert "on 12 validation examples its logits" in (tmp_path / "with" / "README.md").read_text("utf8")
    assert caplog.messages == []
    data.unlink()
    export(run.directory, tmp_path / "without", "merged")
    assert "on 64 random token sequences its logits" in (tmp_path / "without" / "README.md").read_text("utf8")
    assert len(caplog.messages) == 1
    assert "is not there any more or has changed" in caplog.messages[0]
    weights = (load_file(tmp_path / name / "model.safetensors") for name in ("with", "without"))
    assert [len(names) for names in {frozenset(one) for one in weights}]


def test_a_format_gives_way_to_nothing(runs: dict[str, Run], tmp_path: Path, snapshot: Any) -> None:
    output = tmp_path / "merged"
    export(runs["lora"].directory, output, "merged")
    before = snapshot(tmp_path)
    with pytest.raises(StorageError, match="merged is not empty; choose another --output"):
        export(runs["lora"].directory, output, "adapter")
    assert snapshot(tmp_path) == before


@pytest.fixture(scope="module")
def run_of(spec: Any, model_directory: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """(family) -> the directory of a LoRA run of a decoder, or of BERT, of one layer: ONNX takes seconds for each."""
    made: dict[str, Path] = {}

    def run(family: str) -> Path:
        if family not in made:
            output = tmp_path_factory.mktemp("families") / family
            model = model_directory(family, **{"n_layer" if family == "gpt2" else "num_hidden_layers": 1})
            made[family] = train(spec("lora", model=str(model), epochs=1), output=output).directory
        return made[family]

    return run


@pytest.mark.parametrize(
    ("kind", "family"),  # BERT's ONNX is that of the test above
    [
        (kind, family)
        for kind in FORMATS
        for family in ("bert", "gpt2", "qwen2", "llama")
        if (kind, family) != ("onnx", "bert")
    ],
)
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT calls it by its old name
def test_every_format_of_an_encoder_and_of_decoders_gives_the_runs_logits(
    kind: str, family: str, run_of: Callable[[str], Path], tmp_path: Path
) -> None:
    run, output = run_of(family), tmp_path / ("model.pth" if kind == "pth" else kind)
    logits = expected(run)
    export(run, output, kind)
    if kind == "pth":
        found = trained.open_trained(output, hardware=CPU).logits(TEXTS).numpy()
    elif kind == "onnx":
        import onnxruntime

        session, given = onnxruntime.InferenceSession(output / "model.onnx"), encoded(output)
        (found,) = session.run(None, {one.name: np.asarray(given[one.name]) for one in session.get_inputs()})
    elif kind == "adapter":
        from peft import AutoPeftModelForSequenceClassification

        with quiet(), torch.no_grad():
            model = AutoPeftModelForSequenceClassification.from_pretrained(output, num_labels=2).eval()
            found = model(**encoded(output)).logits.numpy()
    else:
        with quiet():
            classify = pipeline("text-classification", model=str(output), top_k=None)
        shares = [
            {one["label"]: one["score"] for one in row} for row in classify(TEXTS, truncation=True, max_length=32)
        ]
        assert [row.keys() for row in shares] == [{"bad", "good"}] * 3
        odds = np.log([[row["bad"], row["good"]] for row in shares])
        np.testing.assert_allclose(odds[:, 1] - odds[:, 0], logits[:, 1] - logits[:, 0], atol=1e-4)
        return
    np.testing.assert_allclose(found, logits, atol=1e-4)


def test_a_pth_that_would_give_other_logits_is_not_written(
    runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = exporting.read_pth

    def other(path: Path) -> dict[str, torch.Tensor]:
        return {name: tensor + 0.01 * name.endswith("classifier.bias") for name, tensor in read(path).items()}

    monkeypatch.setattr(exporting, "read_pth", other)
    with pytest.raises(ModelError, match=r"as pth it gives other logits \(difference 0.01\); nothing was written"):
        export(runs["lora"].directory, tmp_path / "model.pth", "pth")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("at", ["model.json", "model.pth"])
def test_a_pth_and_its_card_are_written_both_or_neither(
    at: str, runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def full(old: Path, new: Path) -> None:
        if Path(new).name == at:
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(old, new)

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(StorageError, match=f"cannot write .*{at}: No space left"):
        export(runs["head"].directory, tmp_path / "model.pth", "pth")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", FOLDED)
def test_an_exported_pth_is_the_run(method: str, runs: dict[str, Run], tmp_path: Path) -> None:
    output = tmp_path / "deep" / "model.pth"
    export(runs[method].directory, output, "pth")
    opened = trained.open_trained(output, hardware=CPU)
    found = trained.evaluate(output, opened)
    assert opened.labels == ("bad", "good")
    kept = Quality.from_record(runs[method].record.quality["test"])
    assert (found.quality.confusion, found.quality.log_loss) == (kept.confusion, pytest.approx(kept.log_loss))
    state = torch.load(output, weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    assert not any("lora_" in name or "base_layer" in name for name in state)
    before = output.read_bytes()
    with pytest.raises(StorageError, match="exists already"):
        export(runs[method].directory, output, "pth")
    assert output.read_bytes() == before
