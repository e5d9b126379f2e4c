"""What is in a data set: planted duplicates, near duplicates, conflicts, empty and over-long texts are found."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loratory.data import Dataset, make_dataset, near, normalised
from loratory.data.near import near_duplicates
from loratory.data.profile import Profile, Reader, profile, token_lengths
from loratory.data.seen import Place
from loratory.models.source import pretrained
from loratory.spec import DataSpec

Rows = list[tuple[str, str]]
Files = Callable[..., Dataset]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """(train, validation, test) -> the data set of three files."""

    def make(train: Rows, validation: Rows, test: Rows) -> Dataset:
        names = {}
        for part, rows in (("dataset", train), ("validation", validation), ("test", test)):
            path = tmp_path / f"{part}.jsonl"
            path.write_text("".join(json.dumps({"text": t, "label": y}) + "\n" for t, y in rows), encoding="utf8")
            names[part] = str(path)
        return make_dataset(DataSpec.model_validate(names))

    return make


@pytest.fixture(scope="module")
def reader(tiny_bert: Path) -> Reader:
    return Reader("tiny", pretrained(str(tiny_bert)).tokenizer, 64)


def sentence(seed: int, words: int = 14) -> str:
    draw = random.Random(seed)
    return " ".join("".join(draw.choices("abcdefghijklmnop", k=draw.randint(3, 9))) for _ in range(words))


def plain(first: int, number: int) -> Rows:
    return [(sentence(seed), ("bad", "good")[seed % 2]) for seed in range(first, first + number)]


def test_equal_texts_and_conflicts_are_counted_within_and_across(files: Files) -> None:
    shouted = sentence(0).upper().replace(" ", "  ")
    train = [*plain(0, 20), (sentence(0), "bad"), (shouted, "good"), (sentence(1), "good")]
    found = profile(files(train, [*plain(100, 5), (sentence(2), "bad")], [*plain(200, 5), (shouted, "bad")]), None, 32)
    assert found.tokens is None
    equal = found.equal
    assert (equal.groups, equal.rows, equal.conflicts) == (3, 8, 1)
    assert equal.within == {"train": 3, "validation": 0, "test": 0}
    assert equal.across == {"train-validation": 1, "train-test": 1, "validation-test": 0}
    first = equal.largest[0]
    assert first.listed == (
        Place("train", 0, 1, "bad"),
        Place("train", 20, 21, "bad"),
        Place("train", 21, 22, "good"),
        Place("test", 5, 6, "bad"),
    )
    assert (first.labels, first.similarity, first.texts) == (("bad", "good"), 1.0, (sentence(0),))
    assert equal.largest[1].listed[1].part == "validation"  # of equal size, before the one within a part
    assert found.conflicting == (first,)
    assert found.near.groups == 0


def test_rows_stand_in_the_lines_of_their_files(tmp_path: Path) -> None:
    """Blank lines, and texts of several lines, count; a source without lines has rows from 1."""
    own, test = tmp_path / "a.csv", tmp_path / "b.parquet"
    rows = [(f'"{sentence(n)}\nits second line"', "ab"[n % 2]) for n in range(20)]
    own.write_text("\ntext,label\n\n" + "\n".join(f"{text},{label}\n" for text, label in rows), encoding="utf8")
    pd.DataFrame({"text": [sentence(n) for n in range(50, 60)], "label": list("ab") * 5}).to_parquet(test)
    dataset = make_dataset(DataSpec(dataset=str(own), test=str(test)))
    written = own.read_text("utf8").split("\n")
    for split in (dataset.train, dataset.validation):
        for position, text in enumerate(split.texts):
            unit, line = split.place(position).split()
            assert unit == "line"
            assert written[int(line) - 1] == '"' + str(text).split("\n")[0]
    assert [dataset.test.place(position) for position in range(2)] == ["row 1", "row 2"]
    assert dataset.test.lines is None


def test_near_duplicates_are_counted_within_and_across(files: Files) -> None:
    changed, again = sentence(3) + "!", sentence(3).replace(" ", ", ", 1)
    other = "x" + sentence(4)
    train = [*plain(0, 20), (changed, "good")]
    found = profile(files(train, [*plain(100, 5), (other, "bad")], [*plain(200, 5), (again, "bad")]), None, 32)
    assert found.equal.groups == 0
    near_ones = found.near
    assert (near_ones.groups, near_ones.rows, near_ones.conflicts) == (2, 5, 1)
    assert near_ones.within == {"train": 2, "validation": 0, "test": 0}
    assert near_ones.across == {"train-validation": 1, "train-test": 1, "validation-test": 0}
    first, second = near_ones.largest
    assert [(one.part, one.row) for one in first.listed] == [("train", 3), ("train", 20), ("test", 5)]
    assert [(one.part, one.row) for one in second.listed] == [("train", 4), ("validation", 5)]
    assert near.THRESHOLD <= first.similarity < second.similarity < 1
    assert second.texts == (sentence(4), other)
    assert found.search.searched == found.search.distinct == 33
    assert found.search.finished


def test_a_row_is_no_near_duplicate_of_its_own_copy(files: Files) -> None:
    """Its copy in training is an equal text; the near duplicate stands in the test split alone."""
    test = [*plain(200, 5), (sentence(3), "bad"), (sentence(3) + "!", "bad")]
    found = profile(files(plain(0, 20), plain(100, 5), test), None, 32)
    assert found.equal.across["train-test"] == 1
    assert found.near.across["train-test"] == 1
    assert found.near.within == {"train": 0, "validation": 0, "test": 2}


def test_empty_and_over_long_texts_and_what_a_maximum_length_cuts(files: Files, reader: Reader) -> None:
    rows = [(" ".join(["w7"] * length), ("bad", "good")[length % 2]) for length in range(1, 61)]
    long = [(" ".join(["w8"] * 100), "bad"), (" ".join(["w9"] * 70), "good")]
    train = [*rows, ("?", "bad")]
    found = profile(files(train, long, rows[:2]), reader, 32).tokens
    assert found is not None
    lengths = np.array([*range(3, 63), 3, 102, 72, 3, 4])  # [CLS] and [SEP] beside the words
    assert found.lengths["all"].tokens == lengths.sum()
    assert found.lengths["all"].median == np.percentile(lengths, 50, method="inverted_cdf")
    assert found.lengths["validation"].longest == 102
    assert found.lengths["validation"].mean == 87
    assert found.empty.count == 0  # [UNK] is a token
    assert [place.row for place in found.too_long.listed] == [0, 1]
    assert found.given.texts == np.count_nonzero(lengths > 32)
    assert found.given.tokens == np.maximum(lengths - 32, 0).sum()
    assert found.given.tokens_share == found.given.tokens / lengths.sum()
    assert (found.suggested.max_length, found.suggested.texts) == (64, 2)  # no more than the model takes
    assert sum(one.texts for one in found.histogram) == len(lengths)
    for one in found.histogram:
        last = 10**6 if one.last is None else one.last
        assert one.texts == np.count_nonzero((one.first <= lengths) & (lengths <= last))


def test_a_text_without_a_token_is_empty(files: Files) -> None:
    class Words:
        """A tokenizer with one special token, for which only letters are tokens."""

        def __call__(self, texts: list[str], **_: Any) -> dict[str, Any]:
            return {"input_ids": [[1, *(2 for word in text.split() if word.isalpha())] for text in texts]}

        def num_special_tokens_to_add(self, pair: bool = False) -> int:
            return 1

    train = [*plain(0, 20), ("\u200b", "bad"), ("?!", "good")]
    found = profile(files(train, plain(100, 5), [*plain(200, 4), ("…", "bad")]), Reader("words", Words(), 10), 8).tokens
    assert found is not None
    assert found.empty.count == 3
    assert [(one.part, one.row) for one in found.empty.listed] == [("train", 20), ("train", 21), ("test", 4)]
    assert found.too_long.count == 29


@pytest.mark.parametrize("share", [1, 100, 150])
def test_the_suggested_length_cuts_at_most_one_text_in_a_hundred(share: int, files: Files, reader: Reader) -> None:
    rows: Rows = [("w7 w8 w9", ("bad", "good")[n % 2]) for n in range(share)] + [("w7 " * 30, "bad"), ("w8", "good")]
    found = profile(files(rows, rows[-2:], rows[:-3:-1]), reader, 32).tokens
    assert found is not None
    cut = found.suggested
    assert max(cut.texts_share, cut.tokens_share) <= 0.01
    assert cut.max_length == 32


def test_lengths_are_those_of_the_tokenizer(reader: Reader, texts: list[tuple[str, str]]) -> None:
    given_texts = [text for text, _ in texts]
    expected = [len(reader.tokenizer(text)["input_ids"]) for text in given_texts]
    assert token_lengths(given_texts, reader.tokenizer).tolist() == expected


def counts(found: Profile) -> dict[str, Any]:
    """All but the rows and texts that are named."""

    def stripped(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: stripped(one) for key, one in value.items() if key not in ("listed", "texts")}
        if not isinstance(value, list):
            return value
        return sorted((stripped(one) for one in value), key=str)  # groups of one size stand in the order of their rows

    return dict(stripped(found.to_dict()))


POOL = [sentence(0), sentence(0).upper(), sentence(0) + "?", "x" + sentence(0), sentence(1), sentence(1)[4:], "a", "b"]


@given(st.lists(st.tuples(st.sampled_from(POOL), st.booleans()), max_size=14), st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_the_order_of_rows_changes_no_count(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[str, bool]], draw: random.Random
) -> None:
    base = [(f"base {sentence(n, 3)}", n % 2 == 0) for n in range(50, 62)]
    folder = tmp_path_factory.mktemp("order")
    found = []
    for name in ("a", "b"):
        rows = base + drawn
        draw.shuffle(rows)
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"text": t, "label": y}) + "\n" for t, y in rows), encoding="utf8")
        found.append(counts(profile(make_dataset(DataSpec(dataset=str(path))), None, 8)))
    assert found[0] == found[1]


def similarity(a: str, b: str) -> float:
    """Jaccard, of sets built another way."""
    first, second = ({"".join(run) for run in zip(*(text[n:] for n in range(5)), strict=False)} for text in (a, b))
    return len(first & second) / len(first | second)


def test_all_pairs_from_the_threshold_on_are_linked_and_no_others() -> None:
    draw = random.Random(1)
    texts = []
    for seed in range(30):
        words = sentence(seed, 12).split()
        texts.append(" ".join(words))
        for changes in (1, 2, 4):
            changed = list(words)
            for place in draw.sample(range(12), changes):
                changed[place] = sentence(1000 + draw.randrange(10**6), 1)
            texts.append(" ".join(changed))
    pairs = {(a, b) for a, b in combinations(range(len(texts)), 2) if similarity(texts[a], texts[b]) >= near.THRESHOLD}
    group_of = {member: n for n, group in enumerate(near_duplicates(texts).groups) for member in group.members}
    assert len(pairs) > 20
    missed = [pair for pair in pairs if group_of.get(pair[0], -1) != group_of.get(pair[1], -2)]
    assert len(missed) <= 0.04 * len(pairs)
    for member, group in group_of.items():
        assert any(
            group_of.get(other) == group for pair in pairs if member in pair for other in pair if other != member
        )


def test_above_a_number_of_texts_a_sample_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [sentence(n) for n in range(40)] + [sentence(n) + "." for n in range(40)]
    assert len(near_duplicates(texts).groups) == 40
    monkeypatch.setattr(near, "TEXTS", 60)
    sampled = near_duplicates(texts)
    assert sampled.searched == 60
    assert 10 < len(sampled.groups) < 40
    shuffled = random.Random(2).sample(texts, len(texts))
    again = near_duplicates(shuffled)
    named = [{frozenset(of[m] for m in g.members) for g in f.groups} for f, of in ((sampled, texts), (again, shuffled))]
    assert named[0] == named[1]
    monkeypatch.setattr(near, "CHARACTERS", 30 * max(map(len, texts)))
    assert 30 <= near_duplicates(texts).searched < 60


def test_a_search_that_has_too_many_candidates_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [sentence(0) + f" {n}" for n in range(30)]
    whole = near_duplicates(texts)
    assert [len(group.members) for group in whole.groups] == [30]
    assert whole.finished
    monkeypatch.setattr(near, "COMPARISONS", 5)
    assert not near_duplicates(texts).finished


@pytest.mark.parametrize("texts", [[], ["a"], ["", "a", "ab", "abcd"]])
def test_texts_shorter_than_a_shingle_are_near_no_other(texts: list[str]) -> None:
    assert near_duplicates(texts).groups == ()


def test_the_document_survives_json(files: Files, reader: Reader) -> None:
    rows = [*plain(0, 20), (sentence(0), "good"), (sentence(1) + "\x1b[31m", "bad")]
    found = profile(files(rows, plain(100, 5), plain(200, 5)), reader, 32)
    document = found.to_dict()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["equal"]["largest"][0]["listed"][0] == asdict(found.equal.largest[0].listed[0])
    assert normalised(document["equal"]["largest"][0]["texts"][0]) == normalised(sentence(0))
