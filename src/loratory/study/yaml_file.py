"""A YAML file as plain values that know their lines; only what a study file needs of YAML is let in.

Mappings, sequences and scalars are read. Aliases, anchors, tags and second documents are refused, and so are repeated
keys. Plain scalars are those of YAML 1.2's core schema: `1e-3` is a number, `no` and `1:30` are text.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from loratory.errors import SettingsError, first_line

MAX_BYTES = 1 << 20
"""The largest file that is read."""

MAX_DEPTH = 12
"""The deepest nesting that is read; a study file has four levels."""

MAX_EVENTS = 20_000
"""The most keys, values and brackets that are read; a study file has some hundreds."""

Keys = tuple[str | int, ...]
"""The way to a value: keys of mappings, positions in sequences."""

_WHOLE = re.compile(r"[-+]?[0-9]+")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}


@dataclass(frozen=True)
class Document:
    """What a file says, and the line on which it says each thing.

    Attributes:
        where: the file's name, for messages.
        places: from the path of a key or an item, such as `("methods", 0, "rank")`, to `FILE, line 7`.
    """

    where: str
    value: Any
    places: dict[Keys, str] = field(default_factory=dict)

    def at(self, path: Keys) -> str:
        """Where `path`, or the nearest thing around it whose place is known, stands."""
        known = (self.places[path[:end]] for end in range(len(path), -1, -1) if path[:end] in self.places)
        return next(known, self.where)

    def replaced(self, key: str, value: Any, where: str) -> Document:
        """This document with `value` in place of what stands under the dotted `key`; `where` is its place from now on.

        Raises:
            SettingsError: something on the way is no mapping.
        """
        path: Keys = tuple(key.split("."))
        root = copy.deepcopy(self.value)
        inner = root
        for part in path[:-1]:
            inner = inner.setdefault(part, {}) if isinstance(inner, dict) else None
        if not isinstance(inner, dict):
            raise SettingsError(f"{where}: {key!r} is no key of a mapping; give a key such as seeds or train.epochs")
        inner[path[-1]] = value
        places = {known: place for known, place in self.places.items() if known[: len(path)] != path}
        return Document(self.where, root, {**places, path: where})


def read_yaml(content: bytes, where: str) -> Document:
    """The one document that `content` holds.

    Raises:
        SettingsError: not YAML, or more of YAML than is let in; one line that names the place.
    """
    if len(content) > MAX_BYTES:
        raise SettingsError(f"{where}: {len(content):,} bytes; a study file has at most {MAX_BYTES:,}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SettingsError(f"{where}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    try:
        _refuse_much(text, where)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or first_line(error)
        raise SettingsError(f"{where}{line}: not YAML: {problem}") from None
    document = Document(where, None)
    return Document(where, _value(node, (), document), document.places) if node is not None else document


def _refuse_much(text: str, where: str) -> None:
    """Refuse what is not let in before anything is built of it."""
    depth = documents = 0
    for number, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        line = f"{where}, line {event.start_mark.line + 1}" if event.start_mark is not None else where
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        documents += isinstance(event, yaml.DocumentStartEvent)
        if number > MAX_EVENTS:
            raise SettingsError(f"{line}: more than {MAX_EVENTS:,} keys and values; a study file is shorter")
        anchor, tag = getattr(event, "anchor", None), getattr(event, "tag", None)
        if isinstance(event, yaml.AliasEvent):
            raise SettingsError(f"{line}: alias *{anchor}; write the value out")
        if anchor is not None:
            raise SettingsError(f"{line}: anchor &{anchor}; leave it out")
        if tag is not None:
            raise SettingsError(f"{line}: tag {tag}; leave it out")
        if depth > MAX_DEPTH:
            raise SettingsError(f"{line}: nested more than {MAX_DEPTH} deep")
        if documents > 1:
            raise SettingsError(f"{line}: a second document; a study file holds one")


def _value(node: yaml.Node, path: Keys, document: Document) -> Any:
    """The value of a node; its line, and those of all in it, go to `document.places`."""
    document.places.setdefault(path, f"{document.where}, line {node.start_mark.line + 1}")
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*path, number), document) for number, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key, value in node.value:
            line = f"{document.where}, line {key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode):
                raise SettingsError(f"{line}: a key must be a word")
            if key.value in found:
                raise SettingsError(f"{line}: {key.value!r} stands there a second time; keep one of them")
            document.places[(*path, key.value)] = line
            found[key.value] = _value(value, (*path, key.value), document)
        return found
    assert isinstance(node, yaml.ScalarNode)
    return _scalar(node)


def _scalar(node: yaml.ScalarNode) -> Any:
    text = str(node.value)
    if node.style is not None:  # in quotes or a block: text
        return text
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _WHOLE.fullmatch(text):
        return int(text) if len(text) < 400 else text
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan")) if _NUMBER.fullmatch(text) else text
