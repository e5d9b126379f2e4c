"""Pages in headless Chromium."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Opened:
    """A page, with all that it asked for, and all that it complained of: console, errors, dialogs."""

    def __init__(self, browser: Any, path: Path, **settings: Any) -> None:
        self.context = browser.new_context(**settings)
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(f"dialog {dialog.message}"))
        self.page.goto(path.as_uri())

    def drawn(self) -> Opened:
        """The same, once all charts are."""
        self.page.wait_for_selector("html[data-drawn=yes]")
        return self
