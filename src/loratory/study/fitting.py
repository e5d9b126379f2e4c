"""Whether every setting of a study fits its model: asked of models without values, before anything is trained."""

from __future__ import annotations

from loratory.errors import SettingsError, counted
from loratory.inputs import Inputs
from loratory.methods import prepare
from loratory.methods.quantized import check_frozen
from loratory.models.load import skeleton
from loratory.store.naming import approach
from loratory.study.spec import StudySpec


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
        labels = tuple(str(label) for label in inputs.dataset(run.data).labels)
        base = skeleton(inputs.model(cell.model), labels)
        try:
            check_frozen(run, prepare(base, run))
        except SettingsError as error:
            said = approach(cell.method.model_dump(mode="json"))
            raise SettingsError(f"{spec.name}: {said} on {cell.model}: {error}") from None


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
