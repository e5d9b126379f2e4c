"""What a run is called: its method, and whatever else tells it from the runs beside it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from loratory.data.packaged import given_digest
from loratory.methods import METHODS
from loratory.spec import GROUPS

Record = Mapping[str, Any]
"""A run's `run.json`, read."""


SHORT = 8
"""Digits that tell one digest from another in a name."""


def lookup(record: Any, *path: str) -> Any:
    """The value under the keys `path`, or None where one is missing: a failed run's record has gaps."""
    for key in path:
        if not isinstance(record, Mapping):
            return None
        record = record.get(key)
    return record


SAID = ("name", "rank", "targets", "unfrozen_layers", "frozen_layers", "also_unfrozen", "alpha", "lora_dropout")
"""Settings that a name says in words of its own, or only where they differ."""


def variant(method: Any) -> str:
    """What else a method's settings are that its defaults are not, such as ` + layernorm, dora=on`; mostly nothing."""
    if not isinstance(method, Mapping):
        return ""
    known = METHODS.get(str(method.get("name")))
    plain = {key: field.default for key, field in known.settings.model_fields.items()} if known is not None else {}
    given = {key: value for key, value in method.items() if key not in SAID}
    also = str(method.get("also_unfrozen") or "")
    words = "".join(f" + {kind}" for kind in also.split(",") if kind)
    return words + "".join(f", {key}={value}" for key, value in given.items() if value not in (None, plain.get(key)))


def approach(method: Any) -> str:
    """A method's settings in short: `standard`, `lora r=8 attention`, `hybrid r=8 attention + top 2 unfrozen`."""
    words = [str(lookup(method, "name") or "unknown")]
    rank = lookup(method, "rank")
    if rank is not None:
        words.append(f"r={rank}" if rank else "without LoRA")
    if (targets := lookup(method, "targets")) is not None and rank != 0:
        words.append(targets if isinstance(targets, str) else ",".join(map(str, targets)))
    name = " ".join(words)
    for key, where in (("unfrozen_layers", "top {} unfrozen"), ("frozen_layers", "bottom {} frozen")):
        if layers := lookup(method, key):
            name += " + " + where.format(layers)
    return name + variant(method)


def approaches(records: Sequence[Record]) -> list[str]:
    """One name for each run. Runs that would share one also say the settings in which they differ, or their id; one run
    in several places its `directory`, where the record has one beside it."""
    names = [approach(lookup(record, "spec", "method")) for record in records]
    for setting in ("model", "data.dataset"):
        values = [flat(record).get(setting) for record in records]
        if len(set(values)) > 1:
            names = [f"{name}, {short(value, setting)}" for name, value in zip(names, values, strict=True)]
    groups: dict[str, list[int]] = defaultdict(list)
    for position, name in enumerate(names):
        groups[name].append(position)
    for positions in groups.values():
        for position, difference in zip(positions, _differences([records[i] for i in positions]), strict=True):
            names[position] += difference
    return names


def setting(record: Record) -> str:
    """Everything of the spec but the seed, as one comparable string: equal for the seeds of one cell."""
    return json.dumps({key: value for key, value in flat(record).items() if key != "seed"}, sort_keys=True)


def _differences(records: Sequence[Record]) -> list[str]:
    if len(records) < 2:
        return ["" for _ in records]
    specs = [flat(record) for record in records]
    keys = [
        key
        for key in dict.fromkeys(key for spec in specs for key in spec)
        if len({spec.get(key) for spec in specs}) > 1
    ]
    texts = ["".join(f", {key.rpartition('.')[2]}={short(spec.get(key), key)}" for key in keys) for spec in specs]
    if len(set(texts)) == len(texts):
        return texts
    ids = [str(record.get("id", "")) for record in records]
    tails = [
        str(record.get("directory") or name) if ids.count(name) > 1 else name
        for name, record in zip(ids, records, strict=True)
    ]
    return [f"{text}, {tail}" for text, tail in zip(texts, tails, strict=True)]


def flat(record: Record) -> dict[str, str]:
    """The spec as `training.lr` → JSON text, so that any two values compare; what a record of an older version does not
    say is what it is by default."""

    def leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                yield from leaves(inner, f"{path}.{key}" if path else str(key))
        else:
            yield path, json.dumps(value, sort_keys=True, default=str)

    spec = dict(record.get("spec") or {})
    for name, kind in GROUPS.items():
        if isinstance(given := spec.get(name), Mapping):
            spec[name] = {**kind().model_dump(mode="json"), **given}
    if isinstance(given := spec.get("method"), Mapping) and (known := METHODS.get(str(given.get("name")))) is not None:
        spec["method"] = {**known.settings(name=known.name).model_dump(mode="json"), **given}
    return dict(leaves(spec, ""))


def short(value: str | None, key: str) -> str:
    """The value of `key` in `flat` as a table shows it; of a setting that is not given, whether something else stands
    in its place then, or nothing.
    """
    if value not in (None, "null"):
        text = str(value).strip('"')
        digest = given_digest(text) if key == "data.dataset" else None
        return text if digest is None else f"given texts {digest[:SHORT]}"
    if key == "data.limit":
        return "all"  # as study files say it
    group, _, name = key.partition(".")
    field = GROUPS[group].model_fields.get(name) if group in GROUPS else None
    return "none" if field is not None and "(default: " not in (field.description or "") else "default"
