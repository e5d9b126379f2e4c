"""A study's runs and the parts of its summary with numbers that were made up, written by the store's own functions."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import numpy as np
from scipy.stats import t as student

from loratory.evaluation import predictions
from loratory.evaluation.metrics import metrics_of, score
from loratory.evaluation.predictions import Predictions
from loratory.problems import SINGLE
from loratory.store.directory import HISTORY, PREDICTIONS, RECORD, commit, staging
from loratory.store.record import RunRecord

Method = dict[str, Any]

STANDARD: Method = {"name": "standard"}
HEAD: Method = {"name": "head"}


def lora(rank: int, targets: str = "attention") -> Method:
    return {"name": "lora", "rank": rank, "alpha": 16.0, "lora_dropout": 0.0, "targets": targets}


def hybrid(layers: int) -> Method:
    return {**lora(8), "name": "hybrid", "unfrozen_layers": layers, "frozen_layers": 0}


RATES = {"standard": (2e-5, 5e-5, 1e-4, 2e-4)}
FIVE = (0, 1, 2, 3, 4)


def named(method: Method) -> str:
    words = [method["name"]]
    if "rank" in method:
        words += [f"r={method['rank']}", method["targets"]]
    return " ".join(words) + (f" + top {method['unfrozen_layers']} unfrozen" if "unfrozen_layers" in method else "")


def interval(values: Sequence[float]) -> dict[str, Any]:
    mean = fmean(values)
    if len(values) < 2:
        return {"mean": mean, "sd": None, "low": None, "high": None, "values": list(values)}
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return {"mean": mean, "sd": stdev(values), "low": mean - half, "high": mean + half, "values": list(values)}


def middle(values: Sequence[float], **more: Any) -> dict[str, Any]:
    return {"median": median(values), "low": min(values), "high": max(values), "values": list(values), **more}


class Maker:
    """Makes one study; everything random comes from one generator."""

    def __init__(self, directory: Path, *, labels: Sequence[Any], examples: int, epochs: int, device: str) -> None:
        self.directory, self.labels, self.examples = directory, tuple(labels), examples
        self.epochs, self.device = epochs, device
        self.draw = np.random.default_rng(0)

    def run(self, cell: dict[str, Any], name: str, *, seed: int, lr: float, quality: float, final: bool) -> RunRecord:
        """Commit a run whose accuracy is about `quality`."""
        draw, classes = self.draw, len(self.labels)
        truth = np.random.default_rng(len(cell["data"])).integers(0, classes, self.examples)
        hard = np.random.default_rng(1 + len(cell["data"])).normal(size=self.examples)
        margin = (quality - 0.5) * 5 - 0.9 * hard + draw.normal(scale=0.55, size=self.examples)
        logits = draw.normal(scale=0.25, size=(self.examples, classes))
        logits[np.arange(self.examples), truth] += margin
        rows = np.arange(self.examples) * 5 + 3
        splits = {"validation": Predictions(truth, logits + 0.1, rows + 1, rows)}
        if final:
            splits["test"] = Predictions(truth, logits, rows, rows)
        names = tuple(map(str, self.labels))
        scores = {part: score(truth, one.logits, None, names) for part, one in splits.items()}
        share = cell["parameters"]["trainable"] / cell["parameters"]["total"]
        seconds = (26 + 40 * share) * float(draw.normal(1, 0.02))
        weights = int(91e6 * (0.5 + 0.5 * share))
        record = RunRecord(
            id=name,
            fingerprint=f"{hash(name):064x}"[-64:],
            status="completed",
            spec={
                "method": cell["method"],
                "model": cell["model"],
                "seed": seed,
                "data": {"dataset": cell["data"]},
                "training": {"lr": lr, "epochs": self.epochs, "batch_size": 32},
            },
            data=self.data(cell["data"]),
            parameters=cell["parameters"],
            cost={
                "setup_seconds": 3.2,
                "train_seconds": seconds,
                "eval_seconds": 2.9,
                "total_seconds": seconds + 8.3,
                "time_parts_seconds": {
                    "forward": 0.35 * seconds,
                    "backward": 0.5 * seconds,
                    "optimizer": 0.1 * seconds * share,
                    "data": 0.02 * seconds,
                    "gaps": (0.13 - 0.1 * share) * seconds,
                },
                "tokens": 190_000,
                "padded_tokens": 195_000,
                "tokens_per_second": 190_000 / seconds,
                "peak_memory_bytes": {"allocated": int(3e8 + 9e8 * share), "reserved": int(2e9), "resident": int(2e9)},
                "memory_parts_bytes": {
                    "weights": weights,
                    "gradients": int(91e6 * share),
                    "optimizer": int(182e6 * share),
                    "activations": int(2.1e8 + 2e8 * share),
                    "rest": int(3e7),
                },
                "checkpoint_bytes": int(4 * cell["parameters"]["trainable"] + 1e5),
            },
            quality={part: one.record() for part, one in scores.items()},
            environment=self.environment(),
        )
        with staging(self.directory / "runs" / name) as stage:
            (stage / RECORD).write_text(record.to_json(), encoding="utf8")
            predictions.write(stage / PREDICTIONS, splits)
            history = [
                {
                    "epoch": epoch,
                    "step": 160 * epoch,
                    "loss": 0.6 / epoch,
                    "lr": lr,
                    "train_seconds": seconds * epoch / self.epochs,
                    "validation_accuracy": scores["validation"].accuracy - 0.05 * (1 - epoch / self.epochs),
                    "validation_f1_macro": scores["validation"].f1_macro,
                }
                for epoch in range(1, self.epochs + 1)
            ]
            (stage / HISTORY).write_text("".join(json.dumps(row) + "\n" for row in history), encoding="utf8")
            commit(stage, self.directory / "runs" / name)
        return record

    def data(self, name: str) -> dict[str, Any]:
        return {
            "source": name,
            "revision": "vaderSentiment==0.5",
            "digest": "ab" * 32,
            "labels": list(self.labels),
            "sizes": {"train": 7398, "validation": 1057, "test": self.examples},
            "digests": {"train": "1" * 64, "validation": "2" * 64, "test": "3" * 64},
        }

    def environment(self) -> dict[str, Any]:
        return {
            "device": self.device,
            "device_type": "cuda",
            "precision": "bf16",
            "threads": 8,
            "versions": {"python": "3.11.2", "torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2"},
        }

    def cell(
        self, number: int, data: str, model: str, method: Method, *, level: float, seeds: Sequence[int], tuned: bool
    ) -> dict[str, Any]:
        """A cell of `summary.json`, its runs committed."""
        rank, layers = method.get("rank", 0), method.get("unfrozen_layers", 0)
        trainable = 22_861_826 if method["name"] == "standard" else 148_610 + 9_216 * rank + 1_774_464 * layers
        total = 22_861_826 + 9_216 * rank
        adapter = 9_216 * rank
        unfrozen = trainable - 148_610 - adapter
        cell: dict[str, Any] = {
            "id": f"c{number}",
            "data": data,
            "model": model,
            "method": method,
            "approach": named(method),
            "parameters": {
                "total": total,
                "trainable": trainable,
                "adapter": adapter,
                "head": 148_610,
                "unfrozen": unfrozen,
                "frozen": total - trainable,
            },
        }
        rates = RATES.get(method["name"], (2e-4, 5e-4, 1e-3, 2e-3))
        lr, trials = rates[2], []
        for position, rate in enumerate(rates if tuned else ()):
            name = f"{cell['id']}-t{position}"
            done = self.run(cell, name, seed=0, lr=rate, quality=level - 0.02 * abs(position - 2), final=False)
            found = done.quality["validation"]["accuracy"]
            trials.append({"lr": rate, "score": found, "status": "completed", "run": name})
        if trials:
            lr = max(trials, key=lambda trial: trial["score"])["lr"]
        runs = [self.run(cell, f"{cell['id']}-s{seed}", seed=seed, lr=lr, quality=level, final=True) for seed in seeds]
        choice = {"seeds": list(seeds), "lr": lr, "selection": "feed", "trials": trials, "hopeless": False}
        tried = [
            {
                "lr": trial["lr"],
                "score": interval([trial["score"]]),
                "chosen": len(seeds) if trial["lr"] == lr else 0,
            }
            for trial in trials
        ]
        best = best_of(sorted(trial["score"] for trial in trials))
        tuning = {"choices": [choice], "rates": tried, "expected_best": best}
        return {**cell, **summed(runs, list(seeds)), "tuning": tuning}


def best_of(scores: Sequence[float]) -> list[dict[str, Any]]:
    """The mean of the maximum of n draws with replacement."""
    size = len(scores)
    weights = [[(i / size) ** n - ((i - 1) / size) ** n for i in range(1, size + 1)] for n in range(1, size + 1)]
    return [
        {"trials": n, "score": sum(w * s for w, s in zip(row, scores, strict=True))} for n, row in enumerate(weights, 1)
    ]


def summed(runs: Sequence[RunRecord], seeds: list[int]) -> dict[str, Any]:
    """What a cell of `summary.json` says of its finished runs."""
    if not runs:
        nothing: dict[str, Any] = {"quality": {}, "cost": {}, "memory_parts_bytes": None, "padding_share": None}
        return {**nothing, "seeds": [], "runs": [], "time_to": None, "failed": [], "missing": 0}
    costs = ("train_seconds", "total_seconds", "setup_seconds", "eval_seconds", "checkpoint_bytes", "tokens_per_second")
    memory = [run.cost["peak_memory_bytes"]["allocated"] for run in runs]
    return {
        "seeds": seeds,
        "runs": [run.id for run in runs],
        "quality": {
            part: {name: interval([run.quality[part][name] for run in runs]) for name in metrics_of(SINGLE)}
            for part in ("test", "validation")
        },
        "cost": {key: middle([run.cost[key] for run in runs]) for key in costs}
        | {"peak_memory_bytes": middle(memory, kind="allocated")},
        "memory_parts_bytes": runs[0].cost["memory_parts_bytes"],
        "padding_share": 1 - runs[0].cost["tokens"] / runs[0].cost["padded_tokens"],
        "time_to": None,
        "failed": [],
        "missing": 0,
    }


def pair(a: dict[str, Any], b: dict[str, Any], examples: int) -> dict[str, Any] | None:
    one, other = (cell["quality"].get("test", {}).get("accuracy") for cell in (a, b))
    if one is None or other is None:
        return None
    difference = one["mean"] - other["mean"]
    seeds = min(len(a["seeds"]), len(b["seeds"]))
    enough = seeds >= 5
    half = 0.011
    verdict = "better" if difference > half else "worse" if difference < -half else "inconclusive"
    if abs(difference) + half / 2 < 0.01:
        verdict = "equivalent"
    error = {
        "low": difference - half,
        "high": difference + half,
        "family_low": difference - 1.3 * half,
        "family_high": difference + 1.3 * half,
        "p": 0.0004 if abs(difference) > half else 0.2,
        "p_holm": 0.002 if abs(difference) > half else 0.4,
    }
    return {
        "a": a["id"],
        "b": b["id"],
        "metric": "accuracy",
        "difference": difference,
        **(error if seeds >= 3 else dict.fromkeys(error)),
        "family": 6,
        "verdict": verdict if enough else None,
        "why_none": None if enough else f"{seeds} seeds, fewer than 5",
        "seeds": seeds,
        "examples": examples,
        "units": examples,
    }


def front(cells: Sequence[dict[str, Any]], data: str, model: str, axis: str) -> dict[str, Any]:
    points = []
    for cell in cells:
        quality = cell["quality"].get("test", {}).get("accuracy")
        if quality is None:
            continue
        cost = cell["parameters"]["trainable"] if axis == "trainable" else cell["cost"][axis]["median"]
        points.append({"cell": cell["id"], "cost": cost, "quality": quality["mean"]})
        points[-1] |= {"low": quality["low"], "high": quality["high"]}
    for point in points:
        others = [other for other in points if other is not point]
        point["tied_with"] = [one["cell"] for one in others if abs(one["quality"] - point["quality"]) < 0.008]
        point["on_front"] = not any(
            one["quality"] > point["quality"] and one["cost"] <= point["cost"] and one["cell"] not in point["tied_with"]
            for one in others
        )
    return {"data": data, "model": model, "axis": axis, "points": points}


AXES = ("trainable", "train_seconds", "total_seconds", "peak_memory_bytes", "checkpoint_bytes")
