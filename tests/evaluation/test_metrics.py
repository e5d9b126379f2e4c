import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from loratory.errors import DataError, StorageError, TrainingError
from loratory.evaluation.metrics import METRICS, metrics_of, score
from loratory.evaluation.quality import Quality
from loratory.problems import SINGLE

NAMES = ("negative", "neutral", "positive")


def example(seed: int = 0, n: int = 200, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    return labels, rng.normal(size=(n, classes)).astype(np.float32) + 1.5 * np.eye(classes, dtype=np.float32)[labels]


def test_hand_computed_case() -> None:
    labels = np.array([0, 0, 0, 1])
    quality = score(labels, None, np.array([0, 0, 1, 1]), ("no", "yes"))
    assert quality.accuracy == 0.75
    assert quality.confusion == ((2, 1), (0, 1))  # rows true, columns predicted
    no, yes = quality.per_class["no"], quality.per_class["yes"]
    assert (no.precision, no.recall, no.support) == (1.0, 2 / 3, 3)
    assert (yes.precision, yes.recall, yes.support) == (0.5, 1.0, 1)
    assert no.f1 == pytest.approx(0.8)
    assert yes.f1 == pytest.approx(2 / 3)
    assert quality.f1_macro == pytest.approx((0.8 + 2 / 3) / 2)
    assert quality.f1_weighted == pytest.approx((3 * 0.8 + 2 / 3) / 4)
    assert quality.mcc == pytest.approx((2 * 1 - 1 * 0) / math.sqrt(2 * 2 * 3 * 1))  # (TP·TN - FP·FN) / √…
    assert quality.log_loss is None
    assert quality.ece is None


def test_agrees_with_scikit_learn() -> None:
    labels, logits = example()
    quality = score(labels, logits, None, NAMES)
    predicted = logits.argmax(1)
    wide = np.exp(logits.astype(np.float64))
    assert quality.accuracy == reference.accuracy_score(labels, predicted)
    assert quality.f1_macro == reference.f1_score(labels, predicted, average="macro")
    assert quality.f1_weighted == reference.f1_score(labels, predicted, average="weighted")
    assert quality.mcc == reference.matthews_corrcoef(labels, predicted)
    assert quality.log_loss == pytest.approx(reference.log_loss(labels, wide / wide.sum(1, keepdims=True)), abs=1e-12)
    assert np.array_equal(quality.confusion, reference.confusion_matrix(labels, predicted))


def test_a_class_that_is_absent_counts_as_zero_in_the_macro_mean() -> None:
    quality = score(np.array([0, 1]), None, np.array([0, 1]), NAMES)
    assert quality.accuracy == 1.0
    assert quality.f1_macro == pytest.approx(2 / 3)
    assert quality.f1_weighted == 1.0
    assert quality.per_class["positive"].support == 0


def test_one_class_everywhere_has_no_correlation_and_warns_nobody() -> None:
    assert score(np.zeros(4, np.int64), None, np.zeros(4, np.int64), NAMES).mcc == 0.0


def test_log_loss_of_extreme_logits_is_exact() -> None:
    logits = np.array([[1e4, 0.0], [1e4, 0.0]], dtype=np.float32)
    assert score(np.array([0, 0]), logits, None, ("a", "b")).log_loss == 0.0
    assert score(np.array([1, 1]), logits, None, ("a", "b")).log_loss == 1e4


def two_class_logits(confidence: float, n: int) -> np.ndarray:
    return np.tile([math.log(confidence / (1 - confidence)), 0.0], (n, 1))


def test_calibrated_predictions_have_no_calibration_error() -> None:
    labels = np.array([0] * 7 + [1] * 3)  # right 7 times of 10, sure at 0.7
    assert score(labels, two_class_logits(0.7, 10), None, ("a", "b")).ece == pytest.approx(0.0, abs=1e-12)


def test_overconfident_predictions_are_off_by_the_gap() -> None:
    labels = np.array([0] * 5 + [1] * 5)  # right half the time, sure at 0.95
    assert score(labels, two_class_logits(0.95, 10), None, ("a", "b")).ece == pytest.approx(0.45)


def test_calibration_gaps_of_two_bins_do_not_cancel() -> None:
    logits = np.concatenate([two_class_logits(0.9, 4), two_class_logits(0.6, 4)])
    labels = np.array([0, 0, 1, 1, 0, 0, 0, 0])  # gaps -0.4 and +0.4
    assert score(labels, logits, None, ("a", "b")).ece == pytest.approx(0.4)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), n=st.integers(1, 40))
def test_order_of_examples_and_of_classes_changes_nothing(seed: int, n: int) -> None:
    labels, logits = example(seed, n)
    rng = np.random.default_rng(seed + 1)
    quality = score(labels, logits, None, NAMES)
    order = rng.permutation(n)
    shuffled = score(labels[order], logits[order], None, NAMES)
    assert shuffled.confusion == quality.confusion
    classes = rng.permutation(3)
    renamed = score(classes[labels], logits[:, np.argsort(classes)], None, NAMES)
    for name in metrics_of(SINGLE):
        assert shuffled.value(name) == pytest.approx(quality.value(name), abs=1e-9)
        assert renamed.value(name) == pytest.approx(quality.value(name), abs=1e-9)


def test_record_survives_json_with_sorted_keys() -> None:
    labels, logits = example()
    quality = score(labels, logits, None, ("z", "a", "m"))
    record = json.loads(json.dumps(quality.record(), sort_keys=True, allow_nan=False))
    assert record == quality.record()
    assert Quality.from_record(record) == quality
    assert set(metrics_of(SINGLE)) <= set(record)


@pytest.mark.parametrize("damage", [{"accuracy": "x"}, {"per_class": {}}, {"confusion": [[1]]}, {"labels": None}])
def test_damaged_record(damage: dict[str, object]) -> None:
    labels, logits = example()
    with pytest.raises(StorageError, match="the record's"):
        Quality.from_record({**score(labels, logits, None, NAMES).record(), **damage})


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite(bad: float) -> None:
    labels, logits = example()
    logits[3, 1] = bad
    with pytest.raises(TrainingError, match=r"1 of 200 .*row 3") as caught:
        score(labels, logits, None, NAMES)
    assert "\n" not in str(caught.value)


def test_nothing_to_score_and_unknown_classes() -> None:
    nothing = np.zeros(0, np.int64)
    with pytest.raises(DataError, match="no examples"):
        score(nothing, None, nothing, NAMES)
    with pytest.raises(DataError, match="label 3 in row 1"):
        score(np.array([0, 3]), None, np.array([0, 1]), NAMES)
    with pytest.raises(DataError, match="twice"):
        score(np.array([0]), None, np.array([0]), ("a", "a"))


def test_the_direction_of_every_metric() -> None:
    assert METRICS["accuracy"].better(0.9, 0.8)
    assert METRICS["log_loss"].better(0.1, 0.2)
    assert not METRICS["mcc"].better(0.5, 0.5)
