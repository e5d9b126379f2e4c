"""Pictures of a study's page: `python docs/screenshots.py STUDY_DIR` writes docs/report-wide.png and -narrow.png.

Needs playwright, and chromium on PATH.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent
SHOTS = {"wide": (1280, 1600), "narrow": (390, 1600)}
"""Pixels of each picture: as much of the page as is seen first."""


def main(page: Path) -> None:
    """Take the pictures of the page in a file."""
    chromium = shutil.which("chromium")
    if chromium is None or not page.is_file():
        sys.exit(f"chromium is not on PATH, or {page} is not there; `loratory report` writes the page")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, (width, height) in SHOTS.items():
            tab = browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")
            tab.goto(page.resolve().as_uri())
            tab.wait_for_selector("html[data-drawn=yes]")
            tab.screenshot(path=HERE / f"report-{name}.png")
            print(HERE / f"report-{name}.png")
        browser.close()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/screenshots.py STUDY_DIR")
    main(Path(sys.argv[1]) / "report.html")
