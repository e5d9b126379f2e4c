"""`predict`: files in the input's order, and several models at once."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loratory import predicting
from loratory.cli import main
from loratory.data import Labelled
from loratory.errors import ColumnError, ModelError, StorageError
from loratory.models import load
from loratory.report.predictions import Predicted, check_output, write_predictions
from loratory.run import Run, train
from loratory.spec import HardwareSpec

CPU = HardwareSpec(device="cpu", precision="fp32")
TEXTS = ["w0 w1 w2", "w3 w4 w5 w40 w41 w42 w43", "w50", "", "w3 w4"]
TWO = Predicted("", ("bad", "good"), np.array([[0.25, 0.75], [0.5, 0.5]]))


def several(*runs: Run) -> list[str]:
    return [word for run in runs for word in ("--model-path", str(run.directory))]


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that were read, in order."""
    names: list[str] = []

    def counting(name: str, **settings: Any) -> Any:
        names.append(name)
        return real(name, **settings)

    real = load.load_base
    monkeypatch.setattr(load, "load_base", counting)
    return names


def test_several_models_say_what_each_says_alone_and_share_their_base(
    runs: dict[str, Run], tiny_bert: Path, loaded: list[str]
) -> None:
    order = ["lora", "standard", "hybrid", "head"]
    paths = [runs[method].directory for method in order]
    together = predicting.predict(predicting.find(paths), TEXTS, hardware=CPU)
    assert [one.name for one in together] == order
    assert loaded == [str(tiny_bert), str(paths[1]), str(paths[3])]
    for path, one in zip(paths, together, strict=True):
        (alone,) = predicting.predict(predicting.find([path]), TEXTS, hardware=CPU)
        np.testing.assert_array_equal(one.probabilities, alone.probabilities)


def test_texts_of_any_length_come_back_in_their_order(runs: dict[str, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [" ".join(f"w{(7 * number + word) % 80}" for word in range(1 + 11 * number % 23)) for number in range(600)]
    found, lengths = predicting.find([runs["lora"].directory]), []
    batches = Labelled.by_length

    def seen(self: Labelled, *, tokens: int) -> Any:
        for chosen, batch in batches(self, tokens=tokens):
            lengths.append(batch.max_seqlen)
            yield chosen, batch

    monkeypatch.setattr(Labelled, "by_length", seen)
    (together,) = predicting.predict(found, texts, hardware=CPU)
    assert len(lengths) > 3
    assert lengths == sorted(lengths, reverse=True)
    alone = [predicting.predict(found, [text], hardware=CPU)[0].probabilities[0] for text in texts[:6]]
    np.testing.assert_allclose(together.probabilities[:6], alone, atol=1e-5)


def test_other_labels_and_other_bases_have_models_of_their_own(
    spec: Any,
    runs: dict[str, Run],
    model_directory: Any,
    tiny_bert: Path,
    texts: Any,
    tmp_path: Path,
    loaded: list[str],
) -> None:
    three = tmp_path / "three.csv"
    rows = [f"{text},{(label, 'odd')[number % 3 == 0]}\n" for number, (text, label) in enumerate(texts)]
    three.write_text("text,label\n" + "".join(rows))
    labels = train(spec("lora", dataset=str(three), epochs=1), output=tmp_path / "labels")
    base = train(spec("lora", model=str(model_directory("roberta")), epochs=1), output=tmp_path / "base")
    loaded.clear()
    output = tmp_path / "out.csv"
    command = ["predict", *several(runs["lora"], labels, base), "--device=cpu", "--precision=fp32"]
    assert main([*command, "--output", str(output), *TEXTS]) == 0
    assert loaded == [str(tiny_bert), str(tiny_bert), str(model_directory("roberta"))]
    table = pd.read_csv(output, keep_default_na=False)
    classes = {"lora": ["bad", "good"], "labels": ["bad", "good", "odd"], "base": ["bad", "good"]}
    expected = [[f"{name}:label", *(f"{name}:probability_{one}" for one in own)] for name, own in classes.items()]
    assert list(table.columns) == ["text", *(column for columns in expected for column in columns)]
    for columns in expected:
        np.testing.assert_allclose(table[columns[1:]].sum(axis=1), 1)


def test_the_digest_of_a_shared_base_is_each_adapters_own(
    spec: Any, runs: dict[str, Run], tiny_bert: Path, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(tiny_bert, tmp_path / "base"))
    old = train(spec("lora", model=str(base), epochs=1), output=tmp_path / "old")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
    new = train(spec("lora", model=str(base), epochs=1), output=tmp_path / "new")
    models = predicting.find([new.directory, old.directory])
    with pytest.raises(ModelError, match=r"old: its base .* has other weights, configuration or tokenizer"):
        predicting.predict(models, TEXTS, hardware=CPU)


def test_models_of_one_name_are_called_by_their_paths(runs: dict[str, Run], tmp_path: Path) -> None:
    lora, head = runs["lora"].directory, runs["head"].directory
    (tmp_path / "link").symlink_to(head)
    assert [found.name for found in predicting.find([lora, tmp_path / "link"])] == ["lora", "head"]
    copy = Path(shutil.copytree(head, tmp_path / "lora"))
    assert [found.name for found in predicting.find([lora, head, copy])] == [str(lora), "head", str(copy)]


def test_json_and_the_table_hold_every_model(runs: dict[str, Run], capsys: Any) -> None:
    command = ["predict", *several(runs["lora"], runs["head"]), "--device=cpu", "--precision=fp32", *TEXTS[:2]]
    assert main([*command, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["text"] for row in rows] == TEXTS[:2]
    assert [set(row["models"]) for row in rows] == [{"lora", "head"}] * 2
    assert main(command) == 0
    table = capsys.readouterr().out
    for name in ("lora", "head"):
        assert name in table
        for row in rows:
            said = row["models"][name]
            assert f"{said['probabilities'][said['label']]:.3f}" in table


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_files_are_in_the_inputs_order_with_its_columns(suffix: str, run_directory: Path, tmp_path: Path) -> None:
    rows = pd.DataFrame({"id": range(40), "text": [" ".join(["w7"] * (1 + 7 * n % 30)) for n in range(40)]})
    rows.to_parquet(tmp_path / "in.parquet")
    output = tmp_path / f"out{suffix}"
    command = ["predict", "--model-path", str(run_directory), "--input", str(tmp_path / "in.parquet")]
    assert main([*command, "--output", str(output)]) == 0
    if suffix == ".jsonl":
        lines = [json.loads(line) for line in output.read_text("utf8").splitlines()]
        found = pd.DataFrame(lines)
        shares = pd.DataFrame(found.pop("probabilities").tolist())
        found = found.assign(probability_bad=shares["bad"], probability_good=shares["good"])
    else:
        found = pd.read_csv(output) if suffix == ".csv" else pd.read_parquet(output)
        assert list(found.columns) == ["text", "label", "probability_bad", "probability_good", "id"]
    assert found["id"].tolist() == list(range(40))
    assert found["text"].tolist() == rows["text"].tolist()
    (said,) = predicting.predict(predicting.find([run_directory]), rows["text"].tolist(), hardware=CPU)
    assert found["label"].tolist() == said.chosen
    np.testing.assert_allclose(found[["probability_bad", "probability_good"]], said.probabilities, atol=1e-2)


def test_texts_of_a_table_stand_in_the_columns_of_training(tmp_path: Path) -> None:
    def read(header: str, column: str | None = None, learned: Any = ("review", None)) -> Any:
        path = tmp_path / "a.csv"
        path.write_text(f"{header}\n" + ",".join(f"in {name}" for name in header.split(",")) + "\n", encoding="utf8")
        return predicting.given_texts(path, column, None, learned).texts

    assert read("id,text,review") == ["in review"]
    assert read("id,text,review", "text") == ["in text"]
    assert read("id,text") == ["in text"]
    assert read("text,review", learned=None) == ["in text"]
    assert read("title,body", learned=("title,body", None)) == ["in title\nin body"]
    assert read("a,b", learned=("a", "b")) == [("in a", "in b")]
    with pytest.raises(
        ColumnError, match=r"no column 'text' .*; name one of these \(the model was trained on 'review'\)"
    ):
        read("id,title")
    with pytest.raises(ColumnError, match=r"no column 'title' \(--text-column\); it has 'text', 'review'; name one of"):
        read("text,review", "title")


def test_models_of_one_column_say_it(runs: dict[str, Run]) -> None:
    lora, head = predicting.find([runs["lora"].directory, runs["head"].directory])
    assert predicting.learned_columns([lora, head]) == ("text", None)
    assert head.data is not None
    other = replace(head, data=head.data.model_copy(update={"text_column": "review"}))
    assert predicting.learned_columns([other]) == ("review", None)
    assert predicting.learned_columns([lora, other]) is None
    assert predicting.learned_columns([lora, predicting.Found("", Path("m.pth"), None, None)]) is None


def test_a_pth_file_remembers_the_columns_of_training(
    spec: Any, texts: list[tuple[str, str]], tmp_path: Path, capsys: Any
) -> None:
    table = pd.DataFrame([(text[:6], text, label) for text, label in texts], columns=["title", "body", "label"])
    table.to_csv(tmp_path / "in.csv", index=False)
    columns = {"dataset": str(tmp_path / "in.csv"), "text_column": "title,body", "epochs": 1}
    run = train(spec("head", **columns), output=tmp_path / "run")
    assert main(["export", "--model-path", str(run.directory), "--output", str(tmp_path / "m.pth")]) == 0
    for model, name in ((tmp_path / "m.pth", "pth.csv"), (run.directory, "run.csv")):
        words = ["--model-path", str(model), "--input", str(tmp_path / "in.csv"), "--output", str(tmp_path / name)]
        assert main(["predict", *words]) == 0
        assert "texts of 'title,body', as the model was trained" in capsys.readouterr().err
    assert (tmp_path / "pth.csv").read_text() == (tmp_path / "run.csv").read_text()
    (tmp_path / "m.json").unlink()
    assert main(["predict", "--model-path", str(tmp_path / "m.pth"), "--input", str(tmp_path / "in.csv")]) == 3
    assert "no column 'text'" in capsys.readouterr().err


VALUES = st.none() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")) | st.booleans()


@settings(max_examples=60, deadline=None)
@given(others=st.lists(st.dictionaries(st.sampled_from(["a", "label", "text"]), VALUES), min_size=2, max_size=2))
def test_parquet_takes_columns_of_any_values(others: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("parquet") / "out.parquet"
    write_predictions(path, ["one", "two"], [TWO], others)
    found = pd.read_parquet(path)
    names = dict.fromkeys(name for row in others for name in row)
    expected = [f"input_{name}" if name in ("text", "label") else name for name in names]
    assert list(found.columns) == ["text", "label", "probability_bad", "probability_good", *expected]
    assert found["probability_good"].tolist() == [0.75, 0.5]


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(row: Any) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "out.csv"
    monkeypatch.setattr("loratory.report.predictions._cell", full)
    with pytest.raises(Exception, match="No space left on device"):
        write_predictions(path, ["one", "two"], [TWO])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.ENOSPC, "make room; the same command goes on"), (errno.EROFS, "choose another --output")],
)
def test_a_place_that_takes_no_file_is_refused_before_anything_is_labelled(
    number: int,
    remedy: str,
    runs: dict[str, Run],
    loaded: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    def refuse(**_: object) -> Any:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    path = tmp_path / "deep" / "out.csv"
    assert main(["predict", *several(runs["head"]), "--output", str(path), "w0"]) == 5
    assert capsys.readouterr().err == f"error: cannot write {path}: {os.strerror(number)}; {remedy}\n"
    assert loaded == []
    assert list(tmp_path.iterdir()) == []


def test_to_see_whether_a_file_can_be_written_leaves_none(tmp_path: Path) -> None:
    check_output(tmp_path / "deep" / "out.csv")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot write .*Not a directory; choose another --output"):
        check_output(tmp_path / "file" / "out.csv")


def test_a_cell_is_read_back_as_it_was(tmp_path: Path) -> None:
    given = [{"stars": "-5", "note": "=1+1"}, {"stars": 7, "note": None}]
    write_predictions(tmp_path / "out.csv", ["a, b", 'c "d"'], [TWO], given)
    with (tmp_path / "out.csv").open(encoding="utf8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == ["a, b", 'c "d"']
    assert [(row["stars"], row["note"]) for row in rows] == [("-5", "'=1+1"), ("7", "")]


def test_texts_that_are_no_unicode_are_one_line(
    run_directory: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "half.jsonl"
    path.write_text('{"text": "fine"}\n{"text": "half \\ud83d"}\n')
    command = ["predict", "--model-path", str(run_directory)]
    assert main([*command, "--input", str(path)]) == 3
    assert capsys.readouterr().err.startswith(f"error: {path}: line 2 holds half a surrogate pair")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), encoding="utf8"))
    assert main(command) == 3
    assert capsys.readouterr().err.startswith("error: standard input: not utf")
