"""Bases in 8 and 4 bits: what is refused where, and, on a CPU too, that LoRA beside one learns and comes back."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from loratory import predicting, trained
from loratory.cli import main
from loratory.errors import ModelError, ResourceError, SettingsError
from loratory.estimates import Estimates
from loratory.estimating import estimate
from loratory.exporting.export import export
from loratory.methods import METHODS, method_named, method_settings, spec_from_flags
from loratory.methods.quantized import check_quantized
from loratory.models.families import FAMILIES
from loratory.models.load import Base, load_base, load_trained
from loratory.models.quantized import WHY_EAGER, Quantization, check_packages, quantized_layers
from loratory.models.source import quiet
from loratory.report.estimates import OUTLIERS
from loratory.run import Run, train
from loratory.spec import HardwareSpec

DECODERS = [name for name, family in FAMILIES.items() if family.causal]
KINDS = ["8bit", "4bit"]
CPU = torch.device("cpu")
TEXTS = ["w0 w1 w2", "w3", "w4 w5 w40 w41 w42 w43 w44 w45 w46 w47 w48 w49"]

computes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs bitsandbytes")


def held(kind: str) -> Quantization:
    """On the CPU, which the commands refuse: bitsandbytes computes there too, but slowly."""
    return Quantization(kind, CPU, torch.float32)


@pytest.fixture(autouse=True)
def _one_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """bitsandbytes packs 4-bit weights otherwise on some CPUs once they predict, and cannot train after that."""
    if find_spec("bitsandbytes") is not None:
        monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)


@pytest.fixture
def wide(model_directory: Any) -> Callable[[str], Path]:
    """(family) -> a tiny model whose rows fill a block of 4-bit numbers."""
    sizes = {"gpt2": {"n_embd": 64}}
    other = {"hidden_size": 64, "intermediate_size": 128}
    return lambda family: model_directory(family, **sizes.get(family, other))


def load(place: Path, kind: str | None) -> Base:
    quantization = None if kind is None else held(kind)
    return load_base(str(place), labels=("bad", "good"), seed=0, quantization=quantization)


@computes
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", DECODERS)
def test_every_linear_layer_of_the_encoder_is_quantised_and_the_head_is_not(family: str, kind: str, wide: Any) -> None:
    from loratory.methods.lora import find_targets

    plain, base = load(wide(family), None), load(wide(family), kind)
    assert set(quantized_layers(base.model)) == set(find_targets(plain.model, plain.family, "all-linear"))
    assert base.digest == plain.digest
    assert {parameter.dtype for parameter in base.model.score.parameters()} == {torch.float32}
    torch.testing.assert_close(base.model.score.weight, plain.model.score.weight)
    norms = [p for name, p in base.model.named_parameters() if "norm" in name or "ln_" in name or "embed" in name]
    assert {parameter.dtype for parameter in norms} == {torch.float32}
    prepared = [method_named("lora").prepare(one, method_settings({"name": "lora"}), seed=0) for one in (plain, base)]
    assert prepared[0].counts() == prepared[1].counts()  # two 4-bit numbers in a byte are two


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs may quantise on the CPU."""
    monkeypatch.setattr(Quantization, "of", lambda kind, *, device, precision: held(kind))


@pytest.fixture
def run(allowed: None, spec: Any, wide: Any, tmp_path: Path) -> Callable[..., Run]:
    """(family, kind, **flags) -> a run over a quantised base."""

    def made(family: str, kind: str, **flags: Any) -> Run:
        given = {"model": str(wide(family)), "quantize": kind, "epochs": 3, **flags}
        return train(spec("lora", **given), output=tmp_path / "run")

    return made


DORA = {"dora": "on", "targets": "all-linear"}


@computes
@pytest.mark.parametrize(
    ("family", "kind", "own"),
    [("gpt2", "8bit", {}), ("gpt2", "4bit", {}), ("llama", "8bit", {}), ("qwen3", "4bit", {}), ("qwen2", "4bit", DORA)],
)
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT calls it by its old name
def test_lora_beside_it_learns_says_so_and_stock_peft_gives_its_logits(
    family: str, kind: str, own: dict[str, Any], run: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from peft import AutoPeftModelForSequenceClassification
    from transformers import AutoTokenizer

    with caplog.at_level(logging.INFO, logger="loratory"):
        done = run(family, kind, **own)  # which loads back what it saved, and compares
    rows = (done.directory / "history.jsonl").read_text("utf8").splitlines()
    assert json.loads(rows[-1])["loss"] < json.loads(rows[0])["loss"]
    record, engine = done.record, done.record.environment["engine"]
    assert record.spec["training"]["quantize"] == kind
    assert engine["quantized"]["layers"] > 0
    assert engine["quantized"][f"load_in_{kind}"] is True
    assert engine["quantized"]["bitsandbytes"] == version("bitsandbytes")
    assert engine["own_layers"]["layers"] == engine["graphs"] == 0
    assert "linear layers are held in fewer bits" in caplog.text
    assert not any("base_layer" in name for name in load_file(done.directory / "adapter_model.safetensors"))
    output = tmp_path / "adapter"
    export(done.directory, output, "adapter")
    card = (output / "README.md").read_text("utf8")
    assert f"of the base held in {kind} by bitsandbytes" in card
    made = (line for line in card.splitlines() if line.startswith("held = "))
    names: dict[str, Any] = {}
    exec("from transformers import BitsAndBytesConfig\n" + "\n".join(made), names)
    with quiet(), torch.no_grad():
        model = AutoPeftModelForSequenceClassification.from_pretrained(
            output, num_labels=2, quantization_config=names["held"], dtype=torch.float32, device_map={"": "cpu"}
        ).eval()
        tokenizer = AutoTokenizer.from_pretrained(output)
        encoded = [tokenizer(text, truncation=True, max_length=32, return_tensors="pt") for text in TEXTS]
        found = [model(**text).logits[0] for text in encoded]
    expected = trained.open_trained(done.directory, hardware=HardwareSpec(device="cpu", precision="fp32")).logits(TEXTS)
    apart = (torch.stack(found) - expected).abs().max() / expected.abs().max()
    assert apart < (0.1 if kind == "8bit" else 1e-3)  # 8 bits round inputs too, and batches of other forms otherwise


@computes
@pytest.mark.parametrize(("family", "kind"), [("gpt2", "8bit"), ("llama", "4bit"), ("qwen2", "8bit")])
def test_an_estimate_quantises_random_values_and_needs_no_weights(
    family: str, kind: str, allowed: None, spec: Any, wide: Any, tmp_path: Path
) -> None:
    place = tmp_path / "model"
    shutil.copytree(wide(family), place, ignore=shutil.ignore_patterns("*.safetensors"))
    run = train(spec("lora", model=str(wide(family)), quantize=kind, epochs=1), output=tmp_path / "run").record
    found = estimate(spec("lora", model=str(place), quantize=kind, epochs=1), seconds=0.0)
    assert found.parameters == run.parameters
    assert found.checkpoint_bytes < run.cost["checkpoint_bytes"] < found.checkpoint_bytes + 100 * 200  # its header
    assert found.memory_parts_bytes is not None
    for part in ("weights", "gradients", "optimizer", "activations"):
        assert found.memory_parts_bytes[part] == run.cost["memory_parts_bytes"][part], part
    plain = estimate(spec("lora", model=str(place), epochs=1), seconds=0.0)
    assert plain.memory_parts_bytes is not None
    assert found.memory_parts_bytes["weights"] < plain.memory_parts_bytes["weights"]
    assert (found.parameters, found.operations) == (plain.parameters, plain.operations)
    notes = " ".join(Estimates((found,)).table.notes)
    assert (OUTLIERS in notes) == (kind == "8bit")


@computes
@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_bottom_and_checkpointed_layers_go_with_it(
    kind: str, allowed: None, spec: Any, wide: Any, tmp_path: Path
) -> None:
    own = {"unfrozen_layers": 0, "frozen_layers": 1, "activation_checkpointing": "on", "accumulate": 2}
    done = train(spec("hybrid", model=str(wide("llama")), quantize=kind, epochs=3, **own), output=tmp_path / "run")
    rows = (done.directory / "history.jsonl").read_text("utf8").splitlines()
    assert json.loads(rows[-1])["loss"] < json.loads(rows[0])["loss"]
    assert done.record.environment["engine"]["frozen_bottom"]["layers"] == 1
    assert done.record.parameters["unfrozen"] == 0


@computes
def test_the_base_of_such_an_adapter_is_compared_and_nothing_is_folded_into_it(
    run: Any, tmp_path: Path, wide: Any, snapshot: Any, capsys: Any
) -> None:
    done = run("llama", "4bit", epochs=1)
    for kind in ("merged", "onnx", "pth"):
        output = tmp_path / ("model.pth" if kind == "pth" else kind)
        command = ["export", "--model-path", str(done.directory), "--format", kind, "--output", str(output)]
        before = snapshot(tmp_path)
        capsys.readouterr()
        assert main(command) == 2
        line = (
            f"error: --format {kind}: the base of {done.directory} is held in 4bit, and no adapter is folded into that"
        )
        assert capsys.readouterr().err == line + "; use adapter\n"
        assert snapshot(tmp_path) == before
    model = str(wide("llama"))
    with pytest.raises(ModelError, match="is held in 4bit, and no adapter is folded into that"):
        load_trained(
            done.directory, adapter=True, model=model, labels=("bad", "good"), merge=True, quantization=held("4bit")
        )
    config = Path(model) / "tokenizer_config.json"
    text = config.read_text()
    try:
        config.write_text(text + "\n")
        with pytest.raises(ModelError, match="has other weights, configuration or tokenizer than it was trained on"):
            trained.open_trained(done.directory, hardware=HardwareSpec(device="cpu"))
    finally:
        config.write_text(text)


@computes
def test_one_that_is_quantised_is_not_shared_with_one_that_is_not(
    run: Any, spec: Any, wide: Any, tmp_path: Path
) -> None:
    done = run("llama", "8bit", epochs=1)
    other = train(spec("lora", model=str(wide("llama")), epochs=1), output=tmp_path / "plain")
    paths, cpu = [other.directory, done.directory], HardwareSpec(device="cpu", precision="fp32")
    together = predicting.predict(predicting.find(paths), TEXTS, hardware=cpu)
    for path, one in zip(paths, together, strict=True):
        (alone,) = predicting.predict(predicting.find([path]), TEXTS, hardware=cpu)
        np.testing.assert_array_equal(one.probabilities, alone.probabilities)
    assert np.abs(together[0].probabilities - together[1].probabilities).max() > 1e-4


REFUSED: list[Any] = [
    ({"method": method}, f"{method} is no LoRA beside a frozen base; use --method lora")
    for method in METHODS
    if method not in ("lora", "hybrid")
]
REFUSED += [
    pytest.param(
        {"method": "hybrid", "unfrozen_layers": 1},
        "hybrid trains some of the base's weights; use --method lora",
        marks=computes,  # the one that a model without values must show, after the run has its name
    ),
    ({"method": "hybrid", "rank": 0}, "hybrid is no LoRA beside a frozen base"),
    ({"method": "peft:vera"}, "peft:VERA is no LoRA beside a frozen base"),
    ({"method": "lora", "init": "pissa"}, "--init pissa changes the base's weights"),
    ({"method": "lora", "bias": "all"}, "--bias all trains the base's biases"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("own", "says"), REFUSED, ids=lambda value: str(value))
def test_what_would_train_the_base_is_refused_before_it_is_loaded(
    kind: str, own: dict[str, Any], says: str, allowed: None, spec: Any, model_directory: Any, tmp_path: Path
) -> None:
    chosen = spec(model=str(model_directory("llama")), quantize=kind, **own)
    with pytest.raises(SettingsError, match=f"^--quantize {kind}: .*{says}") as caught:
        train(chosen, output=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_hybrid_that_trains_no_layer_fully_is_lora() -> None:
    check_quantized("4bit", spec_from_flags({"method": "hybrid", "unfrozen_layers": 0}).method, FAMILIES["llama"])


def test_the_norms_of_weights_in_8_bits_are_not_trained() -> None:
    with pytest.raises(SettingsError, match=r"^--quantize 8bit: .*; use --quantize 4bit$"):
        check_quantized("8bit", spec_from_flags({"method": "lora", **DORA}).method, FAMILIES["llama"])


def test_an_encoder_is_refused(spec: Any, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^--quantize 4bit: it is for decoders, and bert is none; leave it out$"):
        train(spec("lora", quantize="4bit"), output=tmp_path / "run")


@pytest.mark.parametrize("package", ["bitsandbytes", "accelerate"])
def test_a_missing_package_is_named_with_what_installs_it(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("bitsandbytes", "accelerate"):
        module = None if name == package else sys.modules.get(name, pytest)  # something that is there
        monkeypatch.setitem(sys.modules, name, module)
    line = f'--quantize needs the package {package}; run: pip install "loratory[quant]"'
    with pytest.raises(ResourceError) as caught:
        check_packages()
    assert str(caught.value) == line
    with pytest.raises(ResourceError) as caught:
        Quantization.of("4bit", device=torch.device("cuda"), precision="bf16")
    assert str(caught.value) == line


def test_without_cuda_it_is_one_line_and_nothing_is_written(
    model_directory: Any, tiny_csv: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    command = ["train", "--method", "lora", "--quantize", "4bit", f"--model={model_directory('llama')}"]
    command += [f"--dataset={tiny_csv}", "--max-length=32", f"--output={tmp_path / 'run'}"]
    asked = ["estimate", *command[1:-1]]
    for words in ([*command, "--device", "auto"], [*command, "--device", "cpu"], asked):
        assert main(words) == 6
        out, err = capsys.readouterr()
        assert (out, err) == ("", "error: a base in 4bit (--quantize) needs a CUDA device, and this is the cpu\n")
    assert list(tmp_path.iterdir()) == []
    assert main([*command, "--quantize", "5bit"]) == 2
    assert "--quantize '5bit': input should be 'off', '8bit' or '4bit'" in capsys.readouterr().err


@computes
def test_a_run_over_one_is_not_opened_and_exported_without_cuda(
    run: Any, tmp_path: Path, snapshot: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = run("llama", "4bit", epochs=1).directory
    monkeypatch.undo()
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    capsys.readouterr()
    before = snapshot(tmp_path)
    for command in (["predict", "w0"], ["evaluate"], ["export", "--format", "adapter", f"--output={tmp_path / 'new'}"]):
        assert main([command[0], "--model-path", str(directory), *command[1:]]) == 6
        out, err = capsys.readouterr()
        assert (out, err) == ("", "error: a base in 4bit (--quantize) needs a CUDA device, and this is the cpu\n")
    assert snapshot(tmp_path) == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@computes
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_on_cuda_it_trains_comes_back_and_is_exported(
    precision: str, kind: str, spec: Any, wide: Any, tmp_path: Path
) -> None:
    given = {"model": str(wide("llama")), "quantize": kind, "epochs": 4, "device": "cuda", "precision": precision}
    done = train(spec("lora", **given), output=tmp_path / "run")
    rows = (done.directory / "history.jsonl").read_text("utf8").splitlines()
    assert json.loads(rows[-1])["loss"] < json.loads(rows[0])["loss"]
    engine = done.record.environment["engine"]
    assert (engine["graphs"] > 0, engine["why_eager"]) == ((True, None) if kind == "4bit" else (False, WHY_EAGER))
    assert engine["compiled"]["layers"] == 0
    opened = trained.open_trained(done.directory, hardware=HardwareSpec(device="cuda", precision=precision))
    accuracy = trained.evaluate(done.directory, opened).quality.accuracy
    assert accuracy == pytest.approx(done.record.quality["test"]["accuracy"], abs=0.05)
    export(done.directory, tmp_path / "adapter", "adapter")
    wider = train(spec("lora", **{**given, "quantize": "off"}), output=tmp_path / "plain")
    weights = (one.record.cost["memory_parts_bytes"]["weights"] for one in (done, wider))
    assert next(weights) < next(weights)
