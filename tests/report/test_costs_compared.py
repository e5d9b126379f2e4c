"""What a comparison says of costs: energy, price, and what dominates."""

import pytest
from compared import LORA, record

from loratory.errors import SettingsError
from loratory.report.tables import check_price, comparison


def test_energy_and_price_have_columns_where_there_are_any() -> None:
    plain = comparison([record()])
    assert {"Energy", "Price"}.isdisjoint(column.title for column in plain.shown)
    used = record()
    used["cost"] = {**used["cost"], "energy_joules": 36_000.0}
    table = comparison([used, record(LORA)], price_per_hour=3.0)
    cells = {column.title: [column.show(row) for row in table.rows] for column in table.shown}
    assert cells["Energy"] == ["36.0 kJ", "–"]
    assert cells["Price"] == ["0.2000", "0.2000"]  # 240 s at 3 an hour
    assert "Price: total time at 3 an hour." in table.notes
    assert any(note.startswith("Energy: what the whole device used") for note in table.notes)


def test_a_price_is_of_each_device() -> None:
    def priced(cost: dict, **changes: object) -> tuple[object, list[str]]:
        run = record(**changes)
        run["cost"] = {**run["cost"], **cost}
        table = comparison([run], price_per_hour=3.0)
        return table.rows[0]["price"], [note for note in table.notes if note.startswith("Price")]

    assert priced({"devices": 1}) == priced({}) == (pytest.approx(0.2), ["Price: total time at 3 an hour."])
    four = priced({"devices": None}, environment={"device": "NVIDIA H100", "processes": 4})
    assert priced({"devices": 4}) == four == (pytest.approx(0.8), ["Price: total time at 3 an hour for each device."])


def test_what_dominates_is_said_of_every_approach_or_why_it_is_not_known() -> None:
    passes = {"forward": 60.0, "backward": 120.0, "optimizer": 8.0, "data": 2.0, "gaps": 1.4}
    held = dict.fromkeys(("weights", "gradients", "optimizer", "activations"), 100 * 2**20)

    def costed(method: dict | None = None, **cost: object) -> dict:
        found = record(method)
        return {**found, "cost": {**found["cost"], **cost}}

    reference = costed(time_parts_seconds=passes, memory_parts_bytes={**held, "rest": 2**20})
    notes = comparison([reference, costed(LORA, memory_parts_bytes={**held, "rest": -(2**20)})]).notes
    said = [note for note in notes if note.startswith(("Training time of", "Peak memory of"))]
    assert [note.partition(": ")[0] for note in said] == [
        f"{what} of {name}" for what in ("Training time", "Peak memory") for name in ("standard", "lora r=8 attention")
    ]
    assert said[0].endswith("94% are forward and backward passes through the whole model, all of which is trained.")
    assert said[1].endswith(": what it went into is not known.")
    assert said[2].endswith("50% are gradients and optimizer state, which fewer trained parameters save.")
    assert said[3].endswith("come to more than the whole (rest −1 MiB), so that none is said to dominate.")
    same = {"memory_parts_bytes": {**held, "rest": 2**30}}
    notes = comparison([costed(**same), costed(LORA, **same)]).notes
    (once,) = (note for note in notes if "most is neither the model nor its training state" in note)
    assert once.startswith("Peak memory of standard and lora r=8 attention: most is")
    assert sum(note.startswith("Peak memory of") and "rest 72% (1.0 GiB)" in note for note in notes) == 2
    assert "Training time of standard and lora r=8 attention: what it went into is not known." in notes


@pytest.mark.parametrize("price", [-1.0, float("nan"), float("inf")])
def test_a_price_is_a_number(price: float) -> None:
    with pytest.raises(SettingsError, match=r"--price-per-hour .*: give an amount of 0 or more"):
        check_price(price)


def test_why_runs_of_cohorts_have_no_total_time_is_said_and_no_price_where_there_is_none() -> None:
    joint = {**record(LORA), "cohort": {"share_seconds": {"train": 1.0}}}
    joint["cost"] = {**joint["cost"], "total_seconds": None}
    for others, priced in (([], False), ([record()], True)):
        notes = comparison([*others, joint], price_per_hour=3.0).notes
        assert sum("Total time and price are empty for runs that trained in cohorts" in note for note in notes) == 1
        assert ("Price: total time at 3 an hour." in notes) == priced
    assert not any("price" in note for note in comparison([joint]).notes)


def test_memory_that_a_cpu_does_not_tell_apart_is_noted_in_a_comparison() -> None:
    def held(kind: str, peak: int) -> dict:
        found = record()
        return {**found, "cost": {**found["cost"], "peak_memory_bytes": {kind: peak}}}

    for kind, peak, said in (("resident", 900, 1), ("resident", 800, 0), ("allocated", 900, 0)):
        notes = comparison([held(kind, 1000), held(kind, peak)]).notes
        assert sum("below 15% are not resolved" in note for note in notes) == said
