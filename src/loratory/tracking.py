"""Trackers, by name: what follows a run in TensorBoard, Weights & Biases, MLflow or Trackio.

    settings ─▶ for each epoch: points of its steps, its row of history.jsonl ─▶ quality, cost, parameters of run.json

Accelerate's own classes speak with them. Names are those of the files: settings as `--set` takes them (`training.lr`),
an epoch's as in history.jsonl (`validation_accuracy`), the end's as in run.json (`cost.train_seconds`). Every 50 steps,
where the loop looks at its loss anyway, there is a point too: `lr`, and `loss_so_far`, the mean over the epoch's
examples until then. Points are kept in memory and handed over after the epoch: a tracker that writes to a disk or asks
a server would otherwise be timed as training. A run's time holds nothing of its trackers' time; its resident memory
does hold their libraries.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from json import dumps
from pathlib import Path
from typing import Any

from loratory.engine.epoch import Progress
from loratory.errors import ResourceError, SettingsError, StorageError, first_line, nearest
from loratory.store.record import RunRecord

log = logging.getLogger("loratory.tracking")  # worker processes let it warn, and nothing else

PROJECT = "loratory"
"""What runs are gathered under, where a tracker has such a thing and the environment names none."""

Point = tuple[int, Mapping[str, float]]
"""Steps made, and what was known then."""


@dataclass(frozen=True)
class Library:
    """A package that keeps what runs tell it."""

    tracker: str
    """The class in `accelerate.tracking`."""
    arguments: Callable[[Path, str | None], dict[str, Any]]
    """What the class is built with, for the run in this directory, of the study of this name if of one."""


def _tensorboard(directory: Path, study: str | None) -> dict[str, Any]:
    """Its files lie beside the run, in which they cannot be: a run is what its manifest vouches for. Those of a study's
    runs lie in the study's directory, beside `runs`."""
    files = (directory.parent if study is None else directory.parents[1]) / "tensorboard"
    if directory == files:
        raise StorageError(f"{directory} is where TensorBoard's files are to lie; choose another --output")
    return {"run_name": directory.name, "logging_dir": files}


LIBRARIES: Mapping[str, Library] = {
    "tensorboard": Library("TensorBoardTracker", _tensorboard),
    "wandb": Library(
        "WandBTracker",
        lambda directory, study: {
            "run_name": os.environ.get("WANDB_PROJECT", PROJECT),
            "name": directory.name,
            "group": study,
            "settings": {"console": "off"},  # standard output is not its to read
        },
    ),
    "mlflow": Library(
        "MLflowTracker",
        lambda directory, study: {
            "experiment_name": PROJECT,  # MLFLOW_EXPERIMENT_NAME comes first
            "run_name": directory.name,
            "tags": None if study is None else {"study": study},  # MLFLOW_TAGS comes first
            "nested_run": True,  # a run of the caller's own may be open
        },
    ),
    "trackio": Library(
        "TrackioTracker",
        lambda directory, study: (
            {"run_name": PROJECT, "name": directory.name} | ({} if study is None else {"group": study})
        ),
    ),
}
"""By the name of the package."""


def chosen(given: Iterable[str]) -> tuple[str, ...]:
    """The trackers that were asked for, each once: names, or several with commas between them.

    Raises:
        SettingsError: there is none of that name.
        ResourceError: a package is missing.
    """
    names = tuple(dict.fromkeys(name.strip() for words in given for name in words.split(",")))
    for name in names:
        if name not in LIBRARIES:
            raise SettingsError(f"--tracker {name!r}; {nearest(name, LIBRARIES)}")
    missing = [package for package in ("accelerate", *names) if not _installed(package)] if names else []
    if missing:
        packages = " ".join(missing)
        raise ResourceError(f"--tracker {','.join(names)} needs what is not installed; run: pip install {packages}")
    return names


def _installed(package: str) -> bool:
    """Whether it can be imported; a mere directory of that name, such as W&B's own ./wandb, is no package."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None


class Trackers:
    """Those that follow one run. Where there are none, everything here does nothing.

    A tracker that raises any `Exception` (each library has its own kinds: no disk, no network) is warned of in the log
    and told nothing more; the run goes on.
    """

    def __init__(self) -> None:
        self._followers: dict[str, Any] = {}
        self._points: list[Point] = []

    def add(self, name: str, follower: Any) -> None:
        """One of Accelerate's trackers, which has started."""
        self._followers[name] = follower

    def step(self, progress: Progress) -> None:
        """Keep what is known of the steps, where their loss was looked at; nothing is handed over yet."""
        if progress.loss is not None:
            self._points.append((progress.step, {"loss_so_far": progress.loss, "lr": progress.lr}))

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Hand over the points of its steps, and the epoch's row of history.jsonl."""
        values = {name: value for name, value in row.items() if name != "step"}
        self._hand_over([*self._points, (row["step"], values)])

    def end(self, record: RunRecord) -> None:
        """Hand over quality, cost and parameters of a run that completed."""
        self._hand_over([(record.cost["steps"], results(record))])

    def close(self) -> None:
        """Hand over what is left, of an epoch that did not end too, and let the trackers go."""
        self._hand_over(self._points)
        self._each(_finish)

    def _hand_over(self, points: Iterable[Point]) -> None:
        points, self._points = list(points), []

        def write(name: str, follower: Any) -> None:
            for step, values in points:
                follower.log(dict(values), step=step)

        self._each(write)

    def _each(self, act: Callable[[str, Any], None]) -> None:
        for name, follower in list(self._followers.items()):
            try:
                with _quiet():
                    act(name, follower)
            except Exception as error:  # noqa: BLE001  # no kind of failure there is worth a run
                del self._followers[name]
                log.warning(
                    "%s is told nothing more of this run: %s: %s", name, type(error).__name__, first_line(error)
                )


@contextmanager
def tracked(
    names: Iterable[str], directory: Path, settings: Mapping[str, Any], study: str | None = None
) -> Iterator[Trackers]:
    """Start the trackers of a run, and let them go when it ends, well or not.

    Args:
        names: as :func:`chosen` gives them; none: nothing is imported.
        settings: the run's, resolved; groups of settings by name.
        study: the name of the study that the run is of, under which its runs are grouped.

    Raises:
        StorageError: the run's directory is where a tracker's files are to lie.
        ResourceError: a tracker does not start (no disk, no network, no account); nothing is trained yet.
    """
    trackers = Trackers()
    try:
        for name in names:
            trackers.add(name, _started(name, directory, settings, study))
        yield trackers
    finally:
        trackers.close()


def _started(name: str, directory: Path, settings: Mapping[str, Any], study: str | None) -> Any:
    library = LIBRARIES[name]
    arguments = library.arguments(directory, study)
    try:
        from accelerate import PartialState, tracking

        PartialState()  # the trackers ask it which process this is
        with _quiet():
            follower = getattr(tracking, library.tracker)(**arguments)
            follower.start()
            follower.store_init_configuration(flattened(settings))
    except Exception as error:  # each library has kinds of its own; whichever it is, nothing is trained
        raise ResourceError(f"--tracker {name} does not start: {type(error).__name__}: {first_line(error)}") from error
    return follower


def _finish(name: str, follower: Any) -> None:
    if name == "trackio":  # the same, and it forgets the run, which it would otherwise finish once more at exit
        import_module(name).finish()
    else:
        follower.finish()


def _quiet() -> redirect_stdout[Any]:
    """What trackers print goes to standard error: on standard output stands what the command prints."""
    return redirect_stdout(sys.stderr)


def flattened(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by the names that `--set` takes, without those that are None; what is no plain value as JSON."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        group = {f"{name}.{key}": one for key, one in value.items()} if isinstance(value, Mapping) else {name: value}
        flat |= {key: one for key, one in group.items() if one is not None}
    return {key: one if isinstance(one, str | int | float) else dumps(one) for key, one in flat.items()}


def results(record: RunRecord) -> dict[str, float]:
    """The numbers of quality, cost and parameters by their places in run.json; of single classes none."""
    quality = {f"quality.{part}": scores for part, scores in record.quality.items()}
    cost = {f"cost.{name}": value for name, value in record.cost.items() if isinstance(value, Mapping)}
    groups = {**quality, "cost": record.cost, **cost, "parameters": record.parameters}
    return {
        f"{group}.{name}": value
        for group, values in groups.items()
        for name, value in values.items()
        if isinstance(value, int | float)
    }
