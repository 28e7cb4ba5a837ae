"""How fast the page is in a real browser: what Drive shows a second, and how long Compare lets people wait."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from app.main import launch
from vidvla.eval.metrics import Row, mean
from vidvla.eval.report import PAGE
from vidvla.service import Service

OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run")
PATIENCE = 240.0
"""Seconds that anything on the page may take before the measurement gives up."""
WARM_UP = 3.0
"""Seconds of driving that do not count."""
WARM_PRESSES = 2
"""Questions that do not count: the first one loads the families."""
PRESSES = 8
PREVIEW = "#vv-panel .vv-preview img"
"""Where Compare shows the first frame."""
SETTLED = 0.5
"""Seconds without a change after which all answers are there: Gradio draws parts in an order of its own."""
PRESS = """
([patience, settled]) => new Promise((resolve, reject) => {
  const button = () => document.querySelector("#vv-predict");
  const pictures = () => [...document.querySelectorAll("#vv-cards > :not(#card-truth) :is(img, video)")];
  const films = new Set(); // once there, a film stays in sight while it is moved in step with the others
  const drawn = (one) => {
    if (one.tagName === "IMG") return one.complete && one.naturalWidth > 0;
    if (one.readyState > 1) films.add(one.src);
    return films.has(one.src);
  };
  const known = new Set(pictures().map((one) => one.src));
  const start = performance.now();
  let first = null;
  let asked = false;
  let before = "";
  let last = 0;
  const look = () => {
    const seconds = (performance.now() - start) / 1000;
    const seen = pictures().filter((one) => one.checkVisibility());
    if (seen.some((one) => !known.has(one.src) && drawn(one))) first ??= seconds;
    asked ||= button().disabled;
    const now = [button().disabled, ...seen.map((one) => drawn(one) && one.src)].join(" ");
    if (now !== before) [before, last] = [now, seconds];
    const done = asked && !button().disabled && seen.every(drawn);
    if (done && seconds - last > settled) return resolve([first, last]);
    if (seconds > patience) return reject(new Error(`no answer within ${patience} seconds`));
    requestAnimationFrame(look);
  };
  button().click();
  requestAnimationFrame(look);
})
"""
"""Press Predict; seconds until the first new picture in a family's column is drawn, and until all of them are."""


@contextmanager
def _opened(service: Service) -> Iterator[Any]:
    """The page in headless Chromium.

    Raises:
        RuntimeError: where there is no browser.
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
            tab.set_default_timeout(1000 * PATIENCE)
            tab.goto(address)
            yield tab
            browser.close()
    finally:
        page.close()


def drive_speed(service: Service, family: str = "wma", seconds: int = 30) -> list[Row]:
    """Drive the page's first scene with *hold*, and count its steps second by second.

    Raises:
        RuntimeError: where there is no browser to drive.
    """
    with _opened(service) as tab:
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
    return [Row.of(family, "all", "drive_steps_per_second", "1/s", mean(rates))]


def _steps(tab: Any) -> int:
    """Steps that the page's timeline has."""
    return int(tab.evaluate("+document.querySelector('[data-timeline]').max"))


def page_speed(service: Service, presses: int = PRESSES) -> list[Row]:
    """Ask all trained families at once in Compare, again and again, each time from another scene.

    Raises:
        RuntimeError: where there is no browser, or a family does not answer.
    """
    waits = []
    with _opened(service) as tab:
        tab.wait_for_selector(PREVIEW)
        for info in service.families():
            if info.problem is None:
                tab.get_by_role("checkbox", name=info.title, exact=True).check()
        for press in range(WARM_PRESSES + presses):
            if press:
                _next_scene(tab)
            first, every = tab.evaluate(PRESS, [PATIENCE, SETTLED])
            for said in tab.locator("#vv-message .vv-error, #vv-cards .vv-error").all_text_contents():
                raise RuntimeError(f"expected every family to answer, got: {said}")
            if first is None:
                raise RuntimeError("expected a family that shows a picture, got none")
            if press >= WARM_PRESSES:
                waits.append((first, every))
    return page_rows(waits)


def _next_scene(tab: Any) -> None:
    """The page's next scene seed, once its first frame is there: equal questions would show equal pictures."""
    seen = tab.locator(PREVIEW).get_attribute("src")
    seed = tab.locator("#vv-panel").get_by_label("Scene seed")
    seed.fill(str(int(seed.input_value()) + 1))
    seed.press("Tab")
    tab.wait_for_selector(f'{PREVIEW}:not([src="{seen}"])')


def page_rows(waits: Sequence[tuple[float, float]]) -> list[Row]:
    """Figures of presses, each (seconds until the first picture, seconds until all answers)."""
    firsts, alls = zip(*waits, strict=True)
    return [
        Row.of(PAGE, "all", "first_picture_seconds", "s", mean(firsts)),
        Row.of(PAGE, "all", "all_answers_seconds", "s", mean(alls)),
    ]


MEASURES: dict[str, Callable[[Service], list[Row]]] = {"drive": drive_speed, "page": page_speed}
"""What is measured on the page, by its name on the command line."""
