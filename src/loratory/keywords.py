"""What an error says to whoever calls the package from Python: keywords stand there in place of flags."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from loratory.rewording import errors_reworded

_FLAG = re.compile(r"(?<![\w-])--([a-z][a-z-]*)")


@contextmanager
def as_keywords(known: Collection[str] = ()) -> Iterator[None]:
    """Errors that pass here name settings as keywords, `--batch-size` as `batch_size`, and what is `known` beside them.

    Other flags stay.
    """
    with errors_reworded(lambda message: in_keywords(message, known)):
        yield


def in_keywords(message: str, known: Collection[str] = ()) -> str:
    """`set --text-column` as `set text_column`."""
    from loratory.methods import all_flags

    names = {*known, *all_flags()}

    def keyword(found: re.Match[str]) -> str:
        name = found[1].replace("-", "_")
        return name if name in names else found[0]

    return _FLAG.sub(keyword, message)


def from_python(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, its errors in keywords: its own, and settings."""
    own = {*inspect.signature(function).parameters}

    @functools.wraps(function)
    def called(*arguments: Any, **keywords: Any) -> Any:
        with as_keywords(own):
            return function(*arguments, **keywords)

    return called
