"""What errors and the log say, in other words for whoever reads them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from loratory.errors import LoratoryError


@contextmanager
def errors_reworded(change: Callable[[str], str]) -> Iterator[None]:
    """Errors that pass here say what `change` makes of their messages."""
    try:
        yield
    except LoratoryError as error:
        error.args = (change(str(error)),)
        raise


@contextmanager
def reworded(change: Callable[[str], str]) -> Iterator[None]:
    """Errors that pass here, and what this process logs meanwhile, say what `change` makes of their messages."""

    def renamed(line: logging.LogRecord) -> bool:
        line.msg, line.args = change(line.getMessage()), ()
        return True

    log = logging.getLogger("loratory")
    log.addFilter(renamed)
    try:
        with errors_reworded(change):
            yield
    finally:
        log.removeFilter(renamed)
