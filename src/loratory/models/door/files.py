"""Where a model's file leads, how large it is, and what JSON it holds."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

from loratory.disk.json_text import depth
from loratory.errors import ModelError, SafetyError, first_line

MAX_JSON = 4 << 20
"""The largest JSON file that is read whole, but for vocabularies; published ones have some kilobytes."""

MAX_DEPTH = 8
"""The deepest nesting of what is read; published files have four levels."""

_PLAIN = re.compile(r"[\w .,:;+|@#<>\[\]()=-]{0,256}")


def check_link(path: Path) -> Path:
    """`path`, which may be a link within its directory, or in the hub's cache to a blob of the same repository.

    Raises:
        SafetyError: it leads elsewhere.
    """
    root, target = path.parent.resolve(), path.resolve()
    repository = root.parent.parent  # …/models--OWNER--NAME/snapshots/REVISION
    cached = root.parent.name == "snapshots" and repository.name.startswith("models--")
    if target.is_relative_to(root) or (cached and target.parent == repository / "blobs"):
        return path
    raise SafetyError(f"{path}: a link that leaves its directory; put the file itself there")


def check_size(path: Path, most: int) -> None:
    """Refuse a file of more than `most` bytes.

    Raises:
        SafetyError: it is larger.
    """
    size = path.stat().st_size
    if size > most:
        raise SafetyError(f"{path}: {size:,} bytes, above the limit of {most:,} for such a file; refused")


def read_object(path: Path, *, most: int = MAX_JSON) -> dict[str, Any]:
    """The JSON object in `path`, which is a file of a model.

    Raises:
        ModelError: not JSON, no object, or a key stands in it twice.
        SafetyError: too large, nested too deep, or a link that leaves its directory.
    """
    try:
        check_link(path)
        check_size(path, most)
        return parse_object(path.read_bytes(), str(path))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror or error})") from error


def parse_object(content: bytes, where: str) -> dict[str, Any]:
    """The JSON object that `content` holds.

    Raises:
        ModelError: not JSON, no object, or a key stands in it twice.
        SafetyError: nested too deep.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise ModelError(f"{where}: key {shown(twice)} stands there twice; keep one")
        return found

    def no_number(constant: str) -> NoReturn:
        raise ModelError(f"{where}: {constant} is no number of JSON; write one")

    try:
        document = json.loads(content.decode("utf8"), object_pairs_hook=once, parse_constant=no_number)
    except RecursionError:
        raise SafetyError(f"{where}: nested too deep; refused") from None
    except ValueError as error:
        raise ModelError(f"{where}: not JSON ({first_line(error)}); copy it again") from None
    if not isinstance(document, dict):
        raise ModelError(f"{where}: holds no JSON object; copy it again")
    if depth(document, most=MAX_DEPTH) > MAX_DEPTH:
        raise SafetyError(f"{where}: nested more than {MAX_DEPTH} deep; refused")
    return document


def is_plain(text: str) -> bool:
    """Whether a text is a short word or name, and neither a path nor an address."""
    return _PLAIN.fullmatch(text) is not None and ".." not in text


def is_inert(value: Any) -> bool:
    """Whether a value can only be looked at: nothing, a truth value, a number, a plain text, or a list of those."""
    if isinstance(value, list):
        return len(value) <= 4096 and all(not isinstance(item, list) and is_inert(item) for item in value)
    if isinstance(value, str):
        return is_plain(value)
    return value is None or isinstance(value, bool) or (isinstance(value, int | float) and abs(value) <= 2**53)


def shown(value: object) -> str:
    """A value of a file as an error's line quotes it."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
