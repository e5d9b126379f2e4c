"""The packaged texts of Hutto & Gilbert (ICWSM 2014): four domains, each text with the mean of 20 human ratings."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Literal

from loratory.data.content import decoded, read_bytes
from loratory.data.packaged import fetch
from loratory.errors import DataError, nearest

DOMAINS: dict[str, str] = {
    "movies": "movieReviewSnippets_GroundTruth.txt",
    "tweets": "tweets_GroundTruth.txt",
    "amazon": "amazonReviewSnippets_GroundTruth.txt",
    "nyt": "nytEditorialSnippets_GroundTruth.txt",
}

SENTENCES = ("amazon", "nyt")
"""The domains whose texts are sentences of reviews and of articles, numbered DOCUMENT_SENTENCE."""


@dataclass(frozen=True)
class Rated:
    """The texts of one domain as published, HTML entities included, each of length N."""

    texts: tuple[str, ...]
    ratings: tuple[float, ...]
    """Mean human rating in [-4, 4]."""
    digest: str
    """SHA-256 of the published file."""
    documents: tuple[str, ...] | None
    """The number of the review or article that each text is a sentence of, where texts are sentences."""


def read_ratings(domain: str) -> Rated:
    """Read one domain, fetching the packaged data the first time.

    Raises:
        DataError: the domain is unknown, or its file is damaged.
        ResourceError, SafetyError, StorageError: as :func:`loratory.data.packaged.fetch`.
    """
    if domain not in DOMAINS:
        names = [f"hutto:{name}" for name in DOMAINS]
        raise DataError(f"unknown data set 'hutto:{domain}'; {nearest(f'hutto:{domain}', names)}")
    path = fetch("hutto") / DOMAINS[domain]
    data = read_bytes(path)
    texts: list[str] = []
    ratings: list[float] = []
    documents: list[str] = []
    for number, line in enumerate(decoded(path, data).replace("\r\n", "\n").rstrip("\n").split("\n"), start=1):
        cells = line.split("\t")
        try:
            name, rating, text = cells
            value = float(rating)
        except ValueError:
            value = math.nan
        if not abs(value) <= 4:
            raise DataError(f"{path}: line {number} is damaged; remove {path.parent}, and it is fetched anew")
        texts.append(text)
        ratings.append(value)
        documents.append(name.rpartition("_")[0])
    kept = tuple(documents) if domain in SENTENCES else None
    return Rated(tuple(texts), tuple(ratings), hashlib.sha256(data).hexdigest(), kept)


def target_of(rating: float, task: Literal["polarity", "ternary", "rating"], neutral_band: float) -> str | float | None:
    """What a text of this rating in [-4, 4] is to be given.

    rating: the number itself. polarity: its sign, and None for zero. ternary: `neutral` where |rating| ≤
    `neutral_band`, else its sign.
    """
    if task == "rating":
        return rating
    if task == "ternary" and abs(rating) <= neutral_band:
        return "neutral"
    if rating == 0:
        return None
    return "positive" if rating > 0 else "negative"
