"""`tokenizer.json`: what its steps could make of a text before it is cut to the model's length.

Steps follow each other, so that what each may lengthen a text by multiplies: twenty steps that replace one letter by
two make a million letters of one. The format and its steps are those of Hugging Face's `tokenizers`
(https://huggingface.co/docs/tokenizers/api/normalizers), which refuses a step that it does not know.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

from loratory.errors import ModelError, SafetyError
from loratory.models.door.files import read_object

FILE = "tokenizer.json"

MOST_GROWTH = 256
"""The most by which a tokenizer's steps may lengthen a text together. The tables that SentencePiece comes with make at
most 33 bytes of a character (counted in nmt_nfkc, nfkc and nmt_nfkc_cf of sentencepiece 0.2)."""

MOST_ADDED = 64
"""The most tokens, or characters, that are put round each text; published ones put two or three."""

MOST_IN_WORD = 1000
"""The longest word that WordPiece cuts, in time that grows with its square; published ones say 100."""

_NOWHERE = re.compile(r"\(\?|[\^$]|\\[bBAZzGK]")
"""What may match between two characters."""


def check_pipeline(directory: Path, *, most: int) -> None:
    """Refuse a `tokenizer.json` whose steps lengthen texts beyond :data:`MOST_GROWTH` or :data:`MOST_ADDED`.

    Args:
        most: bytes that the file may have.

    Raises:
        ModelError: not JSON, or a step that is none.
        SafetyError: it could exhaust the machine.
    """
    path = directory / FILE
    values = read_object(path, most=most)
    try:
        growth = _growth(values.get("normalizer")) * _growth(values.get("pre_tokenizer"))
        added = _added(values.get("post_processor"))
        model = values.get("model") or {}
        longest, prefix = model.get("max_input_chars_per_word") or 0, model.get("continuing_subword_prefix") or ""
        refused = [
            (growth > MOST_GROWTH, f"its steps may make a text {growth:,.0f} times as long, above {MOST_GROWTH}"),
            (added > MOST_ADDED, f"it puts {added:,} tokens or characters round a text, above {MOST_ADDED}"),
            (longest > MOST_IN_WORD, f"max_input_chars_per_word is {longest:,}, above {MOST_IN_WORD:,}"),
            (len(prefix) > MOST_ADDED, f"continuing_subword_prefix has {len(prefix):,} characters"),
        ]
    except (TypeError, AttributeError, ValueError, LookupError) as error:
        raise ModelError(
            f"{path}: a step is none that tokenizers have ({type(error).__name__}); copy it again"
        ) from None
    for is_refused, reason in refused:
        if is_refused:
            raise SafetyError(f"{path}: {reason}; refused")


def _growth(step: dict[str, Any] | None) -> float:
    """By how much a step may lengthen a text, at least 1."""
    if step is None:
        return 1.0
    inner = [*(step.get("normalizers") or []), *(step.get("pretokenizers") or [])]
    own = max(1.0, _GROWTH[step["type"]](step)) if step["type"] in _GROWTH else 1.0
    return own * prod(map(_growth, inner))


def _replaced(step: dict[str, Any]) -> float:
    ((kind, pattern),) = step["pattern"].items()
    made = len(step["content"])
    if kind == "String":
        return made / max(1, len(pattern)) + (not pattern)
    return float(made + _matches_nothing(pattern))


def _matches_nothing(pattern: str) -> bool:
    """Whether a regular expression may match between two characters; True where that cannot be told."""
    try:
        return bool(_NOWHERE.search(pattern)) or re.match(pattern, "") is not None
    except re.error:  # a dialect of its own (Oniguruma)
        return True


def _put_before(step: dict[str, Any]) -> float:
    """What a text of one character becomes, in characters."""
    return 1.0 + len(step.get("prepend") or step.get("append") or "")


def _mapped(step: dict[str, Any]) -> float:
    """The longest text in SentencePiece's table: the size of its tree, the tree, and texts with NUL between them."""
    try:
        table = base64.b64decode(step.get("precompiled_charsmap") or "", validate=True)
    except binascii.Error as error:
        raise ValueError from error
    texts = table[4 + int.from_bytes(table[:4], "little") :]
    return float(max((len(text) for text in texts.split(b"\0")), default=1))


_GROWTH: dict[str, Callable[[dict[str, Any]], float]] = {
    "Replace": _replaced,
    "Prepend": _put_before,
    "Append": _put_before,
    "Precompiled": _mapped,
    "ByteLevel": lambda _: 2.0,  # a byte above 127 becomes a character of two bytes
}


def _added(step: dict[str, Any] | None) -> int:
    """Tokens that a step puts round one text or a pair of them."""
    if step is None:
        return 0
    ids = [len(token["ids"]) for token in (step.get("special_tokens") or {}).values()]
    pieces = len(step.get("single") or []) + len(step.get("pair") or [])
    return pieces * max(ids, default=1) + sum(_added(one) for one in step.get("processors") or [])
