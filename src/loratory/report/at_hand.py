"""Whether what a study's runs read can be read again here, without network."""

from __future__ import annotations

from pathlib import Path

from loratory.data import PACKAGED, data_directory
from loratory.spec import DataSpec


def data_at_hand(spec: DataSpec) -> bool:
    """Whether reading the data set asks no network."""
    if spec.dataset.startswith("hub:"):
        return False
    if spec.dataset.startswith("hutto:"):
        return (data_directory() / "hutto").is_dir()
    files = (spec.dataset, spec.validation, spec.test)
    return all(Path(name).is_file() for name in files if name is not None)


def model_at_hand(name: str) -> bool:
    """Whether opening the model's files asks no network."""
    return (data_directory() / name if name in PACKAGED else Path(name)).is_dir()
