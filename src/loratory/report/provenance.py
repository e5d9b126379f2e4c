"""Where a study comes from, in words: the machine and versions, and for each data set its source, classes and sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from loratory import units
from loratory.study.document import Summary

Facts = list[tuple[str, str]]

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d")

PARTS = ("train", "validation", "test")

NAMES = {
    "device_type": "kind of device",
    "cpu_capability": "CPU instructions",
    "cuda": "CUDA",
    "cudnn": "cuDNN",
    "fp32_products": "fp32 products",
    "fp32_convolutions": "fp32 convolutions",
    "flat": "padding left out",
    "model_digest": "model, SHA-256",
    "version": "Loratory",
}
"""What the environment's keys are called where their own name does not say it."""


def machine(study: Summary) -> Facts:
    """Device, settings and versions of the first final run."""
    environment = study.environment or {}
    plain = [(NAMES.get(key, key.replace("_", " ")), _plain(value)) for key, value in environment.items()]
    versions = environment.get("versions")
    plain += [(key, _plain(value)) for key, value in versions.items()] if isinstance(versions, Mapping) else []
    return [(name, text) for name, text in plain if text]


def data_sets(study: Summary) -> list[tuple[str, Facts]]:
    """Each data set's name and what is known of it."""
    return [(_named(one), _data(one)) for one in study.data]


def _named(one: Mapping[str, Any]) -> str:
    name = str(one.get("dataset", one.get("source", "data")))
    name += "" if one.get("limit") is None else f", {_plain(one['limit'])} training examples"
    return name if one.get("fold") is None else f"{name}, fold {_plain(one['fold'])}"


def _data(one: Mapping[str, Any]) -> Facts:
    labels = [str(label) for label in one.get("labels") or ()]
    counts = _mapping(one, "class_counts")
    facts = [
        ("source", _plain(one.get("source")) if one.get("source") != one.get("dataset") else ""),
        ("revision", _plain(one.get("revision"))),
        ("examples", _by_part(_mapping(one, "sizes"))),
        ("classes", "" if counts else ", ".join(labels)),
        *((f"classes of {part}", _classes(labels, counts[part])) for part in PARTS if part in counts),
        *((f"numbers of {part}", _numbers(one)) for part, one in _mapping(one, "targets").items()),
        ("rows without a class, left out", _some(one.get("dropped"))),
        ("groups", groups_said(_mapping(one, "groups"))),
        ("repeated texts", _repeated(_mapping(one, "duplicates"))),
        ("texts with different labels", _some(one.get("conflicts"))),
        *((f"in {pair.replace('-', ' and ')} alike", _some(n)) for pair, n in _mapping(one, "overlap").items()),
        ("SHA-256", _plain(one.get("digest"))),
        *((f"SHA-256 of {part}", _plain(digest)) for part, digest in _mapping(one, "digests").items()),
    ]
    return [(name, text) for name, text in facts if text]


def _mapping(one: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = one.get(key)
    return found if isinstance(found, Mapping) else {}


def _numbers(found: Any) -> str:
    return ", ".join(f"{name} {units.signed(f'{value:.4g}')}" for name, value in found.items())


def _classes(labels: list[str], counts: Any) -> str:
    if not isinstance(counts, list | tuple) or len(counts) != len(labels):
        return ""
    return ", ".join(f"{label} {_plain(number)}" for label, number in zip(labels, counts, strict=True))


def _by_part(sizes: Mapping[str, Any]) -> str:
    return ", ".join(f"{part} {_plain(size)}" for part, size in sizes.items())


def _repeated(found: Mapping[str, Any]) -> str:
    """`2`, or by the source's parts where it has some; "" for none."""
    parts = [(part, _some(number)) for part, number in found.items()]
    return ", ".join(text if part == "all" else f"{part} {text}" for part, text in parts if text)


def groups_said(found: Mapping[str, Any]) -> str:
    """`299, each in one split`, or how many examples have their group in an earlier split, too."""
    if not found:
        return ""
    pairs = [(*pair.split("-"), n) for pair, n in _mapping(found, "overlap").items() if n]
    across = [f"{_plain(n)} examples of {second} from groups of {first}" for first, second, n in pairs]
    return f"{_plain(found.get('count'))}, {', '.join(across) or 'each in one split'}"


def _some(number: Any) -> str:
    return _plain(number) if number else ""


def _plain(value: Any) -> str:
    """A number, a word, or yes and no; "" for what is absent or has parts of its own."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, str) and _TIME.match(value):
        return units.moment(value)
    return units.printable(str(value)) if isinstance(value, str | float) else ""
