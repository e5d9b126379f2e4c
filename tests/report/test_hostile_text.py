"""Text that would run if a page took it for anything else, in every place of the report, in headless Chromium."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pages import Opened

from loratory.report.study import write

RUN = "(window.canary=window.canary||[]).push(1)"
ENDS = ("", '"', "'", ">", '">', "'>", "</script>", "</style>", "</title>", "</textarea>", "</svg>", "-->", "]]>")
RAW = (
    f"<script>{RUN}</script>",
    f"<img src=x onerror={RUN}>",
    f"<svg onload={RUN}>",
    f"<details open ontoggle={RUN}>x</details>",
    f"<style>@import url(http://canary.invalid/a)</style><input autofocus onfocus={RUN}>",
    f"<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror={RUN}&gt;'>",
    f"<noscript><p title='</noscript><img src=x onerror={RUN}>'>",
)
FIRES = RAW[:4]
"""What runs as soon as it is raw."""
OTHER = (
    f"javascript:{RUN}",
    f"<a href='javascript:{RUN}'>x</a>",
    f"<iframe src='javascript:{RUN}'></iframe>",
    f"<iframe srcdoc='<script>{RUN}</script>'></iframe>",
    "<meta http-equiv=refresh content='0;url=http://canary.invalid'>",
    "<link rel=stylesheet href=http://canary.invalid/b>",
    "<base href=http://canary.invalid/>",
    "<form action=http://canary.invalid><button>x</button></form>",
    "{{7*7}}{% for x in range(9) %}{{ self }}{% endfor %}${7*7}#{7*7}",
    f"datum['x']; {RUN}",
    f'{{"signal": "{RUN}"}}',
    f"datum.constructor.constructor('{RUN}')()",
    f"\u2028{RUN}\u2029{RUN}",
    "\u202egpj.exe\u202c \u2066x\u2069",
    "background:url(http://canary.invalid/c)",
    f"&lt;script&gt;{RUN}&lt;/script&gt; &#60;img src=x onerror={RUN}&#62;",
    f"\\u003cscript\\u003e{RUN}\\u003c/script\\u003e",
    "a.b[0]\\[1\\]",
    "__proto__",
    "constructor",
)
PAYLOADS = [end + raw for raw in RAW for end in ENDS] + list(OTHER)
PLACES = 11


def canaries(opened: Opened) -> int:
    """How often a payload ran."""
    return int(opened.page.evaluate("(window.canary || []).length"))


@pytest.mark.parametrize("payload", FIRES)
def test_what_is_put_in_raw_runs(payload: str, browser: Any, tmp_path: Path) -> None:
    """Else the page below would prove nothing."""
    path = tmp_path / "raw.html"
    path.write_text(f"<!doctype html><meta charset=utf-8><body>{payload}", encoding="utf8")
    opened = Opened(browser, path)
    opened.page.wait_for_timeout(100)
    assert canaries(opened) > 0


def test_on_the_page_of_a_study_nothing_of_it_runs(
    browser: Any, make_study: Any, read_back: Any, tmp_path: Path
) -> None:
    assert len(set(PAYLOADS)) == len(PAYLOADS) >= 100
    texts = [" ".join(PAYLOADS[place::PLACES]) for place in range(PLACES)]
    lora = {"name": "lora", "alpha": 16.0, "rank": 8}
    levels = (
        ({"name": "standard"}, 0.86),
        ({**lora, "targets": texts[0]}, 0.8),
        ({**lora, "targets": texts[1]}, 0.84),
    )
    labels, device, name = (texts[2], texts[3]), texts[4], texts[5]
    made = {"data": (texts[6],), "models": (texts[7],), "labels": labels, "device": device, "name": name}
    summary = make_study(tmp_path, levels, examples=80, **made)
    summary["baselines"][0]["name"] = texts[8]
    summary["observations"][0]["text"] = texts[9]
    failed = {"run": "gone", "cell": "c1", "stage": "final", "status": "failed", "error": texts[10]}
    summary["failed"] = [failed]
    path = write(tmp_path, read_back(summary))[0]
    opened = Opened(browser, path).drawn()
    opened.page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    opened.page.wait_for_timeout(200)
    assert canaries(opened) == 0
    assert opened.requests == [path.as_uri()]
    assert opened.complaints == []
    made_of = "all => all.map(one => one.outerHTML.slice(0, 90))"
    # Vega makes an empty form of its own for each chart
    foreign = opened.page.locator("img, iframe, object, embed, base, link, math, form:not(.vega-bindings)")
    assert foreign.evaluate_all(made_of) == []
    assert opened.page.locator("a[href^='javascript:' i]").count() == 0
    shown = opened.page.content()
    assert "{{7*7}}" in shown  # it is there, as text
    assert shown.count("canary") > 500
