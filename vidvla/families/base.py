"""What every family is: a configuration, phases of training, and one call from request to rollout."""

from __future__ import annotations

import json
import time
import tomllib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from vidvla import checkpoint
from vidvla.train.loop import Stage, TrainConfig
from vidvla.types import ProgressCallback, Request, Rollout
from vidvla.worlds.base import Frame

SMALL = "small"
SIZES = (SMALL, "gpu")
"""Configurations that ship: what two CPU cores train, and what a GPU would."""


@dataclass(frozen=True)
class Context:
    """Where training finds its data and its earlier results.

    Attributes:
        data: folder with one recorded folder a world.
        runs: folder of the runs, one a phase.
        checkpoints: folder of published checkpoints.
        size: which configurations are trained, one of :data:`SIZES`.
    """

    data: Path
    runs: Path
    checkpoints: Path
    size: str = SMALL

    def weights(self, phase: str) -> Path:
        """The finished weights of a phase, such as ``backbone.film``."""
        return self.runs / phase / "final"

    def description(self, family: str, world: str, phases: list[str], **model: Any) -> dict[str, Any]:
        """The ``config.json`` of a published family: its sizes, and the record of every phase behind it."""
        trained = [json.loads((self.weights(name) / checkpoint.CONFIG).read_text()) for name in phases]
        return {"family": family, "world": world, **model, "trained": trained}


@dataclass(frozen=True)
class Phase:
    """One phase of a family's training.

    Attributes:
        name: ``<owner>.<phase>``, such as ``gr2.joint``.
        stage: makes what is trained, once earlier phases are done.
        config: how long and how.
        parents: earlier phases whose weights this one builds on.
    """

    name: str
    stage: Callable[[Context], Stage]
    config: TrainConfig
    parents: tuple[str, ...] = ()


class Family(ABC):
    """A way to answer a request with a film, actions, or both.

    Attributes:
        name: the module's name.
        title: what people call it.
        order: place in lists.
        source: the paper behind it.
        summary: one sentence on how it works.
        films: True where it predicts frames.
        acts: True where it predicts actions.
        attends: True where it has attention to show.
        inverts: True where it reads actions from pairs of frames (:meth:`between`).
        published: the phase behind each of the checkpoint's own nets.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    order: ClassVar[int] = 100
    source: ClassVar[str]
    summary: ClassVar[str]
    films: ClassVar[bool]
    acts: ClassVar[bool]
    attends: ClassVar[bool]
    inverts: ClassVar[bool] = False
    published: ClassVar[dict[str, str]]
    records: tuple[dict[str, Any], ...] = ()
    """What each phase behind the loaded weights used: settings, seconds, threads, data."""

    @classmethod
    @abstractmethod
    def phases(cls, size: str = SMALL) -> list[Phase]:
        """Phases of training in their order, shared ones included, at one of :data:`SIZES`."""

    @classmethod
    @abstractmethod
    def publish(cls, context: Context) -> None:
        """Write the finished phases as a checkpoint that :meth:`load` reads."""

    @classmethod
    @abstractmethod
    def load(cls, checkpoints: Path, device: torch.device) -> Family:
        """The trained family from the folder of published checkpoints."""

    @classmethod
    @abstractmethod
    def tiny(cls) -> Family:
        """The family at test size with random weights."""

    @abstractmethod
    def __call__(
        self, request: Request, *, attention: bool = False, progress: ProgressCallback | None = None
    ) -> Rollout:
        """Answer ``request``; with ``attention`` the maps come along."""

    @abstractmethod
    def nets(self) -> dict[str, nn.Module]:
        """The nets by name."""

    def between(self, frames: Frame) -> NDArray[np.float32]:
        """Actions (T, A) between neighbouring frames (T + 1, H, W, 3), one control step apart; world units."""
        raise ValueError(f"expected a family with inverse dynamics, got {self.name}")

    def act(self, request: Request) -> NDArray[np.float32]:
        """Only the actions (N, A), as quickly as the family can; for closed loops."""
        actions = self(request).actions
        if actions is None:
            raise ValueError(f"expected a family that predicts actions, got {self.name}")
        return actions

    def parameters(self) -> int:
        """Number of weights over all nets."""
        return sum(p.numel() for net in self.nets().values() for p in net.parameters())


class Clock:
    """Wall-clock seconds of named parts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start = time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def done(self) -> dict[str, float]:
        return self.seconds | {"total": time.perf_counter() - self._start}


def read_config(name: str, size: str = SMALL) -> dict[str, Any]:
    """The tables of ``configs/<name>.toml``, or of ``configs/gpu/<name>.toml`` for the size ``gpu``."""
    if size not in SIZES:
        raise ValueError(f"expected a size among {', '.join(SIZES)}; got {size!r}")
    folder = resources.files("vidvla.configs")
    file = folder.joinpath(f"{name}.toml") if size == SMALL else folder.joinpath(size, f"{name}.toml")
    return tomllib.loads(file.read_text(encoding="utf-8"))


def fit_square(frame: Frame, size: int) -> Frame:
    """The frame at ``size`` x ``size``; other aspect ratios are cropped to the middle first."""
    height, width = frame.shape[:2]
    if (height, width) == (size, size):
        return frame
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(frame[top : top + side, left : left + side])
    return np.array(square.resize((size, size), Image.Resampling.LANCZOS))
