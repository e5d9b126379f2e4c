"""A run in a study: what it may see, what it keeps, and how it is known."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

import loratory.run as run_module
from loratory import comparing, trained
from loratory.engine.hardware import Hardware
from loratory.errors import StorageError
from loratory.exporting.export import export
from loratory.inputs import Inputs
from loratory.methods import METHODS
from loratory.run import Run, train
from loratory.setup import identify
from loratory.spec import HardwareSpec
from loratory.store.directory import read_run
from loratory.store.record import Place, RunRecord

CPU = HardwareSpec(device="cpu", precision="fp32")
TUNING = Place("tuning")


def test_a_tuning_run_never_sees_the_test_split(
    spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: dict[str, Run]
) -> None:
    predicted: list[int] = []
    predict = run_module.predict

    def counted(classifier: Any, data: Any, **rest: Any) -> Any:
        predicted.append(len(data.labels))
        return predict(classifier, data, **rest)

    monkeypatch.setattr(run_module, "predict", counted)
    run = train(spec("lora"), output=tmp_path / "run", place=TUNING, keep_weights=False)
    assert len(predicted) == 1  # after training: validation, once
    assert set(run.record.quality) == {"validation"}
    assert sorted(path.name for path in run.directory.iterdir()) == ["history.jsonl", "manifest.json", "run.json"]
    assert run.record.study == {"stage": "tuning", "selection": None, "runs_at_once": None, "apart": None}
    assert run.record.quality["validation"] == runs["lora"].record.quality["validation"]


@pytest.mark.parametrize("method", METHODS)
def test_a_run_without_weights_is_the_same_run(method: str, spec: Any, tmp_path: Path, runs: dict[str, Run]) -> None:
    run = train(spec(method), output=tmp_path / "run", keep_weights=False)
    kept = runs[method].record
    assert sorted(path.name for path in run.directory.iterdir()) == [
        *("history.jsonl", "manifest.json", "predictions.parquet", "run.json")
    ]
    assert (run.record.weights, kept.weights) == (False, True)
    assert (run.record.quality, run.record.fingerprint) == (kept.quality, kept.fingerprint)
    # what the weights would take, their file's header aside
    assert 0.8 * kept.cost["checkpoint_bytes"] < run.record.cost["checkpoint_bytes"] <= kept.cost["checkpoint_bytes"]
    table = comparing.compare([run.directory, runs[method].directory], with_baselines=False).to_dict()
    assert len(table["rows"]) == 2
    for use in (
        lambda: trained.open_trained(run.directory, hardware=CPU),
        lambda: export(run.directory, tmp_path / "run.pth", "pth"),
        lambda: export(run.directory, tmp_path / "merged", "merged"),
    ):
        with pytest.raises(StorageError, match="the run's weights were not kept") as caught:
            use()
        assert "\n" not in str(caught.value)


def test_stages_are_other_runs_and_selections_are_not(spec: Any) -> None:
    inputs, hardware = Inputs(), Hardware.of(CPU)
    places = [None, TUNING, Place("final", "a" * 12, 1), Place("final", "b" * 12, 3)]
    alone, tuning, final, again = (identify(spec("lora"), hardware, inputs, place).fingerprint for place in places)
    assert len({alone, tuning, final}) == 3
    assert final == again  # a grid that grew and chose the same setting finds its runs, whatever ran beside them


def test_what_is_read_once_gives_the_same_runs(spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = Inputs()
    first = train(spec("lora"), output=tmp_path / "first", inputs=inputs)

    def refuse(*arguments: Any) -> None:
        raise AssertionError("read again")

    for name in ("load_source", "divided", "pretrained", "tokenize"):
        monkeypatch.setattr(f"loratory.inputs.{name}", refuse)
    second = train(spec("lora"), output=tmp_path / "second", inputs=inputs)
    assert second.record.quality == first.record.quality
    assert second.record.fingerprint == first.record.fingerprint
    identity = identify(spec("lora"), Hardware.of(CPU), inputs)
    assert identity.fingerprint == first.record.fingerprint
    assert identity.spec.model_dump(mode="json") == first.record.spec


def test_a_model_that_changes_is_read_again(spec: Any, tiny_bert: Path, tmp_path: Path) -> None:
    import shutil

    place = tmp_path / "model"
    shutil.copytree(tiny_bert, place)
    inputs = Inputs()
    before = inputs.model(str(place))
    assert inputs.model(str(place)) is before
    with (place / "model.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\0\0\0\1")
    assert inputs.model(str(place)).digest != before.digest


def test_records_of_before_are_read_still(runs: dict[str, Run], tmp_path: Path) -> None:
    document = runs["lora"].record.to_dict()
    for name in ("study", "weights"):
        del document[name]
    path = tmp_path / "run.json"
    path.write_text(json.dumps(document))
    assert RunRecord.read(path) == dataclasses.replace(runs["lora"].record, study=None, weights=True)
    assert read_run(runs["lora"].directory).study is None
