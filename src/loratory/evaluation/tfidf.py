"""Words and word pairs of texts as vectors, by scikit-learn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loratory.data.columns import are_pairs

if TYPE_CHECKING:
    from loratory.data.splits import Dataset, Split

MOST_TEXTS = 500_000
"""With more training texts TF-IDF is left out: its terms and their counts stand in memory, and do not map to a file."""

RARE_FROM = 1000
"""From this many training texts on, a term seen in one text only is dropped (min_df 2); below, every term counts."""


@dataclass(frozen=True)
class Vectors:
    """Words and word pairs of each part by sublinear TF-IDF.

    Of pairs of texts each has terms of its own, and their vectors stand side by side.
    """

    train: Any
    validation: Any
    test: Any
    settings: dict[str, Any]

    @classmethod
    def of(cls, dataset: Dataset) -> Vectors | str:
        """Or why there are none."""
        if len(dataset.train.labels) > MOST_TEXTS:
            return f"its terms are counted in memory, for at most {MOST_TEXTS:,} training texts"
        min_df = 2 if len(dataset.train.labels) >= RARE_FROM else 1
        terms = [_Terms(min_df) for _ in _columns(dataset.train)]
        try:
            train = _beside([one.fit(texts) for one, texts in zip(terms, _columns(dataset.train), strict=True)])
        except ValueError:
            return "the training texts hold no words it could count"
        settings = {"ngrams": [1, 2], "sublinear_tf": True, "min_df": min_df, "terms": train.shape[1]}

        def transformed(split: Split) -> Any:
            return _beside([one.of(texts) for one, texts in zip(terms, _columns(split), strict=True)])

        return cls(train, transformed(dataset.validation), transformed(dataset.test), settings)


class _Terms:
    """Terms of one column of texts, and their weights."""

    def __init__(self, min_df: int) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        # one-letter words ("I") are kept: scikit-learn's own pattern drops them
        self._vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=min_df, token_pattern=r"\w+")

    def fit(self, texts: Iterable[str]) -> Any:
        """Learn the terms of the training texts (N); their vectors (N, terms)."""
        return self._vectorizer.fit_transform(texts)

    def of(self, texts: Iterable[str]) -> Any:
        """The vectors of other texts."""
        return self._vectorizer.transform(texts)


def _columns(split: Split) -> list[Iterable[str]]:
    """The texts of a split; of pairs the first ones and the second ones."""
    if not are_pairs(split.texts):
        return [(text for text in split.texts if isinstance(text, str))]
    return [(pair[0] for pair in split.texts), (pair[1] for pair in split.texts)]


def _beside(vectors: Sequence[Any]) -> Any:
    from scipy.sparse import hstack

    return vectors[0] if len(vectors) == 1 else hstack(vectors, format="csr")
