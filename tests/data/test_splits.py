"""Splits: the same everywhere, stratified, and no text on two sides."""

from __future__ import annotations

import json
import logging
import random
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loratory.data import Dataset, Label, dataset_of, make_dataset, normalised
from loratory.data.hutto import DOMAINS
from loratory.data.targets import ordered_labels
from loratory.errors import DataError, SettingsError
from loratory.spec import DataSpec

Rows = list[tuple[str, Label]]
TINY: Rows = [(f"text number {n}", ("no", "yes", "perhaps")[n % 3]) for n in range(60)]
PINNED = {"train": "ef23f00b51236344", "validation": "044cc418ee61a59c", "test": "7b05bf80713329e1"}


def write(path: Path, rows: Rows) -> str:
    path.write_text("".join(json.dumps({"text": t, "label": y}) + "\n" for t, y in rows), encoding="utf-8")
    return str(path)


def divided(rows: Rows, **keywords: object) -> Dataset:
    with TemporaryDirectory() as folder:
        path = write(Path(folder) / "data.jsonl", rows)
        return make_dataset(DataSpec.model_validate({"dataset": path, **keywords}))


def test_every_machine_divides_alike() -> None:
    dataset = divided(TINY)
    assert dataset.labels == ("no", "perhaps", "yes")
    assert {part: digest[:16] for part, digest in dataset.record()["digests"].items()} == PINNED
    assert dataset.record()["class_counts"] == {"train": [14] * 3, "validation": [2] * 3, "test": [4] * 3}


def test_the_order_of_rows_has_no_say() -> None:
    shuffled = random.Random(1).sample(TINY, len(TINY))
    assert divided(shuffled).record()["digests"] == divided(TINY).record()["digests"]
    assert divided(TINY, split_seed=1).test.digest != divided(TINY).test.digest


words = st.sampled_from(["a", "A", "b", " b ", "ﬁ", "fi", "ß", "ss", "c  d", "c d"])


@given(st.lists(st.tuples(words, words, words, st.booleans()), max_size=60), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_no_text_stands_on_two_sides(drawn: list[tuple[str, str, str, bool]], seed: int) -> None:
    base: Rows = [(f"base {n}", n % 2 == 0) for n in range(8)]
    rows = base + [(" ".join(three), label) for *three, label in drawn]
    dataset = divided(rows, split_seed=seed)
    sides = [{normalised(text) for text in split.texts} for split in (dataset.train, dataset.validation, dataset.test)]
    assert sides[0].isdisjoint(sides[1])
    assert sides[0].isdisjoint(sides[2])
    assert sides[1].isdisjoint(sides[2])
    assert dataset.overlap == {"train-validation": 0, "train-test": 0, "validation-test": 0}
    together = [text for split in (dataset.train, dataset.validation, dataset.test) for text in split.texts]
    assert Counter(together) == Counter(text for text, _ in rows)


@given(st.integers(3, 80), st.integers(3, 80), st.sampled_from([(0.1, 0.2), (0.15, 0.15), (0.3, 0.5), (0.01, 0.01)]))
@settings(max_examples=40, deadline=None)
def test_each_class_is_cut_by_the_fractions(a: int, b: int, fractions: tuple[float, float]) -> None:
    rows: Rows = [(f"a{n}", 0) for n in range(a)] + [(f"b{n}", 1) for n in range(b)]
    counts = divided(rows, validation_fraction=fractions[0], test_fraction=fractions[1]).record()["class_counts"]
    for label, total in enumerate((a, b)):
        assert sum(counts[part][label] for part in counts) == total
        for part, fraction in (("validation", fractions[0]), ("test", fractions[1])):
            assert counts[part][label] >= 1
            assert abs(counts[part][label] - fraction * total) < 1 or counts[part][label] == 1


def test_limits_are_nested_and_stratified() -> None:
    rows: Rows = [(f"text {n}", "rare" if n % 50 == 0 else ("a", "b")[n % 2]) for n in range(1000)]
    whole = divided(rows)
    before: set[str] = set()
    for limit in (3, 10, 100, 200, 650, 5000):
        part = divided(rows, limit=limit)
        chosen = set(part.train.texts)
        assert len(part.train) == min(limit, len(whole.train))
        assert before <= chosen
        assert (part.validation.digest, part.test.digest) == (whole.validation.digest, whole.test.digest)
        for have, of in zip(
            part.record()["class_counts"]["train"], whole.record()["class_counts"]["train"], strict=True
        ):
            assert have >= 1
            assert abs(have - of * len(part.train) / len(whole.train)) <= 2
        before = chosen
    with pytest.raises(SettingsError, match="number of classes, 3"):
        divided(rows, limit=2)


def test_labels_of_any_type_are_in_a_stable_order() -> None:
    assert ordered_labels([10, 9, 2.5, 2]) == (2, 2.5, 9, 10)
    assert ordered_labels(["b", "B", "é", "a"]) == ("B", "a", "b", "é")
    mixed = ordered_labels(["1", 1, True, False, 0])
    assert [(type(label), label) for label in mixed] == [(bool, False), (bool, True), (int, 0), (int, 1), (str, "1")]


def test_labels_that_differ_by_case_alone_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "t.csv"
    labels = ("good", "Good", "bad")
    file.write_text("text,label\n" + "".join(f"text {n},{labels[n % 3]} \n" for n in range(30)), encoding="utf8")
    assert make_dataset(DataSpec(dataset=str(file))).labels == ("Good", "bad", "good")
    assert f"{file}: 'Good' and 'good' differ by case alone, and are classes of their own" in caplog.text
    caplog.clear()
    file.write_text("text,label\n" + "".join(f"text {n},{labels[n % 2 * 2]}\n" for n in range(30)), encoding="utf8")
    assert make_dataset(DataSpec(dataset=str(file))).labels == ("bad", "good")
    assert "by case" not in caplog.text


def test_conflicting_duplicates_stay_together() -> None:
    rows: Rows = [*TINY, ("The Same", "no"), ("the  same", "yes"), ("THE SAME", "yes")]
    dataset = divided(rows)
    assert dataset.conflicts == 1
    assert dataset.duplicates == {"all": 2}
    held = [split for split in (dataset.train, dataset.validation, dataset.test) if "The Same" in split.texts]
    assert len(held) == 1
    assert {"the  same", "THE SAME"} <= set(held[0].texts)


def test_bad_data() -> None:
    with pytest.raises(DataError, match="one class only, 'a'"):
        divided([("x", "a"), ("y", "a")])
    with pytest.raises(DataError, match=r"class 'b' has 2 distinct texts \(lines 4, 5, 6\), too few for 3 parts"):
        divided([("p", "a"), ("q", "a"), ("r", "a"), ("x", "b"), ("y", "b"), ("X ", "b")])
    small = [(f"{name}{n}", name) for n, name in enumerate("bbcddeeefgh")]
    with pytest.raises(DataError) as caught:
        divided([*TINY, *small])
    n = len(TINY)
    assert f"(lines {n + 1}, {n + 2}), too few for 3 parts, also 'c' 1 (line {n + 3}), 'd' 2 (li" in str(caught.value)
    with pytest.raises(SettingsError, match="leave nothing to train on"):
        divided(TINY, validation_fraction=0.5, test_fraction=0.5)


def test_given_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train = write(tmp_path / "train.jsonl", TINY)
    test = write(tmp_path / "test.jsonl", [("TEXT number 0", "no"), ("new", "yes"), ("text number 1", "yes")])
    with caplog.at_level(logging.WARNING, "loratory"):
        dataset = make_dataset(DataSpec(dataset=train, test=test))
    assert dataset.test.texts == ("TEXT number 0", "new", "text number 1")
    assert dataset.overlap["train-test"] + dataset.overlap["validation-test"] == 2
    assert "; kept" in caplog.text
    assert (len(dataset.train), len(dataset.validation)) == (54, 6)
    assert dataset.record()["sizes"] == {"train": 54, "validation": 6, "test": 3}
    assert json.loads(json.dumps(dataset.record())) == dataset.record()

    rows = [("new", "yes"), ("TEXT number 0", "no"), ("text number 1", "yes")]
    validation = write(tmp_path / "validation.jsonl", rows)
    whole = make_dataset(DataSpec(dataset=train, validation=validation, test=test))
    assert len(whole.train) == 60
    assert whole.overlap == {"train-validation": 2, "train-test": 2, "validation-test": 3}


def test_a_label_that_training_never_sees(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", TINY)
    test = write(tmp_path / "test.jsonl", [("new", "never")])
    with pytest.raises(DataError, match=r"test\.jsonl: labels in test that training never sees: 'never' \(line 1\)"):
        make_dataset(DataSpec(dataset=train, test=test))


def test_a_records_data_is_divided_as_it_was_then(tmp_path: Path) -> None:
    path = tmp_path / "texts.csv"
    rows = [f"text number {n},{'ab'[n % 2]}" for n in range(40)]
    path.write_text("\n".join(["text,label", *rows]), encoding="utf8")
    spec = DataSpec(dataset=str(path), split_seed=3)
    then = make_dataset(spec)
    record = {"id": "run", "spec": {"data": spec.model_dump(mode="json")}, "data": then.record()}
    assert dataset_of(record).record() == then.record()
    path.write_text("\n".join(["text,label", *(f"other {row}" for row in rows)]), encoding="utf8")
    with pytest.raises(DataError, match="has changed since the run run"):
        dataset_of(record)


def documents(rows: int, count: int, seed: int) -> list[dict[str, object]]:
    """Rows of documents of unlike sizes and unlike shares of two classes."""
    draw = random.Random(seed)
    lean = [draw.random() for _ in range(count)]
    found = []
    for number in range(rows):
        document = min(int(draw.expovariate(4 / count)), count - 1)
        found.append({"text": f"text {number}", "label": draw.random() < lean[document], "book": f"b{document}"})
    return found


def grouped(rows: list[dict[str, object]], **keywords: object) -> Dataset:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "data.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
        return make_dataset(DataSpec.model_validate({"dataset": str(path), "group_column": "book", **keywords}))


@pytest.mark.parametrize("seed", range(4))
def test_groups_are_not_parted_and_classes_keep_their_shares(seed: int) -> None:
    rows = documents(2000, 150, seed)
    dataset = grouped(rows, split_seed=seed)
    books = {row["text"]: row["book"] for row in rows}
    sides = [{books[text] for text in dataset.split(part).texts} for part in ("train", "validation", "test")]
    assert sum(map(len, sides)) == len(set.union(*sides))
    record = dataset.record()
    assert record["groups"] == {
        "count": len(set(books.values())),
        "overlap": {"train-validation": 0, "train-test": 0, "validation-test": 0},
    }
    share = sum(bool(row["label"]) for row in rows) / len(rows)
    for part, fraction in (("validation", 0.1), ("test", 0.2)):
        assert record["units"][part] == pytest.approx(fraction * len(set(books.values())), abs=1)
        assert record["class_counts"][part][1] / record["sizes"][part] == pytest.approx(share, abs=0.2)
        assert record["units"][part] == len(sides[("train", "validation", "test").index(part)])


def test_equal_texts_of_two_groups_bind_both() -> None:
    rows = documents(300, 30, 0)
    rows += [{"text": "The same", "label": True, "book": "b1"}, {"text": "the  same", "label": True, "book": "b7"}]
    dataset = grouped(rows)
    books = {row["text"]: row["book"] for row in rows}
    held = [
        part
        for part in ("train", "validation", "test")
        if {"b1", "b7"} & {books[text] for text in dataset.split(part).texts}
    ]
    assert len(held) == 1
    split = dataset.split(held[0])
    numbers = {int(split.units[n]) for n, text in enumerate(split.texts) if books[text] in ("b1", "b7")}
    assert len(numbers) == 1


def test_a_class_that_large_groups_keep_out_of_a_part_is_said_and_few_groups_are_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    three = [{"text": f"{book} {n}", "label": n % 2, "book": book} for book in "abc" for n in range(40)]
    assert all(all(counts) for counts in grouped(three).record()["class_counts"].values())
    few = [{"text": f"{n}", "label": int(n < 8), "book": n % 40} for n in range(80)]
    with caplog.at_level(logging.WARNING, "loratory"):
        sizes = [grouped(few, split_seed=seed).record()["class_counts"] for seed in range(9)]
    lacking = sum(not all(counts[part]) for counts in sizes for part in ("validation", "test"))
    assert caplog.text.count("no text of class 1 in") == lacking > 0
    with pytest.raises(DataError, match=r"class 0 has 2 groups .*, too few for 3 parts"):
        grouped([row for row in three if row["book"] != "c"])
    with pytest.raises(DataError, match=r"1 row without a group \(line 1\)"):
        grouped([{**three[0], "book": " "}, *three[1:]])
    with pytest.raises(DataError, match="--text-column and --group-column are both 'text'"):
        grouped(three, group_column="text")
    with pytest.raises(DataError, match="hutto:nyt has no columns"):
        make_dataset(DataSpec(dataset="hutto:nyt", group_column="document"))


def test_groups_in_two_given_files_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = documents(300, 30, 0)
    test = tmp_path / "test.jsonl"
    test.write_text("".join(json.dumps({**row, "text": f"other {row['text']}"}) + "\n" for row in rows[:5]))
    with caplog.at_level(logging.WARNING, "loratory"):
        dataset = grouped(rows, test=str(test))
    assert dataset.groups is not None
    assert dataset.groups["overlap"]["train-test"] + dataset.groups["overlap"]["validation-test"] == 5
    assert "of test from groups that are also in train; kept" in caplog.text


def test_a_large_test_file_has_no_say_in_validations_share(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train = [{"text": f"text {n}", "label": n % 2, "book": n} for n in range(100)]
    test = tmp_path / "test.jsonl"
    rows = [{"text": f"other {n}", "label": n % 2, "book": -1 - n} for n in range(900)]
    test.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    with caplog.at_level(logging.WARNING, "loratory"):
        assert len(grouped(train, test=str(test)).validation) == 10
    assert caplog.text == ""


def test_documents_of_the_packaged_data_stand_in_one_split_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f"{book}_{n}\t{(-1) ** (n % 3)}.5\tsentence {n} of {book}" for book in range(1, 31) for n in range(1, 8)]
    for domain in ("amazon", "tweets"):
        path = tmp_path / DOMAINS[domain]
        path.write_text("\n".join(lines).replace("_", "_" if domain == "amazon" else ""), encoding="utf8")
    monkeypatch.setattr("loratory.data.hutto.fetch", lambda name: tmp_path)
    dataset = make_dataset(DataSpec(dataset="hutto:amazon"))
    assert dataset.groups == {"count": 30, "overlap": dict.fromkeys(dataset.overlap, 0)}
    assert dataset.record()["units"] == {"train": 21, "validation": 3, "test": 6}
    assert make_dataset(DataSpec(dataset="hutto:tweets")).groups is None


def test_no_part_has_a_liking_for_large_groups() -> None:
    """Groups of 1, 2, 4 … 64 texts: ordered by the least hash of their texts large ones would come first; cut by texts
    they would come where they fit.
    """
    sizes = [2 ** (n % 7) for n in range(35)]
    rows = [
        {"text": f"text {book} {n}", "label": (book + n) % 2, "book": book}
        for book, size in enumerate(sizes)
        for n in range(size)
    ]
    shares = Counter()
    for seed in range(60):
        shares.update(grouped(rows, split_seed=seed).record()["sizes"])
    total = 60 * len(rows)
    for part, share in (("train", 0.7), ("validation", 0.1), ("test", 0.2)):
        assert shares[part] / total == pytest.approx(share, abs=0.04)


@given(
    st.lists(st.integers(8, 40), min_size=2, max_size=4),
    st.integers(2, 8),
    st.sampled_from([0.1, 0.25, 0.4]),
    st.integers(0, 3),
)
@settings(max_examples=30, deadline=None)
def test_every_text_is_in_one_fold_and_folds_are_alike(sizes: list[int], folds: int, share: float, seed: int) -> None:
    rows: Rows = [(f"{label} {n}", label) for label, size in enumerate(sizes) for n in range(size)]
    rows += [(text.upper(), label) for text, label in rows[:3]]  # equal once normalised
    found = [
        divided(rows, folds=folds, fold=fold, validation_fraction=share, split_seed=seed)
        for fold in range(1, folds + 1)
    ]
    tests = [{normalised(text) for text in one.test.texts} for one in found]
    assert sum(map(len, tests)) == len(set().union(*tests)) == sum(sizes)
    assert max(map(len, tests)) - min(map(len, tests)) <= 1
    for label in range(len(sizes)):
        counts = [
            len({normalised(t) for t, y in zip(one.test.texts, one.test.labels, strict=True) if y == label})
            for one in found
        ]
        assert max(counts) - min(counts) <= 1
    for one, test in zip(found, tests, strict=True):
        parts = [{normalised(text) for text in one.split(part).texts} for part in ("train", "validation")]
        assert not parts[0] & parts[1]
        assert not test & (parts[0] | parts[1])
        assert len(parts[0] | parts[1] | test) == sum(sizes)
        assert abs(len(parts[1]) - share * sum(sizes)) <= len(sizes)
    assert len({one.validation.digest for one in found}) == folds  # each fold chooses on texts of its own


def test_folds_are_the_same_everywhere_and_fold_one_is_no_other_order() -> None:
    shuffled = random.Random(1).sample(TINY, len(TINY))
    first, again = (divided(rows, folds=5, fold=1) for rows in (TINY, shuffled))
    assert first.record()["digests"] == again.record()["digests"]
    assert {part: digest[:16] for part, digest in first.record()["digests"].items()} == PINNED  # a fifth is 0.2
    assert divided(TINY, folds=5, fold=2).test.digest != first.test.digest


def test_groups_are_in_one_fold(tmp_path: Path) -> None:
    path = tmp_path / "groups.jsonl"
    lines = [{"text": f"t {n}", "label": n % 2, "who": f"g{n // 4}"} for n in range(80)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf8")
    given = {"dataset": str(path), "group_column": "who", "folds": 4}
    rows = [make_dataset(DataSpec.model_validate({**given, "fold": fold})).test.rows.tolist() for fold in range(1, 5)]
    assert sorted(row for one in rows for row in one) == list(range(80))
    assert all(len({row // 4 for row in one}) * 4 == len(one) for one in rows)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"folds": 5}, "--folds 5: say which one is the test, --fold 1 to 5"),
        ({"folds": 5, "fold": 6}, "--folds 5, --fold 6: say which one is the test, --fold 1 to 5"),
        ({"fold": 1}, "--fold 1: of how many? Give --folds too"),
        ({"folds": 5, "fold": 1, "test": "t.csv"}, "--test beside --folds: a fold is the test; leave one of them out"),
        (
            {"folds": 5, "fold": 1, "test_fraction": 0.3},
            "--test-fraction beside --folds: a fold is 1/5; leave one of them out",
        ),
        (
            {"folds": 2, "fold": 1, "validation_fraction": 0.6},
            "--validation-fraction and --test-fraction leave nothing",
        ),
    ],
)
def test_folds_that_cannot_be_meant_are_one_line(given: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError) as error:
        divided(TINY, **given)
    assert str(error.value).startswith(said)


@pytest.mark.parametrize("given", [{}, {"folds": 2, "fold": 1}])
def test_a_class_that_is_too_small_by_its_case_alone_says_of_which_it_differs(given: dict[str, object]) -> None:
    rows: Rows = [(f"text number {n}", ("Good", "bad")[n % 2]) for n in range(40)]
    with pytest.raises(DataError, match=r"class 'good' .*; it differs from 'Good' by case alone: write them alike, "):
        divided([*rows, ("one", " good ")], **given)
    with pytest.raises(DataError) as error:
        divided([*rows, ("one", "goods")], **given)
    assert "by case" not in str(error.value)


@pytest.mark.parametrize(("folds", "enough"), [(2, 4), (3, 3), (5, 5), (8, 8)])
def test_a_class_of_fewer_texts_than_folds_is_refused(folds: int, enough: int) -> None:
    rows: Rows = [(f"large {n}", "large") for n in range(40)]
    few: Rows = [(f"small {n}", "small") for n in range(enough)]
    for fold in range(1, folds + 1):
        dataset = divided(rows + few, folds=folds, fold=fold)
        assert all(set(dataset.split(part).labels) == {0, 1} for part in ("train", "validation", "test"))
    with pytest.raises(DataError, match=rf"'small' has {enough - 1} distinct texts .*, too few for {folds} folds"):
        divided(rows + few[1:], folds=folds, fold=1)
