"""A study file read and checked: whatever is wrong with it is one line that names file, line, key and remedy."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from loratory.errors import LoratoryError, SettingsError, StorageError, counted, nearest
from loratory.methods import METHODS, method_named
from loratory.spec import GROUPS, DataSpec, HardwareSpec, TrainingSpec, first_fault, group_of
from loratory.study.halving import budget, trials
from loratory.study.spec import MOST_RUNS, UNASKED_RUNS, WIDEST_MARGIN, MethodGrid, StudySpec
from loratory.study.yaml_file import MAX_BYTES, Document, Keys, read_yaml

log = logging.getLogger("loratory")

REQUIRED = ("name", "data", "models", "methods", "seeds")
ELSEWHERE = {
    "lr": "each method's rates stand in its tune: {lr: […]}",
    "seed": "seeds stand in seeds",
    "dataset": "data sets stand in data",
    "model": "models stand in models",
    "method": "methods stand in methods",
    "select": "it stands beside train, and holds for epochs and rates alike",
    "folds": "it stands beside train, and every fold is a test",
    "fold": "with folds beside train every fold is a test",
    "until": "how far tuning runs are trained follows from a method's tune: {lr: […], halving: …}",
}
"""Flags of train that a study says in its own way."""

ALL = "all"
"""The size of a training set that is not cut."""


def read_study(path: Path, overrides: Sequence[tuple[str, str]] = ()) -> tuple[StudySpec, str]:
    """The study in `path`, and the text that stands for it in its directory.

    Args:
        overrides: (key, YAML value), each in place of what the file says, such as `("train.epochs", "1")`.

    Raises:
        SettingsError: the file, or an override, is not a study.
        StorageError: there is no such file.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise StorageError(f"{path} does not exist; give a study file, such as studies/seed.yaml") from None
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error
    found = read_yaml(content, str(path))
    for key, value in overrides:
        where = f"--set {key}"
        found = found.replaced(key, read_yaml(value.encode(), where).value, where)
    spec = parse_study(found)
    return spec, as_given(found, overrides) if overrides else content.decode("utf-8-sig")


def as_given(found: Document, overrides: Sequence[tuple[str, str]]) -> str:
    """The study with its overrides, as YAML that `read_study` reads again."""
    import yaml

    given = " ".join(f"--set {key}={value}" for key, value in overrides)
    text = yaml.safe_dump(found.value, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
    return f"# {found.where} {' '.join(given.split())}\n{text}"


def parse_study(found: Document) -> StudySpec:
    """The study that a document asks for.

    Raises:
        SettingsError: one line with the first fault.
    """
    value = found.value
    if not isinstance(value, dict):
        raise SettingsError(f"{found.where}: a study file has the keys {', '.join(StudySpec.model_fields)}")
    for key in value:
        if key not in StudySpec.model_fields:
            raise SettingsError(f"{found.at((key,))}: unknown key {key!r}; {nearest(key, StudySpec.model_fields)}")
    for key in REQUIRED:
        if key not in value:
            raise SettingsError(f"{found.where}: {key!r} is missing; add it")
    _refuse_gaps(found, value, ())
    values = {
        **value,
        "data": _names(found, "data"),
        "models": _names(found, "models"),
        "methods": _methods(found),
        "seeds": _seeds(found),
        "train": _train(found),
    }
    try:
        spec = StudySpec.model_validate(values)
    except ValidationError as error:
        path, wrong, message = first_fault(error)
        raise SettingsError(f"{found.at(path)}: {'.'.join(map(str, path))} {wrong!r}: {message}") from None
    _check_folds(found, spec)
    _check_margin(found, spec)
    _check_budgets(found, spec)
    _check_cells(found, spec)
    return spec


def check_size(spec: StudySpec, where: str, *, asked: bool) -> None:
    """Refuse a grid that is larger than anyone means, or larger than was asked for.

    Raises:
        SettingsError: above 1,000 runs and not asked for, or above 100,000.
    """
    if spec.runs > MOST_RUNS:
        raise SettingsError(f"{where}: {spec.runs:,} runs; a study has at most {MOST_RUNS:,}: make its grids smaller")
    if spec.runs > UNASKED_RUNS and not asked:
        raise SettingsError(f"{where}: {spec.runs:,} runs; give --yes for more than {UNASKED_RUNS:,}")


def _refuse_gaps(found: Document, value: Any, path: Keys) -> None:
    """No key is left empty, and no setting is true or false; a grid has something in it."""
    where, name = found.at(path), ".".join(map(str, path))
    if value is None:
        raise SettingsError(f"{where}: {name} is empty; give it a value, or leave it out")
    if isinstance(value, bool):
        raise SettingsError(f"{where}: {name} is {str(value).lower()}; nothing in a study is true or false")
    if isinstance(value, list) and not value:
        raise SettingsError(f"{where}: {name} is an empty list; give at least one value")
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        _refuse_gaps(found, one, (*path, key))


def _names(found: Document, key: str) -> list[str]:
    value = found.value[key]
    names = value if isinstance(value, list) else [value]
    for number, name in enumerate(names):
        if not isinstance(name, str):
            raise SettingsError(
                f"{found.at((key, number))}: {key} {name!r}: give a name, in quotes if it is a number; "
                "column names and the like go into train, as text_column: …"
            )
    return names


def _seeds(found: Document) -> list[int]:
    value = found.value["seeds"]
    if not isinstance(value, list):
        raise SettingsError(f"{found.at(('seeds',))}: seeds {value!r}: give a list, such as [0, 1, 2, 3, 4]")
    taken: set[int] = set()
    for number, seed in enumerate(value):
        where = found.at(("seeds", number))
        if not isinstance(seed, int) or not 0 <= seed < 2**32:
            raise SettingsError(f"{where}: seed {seed!r}: give a whole number from 0 to {2**32 - 1}")
        if seed in taken:
            raise SettingsError(f"{where}: seed {seed} stands there twice; keep one")
        taken.add(seed)
    return value


def _methods(found: Document) -> list[MethodGrid]:
    value = found.value["methods"]
    if not isinstance(value, list):
        raise SettingsError(f"{found.at(('methods',))}: methods: give a list of methods, each with a name")
    return [_method(found, number, one) for number, one in enumerate(value)]


def _method(found: Document, number: int, given: Any) -> MethodGrid:
    path: Keys = ("methods", number)
    if isinstance(given, str):
        given = {"name": given}
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        raise SettingsError(f"{found.at(path)}: a method has a name; known: {', '.join(METHODS)}")
    name = given["name"]
    try:
        method = method_named(name)
    except SettingsError as error:
        raise SettingsError(f"{found.at((*path, 'name'))}: {error}") from None
    name, fields = method.name, method.settings.model_fields
    grid: dict[str, tuple[Any, ...]] = {}
    for key, value in given.items():
        if key in ("name", "tune"):
            continue
        if key not in fields:
            hint = _hint(key, value, {*fields, "tune"} - {"name"})
            raise SettingsError(f"{found.at((*path, key))}: {key!r} is not a setting of {name}; {hint}")
        grid[key] = tuple(_values(found, (*path, key), name, value))
    tune = given.get("tune")
    rates = _rates(found, (*path, "tune"), tune)
    return MethodGrid(name=name, values=grid, rates=rates, halving=_halving(found, (*path, "tune"), tune, rates))


def _hint(key: str, value: Any, known: set[str]) -> str:
    """Where a key stands that a method has not."""
    flag = key.replace("-", "_")
    if flag in ("lr", "learning_rate"):
        rates = ", ".join(map(str, value if isinstance(value, list) else [value]))
        return f"learning rates stand in tune, a single one too: tune: {{lr: [{rates}]}}"
    owners = [other.name for other in METHODS.values() if flag in other.settings.model_fields]
    if owners:
        return f"it belongs to {', '.join(owners)}"
    if flag in ELSEWHERE:
        return ELSEWHERE[flag]
    if group_of(flag) is None:
        return nearest(key, known)
    one = value[0] if isinstance(value, list) and value else value
    return f"it is the same for all runs of a study, one value: train: {{{flag}: {one}}}"


def _values(found: Document, path: Keys, method: str, value: Any) -> list[Any]:
    """The values of one setting, as the method takes them."""
    key, taken = str(path[-1]), []
    for number, one in enumerate(value if isinstance(value, list) else [value]):
        try:
            settings = method_named(method).settings.model_validate({"name": method, key: one})
        except ValidationError as error:
            raise SettingsError(f"{found.at((*path, number))}: {key} {one!r}: {first_fault(error)[2]}") from None
        taken.append(getattr(settings, key))
    return taken


def _rates(found: Document, path: Keys, tune: Any) -> tuple[float, ...]:
    if tune is None:
        return ()
    if not isinstance(tune, dict) or not {"lr"} <= set(tune) <= {"lr", "halving"}:
        raise SettingsError(
            f"{found.at(path)}: tune: give the learning rates to try, such as tune: {{lr: [1e-4, 1e-3]}}"
        )
    rates = tune["lr"] if isinstance(tune["lr"], list) else [tune["lr"]]
    for number, rate in enumerate(rates):
        where = found.at((*path, "lr", number))
        if not isinstance(rate, int | float) or not (math.isfinite(rate) and rate > 0):
            raise SettingsError(f"{where}: lr {rate!r}: give a finite number above 0")
        if rate in rates[:number]:
            raise SettingsError(f"{where}: lr {rate!r} stands there twice; keep one")
    return tuple(map(float, rates))


def _halving(found: Document, path: Keys, tune: Any, rates: tuple[float, ...]) -> int | None:
    if tune is None or "halving" not in tune:
        return None
    where, factor = found.at((*path, "halving")), tune["halving"]
    if not isinstance(factor, int) or factor < 2:
        raise SettingsError(f"{where}: halving {factor!r}: give a whole number from 2 on: one rate of so many goes on")
    if len(rates) < factor:
        raise SettingsError(
            f"{where}: halving {factor}: {counted(len(rates), 'learning rate')} cannot leave one of {factor}; "
            f"give at least {factor} rates{', or a smaller number' if len(rates) > 1 and factor > 2 else ''}"
        )
    return factor


def _train(found: Document) -> dict[str, Any]:
    given = found.value.get("train", {})
    if not isinstance(given, dict):
        raise SettingsError(f"{found.at(('train',))}: train: give train's flags, such as train: {{epochs: 2}}")
    known = [field for kind in (DataSpec, TrainingSpec, HardwareSpec) for field in kind.model_fields]
    flags: dict[str, Any] = {}
    for key, value in given.items():
        where, flag = found.at(("train", key)), key.replace("-", "_")
        if flag in flags:
            raise SettingsError(f"{where}: {key!r} stands there twice, once spelt otherwise; keep one")
        if flag in ELSEWHERE:
            raise SettingsError(f"{where}: {key!r} does not belong into train: {ELSEWHERE[flag]}")
        owners = [method.name for method in METHODS.values() if flag in method.settings.model_fields]
        if owners:
            raise SettingsError(
                f"{where}: {key!r} is a setting of {', '.join(owners)}; write it beside the method's name"
            )
        if flag not in known:
            raise SettingsError(f"{where}: unknown flag {key!r}; {nearest(flag, set(known) - set(ELSEWHERE))}")
        if isinstance(value, list):
            if flag != "limit":
                raise SettingsError(
                    f"{where}: {key} is a list; only data, models, limit and methods' own settings are grids"
                )
            flags[flag] = _limits(found, ("train", key), value)
            continue
        if (flag, value) == ("limit", ALL):
            continue
        try:
            GROUPS[str(group_of(flag))].model_validate({flag: value})
        except ValidationError as error:
            raise SettingsError(f"{where}: {key} {value!r}: {first_fault(error)[2]}") from None
        flags[flag] = value
    if DataSpec.model_validate({"test_fraction": flags.get("test_fraction", 0.2)}).test_fraction == 0:
        raise SettingsError(
            f"{found.at(('train', 'test_fraction'))}: test_fraction 0: the test split judges a study; give it examples"
        )
    return flags


def _limits(found: Document, path: Keys, value: list[Any]) -> tuple[int | None, ...]:
    """Sizes of the training set, each once."""
    for number, one in enumerate(value):
        where = found.at((*path, number))
        if one != ALL and (not isinstance(one, int) or one < 1):
            raise SettingsError(f"{where}: limit {one!r}: give a number of training examples, or {ALL}")
        if one in value[:number]:
            raise SettingsError(f"{where}: limit {one!r} stands there twice; keep one")
    return tuple(None if one == ALL else one for one in value)


def _check_folds(found: Document, spec: StudySpec) -> None:
    """With folds nothing else says what the test is."""
    for key in ("test", "test_split", "test_fraction"):
        if spec.folds is not None and key in spec.train:
            where = found.at(("train", key))
            raise SettingsError(f"{where}: {key} beside folds: every fold is the test once; leave one of them out")


def _check_margin(found: Document, spec: StudySpec) -> None:
    """A margin of half the scale or more is points that were meant as a fraction: 1 for 0.01."""
    if spec.metric.ends == (0.0, 1.0) and spec.margin >= WIDEST_MARGIN:
        raise SettingsError(
            f"{found.at(('margin',))}: margin {spec.margin:g}: {spec.select} goes from 0 to 1, and margin is a "
            "fraction: one point is 0.01"
        )


def _check_budgets(found: Document, spec: StudySpec) -> None:
    """A comparison is fair where every method may try as many rates; where one halves, train as many epochs."""
    first = spec.methods[0]
    if any(method.halving is not None for method in spec.methods):
        _check_halving(found, spec)
        return
    for number, method in enumerate(spec.methods):
        if trials(method.rungs(spec.epochs)) != trials(first.rungs(spec.epochs)):
            one, other = (counted(len(grid.rates), "learning rate") for grid in (first, method))
            raise SettingsError(
                f"{found.at(('methods', number))}: {method.name} may try {other} and {first.name} {one}; "
                "give every method as many"
            )


def _check_halving(found: Document, spec: StudySpec) -> None:
    """Every method's tuning trains as many epochs for each choice."""
    budgets = [(method, budget(method.rungs(spec.epochs))) for method in spec.methods]
    for number, (method, own) in enumerate(budgets):
        where = found.at(("methods", number))
        if method.halving is not None and len(method.rungs(spec.epochs)) == 1:
            raise SettingsError(
                f"{where}: halving {method.halving} with {counted(spec.epochs, 'epoch')}: no rate can be "
                "dropped before the last; give train more epochs, or leave halving out"
            )
        if method.halving is not None and own == len(method.rates) * spec.epochs:
            log.warning("%s: halving trains %s for each choice, as the whole grid does", where, counted(own, "epoch"))
        first, its = budgets[0]
        if own != its:
            raise SettingsError(
                f"{where}: tuning {method.name} trains {counted(own, 'epoch')} for each choice and tuning {first.name} "
                f"{its:,} (runs x epochs); with halving every method trains as many"
            )


def _check_cells(found: Document, spec: StudySpec) -> None:
    """Warn of cells that stand there twice, which are run once; refuse them where their rates differ."""
    if spec.runs > MOST_RUNS:
        return  # refused for that
    rates: dict[Any, tuple[tuple[float, ...], int | None]] = {}
    for number, method in enumerate(spec.methods):
        for settings in method.settings():
            tune = method.rates, method.halving
            if rates.setdefault(settings, tune) != tune:
                where = found.at(("methods", number))
                raise SettingsError(
                    f"{where}: a setting of {method.name} stands there twice with other rates; keep one"
                )
    copies = len(spec.data) * len(spec.models) * len(spec.limits) * sum(method.size for method in spec.methods) - len(
        spec.cells()
    )
    if copies:
        log.warning("%s: %s; each setting is run once", found.where, counted(copies, "repeated cell"))


def file_says_otherwise(before: Path, spec: StudySpec) -> list[str]:
    """What the study file kept in a directory says otherwise than `spec`; a file that is no study says nothing."""
    try:
        return read_study(before)[0].differences(spec)
    except LoratoryError as error:
        return [f"the file there cannot be read as a study: {error}"]
