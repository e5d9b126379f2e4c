"""Whether every setting of a study fits its model: asked of models without values, before anything is trained."""

from __future__ import annotations

from loratory.errors import SettingsError
from loratory.inputs import Inputs
from loratory.methods import prepare
from loratory.methods.quantized import check_frozen
from loratory.models.load import skeleton
from loratory.store.naming import approach
from loratory.study.spec import StudySpec


def check_settings(spec: StudySpec, inputs: Inputs) -> None:
    """Let each method make each model ready once.

    Raises:
        SettingsError: a setting that its model does not allow, such as a rank above a layer's width.
        LoratoryError: data or a model cannot be read.
    """
    asked = set()
    for cell in spec.cells():
        if (cell.model, cell.method) in asked:
            continue
        asked.add((cell.model, cell.method))
        run = spec.run(cell, lr=None, seed=spec.seeds[0])
        dataset = inputs.dataset(run.data)
        base = skeleton(inputs.model(cell.model), tuple(map(str, dataset.labels)), dataset.problem)
        try:
            check_frozen(run, prepare(base, run))
        except SettingsError as error:
            said = approach(cell.method.model_dump(mode="json"))
            raise SettingsError(f"{spec.name}: {said} on {cell.model}: {error}") from None
