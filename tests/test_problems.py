"""Sets of labels and numbers, from a file to a run, and what is made of it: predictions, scores, exports."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

import loratory
from loratory import trained
from loratory.cli import main
from loratory.data import dataset_of
from loratory.errors import DataError, SettingsError, StorageError
from loratory.evaluation import predictions
from loratory.evaluation.metrics import metrics_of, score
from loratory.evaluation.thresholds import chosen_thresholds
from loratory.exporting.export import export
from loratory.models.source import quiet
from loratory.predicting import answers
from loratory.problems import MULTI, REGRESSION, SINGLE, problem_in
from loratory.report.predictions import PredictedLabels
from loratory.run import Run, train
from loratory.spec import HardwareSpec
from loratory.store.directory import read_run
from loratory.store.record import RunRecord

CPU = HardwareSpec(device="cpu", precision="fp32")
NAMES = {"sets": MULTI, "numbers": REGRESSION}
MARKS = {"good": "w1", "bad": "w4", "late": "w9"}


@pytest.fixture(scope="session")
def files(texts: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """120 texts with the labels that their words make, and with a number far from 0."""
    place = tmp_path_factory.mktemp("problems")
    sets, numbers = place / "sets.jsonl", place / "numbers.csv"
    with sets.open("w") as file, numbers.open("w", newline="") as table:
        rows = csv.writer(table)
        rows.writerow(["text", "price"])
        for number, (text, label) in enumerate(texts):
            text = f"{text} w9" if number % 3 == 0 else text
            labels = [label, *(["late"] if number % 3 == 0 else [])] if number % 10 else []
            file.write(json.dumps({"text": text, "label": labels}) + "\n")
            rows.writerow([text, 200.5 + (20 if label == "good" else -20) + number % 7])
    return {"sets": sets, "numbers": numbers}


@pytest.fixture(scope="session")
def made(files: dict[str, Path], spec: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Run]:
    """A run of each kind with standard fine-tuning and with LoRA."""
    place = tmp_path_factory.mktemp("made")
    return {
        (kind, method): train(spec(method, **{**given(files, kind), "lr": lr}), output=place / f"{kind}-{method}")
        for kind in files
        for method, lr in (("standard", 0.005), ("lora", 0.02))
    }


def given(files: dict[str, Path], kind: str) -> dict[str, Any]:
    column = {"label_column": "price"} if kind == "numbers" else {}
    return {"dataset": str(files[kind]), "epochs": 4, "lr": 0.02, **column}


METHODS = ("standard", "lora")
EACH = pytest.mark.parametrize(("kind", "method"), [(kind, method) for kind in NAMES for method in METHODS])


@EACH
def test_record_and_predictions_agree(kind: str, method: str, made: Any) -> None:
    run = made[kind, method]
    record = read_run(run.directory)
    assert record.problem == NAMES[kind]
    assert record.spec["training"]["select"] == {"sets": "f1_micro", "numbers": "pearson"}[kind]
    found = predictions.read(run.directory / "predictions.parquet")
    validation, test = found["validation"], found["test"]
    cuts = chosen_thresholds(validation.labels, validation.logits) if kind == "sets" else None
    assert record.thresholds == (None if cuts is None else pytest.approx(cuts))
    expected = score(test.labels, test.logits, None, record.labels, thresholds=cuts).record()
    for name in metrics_of(record.problem):
        assert record.quality["test"][name] == pytest.approx(expected[name], rel=1e-6)
    again = score(test.labels, test.logits if kind == "numbers" else None, test.predictions, record.labels)
    assert again.record()[{"sets": "f1_macro", "numbers": "mae"}[kind]] == pytest.approx(
        expected[{"sets": "f1_macro", "numbers": "mae"}[kind]]
    )
    history = [json.loads(line) for line in (run.directory / "history.jsonl").read_text().splitlines()]
    assert {f"validation_{name}" for name in metrics_of(record.problem)} <= set(history[-1])
    assert history[-1]["loss"] < history[0]["loss"]


def test_they_learn(made: Any) -> None:
    assert made["numbers", "standard"].record.quality["test"]["r2"] > 0.2
    assert made["sets", "standard"].record.quality["test"]["f1_micro"] > 0.8


def stock(model: Any, directory: Path, texts: list[str]) -> np.ndarray:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    with torch.no_grad():
        batch = tokenizer(texts, padding=True, truncation=True, max_length=32, return_tensors="pt")
        return model.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.numpy()


@EACH
def test_stock_libraries_give_the_same(kind: str, method: str, made: Any, tmp_path: Path) -> None:
    run = made[kind, method]
    dataset = dataset_of(run.record.to_dict())
    texts = list(dataset.test.texts)
    expected = predictions.read(run.directory / "predictions.parquet")["test"].logits
    if method == "lora":
        from peft import AutoPeftModelForSequenceClassification

        with quiet():
            adapted = AutoPeftModelForSequenceClassification.from_pretrained(
                str(run.directory), num_labels=len(run.record.labels)
            )
        assert np.allclose(stock(adapted, run.directory, texts), expected, rtol=1e-4, atol=1e-4)
    export(run.directory, tmp_path / "merged", "merged")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert (model.config.problem_type, model.config.num_labels) == (NAMES[kind], len(run.record.labels))
    assert tuple(model.config.id2label.values()) == run.record.labels
    assert np.allclose(stock(model, tmp_path / "merged", texts), expected, rtol=1e-4, atol=1e-4)
    classify = pipeline("text-classification", model=str(tmp_path / "merged"), top_k=None)
    first = {one["label"]: one["score"] for one in classify(texts[:1], truncation=True, max_length=32)[0]}
    said = expected[0] if kind == "numbers" else 1 / (1 + np.exp(-expected[0]))
    assert [first[label] for label in run.record.labels] == pytest.approx(said.tolist(), rel=1e-3)
    card = (tmp_path / "merged" / "README.md").read_text()
    assert {"numbers": "to give text a number", "sets": "thresholds = dict("}[kind] in card


@EACH
def test_evaluate_and_pth_give_the_records_scores(kind: str, method: str, made: Any, tmp_path: Path) -> None:
    run = made[kind, method]
    export(run.directory, tmp_path / "m.pth", "pth")
    for path in (run.directory, tmp_path / "m.pth"):
        found = trained.evaluate(path, trained.open_trained(path, hardware=CPU)).to_dict()
        assert found["quality"].keys() == run.record.quality["test"].keys()
        for name in metrics_of(NAMES[kind]):
            assert found["quality"][name] == pytest.approx(run.record.quality["test"][name], rel=1e-4, abs=1e-4)


def test_predictions_are_labels_from_their_thresholds_on(made: Any, tmp_path: Path, capsys: Any) -> None:
    run = made["sets", "lora"]
    opened = trained.open_trained(run.directory, hardware=CPU)
    texts = list(dataset_of(run.record.to_dict()).test.texts)[:6]
    said = answers("", opened, texts)
    for labels, document in zip(said.chosen, said.documents(), strict=True):
        shares = document["probabilities"]
        cuts = dict(zip(opened.labels, run.record.thresholds, strict=True))
        assert labels == document["labels"] == [name for name in opened.labels if shares[name] >= cuts[name]]
    command = ["predict", "--model-path", str(run.directory), "--device", "cpu"]
    for suffix in ("csv", "jsonl", "parquet"):
        assert main([*command, "--output", str(tmp_path / f"out.{suffix}"), *texts]) == 0
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["labels"] for row in rows] == [";".join(labels) or ";" for labels in said.chosen]
    capsys.readouterr()
    assert main([*command, "--json", *texts]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["labels"] for row in found] == said.chosen
    assert all(list(row["thresholds"].values()) == list(run.record.thresholds) for row in found)
    assert main([*command, *texts]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Labels" in shown
    cuts = ", ".join(f"{name} {cut:.3f}" for name, cut in zip(opened.labels, run.record.thresholds, strict=True))
    rule = f"Thresholds (the probability from which on a label is given, chosen on validation): {cuts}"
    assert rule in shown
    assert main([*command, "--output", str(tmp_path / "again.csv"), *texts]) == 0
    assert rule in " ".join(capsys.readouterr().err.split())


def test_of_many_labels_some_thresholds_are_named() -> None:
    many = PredictedLabels("m", tuple(f"l{n}" for n in range(40)), np.ones((1, 40)), np.full(40, 0.5))
    assert many.rule.startswith("Thresholds of m (")
    assert many.rule.endswith("l11 0.500, and 28 more (--json has all)")
    assert "validation" not in replace(many, on_validation=False).rule


def test_predictions_of_a_regression_are_numbers(made: Any, files: Any, tmp_path: Path, capsys: Any) -> None:
    run = made["numbers", "standard"]
    test = predictions.read(run.directory / "predictions.parquet")["test"]
    texts = list(dataset_of(run.record.to_dict()).test.texts)
    said = loratory.predict(run, texts, device="cpu", precision="fp32")
    assert isinstance(said, loratory.PredictedNumbers)
    assert np.allclose(said.numbers, test.predictions, rtol=1e-5)
    command = ["predict", "--model-path", str(run.directory), "--device", "cpu"]
    assert main([*command, "--output", str(tmp_path / "out.csv"), texts[0]]) == 0
    with (tmp_path / "out.csv").open(newline="") as file:
        assert float(next(csv.DictReader(file))["prediction"]) == pytest.approx(said.numbers[0], rel=1e-3)
    capsys.readouterr()
    assert main(["evaluate", "--model-path", str(run.directory), "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "Pearson" in out
    assert "The true numbers: mean 2" in out


def test_data_of_another_kind_is_refused(made: Any, files: Any, tiny_csv: Path, tmp_path: Path) -> None:
    sets = trained.open_trained(made["sets", "lora"].directory, hardware=CPU)
    with pytest.raises(DataError, match="set --label-separator"):
        trained.evaluate(Path("x"), sets, given={"dataset": str(tiny_csv)})
    numbers = trained.open_trained(made["numbers", "lora"].directory, hardware=CPU)
    with pytest.raises(DataError, match=r"no finite number .*; give a number, or remove the row"):
        trained.evaluate(Path("x"), numbers, given={"dataset": str(tiny_csv), "label_column": "label"})
    with pytest.raises(SettingsError, match=r"--label-separator: .* of one cell, and the model is of a regression"):
        trained.evaluate(Path("x"), numbers, given={"dataset": str(tiny_csv), "label_separator": ";"})
    whole = tmp_path / "whole.csv"
    whole.write_text("text,price\nw1 w2,180\nw3 w4,220\n")
    found = trained.evaluate(Path("x"), numbers, given={"dataset": str(whole), "label_column": "price"})
    assert found.quality.examples == 2
    with pytest.raises(DataError, match="of single-label classification, and the model is of a regression"):
        trained.evaluate(
            Path("x"), numbers, given={"dataset": str(tiny_csv), "label_column": "label", "problem": "single-label"}
        )


def test_a_problem_that_there_is_not_is_no_single_labels(made: Any, tmp_path: Path) -> None:
    document = made["sets", "lora"].record.to_dict()
    assert problem_in(None) == problem_in(SINGLE) == SINGLE
    assert problem_in(document["data"]["problem"]) == MULTI
    document["data"]["problem"] = "multi_label"
    (tmp_path / "run.json").write_text(json.dumps(document))
    with pytest.raises(StorageError, match=r"not a run's record .*problem 'multi_label'; known: single_label_classif"):
        RunRecord.read(tmp_path / "run.json")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"select": "accuracy"}, "--select accuracy: no metric of multi-label classification; give one of: f1_micro"),
        ({"class_weights": "balanced"}, "--class-weights: it is for single-label classification"),
        ({"label_smoothing": 0.1}, "--label-smoothing: it is for single-label classification"),
    ],
)
def test_settings_that_mean_nothing_are_refused(flags: Any, said: str, files: Any, spec: Any, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=said):
        train(spec(dataset=str(files["sets"]), **flags), output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", NAMES)
def test_the_best_epoch_is_chosen_by_the_problems_metric(kind: str, files: Any, spec: Any, tmp_path: Path) -> None:
    select = {"sets": "hamming_loss", "numbers": "rmse"}[kind]
    run = train(spec("head", **given(files, kind), keep="best", select=select), output=tmp_path / "run")
    history = [json.loads(line) for line in (run.directory / "history.jsonl").read_text().splitlines()]
    best = min(row[f"validation_{select}"] for row in history)
    assert run.record.quality["validation"][select] == pytest.approx(best, rel=1e-4)
