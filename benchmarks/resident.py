"""The resident set of a training process on a CPU after each of its steps.

python benchmarks/resident.py --workload long --batch 4
python benchmarks/resident.py --workload short --batch 32 --steps 120 --give-back
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import psutil
from torch.nn.attention import SDPBackend, sdpa_kernel
from workloads import LONGEST, METHODS, model_directory, write_texts

from loratory.engine.epoch import Progress
from loratory.engine.hardware import Hardware
from loratory.engine.meter import Meter
from loratory.methods import spec_from_flags
from loratory.run import optimize
from loratory.setup import prepare

SHOWN = (1, 2, 5, 10, 20, 40, 80)
"""Steps after which mappings are shown."""


def mappings(process: psutil.Process) -> str:
    """MiB of the resident set by kind: the heap, other memory of no file, code made while running, and files."""
    kinds = Counter[str]()
    for one in process.memory_maps(grouped=False):
        kind = "heap" if one.path == "[heap]" else "code" if "x" in one.perms else "anonymous"
        kinds["files" if one.path.startswith("/") else kind] += one.rss
    return ", ".join(f"{kind} {size >> 20}" for kind, size in sorted(kinds.items()))


def main() -> None:
    """Train and print, in MiB."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--method", choices=list(METHODS), default="standard")
    parser.add_argument("--workload", choices=list(LONGEST), default="long")
    parser.add_argument("--batch", type=int, default=4, help="examples a step")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--give-back", action="store_true", help="do not tell glibc to keep freed memory")
    parser.add_argument("--mappings", action="store_true", help="after some steps, of which kinds of memory it is")
    parser.add_argument("--math", action="store_true", help="attention by plain products, not by torch's own kernel")
    options = parser.parse_args()
    process, found = psutil.Process(), list[int]()

    def on_step(progress: Progress) -> None:
        found.append(process.memory_info().rss >> 20)
        if options.mappings and progress.step in SHOWN:
            print(f"after {progress.step}:", mappings(process), flush=True)

    with tempfile.TemporaryDirectory(prefix="resident-") as work:
        data = Path(work) / "texts"
        write_texts(data, options.workload, dataset="hutto:movies", count=options.steps * options.batch)
        files = {"dataset": data / "train.csv", "validation": data / "validation.csv", "test": data / "test.csv"}
        settings = {"batch_size": options.batch, "max_length": LONGEST[options.workload], "threads": options.threads}
        flags = {**METHODS[options.method], **{key: str(path) for key, path in files.items()}, **settings}
        model = model_directory(options.model, Path(work))
        spec = spec_from_flags({**flags, "model": model, "device": "cpu", "epochs": 1})
        hardware = Hardware.of(spec.hardware)
        meter = Meter(hardware)
        with ExitStack() as stack:
            if options.give_back:
                stack.enter_context(patch("loratory.engine.modules.keep_freed_memory", lambda: None))
            if options.math:
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            optimize(prepare(spec, hardware), meter, validated=False, on_step=on_step)
    print(hardware.record()["device"], f"{hardware.record()['threads']} threads, {hardware.record()['precision']}")
    print("MiB after each step:", *found)
    print(f"peak {meter.record()['peak_memory_bytes']['resident'] >> 20} MiB")


if __name__ == "__main__":
    main()
