"""What errors and warnings in a study say: keys of its file in place of train's flags."""

from __future__ import annotations

import logging

import pytest

from loratory.errors import StorageError
from loratory.study.wording import in_the_file, of_the_file


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ("not used; give --threads 2 to go on from it", "not used; give train: {threads: 2} to go on from it"),
        ("--max-length 128: m takes at most 64 tokens", "train: {max_length: 128}: m takes at most 64 tokens"),
        ("--test-fraction 0.2.", "train: {test_fraction: 0.2}."),
        ("set --text-column, --label-column", "set train: {text_column: …, label_column: …}"),
        ("--lr 5: is it meant?", "--lr 5: is it meant?"),
        ("--cohort 4 or --rank 8", "--cohort 4 or --rank 8"),
    ],
)
def test_flags_are_keys_of_the_file_with_their_numbers(message: str, says: str) -> None:
    assert in_the_file(message) == says


def test_errors_and_the_log_alike_name_keys_as_long_as_the_study_runs(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("loratory")

    @of_the_file()
    def in_a_study() -> None:
        log.warning("%s is not used; give --threads %d", "a", 2)
        raise StorageError("give --threads 2")

    with pytest.raises(StorageError, match=r"give train: \{threads: 2\}"):
        in_a_study()
    log.warning("give --threads 2")
    assert caplog.messages == ["a is not used; give train: {threads: 2}", "give --threads 2"]
