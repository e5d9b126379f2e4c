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
