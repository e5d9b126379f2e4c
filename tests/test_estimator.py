"""The scikit-learn estimators: scikit-learn's own checks as far as they go with texts, and what they cannot see."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_array

import loratory
from loratory import TextClassifier, TextRegressor
from loratory.errors import InputError, SettingsError
from loratory.estimator import TextEstimator

SMALL = {"max_length": 32, "device": "cpu", "precision": "fp32", "lr": 0.01, "epochs": 1}

Make = Callable[..., TextClassifier]


@pytest.fixture(scope="module")
def make(tiny_bert: Path) -> Make:
    """(**parameters) -> a small classifier that has not been fitted."""
    return lambda method="head", **others: TextClassifier(method, tiny_bert, **{**SMALL, **others})


@pytest.fixture(scope="module")
def data(texts: list[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """X and y."""
    return [text for text, _ in texts], [label for _, label in texts]


@pytest.fixture(scope="module")
def fitted(make: Make, data: Any) -> TextClassifier:
    """A classifier that learnt something, which no test may change."""
    return make("lora", rank=4, epochs=4).fit(*data)


class OfNumbers(TextEstimator):
    """Writes rows of numbers as texts, because scikit-learn's checks give nothing else: of each feature a word of its
    size, and one of its digits. What is done with the texts is what the class itself does, which is checked.
    """

    def _texts(self, X: Any) -> list[Any]:
        def words(feature: int, value: float) -> str:
            size, digits = int(np.clip(np.round(2 * value) + 15, 0, 29)), int(abs(value) * 1e4)
            return f"w{6 + 30 * (feature % 3) + size} w{6 + digits % 90}"

        return super()._texts([" ".join(words(*cell) for cell in enumerate(row[:6])) for row in check_array(X)])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.one_d_array, tags.input_tags.two_d_array = False, False, True
        for own in (tags.classifier_tags, tags.regressor_tags):
            if own is not None:  # a random model on numbers written as words; texts are learnt below
                own.poor_score = True
        return tags


class ClassifierOfNumbers(OfNumbers, TextClassifier):
    """The classifier, given numbers."""


class RegressorOfNumbers(OfNumbers, TextRegressor):
    """The regressor, given numbers."""


NO_FEATURES = "a text has no features to count: there is no n_features_in_"
FAILING = dict.fromkeys(
    ("check_n_features_in", "check_n_features_in_after_fitting", "check_classifiers_train"), NO_FEATURES
)
"""scikit-learn's checks that fail, and must, with the reason."""

ROUNDING = "sums are rounded otherwise in batches of other texts: equal within 1e-6, as tested below, not within 1e-7"
SKIPPED = {
    "check_methods_sample_order_invariance": ROUNDING,
    "check_methods_subset_invariance": ROUNDING,
    "check_array_api_input": "its numbers are no texts, on whatever device",
}
"""Checks that mean nothing here, or pass and fail by the last digit, with the reason."""


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.DataConversionWarning")  # what a check of y (N, 1) asks for
@parametrize_with_checks(
    [ClassifierOfNumbers("head", **SMALL), RegressorOfNumbers("head", **SMALL)],
    expected_failed_checks=lambda estimator: FAILING,
    xfail_strict=True,
)
def test_scikit_learns_checks(estimator: OfNumbers, check: partial[None], model_directory: Any) -> None:
    if check.func.__name__ in SKIPPED:
        pytest.skip(SKIPPED[check.func.__name__])
    check(estimator.set_params(model=str(model_directory("bert", num_hidden_layers=1))))


WITHOUT_DATA = (
    "cloneable", "tags_renamed", "repr", "no_attributes_set_in_init", "parameters_default_constructible",
    "get_params_invariance", "set_params", "valid_tag_types", "do_not_raise_errors_in_init_or_set_params",
    "mixin_order",
)  # fmt: skip
"""scikit-learn's checks that give the estimator no numbers."""


@pytest.mark.parametrize("kind", [TextClassifier, TextRegressor])
@pytest.mark.parametrize("check", WITHOUT_DATA)
def test_scikit_learns_checks_that_need_no_data_take_the_classes_as_they_are(check: str, kind: Any) -> None:
    found = getattr(estimator_checks, f"check_{check}", None) or getattr(estimator_checks, f"check_estimator_{check}")
    found(kind.__name__, kind())


def lower(X: Any) -> list[str]:
    """A step before the estimator."""
    return [text.lower() for text in X]


@pytest.mark.parametrize("kind", [TextClassifier, TextRegressor])
def test_both_stand_in_pipelines_cross_validation_searches_and_pickles(kind: Any, tiny_bert: Path, data: Any) -> None:
    X, y = [text.upper() for text in data[0]], np.array(data[1])
    if kind is TextRegressor:
        y = np.where(y == "good", 1.5, -0.5)
    own = {**SMALL, "epochs": 6, "lr": 0.005}
    pipeline = make_pipeline(FunctionTransformer(lower), kind("standard", tiny_bert, **own))
    (_, (last, estimator)) = pipeline.steps
    assert cross_val_score(pipeline, X, y, cv=2).min() > (0.6 if kind is TextClassifier else 0.3)
    grid = {f"{last}__lr": [1e-6, 5e-3], f"{last}__settings": [{"warmup": 0.1}]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(np.array(X), y)
    assert search.best_params_[f"{last}__lr"] == 5e-3
    fitted = search.best_estimator_[-1]
    assert clone(fitted).get_params() == {**estimator.get_params(), "settings": {"warmup": 0.1}}
    assert fitted.set_params(device="cpu").get_params()["device"] == "cpu"
    assert not hasattr(fitted, "n_features_in_")
    again = pickle.loads(pickle.dumps(search))
    assert again.predict(X[:9]).tolist() == search.predict(X[:9]).tolist()
    assert again.predict(X[:9]).dtype == y.dtype


def test_it_learns_and_its_answers_agree(fitted: TextClassifier, data: Any) -> None:
    X, y = data
    assert fitted.classes_.tolist() == ["bad", "good"]
    assert fitted.score(X, y) > 0.9
    probabilities = fitted.predict_proba(X)
    assert (probabilities.shape, probabilities.dtype) == ((120, 2), np.float64)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-12)
    assert (fitted.predict(X) == fitted.classes_[probabilities.argmax(axis=1)]).all()
    one_by_one = np.concatenate([fitted.predict_proba([text]) for text in X[:9]])
    np.testing.assert_allclose(one_by_one, probabilities[:9], atol=1e-6)
    np.testing.assert_allclose(fitted.predict_proba(X[::-1]), probabilities[::-1], atol=1e-6)
    assert fitted.predict([""]).shape == (1,)


def test_validation_is_part_of_what_is_given_and_there_is_no_test(fitted: TextClassifier) -> None:
    sizes = fitted.record_.data["sizes"]
    assert (sizes["train"] + sizes["validation"], sizes["validation"], sizes["test"]) == (120, 12, 0)
    assert set(fitted.record_.quality) == {"validation"}


@pytest.mark.parametrize(
    ("bad", "good"),
    [(7, -3), (True, False), (1.0, 2.0), (" z", "a "), ("nan", "x"), ("1", "01")],
    ids=repr,
)
def test_labels_come_back_as_they_were_given(bad: Any, good: Any, make: Make, data: Any) -> None:
    X, y = data
    given = np.array([bad if label == "bad" else good for label in y])
    one = make("standard", epochs=3).fit(X, given)
    assert one.classes_.dtype == given.dtype
    assert one.classes_.tolist() == sorted({bad, good})
    said = one.predict(X)
    assert said.dtype == given.dtype
    assert (said == given).mean() > 0.6  # names that are exchanged would give less than half


def test_an_array_a_column_and_a_list_are_the_same(fitted: TextClassifier, make: Make, data: Any) -> None:
    X, y = data[0][:40], data[1][:40]
    expected = fitted.predict_proba(X)
    for given in (np.array(X), np.array(X, dtype=object), pd.Series(X, index=range(100, 140)), tuple(X)):
        assert (fitted.predict_proba(given) == expected).all()
    one = make().fit(X, y)
    two = make().fit(pd.Series(X), pd.Series(y, dtype="category"))
    assert (one.predict_proba(X) == two.predict_proba(X)).all()
    assert two.predict(X[:1])[0] in ("bad", "good")


def test_the_seed_decides_everything_that_is_drawn(make: Make, data: Any) -> None:
    X, y = data[0][:40], data[1][:40]
    zero, again, one, drawn = (
        make(random_state=seed).fit(X, y) for seed in (0, 0, np.int64(1), np.random.RandomState(5))
    )
    assert (zero.predict_proba(X) == again.predict_proba(X)).all()
    assert (zero.predict_proba(X) != one.predict_proba(X)).any()
    assert (one.record_.spec["seed"], one.record_.spec["data"]["split_seed"]) == (1, 1)
    assert drawn.record_.spec["seed"] == np.random.RandomState(5).randint(2**31)


def test_parameters_are_flags_and_settings_are_the_others(make: Make, data: Any) -> None:
    settings = {"targets": "all-linear", "warmup": 0.5}
    one = clone(make("lora", rank=2, validation_fraction=0.25, settings=settings))
    assert one.get_params()["settings"] == settings
    spec = one.set_params(rank=3).fit(*data).record_.spec
    assert (spec["method"]["rank"], spec["method"]["targets"], spec["training"]["warmup"]) == (3, "all-linear", 0.5)
    assert one.record_.data["sizes"]["validation"] == 30
    assert not hasattr(clone(one), "classes_")


def test_a_pickle_holds_the_run_and_not_the_model_that_was_loaded(fitted: TextClassifier, data: Any) -> None:
    X, _ = data
    expected = fitted.predict_proba(X)
    kept = pickle.dumps(fitted)
    assert len(kept) < 60_000  # an adapter of a tiny model, its tokenizer and record; the base is 10 times that
    again = pickle.loads(kept)
    assert (again.predict_proba(X) == expected).all()
    assert again.classes_.tolist() == ["bad", "good"]
    assert again.record_ == fitted.record_
    assert abs(len(pickle.dumps(again)) - len(kept)) < 100


def test_what_is_saved_is_a_run(fitted: TextClassifier, data: Any, tmp_path: Path) -> None:
    X, y = data
    place = fitted.save(tmp_path / "run")
    assert loratory.predict(place, X, device="cpu", precision="fp32").chosen == fitted.predict(X).tolist()
    found = loratory.evaluate(place, split="validation", device="cpu", precision="fp32")
    assert found.quality.accuracy == fitted.record_.quality["validation"]["accuracy"]
    assert loratory.evaluate(place, X[:9], y[:9], device="cpu").trained_on is not None
    with pytest.raises(loratory.StorageError, match="run"):
        fitted.save(place)


X, Y = ["w0 w9", "w1 w8", "w3 w7", "w4 w6"], ["a", "a", "b", "b"]
WRONG: dict[str, tuple[Any, Any, dict[str, Any], type[loratory.LoratoryError], str]] = {
    "one string": ("w0", Y, {}, loratory.InputError, "X: str given"),
    "no text": ([], [], {}, loratory.InputError, "X: no text"),
    "a number": ([*X[:3], 4], Y, {}, loratory.InputError, "X: int at position 3"),
    "a gap": (
        pd.Series([*X[:3], None]),
        Y,
        {},
        loratory.InputError,
        r"^X: no text \(nan\) at position 3; give strings",
    ),
    "None": ([X[0], None, *X[2:]], Y, {}, loratory.InputError, r"^X: no text \(None\) at position 1; give strings$"),
    "NaN": (np.array([*X[:3], np.nan], object), Y, {}, loratory.InputError, r"^X: no text \(nan\) at position 3; give"),
    "NA": (pd.array([*X[:3], None], "string"), Y, {}, loratory.InputError, r"^X: no text \(<NA>\) at position 3; give"),
    "NA in a pair": ([("w0", pd.NA)] * 4, Y, {}, loratory.InputError, r"^X: no text \(<NA>\) at position 0; give"),
    "a table": (np.array([X]), Y, {}, loratory.InputError, "X: 2 dimensions"),
    "blank": ([*X[:3], " "], Y, {}, loratory.InputError, r"without a text \(position 3\)"),
    "surrogate": ([*X[:3], "\ud800"], Y, {}, loratory.InputError, "half a surrogate pair at position 3"),
    "lengths": (X, Y[:3], {}, loratory.InputError, "X has 4 texts, y 3 labels"),
    "no y": (X, None, {}, loratory.InputError, "target y is None"),
    "one class": (X, ["a"] * 4, {}, loratory.InputError, "1 class only"),
    "mixed": (X, ["a", "a", 3, None], {}, loratory.InputError, "^y: "),
    "continuous": (X, [0.1, 0.2, 0.3, 0.4], {}, loratory.InputError, "^y: Unknown label type"),
    "gap in y": (X, [1.0, 1.0, 2.0, np.nan], {}, loratory.InputError, r"^y: nothing \(nan\) at position 3; leave"),
    "gap among words": (X, ["a", "a", np.nan, "b"], {}, loratory.InputError, r"^y: nothing \(nan\) at position 2"),
    "None among words": (X, ["a", None, "b", "b"], {}, loratory.InputError, r"^y: nothing \(None\) at position 1"),
    "NA in y": (X, pd.Series(["a", "a", "b", None], dtype="string"), {}, loratory.InputError, "^y: nothing .* 3;"),
    "NA of whole numbers": (X, pd.array([1, 1, 2, None], dtype="Int64"), {}, loratory.InputError, "^y: nothing .* 3;"),
    "gap in a category": (X, pd.Categorical(["a", "a", None, "b"]), {}, loratory.InputError, "^y: nothing .* 2;"),
    "one and its name": (X, [1, "1", 1, "1"], {}, loratory.InputError, "^y: text at position 1, none at position 0"),
    "infinite": (X, [1.0, 1.0, 2.0, np.inf], {}, loratory.InputError, "^y: Input y contains infinity"),
    "rare": (X, ["a", "a", "a", "b"], {}, loratory.InputError, "has 1 distinct text .position 3., too few"),
    "another's": (X, Y, {"rank": 2}, loratory.SettingsError, "^rank is not a setting of head"),
    "value": (X, Y, {"epochs": 0}, loratory.SettingsError, "^epochs 0"),
    "unknown": (X, Y, {"settings": {"epoch": 3}}, loratory.SettingsError, "did you mean 'epochs'"),
    "twice": (X, Y, {"settings": {"lr": 3}}, loratory.SettingsError, "'lr'; give it as a parameter"),
    "dotted": (X, Y, {"settings": {"training.lr": 3}}, loratory.SettingsError, "give it as a parameter"),
    "data": (X, Y, {"settings": {"test_fraction": 0.2}}, loratory.SettingsError, "stand for it"),
    "seed": (X, Y, {"random_state": -1}, loratory.SettingsError, "random_state -1"),
    "method": (X, Y, {"method": "haed"}, loratory.SettingsError, "did you mean 'head'"),
    "model": (X, Y, {"model": "/gone"}, loratory.ModelError, "/gone"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_bad_input_is_one_error_of_the_tree(wrong: str, make: Make) -> None:
    texts, labels, parameters, kind, said = WRONG[wrong]
    one = make().set_params(**parameters)
    with pytest.raises(kind, match=said) as caught:
        one.fit(texts, labels)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError) == (kind is loratory.InputError)
    assert not hasattr(one, "classes_")


def test_what_was_not_fitted_says_so(make: Make, fitted: TextClassifier, tmp_path: Path) -> None:
    for ask in (make().predict, make().predict_proba, make().save):
        with pytest.raises(NotFittedError):
            ask(tmp_path)
    with pytest.raises(loratory.InputError, match="int at position 1"):
        fitted.predict(["w1", 3])


def test_an_indicator_matrix_comes_back_as_one(tiny_bert: Path, data: Any, tmp_path: Path) -> None:
    X, y = data
    given = np.array([[label == "good", label == "bad", number % 3 == 0] for number, label in enumerate(y)], dtype=int)
    one = TextClassifier("standard", tiny_bert, **{**SMALL, "epochs": 4, "lr": 0.005}).fit(X, given)
    said, probabilities = one.predict(X), one.predict_proba(X)
    assert (said.shape, probabilities.shape, one.classes_.tolist()) == ((120, 3), (120, 3), [0, 1, 2])
    assert (said == (probabilities >= np.array(one.record_.thresholds))).all()
    assert (said[:, :2] == given[:, :2]).mean() > 0.7
    assert one.score(X, given) == pytest.approx((said == given).all(axis=1).mean())
    again = pickle.loads(pickle.dumps(one))
    assert (again.predict(X[:5]) == said[:5]).all()
    for wrong, message in ((given * 2, "holds 0 and 1 alone"), (given * [1, 1, 0], "the label of column 2")):
        with pytest.raises(InputError, match=message):
            TextClassifier("head", tiny_bert, **SMALL).fit(X, wrong)


def test_a_regressor_learns_numbers(tiny_bert: Path, data: Any) -> None:
    X, y = data
    numbers = np.array([50.0 if label == "good" else 30.0 for label in y]) + np.arange(120) % 2
    one = TextRegressor("standard", tiny_bert, **{**SMALL, "epochs": 6, "lr": 0.005}).fit(X, numbers)
    said = one.predict(X)
    assert (said.shape, said.dtype) == ((120,), np.float64)
    assert one.score(X, numbers) > 0.5  # R²
    assert clone(one).get_params() == one.get_params()
    whole = TextRegressor("head", tiny_bert, **SMALL).fit(X, numbers.astype(int))
    assert whole.record_.problem == "regression"
    for wrong, message in (
        ([1.0] * 120, "nothing to learn"),
        (["x"] * 120, "y: could not convert"),
        ([*numbers[:119], np.nan], r"y: nothing \(nan\) at position 119"),
        ([*numbers[:119], pd.NA], r"y: nothing \(<NA>\) at position 119"),
        ([*numbers[:119], "1"], "y: text at position 119, none at position 0"),
        (None, "TextRegressor requires y to be passed"),
    ):
        with pytest.raises(InputError, match=message):
            TextRegressor("head", tiny_bert, **SMALL).fit(X, wrong)


def test_the_readme_and_the_docstring_say_which_names_are_parameters(make: Make) -> None:
    readme = " ".join((Path(__file__).parent.parent / "README.md").read_text("utf8").split())
    sentence = readme.partition("Its parameters, which a grid may vary, are ")[2].partition(";")[0]
    own = {*make().get_params()} - {"settings"}
    assert {name.strip("` ,") for name in sentence.replace(" and ", ",").split(",") if name.strip()} == own
    assert '`settings={"rank": 2}`' in " ".join((TextEstimator.__doc__ or "").split())
    with pytest.raises(SettingsError, match="settings: 'rank'; give it as a parameter"):
        make("lora", settings={"rank": 2}).fit(["a", "b", "c", "d"], ["x", "y", "x", "y"])
