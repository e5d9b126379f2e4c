"""What errors and warnings say to whoever wrote a study file: train's flags stand there under `train`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from loratory.rewording import reworded
from loratory.spec import group_of
from loratory.study.reading import ELSEWHERE

_FLAGS = re.compile(r"--[a-z][a-z-]*(?:(?:(?:, | and | or )--[a-z][a-z-]*)+| (?P<value>\d+(?:\.\d+)?)(?![\w.]*\w))?")
"""A flag, several, or one with the number that is its value."""


@contextmanager
def of_the_file() -> Iterator[None]:
    """Errors that pass here, and what this process logs, name keys of the study file in place of train's flags."""
    with reworded(in_the_file):
        yield


def in_the_file(message: str) -> str:
    """`set --text-column, --label-column` as `set train: {text_column: …, label_column: …}`, `--threads 2` as `train:
    {threads: 2}`; other flags stay."""
    return _FLAGS.sub(_keys, message)


def _keys(found: re.Match[str]) -> str:
    keys = [flag.replace("-", "_") for flag in re.findall(r"--([a-z][a-z-]*)", found[0])]
    if any(group_of(key) is None or key in ELSEWHERE for key in keys):
        return found[0]
    value = found["value"] or "…"
    return f"train: {{{', '.join(f'{key}: {value}' for key in keys)}}}"
