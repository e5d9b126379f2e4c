"""What a label is: recognised from the cells, or said; and what cannot be meant is one line that names the rows."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from loratory.data import Dataset, gathered, load_source, make_dataset
from loratory.data.files import read_table
from loratory.data.hutto import DOMAINS
from loratory.data.targets import STRATA, shown, strata_of
from loratory.errors import DataError, LoratoryError, SettingsError
from loratory.problems import MULTI, REGRESSION, SINGLE
from loratory.spec import DataSpec


def jsonl(folder: Path, labels: list[Any]) -> Path:
    path = folder / "a.jsonl"
    rows = ({"text": f"text {number}", "label": label} for number, label in enumerate(labels))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def csv(folder: Path, labels: list[str]) -> Path:
    path = folder / "a.csv"
    path.write_text("text,label\n" + "".join(f'text {number},"{label}"\n' for number, label in enumerate(labels)))
    return path


def divided(path: Path | str, **settings: Any) -> Dataset:
    return make_dataset(DataSpec.model_validate({"dataset": str(path), **settings}))


def refused(path: Path, kind: type[LoratoryError] = DataError, **settings: Any) -> str:
    with pytest.raises(kind) as caught:
        divided(path, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


SETS = [["a"], ["b", "a"], [], ["c"], ["a", "c"]] * 8
NUMBERS = [0.5 * number for number in range(40)]


def test_lists_are_sets_of_labels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "loratory"):
        found = divided(jsonl(tmp_path, SETS))
    assert "multi-label classification; --problem says otherwise" in caplog.text
    assert (found.problem, found.labels) == (MULTI, ("a", "b", "c"))
    for part in (found.train, found.validation, found.test):
        named = [SETS[row] for row in part.rows]
        assert shown(part.labels, found.labels) == [", ".join(sorted(names)) or "(none)" for names in named]
    assert found.record()["problem"] == MULTI
    assert sum(found.record()["class_counts"][part][0] for part in ("train", "validation", "test")) == 24


def test_parquet_lists_and_separated_cells_are_the_same(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [f"text {n}" for n in range(40)], "label": SETS}), tmp_path / "a.parquet")
    cells = [";".join(names) or ";" for names in SETS]
    expected = divided(jsonl(tmp_path, SETS))
    for other in (divided(tmp_path / "a.parquet"), divided(csv(tmp_path, cells), label_separator=";")):
        assert other.train.digest == expected.train.digest
        assert np.array_equal(other.test.labels, expected.test.labels)


def test_numbers_with_fractions_are_a_regression_and_whole_ones_are_classes(tmp_path: Path) -> None:
    for path in (jsonl(tmp_path, NUMBERS), csv(tmp_path, [str(one) for one in NUMBERS])):
        found = divided(path)
        assert (found.problem, found.labels) == (REGRESSION, ("label",))
        assert found.train.labels.dtype == np.float64
        assert np.array_equal(found.train.labels, np.array(NUMBERS)[found.train.rows])
    whole = [n % 4 for n in range(40)]
    assert divided(jsonl(tmp_path, whole)).problem == SINGLE
    assert divided(jsonl(tmp_path, [float(one) for one in whole])).labels == (0, 1, 2, 3)
    assert divided(jsonl(tmp_path, whole), problem="regression").problem == REGRESSION
    halves = [0.5 * one for one in whole]
    assert divided(jsonl(tmp_path, halves), problem="single-label").labels == (0, 0.5, 1, 1.5)


def test_the_rarest_label_is_dealt_out_by_the_fractions(tmp_path: Path) -> None:
    sets = [
        ["common", "rare"] if number % 10 == 0 else ["common"] if number % 2 else ["other"] for number in range(200)
    ]
    counts = divided(jsonl(tmp_path, sets)).record()["class_counts"]
    assert [counts[part][2] for part in ("train", "validation", "test")] == [14, 2, 4]


def test_tenths_of_the_numbers_are_dealt_out_by_the_fractions(tmp_path: Path) -> None:
    numbers = [round(1.1**number, 6) for number in range(400)]
    found = divided(jsonl(tmp_path, numbers))
    stratum, strata = strata_of(np.array(numbers), ("label",))
    assert strata == STRATA
    assert np.bincount(stratum(found.test.labels)).tolist() == [8] * STRATA


def test_what_is_mixed_or_no_number_is_one_line(tmp_path: Path) -> None:
    assert "2 rows with a single label where a list of labels is read (lines 2, 4)" in refused(
        jsonl(tmp_path, [["a"], "b", ["a", "b"], "a"])
    )
    assert "set --label-separator" in refused(csv(tmp_path, ["a", "b"]), problem="multi-label")
    assert "1 row with a target that is no finite number (line 3)" in refused(
        csv(tmp_path, ["1.5", "good", "2"]), problem="regression"
    )
    assert "no finite number (line 1)" in refused(jsonl(tmp_path, [["a"], 1.5]), problem="regression")
    assert "single-label" not in refused(csv(tmp_path, ["1.5", "good", "2"]), problem="regression")
    assert "no finite number (line 2)" in refused(jsonl(tmp_path, [1.5, True]), problem="regression")
    assert "stands there twice" in refused(jsonl(tmp_path, [[0, 1, 1], [1, 0, 0]]))
    assert "without a label" in refused(csv(tmp_path, ["a;b", ""]), label_separator=";")
    assert "one label only, 'a'" in refused(jsonl(tmp_path, [["a"], []] * 8))
    assert "nothing to learn" in refused(jsonl(tmp_path, [2] * 40), problem="regression")
    assert "--problem is regression" in refused(
        csv(tmp_path, ["1"]), SettingsError, problem="regression", label_separator=";"
    )
    assert "no class name" in refused(jsonl(tmp_path, [["a"], "b"]), problem="single-label")


def test_a_label_that_training_never_sees(tmp_path: Path) -> None:
    other = tmp_path / "test.jsonl"
    other.write_text(json.dumps({"text": "x", "label": ["a", "z"]}) + "\n")
    assert "labels in test that training never sees: 'z' (" in refused(jsonl(tmp_path, SETS), test=str(other))


def test_ratings_of_the_packaged_data_are_a_regression(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loratory.data.hutto.fetch", lambda name: tmp_path)
    lines = [f"{number}\t{(number - 40) / 10}\ttext {number}" for number in range(81)]
    (tmp_path / DOMAINS["tweets"]).write_text("\n".join(lines) + "\n")
    found = divided("hutto:tweets", task="rating")
    assert (found.problem, found.labels, found.dropped) == (REGRESSION, ("rating",), 0)
    assert np.array_equal(found.test.labels, (found.test.rows - 40) / 10)
    with pytest.raises(DataError, match="--problem multi-label"):
        load_source(DataSpec(dataset="hutto:tweets", problem="multi-label"))


def numbers_csv(folder: Path, cells: list[str]) -> Path:
    path = folder / "numbers.csv"
    path.write_text("text,label\n" + "".join(f"text {n},{cell}\n" for n, cell in enumerate(cells)))
    return path


def test_very_many_numbers_are_kept_as_numbers_in_a_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [f"{number * 7 % 400 / 8}" for number in range(400)]
    path = numbers_csv(tmp_path, cells)
    few = divided(path)
    monkeypatch.setattr("loratory.data.cells.MANY", 30)
    columns = gathered(read_table(path, {"--text-column": "text", "--label-column": "label"}))
    assert columns.labels.numbers is not None
    assert (len(columns.labels.values), columns.labels.numbers.tolist()) == (0, [float(cell) for cell in cells])
    many = divided(path)
    for part in ("train", "validation", "test"):
        assert many.split(part).digest == few.split(part).digest
    for wrong, said in (("good", "with a target that is no finite number (lines 302, 352)"), ("", "without a label")):
        broken = numbers_csv(tmp_path, [wrong if number in (300, 350) else cell for number, cell in enumerate(cells)])
        assert f"2 rows {said}" in refused(broken)
        assert "problem single-label" in refused(broken) or not wrong
    spec = DataSpec(dataset=str(numbers_csv(tmp_path, cells)), problem="single-label")
    assert list(load_source(spec).parts["all"].labels[:3]) == ["0.0", "0.875", "1.75"]


def test_folds_test_every_text_once_and_train_on_every_label(tmp_path: Path) -> None:
    sets = [["common", "rare"] if n % 20 == 0 else ["common"] if n % 2 else ["other"] for n in range(100)]
    numbers = [round(1.03**number, 6) for number in range(100)]
    for path in (jsonl(tmp_path, sets), numbers_csv(tmp_path, list(map(str, numbers)))):
        parts = [divided(path, folds=4, fold=fold) for fold in (1, 2, 3, 4)]
        assert sorted(row for one in parts for row in one.test.rows) == list(range(100))
        assert {len(one.test) for one in parts} == {25}
        for one in parts:
            assert len({*one.train.rows, *one.validation.rows, *one.test.rows}) == 100
            if one.problem == MULTI:
                assert (one.train.labels.sum(axis=0) > 0).all()
                assert one.test.labels[:, 2].sum() >= 1
    stratum, _ = strata_of(np.array(numbers), ("label",))
    spread = [np.bincount(stratum(one.test.labels), minlength=5) for one in parts]
    assert np.ptp(spread, axis=0).max() <= 1


def test_folds_that_would_not_train_on_a_label_and_parts_without_a_text_are_refused(tmp_path: Path) -> None:
    sets = [["a"], ["b"]] * 20
    once = refused(jsonl(tmp_path, [*sets, ["once"]]), folds=4, fold=1)
    assert "no text with the label 'once' is left to train on beside fold" in once
    assert once == refused(jsonl(tmp_path, [*sets, ["once"]]), folds=4, fold=3)
    assert "2 distinct texts with its labels, too few for 3 parts" in refused(jsonl(tmp_path, [0.5, 1.5]))
    assert "too few for 5 folds" in refused(jsonl(tmp_path, [0.5, 1.5, 2.5, 3.5]), folds=5, fold=5)


def test_smaller_sizes_of_numbers_lie_within_larger_ones(tmp_path: Path) -> None:
    path = numbers_csv(tmp_path, [str(round(1.01**number, 6)) for number in range(400)])
    rows = [set(divided(path, limit=limit).train.rows.tolist()) for limit in (40, 100, 280)]
    assert rows[0] < rows[1] < rows[2]
    train = divided(path, limit=40).train.labels
    stratum, _ = strata_of(divided(path).train.labels, ("label",))
    assert np.ptp(np.bincount(stratum(train), minlength=STRATA)) <= 1


def test_pairs_may_have_a_number_or_several_labels(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    for labels, problem in ((NUMBERS, REGRESSION), (SETS, MULTI)):
        rows = ({"text": f"text {n}", "second": f"other {n}", "label": label} for n, label in enumerate(labels))
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        found = divided(path, pair_column="second")
        assert found.problem == problem
        assert all(second == first.replace("text", "other") for first, second in found.train.texts)


def test_lists_of_true_and_of_one_are_not_the_same(tmp_path: Path) -> None:
    found = divided(jsonl(tmp_path, [[True], [1], [1.0], ["a"]] * 10))
    assert found.labels == (True, 1, "a")
    assert sum(found.record()["class_counts"][part][1] for part in ("train", "validation", "test")) == 20


@pytest.mark.parametrize("piece", ["", " ", "nan", None])
def test_a_piece_that_is_no_label_is_refused(piece: str | None, tmp_path: Path) -> None:
    path = jsonl(tmp_path, [["a"], ["b"], ["a", piece]] * 20)
    with pytest.raises(DataError, match="with a label that is no name"):
        divided(path)


def test_labels_that_are_written_alike_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="are written alike"):
        divided(jsonl(tmp_path, [["1", "a"], [1], ["a"], ["1"]] * 20))


def test_one_or_zero_for_each_label_is_no_list_of_labels(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="same labels; nothing to learn"):
        divided(jsonl(tmp_path, [[0, 1], [1, 0]] * 20))


def test_a_limit_that_loses_a_label_is_refused(tmp_path: Path) -> None:
    path = jsonl(tmp_path, [["a", "b"], ["b"], ["c", "b"]] * 20)
    with pytest.raises(SettingsError, match=r"--limit 1: no text with the label '[ac]' is among so few"):
        divided(path, limit=1)
    assert len(divided(path, limit=6).train) == 6


def test_a_slip_among_numbers_with_fractions_is_named_by_its_row_and_no_class(tmp_path: Path) -> None:
    path = csv(tmp_path, [str(number / 2) for number in range(40)] + ["great"])
    said = refused(path)
    assert "1 row with a target that is no finite number (line 42); nearly all labels are numbers, some with" in said
    assert "fractions: give a number, or say --problem single-label" in said
    half = csv(tmp_path, ["0.5", "great", "poor", "1"] * 20)
    assert divided(half).problem == SINGLE


def write(folder: Path, name: str, labels: list[str]) -> str:
    path = folder / f"{name}.csv"
    path.write_text("text,label\n" + "".join(f"{name} {n},{label}\n" for n, label in enumerate(labels)))
    return str(path)


def test_labels_of_validation_and_test_do_not_decide_what_labels_are(tmp_path: Path) -> None:
    train = write(tmp_path, "train", ["1", "2", "3", "4"] * 10)
    other = write(tmp_path, "other", ["1", "2.5", "3"])
    for part in ("validation", "test"):
        said = refused(Path(train), **{part: other})
        assert f"{other}: labels in {part} that training never sees: '2.5' (" in said
        assert said.endswith("; say --problem regression if labels are numbers")
    assert divided(train, test=other, problem="regression").test.labels.tolist() == [1, 2.5, 3]
    halves = write(tmp_path, "halves", [f"{n / 2}" for n in range(40)])
    assert divided(halves, test=write(tmp_path, "whole", ["1", "2"])).problem == REGRESSION
    assert "no finite number (line 3)" in refused(Path(halves), test=write(tmp_path, "text", ["1", "good"]))
    lists = jsonl(tmp_path, SETS)
    single = tmp_path / "single.jsonl"
    single.write_text('{"text": "x", "label": "a"}\n')
    assert f"{single}: 1 row with a single label" in refused(lists, test=str(single))
    single.write_text('{"text": "x", "label": ["a"]}\n')
    assert f"{single}: 1 row with a label that is no class name" in refused(Path(train), test=str(single))


def test_very_many_numbers_of_a_test_do_not_decide_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loratory.data.cells.MANY", 5)
    train = write(tmp_path, "train", ["1", "2"] * 10)
    assert "never sees: '0.125' (line " in refused(
        Path(train), test=write(tmp_path, "test", [f"{n / 8}" for n in range(1, 40)])
    )


def test_numbers_may_be_text_in_every_format(tmp_path: Path) -> None:
    for problem in (None, "regression"):
        found = divided(jsonl(tmp_path, [str(one) for one in NUMBERS]), problem=problem)
        assert found.problem == REGRESSION
        assert np.array_equal(found.train.labels, np.array(NUMBERS)[found.train.rows])
    assert divided(jsonl(tmp_path, ["1", "2"] * 20)).labels == ("1", "2")
    assert divided(jsonl(tmp_path, ["1.5", "2.5"] * 20), problem="single-label").labels == ("1.5", "2.5")


@pytest.mark.parametrize("problem", [None, "regression"])
def test_marks_of_what_is_missing_among_numbers_are_one_line(problem: str | None, tmp_path: Path) -> None:
    cells = [f"{n / 8}" for n in range(10)] + ["n/a", "", "NaN", "NA", " None ", "n/a"]
    said = refused(Path(write(tmp_path, "a", cells)), problem=problem)
    assert "6 rows without a label, such as 'n/a' (lines 12, 13, 14, 15, 16 and 1 more); add it" in said
    assert ("--problem single-label" in said) == (problem is None)
    path = jsonl(tmp_path, [*NUMBERS, None, "n/a"])
    assert "2 rows without a label, such as 'n/a' (lines 41, 42); add it" in refused(path, problem=problem)
    assert divided(write(tmp_path, "classes", ["joy", "None"] * 20)).labels == ("None", "joy")


def test_marks_among_very_many_numbers_are_missing_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loratory.data.cells.MANY", 5)
    path = write(tmp_path, "a", [*(f"{n / 8}" for n in range(20)), "n/a", ""])
    assert "2 rows without a label (lines 22, 23); add it" in refused(Path(path))


@pytest.mark.parametrize("cell", ["['a', 'b']", "['a']", "[]", "[1, 2]", "['a' 'b']", '[""a"", ""b""]'])
def test_a_list_that_is_written_into_a_cell_is_named(cell: str, tmp_path: Path) -> None:
    path = csv(tmp_path, ["x", "y", cell] * 10)
    for settings in ({}, {"label_separator": ","}, {"problem": "multi-label"}):
        said = refused(path, **settings)
        assert "10 rows with a label that looks like a list, such as [" in said
        assert "(lines 4, 7, 10, 13, 16 and 5 more); write a;b and set --label-separator, or give" in said
        assert ("--problem single-label" in said) == (settings == {})
    assert divided(path, problem="single-label").problem == SINGLE
    assert divided(csv(tmp_path, ["[POS]", "[NEG]"] * 20)).labels == ("[NEG]", "[POS]")


def test_classes_that_are_too_small_and_look_like_something_else_say_so(tmp_path: Path) -> None:
    ratings = csv(tmp_path, [str(n) for n in range(20)])
    assert refused(ratings).endswith("or remove it; say --problem regression if labels are numbers")
    assert "regression" not in refused(ratings, problem="single-label")
    mixed = csv(tmp_path, ["a", "b"] * 10 + ["a|b", "b|c", "c"])
    assert refused(mixed).endswith("; set --label-separator if '|' stands between labels")
    places = csv(tmp_path, ["Portland, OR", "Salem, OR"] * 10 + ["Boise, ID"])
    assert refused(places).endswith(
        "too few for 3 parts; add some, correct the label, merge the class with another, or remove it"
    )


def test_whole_numbers_are_the_same_with_and_without_their_zero(tmp_path: Path) -> None:
    train, test = write(tmp_path, "train", ["0", "1"] * 20), write(tmp_path, "test", ["0.0", "1.0", "1"])
    for one, other in ((train, test), (test, train)):
        parts = load_source(DataSpec(dataset=one, test=other)).parts
        assert {*parts["train"].labels, *parts["test"].labels} == {0, 1}
        assert all(type(label) is int for part in parts.values() for label in part.labels)
    named = divided(train, test=test)
    assert (named.labels, named.test.labels.tolist()) == ((0, 1), [0, 1, 1])
    codes = write(tmp_path, "codes", ["00", "01.0"] * 20)
    assert divided(codes).labels == ("00", "01.0")


def test_the_log_says_what_labels_are_once_they_are_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "loratory"):
        refused(jsonl(tmp_path, [["a"], "b"] * 20))
        assert caplog.text == ""
        divided(jsonl(tmp_path, NUMBERS))
    assert "labels are numbers with fractions: a regression; --problem says otherwise" in caplog.text
