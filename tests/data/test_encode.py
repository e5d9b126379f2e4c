"""Token sequences are those of the tokenizer, text by text, whatever stands beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from loratory.data import Split, TokenTable, columns, tokenize
from loratory.data.tokens import encode
from loratory.errors import DataError

TEXTS = st.lists(st.lists(st.sampled_from(["w0", "w1", "w95", "unheard", "\u2028", ","])).map(" ".join), max_size=9)
CLS, SEP = 2, 3


@pytest.fixture(scope="module")
def tokenizer(tiny_bert: Path) -> Any:
    """A word for a token, `[CLS]` before and `[SEP]` behind."""
    return AutoTokenizer.from_pretrained(tiny_bert)


def sequences(table: TokenTable) -> list[list[int]]:
    return [table.ids[a:b].tolist() for a, b in zip(table.offsets[:-1], table.offsets[1:], strict=True)]


@settings(deadline=None)
@given(texts=TEXTS, length=st.integers(3, 9), chunk=st.integers(1, 4))
def test_each_text_is_encoded_as_if_it_were_alone(texts: list[str], length: int, chunk: int, tokenizer: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "AT_ONCE", chunk)
        table = encode(texts, tokenizer, length)
    assert len(table) == len(texts)
    assert (table.ids.dtype, table.offsets.dtype) == (np.int32, np.int64)
    assert (table.offsets[0], table.offsets[-1]) == (0, len(table.ids))
    assert table.lengths.tolist() == [len(sequence) for sequence in sequences(table)]
    for text, sequence in zip(texts, sequences(table), strict=True):
        whole = tokenizer(text)["input_ids"]
        assert sequence == (whole if len(whole) <= length else [*whole[: length - 1], SEP])
        assert sequence[0] == CLS


@settings(max_examples=30, deadline=None)
@given(texts=TEXTS.filter(bool), data=st.data())
def test_a_permutation_of_texts_permutes_the_sequences(texts: list[str], data: st.DataObject, tokenizer: Any) -> None:
    order = data.draw(st.permutations(range(len(texts))))
    expected = sequences(encode(texts, tokenizer, 8))
    assert sequences(encode([texts[i] for i in order], tokenizer, 8)) == [expected[i] for i in order]


def test_what_was_encoded_before_leaves_no_trace(tokenizer: Any) -> None:
    texts = ["w1 " * 20, "w2"]
    first = sequences(encode(texts, tokenizer, 16))
    encode(texts, tokenizer, 4)
    tokenizer(texts, padding=True, truncation=True, max_length=3)
    assert sequences(encode(texts, tokenizer, 16)) == first
    assert [len(sequence) for sequence in first] == [16, 3]


def test_it_is_what_the_cache_holds(tokenizer: Any, tmp_path: Path) -> None:
    texts = tuple(f"w{n} w{n + 1} unheard" for n in range(20))
    cached = tokenize(
        Split(texts, np.zeros(20, dtype=np.int64), "digest", np.arange(20), np.arange(20)), tokenizer, 4, tmp_path
    )
    assert sequences(cached) == sequences(encode(texts, tokenizer, 4))


def test_a_text_without_a_token_is_named(tokenizer: Any) -> None:
    class Bare:
        """Tokens without those around them."""

        def __call__(self, texts: list[str], **settings: Any) -> dict[str, list[list[int]]]:
            return {"input_ids": [ids[1:-1] for ids in tokenizer(texts, **settings)["input_ids"]]}

    assert sequences(encode(["w0", "w1 w2"], Bare(), 8)) == [[4], [5, 6]]
    with pytest.raises(DataError, match=r"^2 texts .*'   '"):
        encode(["w0", "   ", "w1", ""], Bare(), 8)
