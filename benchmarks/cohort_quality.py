"""Whether a cohort learns what its members learn alone, in bf16: test accuracy of both, seed by seed.

    python benchmarks/cohort_quality.py --device cuda
    python benchmarks/cohort_quality.py --device cpu --set models=DIR --set train.precision=fp32 --set train.limit=200

A study of LoRA of three ranks is run twice, with `--cohort off` and with all seeds and ranks at once. In fp32 both come
out alike but for rounding; in bf16 rounding grows. Equivalent at 5%, on this test split, is what has the 90% interval
over seeds of its mean difference within half a point: two one-sided t tests (Schuirmann 1987, J. of Pharmacokinetics
and Biopharmaceutics 15:657-680).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from loratory import run_study
from loratory.engine.hardware import Hardware
from loratory.flags import assignment
from loratory.spec import HardwareSpec
from loratory.store.record import RunRecord
from loratory.study.reading import read_study
from loratory.study.statistics import MIN_FOR_INTERVAL, over_seeds

MARGIN = 0.5
"""Points of accuracy."""

STUDY = """
name: cohort-quality
data: [hutto:movies]
models: [minilm]
methods:
  - {name: lora, rank: [1, 8, 32], tune: {lr: [2e-3]}}
seeds: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
train: {epochs: 2, batch_size: 32, max_length: 128, precision: bf16}
select: accuracy
keep: none
"""


def main() -> None:
    """Run the study twice, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    settings = [assignment(one) for one in (*options.settings, f"train.device={options.device}")]
    with tempfile.TemporaryDirectory(prefix="cohort-quality-") as work:
        file = Path(work) / "study.yaml"
        file.write_text(STUDY, encoding="utf8")
        spec, text = read_study(file, settings)
        if len(spec.seeds) < MIN_FOR_INTERVAL:
            raise SystemExit(f"seeds {spec.seeds}: an interval needs {MIN_FOR_INTERVAL}")
        file.write_text(text, encoding="utf8")
        found = {}
        for name, cohort in (("alone", "off"), ("cohort", 3 * len(spec.seeds))):
            run_study(file, output=Path(work) / name, cohort=cohort)
            found[name] = accuracies(Path(work) / name, cohorts=name == "cohort")
    hardware = Hardware.of(HardwareSpec(device=options.device, precision=spec.train["precision"]))
    scene = f"{Path(spec.models[0]).name}, {spec.data[0]}, {hardware.record()['device']}, {hardware.precision}"
    print(f"{scene}, seeds {spec.seeds[0]} to {spec.seeds[-1]}\n")
    print(
        "| rank | test accuracy: alone | in a cohort | difference | its sd | its 90% interval | within half a point |"
    )
    print("|--:|--:|--:|--:|--:|:-:|---|")
    for rank in sorted({rank for rank, _ in found["alone"]}):
        pairs = [
            (100 * found["alone"][key], 100 * found["cohort"][key]) for key in sorted(found["alone"]) if key[0] == rank
        ]
        alone, joint = (over_seeds(one) for one in zip(*pairs, strict=True))
        over = over_seeds([b - a for a, b in pairs], confidence=0.90)
        assert over.low is not None
        assert over.high is not None
        within = over.low > -MARGIN and over.high < MARGIN
        cells = [f"{one.mean:.2f} ± {one.sd:.2f}" for one in (alone, joint)]
        cells += [f"{over.mean:+.2f}", f"{over.sd:.2f}", f"{over.low:+.2f} to {over.high:+.2f}"]
        print(f"| {rank} | {' | '.join(cells)} | {'yes' if within else 'not shown'} |")


def accuracies(study: Path, *, cohorts: bool) -> dict[tuple[int, int], float]:
    """Of each rank and seed, on test; every run was trained in a cohort, or none was.

    Raises:
        ValueError: one was trained otherwise, or failed.
    """
    records = [RunRecord.read(path) for path in sorted((study / "runs").glob("*/run.json"))]
    for record in records:
        members = 1 if record.cohort is None else len(record.cohort["members"])
        if record.status != "completed" or members != (len(records) if cohorts else 1):
            raise ValueError(f"{record.id}: {record.status}, trained with {members - 1} others")
    keys = [(int(record.spec["method"]["rank"]), int(record.spec["seed"])) for record in records]
    if len(set(keys)) < len(keys):
        raise ValueError("several runs of one rank and seed: give one learning rate, and no tuning")
    return {key: record.quality["test"]["accuracy"] for key, record in zip(keys, records, strict=True)}


if __name__ == "__main__":
    main()
