"""Trackers are told what the files say, change nothing in a run, and cannot lose it."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

import loratory
from loratory import tracking
from loratory.cli import main
from loratory.engine.hardware import Hardware
from loratory.engine.meter import Meter
from loratory.errors import DivergedError, ResourceError, SettingsError, StorageError
from loratory.run import Run, train
from loratory.spec import HardwareSpec
from loratory.store.directory import read_run
from loratory.study.launch import launch
from loratory.study.reading import read_study

FLAGS: dict[str, Any] = {"batch_size": 2}  # 42 steps an epoch: the loop looks at its loss after 50, in the second


def history(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "history.jsonl").read_text("utf8").splitlines()]


def told(directory: Path) -> dict[str, dict[int, float]]:
    """What a tracker is to have been told of a run: values by name and step."""
    expected: dict[str, dict[int, float]] = {}
    for row in history(directory):
        for name in row.keys() - {"step"}:
            expected.setdefault(name, {})[row["step"]] = row[name]
    record = json.loads((directory / "run.json").read_text("utf8"))
    steps = record["cost"]["steps"]
    for name in ("accuracy", "log_loss", "f1_macro"):
        for part in ("validation", "test"):
            expected[f"quality.{part}.{name}"] = {steps: record["quality"][part][name]}
    for name in ("setup_seconds", "train_seconds", "total_seconds", "tokens"):
        expected[f"cost.{name}"] = {steps: record["cost"][name]}
    expected["cost.peak_memory_bytes.resident"] = {steps: record["cost"]["peak_memory_bytes"]["resident"]}
    expected["parameters.trainable"] = {steps: record["parameters"]["trainable"]}
    return expected


def assert_told(found: dict[str, dict[int, float]], directory: Path) -> None:
    (look,) = found["loss_so_far"].items()
    assert look[0] == 50
    assert 0 < look[1] < 2
    first, second = (row["lr"] for row in history(directory))
    assert first > found["lr"].pop(50) > second
    for name, values in told(directory).items():
        assert found[name] == pytest.approx(values, rel=1e-6), name


@pytest.fixture(scope="module")
def tracked(spec: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that TensorBoard followed."""
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    place = tmp_path_factory.mktemp("tracked")
    return train(spec("lora", **FLAGS), output=place / "run", tracker=["tensorboard"])


def test_tensorboard_reads_back_settings_epochs_and_results(tracked: Run) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    place = tracked.directory.parent / "tensorboard" / "run"
    events = EventAccumulator(str(place)).Reload()
    found = {name: {e.step: e.value for e in events.Scalars(name)} for name in events.Tags()["scalars"]}
    assert_told(found, tracked.directory)
    assert not [name for name in found if "per_class" in name]
    (file,) = place.glob("*/hparams.yml")
    settings = yaml.safe_load(file.read_text("utf8"))
    assert settings["fingerprint"] == tracked.record.fingerprint
    for group in ("training", "data", "method"):
        for name, value in tracked.record.spec[group].items():
            if value is not None:
                assert settings[f"{group}.{name}"] == (value if isinstance(value, str | int | float) else str(value))


def test_a_tracker_changes_nothing_in_the_run(tracked: Run, spec: Any, tmp_path: Path) -> None:
    plain = train(spec("lora", **FLAGS), output=tmp_path / "plain")
    assert plain.record.fingerprint == tracked.record.fingerprint
    assert plain.record.quality == tracked.record.quality
    files = [sorted(path.name for path in run.directory.iterdir()) for run in (plain, tracked)]
    assert files[0] == files[1]
    for name in ("adapter_model.safetensors", "predictions.parquet"):
        assert (plain.directory / name).read_bytes() == (tracked.directory / name).read_bytes()
    timeless = [[{**row, "train_seconds": 0} for row in history(run.directory)] for run in (plain, tracked)]
    assert timeless[0] == timeless[1]


def test_time_aside_counts_towards_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("loratory.engine.meter.time.perf_counter", lambda: now)
    meter = Meter(Hardware.of(HardwareSpec(device="cpu", precision="fp32")))
    with meter.phase("train"):
        now += 2
    with meter.aside():
        now += 30
    now += 1
    cost = meter.record()
    assert (cost["train_seconds"], cost["total_seconds"]) == (2, 3)


class Follower:
    """A tracker of the tests; it fails where it is told to."""

    def __init__(self, fails: str | None = None) -> None:
        self.calls: list[str] = []
        self.steps: list[int] = []
        self._fails = fails

    def _call(self, name: str) -> None:
        self.calls.append(name)
        print("a tracker's own line")
        if name == self._fails:
            raise OSError("No space left on device\nand more")

    def start(self) -> None:
        self._call("start")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self._call("store")

    def log(self, values: dict[str, Any], step: int) -> None:
        self.steps.append(step)
        self._call("log")

    def finish(self) -> None:
        self._call("finish")


@pytest.fixture
def follow(monkeypatch: pytest.MonkeyPatch) -> Callable[[Follower], Follower]:
    """Put a tracker in the place of Accelerate's for TensorBoard."""

    def put(follower: Follower) -> Follower:
        monkeypatch.setattr("loratory.tracking._installed", lambda package: True)
        monkeypatch.setattr("accelerate.tracking.TensorBoardTracker", lambda **arguments: follower)
        return follower

    return put


@pytest.mark.parametrize(
    ("fails", "calls"), [("log", ["start", "store", "log"]), ("finish", ["start", "store", "log", "log", "finish"])]
)
def test_a_tracker_that_fails_is_warned_of_once_and_the_run_goes_on(
    fails: str, calls: list[str], follow: Any, spec: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    follower = follow(Follower(fails))
    with caplog.at_level(logging.WARNING, logger="loratory"):
        run = train(spec("head", epochs=1), output=tmp_path / "run", tracker=["tensorboard"])
    assert follower.calls == calls
    (warning,) = (record.getMessage() for record in caplog.records if "tensorboard" in record.getMessage())
    assert warning == "tensorboard is told nothing more of this run: OSError: No space left on device"
    assert run.record.status == "completed"
    assert run.record == read_run(run.directory)


@pytest.mark.parametrize("fails", ["start", "store"])
def test_a_tracker_that_does_not_start_ends_the_command_before_training(
    fails: str, follow: Any, spec: Any, tmp_path: Path
) -> None:
    follow(Follower(fails))
    with pytest.raises(
        ResourceError, match=r"^--tracker tensorboard does not start: OSError: No space left on device$"
    ):
        train(spec("head"), output=tmp_path / "run", tracker=["tensorboard"], on_step=pytest.fail)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_fails_hands_over_what_there_is_and_lets_its_tracker_go(
    follow: Any, spec: Any, tmp_path: Path
) -> None:
    follower = follow(Follower())

    def diverge(progress: Any) -> None:
        if progress.step == 60:
            raise DivergedError("the loss is no number")

    with pytest.raises(DivergedError):
        train(spec("head", **FLAGS), output=tmp_path / "run", tracker=["tensorboard"], on_step=diverge)
    assert follower.steps == [42, 50]
    assert follower.calls[-1] == "finish"


def test_what_a_tracker_prints_is_not_on_standard_output(
    follow: Any, flags: list[str], tmp_path: Path, capsys: Any
) -> None:
    follow(Follower())
    command = ["train", "--method", "head", *flags, "--output", str(tmp_path / "run"), "--tracker", "tensorboard"]
    assert main([*command, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["status"] == "completed"
    assert "a tracker's own line" in err


def test_a_run_that_is_there_starts_no_tracker(follow: Any, runs: dict[str, Run], spec: Any) -> None:
    follower = follow(Follower())
    train(spec("lora"), output=runs["lora"].directory, tracker=["tensorboard"])
    assert follower.calls == []


def test_names_may_be_repeated_or_stand_between_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loratory.tracking._installed", lambda package: True)
    assert tracking.chosen(["wandb, mlflow", "wandb", "trackio"]) == ("wandb", "mlflow", "trackio")
    assert tracking.chosen([]) == ()


def test_an_unknown_name_is_one_line_with_the_nearest(flags: list[str], tmp_path: Path, capsys: Any) -> None:
    command = ["train", "--method", "head", *flags, "--output", str(tmp_path / "run"), "--tracker", "tensorbord"]
    assert main(command) == SettingsError.exit_code
    assert capsys.readouterr().err == "error: --tracker 'tensorbord'; did you mean 'tensorboard'?\n"
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_one_line_with_the_command(
    flags: list[str], tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loratory.tracking.find_spec", lambda name: None)
    command = ["train", "--method", "head", *flags, "--output", str(tmp_path / "run"), "--tracker", "mlflow,wandb"]
    assert main(command) == ResourceError.exit_code
    line = "error: --tracker mlflow,wandb needs what is not installed; run: pip install accelerate mlflow wandb\n"
    assert capsys.readouterr().err == line
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_a_packages_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "followed").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(tracking.LIBRARIES, "followed", tracking.LIBRARIES["wandb"])
    with pytest.raises(ResourceError, match=r"pip install followed$"):
        tracking.chosen(["followed"])


def test_a_run_does_not_lie_where_tensorboards_files_are_to(follow: Any, spec: Any, tmp_path: Path) -> None:
    follow(Follower())
    with pytest.raises(StorageError, match="choose another --output"):
        train(spec("head"), output=tmp_path / "tensorboard", tracker=["tensorboard"], on_step=pytest.fail)
    assert list(tmp_path.iterdir()) == []


def test_every_run_of_a_study_is_told_to_a_tracker_of_its_own_under_the_studys_name(
    monkeypatch: pytest.MonkeyPatch, study_file: Any, tmp_path: Path, records: Any
) -> None:
    asked: list[dict[str, Any]] = []
    followers: list[Follower] = []

    def started(**arguments: Any) -> Follower:
        asked.append(arguments)
        followers.append(Follower())
        return followers[-1]

    monkeypatch.setattr("loratory.tracking._installed", lambda package: True)
    monkeypatch.setattr("accelerate.tracking.TensorBoardTracker", started)
    spec, text = read_study(study_file())
    out = tmp_path / "out"
    silent: dict[str, Any] = {"planned": lambda *given: None, "told": lambda *given: None}
    launch(spec, text, out, tracker=["tensorboard"], **silent)
    found = records(out)
    assert {one["run_name"] for one in asked} == set(found)
    assert len(asked) == len(found)
    assert {one["logging_dir"] for one in asked} == {out / "tensorboard"}
    assert all(one.calls[:2] == ["start", "store"] and one.calls[-1] == "finish" for one in followers)
    again = launch(spec, text, out, tracker=["tensorboard"], **silent)
    assert (again.done, len(asked)) == (len(found), len(found))  # what exists is told to nobody


def test_a_studys_name_is_what_trackers_group_its_runs_by() -> None:
    place = Path("results/seed/runs/one")
    given = {name: one.arguments(place, "seed") for name, one in tracking.LIBRARIES.items()}
    assert given["tensorboard"] == {"run_name": "one", "logging_dir": Path("results/seed/tensorboard")}
    assert (given["wandb"]["group"], given["trackio"]["group"]) == ("seed", "seed")
    assert given["mlflow"]["tags"] == {"study": "seed"}
    alone = {name: one.arguments(place, None) for name, one in tracking.LIBRARIES.items()}
    assert "group" not in alone["trackio"]
    assert (alone["wandb"]["group"], alone["mlflow"]["tags"]) == (None, None)


def test_a_tracker_that_does_not_start_ends_the_study(
    follow: Any, study_file: Any, tmp_path: Path, capsys: Any
) -> None:
    follow(Follower("start"))
    command = ["study", "run", str(study_file()), "--output", str(tmp_path / "out"), "--tracker", "tensorboard"]
    assert main(command) == ResourceError.exit_code
    assert "error: --tracker tensorboard does not start: OSError: No space" in capsys.readouterr().err
    assert not [path for path in (tmp_path / "out" / "runs").glob("*") if path.name[0] != "."]


def test_from_python_one_name_or_several(follow: Any, tiny_bert: Path, tiny_csv: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"model": tiny_bert, "dataset": tiny_csv, "max_length": 32, "device": "cpu", "epochs": 1}
    for number, tracker in enumerate(["tensorboard", ["tensorboard"], ("tensorboard",)]):
        follower = follow(Follower())
        loratory.train(method="head", output=tmp_path / str(number), tracker=tracker, precision="fp32", **given)
        assert follower.calls == ["start", "store", "log", "log", "finish"]


def test_without_a_tracker_none_is_imported() -> None:
    names = {"tensorboard", "wandb", "mlflow", "trackio"}
    code = "import sys, loratory.cli; loratory.cli.main(['train', '--help']); "
    code += f"found = {names | {'accelerate'}} & {{*sys.modules}}; import loratory.run; "
    code += f"sys.exit(str(found | {names} & {{*sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == "set()\n"


@pytest.fixture
def command(forked: Any, flags: list[str], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """(tracker, **environment) -> what training printed, in a process of its own, which finds no network."""

    def run(name: str, **settings: str) -> dict[str, Any]:
        words = ["train", "--method", "head", *flags, "--epochs", "2", "--batch-size", "2", "--json"]

        def work() -> int:
            os.chdir(tmp_path)
            os.environ.update(settings)
            return main([*words, "--tracker", name, "--output", str(tmp_path / "run")])

        process = forked(work)
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert "is told nothing more" not in err
        return dict(json.loads(out))

    return run


def test_mlflow_reads_back_settings_epochs_and_results(command: Any, tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    store = {"MLFLOW_TRACKING_URI": (tmp_path / "store").as_uri(), "MLFLOW_ALLOW_FILE_STORE": "true"}
    record = command("mlflow", **store)
    (place,) = (path.parent for path in (tmp_path / "store").glob("*/*/metrics"))
    found: dict[str, dict[int, float]] = {}
    for file in (place / "metrics").iterdir():
        lines = [line.split() for line in file.read_text("utf8").splitlines()]  # time, value, step
        found[file.name] = {int(step): float(value) for _, value, step in lines}
    assert_told(found, tmp_path / "run")
    assert (place / "params" / "fingerprint").read_text("utf8") == record["fingerprint"]
    assert (place / "params" / "training.batch_size").read_text("utf8") == "2"
    assert "status: 3" in (place / "meta.yaml").read_text("utf8")  # finished


def test_trackio_reads_back_settings_epochs_and_results(command: Any, tmp_path: Path) -> None:
    if find_spec("trackio") is None:  # it reads where its files are to lie when it is imported
        pytest.skip("trackio is not installed")
    record = command("trackio", TRACKIO_DIR=str(tmp_path / "store"))
    with closing(sqlite3.connect(tmp_path / "store" / "loratory.db")) as base:
        rows = base.execute("select step, metrics from metrics where run_name = 'run'").fetchall()
        ((config,),) = base.execute("select config from configs").fetchall()
    found: dict[str, dict[int, float]] = {}
    for step, values in rows:
        for name, value in json.loads(values).items():
            found.setdefault(name, {})[step] = value
    assert_told(found, tmp_path / "run")
    settings = json.loads(config)
    assert (settings["fingerprint"], settings["training.batch_size"]) == (record["fingerprint"], 2)


def test_wandb_keeps_settings_epochs_and_results_without_a_network(command: Any, tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    record = command("wandb", WANDB_MODE="offline", WANDB_DIR=str(tmp_path))
    (file,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    kept = file.read_bytes()  # records of a log, their text as it is; the package ships no reader
    for name in (*told(tmp_path / "run"), "loss_so_far", "training.batch_size", record["fingerprint"]):
        assert name.encode() in kept, name
    for value in (history(tmp_path / "run")[1]["loss"], record["quality"]["test"]["log_loss"]):
        assert str(value).encode() in kept
