"""What is learned from. The room in the order in which data passes through it:

packaged (the index) ─┐
files, hub, hutto ────┴▶ sources (checked examples) ─▶ splits (train, validation, test) ─▶ tokens ─▶ batches
"""

from loratory.data.batches import Batch, Cut, Labelled, Shape, collate, epoch_order, padded
from loratory.data.packaged import PACKAGED, Packaged, data_directory, fetch
from loratory.data.sources import Examples, Source, checked, load_source
from loratory.data.splits import Dataset, Split, dataset_of, make_dataset, normalised
from loratory.data.targets import Label, Target
from loratory.data.tokens import TokenTable, tokenize, tokenizer_digest

__all__ = [
    "PACKAGED",
    "Batch",
    "Cut",
    "Dataset",
    "Examples",
    "Label",
    "Labelled",
    "Packaged",
    "Shape",
    "Source",
    "Split",
    "Target",
    "TokenTable",
    "checked",
    "collate",
    "data_directory",
    "dataset_of",
    "epoch_order",
    "fetch",
    "load_source",
    "make_dataset",
    "normalised",
    "padded",
    "tokenize",
    "tokenizer_digest",
]
