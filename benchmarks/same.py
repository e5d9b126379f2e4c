"""Whether the same run gives the same bytes: in fresh processes, and interrupted and gone on with.

python benchmarks/same.py --device cpu --processes 20
python benchmarks/same.py --device cuda --processes 10      with --deterministic
python benchmarks/same.py --device cuda --families          each family of models, tiny and random, twice in one process

Each process trains the same spec from the beginning; weights and predictions are compared by SHA-256 with those of the
first. One run more is ended by SIGTERM after some of its steps, chosen at random, and each time gone on with in a new
process. The texts are the data set's, one each (see workloads.py).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from workloads import LONGEST, model_directory, write_made_up, write_texts

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from again import KINDS, fitted_twice, supported
from tiny import WORDS, save_model

from loratory.engine.epoch import Progress
from loratory.errors import Interrupted, LoratoryError, first_line
from loratory.methods import spec_from_flags
from loratory.models.families import FAMILIES
from loratory.run import train


def main() -> int:
    """Train, compare and print; 1 where something differs."""
    if sys.argv[1:2] == ["--child"]:
        return _child(json.loads(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--model", default="minilm", help="minilm, roberta-base (random weights), tiny or a directory")
    parser.add_argument("--tokenizer", default="minilm")
    parser.add_argument("--dataset", default="hutto:movies")
    parser.add_argument("--methods", default=",".join(KINDS))
    parser.add_argument("--processes", type=int, default=20, help="that train each method")
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--interruptions", type=int, default=3, help="of one run more")
    parser.add_argument("--steps", type=int, default=20, help="of each of two epochs, 32 examples each")
    parser.add_argument("--deterministic", choices=["on", "off"], help="on for CUDA, off for a CPU")
    parser.add_argument("--families", action="store_true", help="instead: tiny models of every family, in one process")
    options = parser.parse_args()
    if options.device == "cuda":  # before anything starts CUDA
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    given = {
        "device": options.device, "threads": options.threads, "epochs": 2, "max_length": LONGEST["short"], "seed": 3,
        "deterministic": options.deterministic or ("on" if options.device == "cuda" else "off"),
    }  # fmt: skip
    if options.families:
        return families(given)
    print(f"{_device(options.device)}, torch {torch.__version__}, {options.model}, threads {options.threads}", end="")
    print(f", --deterministic {given['deterministic']}, {2 * options.steps} steps\n", flush=True)
    print("| method | processes | weights | predictions | interrupted after steps, gone on with in a new process |")
    print("|---|--:|---|---|---|", flush=True)
    same = True
    with tempfile.TemporaryDirectory(prefix="same-") as place:
        work = Path(place)
        os.environ["LORATORY_DATA"] = str(Path(os.environ.get("LORATORY_DATA", "data")).resolve())
        given["model"] = str(model_directory(options.model, work, tokenizer=options.tokenizer))
        write_texts(work / "texts", "short", dataset=options.dataset, count=options.steps * 32)
        files = {"dataset": "train", "validation": "validation", "test": "test"}
        given |= {flag: str(work / "texts" / f"{name}.csv") for flag, name in files.items()}
        methods = {method: {**given, **KINDS[method]} for method in options.methods.split(",")}
        _trained(next(iter(methods.values())), work / "first")  # it fills the cache of tokens
        with ThreadPoolExecutor(options.at_once) as pool:
            waiting = [(method, started(pool, method, flags, work, options)) for method, flags in methods.items()]
            for method, (steps, again, runs) in waiting:
                found, row = compared(method, steps, again.result(), [run.result() for run in runs])
                print(row, flush=True)
                same = same and found
    return 0 if same else 1


def families(given: dict[str, Any]) -> int:
    """Train a tiny model of each family twice in this process, in each way, and print whether the same bytes came."""
    print(f"{_device(given['device'])}, torch {torch.__version__}, tiny models, threads {given['threads']}", end="")
    print(f", --deterministic {given['deterministic']}\n\n| family | {' | '.join(KINDS)} |\n|---|{'---|' * len(KINDS)}")
    possible, found = set(supported()), Counter[str]()
    with tempfile.TemporaryDirectory(prefix="same-") as place:
        work = Path(place)
        os.environ["LORATORY_DATA"] = str(work / "data")
        write_made_up(work / "texts", "short", count=128, words=len(WORDS))
        given |= {"dataset": str(work / "texts" / "train.csv"), "max_length": 48, "lr": 1e-3, "dropout": 0.1}
        for family in FAMILIES:
            model = str(save_model(family, work / family))
            said = [
                _twice({**given, **KINDS[kind], "model": model}) if (family, kind) in possible else "refused"
                for kind in KINDS
            ]
            print(f"| {family} | {' | '.join(said)} |", flush=True)
            found.update(said)
    print("\n" + ", ".join(f"{said}: {count}" for said, count in found.items()))
    return int(found[DIFFERENT] > 0)


SAME, DIFFERENT = "the same bytes", "different bytes"


def _twice(flags: dict[str, Any]) -> str:
    try:
        first, second = fitted_twice(spec_from_flags(flags))
    except LoratoryError as error:  # what has no deterministic form is named
        return first_line(error)
    return SAME if first == second else DIFFERENT


Digests = tuple[str, str]
"""SHA-256 of a run's weights and of its predictions."""


def started(
    pool: Executor, method: str, flags: dict[str, Any], work: Path, options: argparse.Namespace
) -> tuple[list[int], Future[Digests], list[Future[Digests]]]:
    """Let the pool train: the steps after which one run is interrupted, that run, and the others."""
    steps = sorted(random.Random(method).sample(range(1, 2 * options.steps), options.interruptions))
    again = pool.submit(_fresh, flags, work / f"{method}-interrupted", (*steps, 0))
    runs = [pool.submit(_fresh, flags, work / f"{method}-{number}", (0,)) for number in range(options.processes)]
    return steps, again, runs


def compared(method: str, steps: list[int], again: Digests, runs: list[Digests]) -> tuple[bool, str]:
    """Whether all came out the same, and the table's row."""
    weights, predicted = zip(*runs, strict=True)
    row = [method, str(len(runs)), _said(weights), _said(predicted)]
    row.append(f"{', '.join(map(str, steps))}: {'the same bytes' if again == runs[0] else 'others'}")
    return len({*runs, again}) == 1, f"| {' | '.join(row)} |"


def _said(digests: tuple[str, ...]) -> str:
    kinds = len({*digests})
    return "the same bytes in all" if kinds == 1 else f"{kinds} different"


def _fresh(flags: dict[str, Any], output: Path, stops: tuple[int, ...]) -> Digests:
    """What a run gives that is trained in a fresh process, or in several, each but the last stopped after a step."""
    for step in stops:
        _trained(flags, output, step)
    (weights,) = output.glob("*model.safetensors")
    one, other = (hashlib.sha256(path.read_bytes()).hexdigest() for path in (weights, output / "predictions.parquet"))
    return one, other


def _trained(flags: dict[str, Any], output: Path, stop_after: int = 0) -> None:
    """Train in a fresh process; with `stop_after`, a signal ends it after that step."""
    command = [sys.executable, __file__, "--child", json.dumps(flags), str(output), str(stop_after)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != (143 if stop_after else 0):
        raise RuntimeError(f"{flags['method']} ended with {done.returncode}: {done.stderr[-2000:]}")


def _child(flags: dict[str, Any], output: Path, stop_after: int) -> int:
    def step(progress: Progress) -> None:
        if progress.step == stop_after:
            signal.raise_signal(signal.SIGTERM)

    try:
        train(spec_from_flags(flags), output=output, on_step=step)
    except Interrupted as error:
        return error.exit_code
    return 0


def _device(kind: str) -> str:
    if kind == "cuda":
        return torch.cuda.get_device_name()
    return f"{platform.processor() or platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


if __name__ == "__main__":
    sys.exit(main())
