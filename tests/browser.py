"""What browser tests share: the page served, and a person's look at it."""

from __future__ import annotations

import contextlib
import shutil
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.main import launch
from vidvla.service import Service

CHROMIUM = shutil.which("chromium")
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
PATIENCE = 240_000
"""Milliseconds that anything on the page may take, on a busy machine too."""

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")


def in_browser(test: Callable[..., None]) -> Callable[..., None]:
    """Marks what a person does on the page."""
    marked: Callable[..., None] = pytest.mark.timeout(1200)(needs_chromium(test))
    return marked


@contextlib.contextmanager
def served(service: Service, **options: Any) -> Iterator[str]:
    """The page's address, while it is served."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    page, address = launch(service, "127.0.0.1", port, block=False, **options)
    try:
        yield address
    finally:
        page.close()


@contextlib.contextmanager
def visit(address: str, height: int = 768, script: str = "") -> Iterator[Any]:
    """A tab on the page, which in the end has asked nothing of other servers and logged no error.

    Args:
        script: run in the tab before the page's own.
    """
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE)
    inside = (address, address.replace("http", "ws"), "data:", "blob:")
    outside: list[str] = []
    complaints: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(OPTIONS), timeout=PATIENCE)
        tab = browser.new_page(viewport={"width": 1366, "height": height})
        tab.set_default_timeout(PATIENCE)
        tab.on("request", lambda request: None if request.url.startswith(inside) else outside.append(request.url))
        tab.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.add_init_script(script)
        tab.goto(address)
        yield tab
        browser.close()
    assert outside == []
    assert complaints == []
