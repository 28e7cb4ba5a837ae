"""What every family is: a configuration, phases of training, and one call from request to rollout."""

from __future__ import annotations

import json
import os
import time
import tomllib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from vidvla import checkpoint
from vidvla.saliency import Traced
from vidvla.train.evolve import EvolveConfig, Search
from vidvla.train.loop import Progress, Stage, TrainConfig, fit
from vidvla.types import Control, ProgressCallback, Request, Rollout
from vidvla.worlds.agent import Agent, Played
from vidvla.worlds.base import Frame

SMALL = "small"
SIZES = (SMALL, "gpu")
"""Configurations that ship: what two CPU cores train, and what a GPU would."""
OUTSIDE = "VIDVLA_FAMILIES"
"""Environment variable with folders, separated as in ``PATH``, of families from outside the package: each is
``<name>.py``, which ends with ``FAMILY = ...``, beside ``<name>.toml``."""
EVOLVED = "evolved"
CONTROLLERS = (EVOLVED, "random", "constant", "cem")
"""Controllers of a family that evolves one: that one, uniformly drawn actions, the constant action that is best in the
dream, and planning in the dream by the cross-entropy method."""
EVOLVED_STEPS = 32
"""Control steps that a controller is evolved for and scored over: two seconds."""


@dataclass(frozen=True)
class Evolution:
    """How a controller came to be.

    Attributes:
        task: that it was evolved for.
        kept: generations whose controller can be replayed, ascending.
        rows: a generation each: ``generation``, the scores ``best`` and ``mean`` of its candidates in the dream, and
            where it was measured ``real``, the controller's score in the simulator on training layouts.
    """

    task: str
    kept: tuple[int, ...]
    rows: tuple[dict[str, Any], ...]


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
        parents: earlier phases whose weights this one builds on: where they change it begins anew.
        trainer: trains the stage as the configuration says, resuming what stands in a folder: by gradients
            (:func:`~vidvla.train.loop.fit`) or by :func:`~vidvla.train.evolve.evolve`.
        optional: True where the family does without it: it is run where it is asked for by its name, and from then on
            kept up to date.
        teachers: earlier phases that this one only learns from: where they change it goes on from its own weights.
    """

    name: str
    stage: Callable[[Context], Stage | Search]
    config: TrainConfig | EvolveConfig
    parents: tuple[str, ...] = ()
    trainer: Callable[..., tuple[nn.Module, Progress]] = fit
    optional: bool = False
    teachers: tuple[str, ...] = ()


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
        general: False where it knows only :attr:`tasks`.
        told: True where it is told the robot's actions (:attr:`~vidvla.types.Request.actions`).
        chance: what makes several seeds of its dream differ, a sentence, where it can be driven.
        targets: the control that sets how many control steps ahead its target image shows the scene
            (:attr:`~vidvla.types.Rollout.target`); None where it imagines no single image.
        differs: how it departs from what its name stands for, one or two sentences.
        evolved: True where a controller was evolved in the family's own dream (:meth:`agent`,
            :meth:`dream_scores`, :meth:`evolution`, :meth:`replay`).
        controls: what a request can set of it besides what it sets of all families; of a loaded family, as far as the
            weights for it are there (:meth:`offered`).
        published: the phase behind each of the checkpoint's own nets, and behind parts of them (``net.hand``) that
            phases of their own trained.
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
    general: ClassVar[bool] = True
    told: ClassVar[bool] = False
    chance: ClassVar[str] = ""
    targets: ClassVar[Control | None] = None
    differs: ClassVar[str] = ""
    evolved: ClassVar[bool] = False
    controls: tuple[Control, ...] = ()
    published: ClassVar[dict[str, str]]
    records: tuple[dict[str, Any], ...] = ()
    """What each phase behind the loaded weights used: settings, seconds, threads, data."""
    tasks: tuple[str, ...] = ()
    """The only tasks that it knows, where it cannot be told which; empty where the instruction says it."""

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

    def agent(self, controller: str = EVOLVED, seed: int = 0, kept: int = -1) -> Agent:
        """Acts on every frame that it sees, by one of :data:`CONTROLLERS`.

        Args:
            seed: of those that draw.
            kept: of the evolved one, its place among the kept generations.
        """
        raise ValueError(f"expected a family with an evolved controller, got {self.name}")

    def evolution(self) -> Evolution:
        """How the evolved controller came to be."""
        raise ValueError(f"expected a family with an evolved controller, got {self.name}")

    def replay(self, frame: Frame, kept: int, tau: float, seed: int) -> tuple[Frame, Played]:
        """A dream of :data:`EVOLVED_STEPS` steps from ``frame`` (H, W, 3), by the controller of one kept generation.

        Args:
            kept: its place among the kept generations.
            tau: temperature of the dream.
            seed: of the dream's chance.

        Returns:
            The film (T + 1, H, W, 3), the first frame as the family sees it, and what the dream says of each step.
        """
        raise ValueError(f"expected a family with an evolved controller, got {self.name}")

    def dream_scores(self, frames: Frame, tau: float, seed: int) -> NDArray[np.float32]:
        """Scores (B,) of the evolved controller in dreams from frames (B, H, W, 3) at temperature ``tau``."""
        raise ValueError(f"expected a family with an evolved controller, got {self.name}")

    def traced(self, request: Request) -> Traced:
        """The answer to ``request`` with its history, for gradients through it (:mod:`vidvla.saliency`)."""
        raise ValueError(f"expected a family whose answers can be traced to what they depend on, got {self.name}")

    def act(self, request: Request) -> NDArray[np.float32]:
        """Only the actions (N, A), as quickly as the family can; for closed loops."""
        actions = self(request).actions
        if actions is None:
            raise ValueError(f"expected a family that predicts actions, got {self.name}")
        return actions

    def commits(self, request: Request) -> int | None:
        """Control steps that it goes on one answer to ``request``; None where it leaves that to whoever runs it."""
        return None

    @classmethod
    def offered(cls, config: Mapping[str, Any]) -> tuple[Control, ...]:
        """The controls that a checkpoint with ``config`` has the weights for."""
        return cls.controls

    @classmethod
    def option(cls, request: Request, name: str) -> float | str:
        """What ``request`` sets the control ``name`` to, or its default.

        Raises:
            ValueError: one sentence, where the value is not allowed.
        """
        control = next(control for control in cls.controls if control.name == name)
        default = getattr(request, name) if control.default is None else control.default
        return control.check(request.options.get(f"{cls.name}.{name}", default), cls.title)

    @classmethod
    def own(cls, request: Request) -> Request:
        """``request`` with the fields that this family's controls stand in for as they are set."""
        standing = [control.name for control in cls.controls if control.default is None]
        fields: dict[str, Any] = {name: cls.option(request, name) for name in standing}
        return replace(request, **fields)

    @classmethod
    def check_options(cls, request: Request) -> None:
        """ValueError with one sentence where ``request`` sets a control that is not there or a value not allowed."""
        names = [control.name for control in cls.controls]
        for key in request.options:
            whose, _, name = key.partition(".")
            if whose == cls.name and name not in names:
                known = f"expected one among {', '.join(names)}" if names else "it has none"
                raise ValueError(f"{cls.title} has no control {name[:40]!r}: {known}")
        for name in names:
            cls.option(request, name)

    def parameters(self) -> int:
        """Number of weights over all nets."""
        return sum(p.numel() for net in self.nets().values() for p in net.parameters())


class Clock:
    """Wall-clock seconds of named parts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._aside = 0.0
        self._start = self._now()

    def _now(self) -> float:
        return time.perf_counter() - self._aside

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = self._now()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + self._now() - start

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Time that does not count: somebody else's work in between."""
        start = time.perf_counter()
        yield
        self._aside += time.perf_counter() - start

    def done(self) -> dict[str, float]:
        return self.seconds | {"total": self._now() - self._start}


def outside() -> tuple[Path, ...]:
    """The folders that :data:`OUTSIDE` names; ValueError where one of them is none."""
    folders = tuple(Path(part) for part in os.environ.get(OUTSIDE, "").split(os.pathsep) if part)
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"expected folders of families in {OUTSIDE}, got {folder}")
    return folders


def read_config(name: str, size: str = SMALL) -> dict[str, Any]:
    """The tables of ``configs/<name>.toml``, or of ``configs/gpu/<name>.toml`` for the size ``gpu``.

    Families from :func:`outside` have theirs beside them, at the same places under their folder.
    """
    if size not in SIZES:
        raise ValueError(f"expected a size among {', '.join(SIZES)}; got {size!r}")
    path = f"{name}.toml" if size == SMALL else f"{size}/{name}.toml"
    for folder in (resources.files("vidvla.configs"), *outside()):
        file = folder.joinpath(path)
        if file.is_file():
            return tomllib.loads(file.read_text(encoding="utf-8"))
    raise ValueError(f"expected the settings of {name} in {path}, got none")


def fit_square(frame: Frame, size: int) -> Frame:
    """The frame at ``size`` x ``size``; other aspect ratios are cropped to the middle first."""
    height, width = frame.shape[:2]
    if (height, width) == (size, size):
        return frame
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(frame[top : top + side, left : left + side])
    return np.array(square.resize((size, size), Image.Resampling.LANCZOS))
