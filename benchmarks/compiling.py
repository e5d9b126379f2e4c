"""What compiling the layers of another shape than BERT's takes, and what it saves of a step.

python benchmarks/compiling.py

ModernBERT-base with random weights, on CUDA, in batches of 32; each measurement in a fresh process.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from engine import STEPS
from workloads import LONGEST, METHODS, Job, model_directory, write_texts

from loratory.engine import compiling
from loratory.engine.hardware import Hardware
from loratory.engine.meter import Meter
from loratory.run import optimize
from loratory.setup import prepare
from loratory.spec import HardwareSpec


def main() -> None:
    """Measure, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="modernbert-base")
    parser.add_argument("--tokenizer", default="minilm", help="minilm, or a directory")
    parser.add_argument("--methods", type=lambda names: names.split(","), default=["standard", "lora"])
    options = parser.parse_args()
    print("| method | workload | ms a step | compiled | saved | s to compile and capture |\n|---|---|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory(prefix="compiling-") as work:
        model = model_directory(options.model, Path(work), tokenizer=options.tokenizer)
        for workload in LONGEST:
            warmup, steps = STEPS["cuda", workload]
            data = str(Path(work) / workload)
            write_texts(Path(data), workload, dataset="hutto:movies", count=(warmup + steps) * 32)
            for method in options.methods:
                assert method in METHODS
                job = Job("loratory", method, workload, model, data, "cuda", 32, warmup, steps, {})
                with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                    said = pool.submit(decided, job).result()
                before, after = said["step_seconds"], said.get("compiled_step_seconds")
                if after is None:
                    print(f"| {method} | {workload} | {before * 1e3:.2f} | {said['why']} | – | – |", flush=True)
                    continue
                print(
                    f"| {method} | {workload} | {before * 1e3:.2f} | {after * 1e3:.2f} | {1 - after / before:.0%} "
                    f"| {said['compile_seconds']:.1f} |",
                    flush=True,
                )


def decided(job: Job) -> dict[str, Any]:
    """What the record says of compiling, where it is taken to cost nothing."""
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"  # what the first run of a machine pays
    compiling.SECONDS = 0.0
    hardware = Hardware.of(HardwareSpec(device=job.device))
    result = optimize(prepare(job.spec(), hardware), Meter(hardware), validated=False)
    said: dict[str, Any] = result.engine["compiled"]
    return said


if __name__ == "__main__":
    main()
