"""PEFT's other adapters by their kind: PEFT's own settings, checks and file format."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from loratory.data import make_dataset
from loratory.errors import SettingsError
from loratory.evaluation import predictions
from loratory.methods import method_named, method_settings, parse_spec, spec_from_flags
from loratory.methods.peft_type import ELSEWHERE, UNFIT
from loratory.models.load import load_base
from loratory.models.source import quiet
from loratory.run import train
from loratory.store.naming import approach
from loratory.study.reading import read_study

KINDS: dict[str, dict[str, Any]] = {
    "vera": {"r": 16},
    "oft": {"oft_block_size": 8, "bias": "oft_only"},
    "loha": {"r": "4", "targets": "all-linear"},
    "lokr": {"rank_dropout": 0.1},
    "fourierft": {"n_frequency": 100, "scaling": 10},
    "randlora": {"r": 8, "lr": 0.005},
    "vblora": {"num_vectors": 8, "vector_length": 8},
    "ln_tuning": {"targets": "attention"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_learns_and_stock_peft_gives_its_logits(kind: str, spec: Any, tiny_bert: Path, tmp_path: Path) -> None:
    chosen = spec(f"peft:{kind}", **{"epochs": 6, "lr": 0.02, **KINDS[kind]})
    run = train(chosen, output=tmp_path / "run")
    losses = [json.loads(line)["loss"] for line in (run.directory / "history.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]
    assert run.record.parameters["adapter"] > 0
    assert parse_spec(run.record.spec) == run_spec(run.record.spec)
    with quiet():
        base = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
        model = PeftModel.from_pretrained(base, run.directory).eval()
    texts = list(make_dataset(chosen.data).test.texts)
    encoded = AutoTokenizer.from_pretrained(run.directory)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"]).logits
    kept = predictions.read(run.directory / "predictions.parquet")["test"].logits
    np.testing.assert_allclose(kept, logits.numpy(), atol=1e-4, rtol=0)


def test_what_needs_every_step_told_is_refused(spec: Any, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--method peft:ADAMSS: use_asa needs PEFT to be told of every step"):
        train(spec("peft:adamss", use_asa=True), output=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def run_spec(document: dict[str, Any]) -> Any:
    """The spec, by way of JSON and of another process."""
    return pickle.loads(pickle.dumps(parse_spec(json.loads(json.dumps(document)))))


def test_a_setting_is_the_same_however_it_is_written() -> None:
    texts = {"method": "peft:vera", "r": "4", "save_projection": "false", "layers_to_transform": "[0]"}
    values = {"method": "peft:VERA", "r": 4, "save_projection": False, "layers_to_transform": [0]}
    one, two = spec_from_flags(texts), spec_from_flags(values)
    assert one.fingerprint() == two.fingerprint()
    assert one.method.model_dump() == {
        "name": "peft:VERA",
        "targets": "attention",
        "r": 4,
        "save_projection": False,
        "layers_to_transform": "[0]",
    }
    assert approach(method_settings({"name": "peft:vera", "r": 4}).model_dump()) == "peft:VERA attention, r=4"


def test_a_study_has_a_grid_of_it(tmp_path: Path) -> None:
    text = "name: s\ndata: [hutto:movies]\nmodels: [minilm]\nseeds: [0]\nmethods:\n"
    (tmp_path / "s.yaml").write_text(text + "  - {name: 'peft:vera', r: [4, 8]}\n", encoding="utf8")
    cells = read_study(tmp_path / "s.yaml")[0].cells()
    assert [cell.method.model_dump()["r"] for cell in cells] == [4, 8]
    (tmp_path / "s.yaml").write_text(text + "  - {name: 'peft:vera', rr: 4}\n", encoding="utf8")
    with pytest.raises(SettingsError, match=r"line 6: 'rr' is not a setting of peft:VERA; did you mean 'r'"):
        read_study(tmp_path / "s.yaml")


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"name": "peft:vear"}, "PEFT has no kind 'VEAR'; did you mean"),
        ({"name": "peft:lora"}, "use --method lora"),
        ({"name": "peft:p-tuning"}, "it is no adapter beside a model's layers"),
        ({"name": "peft:poly"}, "it needs the number of a task"),
        ({"name": "peft:vera", "dropuot": 0.1}, "--dropuot is not a setting of peft:VERA; did you mean 'vera_dropout'"),
        ({"name": "peft:vera", "r": "many"}, "--r 'many': input should be a valid integer"),
        ({"name": "peft:vera", "layers_to_transform": "[0"}, "--layers-to-transform '[0'"),
        ({"name": "peft:c3a"}, "the input size is 32 and the block size is 256"),
        ({"name": "peft:oft", "r": 3, "oft_block_size": 8}, "--method peft:OFT: "),
        ({"name": "peft:vera", "targets": "qurey"}, "did you mean 'query'?"),
    ],
)
def test_what_peft_does_not_take_is_refused_in_one_line(own: dict[str, Any], message: str, tiny_bert: Path) -> None:
    base = load_base(str(tiny_bert), labels=("a", "b"), seed=0)
    with pytest.raises(SettingsError) as caught:
        method_named(own["name"]).prepare(base, method_settings(own), seed=0)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_kind_of_peft_is_a_method_or_refused() -> None:
    kinds = {str(kind.value) for kind in PEFT_TYPE_TO_CONFIG_MAPPING}
    takes, refused = set(), {}
    for kind in kinds:
        try:
            takes.add(method_named(f"peft:{kind}").name)
        except SettingsError as error:
            refused[kind] = str(error)
    assert {*ELSEWHERE, *UNFIT} <= refused.keys()
    assert not any("\n" in reason for reason in refused.values())
    assert len(takes) > 20
    for name in takes:
        assert method_settings({"name": name}).model_dump() == {"name": name, "targets": "attention"}
