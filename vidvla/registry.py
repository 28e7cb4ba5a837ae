"""Families found by scanning their folders: one module is one family, no list to keep."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import vidvla.families
from vidvla import checkpoint
from vidvla.data.episode import Student
from vidvla.families.base import OUTSIDE, Family, outside
from vidvla.foundation.stages import WORLD
from vidvla.text import phrase_book
from vidvla.types import Request
from vidvla.worlds.base import Frame


@functools.cache
def families() -> dict[str, type[Family]]:
    """All families by name, those from outside the package included (:data:`~vidvla.families.base.OUTSIDE`).

    A module that does not import raises: a broken family must not vanish quietly.
    """
    found = {}
    folders = [str(folder) for folder in outside()]
    own = [folder for folder in vidvla.families.__path__ if folder not in folders]
    twice = {m.name for m in pkgutil.iter_modules(own)} & {m.name for m in pkgutil.iter_modules(folders)}
    if twice:
        raise ImportError(f"expected names of their own for the families in {OUTSIDE}, got {', '.join(sorted(twice))}")
    vidvla.families.__path__[:] = [*own, *folders]  # a package may lie in several folders
    for module in pkgutil.iter_modules(vidvla.families.__path__):
        if module.name == "base":
            continue
        imported = importlib.import_module(f"vidvla.families.{module.name}")
        family: type[Family] = imported.FAMILY
        if family.name != module.name:
            raise ImportError(f"expected the family of {module.name}.py to be named so, got {family.name!r}")
        found[family.name] = family
    return dict(sorted(found.items(), key=lambda item: (item[1].order, item[0])))


def family(name: str) -> type[Family]:
    """One family by name; ValueError lists the known ones."""
    known = families()
    if name not in known:
        raise ValueError(f"expected a family among {', '.join(known)}; got {name!r}")
    return known[name]


def missing(name: str, checkpoints: Path) -> str | None:
    """None where a family's published weights are in ``checkpoints``; else what is missing and how to train it."""
    folder = checkpoints / f"{name}-{WORLD}"
    if (folder / checkpoint.CONFIG).is_file() and (folder / checkpoint.WEIGHTS).is_file():
        return None
    return f"no trained weights in {folder.name} (run: vidvla train {name})"


def load(name: str, checkpoints: Path, device: torch.device) -> Family:
    """A published family; a ValueError of one sentence where it is unknown, has no weights, or damaged ones."""
    kind = family(name)
    if (problem := missing(name, checkpoints)) is not None:
        raise checkpoint.CheckpointError(f"expected a family with trained weights, got {name}: {problem}")
    return kind.load(checkpoints, device)


def student(name: str, checkpoints: Path) -> Student:
    """A published family as the policy that acts first in recorded episodes, told what to do in a training phrase."""
    torch.set_num_threads(1)  # one recording process a core
    policy = load(name, checkpoints, torch.device("cpu"))

    def act(frame: Frame, task: str, seed: int) -> NDArray[np.float32]:
        phrases = phrase_book()[task].train
        return policy.act(Request(frame, phrases[seed % len(phrases)], seed))

    return act
