"""The house rules that a machine can check."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAYERS = (
    ("worlds.base", "types", "turns"),
    ("pixels", "actions", "text", "images", "planning", "worlds"),
    ("nn", "checkpoint", "saliency"),
    ("samples",),
    ("data",),
    ("train.loop", "train.muon", "train.evolve"),
    ("families.base",),
    ("foundation",),
    ("families",),
    ("registry", "train.run", "look"),
    ("eval",),
    ("drive",),
    ("views",),
    ("steering", "scenes"),
    ("service",),
    ("cli",),
)
"""Imports point upwards in this list only."""


def _layer(module: str) -> int:
    name = module.removeprefix("vidvla.")
    best, place = "", -1
    for index, names in enumerate(LAYERS):
        for prefix in names:
            if (name == prefix or name.startswith(f"{prefix}.")) and len(prefix) > len(best):
                best, place = prefix, index
    return place


def _top_level_imports(path: Path) -> list[str]:
    found = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return found


def test_imports_point_one_way() -> None:
    wrong = []
    for path in sorted((ROOT / "vidvla").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if path.name == "__init__.py":
            continue
        here = _layer(module)
        assert here >= 0, f"{module} has no layer"
        for imported in _top_level_imports(path):
            if imported.startswith("vidvla.") and _layer(imported) > here:
                wrong.append(f"{module} imports {imported}")
    assert wrong == []


def test_the_page_holds_no_torch_and_the_package_no_page() -> None:
    for path in (ROOT / "app").rglob("*.py"):
        assert not [m for m in _top_level_imports(path) if m.split(".")[0] == "torch"], path
    for path in (ROOT / "vidvla").rglob("*.py"):
        assert not [m for m in _top_level_imports(path) if m.split(".")[0] in ("app", "gradio")], path


def test_nobody_dispatches_on_a_familys_name() -> None:
    names = {path.stem for path in (ROOT / "vidvla" / "families").glob("*.py")} - {"base", "__init__"}
    for folder in ("app", "vidvla"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Compare):
                    values = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
                    assert not names & {v for v in values if isinstance(v, str)}, f"{path}:{node.lineno}"


def test_files_are_short_and_none_is_a_grab_bag() -> None:
    for folder in ("app", "vidvla"):
        for path in (ROOT / folder).rglob("*.py"):
            assert path.stem != "utils"
            assert len(path.read_text().splitlines()) <= 450, path


def test_importing_does_nothing() -> None:
    code = (
        # torch names its own cache folder on import
        "import os, sys, torch._inductor; before = dict(os.environ); import vidvla, vidvla.service, vidvla.cli; "
        "assert dict(os.environ) == before; assert 'mujoco' not in sys.modules; assert 'gradio' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
