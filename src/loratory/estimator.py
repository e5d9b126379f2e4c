"""scikit-learn's estimators of texts: `fit` makes a run as :func:`loratory.train` does, and keeps it in the object.

    X, y ─▶ train and validation ─▶ run ─▶ its files, in memory ─▶ predict

A pickle of a fitted estimator holds the run's files, weights among them, and so stands alone; of an adapter it holds
the adapter, whose base is found again by its name and compared by its digest. Unpickling runs code, as it does with
every Python object: to hand a model on, `save` it as a run's directory, which loads no code.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import assert_all_finite, check_is_fitted, column_or_1d

from loratory import api, predicting
from loratory.data.cells import absent
from loratory.data.columns import Text
from loratory.data.files import encodable
from loratory.disk.manifest import MANIFEST
from loratory.errors import DataError, InputError, SettingsError, counted, first_line
from loratory.given import as_texts, called, not_text
from loratory.keywords import as_keywords
from loratory.problems import FLAG_OF, MULTI, REGRESSION, SINGLE, Problem
from loratory.report.predictions import Answers, Predicted, PredictedLabels, PredictedNumbers
from loratory.spec import HardwareSpec, validated
from loratory.store.directory import claim, commit, staging
from loratory.trained import Trained, open_run, with_weights

RESERVED = (
    *("texts", "labels", "dataset", "text_column", "pair_column", "label_column", "validation", "test"),
    *("test_fraction", "seed", "split_seed", "folds", "fold", "output", "tracker", "on_step"),
    *("problem", "label_separator"),
)
"""Keywords of `train` that are no settings here: X and y are the data, and `random_state` is the seed."""

SEEDS = 2**31
"""Seeds are drawn below this where `random_state` is no seed itself."""


class TextEstimator(BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """What :class:`TextClassifier` and :class:`TextRegressor` share: parameters, training, and the run in memory.

    X is a list, an array (N,) or a column of N strings, or N pairs of strings that are judged together, as tuples or an
    array (N, 2). `validation_fraction` of the examples, cut as `loratory train` cuts them, are not trained on: they
    choose the epoch where `settings` say `keep="best"`, and are scored in `record_`. There is no test split: what is to
    be tested is not given to `fit`.

    As `loratory.train` does, `fit` leaves the examples in a file in `given` in the data directory, called by its
    digest, and their tokens in `tokens` there: the run's record names that file, from which a run that was saved is
    evaluated, exported and run again, and fits of the same examples share it. Whoever needs none of these may remove
    it. The same X, y, parameters, machine and versions give the same estimator.

    Args:
        method: one of `loratory.methods.METHODS`, or `peft:TYPE`.
        model: `minilm`, a directory, or a hub id.
        rank: of the methods that have one.
        epochs, batch_size, lr, max_length, device, precision: as the flags of `loratory train`.
        validation_fraction: share of the examples that are not trained on, between 0 and 1.
        random_state: the seed of everything that is drawn, the split too. None or a `RandomState` draws a seed.
        settings: any other flag of `loratory train` by its name, such as `{"targets": "all-linear"}`. What stands above
            is a parameter and no setting: `rank=2`, not `settings={"rank": 2}`, which `fit` refuses.

    None stands for a setting's own default.

    Attributes:
        record_: the run's record: settings, parameters, cost, quality on validation.
    """

    def __init__(
        self,
        method: str = "lora",
        model: str | PathLike[str] = "minilm",
        *,
        rank: int | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        max_length: int | None = None,
        validation_fraction: float | None = None,
        device: str | None = None,
        precision: str | None = None,
        random_state: int | np.random.RandomState | None = 0,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.method = method
        self.model = model
        self.rank = rank
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.max_length = max_length
        self.validation_fraction = validation_fraction
        self.device = device
        self.precision = precision
        self.random_state = random_state
        self.settings = settings

    def _train(self, texts: list[Text], labels: Sequence[Any] | NDArray[Any], problem: Problem) -> None:
        """Make the run, and keep it."""
        if len(texts) != len(labels):
            sizes = f"X has {counted(len(texts), 'text')}, y {counted(len(labels), 'label')}"
            raise InputError(f"{sizes}: inconsistent numbers of samples; give each text its label")
        if len(texts) < 2:
            raise InputError("X has 1 sample; give more, as some are for validation")
        seed = self._seed()
        if seed < 0:
            raise SettingsError(f"random_state {seed}: give 0 or more")
        flags = {**self._flags(), "problem": FLAG_OF[problem], "seed": seed, "split_seed": seed, "test_fraction": 0}
        with tempfile.TemporaryDirectory() as place, _input_errors(), as_keywords(), called("X and y"):
            run = api.train(texts, labels, output=Path(place) / "run", checkpoint_every="never", **flags)
            fitted = _Fitted({path.name: path.read_bytes() for path in run.directory.iterdir()})
        self.record_ = run.record
        self._fitted = fitted

    def _answers(self, X: Iterable[Text]) -> Answers:
        """What the model says of the texts."""
        check_is_fitted(self)
        texts = self._texts(X)
        given = {"device": self.device, "precision": self.precision}
        hardware = validated(HardwareSpec, {key: value for key, value in given.items() if value is not None})
        with _input_errors():
            return predicting.answers("", self._fitted.opened(hardware), texts)

    def save(self, directory: str | PathLike[str]) -> Path:
        """Write the run's directory, which every command and function that takes a run takes; give its path.

        Raises:
            NotFittedError: `fit` was not called.
            StorageError: something stands there, or it cannot be written.
        """
        check_is_fitted(self)
        return self._fitted.write(Path(directory))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.one_d_array, tags.input_tags.two_d_array = True, True, False
        return tags

    def _texts(self, X: Iterable[Text]) -> list[Text]:
        with _input_errors():
            texts = as_texts(X, "X")
        for position, text in enumerate(texts):
            wrong = not_text(text)
            if wrong is not None:
                raise InputError(f"X: {wrong} at position {position}; give strings")
            if not encodable(text):
                raise InputError(f"X: half a surrogate pair at position {position}; mend the text")
        if not texts:
            raise InputError("X: no text; give some")
        return texts

    def _flags(self) -> dict[str, Any]:
        own = {name: value for name, value in self.get_params(deep=False).items() if name not in _OURS}
        for name in self.settings or {}:
            bare = name.rpartition(".")[2]
            if bare in own or bare in RESERVED:
                remedy = "give it as a parameter" if bare in own else "X, y, random_state and save stand for it"
                raise SettingsError(f"settings: {name!r}; {remedy}")
        return {**own, **(self.settings or {})}

    def _seed(self) -> int:
        if isinstance(self.random_state, Integral):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(SEEDS))


class TextClassifier(ClassifierMixin, TextEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """Fine-tune a pretrained transformer on texts and their classes; all else as :class:`TextEstimator` says.

    y holds N labels: strings, whole numbers or true/false, two classes or more, each with two distinct texts or more.
    Where a text may have several labels, y is scikit-learn's indicator matrix, (N, C) of 0 and 1, which
    `sklearn.preprocessing.MultiLabelBinarizer` makes of lists; a label is predicted from a probability on that
    `validation_fraction` of the examples chose.

    Attributes:
        classes_: (C,) the labels in order, of y's own type; of an indicator matrix the numbers of its columns.
    """

    def fit(self, X: Iterable[Text], y: Iterable[Any]) -> Self:
        """Train on N texts `X` and their N labels `y`, (N,), or (N, C) of 0 and 1.

        Raises:
            InputError: X or y cannot be learned from; positions count from 0.
            SettingsError: a parameter cannot be meant, or does not fit the method.
            LoratoryError: the model cannot be read, or the training failed.
        """
        texts = self._texts(X)
        if _is_matrix(y):
            sets = _indicator(y)
            classes = np.arange(sets.shape[1])
            self._train(texts, [np.flatnonzero(row).tolist() for row in sets], MULTI)
        else:
            classes, ids = _classes(y)
            self._train(texts, classes[ids] if _are_names(classes) else ids, SINGLE)
        self.classes_ = classes
        return self

    def predict(self, X: Iterable[Text]) -> NDArray[Any]:
        """The most probable label of each text, (N,); or its labels, (N, C) of 0 and 1, as y had them.

        Raises:
            NotFittedError: `fit` was not called.
            InputError: X is no sequence of strings, or empty; a blank string gets a label.
            LoratoryError: the model cannot be loaded.
        """
        said = self._answers(X)
        if isinstance(said, PredictedLabels):
            return said.sets
        chosen: NDArray[Any] = self.classes_[_probabilities(said).argmax(axis=1)]
        return chosen

    def predict_proba(self, X: Iterable[Text]) -> NDArray[np.float64]:
        """The probability of each class for each text: (N, C), in the order of `classes_`; of each label its own.

        Raises:
            As `predict`.
        """
        return _probabilities(self._answers(X))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class TextRegressor(RegressorMixin, TextEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """Fine-tune a pretrained transformer on texts and their numbers; all else as :class:`TextEstimator` says.

    y holds N finite numbers.
    """

    def fit(self, X: Iterable[Text], y: Iterable[Any]) -> Self:
        """Train on N texts `X` and their N numbers `y`.

        Raises:
            As :meth:`TextClassifier.fit`.
        """
        texts = self._texts(X)
        self._train(texts, _numbers(y).tolist(), REGRESSION)
        return self

    def predict(self, X: Iterable[Text]) -> NDArray[np.float64]:
        """The number of each text: (N,).

        Raises:
            As :meth:`TextClassifier.predict`.
        """
        said = self._answers(X)
        assert isinstance(said, PredictedNumbers)
        return said.numbers


def _probabilities(said: Answers) -> NDArray[np.float64]:
    assert isinstance(said, Predicted | PredictedLabels)
    return said.probabilities


_OURS = ("random_state", "settings")
"""Parameters that are no flags."""


class _Fitted:
    """A committed run in memory: its files by name, and its model once it was asked for."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)
        self._opened: tuple[HardwareSpec, Trained] | None = None

    def opened(self, hardware: HardwareSpec) -> Trained:
        """The model, loaded once for each hardware, through the door of every run."""
        if self._opened is None or self._opened[0] != hardware:
            self._opened = None
            with tempfile.TemporaryDirectory() as place:
                path = self.write(Path(place) / "run")
                self._opened = hardware, open_run(path, with_weights(path), hardware=hardware)
        return self._opened[1]

    def write(self, directory: Path) -> Path:
        """Commit the run anew, in `directory`."""
        with claim(directory, doing="writing"), staging(directory) as stage:
            for name, content in self.files.items():
                if name != MANIFEST:
                    (stage / name).write_bytes(content)
            commit(stage, directory)
        return directory

    def __getstate__(self) -> dict[str, Any]:
        return {"files": self.files, "_opened": None}


def _numbers(y: Iterable[Any]) -> NDArray[np.float64]:
    """N finite numbers."""
    with _sklearn_errors():
        _check_labels(y, TextRegressor, "numbers")
        numbers: NDArray[np.float64] = column_or_1d(y, dtype=np.float64)
        assert_all_finite(numbers, input_name="y")
    return numbers


def _check_labels(y: Any, kind: type[TextEstimator], what: str) -> None:
    """Refuse what an array of `y` would hide: in a list that has a text too, NaN is the text nan, and 1 the text 1."""
    if y is None:
        raise InputError(f"{kind.__name__} requires y to be passed, but the target y is None; give the {what} of X")
    first: dict[bool, int] = {}
    for position, label in enumerate(column_or_1d(y, warn=True, dtype=object)):
        if absent(label):
            raise InputError(f"y: nothing ({label}) at position {position}; leave the example out")
        first.setdefault(isinstance(label, str), position)
    if len(first) > 1:
        raise InputError(f"y: text at position {first[True]}, none at position {first[False]}; give labels of one type")


def _is_matrix(y: Any) -> bool:
    """Whether it has two dimensions, also as a list of rows."""
    try:
        shape: tuple[int, ...] = np.shape(y) if isinstance(y, list | tuple) else getattr(y, "shape", ())
    except ValueError:  # rows of several lengths
        return False
    return len(shape) == 2 and shape[1] > 1


def _indicator(y: Any) -> NDArray[np.int64]:
    """(N, C) of 0 and 1, each column with some of both or of 1 alone."""
    sets = np.asarray(y.toarray() if hasattr(y, "toarray") else y)
    if sets.dtype == object or not np.isin(sets, (0, 1)).all():
        raise InputError("y: an array of two dimensions holds 0 and 1 alone, a column for each label")
    empty = np.flatnonzero(~sets.any(axis=0))
    if len(empty):
        raise InputError(f"y: no text has the label of column {empty[0]}; leave the column out, or add a text")
    found: NDArray[np.int64] = sets.astype(np.int64)
    return found


def _classes(y: Iterable[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The classes (C,) in order, and the position among them of each of N labels."""
    with _sklearn_errors():
        _check_labels(y, TextClassifier, "labels")
        column = column_or_1d(y)
        assert_all_finite(column, input_name="y")
        check_classification_targets(column)
        classes, ids = np.unique(column, return_inverse=True)
    if len(classes) < 2:
        raise InputError(f"y: {counted(len(classes), 'class', 'classes')} only; at least two classes are needed")
    return classes, ids


@contextmanager
def _sklearn_errors() -> Iterator[None]:
    """What scikit-learn and numpy say of y is our error."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, TypeError) as error:
        raise InputError(f"y: {first_line(error)}") from error


def _are_names(classes: NDArray[Any]) -> bool:
    """Whether the run can call its classes so, in the same order; else it calls them by their positions."""
    names = classes.tolist()
    if all(isinstance(name, str) for name in names):
        return all(name == name.strip() and name and name.casefold() != "nan" and encodable(name) for name in names)
    return classes.dtype.kind in "biuf"


@contextmanager
def _input_errors() -> Iterator[None]:
    """Data that cannot be learned from is a ValueError too."""
    try:
        yield
    except InputError:
        raise
    except DataError as error:
        raise InputError(str(error)) from error
