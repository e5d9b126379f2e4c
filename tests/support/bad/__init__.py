"""Bad input, all of it: the one table that tests/test_bad_input.py runs and docs/errors.md shows.

A case says what is given, how it is made, which commands take it, the exit code, and what the line must say. Commands
name what the bench has in braces: {place}, {run}, {model}, {study} …, and {given}, the file that the case is about.
"""

from __future__ import annotations

from bad.case import Bench, Case
from bad.data import DATA
from bad.kept import MODELS
from bad.places import PLACES
from bad.settings import SETTINGS

__all__ = ["CASES", "TABLE", "Bench", "Case"]

TABLE = {"Data": DATA, "Settings": SETTINGS, "Models, runs and studies": MODELS, "Places": PLACES}
CASES = [case for cases in TABLE.values() for case in cases]
