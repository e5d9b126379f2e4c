"""What runs read: data sets, tokens and models' files. Each is read once, however many runs of a process need it."""

from __future__ import annotations

from loratory.data import Dataset, Labelled, data_directory, make_dataset, tokenize
from loratory.models.source import Pretrained, pretrained
from loratory.spec import DataSpec


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
        self._datasets: dict[DataSpec, Dataset] = {}
        self._models: dict[str, Pretrained] = {}
        self._tokens: dict[tuple[DataSpec, str, str], Labelled] = {}

    def dataset(self, spec: DataSpec) -> Dataset:
        """The data set that `spec` names, divided.

        Raises:
            LoratoryError: as :func:`loratory.data.make_dataset`.
        """
        if spec not in self._datasets:
            self._datasets[spec] = make_dataset(spec)
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
        return self._tokens[key]
