"""A person drives a dream in a browser."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator

import numpy as np
import pytest
from browser import in_browser, needs_chromium, served, visit
from drives import tiny_service

from app import pictures
from app.speed import drive_speed
from app.tabs import drive as drive_tab
from vidvla.service import Service

SOCKETS = (
    "window.sockets = []; window.WebSocket = class extends WebSocket {"
    " constructor(...values) { super(...values); window.sockets.push(this); } };"
)
"""Keeps the page's sockets where a test can close them."""


@pytest.fixture(scope="module")
def service() -> Service:
    return tiny_service()


@pytest.fixture(scope="module")
def address(service: Service) -> Iterator[str]:
    with served(service) as url:
        yield url


@needs_chromium
def test_the_pages_own_speed_is_counted() -> None:
    (row,) = drive_speed(tiny_service(), "wma", seconds=3)
    assert row.metric == "drive_steps_per_second" and row.n == 3 and row.value > 0


@in_browser
@pytest.mark.skipif(importlib.util.find_spec("websockets") is None, reason="needs websockets")
def test_a_person_drives_rewinds_branches_and_exports(address: str) -> None:
    from playwright.sync_api import expect

    with visit(address, script=SOCKETS) as page:
        page.get_by_role("tab", name="Drive").click()
        step = page.locator("[data-step]")
        expect(page.locator("[data-do=hold]")).to_be_enabled()
        pixels = "(n) => document.querySelector(`[data-screen=${n}] canvas`).toDataURL()"
        before = [page.evaluate(pixels, name) for name in ("dream", "truth")]

        codes = [code for key in drive_tab.KEYS for code in key.codes]
        moves = [key.move for key in drive_tab.KEYS for _ in key.codes]
        for number, code in enumerate(codes, 1):
            page.keyboard.press(code)
            expect(step).to_have_text(f"step {number} of {number}")
        page.get_by_label("x", exact=True).fill("5")
        expect(step).to_have_text(f"step {len(codes) + 1} of {len(codes) + 1}")
        page.click("[data-do=step]")
        expect(step).to_have_text(f"step {len(codes) + 2} of {len(codes) + 2}")
        with page.expect_download() as download:
            page.click("[data-export=npz]")
        driven = np.load(download.value.path())["actions"]
        assert (np.sign(driven[: len(codes), :3]) == moves).all()
        np.testing.assert_allclose(driven[len(codes) :, 0], 5)
        page.click("[data-do=hold]")
        page.wait_for_function("document.querySelector('[data-timeline]').max >= 14")
        page.click("[data-do=hold]")
        page.wait_for_timeout(1500)
        assert all(page.evaluate(pixels, name) != old for name, old in zip(("dream", "truth"), before, strict=True))
        assert page.locator("[data-chart] svg path").count() == 4

        page.get_by_label("Moment").fill("3")
        page.click("[data-do=branch]")
        expect(step).to_have_text("step 3 of 3")
        expect(page.locator("[data-screen^=branch]:visible")).to_have_count(3)
        driven_now = page.locator("[data-driven]")
        expect(driven_now).to_have_text(re.compile("World model dreams .*, seed \\d+\\.$"))
        task = page.locator("[data-task]").input_value()
        page.select_option("[data-task]", "hammer")
        expect(driven_now).to_contain_text("after Start")
        page.select_option("[data-task]", task)
        expect(driven_now).not_to_contain_text("after Start")
        expect(page.locator(".vd-chip")).to_contain_text("Branch A")
        page.get_by_label("Moment").fill("1")
        page.click("[data-do=rewind]")
        expect(step).to_have_text("step 1 of 1")
        page.click("[data-do=what_if]")
        expect(page.locator("[data-answer] figure")).to_have_count(3)
        page.click("[data-do=uncertainty]")
        expect(page.locator("[data-answer] figure")).to_have_count(5)
        expect(page.locator("[data-answered]")).to_contain_text("every seed adds noise")
        expect(page.locator("[data-do=plan]")).to_be_disabled()
        page.click("[data-do=goal_end]")
        expect(page.locator("[data-goal] figcaption")).to_have_text("the task's end")
        page.select_option("[data-candidates]", "bc")
        page.get_by_label("Plans at most").fill("1")
        page.click("[data-do=plan]")
        expect(page.locator("[data-films] figure")).to_have_count(3)
        expect(page.locator("[data-planned]")).to_contain_text("not fulfilled after 1 plan, 4 steps")
        expect(step).to_have_text("step 5 of 5")
        page.get_by_label("Plans at most").fill("10")
        page.click("[data-do=plan]")
        page.click("[data-do=stop]")
        expect(page.locator("[data-planned]")).to_contain_text("Stopped")
        page.click("[data-do=reset]")
        expect(step).to_have_text("step 0")
        for kind in pictures.EXPORTS:
            with page.expect_download() as download:
                page.click(f"[data-export={kind}]")
            assert download.value.path().stat().st_size > 500
        page.set_input_files("[data-actions]", {"name": "a.csv", "mimeType": "text/csv", "buffer": b"1,0,0,0\n0,1,0,0"})
        expect(step).to_have_text("step 2 of 2")
        page.evaluate("sockets.at(-1).close()")
        expect(page.locator("[data-say] .vv-error")).to_contain_text("The connection was lost")
        page.keyboard.press(codes[0])
        expect(step).to_have_text("step 3 of 3")
        rows = b"\n".join([b"1,0,0,0"] * 400)
        page.set_input_files("[data-actions]", {"name": "a.csv", "mimeType": "text/csv", "buffer": rows})
        page.click("[data-do=halt]")
        expect(page.locator("[data-do=halt]")).to_be_hidden()
        page.wait_for_timeout(500)
        assert page.evaluate("document.querySelector('[data-timeline]').max") != "403"
        page.set_input_files("[data-actions]", {"name": "a.csv", "mimeType": "text/csv", "buffer": b"what"})
        expect(page.locator("[data-say] .vv-error")).to_contain_text("Expected actions")
