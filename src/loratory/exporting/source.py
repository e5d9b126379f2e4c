"""The run that is exported."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loratory.methods import parse_spec
from loratory.models.load import Base
from loratory.problems import Problem
from loratory.spec import RunSpec
from loratory.store.naming import approach
from loratory.store.record import RunRecord
from loratory.trained import digests_of, load_run, with_weights


@dataclass(frozen=True)
class Source:
    """A run that has its weights."""

    path: Path
    record: RunRecord
    spec: RunSpec
    local_names: bool
    """Whether what is written may name paths of this machine."""

    @classmethod
    def of(cls, path: Path, *, local_names: bool = True) -> Source:
        """The run in `path`.

        Raises:
            StorageError: there is none, it did not complete, or its weights were not kept.
        """
        record = with_weights(path)
        return cls(path, record, parse_spec(record.spec), local_names)

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in id order."""
        return self.record.labels

    @property
    def problem(self) -> Problem:
        """What the labels are."""
        return self.record.problem

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of the data's `source` and of its `train` split."""
        return digests_of(self.record)

    @property
    def adapted(self) -> bool:
        """Whether its weights are an adapter in PEFT's format."""
        return self.record.adapted

    @property
    def quantize(self) -> str:
        """How its base is held: `off`, `8bit` or `4bit`."""
        return self.spec.training.quantize

    @property
    def head(self) -> tuple[str, ...]:
        """The modules that are trained and saved whole, as the adapter's configuration names them."""
        return tuple(json.loads((self.path / "adapter_config.json").read_text("utf8"))["modules_to_save"])

    @property
    def method(self) -> str:
        """The method and its settings in short."""
        return approach(self.record.spec["method"])

    @property
    def base_is_local(self) -> bool:
        """Whether the base was a directory: its digest is then a SHA-256, where the hub's revision is shorter."""
        return len(str(self.record.environment["model_digest"])) == 64

    @property
    def base_name(self) -> str:
        """The base's hub id, or the last name of its directory."""
        return Path(self.spec.model).name if self.base_is_local else self.spec.model

    def load(self, **how: Any) -> Base:
        """The model, as :func:`loratory.trained.load_run` gives it."""
        return load_run(self.path, self.record, **how)
