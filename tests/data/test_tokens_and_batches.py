"""Token tables and the batches cut from them."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertJapaneseTokenizer, PreTrainedTokenizerFast

from loratory.data import Cut, Labelled, Split, TokenTable, collate, epoch_order, padded, tokenize, tokenizer_digest
from loratory.data.tokens import encode
from loratory.errors import DataError, StorageError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefgh"]


def make_tokenizer(words: list[str] = WORDS, *, special: bool = True) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if special:
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")


SPLIT = Split(("a b c", "d", "e f g h a b c", "zzz A"), np.array([0, 1, 0, 1]), "digest", np.arange(4), np.arange(4))


def files(cache: Path) -> dict[str, int]:
    return {str(path.relative_to(cache)): path.stat().st_mtime_ns for path in cache.rglob("*.npy")}


def test_tokens_are_those_of_the_tokenizer_and_cached(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    table = tokenize(SPLIT, tokenizer, 6, tmp_path)
    assert len(table) == 4
    assert table.lengths.tolist() == [5, 3, 6, 4]
    assert table.ids.tolist() == [2, 4, 5, 6, 3, 2, 7, 3, 2, 8, 9, 10, 11, 3, 2, 1, 4, 3]
    assert (table.ids.dtype, table.offsets.dtype) == (np.int32, np.int64)
    assert not table.ids.flags.writeable

    before = files(tmp_path)
    assert (
        tokenize(SPLIT, tokenizer, 6, tmp_path).ids.tolist() == table.ids.tolist()
    )  # its truncation state has changed
    assert files(tmp_path) == before
    tokenize(SPLIT, tokenizer, 5, tmp_path)
    tokenize(replace(SPLIT, digest="other"), tokenizer, 6, tmp_path)
    tokenize(SPLIT, make_tokenizer([*WORDS, "more"]), 6, tmp_path)
    assert len(files(tmp_path)) == 8
    assert not list(tmp_path.glob(".tokens-*"))


@pytest.mark.parametrize("damage", ["header", "short", "missing", "offsets", "other N"])
def test_a_damaged_cache_is_made_anew(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    expected = tokenize(SPLIT, make_tokenizer(), 6, tmp_path).ids.tolist()
    ids, offsets = next(tmp_path.rglob("ids.npy")), next(tmp_path.rglob("offsets.npy"))
    if damage == "header":
        ids.write_bytes(b"garbage" * 40)
    elif damage == "short":
        ids.write_bytes(ids.read_bytes()[:-4])
    elif damage == "missing":
        ids.unlink()
    elif damage == "offsets":
        np.save(offsets, np.array([0, 9, 8, 14, 18]))
    else:
        np.save(offsets, np.array([0, 18]))
    with caplog.at_level(logging.WARNING, "loratory"):
        assert tokenize(SPLIT, make_tokenizer(), 6, tmp_path).ids.tolist() == expected
    assert "damaged token cache" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == [ids.parent.name]


def test_digest_ignores_the_last_call() -> None:
    tokenizer = make_tokenizer()
    before = tokenizer_digest(tokenizer)
    tokenizer(["a", "b c"], truncation=True, max_length=4, padding=True)
    assert tokenizer_digest(tokenizer) == before
    assert tokenizer_digest(make_tokenizer([*WORDS, "more"])) != before


@pytest.mark.parametrize(
    ("name", "value"), [("truncation_side", "left"), ("padding_side", "left"), ("split_special_tokens", True)]
)
def test_what_a_tokenizer_was_told_apart_from_its_backend_counts(name: str, value: object, tmp_path: Path) -> None:
    plain, told = make_tokenizer(), make_tokenizer()
    setattr(told, name, value)
    assert tokenizer_digest(plain) != tokenizer_digest(told)
    for tokenizer in (plain, told):
        table = tokenize(SPLIT, tokenizer, 6, tmp_path)
        assert table.ids.tolist() == encode(SPLIT.texts, tokenizer, 6).ids.tolist()
    assert len(files(tmp_path)) == 4


def test_settings_of_a_slow_tokenizer_count_and_where_its_files_lie_does_not(tmp_path: Path) -> None:
    def digest(folder: str, *, lower: bool) -> str:
        path = tmp_path / folder / "vocab.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(WORDS), encoding="utf8")
        return tokenizer_digest(BertJapaneseTokenizer(str(path), word_tokenizer_type="basic", do_lower_case=lower))

    assert digest("a", lower=True) == digest("b", lower=True) != digest("a", lower=False)


def test_texts_without_tokens_and_a_cache_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 text without a token"):
        tokenize(
            Split(("a", "\u2028"), np.array([0, 1]), "d", np.arange(2), np.arange(2)),
            make_tokenizer(special=False),
            6,
            tmp_path,
        )
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot keep the tokens"):
        tokenize(SPLIT, make_tokenizer(), 6, tmp_path / "file" / "cache")


def make_table(lengths: list[int]) -> TokenTable:
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return TokenTable(np.arange(1, offsets[-1] + 1, dtype=np.int32), offsets)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.data())
def test_flat_and_padded_hold_the_same(lengths: list[int], data: st.DataObject) -> None:
    table = make_table(lengths)
    labels = np.arange(len(lengths)) * 10
    chosen = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=8))
    batch = collate(table, labels, chosen)
    expected = [table.ids[table.offsets[i] : table.offsets[i + 1]].tolist() for i in chosen]
    assert batch.input_ids.tolist() == [token for sequence in expected for token in sequence]
    assert batch.position_ids.tolist() == [place for sequence in expected for place in range(len(sequence))]
    assert batch.cu_seqlens.diff().tolist() == [len(sequence) for sequence in expected]
    assert (batch.max_seqlen, len(batch), batch.tokens) == (
        max(map(len, expected)),
        len(chosen),
        sum(map(len, expected)),
    )
    assert batch.labels.tolist() == [index * 10 for index in chosen]
    kinds = [tensor.dtype for tensor in (batch.input_ids, batch.position_ids, batch.cu_seqlens, batch.labels)]
    assert kinds == [torch.int64, torch.int64, torch.int32, torch.int64]

    input_ids, mask = padded(batch, pad_id=0).values()
    assert input_ids.tolist() == [sequence + [0] * (batch.max_seqlen - len(sequence)) for sequence in expected]
    assert mask.tolist() == [[int(token != 0) for token in row] for row in input_ids.tolist()]
    assert batch.to(torch.device("cpu")).input_ids.equal(batch.input_ids)


def test_order_depends_on_seed_and_epoch_alone() -> None:
    assert epoch_order(8, seed=0, epoch=0).tolist() == [3, 2, 1, 6, 0, 7, 4, 5]
    assert sorted(epoch_order(1000, seed=3, epoch=2)) == list(range(1000))
    assert epoch_order(50, seed=0, epoch=0).tolist() != epoch_order(50, seed=0, epoch=1).tolist()
    assert epoch_order(50, seed=0, epoch=1).tolist() != epoch_order(50, seed=1, epoch=0).tolist()


def test_batches_by_length_are_longest_first_stable_and_hold_no_more_tokens_than_they_may() -> None:
    table = make_table([2, 5, 1, 5, 2, 9])
    batches = list(Labelled(table, np.arange(6, dtype=np.int64)).by_length(tokens=8))
    assert [chosen.tolist() for chosen, _ in batches] == [[5], [1], [3], [0, 4, 2]]
    for chosen, batch in batches:
        assert batch.labels.tolist() == chosen.tolist()
        assert batch.cu_seqlens.diff().tolist() == table.lengths[chosen].tolist()


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 3), st.integers(1, 4))
def test_processes_share_each_step_and_weigh_every_example_alike(n: int, size: int, parts: int, count: int) -> None:
    data = Labelled(make_table([1 + number % 7 for number in range(n)]), np.arange(n, dtype=np.int64))
    order = epoch_order(n, seed=0, epoch=1)
    shares = [list(data.steps(order, Cut(size, parts, rank, count))) for rank in range(count)]
    assert len({len(share) for share in shares}) == 1
    for number, together in enumerate(zip(*shares, strict=True)):
        expected = order[number * size * count :][: size * count]
        batches = [part for share in together for part in share]
        weighed = [(int(i), float(w)) for b in batches for i, w in zip(b.labels, b.weights, strict=True) if w > 0]
        assert sorted(i for i, _ in weighed) == sorted(expected)
        assert all(weight == pytest.approx(1 / len(expected)) for _, weight in weighed)
        assert all(1 <= len(share) <= parts for share in together)
        tokens = [sum(part.tokens for part in share) for share in together]
        assert len(expected) < size * count or max(tokens) - min(tokens) <= 6  # dealt out by length


def test_processes_have_about_as_many_tokens_of_a_step() -> None:
    lengths = np.random.default_rng(0).lognormal(5.4, 0.5, 256).clip(2, 512).astype(int)
    data = Labelled(make_table(lengths.tolist()), np.zeros(256, dtype=np.int64))
    totals = [data.totals(np.arange(256), Cut(32, 1, rank, 8)) for rank in range(8)]
    assert max(totals)[0] < 1.01 * lengths.sum() / 8
