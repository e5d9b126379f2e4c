"""Pairs of texts on their way to tokens: read, divided, looked at, and tokenised as the tokenizer pairs them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pairs import COLUMNS, PAIRS
from transformers import AutoTokenizer

from loratory.data import Labelled, Pairs, Texts, collate, load_source, make_dataset, normalised, tokenize
from loratory.data.batches import Shape, filled
from loratory.data.profile import Reader, profile
from loratory.data.tokens import encode
from loratory.errors import DataError
from loratory.report.findings import findings
from loratory.spec import DataSpec


def test_types_follow_their_tokens(paired_bert: Path, tmp_path: Path, paired_data: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(paired_bert)
    table = tokenize(paired_data.train, tokenizer, 9, tmp_path, types=True)
    first, second = map(list, zip(*paired_data.train.texts, strict=True))
    expected = tokenizer(first, second, truncation=True, max_length=9)["token_type_ids"]
    assert table.types is not None
    assert table.types.tolist() == [one for sequence in expected for one in sequence]
    assert tokenize(paired_data.train, tokenizer, 9, tmp_path).types is None
    assert len(list(tmp_path.glob("*/types.npy"))) == 1
    labels = paired_data.train.labels
    data = Labelled(table, labels)
    chosen = np.array([4, 0, 7])
    for batch in (collate(table, labels, chosen), collate(data.take(chosen).tokens, labels[chosen], [0, 1, 2])):
        assert batch.token_type_ids is not None
        assert batch.token_type_ids.tolist() == [one for place in chosen for one in expected[place]]
    few = data.first(2).tokens
    assert few.types is not None
    assert few.types.tolist() == [one for place in (0, 1) for one in expected[place]]
    whole = filled(batch, Shape(batch.tokens + 5, 4, 2, 16), 0)
    assert whole.token_type_ids is not None
    assert whole.token_type_ids.tolist() == [*batch.token_type_ids.tolist(), *[0] * 5]
    assert whole.to(torch.device("cpu")).tensors().keys() == batch.tensors().keys()


def test_single_texts_have_no_types_and_keep_their_place_in_the_cache(paired_bert: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(paired_bert)
    assert encode(["w1 w2"], tokenizer, 9, types=True).types is None
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "".join(f"w{n},{'ab'[n % 2]}\n" for n in range(20)), encoding="utf8")
    train = make_dataset(DataSpec(dataset=str(path))).train
    for types in (True, False):
        table = tokenize(train, tokenizer, 9, tmp_path / "cache", types=types)
        assert "token_type_ids" not in collate(table, train.labels, [0, 1]).tensors()
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_damaged_file_of_types_is_made_anew(paired_bert: Path, tmp_path: Path, paired_data: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(paired_bert)
    made = tokenize(paired_data.test, tokenizer, 9, tmp_path, types=True).types
    assert made is not None
    expected = made.tolist()  # it is mapped from the file
    (path,) = tmp_path.glob("*/types.npy")
    np.save(path, np.zeros(3, dtype=np.uint8))
    found = tokenize(paired_data.test, tokenizer, 9, tmp_path, types=True).types
    assert found is not None
    assert found.tolist() == expected


def test_every_format_gives_the_same_pairs(pairs_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    with pairs_csv.open(encoding="utf8", newline="") as file:
        rows = list(csv.DictReader(file))
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    datasets.Dataset.from_list(rows).to_parquet(str(tmp_path / "a.parquet"))
    expected = tuple((row["premise"], row["hypothesis"]) for row in rows)
    for place in (pairs_csv, folder / "train.jsonl", tmp_path / "a.parquet", f"hub:{folder}"):
        for second in ("hypothesis", "2", 2):
            spec = DataSpec.model_validate({"dataset": str(place), **COLUMNS, "pair_column": second})
            (examples,) = load_source(spec).parts.values()
            assert examples.texts == expected


def test_a_pair_is_one_unit_and_its_texts_alone_are_counted(
    paired_data: Any, pairs_csv: Path, paired_bert: Path
) -> None:
    sides = {
        part: [normalised(pair) for pair in paired_data.split(part).texts] for part in ("train", "validation", "test")
    }
    assert paired_data.overlap == {"train-validation": 0, "train-test": 0, "validation-test": 0}
    assert paired_data.record()["alone"] == paired_data.alone
    assert len(set().union(*sides.values())) == sum(map(len, sides.values())) == 90
    found = profile(paired_data, Reader("tiny", AutoTokenizer.from_pretrained(paired_bert), 64), 16)
    assert found.alone is not None
    either = {part: {text for pair in paired_data.split(part).texts for text in pair} for part in sides}
    for place, column in enumerate(("text", "pair")):
        for names, count in found.alone[column].items():
            known, judged = names.split("-")
            assert count == sum(pair[place] in either[known] for pair in paired_data.split(judged).texts)
    assert found.alone["text"]["train-test"] > 0
    said = next(
        one for one in findings(found, paired_data.record()["sizes"]) if one.title == "Texts of pairs, each by itself"
    )
    assert "--group-column" in said.sentences[-1]
    assert json.loads(json.dumps(found.to_dict()))["alone"] == found.alone

    grouped = make_dataset(DataSpec(dataset=str(pairs_csv), group_column="id", **COLUMNS))
    alone = profile(grouped, None, 16).alone
    assert alone is not None
    assert set(alone["text"].values()) == {0}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"a": "x", "b": " ", "label": "p"}], "1 row without a second text (line 1); add it"),
        ([{"a": "x", "b": None, "label": "p"}], "1 row without a second text (line 1); add it"),
        (
            [{"a": "x", "b": 3, "label": "p"}],
            "1 row with a second text that is not a string (line 1); choose",
        ),
        (
            [{"a": "x", "b": "y", "label": "p"}, {"a": "x", "label": "p"}],
            "line 2: no column 'b' (--pair-column); it has 'a', 'label'; add it",
        ),
        ([{"a": "x", "b": "\ud800", "label": "p"}], "1 row with half a surrogate pair (line 1)"),
    ],
)
def test_a_pair_that_lacks_a_text_is_refused(rows: list[dict[str, Any]], said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    with pytest.raises(DataError) as caught:
        load_source(DataSpec(dataset=str(path), text_column="a", pair_column="b"))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_column_of_pairs_is_like_a_tuple_of_them() -> None:
    pairs = Pairs(Texts.of(first for first, _ in PAIRS), Texts.of(second for _, second in PAIRS))
    assert pairs == tuple(PAIRS)
    assert pairs[1] == PAIRS[1]
    assert pairs[1:3] == PAIRS[1:3]
    assert pairs.take(np.array([2, 0])) == [PAIRS[2], PAIRS[0]]
    assert pairs != PAIRS[::-1]
    assert normalised((" A", "b c")) == normalised(("a", "B  c")) != normalised(("a b", "c"))
    assert normalised(("b C", "a")) == normalised(("a", "b c"))
    assert normalised(("b C", "a"), in_order=True) != normalised(("a", "b c"), in_order=True)
