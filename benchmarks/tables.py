"""From samples to rows, and from rows to a Markdown table."""

from __future__ import annotations

from statistics import median
from typing import Any

CONTENDERS = {
    "defaults": "(a) HF Trainer + PEFT, defaults",
    "tuned": "(b) HF Trainer + PEFT, tuned",
    "compiled": "(b') tuned, compiled",
    "loratory": "(c) Loratory",
}

Row = dict[str, Any]

_MEDIANS = ("seconds", "setup_seconds", "loading_seconds", "peak_bytes", "waiting")


def row(samples: list[Row], *, steps: int, examples: int, tokens: int, floor: float) -> Row:
    """The medians of one contender's samples.

    Args:
        samples: what its processes measured; those with an `error` are counted, and left out.
        examples: in the timed steps, as `tokens` (without padding).
        floor: seconds that the timed steps would take at the machine's matrix rate.
    """
    good = [sample for sample in samples if "error" not in sample]
    if not good:
        return {"error": samples[-1]["error"], "samples": samples}
    values = {key: median(sample[key] for sample in good) for key in _MEDIANS}
    reserved = [held for sample in good if (held := sample["peak_memory_bytes"]["reserved"]) is not None]
    return {
        "examples_per_second": examples / values["seconds"],
        "tokens_per_second": tokens / values["seconds"],
        "step_seconds": values["seconds"] / steps,
        "rate_share": floor / values["seconds"],
        **values,
        "reserved_bytes": median(reserved) if reserved else None,
        "measured": len(good),
        "failed": len(samples) - len(good),
        "samples": samples,
    }


def compare(rows: list[Row]) -> None:
    """Add each row's ratios to the rivals, and to standard fine-tuning by the same contender."""
    found = {(entry["workload"], entry["method"], entry["contender"]): entry for entry in rows if "error" not in entry}
    for (workload, method, contender), entry in found.items():
        rivals = {name: found.get((workload, method, name)) for name in ("defaults", "tuned", "compiled")}
        tuned = [rival for name, rival in rivals.items() if name != "defaults" and rival]
        best = max(tuned, key=lambda rival: float(rival["examples_per_second"]), default=None)
        standard = found.get((workload, "standard", contender))
        for name, other in (("defaults", rivals["defaults"]), ("best_rival", best), ("standard", standard)):
            entry[f"speed_over_{name}"] = _ratio(entry, other, "examples_per_second")
            entry[f"peak_over_{name}"] = _ratio(entry, other, "peak_bytes")
        entry["step_over_standard"] = _ratio(entry, standard, "step_seconds")


def _ratio(entry: Row, other: Row | None, key: str) -> float | None:
    return entry[key] / other[key] if other else None


def markdown(report: dict[str, Any]) -> str:
    """The whole report: what was measured on what, and a table a workload."""
    machine, rate = report["environment"], report["matrix_rate"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        f"{machine['device']}; {machine['threads']} threads; {versions}.",
        f"{report['model']}, batch {report['batch_size']}; medians of n alternating repeats; "
        f"{rate['precision']} matrix rate {rate['operations_per_second'] / 1e12:.2f} TFLOP/s.",
    ]
    for workload, texts in report["workloads"].items():
        entries = [entry for entry in report["rows"] if entry["workload"] == workload]
        tuned, compiled = texts["rivals"]["tuned"], texts["rivals"]["compiled"]
        changed = {key: value for key, value in compiled.items() if value != tuned[key]}
        lines += [
            "",
            f"**{workload}**: {texts['mean_tokens']:.0f} tokens a text on average, cut at {texts['longest']}; "
            f"{texts['steps']} steps timed after {texts['warmup']}. (b): {_settings(tuned)}. "
            f"(b'): {_settings(changed)}.",
            "",
        ]
        lines += _table(entries)
    waited = max((entry.get("waiting", 0.0) for entry in report["rows"]), default=0.0)
    if waited > 0.1:
        lines += ["", f"Other processes wanted the processor for up to {waited:.0%} of the time: not a quiet machine."]
    return "\n".join(lines)


def _settings(chosen: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in chosen.items())


_COLUMNS = (
    ("examples/s", "examples_per_second", ",.0f"),
    ("tokens/s", "tokens_per_second", ",.0f"),
    ("÷ (a)", "speed_over_defaults", ".2f"),
    ("÷ best (b)", "speed_over_best_rival", ".2f"),
    ("step ÷ standard", "step_over_standard", ".2f"),
    ("peak MB", "peak_bytes", ",.0f"),
    ("reserved MB", "reserved_bytes", ",.0f"),
    ("peak ÷ best (b)", "peak_over_best_rival", ".2f"),
    ("peak ÷ standard", "peak_over_standard", ".2f"),
    ("of matrix rate", "rate_share", ".1%"),
    ("set-up s", "setup_seconds", ".1f"),
    ("of it loading", "loading_seconds", ".1f"),
    ("n", "measured", "d"),
)


def _table(entries: list[Row]) -> list[str]:
    lines = ["| method | contender | " + " | ".join(title for title, _, _ in _COLUMNS) + " |"]
    lines += ["|---|---|" + "--:|" * len(_COLUMNS)]
    for entry in entries:
        cells = [entry["method"], CONTENDERS[entry["contender"]]]
        cells += [f"failed: {entry['error'][:80]}"] if "error" in entry else []
        for _, key, form in _COLUMNS:
            value = entry.get(key)
            scaled = value / 1e6 if key.endswith("_bytes") and value is not None else value
            cells.append("–" if scaled is None else format(scaled, form))
        lines.append("| " + " | ".join(cells[: 2 + len(_COLUMNS)]) + " |")
    return lines
