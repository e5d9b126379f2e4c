"""Whether a cohort learns what its members learn alone, in bf16: test accuracy of both, seed by seed.

    python benchmarks/cohort_quality.py --device cuda
    python benchmarks/cohort_quality.py --device cpu --set models=DIR --set train.precision=fp32 --set train.limit=200

A study of LoRA of three ranks is run twice, with `--cohort off` and with all seeds and ranks at once. In fp32 both come
out alike but for rounding; in bf16 rounding grows, and runs of one seed differ as two seeds might. Equivalent at 5% is
what has the 90% interval of its mean difference within half a point: two one-sided t tests (Schuirmann 1987, J. of
Pharmacokinetics and Biopharmaceutics 15:657-680).
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
from loratory.study.statistics import over_seeds

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
        file.write_text(text, encoding="utf8")
        found = {}
        for name, cohort in (("alone", "off"), ("cohort", 3 * len(spec.seeds))):
            run_study(file, output=Path(work) / name, cohort=cohort)
            found[name] = accuracies(Path(work) / name, cohorts=name == "cohort")
    hardware = Hardware.of(HardwareSpec(device=options.device, precision=spec.train["precision"]))
    scene = f"{Path(spec.models[0]).name}, {spec.data[0]}, {hardware.record()['device']}, {hardware.precision}"
    print(f"{scene}, seeds {spec.seeds[0]} to {spec.seeds[-1]}\n")
    print("| rank | test accuracy: alone | in a cohort | difference | its 90% interval | within half a point |")
    print("|--:|--:|--:|--:|:-:|---|")
    for rank in sorted({rank for rank, _ in found["alone"]}):
        pairs = [
            (100 * found["alone"][key], 100 * found["cohort"][key]) for key in sorted(found["alone"]) if key[0] == rank
        ]
        alone, joint = (over_seeds(one) for one in zip(*pairs, strict=True))
        over = over_seeds([b - a for a, b in pairs], confidence=0.90)
        within = over.low is not None and over.high is not None and over.low > -MARGIN and over.high < MARGIN
        interval = "–" if over.low is None else f"{over.low:+.2f} to {over.high:+.2f}"
        cells = [f"{alone.mean:.2f} ± {alone.sd:.2f}", f"{joint.mean:.2f} ± {joint.sd:.2f}", f"{over.mean:+.2f}"]
        print(f"| {rank} | {' | '.join(cells)} | {interval} | {'yes' if within else 'no'} |")


def accuracies(study: Path, *, cohorts: bool) -> dict[tuple[int, int], float]:
    """Of each rank and seed, on test; every run was trained in a cohort, or none was.

    Raises:
        ValueError: one was trained otherwise, or failed.
    """
    records = [RunRecord.read(path) for path in sorted((study / "runs").glob("*/run.json"))]
    for record in records:
        if record.status != "completed" or (record.cohort is not None) != cohorts:
            raise ValueError(f"{record.id}: {record.status}, cohort {record.cohort}")
    keys = [(int(record.spec["method"]["rank"]), int(record.spec["seed"])) for record in records]
    return {key: record.quality["test"]["accuracy"] for key, record in zip(keys, records, strict=True)}


if __name__ == "__main__":
    main()
