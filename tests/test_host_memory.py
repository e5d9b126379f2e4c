"""How much memory a process may take, and who asks before it takes some."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest

from loratory import cohorts, host_memory, setup
from loratory.engine import frozen
from loratory.engine.hardware import Hardware
from loratory.engine.share import Alone
from loratory.errors import OutOfMemoryError
from loratory.host_memory import available_memory, training_memory
from loratory.inputs import Inputs
from loratory.models import load
from loratory.setup import prepare

FREE = 10_000
STAT = {1: "inactive_file 9\nactive_file 9\ntotal_inactive_file 30\ntotal_active_file 12",
        2: "anon 700\ninactive_file 30\nactive_file 12"}  # fmt: skip
NAMES = {1: ("memory.limit_in_bytes", "memory.usage_in_bytes"), 2: ("memory.max", "memory.current")}


class Machine:
    """What Linux would tell of a machine and its control groups, in a folder."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.mount, self.own = root / "cgroup", root / "own"
        monkeypatch.setattr(host_memory, "MOUNT", self.mount)
        monkeypatch.setattr(host_memory, "OWN", self.own)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: type("", (), {"available": FREE})())

    def group(self, path: str, limit: object, used: int, *, version: int) -> None:
        place = (self.mount / "memory" if version == 1 else self.mount) / path
        place.mkdir(parents=True, exist_ok=True)
        for name, value in zip((*NAMES[version], "memory.stat"), (limit, used, STAT[version]), strict=True):
            (place / name).write_text(f"{value}\n", encoding="ascii")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_without_control_groups_the_machine_s_memory_is_free(machine: Machine) -> None:
    assert available_memory() == FREE
    machine.own.write_text("9:name=systemd:/\n0::/\n", encoding="ascii")  # the topmost group has no limit
    assert available_memory() == FREE


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("path", "groups", "left"),
    [
        ("/", {"": (5000, 4000)}, 1042),  # a container sees its own group as the topmost
        ("/job/step", {"job": (5000, 4000), "job/step": (6000, 100)}, 1042),  # what holds above holds below
        ("/job/step", {"job": (9000, 4000), "job/step": (3000, 100)}, 2942),
        ("/not/seen/here", {"": (5000, 4000)}, 1042),
        ("/../..", {"": (5000, 4000)}, 1042),
        ("/job", {"job": (4000, 4100)}, 0),
        ("/job", {"job": (90_000, 100)}, FREE),  # the machine has less than the group may have
        ("/job", {"beside": (5000, 4000)}, FREE),
    ],
)
def test_the_limit_of_each_group_around_the_process_holds(
    path: str, groups: dict[str, tuple[int, int]], left: int, version: int, machine: Machine
) -> None:
    line = f"4:cpu,memory:{path}\n0::/\n" if version == 1 else f"0::{path}\n"
    machine.own.write_text(f"3:cpuset:/elsewhere\n{line}", encoding="ascii")
    for name, (limit, used) in groups.items():
        machine.group(name, limit, used, version=version)
    assert available_memory() == left


def test_a_group_without_a_limit_leaves_all(machine: Machine) -> None:
    machine.own.write_text("0::/job\n", encoding="ascii")
    machine.group("job", "max", 9000, version=2)
    assert available_memory() == FREE
    machine.own.write_text("4:memory:/job\n", encoding="ascii")
    machine.group("job", 9223372036854771712, 9000, version=1)
    assert available_memory() == FREE


def test_a_container_s_limit_counts_wherever_memory_is_asked_for(machine: Machine, spec: Any) -> None:
    machine.own.write_text("0::/\n", encoding="ascii")
    machine.group("", 1000, 1000, version=2)
    for module in (cohorts, frozen, load, setup):
        assert module.available_memory() == 42
    parts = {"weights": 10, "gradients": 0, "optimizer": 0, "activations": 15, "rest": 0}
    small = Alone(0.0, 1.0, 4, "resident", 25, parts)
    assert cohorts.fitting([small] * 9) == 1
    with pytest.raises(OutOfMemoryError, match=r"weights take .* in fp32, and 0 MiB are free"):
        prepare(spec("head"), Hardware.of(spec("head").hardware), Inputs(), weights=False)


@pytest.mark.parametrize(("method", "copied"), [("standard", True), ("lora", False), ("head", False)])
def test_what_a_method_trains_must_fit_beside_the_weights(
    method: str, copied: bool, spec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, inputs = spec(method), Inputs()
    hardware = Hardware.of(run.hardware)
    counts = prepare(run, hardware, inputs).trainable.counts()
    needed = training_memory(counts, mapped=True)
    assert needed == 12 * counts["trainable"] + (4 * counts["unfrozen"] if copied else 0)  # gradient, m, v; and a copy
    assert (counts["unfrozen"] > 0) is copied
    monkeypatch.setattr(setup, "available_memory", lambda: needed)
    prepare(run, hardware, inputs)
    monkeypatch.setattr(setup, "available_memory", lambda: needed - 1)
    said = rf"^model '.*': to train {counts['trainable']:,} parameters with --method {method} takes .* are free; give"
    with pytest.raises(OutOfMemoryError, match=said) as caught:
        prepare(run, hardware, inputs)
    assert caught.value.exit_code == 6
