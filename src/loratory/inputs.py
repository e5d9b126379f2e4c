"""What runs read: data sets, tokens and models' files. Each is read once, however many runs of a process need it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loratory.data import Dataset, Labelled, Source, data_directory, divided, load_source, tokenize
from loratory.data.dividing import fold_of
from loratory.models.source import Pretrained, pretrained
from loratory.spec import DataSpec, RunSpec

if TYPE_CHECKING:
    from loratory.estimating import Estimate

MOST_TABLES = 60
"""Parts whose tokens stay mapped: each holds up to three files open, of which a process may have some hundred."""

_DIVIDES = ("folds", "fold", "limit", "split_seed", "validation_fraction", "test_fraction", "max_length")
"""Settings that a source is read without."""


class Inputs:
    """Data sets, tokens and models' files as they were read, for the runs that come after.

    A data set that changes on disk meanwhile is still the one that was read; a model's files are read anew when they
    change, since every run loads its weights from them.
    """

    def __init__(self, *, weights: bool = True) -> None:
        """
        Args:
            weights: whether a model's weights must be there.
        """
        self._weights = weights
        self._sources: dict[DataSpec, Source] = {}
        self._datasets: dict[DataSpec, Dataset] = {}
        self._models: dict[str, Pretrained] = {}
        self._tokens: dict[tuple[DataSpec, str, str], Labelled] = {}
        self.alone: dict[RunSpec, Estimate] = {}
        """What runs of this kind take by themselves, where that was measured."""

    def dataset(self, spec: DataSpec) -> Dataset:
        """The data set that `spec` names, divided.

        Raises:
            LoratoryError: as :func:`loratory.data.make_dataset`.
        """
        if spec not in self._datasets:
            fold_of(spec)  # what cannot be meant is refused before anything is read
            of_source = spec.model_copy(update={key: DataSpec.model_fields[key].default for key in _DIVIDES})
            if of_source not in self._sources:
                self._sources[of_source] = load_source(of_source)
            self._datasets[spec] = divided(self._sources[of_source], spec)
        return self._datasets[spec]

    def model(self, name: str) -> Pretrained:
        """The files of the model called `name`.

        Raises:
            LoratoryError: as :func:`loratory.models.source.pretrained`.
        """
        if name not in self._models or not self._models[name].unchanged():
            self._models[name] = pretrained(name, weights=self._weights)
        return self._models[name]

    def tokens(self, spec: DataSpec, part: str, model: Pretrained) -> Labelled:
        """One part of the data set as token sequences of the model, from the cache on disk where it holds them."""
        key = (spec, part, model.digest or model.name)
        if key not in self._tokens:
            split = getattr(self.dataset(spec), part)
            table = tokenize(split, model.tokenizer, spec.max_length, data_directory() / "tokens", types=model.types)
            self._tokens[key] = Labelled(table, split.labels)
            while len(self._tokens) > MOST_TABLES:
                del self._tokens[next(iter(self._tokens))]
        return self._tokens[key]
