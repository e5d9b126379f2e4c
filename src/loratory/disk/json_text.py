"""JSON that was read from a disk, where somebody may have written anything."""

from __future__ import annotations

import json
from typing import Any

MAX_DEPTH = 32
"""The deepest nesting of what we read; what we write has less than ten levels."""


def parsed(text: str) -> Any:
    """What a text of JSON holds.

    Raises:
        ValueError: it is not JSON, or is nested so deep that to walk through it could end the program.
    """
    try:
        document = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if depth(document, most=MAX_DEPTH) > MAX_DEPTH:
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    return document


def depth(value: Any, *, most: int) -> int:
    """How deep lists and objects are nested in a value; the count ends above `most`."""
    found, level = 0, [value]
    while level and found <= most:
        inner = [one for one in level if isinstance(one, dict | list)]
        found += bool(inner)
        level = [item for one in inner for item in (one.values() if isinstance(one, dict) else one)]
    return found
