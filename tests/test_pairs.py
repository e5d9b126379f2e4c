"""Two texts that are judged together: tokenised as the tokenizer pairs them, computed as by stock models."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pairs import COLUMNS, PAIRS
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import loratory
from loratory import predicting, trained
from loratory.cli import main
from loratory.data import Labelled, collate, load_source, make_dataset
from loratory.data.tokens import encode
from loratory.errors import DataError, LoratoryError, SettingsError
from loratory.evaluation.baselines import baselines
from loratory.exporting.export import export
from loratory.methods import spec_from_flags
from loratory.models.flat import Classifier
from loratory.models.load import load_base
from loratory.problems import REGRESSION
from loratory.run import Run
from loratory.run import train as train_run
from loratory.spec import DataSpec, HardwareSpec

CPU = HardwareSpec(device="cpu", precision="fp32")
FAMILIES = ["bert", "roberta", "distilbert", "electra", "albert", "modernbert", "mpnet", "deberta", "deberta-v2"]
DECODERS = ["gpt2", "llama", "qwen2", "qwen3"]


@pytest.fixture(scope="module")
def flags(pairs_csv: Path, paired_bert: Path) -> dict[str, Any]:
    given = {"model": str(paired_bert), "dataset": str(pairs_csv), "epochs": 1, "batch_size": 16, "max_length": 32}
    return {**given, "lr": 0.005, "device": "cpu", "precision": "fp32", **COLUMNS}


@pytest.fixture(scope="module")
def run(flags: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    spec = spec_from_flags({"method": "lora", **flags})
    return train_run(spec, output=tmp_path_factory.mktemp("runs") / "lora")


@pytest.fixture(scope="module")
def single(spec: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of single texts."""
    return train_run(spec("head", epochs=1), output=tmp_path_factory.mktemp("runs") / "head")


@pytest.mark.parametrize("family", [*FAMILIES, *DECODERS])
def test_logits_are_those_of_the_stock_model_on_the_tokenizers_own_batch(
    family: str, paired_model: Callable[[str], Path]
) -> None:
    place = paired_model(family)
    base = load_base(str(place), labels=("a", "b", "c"), seed=0)
    assert base.types == (family in ("bert", "electra", "albert"))
    table = encode(PAIRS, base.tokenizer, 12, types=base.types)
    data = Labelled(table, np.zeros(len(PAIRS), dtype=np.int64))
    classifier = Classifier(base.model, base.family, base.pad_id)
    base.model.eval()
    with torch.no_grad():
        found = classifier(collate(data.tokens, data.labels, range(len(PAIRS))))
    first, second = zip(*PAIRS, strict=True)
    encoded = base.tokenizer(
        list(first), list(second), truncation="longest_first", max_length=12, padding=True, return_tensors="pt"
    )
    assert [encoded["input_ids"][n][encoded["attention_mask"][n] == 1].tolist() for n in range(len(PAIRS))] == [
        table.ids[a:b].tolist() for a, b in zip(table.offsets, table.offsets[1:], strict=False)
    ]
    if not base.types:
        encoded.pop("token_type_ids", None)  # the model has no such table, or a table of one row
    stock = AutoModelForSequenceClassification.from_pretrained(place, num_labels=3, attn_implementation="eager").eval()
    stock.load_state_dict(base.model.state_dict())
    stock.config.pad_token_id = base.pad_id
    with torch.no_grad():
        torch.testing.assert_close(found, stock(**encoded).logits, atol=2e-5, rtol=1e-4)


def test_types_change_logits_and_padded_batches_have_them_too(paired_bert: Path) -> None:
    base = load_base(str(paired_bert), labels=("a", "b"), seed=0)
    base.model.eval()
    classifier = Classifier(base.model, base.family, base.pad_id)
    with_types, without = (encode(PAIRS, base.tokenizer, 32, types=types) for types in (True, False))
    labels = np.zeros(len(PAIRS), dtype=np.int64)
    with torch.no_grad():
        flat, plain = (classifier(collate(table, labels, [0, 1, 2, 3])) for table in (with_types, without))
        classifier.unflatten()
        padded = classifier(collate(with_types, labels, [0, 1, 2, 3]))
    torch.testing.assert_close(flat, padded, atol=2e-5, rtol=1e-4)
    assert float((flat - plain).abs().max()) > 1e-3


def test_baselines_take_each_text_by_itself_and_vader_is_left_out(tmp_path: Path) -> None:
    """Whether `w1` stands in the first text says nothing, in the second everything."""
    rows = [(f"w1 x{n}", f"{'w1' if n % 2 else 'w2'} y{n}", "yes" if n % 2 else "no") for n in range(60)]
    path = tmp_path / "a.csv"
    path.write_text("a,b,label\n" + "".join(",".join(row) + "\n" for row in rows), encoding="utf8")
    found = baselines(make_dataset(DataSpec(dataset=str(path), text_column="a", pair_column="b")))
    assert found[1].reason == "it scores a text, and these are pairs of texts"
    assert found[2].quality is not None
    assert found[2].quality.accuracy == 1


def test_a_run_of_pairs_from_file_to_labels(
    run: Run, pairs_csv: Path, paired_data: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, said = tmp_path / "in.csv", tmp_path / "out.jsonl"
    table.write_text(pairs_csv.read_text("utf8"), encoding="utf8")
    command = ["predict", "--model-path", str(run.directory), "--input", str(table), "--device", "cpu"]
    assert main([*command, "--output", str(said)]) == 0
    rows = [json.loads(line) for line in said.read_text("utf8").splitlines()]
    assert list(rows[0]) == ["text", "pair", "label", "probabilities", "id", "same"]
    pairs = [(row["text"], row["pair"]) for row in rows]
    assert loratory.predict(run, pairs, device="cpu", precision="fp32").chosen == [row["label"] for row in rows]
    assert "texts of 'premise' and 'hypothesis', as the model was trained" in capsys.readouterr().err
    assert main([*command, "--text-column", "premise", "--pair-column", "hypothesis"]) == 0
    assert " | " in capsys.readouterr().out
    evaluation = loratory.evaluate(run, device="cpu", precision="fp32")
    assert evaluation.quality.examples == len(paired_data.test)
    assert evaluation.quality.accuracy == pytest.approx(run.record.quality["test"]["accuracy"])
    first, second = zip(*paired_data.test.texts, strict=True)
    again = loratory.evaluate(
        run,
        list(zip(first, second, strict=True)),
        [paired_data.labels[n] for n in paired_data.test.labels],
        device="cpu",
    )
    assert again.quality.accuracy == evaluation.quality.accuracy


@pytest.mark.parametrize("kind", ["merged", "pth"])
def test_what_is_exported_takes_pairs(run: Run, paired_data: Any, tmp_path: Path, kind: str) -> None:
    place = tmp_path / ("out.pth" if kind == "pth" else "out")
    assert main(["export", "--model-path", str(run.directory), "--format", kind, "--output", str(place)]) == 0
    pairs = list(paired_data.test.texts)
    expected = loratory.predict(run, pairs, device="cpu", precision="fp32")
    if kind == "pth":
        assert loratory.predict(place, pairs, device="cpu", precision="fp32").chosen == expected.chosen
        with pytest.raises(DataError, match="trained on pairs of texts, and these are single ones"):
            loratory.predict(place, ["w1"], device="cpu")
        return
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(place), AutoTokenizer.from_pretrained(place)
    encoded = tokenizer(
        *map(list, zip(*pairs, strict=True)), padding=True, truncation=True, max_length=32, return_tensors="pt"
    )
    with torch.no_grad():
        shares = model.eval()(**encoded).logits.softmax(dim=-1).numpy()
    np.testing.assert_allclose(shares, expected.probabilities, atol=1e-4)
    card = (place / "README.md").read_text("utf8")
    assert 'classify({"text": "A text.", "text_pair": "Its second text."}, truncation=True, max_length=32)' in card


def test_lists_of_pairs_and_the_estimator(flags: dict[str, Any], paired_data: Any, tmp_path: Path) -> None:
    pairs = [*paired_data.train.texts, *paired_data.test.texts]
    labels = [paired_data.labels[n] for n in (*paired_data.train.labels, *paired_data.test.labels)]
    few = {"model": flags["model"], "epochs": 1, "max_length": 32, "device": "cpu", "precision": "fp32"}
    trained = loratory.train(pairs, labels, method="head", output=tmp_path / "head", **few)
    assert trained.record.spec["data"]["pair_column"] == "pair"
    estimator = loratory.TextClassifier("head", lr=0.01, **few).fit(np.array(pairs), labels)
    expected = estimator.predict_proba(pairs)
    for X in ([list(pair) for pair in pairs], np.array(pairs)):
        np.testing.assert_array_equal(estimator.predict_proba(X), expected)
    with pytest.raises(DataError, match="these are single ones"):
        estimator.predict(["w1"])


def test_pairs_where_there_are_none_and_single_texts_where_pairs_are_wanted(
    run: Run, single: Run, pairs_csv: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="--pair-column: hutto:movies has no columns, and no second text; leave it out"):
        load_source(DataSpec(dataset="hutto:movies", pair_column="b"))
    with pytest.raises(DataError, match="--text-column and --pair-column are both 'premise'"):
        load_source(DataSpec(dataset=str(pairs_csv), **{**COLUMNS, "pair_column": "premise"}))
    faults: list[tuple[Callable[[], Any], str]] = [
        (lambda: loratory.predict(run, ["w1"], device="cpu"), "these are single ones; give tuples of two texts"),
        (lambda: loratory.predict(single, [("w1", "w2")], device="cpu"), "these are pairs; give strings"),
        (lambda: loratory.evaluate(run, ["w1"], ["yes"], device="cpu"), "single ones; give tuples of two texts"),
        (lambda: loratory.evaluate(single, [("w1", "w2")], ["yes"], device="cpu"), "these are pairs; give strings"),
        (lambda: loratory.evaluate(single, dataset=pairs_csv, **COLUMNS), "these are pairs; leave out pair_column"),
        (
            lambda: loratory.predict(run, [("w1", "w2"), "w3"]),
            "texts: str at position 1; give two texts, as at position 0",
        ),
        (lambda: loratory.predict(run, ["w3", ("w1", "w2")]), "texts: 2 values at position 1; give one text"),
        (lambda: loratory.predict(run, [("w1", "w2"), ("a", "b", "c")]), "texts: 3 values at position 1; give two"),
        (lambda: loratory.predict(run, [("w1", None)]), r"texts: no text \(None\) at position 0; give strings"),
        (lambda: loratory.train([("a", "b")], ["x"], pair_column="b"), "pair_column beside texts and labels"),
    ]
    for call, said in faults:
        with pytest.raises(LoratoryError, match=said) as caught:
            call()
        assert "\n" not in str(caught.value)
    lines = tmp_path / "a.txt"
    lines.write_text("w1\n", encoding="utf8")
    with pytest.raises(DataError, match="its lines are single texts"):
        predicting.given_texts(lines, "text", "pair")
    with pytest.raises(SettingsError, match="a line holds one text"):
        predicting.given_texts(Path("-"), "text", "pair")
    assert main(["predict", "--model-path", str(run.directory), "w1", "--pair-column", "b"]) == 2


@pytest.fixture(scope="module")
def similar(pairs_csv: Path, paired_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A regression on pairs: a number in place of each label."""
    path = tmp_path_factory.mktemp("similar") / "similar.csv"
    with pairs_csv.open(encoding="utf8", newline="") as file, path.open("w", encoding="utf8", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(["premise", "hypothesis", "score"])
        for number, one in enumerate(csv.DictReader(file)):
            rows.writerow([one["premise"], one["hypothesis"], (4.25 if one["same"] == "yes" else 1) + number % 3 / 10])
    flags = {**COLUMNS, "label_column": "score", "model": str(paired_bert), "dataset": str(path), "epochs": 1}
    more = {"lr": 0.005, "max_length": 32, "batch_size": 16, "device": "cpu", "precision": "fp32"}
    return train_run(spec_from_flags({"method": "lora", **flags, **more}), output=path.parent / "run")


def test_pairs_with_numbers_are_trained_scored_and_predicted(similar: Run) -> None:
    record = similar.record
    assert (record.problem, record.labels) == (REGRESSION, ("score",))
    scored = loratory.evaluate(similar.directory, device="cpu", precision="fp32")
    assert scored.quality.record()["mse"] == pytest.approx(record.quality["test"]["mse"], rel=1e-4)
    said = loratory.predict(similar.directory, PAIRS, device="cpu", precision="fp32")
    base = trained.load_run(similar.directory, record, merge=True, flat_tokens=False).model.eval()
    tokenizer = AutoTokenizer.from_pretrained(similar.directory)
    encoded = tokenizer(*map(list, zip(*PAIRS, strict=True)), padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = base(**encoded).logits[:, 0]
    assert said.numbers == pytest.approx(expected.numpy(), abs=1e-4)
    assert [one.name for one in baselines(make_dataset(DataSpec(**record.spec["data"]))) if one.reason is None] == [
        "training mean",
        "TF-IDF + ridge regression",
    ]
    with pytest.raises(DataError, match="pair"):
        loratory.predict(similar.directory, ["w1 w2"])


def test_the_program_of_their_card_prints_the_number(
    similar: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    export(similar.directory, tmp_path / "merged", "merged")
    program = (tmp_path / "merged" / "README.md").read_text("utf8").split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path / "merged")
    exec(compile(program, "README.md", "exec"), {})
    pair, exact = ("A text.", "Its second text."), {"device": "cpu", "precision": "fp32"}
    expected = loratory.predict(similar.directory, [pair], **exact).numbers[0]
    assert float(capsys.readouterr().out.split()[-1]) == pytest.approx(expected, abs=1e-4)


def test_an_estimator_learns_numbers_of_pairs(paired_data: Any, paired_bert: Path, tmp_path: Path) -> None:
    flags = {"epochs": 1, "lr": 0.005, "max_length": 32, "device": "cpu", "precision": "fp32"}
    texts = list(paired_data.train.texts)
    found = loratory.TextRegressor("head", str(paired_bert), **flags).fit(texts, paired_data.train.labels + 0.5)
    assert found.predict(texts[:3]).shape == (3,)
    assert found.record_.spec["data"]["pair_column"] == "pair"
