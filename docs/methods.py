"""Write docs/methods.md: what each method's own file says of it, and its settings.

python docs/methods.py
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from loratory.methods import METHODS, Method
from loratory.methods import rates as paces
from loratory.methods.peft_type import PeftType
from loratory.methods.rates import LayerSettings

PACES = {name: field for name, field in LayerSettings.model_fields.items() if name != "name"}
PAGE = Path(__file__).with_name("methods.md")
FIRST = (
    "# Methods\n\nWritten by `python docs/methods.py` from the methods' own files, and checked. Every method trains\n"
    "the head too: all that stands between the encoder's last hidden state and the logits. The families that each one\n"
    "runs on: [support.md](support.md).\n"
)


def page() -> str:
    """The whole page."""
    known = {name: _section(method) for name, method in METHODS.items()}
    any_other = PeftType.named("peft:VERA")
    rates = " ".join((inspect.getdoc(any_other.default_lr) or "").split())
    sections = [*known.values(), f"## peft:TYPE\n\n{_text(type(any_other))}\nDefault learning rate: {rates}\n"]
    return "\n".join([FIRST, *sections, _rates()])


def _rates() -> str:
    """What every method's rates are, and the settings of layers."""
    text = textwrap.dedent(paces.__doc__ or "").strip()
    return "\n".join(["## Learning rates", "", text, "", *_table(PACES), ""])


def _section(method: Method) -> str:
    rates = " ".join((inspect.getdoc(method.default_lr) or "").split())
    section = f"## {method.name}\n\n{_text(type(method))}\nDefault learning rate: {rates}\n"
    own = method.settings.model_fields
    lora = METHODS["lora"].settings.model_fields if method.name != "lora" else {}
    same = {name for name, field in own.items() if name in lora and field.description == lora[name].description}
    fields = {name: field for name, field in own.items() if name not in {"name", *same, *PACES}}
    if lora and lora.keys() <= own.keys():
        section += "\nIt takes the settings of lora, and its own:\n"
    if not fields:
        return section
    return "\n".join([section, *_table(fields), ""])


def _table(fields: Mapping[str, FieldInfo]) -> list[str]:
    rows = []
    for name, field in fields.items():
        default = "" if field.default in ("", None) else f"`{field.default}`"
        rows.append(f"| `--{name.replace('_', '-')}` | {default} | {field.description} |")
    return ["| setting | default | |", "|---|---|---|", *rows]


def _text(kind: type[Any]) -> str:
    """The docstring of the file in which `kind` stands; equations, which are indented, as they are."""
    return textwrap.dedent(sys.modules[kind.__module__].__doc__ or "").strip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf8")
