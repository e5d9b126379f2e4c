"""What several runs would cost, beside one another: every combination of methods, ranks and batch sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from loratory.errors import SettingsError
from loratory.estimating import Estimate, estimate
from loratory.inputs import Inputs
from loratory.methods import METHODS, spec_from_flags
from loratory.report.estimates import estimates_table
from loratory.report.tables import Table, check_price

Values = str | Sequence[str] | Sequence[int]
"""Several values of a setting: a list, or a text with commas between them."""


@dataclass(frozen=True)
class Estimates:
    """Estimates, and what was asked of all of them.

    Attributes:
        rows: one for each method, within it for each rank, within that for each batch size.
        memory: bytes, for which the largest batch was sought.
        price_per_hour: of the device, in any currency.
    """

    rows: tuple[Estimate, ...]
    memory: int | None = None
    price_per_hour: float | None = None

    @property
    def table(self) -> Table:
        """What `loratory estimate` prints."""
        rows = [one.to_dict() for one in self.rows]
        return estimates_table(rows, memory=self.memory, price_per_hour=self.price_per_hour)


def estimates(
    flags: Mapping[str, Any],
    *,
    methods: Values,
    ranks: Values | None = None,
    batch_sizes: Values | None = None,
    memory: int | str | None = None,
    price_per_hour: float | None = None,
) -> Estimates:
    """Estimate every combination of train's `flags` with methods, ranks and batch sizes; what they read is read once.

    Args:
        memory: as :func:`byte_count` takes it.

    Raises:
        SettingsError: as :func:`grid`; or the memory or the price is none.
        LoratoryError: as :func:`loratory.estimating.estimate`.
    """
    check_price(price_per_hour)
    limit = None if memory is None else byte_count(memory)
    specs = [spec_from_flags(one) for one in grid(flags, methods=methods, ranks=ranks, batch_sizes=batch_sizes)]
    inputs = Inputs(weights=False)
    found = tuple(estimate(spec, memory=limit, inputs=inputs) for spec in specs)
    return Estimates(found, limit, price_per_hour)


def grid(
    flags: Mapping[str, Any], *, methods: Values, ranks: Values | None = None, batch_sizes: Values | None = None
) -> list[dict[str, Any]]:
    """Train's flags of every combination: each method, with each rank where it has one, and each batch size.

    Raises:
        SettingsError: a list is empty or given beside the flag of one value.
    """
    for name, values in (("rank", ranks), ("batch_size", batch_sizes)):
        if values is not None and name in flags:
            flag = f"--{name.replace('_', '-')}"
            raise SettingsError(f"{flag} and {flag}s: give one of the two")
    found = []
    named = _values("--method", methods)
    for method in named:
        own = {} if ranks is None or not _ranked(method) else {"rank": _values("--ranks", ranks)}
        if batch_sizes is not None:
            own["batch_size"] = _values("--batch-sizes", batch_sizes)
        for chosen in product(*own.values()):
            found.append({**flags, "method": method, **dict(zip(own, chosen, strict=True))})
    if ranks is not None and not any("rank" in one for one in found):
        raise SettingsError(f"--ranks: {','.join(named)} has none; leave it out")
    return found


def _ranked(method: str) -> bool:
    return method in METHODS and "rank" in METHODS[method].settings.model_fields


def _values(flag: str, given: Values) -> list[str]:
    values = given.split(",") if isinstance(given, str) else [str(value) for value in given]
    found = list(dict.fromkeys(value.strip() for value in values))
    if "" in found or not found:
        raise SettingsError(f"{flag} {given!r}: write it as values with commas between them")
    return found


def byte_count(size: int | str) -> int:
    """`24GiB`, `512MiB` or `8GB` in bytes; a number is of bytes.

    Raises:
        SettingsError: it is no such size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", str(size), re.IGNORECASE)
    if found is None or float(found[1]) == 0:
        raise SettingsError(f"--memory {size!r}: write it as 24GiB or 512MiB")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** " KMGT".index(found[2].upper() or " "))
