"""What a study's directory gets once its runs are there."""

from __future__ import annotations

from pathlib import Path


def finish(directory: Path) -> None:
    """Write the summary, tables and page of the study in `directory`."""
