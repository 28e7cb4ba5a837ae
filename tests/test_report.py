"""Documents say what the figure files say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from vidvla.checkpoint import ASSETS
from vidvla.eval.report import MISSING, TABLES, fill

ROOT = Path(__file__).resolve().parent.parent


def test_readme_tables_are_generated() -> None:
    text = (ROOT / "README.md").read_text()
    assert fill(text, ASSETS / "benchmarks") == text
    assert set(re.findall(r"<!-- figures: ([\w-]+) -->", text)) == set(TABLES)


def test_no_row_of_a_table_stands_twice() -> None:
    for name in TABLES:
        block = fill(f"<!-- figures: {name} -->\n<!-- end -->", ASSETS / "benchmarks")
        body = [line for line in block.splitlines() if line.startswith("| ") and "---" not in line]
        assert len(set(body)) == len(body), name


def test_figure_files_keep_the_flat_schema() -> None:
    fields = {"family": str, "task": str, "metric": str, "unit": str, "n": int}
    for path in (ASSETS / "benchmarks").glob("*.json"):
        if path.name == "published.json":
            continue
        data = json.loads(path.read_text())
        assert {"command", "date", "versions", "machine", "world", "seeds"} == set(data["meta"]), path
        for row in data["rows"]:
            assert set(row) == {*fields, "value", "low", "high"}
            assert all(isinstance(row[name], kind) for name, kind in fields.items())
            assert row["low"] <= row["value"] <= row["high"] and row["n"] >= 1


def test_nothing_measured_says_so_and_unknown_names_are_refused(tmp_path: Path) -> None:
    (tmp_path / "published.json").write_text('{"closed_loop": []}')
    for name in TABLES:
        assert MISSING in fill(f"<!-- figures: {name} -->\nold\n<!-- end -->", tmp_path)
    with pytest.raises(ValueError, match="expected figures among"):
        fill("<!-- figures: dreams -->\n<!-- end -->", tmp_path)
