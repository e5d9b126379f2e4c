"""The page in headless Chromium: it opens from disk, asks for nothing, draws, sorts, and lets nothing run."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pages import Opened

from loratory.report.study import write

HOSTILE = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def study(make_study: Any, read_back: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of two data sets, one with a hostile name, and hostile labels."""
    place = tmp_path_factory.mktemp("study")
    lora = {"name": "lora", "alpha": 16.0, "targets": "attention"}
    levels = (
        ({"name": "standard"}, 0.86),
        ({**lora, "rank": 1}, 0.8),
        ({**lora, "rank": 8}, 0.84),
        ({"name": "head"}, 0.7),
    )
    summary = make_study(place, levels, data=("hutto:movies", HOSTILE), labels=(HOSTILE, "good"), examples=80)
    return write(place, read_back(summary))[0]


@pytest.fixture(scope="module")
def opened(browser: Any, study: Path) -> Iterator[Opened]:
    found = Opened(browser, study, viewport={"width": 1280, "height": 900}).drawn()
    yield found
    found.context.close()


def test_page_opens_from_disk_without_complaint_or_request(opened: Opened, study: Path) -> None:
    assert opened.requests == [study.as_uri()]
    assert opened.complaints == []


def test_every_chart_is_drawn(opened: Opened) -> None:
    charts = opened.page.locator("[data-chart]")
    assert charts.count() == 24
    assert opened.page.locator("[data-chart] svg").count() == 24
    marks = charts.evaluate_all("all => all.map(one => one.querySelectorAll('svg path, svg text').length)")
    assert min(marks) > 10
    widths = opened.page.locator("#g1-table-title ~ *, #g1 [data-chart]:visible svg").evaluate_all(
        "all => all.map(one => one.getBoundingClientRect().width)"
    )
    assert max(widths) <= 1280


def test_the_axis_can_be_chosen(opened: Opened) -> None:
    page = opened.page
    shown = page.locator("#g1 [data-axis]:visible [data-chart]")
    assert shown.get_attribute("data-chart") == "g1-quality-train_seconds"
    page.select_option("#g1-axis", "trainable")
    assert shown.get_attribute("data-chart") == "g1-quality-trainable"
    assert "Trainable parameters" in shown.inner_text()


def test_tables_sort_and_say_so(opened: Opened) -> None:
    page = opened.page
    heading = page.locator("#g1-table thead th", has_text="Trainable parameters")
    names = page.locator("#g1-table tbody:not(.foot) th")

    def shown() -> list[str]:
        return [text.partition("\n")[0] for text in names.all_inner_texts()]  # the rate stands below

    before = shown()
    assert heading.get_attribute("aria-sort") == "none"
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    assert shown() == ["head", "lora r=1 attention", "lora r=8 attention", "standard"]
    heading.get_by_role("button").press("Enter")
    assert heading.get_attribute("aria-sort") == "descending"
    assert shown() == ["standard", "lora r=8 attention", "lora r=1 attention", "head"]
    assert sorted(before) == sorted(shown())
    assert page.locator("#g1-table tbody.foot th").first.inner_text() == "majority class"


def test_one_cell_and_one_reference_can_be_chosen(opened: Opened) -> None:
    page = opened.page
    page.select_option("#g1-cell", "c4")
    assert page.locator("#g1 h4:visible", has_text="Confusion").inner_text() == "Confusion and classes: head"
    assert page.locator("#g1-pairs tbody tr:visible").count() == 3  # standard's
    page.select_option("#g1-against", "")
    assert page.locator("#g1-pairs tbody tr:visible").count() == 6


def test_data_sets_can_be_chosen_and_their_names_stay_text(opened: Opened) -> None:
    page = opened.page
    assert page.locator(".group:visible").count() == 1
    page.select_option("#group-choice", "g2")
    assert page.locator(".group:visible h2").inner_text() == f"{HOSTILE} with minilm"
    assert page.locator("#g2 [data-chart]:visible svg").count() > 5
    page.select_option("#group-choice", "g1")
    assert page.locator("img").count() == 0
    assert page.locator("#g1-c1-confusion tbody th").first.text_content() == HOSTILE
    assert opened.complaints == []


def test_what_the_page_does_not_name_cannot_run_or_load(opened: Opened) -> None:
    """An image and a script put there by a hand are refused by the page's own policy."""
    page = opened.page
    refused = page.evaluate(
        """() => new Promise((done) => {
            const found = [];
            document.addEventListener("securitypolicyviolation", (event) => {
                found.push(event.effectiveDirective);
                if (found.length === 2) done(found.sort());
            });
            const script = document.createElement("script");
            script.textContent = "window.ran = true";
            const image = document.createElement("img");
            image.src = "https://example.invalid/x.png";
            document.body.append(script, image);
        })"""
    )
    assert refused == ["img-src", "script-src-elem"]
    assert page.evaluate("window.ran") is None
    page.evaluate("document.querySelectorAll('img').forEach((one) => one.remove())")
    opened.complaints.clear()


def test_keyboard_goes_from_top_to_bottom(browser: Any, study: Path) -> None:
    opened = Opened(browser, study, viewport={"width": 1280, "height": 900}).drawn()
    page = opened.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "answer"
    tops = []
    for _ in range(24):
        page.keyboard.press("Tab")
        tops.append(page.evaluate("document.activeElement.getBoundingClientRect().top + window.scrollY"))
    assert all(after >= before - 60 for before, after in pairwise(tops))
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    opened.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(browser: Any, study: Path, scheme: str) -> None:
    opened = Opened(browser, study, viewport={"width": 360, "height": 740}, color_scheme=scheme).drawn()
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    ground, ink = page.evaluate("(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))")
    assert (ground == "rgb(255, 255, 255)") is (scheme == "light")
    text = page.locator("[data-chart]:visible svg text").first
    assert text.evaluate("one => getComputedStyle(one).fill") != ground
    assert ink != ground
    assert opened.complaints == []
    opened.context.close()


def test_on_a_phone_quality_stands_beside_the_names(browser: Any, study: Path) -> None:
    from playwright.sync_api import expect

    opened = Opened(browser, study, viewport={"width": 390, "height": 844}).drawn()
    page = opened.page
    headings = page.locator("#g1-table thead th")
    narrow = headings.all_inner_texts()
    assert narrow[:4] == ["Approach", "Accuracy", "Macro-F1", "Trainable parameters"]
    ends = page.locator("#g1-table tr > :nth-child(3)").evaluate_all("all => all.map(x => x.getBoundingClientRect())")
    assert max(one["right"] for one in ends) <= 390
    assert page.locator(".more:visible").first.inner_text().startswith("More columns follow to the right")
    verdicts = page.locator("#g1-pairs tr:visible > :nth-child(2)")
    assert verdicts.first.inner_text().startswith("Verdict")
    assert max(one["right"] for one in verdicts.evaluate_all("all => all.map(x => x.getBoundingClientRect())")) <= 390
    headings.nth(1).get_by_role("button").click()
    shares = page.locator("#g1-table tbody:not(.foot) td:nth-child(2)").all_inner_texts()
    shown = [float(text.partition("%")[0]) for text in shares]
    assert shown == sorted(shown)
    page.set_viewport_size({"width": 1280, "height": 900})
    expect(headings.last).to_have_text("Macro-F1")  # the page's policy lets nobody wait by evaluating text
    assert headings.all_inner_texts() == [narrow[0], *narrow[3:], *narrow[1:3]]
    assert opened.complaints == []
    opened.context.close()


def test_print_shows_all_data_sets_in_dark_ink(opened: Opened) -> None:
    page = opened.page
    page.emulate_media(media="print", color_scheme="dark")
    assert page.locator(".group:visible").count() == 2
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert not page.locator("#group-choice").is_visible()
    page.emulate_media(media="screen", color_scheme="light")
