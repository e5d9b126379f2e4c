"""What runs would cost, as a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from loratory import units
from loratory.errors import counted
from loratory.report.tables import Column, Row, Table, priced
from loratory.store.record import MEMORY_PARTS

NOTES = {
    "allocated": "Peak memory: most bytes allocated on the GPU by torch.",
    "resident": "Peak memory: largest resident set; the rest holds the process and its libraries too. On a CPU with "
    "AMX it grew with a run's steps, which the few steps of an estimate do not show: within 15% of the run's in 11 of "
    "24 comparisons, else up to 63% too low; on one without AMX within 15% in 24 of 24.",
}
OUTLIERS = "Time and memory lack what outliers in the inputs of real weights take, which LLM.int8() computes apart."

FROZEN = (
    "Training time where nothing below the head, or an unfrozen top, is trained: on a GPU the one pass of the frozen "
    "bottom is cold, and took up to 2.6 times as long as said in runs of less than a second."
)
"""Of `benchmarks/README.md`, Estimates: 0.712 s where 0.273 s was said."""


def estimates_table(
    estimates: Sequence[Mapping[str, Any]], *, memory: int | None = None, price_per_hour: float | None = None
) -> Table:
    """A row for each estimate (as :meth:`loratory.estimating.Estimate.to_dict` gives it).

    Args:
        memory: the bytes for which the largest batch was sought.
        price_per_hour: of one device, in any currency; training time is then money, too.
    """
    kinds = {one["memory_kind"] for one in estimates}
    seconds = sum(one["calibration_seconds"] for one in estimates)
    notes = [
        f"On {estimates[0]['device']}, from steps made with random values in {units.duration(seconds)}; parameters are "
        "exact.",
        *(text for kind, text in NOTES.items() if kind in kinds),
        "Weights, gradients, optimizer and activations: what the largest step must hold; rest: workspace and all else.",
        "Training time: optimizer steps only. Operations: floating-point operations of linear layers and attention.",
    ]
    if any(one["memory_kind"] == "allocated" and _bottom_frozen(one["spec"]["method"]) for one in estimates):
        notes.append(FROZEN)
    if any(one["spec"]["training"]["quantize"] == "8bit" for one in estimates):
        notes.append(OUTLIERS)
    if memory is not None:
        notes.append(f"Largest batch: the most examples a step that stay below {units.memory(memory)}.")
    if price_per_hour is not None:
        notes.append(f"Price: training time at {price_per_hour:g} an hour; set-up and evaluation are not in it.")
    rows = tuple({**_row(one), "price": priced(one["train_seconds"], price_per_hour)} for one in estimates)
    return Table(_columns(memory, price_per_hour), rows, tuple(notes))


def _bottom_frozen(method: Mapping[str, Any]) -> bool:
    """Whether layers below the lowest trained one may run once for all."""
    return method["name"] == "head" or method.get("rank") == 0


def _row(one: Mapping[str, Any]) -> Row:
    parts = one["memory_parts_bytes"] or {}
    keys = ("approach", "batch_size", "fits", "train_seconds", "peak_memory_bytes", "checkpoint_bytes", "operations")
    return {
        **{key: one[key] for key in (*keys, "largest_batch", "train_examples")},
        **{key: one["parameters"][key] for key in ("total", "trainable", "adapter", "head", "unfrozen")},
        **{f"{part}_bytes": parts.get(part) for part in MEMORY_PARTS},
    }


def _columns(memory: int | None, price_per_hour: float | None) -> tuple[Column, ...]:
    def column(key: str, title: str, show: Callable[[Any], str], meaning: str, shown: bool = True) -> Column:
        return Column(key, title, "right", meaning, lambda row: show(row.get(key)), shown)

    return (
        Column(
            "approach", "Approach", "left", "method and settings", lambda row: units.printable(str(row["approach"]))
        ),
        column("batch_size", "Batch", units.count, "examples a step"),
        column("trainable", "Trainable parameters", units.count, "parameters that training changes"),
        column("total", "Total", units.count, "all parameters", shown=False),
        column("adapter", "Adapter", units.count, "trainable parameters added by the method", shown=False),
        column("head", "Head", units.count, "parameters of the classifier head", shown=False),
        column("unfrozen", "Unfrozen", units.count, "trainable parameters of the pretrained model", shown=False),
        column("train_seconds", "Training time", units.duration, "time of the optimizer steps alone"),
        column("peak_memory_bytes", "Peak memory", _peak, "allocated on CUDA, resident set on CPU"),
        *(column(f"{part}_bytes", part.capitalize(), units.memory, f"memory: {part}") for part in MEMORY_PARTS),
        column("checkpoint_bytes", "On disk", units.memory, "bytes of the weights that a run saves"),
        column("operations", "Operations", _operations, "floating-point operations of all steps"),
        Column(
            "largest_batch", "Largest batch", "right", "examples a step that fit", _largest, shown=memory is not None
        ),
        column("price", "Price", units.price, "of the training time", shown=price_per_hour is not None),
        column("fits", "Fits", str, "whether the device's memory sufficed", shown=False),
    )


def _largest(row: Row) -> str:
    """The largest batch; where that is every text, the limit is theirs and not the memory's."""
    size: Any = row.get("largest_batch")
    return f"all {counted(size, 'text')}" if size and size == row.get("train_examples") else units.count(size)


def _peak(number: float | None) -> str:
    return "too much" if number is None else units.memory(number)


def _operations(number: float) -> str:
    for unit, size in (("P", 1e15), ("T", 1e12), ("G", 1e9)):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return f"{number:.0f}"
