"""Columns are named or numbered, several text columns are one text: in every format, wherever texts are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loratory.cli import main
from loratory.data import load_source
from loratory.data.files import read_texts
from loratory.errors import DataError
from loratory.spec import DataSpec, validated

datasets = pytest.importorskip("datasets")

ROWS: list[dict[str, Any]] = [
    {"id": "7", "title": "One", "body": "first, of all", "stars": "good"},
    {"id": "8", "title": "Two", "body": "", "stars": "bad"},
    {"id": "9", "title": "", "body": "third", "stars": "good"},
]
JOINED = ("One\nfirst, of all", "Two", "third")


@pytest.fixture(params=["csv", "tsv", "jsonl", "parquet", "hub"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The rows as a file of each format, or as a data set in the hub's layout."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "rows"
    folder.mkdir()
    kind = request.param
    path = folder / f"train.{'jsonl' if kind == 'hub' else kind}"
    table = datasets.Dataset.from_list(ROWS)
    if kind == "parquet":
        table.to_parquet(str(path))
    elif kind in ("jsonl", "hub"):
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf8")
    else:
        table.to_csv(str(path), sep="," if kind == "csv" else "\t")
    return f"hub:{folder}" if kind == "hub" else str(path)


def examples(place: str, **columns: Any) -> Any:
    (found,) = load_source(validated(DataSpec, {"dataset": place, **columns})).parts.values()
    return found


@pytest.mark.parametrize("label", ["stars", "3", 3])
@pytest.mark.parametrize("text", ["title,body", " title , body", "1,2", "title,2"])
def test_several_text_columns_are_one_text(place: str, text: str, label: Any) -> None:
    found = examples(place, text_column=text, label_column=label, group_column=0)
    assert found.texts == JOINED
    assert found.labels == ("good", "bad", "good")
    assert found.groups == ("7", "8", "9")


def test_what_is_named_is_not_there_or_named_twice(place: str) -> None:
    listed = "it has 'id', 'title', 'body', 'stars'; name one of these"
    for columns, said in (
        ({"text_column": "title,text"}, f"no column 'text' (--text-column); {listed}"),
        ({"text_column": "4"}, f"no column '4' (--text-column); {listed}"),
        (
            {"text_column": "title", "label_column": "a,b"},
            f"no column 'a,b' (--label-column); {listed}",
        ),
        ({"text_column": "title", "label_column": "1"}, "--text-column and --label-column are both 'title'"),
        ({"text_column": "body,2"}, "--text-column and --text-column are both 'body'"),
    ):
        with pytest.raises(DataError) as caught:
            examples(place, **{"label_column": "stars", **columns})
        assert said in str(caught.value)


def test_a_name_comes_before_a_number_and_before_commas(tmp_path: Path) -> None:
    path = tmp_path / "odd.csv"
    path.write_text('"a,b",0,1\nx,y,z\n', encoding="utf8")
    assert examples(str(path), text_column="a,b", label_column="0").texts == ("x",)
    found = examples(str(path), text_column="1", label_column="0")
    assert (found.texts, found.labels) == (("z",), ("y",))
    assert examples(str(path), text_column="2", label_column="0").texts == ("z",)


def test_a_text_that_is_missing_in_every_column_and_one_that_is_a_number_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "faulty.jsonl"
    row = {"title": "a", "body": "b", "stars": "good"}
    for change, said in (
        ({"title": " ", "body": None}, r"1 row without a text \(line 2\)"),
        ({"body": 4}, r"1 row with a text that is not a string \(line 2\)"),
    ):
        path.write_text("".join(json.dumps(one) + "\n" for one in (row, {**row, **change})), encoding="utf8")
        with pytest.raises(DataError, match=said):
            examples(str(path), text_column="title,body", label_column="stars")
    path.write_text(json.dumps(row) + '\n{"title": "a", "stars": "good"}\n', encoding="utf8")
    with pytest.raises(DataError, match=r"line 2: no column 'body' \(--text-column\); it has 'title', 'stars'; add it"):
        examples(str(path), text_column="title,body", label_column="stars")


def test_a_name_that_is_a_number_is_missed_where_a_later_row_lacks_it(tmp_path: Path) -> None:
    path = tmp_path / "numbered.jsonl"
    path.write_text('{"0": "a", "stars": "x"}\n{"stars": "y", "1": "b"}\n', encoding="utf8")
    with pytest.raises(DataError, match=r"line 2: no column '0' \(--text-column\); it has 'stars', '1'; add it"):
        examples(str(path), text_column="0", label_column="stars")


def test_texts_to_label_are_read_alike_and_their_other_columns_stay(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf8")
    asked = read_texts(path, "1,body")
    texts, others = asked.texts, asked.others
    assert tuple(texts) == JOINED
    assert others == [{"id": row["id"], "stars": row["stars"]} for row in ROWS]


def test_splits_of_the_hub_are_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.Value("string")})
    names = ("train", "validation", "unsupervised", "validation_matched", "test")
    tables = {
        name: datasets.Dataset.from_dict({"text": [f"{name} {n}" for n in range(4)], "label": list("abab")}, features)
        for name in names
    }

    def load(*args: Any, **given: Any) -> Any:
        asked.append((args, given))
        return datasets.DatasetDict(tables)

    monkeypatch.setattr(datasets, "load_dataset", load)

    def firsts(name: str, **splits: str) -> dict[str, str]:
        parts = load_source(DataSpec(dataset=name, **splits)).parts
        return {part: found.texts[0] for part, found in parts.items()}

    usual = {"train": "train 0", "validation": "validation 0", "test": "test 0"}
    assert firsts("hub:glue/mnli") == usual
    assert firsts("hub:a/glue/mnli@v2", validation_split="validation_matched") == {
        **usual,
        "validation": "validation_matched 0",
    }
    assert asked[-1] == (("a/glue", "mnli"), {"revision": "v2"})
    assert firsts("hub:x", train_split="test") == {"train": "test 0", "validation": "validation 0"}
    assert load_source(DataSpec(dataset="hub:x@v2")).revision == "v2"
    listed = "splits: train, validation, unsupervised, validation_matched, test; set --test-split"
    with pytest.raises(DataError, match=f"hub:x: no split 'dev'; {listed}"):
        firsts("hub:x", test_split="dev")
    with pytest.raises(DataError, match="no data set is named"):
        firsts("hub:x@")


def test_splits_are_the_hubs_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\na,b\n", encoding="utf8")
    assert main(["data", "show", str(path), "--train-split", "a"]) == 3
    assert "--train-split: only a data set of the hub has named splits" in capsys.readouterr().err
