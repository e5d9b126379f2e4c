"""Whether every setting of a study fits its model: asked of models without values, before anything is trained."""

from __future__ import annotations

from loratory.doubts import of_data, of_rates, warn
from loratory.errors import SettingsError, counted
from loratory.evaluation.metrics import LEADING
from loratory.inputs import Inputs
from loratory.methods import prepare
from loratory.methods.quantized import check_frozen
from loratory.models.load import skeleton
from loratory.problems import IN_WORDS
from loratory.setup import check_select
from loratory.store.naming import approach
from loratory.study.spec import StudySpec


def judged(spec: StudySpec, inputs: Inputs) -> StudySpec:
    """The study with the metric of its labels' problem, where the file says none.

    Raises:
        SettingsError: the metric is of another problem, the data sets are not of one, or an error in the target's own
            unit has no margin of its own.
        LoratoryError: data cannot be read.
    """
    first = {cell.data: cell for cell in reversed(spec.cells())}  # of its sizes the first
    problems = {
        data: inputs.dataset(spec.run(first[data], lr=None, seed=spec.seeds[0], fold=spec.rounds[0]).data).problem
        for data in spec.data
    }
    kinds = list(dict.fromkeys(problems.values()))
    if len(kinds) > 1:
        said = ", ".join(f"{data} is {IN_WORDS[problem]}" for data, problem in problems.items())
        raise SettingsError(f"{spec.name}: data: {said}; one metric compares a study: make one of each")
    if "select" not in spec.model_fields_set:
        spec = spec.model_copy(update={"select": LEADING[kinds[0]][0]})
    check_select(spec.select, kinds[0], f"{spec.name}: select")
    if spec.metric.unit.startswith("the target") and "margin" not in spec.model_fields_set:
        what = f"say which difference in {spec.metric.title} counts as none; it is in {spec.metric.unit}"
        raise SettingsError(f"{spec.name}: margin: {what}")
    return spec


def check_settings(spec: StudySpec, inputs: Inputs) -> None:
    """Let each method make each model ready once, and each data set give each size.

    Raises:
        SettingsError: a setting that its model does not allow, such as a rank above a layer's width; two sizes that are
            one, as there are no more training examples.
        LoratoryError: data or a model cannot be read.
    """
    asked = set()
    _check_sizes(spec, inputs)
    for cell in spec.cells():
        if (cell.model, cell.method) in asked:
            continue
        asked.add((cell.model, cell.method))
        run = spec.run(cell, lr=None, seed=spec.seeds[0], fold=spec.rounds[0])
        dataset = inputs.dataset(run.data)
        base = skeleton(inputs.model(cell.model), tuple(map(str, dataset.labels)), dataset.problem)
        said = f"{spec.name}: {approach(cell.method.model_dump(mode='json'))} on {cell.model}"
        try:
            check_frozen(run, trainable := prepare(base, run))
        except SettingsError as error:
            raise SettingsError(f"{said}: {error}") from None
        if len(cell.rungs) > 1 and trainable.companion is not None:
            raise SettingsError(f"{said}: it needs all steps of a run, and halving stops runs early; leave that out")


def warn_of_study(spec: StudySpec, inputs: Inputs) -> None:
    """Say once, in the log, what is doubtful about a study's data and rates, as of a single run."""
    rates = {method.name: method.rates for method in spec.methods}
    warn(line for name, tried in rates.items() for line in of_rates(f"{spec.name}: {name}: lr", tried))
    first = {cell.data: cell for cell in reversed(spec.cells())}
    for data in spec.data:
        run = spec.run(first[data], lr=None, seed=spec.seeds[0], fold=spec.rounds[0])
        warn(of_data(inputs.dataset(run.data), run.data, tested=spec.folds is None))


def _check_sizes(spec: StudySpec, inputs: Inputs) -> None:
    for data in spec.data if len(spec.limits) > 1 else ():
        sizes: dict[int, int | None] = {}
        for cell in spec.cells():
            if cell.data != data:
                continue
            run = spec.run(cell, lr=None, seed=spec.seeds[0], fold=spec.rounds[0])
            size = len(inputs.dataset(run.data).train)
            if sizes.setdefault(size, cell.limit) != cell.limit:
                one, other = (limit or "all" for limit in (sizes[size], cell.limit))
                said = counted(size, "training example")
                raise SettingsError(f"{spec.name}: {data} has {said}: limit {one} and {other} are the same; keep one")
