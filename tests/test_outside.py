"""A further family is one file, one TOML and this test: it is dropped in from outside the package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FAMILY = '''
"""Repeats the given frame and holds still."""

from typing import ClassVar

import numpy as np
import torch
from torch import nn

from vidvla import checkpoint
from vidvla.families.base import SMALL, Clock, Family, Phase, fit_square, read_config
from vidvla.foundation.film import check_request
from vidvla.train.loop import TrainConfig
from vidvla.types import Rollout


class Still(Family):
    name: ClassVar[str] = "still"
    title: ClassVar[str] = "Still life"
    order: ClassVar[int] = 70
    source: ClassVar[str] = "a folder outside of the package"
    summary: ClassVar[str] = "Repeats the given frame and holds still."
    films: ClassVar[bool] = True
    acts: ClassVar[bool] = True
    attends: ClassVar[bool] = False
    published: ClassVar[dict[str, str]] = {"net": "still.bias"}

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    @classmethod
    def phases(cls, size: str = SMALL) -> list[Phase]:
        return [Phase("still.bias", lambda context: None, TrainConfig(**read_config(cls.name)["train"]["bias"]))]

    @classmethod
    def publish(cls, context) -> None:
        raise NotImplementedError

    @classmethod
    def load(cls, checkpoints, device) -> "Still":
        family = cls.tiny()
        checkpoint.load(checkpoints / "still-metaworld").fill(family.net, "net")
        return family

    @classmethod
    def tiny(cls) -> "Still":
        return cls(nn.Linear(1, read_config(cls.name)["model"]["axes"]))

    def nets(self) -> dict[str, nn.Module]:
        return {"net": self.net}

    def __call__(self, request, *, attention=False, progress=None) -> Rollout:
        clock = Clock()
        check_request(request)
        frames = np.repeat(fit_square(request.frame, 128)[None], 2, axis=0)
        return Rollout(frames, (8, 16), np.zeros((16, self.net.out_features), np.float32), None, clock.done())


FAMILY = Still
'''
CONFIG = """
[model]
axes = 4

[train.bias]
steps = 1
batch = 1
lr = 0.001
"""
EVERYWHERE = """
import contextlib, io, sys
from pathlib import Path
from vidvla.cli import asked_families, main, parse_families
from vidvla.registry import family
from vidvla.service import Service
from app.main import build

left = io.StringIO()
assert "still" in parse_families("all")
with contextlib.redirect_stderr(left):
    assert "still" not in list(asked_families("all"))
assert "left out still: no trained weights" in left.getvalue(), left.getvalue()
sys.argv = ["vidvla", "predict", "--family", "still", "--task", "door-open"]
said = io.StringIO()
with contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
    main()
assert "vidvla train still" in said.getvalue() or "libosmesa6" in said.getvalue(), said.getvalue()

(info,) = [info for info in Service(Path("nowhere")).families() if info.name == "still"]
assert info.problem == "no trained weights in still-metaworld (run: vidvla train still)"
shown = str(build(Service(loaded={"still": family("still").tiny()})).config["components"])
for part in ("card-still", "act-still", "Still life"):
    assert part in shown, part
print("found everywhere")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "still.py").write_text(FAMILY)
    (tmp_path / "still.toml").write_text(CONFIG)
    return tmp_path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A fresh process that is told of the folder: what is registered is kept for a process's life."""
    environment = {**os.environ, "VIDVLA_FAMILIES": str(folder)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=900)


@pytest.mark.timeout(1000)
def test_it_is_found_in_the_command_line_and_on_the_page(folder: Path) -> None:
    done = run(folder, "-c", EVERYWHERE)
    assert done.returncode == 0 and "found everywhere" in done.stdout, done.stderr[-2000:]


@pytest.mark.timeout(1000)
def test_it_keeps_every_promise_of_the_contract(folder: Path) -> None:
    done = run(folder, "-m", "pytest", "tests/test_families.py", "-q", "-k", "still", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout[-3000:]  # it is not 0 where nothing was collected either


@pytest.mark.timeout(1000)
def test_folders_that_are_none_and_taken_names_are_refused(folder: Path) -> None:
    listing = "from vidvla.cli import main; main()"
    done = run(folder / "missing", "-c", listing, "train", "bc")
    assert done.returncode == 1 and done.stderr.strip().count("\n") == 0 and "expected folders" in done.stderr
    (folder / "bc.py").write_text(FAMILY)
    assert "names of their own" in run(folder, "-c", "from vidvla.registry import families; families()").stderr
