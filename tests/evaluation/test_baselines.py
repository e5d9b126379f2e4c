import json
from types import SimpleNamespace

import numpy as np
import pytest

from loratory.evaluation.baselines import C_GRID, baselines


def split(*rows: tuple[str, int]) -> SimpleNamespace:
    return SimpleNamespace(
        texts=tuple(text for text, _ in rows), labels=np.array([label for _, label in rows], np.int64)
    )


def dataset(labels: tuple[str, ...], train, test, validation=None) -> SimpleNamespace:
    return SimpleNamespace(
        labels=labels, train=split(*train), validation=split(*(validation or train)), test=split(*test)
    )


REVIEWS = [("a wonderful, moving film", 1), ("I hated this horrible mess", 0), ("great acting, I love it", 1)]
POLAR = ("Negative", "positive")


def test_majority_is_exact_and_the_lowest_of_equals() -> None:
    majority = baselines(dataset(POLAR, REVIEWS, REVIEWS))[0]
    assert majority.quality.accuracy == pytest.approx(2 / 3)
    assert majority.quality.confusion == ((0, 1), (0, 2))
    assert majority.settings == {"class": "positive"}
    assert majority.quality.log_loss is None
    assert baselines(dataset(POLAR, REVIEWS[:2], REVIEWS))[0].settings == {"class": "Negative"}


def test_vader_takes_the_sign_and_gives_ties_to_the_majority() -> None:
    vader = baselines(dataset(POLAR, REVIEWS, [*REVIEWS, ("a table and a chair", 1)]))[1]
    assert vader.quality.accuracy == 1.0
    assert vader.settings == {"ties": "positive"}
    assert vader.parameters == 0


def test_vader_has_a_neutral_class_if_the_labels_do() -> None:
    names = ("neutral", "positive", "negative")
    rows = [("a table and a chair", 0), ("I love it", 1), ("I hate it", 2)]
    assert baselines(dataset(names, rows, rows))[1].quality.accuracy == 1.0


@pytest.mark.parametrize("names", [("spam", "ham"), ("0", "1"), ("negative", "positive", "mixed")])
def test_vader_is_left_out_for_other_labels(names: tuple[str, ...]) -> None:
    vader = baselines(dataset(names, REVIEWS, REVIEWS))[1]
    assert vader.quality is None
    assert "labels" in vader.reason


def test_tfidf_separates_what_words_separate() -> None:
    rng = np.random.default_rng(0)
    words = (["alpha", "beta", "gamma"], ["rouge", "vert", "bleu"], ["eins", "zwei", "drei"])

    def rows(n: int) -> list[tuple[str, int]]:
        return [(" ".join(rng.choice(words[label], 4)), label) for label in rng.integers(0, 3, n)]

    found = baselines(dataset(("greek", "french", "german"), rows(90), rows(30), rows(30)))[2]
    assert found.quality.accuracy == 1.0
    assert found.quality.log_loss < np.log(3)
    assert found.settings["C"] in C_GRID
    assert found.parameters == 3 * found.settings["terms"] + 3
    assert found.seconds > 0
    json.dumps(found.record(), allow_nan=False)


def test_tfidf_with_two_classes_has_probabilities_that_fit_its_predictions() -> None:
    found = baselines(dataset(POLAR, REVIEWS, REVIEWS))[2]
    assert found.quality.accuracy == 1.0
    assert 0 < found.quality.log_loss < np.log(2)
    assert found.parameters == found.settings["terms"] + 1


def test_tfidf_without_words_or_with_one_class_is_left_out() -> None:
    assert "no words" in baselines(dataset(POLAR, [("!!", 0), ("??", 1)], REVIEWS))[2].reason
    assert "one class" in baselines(dataset(POLAR, REVIEWS[:1], REVIEWS))[2].reason


def test_a_class_missing_from_training_gives_labels_without_probabilities() -> None:
    found = baselines(dataset(("a", "b", "c"), REVIEWS, [*REVIEWS, ("other", 2)]))[2]
    assert found.quality.log_loss is None
    assert found.quality.per_class["c"].recall == 0.0


def test_sets_of_labels_have_a_commonest_set_and_a_regression_for_each_label() -> None:
    words = {"a": "alpha", "b": "beta", "c": "gamma"}
    sets = ("a", "ab", "c", "a")
    rows = [(names, " ".join(words[one] for one in names) + f" filler{n}") for n in range(30) for names in sets]
    labels = np.array([[int(name in names) for name in "abc"] for names, _ in rows])
    part = SimpleNamespace(texts=tuple(text for _, text in rows), labels=labels)
    found = SimpleNamespace(name="x", labels=("a", "b", "c"), train=part, validation=part, test=part)
    constant, fitted = baselines(found)
    assert constant.settings == {"labels": ["a"]}
    assert constant.quality.value("subset_accuracy") == 0.5
    assert constant.quality.value("binary_log_loss") is None
    assert fitted.quality.value("f1_micro") == 1.0
    assert fitted.parameters == 3 * fitted.settings["terms"] + 3
    json.dumps(fitted.record(), allow_nan=False)


@pytest.mark.parametrize("name", ["hutto:movies", "own.csv"])
def test_numbers_have_a_mean_vader_where_they_are_ratings_and_a_ridge(name: str) -> None:
    texts = ("I hate this horrible mess", "a table", "I love it, great", "great", "horrible", "love it") * 5
    part = SimpleNamespace(texts=texts, labels=np.array([-3.0, 0.0, 3.5, 2.0, -2.0, 2.5] * 5))
    found = SimpleNamespace(name=name, labels=("rating",), train=part, validation=part, test=part)
    mean, vader, ridge = baselines(found)
    assert mean.settings == {"mean": pytest.approx(0.5)}
    assert (mean.quality.value("pearson"), mean.quality.value("r2")) == (0.0, pytest.approx(0.0))
    assert ridge.quality.value("r2") > 0.9
    assert ridge.parameters == ridge.settings["terms"] + 1
    if name == "own.csv":
        assert "not known" in vader.reason
    else:
        assert vader.quality.value("spearman") > 0.8
        assert vader.quality.value("rmse") is None  # its scale is another
