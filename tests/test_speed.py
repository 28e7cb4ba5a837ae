"""How long the page lets people wait is told in figures and in the README's words."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from app.speed import MEASURES, page_rows, page_speed
from vidvla.cli import ON_THE_PAGE
from vidvla.eval.benchmark import write_benchmark
from vidvla.eval.report import PAGE, fill
from vidvla.registry import families
from vidvla.service import Service

SPEED = "<!-- figures: speed -->\n<!-- end -->"


def test_presses_become_figures_that_the_report_shows(tmp_path: Path) -> None:
    rows = page_rows([(0.5, 2.0), (0.7, 3.0)])
    assert {row.metric: (row.value, row.n) for row in rows} == {
        "first_picture_seconds": (0.6, 2), "all_answers_seconds": (2.5, 2),
    }  # fmt: skip
    assert {(row.family, row.task, row.unit) for row in rows} == {(PAGE, "all", "s")}
    assert all(row.low < row.value < row.high for row in rows)
    assert "from the click" not in fill(SPEED, tmp_path)
    write_benchmark(tmp_path / "speed.json", rows, "vidvla eval page", None, "metaworld")
    table = fill(SPEED, tmp_path)
    assert "| first picture | 0.60 (" in table and "| every answer, with its film | 2.50 (" in table


def test_the_command_line_names_what_the_page_measures() -> None:
    assert tuple(MEASURES) == ON_THE_PAGE


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
@pytest.mark.timeout(1200)
def test_waits_are_counted_in_a_browser() -> None:
    rows = page_speed(Service(loaded={name: families()[name].tiny() for name in ("gr2", "bc")}), presses=1)
    first, every = (row.value for row in rows)
    assert 0 < first <= every
