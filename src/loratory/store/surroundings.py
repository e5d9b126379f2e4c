"""What a run was made with that decides, beside its settings, whether it comes out the same again."""

from __future__ import annotations

import json
from dataclasses import dataclass

from loratory.store.naming import Record, lookup

ROUNDED = "sums are rounded otherwise, and scores may differ for that alone"


@dataclass(frozen=True)
class Fact:
    """One thing that a record says: its place there, its name, and what follows where two runs differ in it."""

    path: tuple[str, ...]
    title: str
    why: str
    absent: str | None = None
    """What it is in a record that does not say it; None where that is not known."""

    def of(self, record: Record) -> str | None:
        """What `record` says, as one comparable text; None where it does not."""
        value = lookup(record, *self.path)
        if value is None:
            return self.absent
        if isinstance(value, str):
            return value
        return json.dumps(value, sort_keys=True, default=str)


def _environment(key: str, title: str, why: str) -> Fact:
    return Fact(("environment", key), title, why)


PACKAGES = ("torch", "transformers", "peft", "tokenizers", "numpy", "scikit-learn", "python")
_OTHERWISE = "another version may compute otherwise"

FACTS = (
    _environment("device", "devices", f"times and memory do not compare, and {ROUNDED}"),
    _environment("threads", "numbers of threads", f"times do not compare, and {ROUNDED}"),
    _environment("cpu_capability", "CPU instructions", ROUNDED),
    _environment("processes", "numbers of processes", "the batch size is that of each process, so that steps differ"),
    *(Fact(("environment", "versions", name), f"versions of {name}", _OTHERWISE) for name in PACKAGES),
    *(
        _environment(key, f"versions of {title}", _OTHERWISE)
        for key, title in (("cuda", "CUDA"), ("cudnn", "cuDNN"), ("driver", "the driver"))
    ),
    _environment("version", "versions of Loratory's code", "what differs may be the program's doing"),
    _environment("deterministic", "promises to be deterministic", "only some of the runs come out the same again"),
    _environment("fp32_products", "precisions of fp32 products", ROUNDED),
    _environment("fp32_convolutions", "precisions of fp32 convolutions", ROUNDED),
    _environment("variables", "variables of the environment", "libraries choose other algorithms by them"),
    Fact(("environment", "engine", "changed_at_resuming"), "changes where a run went on", ROUNDED, absent="none"),
)
"""In the order in which they are told. Precision is a setting, and told with those."""

MODEL = _environment("model_digest", "files of the same model", "rows differ by their base, not by their method alone")
"""Where the models have one name."""
