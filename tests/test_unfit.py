"""Models, methods, adapters, labels that do not fit one another: one line, its exit code, nothing on disk touched."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from loratory.cli import main
from loratory.models.families import FAMILIES

TRAIN = "train --epochs 1 --max-length 32 --device cpu --precision fp32 --output {place}/new"

Refused = Callable[..., None]


@pytest.fixture
def refused(tmp_path: Path, tiny_csv: Path, snapshot: Any, capsys: Any) -> Refused:
    """(command, code, line): the command, whose last of two equal flags counts, ends so and changes nothing."""

    def check(command: str, code: int, line: str) -> None:
        words = [word.format(place=tmp_path) for word in command.split()]
        if words[0] == "train":
            words += [] if "--dataset" in words else ["--dataset", str(tiny_csv)]
        before = snapshot(tmp_path)
        capsys.readouterr()
        assert main(words) == code
        out, err = capsys.readouterr()
        assert (out, err) == ("", f"error: {line.format(place=tmp_path)}\n")
        assert snapshot(tmp_path) == before

    return check


@pytest.mark.parametrize(
    ("family", "flags", "line"),
    [
        (
            "albert",
            "--method hybrid",
            "albert shares one layer's weights among all layers; give --unfrozen-layers 0, or use lora or standard",
        ),
        ("llama", "--method bitfit", "llama has no biases; use layernorm or lora"),
    ],
)
def test_a_method_that_does_not_fit_an_architecture(
    family: str, flags: str, line: str, refused: Refused, model_directory: Any
) -> None:
    refused(f"{TRAIN} {flags} --model {model_directory(family)}", 2, f"{flags}: {line}")


@pytest.mark.parametrize("flag", ["--rank-pattern", "--alpha-pattern"])
def test_a_pattern_that_matches_nothing(flag: str, refused: Refused, tiny_bert: Path) -> None:
    line = f"{flag} 'valeu' is the first match of no adapted layer; did you mean 'value'?"
    refused(f"{TRAIN} --method lora --model {tiny_bert} {flag} valeu=4", 2, line)


ENCODER_DECODER = "it is an encoder and a decoder, where one of the two is needed"
NO_CLASS = "transformers has no class of it that classifies sequences"
OTHERS = {
    "t5": ENCODER_DECODER,
    "bart": ENCODER_DECODER,
    "whisper": ENCODER_DECODER,
    "vit": f"it takes no text, and {NO_CLASS}",
    "mamba": NO_CLASS,
    "dpr": NO_CLASS,
    "bloom": "where its layers and its head stand is not in the table of families",
    "mistral": "where its layers and its head stand is not in the table of families",
}


@pytest.mark.parametrize("name", OTHERS)
def test_an_architecture_outside_the_table_says_what_it_lacks(
    name: str, refused: Refused, tiny_bert: Path, tmp_path: Path
) -> None:
    place = Path(shutil.copytree(tiny_bert, tmp_path / "model"))
    AutoConfig.for_model(name).save_pretrained(place)
    line = f"architecture {name!r} is not supported: {OTHERS[name]}; `loratory models` lists those that are"
    refused(f"{TRAIN} --method lora --model {place}", 4, line)


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if not family.flat])
def test_a_family_outside_the_attention_interface_runs_padded(
    name: str, model_directory: Any, tiny_csv: Path, tmp_path: Path
) -> None:
    command = f"{TRAIN} --method lora --model {model_directory(name)} --dataset {tiny_csv}".format(place=tmp_path)
    assert main(command.split()) == 0
    record = json.loads((tmp_path / "new" / "run.json").read_text("utf8"))
    assert record["environment"]["flat"] is False
    assert record["cost"]["padded_tokens"] > record["cost"]["tokens"]


def test_weights_that_are_quantised_already(refused: Refused, model_directory: Any, tmp_path: Path) -> None:
    place = Path(shutil.copytree(model_directory("llama"), tmp_path / "model"))
    config = place / "config.json"
    held = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    config.write_text(json.dumps({**json.loads(config.read_text()), "quantization_config": held}))
    line = f"model {str(place)!r}: its weights are quantised already (bitsandbytes); give the model that they were "
    refused(f"{TRAIN} --method lora --model {place}", 4, line + "made of, and --quantize where it should be")


@pytest.mark.parametrize("change", [{"hidden_act": "relu"}, {"hidden_size": 64}, {"num_hidden_layers": 1}])
@pytest.mark.parametrize("method", ["lora", "hybrid"])
def test_an_adapter_whose_base_is_another_now(
    method: str,
    change: dict[str, Any],
    refused: Refused,
    tiny_bert: Path,
    tiny_csv: Path,
    tmp_path: Path,
    model_directory: Any,
) -> None:
    base = Path(shutil.copytree(tiny_bert, tmp_path / "base"))
    run = f"{TRAIN} --method {method} --model {base} --dataset {tiny_csv}".format(place=tmp_path)
    assert main(run.split()) == 0
    shutil.copytree(model_directory("bert", **change), base, dirs_exist_ok=True)
    line = "{place}/new: its base {place}/base has other weights, configuration or tokenizer than it was trained on"
    cpu = "--model-path {place}/new --device cpu --precision fp32"
    for command in (f"predict {cpu} w0", f"evaluate {cpu}"):
        refused(command, 4, line)
    for kind in ("merged", "adapter", "onnx", "pth"):
        refused(f"export --model-path {{place}}/new --format {kind} --output {{place}}/out.pth", 4, line)


@pytest.mark.parametrize("part", ["validation", "test"])
def test_a_label_that_training_never_sees(part: str, refused: Refused, tiny_bert: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("text,label\nw0 w1,good\nw3 w4,bad\nw9,odd\n")
    line = f"{other}: labels in {part} that training never sees: 'odd' (line 4); add them to it or correct them"
    refused(f"{TRAIN} --method head --model {tiny_bert} --{part} {other}", 3, line)
