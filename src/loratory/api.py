"""What the commands do, from Python: the same names, the same defaults, the same files.

Settings are the flags of the command by their names, with underscores; None stands for a setting's own default. Nothing
is printed: what a command would warn of goes to the logger `loratory`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, overload

from loratory import comparing, given, predicting, trained
from loratory.data.columns import Text, are_pairs
from loratory.engine.epoch import Progress
from loratory.errors import DataError, SettingsError
from loratory.estimates import Estimates, Values, estimates
from loratory.finish import Finished, complete
from loratory.methods import spec_from_flags
from loratory.report.predictions import Answers
from loratory.report.tables import Table
from loratory.rerunning import Rerun
from loratory.rerunning import rerun as rerun_record
from loratory.run import Run
from loratory.run import train as train_run
from loratory.spec import DataSpec, HardwareSpec, divided, validated
from loratory.study.document import Summary
from loratory.study.jobs import Job
from loratory.study.plan import Plan
from loratory.trained import Evaluation

Place = str | os.PathLike[str]
"""A path; a :class:`Run` stands for its directory."""


def train(
    texts: Iterable[Text] | None = None,
    labels: Iterable[Any] | None = None,
    *,
    method: str = "standard",
    model: Place | None = None,
    dataset: Place | None = None,
    output: Place | None = None,
    rank: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    max_length: int | None = None,
    seed: int | None = None,
    device: Literal["auto", "cpu", "cuda"] | None = None,
    tracker: str | Sequence[str] = (),
    checkpoint_every: str | None = None,
    on_step: Callable[[Progress], None] | None = None,
    **settings: Any,
) -> Run:
    """Train once, and commit the run's directory: `loratory train`.

    Args:
        texts: N texts to divide and learn from, or pairs of them as tuples, in place of a data set. They are written to
            a file in the data directory (`$LORATORY_DATA`, else `data`), called by their digest, which the run's
            record names.
        labels: their N labels: text, numbers or true/false; lists of them, where a text may have several; or numbers
            with fractions, which make it a regression (`problem="regression"` does of any).
        method: one of `loratory.methods.METHODS`, or `peft:TYPE`.
        model: `minilm`, a directory, or a hub id.
        dataset: `hutto:NAME`, a file, or `hub:NAME`.
        output: the run's directory; `models/` and the run's id by default. If it holds this very run already, nothing
            is trained.
        rank: of the methods that have one.
        tracker: `tensorboard`, `wandb`, `mlflow`, `trackio`, or several of them: they are told settings, epochs and
            results. One that fails on the way is warned of, and the run goes on.
        checkpoint_every: how often the run's state is kept, from which it goes on when it is started again: `90s`,
            `10m` (the default), `500 steps`, or `off`.
        on_step: told after each step.
        settings: any other flag of the command, such as `targets="all-linear"` or `test_fraction=0.1`.

    Raises:
        LoratoryError: every kind; a run that fails while training leaves a record with its status.
    """
    data = _examples(texts, labels, dataset, settings)
    flags = _given(
        rank=rank,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        max_length=max_length,
        seed=seed,
        device=device,
        model=_name(model),
        **{**settings, **data},
    )
    spec = spec_from_flags({"method": method, **flags})
    followers = [tracker] if isinstance(tracker, str) else tracker
    with nullcontext() if texts is None else given.called():
        return train_run(
            spec,
            output=_path(output),
            tracker=followers,
            checkpoint_every=checkpoint_every,
            on_step=on_step or (lambda progress: None),
        )


def estimate(
    *,
    method: Values = "standard",
    model: Place | None = None,
    dataset: Place | None = None,
    ranks: Values | None = None,
    batch_sizes: Values | None = None,
    memory: int | str | None = None,
    price_per_hour: float | None = None,
    **settings: Any,
) -> Estimates:
    """What :func:`train` would cost with the same settings: `loratory estimate`. It needs no weights, and leaves
    nothing.

    Args:
        method: as :func:`train` takes it, or several: a list, or a text with commas between them.
        model: `minilm`, a directory, or a hub id.
        dataset: `hutto:NAME`, a file, or `hub:NAME`.
        ranks: several ranks, for each method that has one.
        batch_sizes: several batch sizes, for each method and rank.
        memory: for which the largest batch is sought: bytes, or a text such as `24GiB`.
        price_per_hour: of the device, in any currency: training time is then money, too.
        settings: any other of train's flags, such as `batch_size=16`.

    Returns:
        An estimate for each combination, in `rows`, and `table`, which the command prints.

    Raises:
        LoratoryError: the data or the configuration cannot be read, or the settings do not fit them.
    """
    return estimates(
        _given(model=_name(model), dataset=_name(dataset), **settings),
        methods=method,
        ranks=ranks,
        batch_sizes=batch_sizes,
        memory=memory,
        price_per_hour=price_per_hour,
    )


def evaluate(
    model_path: Place,
    texts: Iterable[Text] | None = None,
    labels: Iterable[Any] | None = None,
    *,
    dataset: Place | None = None,
    split: str = "test",
    model: Place | None = None,
    device: Literal["auto", "cpu", "cuda"] | None = None,
    **settings: Any,
) -> Evaluation:
    """Score a trained model on its own test split, on all of other examples, or on a split of other data:
    `loratory evaluate`.

    Args:
        model_path: a run, its directory, or a `.pth` file.
        texts: N texts to score, in place of a data set; kept as those of :func:`train`.
        labels: their N labels.
        dataset: `hutto:NAME`, a file, or `hub:NAME`; the run's own by default, known by its content.
        split: train, validation or test.
        model: for a `.pth` file alone: the base whose architecture it has.
        settings: any other flag of the command, such as `text_column="review"`.

    Raises:
        LoratoryError: the model or the data cannot be read, do not fit, or there is no such split.
    """
    read = _examples(texts, labels, dataset, settings)
    hardware, data = divided(_given(device=device, **{**settings, **read}))
    path = Path(model_path)
    with nullcontext() if texts is None else given.called():
        opened = trained.open_trained(path, hardware=hardware, model=_name(model), data=validated(DataSpec, data))
        return trained.evaluate(path, opened, given=data, split=split)


@overload
def predict(
    model_path: Place,
    texts: Iterable[Text],
    *,
    model: Place | None = None,
    device: Literal["auto", "cpu", "cuda"] | None = None,
    **settings: Any,
) -> Answers: ...
@overload
def predict(
    model_path: Sequence[Place],
    texts: Iterable[Text],
    *,
    model: Place | None = None,
    device: Literal["auto", "cpu", "cuda"] | None = None,
    **settings: Any,
) -> list[Answers]: ...
def predict(
    model_path: Place | Sequence[Place],
    texts: Iterable[Text],
    *,
    model: Place | None = None,
    device: Literal["auto", "cpu", "cuda"] | None = None,
    **settings: Any,
) -> Answers | list[Answers]:
    """Label N texts: `loratory predict`. A blank text gets a label too, and a warning names it.

    Args:
        model_path: a run, its directory, or a `.pth` file; or several of them, which share a base where they can.
        texts: a list, an array (N,), or a column of a data frame; or pairs, two texts each, for a model of pairs.
        model: for a `.pth` file alone: the base whose architecture it has.
        settings: any other flag of the command, such as `precision="fp32"`.

    Returns:
        Labels and probabilities (N, C) of the model, or its numbers (N,); a list of them for a list of models.

    Raises:
        DataError: no text, or something that is none; positions count from 0.
        LoratoryError: a model cannot be loaded.
    """
    hardware = validated(HardwareSpec, _given(device=device, **settings))
    found = predicting.find(_paths(model_path))
    asked = given.as_texts(texts, "texts")
    odd = next((number for number, text in enumerate(asked) if given.not_text(text) is not None), None)
    if odd is not None:
        raise DataError(f"texts: {given.not_text(asked[odd])} at position {odd}; give strings")
    said = predicting.predict(found, asked, hardware=hardware, model=_name(model))
    return said[0] if isinstance(model_path, str | os.PathLike) else said


def compare(runs: Place | Sequence[Place], *, baselines: bool = True, price_per_hour: float | None = None) -> Table:
    """The table of runs beside the baselines: `loratory compare`.

    Args:
        runs: runs, or their directories.
        baselines: whether the baselines are computed on the test split that the runs share.
        price_per_hour: of one device, in any currency: total time is then money, too.

    Raises:
        SettingsError: the price is negative or no number.
        StorageError: a path holds no committed run.
        DataError: the data has changed since.
    """
    return comparing.compare(_paths(runs), with_baselines=baselines, price_per_hour=price_per_hour)


def rerun(run: Place, *, output: Place | None = None) -> Rerun:
    """Train a run again, and say whether the same came out: `loratory rerun`.

    Args:
        run: a run, or its directory.
        output: where the second run is kept; by default it is removed.

    Returns:
        Whether weights, predictions and scores are the same, by how much they differ, and what differs in environment,
        code, data and model.

    Raises:
        StorageError: no completed run; or something stands in `output`.
        LoratoryError: data or model are not there any more, or the training fails.
    """
    return rerun_record(Path(run), output=_path(output))


def run_study(
    file: Place,
    *,
    output: Place | None = None,
    executor: Literal["local", "ray"] = "local",
    workers: int | None = None,
    alone: bool = False,
    cohort: Literal["off", "auto"] | int = "auto",
    retry_failed: bool = False,
    yes: bool = False,
    tracker: str | Sequence[str] = (),
    checkpoint_every: str | None = None,
    settings: Mapping[str, Any] | None = None,
    on_run: Callable[[Plan, Job], None] | None = None,
) -> Summary:
    """Run what is missing of a study, and write its report: `loratory study run`.

    Args:
        file: a study file, such as studies/seed.yaml.
        output: the study's directory; `results/` and its name by default.
        executor: where the runs are carried out.
        workers: runs at once; one by default, with Ray as many as there is room for. They are processes of their own:
            a script that asks for several begins with `if __name__ == "__main__":`.
        alone: final runs one by one on each device, after all tuning runs.
        cohort: how many runs train at once on one base where they can (LoRA, heads), final ones too; `auto` lets
            tuning runs, on CUDA; `off` none.
        retry_failed: run again what failed before.
        yes: run more than 1,000 runs.
        tracker: as :func:`train` takes it, told of each run; they are grouped by the study's name.
        checkpoint_every: as :func:`train` takes it, of each run.
        settings: what stands in place of what the file says, by dotted keys: `{"train.epochs": 1, "seeds": [0, 1]}`.
        on_run: told the plan and the run after each run that ended.

    Returns:
        Cells, pairs with their verdicts, fronts; the page and `summary.json` are in the directory.

    Raises:
        SettingsError: the file, or a setting, cannot be meant.
        TrainingError: no final run completed; their records say why.
        LoratoryError: data, models, devices or packages are missing, or the directory cannot be written.
    """
    done: Finished = complete(
        Path(file),
        output=_path(output),
        executor=executor,
        workers=workers,
        alone=alone,
        cohort=str(cohort),
        retry_failed=retry_failed,
        yes=yes,
        tracker=[tracker] if isinstance(tracker, str) else tracker,
        checkpoint_every=checkpoint_every,
        overrides=[(key, json.dumps(value, default=str)) for key, value in (settings or {}).items()],
        told=on_run or (lambda plan, job: None),
    )
    done.check()
    return Summary.read(done.directory)


def _examples(
    texts: Iterable[Text] | None, labels: Iterable[Any] | None, dataset: Place | None, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The flags that name what is read: the data set that was named, or a file of the examples that were given."""
    if texts is None and labels is None:
        return {"dataset": _name(dataset)}
    if texts is None or labels is None:
        raise DataError(f"{'texts' if texts is None else 'labels'}: none given; give both texts and labels")
    columns = ("text_column", "pair_column", "label_column", "group_column")
    other = next((key for key in columns if settings.get(key) is not None), None)
    if dataset is not None or other is not None:
        raise SettingsError(f"{other or 'dataset'} beside texts and labels; give one or the other")
    kept = given.as_texts(texts, "texts")
    pair = {"pair_column": "pair"} if are_pairs(kept) else {}
    file = given.keep(kept, labels, settings.get("problem"))
    return {"dataset": str(file), "text_column": "text", "label_column": "label", **pair}


def _given(**flags: Any) -> dict[str, Any]:
    """Those that are not left to their default."""
    return {name: value for name, value in flags.items() if value is not None}


def _name(place: Place | None) -> str | None:
    return None if place is None else os.fspath(place)


def _path(place: Place | None) -> Path | None:
    return None if place is None else Path(place)


def _paths(places: Place | Sequence[Place]) -> list[Path]:
    return [Path(places)] if isinstance(places, str | os.PathLike) else [Path(place) for place in places]
