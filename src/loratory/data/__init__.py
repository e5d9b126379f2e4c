"""What is learned from. The room in the order in which data passes through it:

packaged (the index) ─┐
files, hub, hutto ────┴▶ sources (gathered, checked: examples) ─▶ splits (train, validation, test) ─▶ tokens ─▶ batches
"""

from loratory.data.batches import Batch, Cut, Labelled, Shape, collate, epoch_order, padded
from loratory.data.columns import Coded, Pairs, Texts
from loratory.data.gathering import Examples, checked, gathered
from loratory.data.overlap import shared
from loratory.data.packaged import PACKAGED, Packaged, data_directory, fetch
from loratory.data.rows import normalised
from loratory.data.sources import Source, load_source
from loratory.data.splits import Dataset, Split, dataset_of, divided, make_dataset
from loratory.data.targets import Label, Target
from loratory.data.tokens import TokenTable, tokenize, tokenizer_digest

__all__ = [
    "PACKAGED",
    "Batch",
    "Coded",
    "Cut",
    "Dataset",
    "Examples",
    "Label",
    "Labelled",
    "Packaged",
    "Pairs",
    "Shape",
    "Source",
    "Split",
    "Target",
    "Texts",
    "TokenTable",
    "checked",
    "collate",
    "data_directory",
    "dataset_of",
    "divided",
    "epoch_order",
    "fetch",
    "gathered",
    "load_source",
    "make_dataset",
    "normalised",
    "padded",
    "shared",
    "tokenize",
    "tokenizer_digest",
]
