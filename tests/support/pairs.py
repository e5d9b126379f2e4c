"""Pairs of texts, and the columns that a file of them has."""

from __future__ import annotations

PAIRS = [("w1 w2 w3", "w4"), ("w5", "w6 w7 w8 w9 w10 w11"), ("w12 w13", "w14 w15"), ("w1 " * 9, "w2 " * 9)]


COLUMNS = {"text_column": "premise", "pair_column": "hypothesis", "label_column": "same"}
