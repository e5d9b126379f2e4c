"""How charts look: calm, legible in light and dark, told apart by shape as well as by colour.

The page's charts name CSS variables, so that its style sheet alone decides between light, dark and print; a figure in a
file of its own has the light colours. The colours follow Okabe and Ito (2008), which people with any kind of colour
vision tell apart; black is left to text.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from loratory.errors import ResourceError

LIGHT = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b07d00", "#3a9bd6", "#7a5195")
"""Okabe and Ito's, their yellow and orange darkened to stand out on white, and a violet."""

DARK = ("#56b4e9", "#f08a4b", "#35c496", "#e3a3c9", "#e8b53a", "#8fd0f5", "#b59adf")
"""The same seven on black."""

SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")

INK = {"ink": "#1c1f24", "muted": "#5b6472", "line": "#d9dde3", "paper": "#ffffff", "band": "#eceff3"}
"""Colours that are not a series', for light; the style sheet has its own for dark, under the same names."""

FONT = "system-ui, sans-serif"


def color(name: str) -> str:
    """The page's name of a colour in `INK`."""
    return f"var(--{name})"


def category(number: int) -> str:
    """The page's name of the colour of the series `number`."""
    return f"var(--c{number % len(LIGHT)})"


def shape(number: int) -> str:
    """The shape of the series `number`; pairs of colour and shape repeat after 49."""
    return SHAPES[(number + number // len(LIGHT)) % len(SHAPES)]


def config() -> dict[str, Any]:
    """Vega-Lite's configuration of every chart."""
    text = {"labelColor": color("muted"), "titleColor": color("muted"), "titleFontWeight": "normal"}
    return {
        "background": None,
        "font": FONT,
        "aria": False,  # the page says what a chart shows; each mark as an element of its own helps nobody
        "view": {"stroke": None},
        "axis": {
            **text,
            "labelFontSize": 12,
            "titleFontSize": 12,
            "gridColor": color("line"),
            "domain": False,
            "tickColor": color("line"),
            "tickSize": 4,
            "labelPadding": 4,
        },
        "axisX": {"grid": False, "domain": True, "domainColor": color("line"), "titlePadding": 8},
        "axisY": {
            "ticks": False,
            "titleAngle": 0,
            "titleAlign": "left",
            "titleBaseline": "bottom",
            "titleAnchor": "end",
            "titleX": 0,
            "titleY": -12,
        },
        "legend": {
            **text,
            "orient": "top",
            "labelFontSize": 12,
            "symbolSize": 90,
            "symbolOpacity": 1,
            "labelLimit": 260,
            "padding": 0,
        },
        "header": {**text, "labelFontSize": 12, "labelAnchor": "start", "labelFontWeight": "bold"},
        "text": {"color": color("ink"), "fontSize": 12, "font": FONT},
        "rule": {"color": color("muted")},
        "tick": {"color": color("muted")},
    }


def on_paper(value: Any) -> Any:
    """A chart's specification with the light colours in place of the page's names."""
    names = {color(name): shade for name, shade in INK.items()}
    names |= {category(number): shade for number, shade in enumerate(LIGHT)}
    if isinstance(value, dict):
        return {key: on_paper(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [on_paper(inner) for inner in value]
    return names.get(value, value) if isinstance(value, str) else value


PACKAGES = {"altair": "altair", "vl_convert": "vl-convert-python", "jinja2": "jinja2"}
"""What a report needs: modules, and the packages that they are in."""


def missing_packages() -> list[str]:
    """The packages of the report that are not installed, looked for without importing any."""
    return [package for name, package in PACKAGES.items() if find_spec(name) is None]


def require_packages() -> None:
    """Make sure that the packages of the report are there.

    Raises:
        ResourceError: one is not installed.
    """
    for name, package in PACKAGES.items():
        try:
            __import__(name)
        except ImportError as error:
            raise ResourceError(
                f"a report needs {package}, which is not installed ({error}); pip install {package}"
            ) from None
