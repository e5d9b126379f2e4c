"""What a run is called."""

from __future__ import annotations

import pytest

from loratory.data.packaged import given_file
from loratory.methods import METHODS, method_settings, spec_from_flags
from loratory.store.naming import approach, approaches, setting


@pytest.mark.parametrize("name", METHODS)
def test_a_method_with_its_defaults_needs_few_words(name: str) -> None:
    said = approach(method_settings({"name": name}).model_dump())
    assert said.startswith(name)
    assert "=" not in said.replace("r=8", "")


def test_a_variant_is_named_and_an_older_record_has_none() -> None:
    settings = method_settings({"name": "lora", "dora": "on", "rank_pattern": "value=2", "alpha": 4})
    assert approach(settings.model_dump()) == "lora r=8 attention, dora=on, rank_pattern=value=2"
    assert approach({"name": "lora", "rank": 8, "targets": "attention"}) == "lora r=8 attention"
    assert approach({"name": "of another day", "rank": 8}) == "of another day r=8"


def test_an_older_record_that_lacks_a_setting_is_the_same_setting() -> None:
    spec = spec_from_flags({"method": "lora"}).model_dump(mode="json")
    older = {**spec, "method": {"name": "lora", "rank": 8}, "training": {"epochs": 3}}
    assert setting({"spec": older}) == setting({"spec": spec})
    assert setting({"spec": {**older, "training": {"epochs": 2}}}) != setting({"spec": spec})


def test_texts_from_lists_are_called_by_a_few_digits_and_a_limit_of_none_is_all() -> None:
    lists = given_file("b6ca0f12" + "0" * 56).absolute()
    records = [
        {"spec": spec_from_flags({"method": "head", "dataset": str(name), "limit": limit}).model_dump(mode="json")}
        for name, limit in ((lists, None), ("given/reviews.jsonl", 20))
    ]
    assert approaches(records) == ["head, given texts b6ca0f12", "head, given/reviews.jsonl"]
    same = [{"spec": {**one["spec"], "data": {**one["spec"]["data"], "dataset": "a.csv"}}} for one in records]
    assert approaches(same) == ["head, limit=all", "head, limit=20"]
