"""The same study on Ray, with its worker killed in the midst of it: the same numbers."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import loratory
from loratory.cli import main
from loratory.errors import ResourceError
from loratory.inputs import Inputs
from loratory.methods.head import HeadSettings
from loratory.spec import RunSpec
from loratory.store.record import Place
from loratory.study.cluster import Cluster
from loratory.study.jobs import Job
from loratory.study.tasks import Task

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")

KILLING = """
import os, signal
from loratory.cli import main
from loratory.study import cluster
carry_out = cluster._carry_out
def once(task, environment):
    mark = os.environ["MARK"]
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return carry_out(task, environment)
    os.kill(os.getpid(), signal.SIGKILL)
cluster._carry_out = once
code = main(command)
"""


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose name leaves room for those of Ray's sockets, 107 bytes in all."""
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        yield Path(folder)


@needs_ray
@pytest.mark.usefixtures("without_page")
def test_ray_gives_the_same_numbers_and_a_lost_worker_is_replaced(
    study_file: Any, forked: Any, tmp_path: Path, records: Any, short: Path
) -> None:
    (left := short / "ray" / "ray_current_cluster").parent.mkdir()
    left.write_text("127.0.0.1:1")  # of a cluster that was left running: no address that anybody named
    environment = {
        "PYTHONPATH": str(Path(loratory.__file__).parents[1]),
        "RAY_TMPDIR": str(short),
        "HOME": str(tmp_path),  # where Ray keeps its token
        "OMP_NUM_THREADS": "1",
        "RAY_worker_niceness": "0",  # else, beside other tests, they hardly run
        "MARK": str(tmp_path / "mark"),
    }
    study = str(study_file(tune_seeds="each"))

    def on_ray() -> int:
        command = ["study", "run", study, "--executor", "ray", "--workers", "1", "--output", str(tmp_path / "ray")]
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            del os.environ[name]
        os.environ.update(environment)
        names = {"__name__": "__main__", "command": command}  # whose functions are sent as they are
        exec(KILLING, names)
        return int(names["code"])

    process = forked(on_ray)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "12 runs in" in out
    assert (tmp_path / "mark").exists()  # a worker was killed
    assert (tmp_path / ".ray" / "auth_token").is_file()  # the cluster asked for a token
    assert main(["study", "run", study, "--output", str(tmp_path / "local")]) == 0
    ray, local = (records(tmp_path / place) for place in ("ray", "local"))
    assert {name: record.quality for name, record in ray.items()} == {
        name: record.quality for name, record in local.items()
    }
    assert {record.study["runs_at_once"] for record in ray.values() if record.study is not None} == {None}
    assert (tmp_path / "ray" / "plan.json").read_text() == (tmp_path / "local" / "plan.json").read_text()


def test_an_error_of_a_task_is_no_failure_of_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class RayError(Exception):
        pass

    class RayTaskError(RayError):
        cause = ModuleNotFoundError("No module named 'loratory'")

    def get(task: Any) -> None:
        raise RayTaskError

    ray = types.ModuleType("ray")
    exceptions = types.SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)
    vars(ray).update(wait=lambda tasks, num_returns, timeout: (tasks[:1], tasks[1:]), get=get, exceptions=exceptions)
    monkeypatch.setitem(sys.modules, "ray", ray)
    cluster = Cluster(1, Inputs(), cuda=False, threads=1)
    job = Job("one", "f" * 64, RunSpec(method=HeadSettings()), Place("tuning"), Path("one"), False, Path.cwd())
    cluster._tasks["task"] = Task((job,)), None
    (outcome,) = cluster.next().outcomes
    assert outcome.record is None
    assert isinstance(outcome.stops, ResourceError)
    assert str(outcome.stops) == "--executor ray: one: No module named 'loratory'"


def test_jobs_go_to_workers_that_have_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two workers the one that started last finds others' jobs in its place, and never answers."""
    actors: list[Any] = []

    class Remote:
        def __init__(self) -> None:
            self.number = len(actors)
            actors.append(self)
            self.do = types.SimpleNamespace(remote=lambda *call: (self.number, len(call), object()))

    def wait(refs: list[Any], num_returns: int, timeout: float | None = None) -> tuple[list[Any], list[Any]]:
        answered = [ref for ref in refs if ref[0] == 0]
        assert answered or timeout is not None, "would wait for ever"
        return answered[:1], [ref for ref in refs if ref not in answered[:1]]

    ray = types.ModuleType("ray")
    made = types.SimpleNamespace(options=lambda **_: types.SimpleNamespace(remote=Remote))
    errors = types.SimpleNamespace(RayError=OSError, RayTaskError=OSError)
    vars(ray).update(
        wait=wait, get=lambda ref: ("answer", ref[0]), remote=lambda kind: made, exceptions=errors,
        init=lambda **_: None, shutdown=lambda: None,
        nodes=lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}],
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "ray", ray)
    with Cluster(None, Inputs(), cuda=False, threads=1) as cluster:
        assert (cluster.slots, len(actors)) == (2, 2)
        known: Any = cluster.known([])
        assert known == ("answer", 0)
        for name in ("one", "two"):
            spec = RunSpec(method=HeadSettings())
            cluster.submit(Task((Job(name, "f" * 64, spec, Place("tuning"), Path(name), False, Path.cwd()),)))
        told: list[Any] = [cluster.next() for _ in range(2)]
    assert told == [("answer", 0)] * 2
    assert len(actors) == 2


def test_without_ray_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with (
        pytest.raises(ResourceError, match=r'needs Ray; pip install "loratory\[ray\]"'),
        Cluster(1, Inputs(), cuda=False, threads=1),
    ):
        pass
