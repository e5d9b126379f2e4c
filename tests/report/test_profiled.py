"""What `data show` prints: within 80 columns, plain where it must be, and nothing that a terminal could obey."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from loratory.cli import main
from loratory.data import make_dataset
from loratory.errors import DataError
from loratory.report.profiled import CLASSES, Profiled, described
from loratory.spec import DataSpec

ROOT = Path(__file__).parents[2]
HOSTILE = "\x1b[31mred \x9b2J\u202e \x07"


def written(path: Path, rows: list[tuple[Any, Any]]) -> str:
    path.write_text("".join(json.dumps({"text": t, "label": y}) + "\n" for t, y in rows), encoding="utf8")
    return str(path)


def looked_at(path: Path, rows: list[tuple[Any, Any]], model: Path, **more: Any) -> Profiled:
    data = DataSpec(dataset=written(path, rows), **more)
    return described(make_dataset(data), str(model), data.max_length)


def shown(found: Profiled) -> str:
    """As a file or a pipe gets it."""
    buffer = io.StringIO()
    Console(width=80, file=buffer).print(found)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Profiled:
    """Equal texts, near duplicates and a conflict, all with texts and labels that would command a terminal."""
    rows: list[tuple[Any, Any]] = [
        (f"w{n} w{n + 1} number {n * 7919} of {n * 104729}", ("no", HOSTILE)[n % 2]) for n in range(40)
    ]
    near = [(f"{HOSTILE} a long enough text of which one letter differs {n}", "no") for n in range(3)]
    rows += [*near, near[0], (near[0][0].upper(), HOSTILE), (f"{HOSTILE} " + "w1 " * 70, "no")]
    place = tmp_path_factory.mktemp("hostile") / "h.jsonl"
    return looked_at(place, rows, tiny_bert, max_length=32)


def test_it_is_read_at_80_columns_and_commands_no_terminal(hostile: Profiled) -> None:
    text = shown(hostile)
    assert max(map(len, text.splitlines())) <= 80
    assert all(character.isprintable() or character == "\n" for character in text)
    assert "\\x1b[31mred" in text
    for heading in ("Class", "Tokens of", "Equal texts", "Near duplicates", "Label conflicts", "Maximum length"):
        assert heading in text
    assert "█" in text


def test_counts_and_rows_are_said(hostile: Profiled) -> None:
    text = " ".join(shown(hostile).split())
    assert re.search(r"3 rows: train line 41, 44, 45|3 rows, labels .*: (train|validation|test) line 41, 44, 45", text)
    assert "1 text with more than one label." in text
    assert re.search(r"(train|validation|test) line 41 \(no\), 44 \(no\), 45 \(\\x1b\[31mred", text)
    assert "MinHash with LSH (48 permutations, 12 bands, seed 0)" in text
    assert "1 text has more than the 64 tokens" in text
    assert "--max-length 32 cuts 1 text" in text


def test_json_has_the_documented_keys_and_no_raw_control_character(
    hostile: Profiled, tiny_bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = str(hostile.record["source"])
    command = ["data", "show", name, "--model", str(tiny_bert), "--max-length", "32", "--json"]
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert all(character.isprintable() or character == "\n" for character in out)
    document = json.loads(out)
    assert document == hostile.to_dict()
    assert document["near"]["largest"][0]["texts"][0].startswith(HOSTILE)
    page = (ROOT / "docs" / "data.md").read_text("utf8")
    documented = set(re.findall(r"`([a-z_0-9]+)`", page))
    records = {"class_counts", "sizes", "units", "digests", "overlap", "duplicates", "within", "across", "lengths"}

    def keys(value: Any, under: str = "") -> set[str]:
        if isinstance(value, dict):
            own = set() if under in records else set(value)  # there the keys are parts
            return own.union(*(keys(one, key) for key, one in value.items()))
        return set().union(*map(keys, value)) if isinstance(value, list) else set()

    assert keys(document) <= documented


def test_of_many_classes_the_largest_and_smallest_are_shown(tmp_path: Path, tiny_bert: Path) -> None:
    rows = [(f"text {c} {n}", c) for c in range(CLASSES + 9) for n in range(4 + c)]
    text = shown(looked_at(tmp_path / "a.jsonl", rows, tiny_bert))
    assert "9 more, in --json" in text
    numbers = [int(line.split()[0]) for line in text.splitlines() if re.match(r"\d+ +\d+ \(", line)]
    assert numbers == [*range(32, 20, -1), *range(11, -1, -1)]


def test_a_small_class_has_fewer_samples(tmp_path: Path, tiny_bert: Path) -> None:
    rows = [(f"text {n}", "rare" if n < 3 else "common") for n in range(30)]
    assert [len(texts) for texts in looked_at(tmp_path / "a.jsonl", rows, tiny_bert).samples] == [2, 1]


def test_a_clean_data_set_is_said_to_be_clean(tmp_path: Path, tiny_bert: Path) -> None:
    rows = [(f"{n} w{n}", n % 2) for n in range(40)]
    text = shown(looked_at(tmp_path / "a.jsonl", rows, tiny_bert))
    for sentence in (
        "No row repeats another of its split.",
        "No text stands in two splits.",
        "No row has one in another split.",
        "No text has two labels.",
        "No text is empty to the tokenizer.",
        "cuts no text",
    ):
        assert sentence in text


def test_an_empty_text_is_refused_by_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = written(tmp_path / "a.jsonl", [*((f"text {n}", n % 2) for n in range(20)), (" ", 1), ("", 0)])
    assert main(["data", "show", name]) == 3
    assert "2 rows without a text (lines 21, 22)" in capsys.readouterr().err


@pytest.mark.parametrize("folds", [[], ["--folds", "5", "--fold", "1"]])
def test_a_mistyped_label_is_shown_with_its_line_and_hides_nothing(
    tmp_path: Path, tiny_bert: Path, folds: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.csv"
    rows = [f"text {n},{('negative', 'positive')[n % 2]}" for n in range(40)]
    path.write_text("\n".join(["text,label", *rows[:20], "odd,postive", *rows[20:], rows[3]]) + "\n", encoding="utf8")
    assert main(["train", "--method", "head", "--dataset", str(path), "--model", str(tiny_bert), *folds]) == 3
    refusal = capsys.readouterr().err.removeprefix("error: ").strip()
    assert "class 'postive' has 1 distinct text (line 22), too few for" in refusal
    command = ["data", "show", str(path), "--model", str(tiny_bert), *folds]
    assert main([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["refused"][0] == refusal
    assert document["labels"] == ["negative", "positive", "postive"]
    assert [sum(counts) for counts in zip(*document["class_counts"].values(), strict=True)] == [20, 21, 1]
    assert document["equal"]["rows"] == 2
    assert document["tokens"]["lengths"]["all"]["texts"] == 42
    assert main(command) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Training would refuse it: " in text
    assert "(line 22)" in text
    for heading in ("Class", "Tokens of", "Equal texts", "Near duplicates", "Maximum length"):
        assert heading in text


def test_labels_that_training_never_sees_are_shown_with_their_lines(tmp_path: Path, tiny_bert: Path) -> None:
    train = written(tmp_path / "a.jsonl", [(f"text {n}", ("bad", "good")[n % 2]) for n in range(20)])
    test = written(tmp_path / "b.jsonl", [("one", "good"), ("two", "godo"), ("three", "godo")])
    refused: list[DataError] = []
    dataset = make_dataset(DataSpec(dataset=train, test=test), refuse=refused.append)
    found = described(dataset, str(tiny_bert), 32, refused)
    assert [why.endswith("'godo' (lines 2, 3); add them to it or correct them") for why in found.refused] == [True]
    assert found.record["class_counts"]["test"] == [0, 2, 1]
