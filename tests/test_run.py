"""One run from spec to committed directory: what it leaves, and what is made of it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import loratory.run as run_module
from loratory import comparing, predicting, trained
from loratory.data import make_dataset
from loratory.disk.manifest import seal
from loratory.engine.hardware import Hardware
from loratory.engine.predict import predict as predict_logits
from loratory.errors import ModelError, SettingsError, StorageError
from loratory.evaluation import predictions
from loratory.evaluation.measures import log_softmax
from loratory.methods import METHODS, parse_spec
from loratory.models.families import FAMILIES
from loratory.run import Run, train
from loratory.spec import DataSpec, HardwareSpec
from loratory.store.directory import read_run

CPU = HardwareSpec(device="cpu", precision="fp32")
ADAPTERS = ("lora", "hybrid", "ia3", "adalora", "prefix", "prompt")
WORDS = [f"w{n}" for n in range(96)]


def assert_same_quality(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    assert (found["labels"], found["confusion"]) == (expected["labels"], expected["confusion"])
    for name, value in expected.items():
        if name == "per_class":
            assert {c: pytest.approx(v) for c, v in value.items()} == found[name]
        elif isinstance(value, float):
            assert found[name] == pytest.approx(value, abs=1e-4), name


@pytest.mark.parametrize("method", METHODS)
def test_a_run_leaves_its_weights_record_history_and_predictions(method: str, runs: dict[str, Run]) -> None:
    run = runs[method]
    names = {path.name for path in run.directory.iterdir()}
    own = {"adapter_model.safetensors", "adapter_config.json"} if method in ADAPTERS else {"model.safetensors"}
    always = {"run.json", "history.jsonl", "predictions.parquet", "manifest.json", "tokenizer.json"}
    assert always | own <= names
    assert not any(name.endswith((".bin", ".pt", ".pkl", ".partial")) for name in names)
    record = read_run(run.directory)
    assert record == run.record
    assert record.adapted == (method in ADAPTERS)
    assert (record.status, record.error) == ("completed", None)
    assert (record.spec["training"]["lr"], record.spec["hardware"]["precision"]) == (0.005, "fp32")
    assert record.labels == ("bad", "good")
    assert record.data["sizes"] == {"train": 84, "validation": 12, "test": 24}
    assert record.cost["steps"] == 12
    assert record.cost["examples"] == 168
    assert record.cost["checkpoint_bytes"] == sum(p.stat().st_size for p in run.directory.glob("*.safetensors"))
    phases = sum(record.cost[f"{phase}_seconds"] for phase in ("setup", "train", "eval"))
    assert 0 < phases <= record.cost["total_seconds"]
    assert record.cost["peak_memory_bytes"]["resident"] > 1 << 20
    history = [json.loads(line) for line in (run.directory / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in history] == [1, 2]
    assert history[-1]["validation_accuracy"] == record.quality["validation"]["accuracy"]


@pytest.mark.parametrize("method", ["standard", "lora"])
def test_a_run_in_bf16_holds_its_frozen_weights_so_and_saves_them_as_they_were(
    method: str, spec: Any, tmp_path: Path, tiny_bert: Path
) -> None:
    run = train(spec(method, precision="bf16", epochs=1), output=tmp_path / "run")
    saved = load_file(next(run.directory.glob("*.safetensors")))
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    head = train(spec("head", precision="bf16", epochs=1), output=tmp_path / "head")
    name = "bert.encoder.layer.0.attention.self.key.weight"
    before = load_file(tiny_bert / "model.safetensors")[name.removeprefix("bert.")]
    assert torch.equal(load_file(head.directory / "model.safetensors")[name], before)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_where_bf16_is_the_machines_own(
    family: str, spec: Any, tmp_path: Path, model_directory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loratory.engine.hardware._computes_bf16", lambda kind, by_the_clock: True)
    chosen = spec("lora", precision="auto", model=str(model_directory(family)), epochs=1)
    run = train(chosen, output=tmp_path / "run")
    precision = "bf16" if FAMILIES[family].autocast else "fp32"
    assert run.record.spec["hardware"]["precision"] == run.record.environment["precision"] == precision
    if precision == "fp32":
        with pytest.raises(SettingsError, match=f"--precision bf16: {family} does not run in it"):
            train(spec("lora", precision="bf16", model=str(model_directory(family))), output=tmp_path / "other")


LONGEST = {"roberta": 65, "xlm-roberta": 65, "camembert": 65, "mpnet": 62}  # 64 elsewhere


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_takes_the_longest_texts_it_allows_and_none_longer(
    family: str, spec: Any, tmp_path: Path, model_directory: Any
) -> None:
    path = tmp_path / "long.csv"
    rows = [f"{' '.join(WORDS[n : n + 70])},{'good' if n % 2 else 'bad'}\n" for n in range(20)]
    path.write_text("text,label\n" + "".join(rows), encoding="utf8")
    longest = LONGEST.get(family, 64)
    given = {"model": str(model_directory(family)), "dataset": str(path), "epochs": 1}
    setup = run_module.prepare(spec("standard", max_length=longest, **given), Hardware.of(CPU))
    assert setup.tokens["train"].tokens.lengths.tolist() == [longest] * 14
    assert predict_logits(setup.classifier, setup.tokens["train"], hardware=setup.hardware).isfinite().all()
    with pytest.raises(SettingsError, match=f"--max-length {longest + 1}: .* takes at most {longest} tokens"):
        run_module.prepare(spec("standard", max_length=longest + 1, **given), Hardware.of(CPU))


@pytest.mark.parametrize("method", ["standard", "lora"])
@pytest.mark.parametrize("family", ["roberta", "albert", "modernbert", "deberta-v2"])
def test_other_families_go_all_the_way(
    family: str, method: str, spec: Any, tmp_path: Path, model_directory: Any
) -> None:
    chosen = spec(method, model=str(model_directory(family)), epochs=1, batch_size=32, attention_dropout=0.1)
    run = train(chosen, output=tmp_path / "run")
    assert run.record.environment["flat"] == (family != "deberta-v2")
    opened = trained.open_trained(run.directory, hardware=CPU)
    found = trained.evaluate(run.directory, opened)
    assert_same_quality(found.quality.record(), run.record.quality["test"])


@pytest.mark.parametrize(("unfrozen", "below"), [(0, "all"), (1, 1), (2, 0)])
def test_a_hybrid_without_lora_goes_all_the_way(unfrozen: int, below: int | str, spec: Any, tmp_path: Path) -> None:
    run = train(spec("hybrid", rank=0, unfrozen_layers=unfrozen, epochs=1), output=tmp_path / "run")
    assert run.record.environment["engine"].get("frozen_bottom", {"layers": 0})["layers"] == below
    found = trained.evaluate(run.directory, trained.open_trained(run.directory, hardware=CPU))
    assert_same_quality(found.quality.record(), run.record.quality["test"])


@pytest.mark.parametrize("method", ["standard", "lora"])
def test_training_learns_what_the_texts_say(method: str, spec: Any, tmp_path: Path) -> None:
    run = train(spec(method, epochs=8, lr=0.01 if method == "lora" else 0.003), output=tmp_path / "run")
    assert run.record.quality["test"]["accuracy"] >= 0.8


def test_the_same_spec_gives_the_same_run_bit_for_bit(runs: dict[str, Run], spec: Any, tmp_path: Path) -> None:
    again = train(spec("lora"), output=tmp_path / "again")
    first = runs["lora"]
    assert again.record.fingerprint == first.record.fingerprint
    assert again.record.quality == first.record.quality
    for name in ("adapter_model.safetensors", "predictions.parquet"):
        assert (again.directory / name).read_bytes() == (first.directory / name).read_bytes()
    other = train(spec("lora", seed=1), output=tmp_path / "other")
    assert other.record.fingerprint != first.record.fingerprint
    name = "adapter_model.safetensors"
    assert (other.directory / name).read_bytes() != (first.directory / name).read_bytes()


def test_a_run_that_is_there_is_not_trained_again(runs: dict[str, Run], spec: Any, snapshot: Any) -> None:
    before = snapshot(runs["lora"].directory.parent)

    def refuse(progress: Any) -> None:
        raise AssertionError("trained")

    again = train(spec("lora"), output=runs["lora"].directory, on_step=refuse)
    assert again == runs["lora"]
    assert snapshot(runs["lora"].directory.parent) == before


def test_another_run_is_never_overwritten(runs: dict[str, Run], spec: Any, snapshot: Any) -> None:
    before = snapshot(runs["lora"].directory.parent)
    with pytest.raises(StorageError, match="already holds another run"):
        train(spec("lora", seed=7), output=runs["lora"].directory)
    assert snapshot(runs["lora"].directory.parent) == before


def test_without_output_the_run_lies_in_models_under_its_id(
    spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = train(spec("head", epochs=1))
    assert run.directory == Path("models") / run.record.id
    assert read_run(run.directory) == run.record


@pytest.mark.parametrize("name", ["../../x.csv", "-rf.csv", "Ünïcode $(x).csv", "." * 3, "a" * 200 + ".csv", "\x1b[2J"])
def test_an_id_is_a_plain_name_whatever_files_are_called(name: str, spec: Any) -> None:
    given = spec("lora").model_copy(update={"model": name, "data": DataSpec(dataset=name)})
    assert re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", run_module.run_id(given, "f" * 64))


def test_evaluation_of_a_run_is_what_its_record_says(runs: dict[str, Run]) -> None:
    for run in runs.values():
        opened = trained.open_trained(run.directory, hardware=CPU)
        for split in ("validation", "test"):
            found = trained.evaluate(run.directory, opened, split=split)
            assert_same_quality(found.quality.record(), run.record.quality[split])
        assert found.to_dict()["examples"] == 24


def test_files_of_another_run_beside_a_run_s_own_are_not_taken_for_it(runs: dict[str, Run], tmp_path: Path) -> None:
    mixed = Path(shutil.copytree(runs["standard"].directory, tmp_path / "mixed"))
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(runs["lora"].directory / name, mixed / name)
    with pytest.raises(StorageError, match=r"adapter_config.json is not named by the manifest beside it; take it away"):
        trained.open_trained(mixed, hardware=CPU)
    (mixed / "manifest.json").unlink()
    seal(mixed)  # and where a manifest names them, the record says which are the model's
    with pytest.raises(ModelError, match="holds an adapter beside a model"):
        trained.open_trained(mixed, hardware=CPU)


def test_predictions_of_a_run_are_those_it_kept(runs: dict[str, Run], spec: Any) -> None:
    for method, run in runs.items():
        test = make_dataset(spec(method).data).test
        (said,) = predicting.predict(predicting.find([run.directory]), test.texts, hardware=CPU)
        kept = predictions.read(run.directory / "predictions.parquet")["test"]
        assert said.chosen == [("bad", "good")[i] for i in kept.predictions]
        expected = np.exp(log_softmax(kept.logits))
        np.testing.assert_allclose(said.probabilities, expected, atol=1e-5)


def test_predictions_join_the_files_that_were_read(spec: Any, texts: list[tuple[str, str]], tmp_path: Path) -> None:
    import pandas as pd

    def table(name: str, rows: list[tuple[str, str]]) -> pd.DataFrame:
        lines = [f'{number},"{text}\n",{label}\n\n' for number, (text, label) in enumerate(rows)]
        (tmp_path / name).write_text("id,text,label\n" + "".join(lines), encoding="utf8")
        return pd.read_csv(tmp_path / name)

    files = {"validation": table("own.csv", texts[:100]), "test": table("test.csv", texts[100:])}
    given = {"dataset": str(tmp_path / "own.csv"), "test": str(tmp_path / "test.csv")}
    run = train(spec("head", epochs=1, **given), output=tmp_path / "run")
    kept = pd.read_parquet(run.directory / "predictions.parquet")
    dataset = make_dataset(spec("head", **given).data)
    for part, file in files.items():
        joined = kept[kept["split"] == part].merge(file, left_on="row", right_index=True, suffixes=("", "_read"))
        assert len(joined) == len(getattr(dataset, part)) > 0
        assert joined["text"].tolist() == list(getattr(dataset, part).texts)
        assert joined["label_read"].tolist() == [dataset.labels[label] for label in joined["label"]]
        assert (joined["id"] == joined["row"]).all()


def test_the_comparison_holds_every_run_and_the_baselines(runs: dict[str, Run]) -> None:
    paths = [run.directory for run in runs.values()]
    alone = comparing.compare(paths, with_baselines=False).to_dict()
    table = comparing.compare(paths).to_dict()
    assert len(alone["rows"]) == len(runs)
    assert table["rows"][: len(runs)] == alone["rows"]
    baselines = [row["approach"] for row in table["rows"][len(runs) :]]
    assert len(baselines) == 2  # VADER knows no label called good or bad
    assert "TF-IDF + logistic regression" in baselines


def test_a_run_may_stop_early_and_weigh_and_smooth_its_labels(spec: Any, tmp_path: Path) -> None:
    given = {"patience": 1, "class_weights": "balanced", "label_smoothing": 0.1}
    chosen = spec("head", epochs=30, lr=1e-6, **given)  # too small a rate for any epoch to be better
    run = train(chosen, output=tmp_path / "run")
    assert len((run.directory / "history.jsonl").read_text().splitlines()) == 2
    assert given.items() <= run.record.spec["training"].items()
    plain = {"patience": None, "class_weights": "none", "label_smoothing": 0.0}
    assert plain.items() <= spec("head").training.model_dump().items()
    assert spec("head", **plain).fingerprint() == spec("head").fingerprint()
    older = spec("head").model_dump()
    for name in plain:
        del older["training"][name]
    assert parse_spec(older) == spec("head")
