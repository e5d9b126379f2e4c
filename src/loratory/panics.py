"""Panics of libraries that are written in Rust: they reach Python as exceptions that are none of Exception's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from loratory.errors import ModelError, first_line


@contextmanager
def panics(what: str) -> Iterator[None]:
    """Make a panic of the tokenizers library an error; Rust itself has told it on standard error before.

    Args:
        what: whose tokenizer is at work, for the error's line.

    Raises:
        ModelError: it panicked.
    """
    try:
        yield
    except BaseException as error:  # a panic is no Exception; all else goes on as it came
        if type(error).__name__ != "PanicException":  # pyo3 makes the class anew in each library, and exports none
            raise
        raise ModelError(
            f"{what}: its tokenizer panicked ({first_line(error)}); give the tokenizer that it was trained with"
        ) from error
