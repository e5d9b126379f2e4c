"""What is said before training of data and rates that may not be meant; and nothing of those that are."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import loratory
from loratory.cli import main
from loratory.data import make_dataset
from loratory.data.targets import joined_by
from loratory.doubts import OWN_RATE, of_data, of_rates
from loratory.methods import METHODS
from loratory.spec import DataSpec

Written = Callable[..., DataSpec]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """(rows of text and label, **flags) -> the spec of a CSV with them."""

    def write(rows: list[tuple[str, Any]], **flags: Any) -> DataSpec:
        path = tmp_path / "a.csv"
        path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows), encoding="utf8")
        return DataSpec(dataset=str(path), **flags)

    return write


def balanced(count: int, *labels: str) -> list[tuple[str, str]]:
    return [(f"w{n} {label}", label) for n in range(count) for label in labels]


def said(spec: DataSpec) -> list[str]:
    return of_data(make_dataset(spec), spec)


def test_nothing_is_said_of_data_in_order(written: Written) -> None:
    assert said(written(balanced(30, "a", "b"))) == []
    assert said(written([(f"w{n}", n + 0.5) for n in range(30)])) == []
    assert said(written(balanced(30, "a", "b"), test_fraction=0)) == []


def test_texts_with_two_labels_are_said_with_where_they_are_named(written: Written) -> None:
    spec = written([*balanced(30, "a", "b"), ("Twice  told", "a"), ("twice told", "b")])
    assert said(spec) == [f"{spec.dataset}: 1 text has more than one label; loratory data show names it"]


def test_classes_with_few_test_texts_are_said(written: Written) -> None:
    (line,) = said(spec := written([*balanced(30, "a"), *balanced(8, "b", "c")]))
    assert line == (
        f"{spec.dataset}: 2 classes with fewer than 5 test texts ('b' 1, 'c' 1): scores of them say little; "
        "loratory data show has all counts"
    )
    (line,) = said(spec := written([*balanced(30, "a"), *balanced(8, "b")], problem="single-label"))
    assert "1 class with fewer than 5 test texts ('b' 1): scores of it say little" in line
    many = written([pair for n in range(8) for pair in balanced(8, f"c{n}")])
    assert "8 classes with fewer than 5 test texts ('c0' 1, 'c1' 1, 'c2' 1, 'c3' 1, 'c4' 1, …)" in said(many)[0]
    sets = written([*balanced(40, "a;b"), *balanced(9, "a;c")], label_separator=";")
    assert "1 label with fewer than 5 test texts ('c' 2)" in said(sets)[0]


@pytest.mark.parametrize(
    ("names", "mark"),
    [
        (("a;b", "b;c", "a;c"), ";"),
        (("a", "b", "a|b", "a | c", "b|c"), "|"),
        (("a/b", "c/d", "e/f"), None),
        (("a;b", "b;a"), None),
        (("New York, NY", "Reno, NV", "Miami, FL"), None),
        (("a", "b", "c", "d", "e", "f", "g", "a;b", "b;c", "a;c"), None),
        ((1, 2, 3), None),
    ],
)
def test_a_mark_that_joins_labels_is_known_by_the_parts_that_come_again(names: Any, mark: str | None) -> None:
    assert joined_by(names) == mark


def test_a_forgotten_separator_is_said_unless_labels_were_said_to_be_single(written: Written) -> None:
    rows = balanced(30, "a;b", "b;c", "a;c")
    (line,) = said(spec := written(rows))
    assert line.startswith(f"{spec.dataset}: labels such as 'a;b' share ';', and what stands between comes again")
    assert "say --label-separator ';'" in line
    assert said(written(rows, problem="single-label")) == []
    assert said(written(rows, label_separator=";")) == []


def test_rates_far_above_every_methods_own_are_said() -> None:
    assert max(method.default_lr(width) for method in METHODS.values() for width in (128, 1024)) == OWN_RATE
    assert of_rates("--lr", [0.01, 1.0]) == []
    assert of_rates("lora: lr", [5, 0.1, 2.0]) == [
        "lora: lr 2, 5: far above every method's own rate, which is 0.01 at most; is it meant?"
    ]


def test_train_says_each_once(flags: list[str], texts: Any, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "a.csv"
    rows = [*texts[:40], (texts[0][0], "good"), (texts[0][0], "bad"), (texts[1][0], "bad")]
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows), encoding="utf8")
    own = ["--dataset", str(path), "--lr", "5", "--head-lr", "7", "--output", str(tmp_path / "run")]
    assert main(["train", "--method", "head", *flags, *own]) in (0, 7)
    printed = capsys.readouterr().err
    for line in (
        "--lr 5: far above",
        "--head-lr 7: far above",
        f"{path}: 2 texts have more than one label",
        f"{path}: 1 class with fewer than 5 test texts",
    ):
        assert printed.count(line) == 1


def test_a_study_says_it_once_for_all_runs(
    study_text: Callable[..., str], tiny_csv: Path, texts: Any, tmp_path: Path, capsys: Any
) -> None:
    path, file = tmp_path / "a.csv", tmp_path / "study.yaml"
    path.write_text(tiny_csv.read_text("utf8") + f"{texts[0][0]},good\n{texts[0][0]},bad\n", encoding="utf8")
    text = study_text().replace(str(tiny_csv), str(path)).replace("lr: [1e-3, 5e-3]", "lr: [1e-3, 5]")
    file.write_text(text, encoding="utf8")
    assert main(["study", "run", str(file), "--output", str(tmp_path / "out"), "--set", "seeds=[0]"]) == 0
    printed = capsys.readouterr().err
    assert printed.count("1 text has more than one label; loratory data show names it") == 1
    assert printed.count("small: head: lr 5: far above every method's own rate") == 1


def test_what_was_given_as_lists_is_not_called_by_its_file(
    flags: list[str], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    given = dict(zip([flag[2:].replace("-", "_") for flag in flags[::2]], flags[1::2], strict=True))
    del given["dataset"]
    X, y = [f"w{n}" for n in range(40)] + ["w0"], ["a", "b"] * 20 + ["b"]
    with caplog.at_level(logging.WARNING, "loratory"):
        loratory.TextClassifier("head", model=given["model"], epochs=1, max_length=32, device="cpu").fit(X, y)
        loratory.train(X, y, method="head", output=tmp_path / "run", **given)
    lines = [record.getMessage() for record in caplog.records]
    assert "X and y: 1 text has more than one label; loratory data show names it" in lines
    assert "texts and labels: 1 text has more than one label; loratory data show names it" in lines
    assert not [line for line in lines if ".jsonl" in line]
    with pytest.raises(loratory.InputError, match=r"^X and y: class 'c' has 1 distinct text \(position 41\), too few"):
        loratory.TextClassifier("head", model=given["model"]).fit([*X, "w50"], [*y, "c"])
    with pytest.raises(loratory.DataError, match=r"^texts and labels: class 'c' has 1 distinct text \(position 41\)"):
        loratory.train([*X, "w50"], [*y, "c"], method="head", output=tmp_path / "other", **given)
