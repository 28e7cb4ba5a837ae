"""How fast the tab Drive is: control steps a second that a browser shows, dream and simulator together."""

from __future__ import annotations

import shutil
import time
from typing import Any

from app.main import launch
from vidvla.eval.metrics import Row, mean
from vidvla.service import Service

OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run")
WARM_UP = 3.0
"""Seconds of driving that do not count."""


def drive_speed(service: Service, family: str, seconds: int = 30) -> list[Row]:
    """Drive the page's first scene in headless Chromium with *hold*, and count its steps second by second.

    Raises:
        RuntimeError: where there is no browser to drive.
    """
    chromium = shutil.which("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        chromium = None
    if chromium is None:
        raise RuntimeError("expected chromium and playwright (pip install 'vidvla[dev]'), got a machine without")
    page, address = launch(service, block=False)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=list(OPTIONS))
            tab = browser.new_page(viewport={"width": 1366, "height": 768})
            tab.set_default_timeout(120_000)
            tab.goto(address)
            tab.get_by_role("tab", name="Drive").click()
            tab.wait_for_selector("[data-do=hold]:enabled")
            tab.click("[data-do=hold]")
            time.sleep(WARM_UP)
            rates, last, began = [], _steps(tab), time.perf_counter()
            for _ in range(seconds):
                time.sleep(1.0)
                steps, now = _steps(tab), time.perf_counter()
                rates.append((steps - last) / (now - began))
                last, began = steps, now
            browser.close()
    finally:
        page.close()
    return [Row.of(family, "all", "drive_steps_per_second", "1/s", mean(rates))]


def _steps(tab: Any) -> int:
    """Steps that the page's timeline has."""
    return int(tab.evaluate("+document.querySelector('[data-timeline]').max"))
