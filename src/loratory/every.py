"""How often a run's checkpoints are written, as people say it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from loratory.errors import SettingsError

DEFAULT = "10m"
"""How often, where nobody says: a run of less than that writes none, unless a signal ends it."""

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Every:
    """How often a checkpoint is written: after so many seconds, after so many steps, or for a signal alone."""

    seconds: float | None = None
    steps: int | None = None
    at_signals: bool = True
    """Whether a signal leaves one; else it ends the run at once."""

    @classmethod
    def read(cls, text: str | None) -> Every:
        """From `90s`, `10m`, `2h`, `500 steps`, `off`, or `never`, for a place that does not last; None is the default.

        Raises:
            SettingsError: it is none of these.
        """
        words = (DEFAULT if text is None else text).strip().lower()
        if words in ("off", "never"):
            return cls(at_signals=words == "off")
        if (found := re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh])", words)) and float(found[1]) > 0:
            return cls(seconds=float(found[1]) * _UNITS[found[2]])
        if (found := re.fullmatch(r"(\d+)\s*steps?", words)) and int(found[1]) > 0:
            return cls(steps=int(found[1]))
        raise SettingsError(
            f"--checkpoint-every {text!r}: give a time (90s, 10m, 2h), a number of steps ('500 steps'), or off"
        )
