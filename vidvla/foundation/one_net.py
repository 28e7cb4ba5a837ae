"""Families of one small net, which learns from demonstrations in pixels alone."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from vidvla import checkpoint
from vidvla.actions import ActionScale
from vidvla.data.clips import EpisodeStore
from vidvla.data.demos import DemoBatch, Demos
from vidvla.families.base import SMALL, Context, Family, Phase, read_config
from vidvla.foundation.stages import WORLD, unit_actions
from vidvla.train.loop import TrainConfig


class DemoConfig(BaseModel, ABC):
    """Sizes of the net; defaults are those that tests use.

    Attributes:
        size: side of the frames that it sees, pixels.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int = 64

    @abstractmethod
    def window(self) -> tuple[int, int]:
        """Frames that a sample looks ahead, and the control steps and actions from one to the next."""

    @abstractmethod
    def net(self, action_dim: int) -> nn.Module:
        """A fresh net of actions with ``action_dim`` axes."""


class DemoStage(ABC):
    """Learn the net on clean demonstrations.

    Args:
        told: how demonstrations are told, as :class:`~vidvla.data.demos.Demos` takes it.
    """

    name: str

    def __init__(self, context: Context, config: DemoConfig, told: Mapping[str, float] | None = None) -> None:
        self.context, self.config, self.told = context, config, told or {}

    @functools.cached_property
    def demos(self) -> Demos:
        store = EpisodeStore(self.context.data / WORLD)
        frames, stride = self.config.window()
        return Demos(store, unit_actions().to_unit, frames, stride, self.config.size, **self.told)

    def build(self, own: Path | None = None) -> nn.Module:
        net = self.config.net(len(unit_actions().low))
        if own is not None:
            checkpoint.load(own).fill(net, "net")
        return net

    def batch(self, size: int, generator: torch.Generator) -> DemoBatch:
        return self.demos.batch(size, generator)

    def data_used(self) -> dict[str, int]:
        return {f"episodes of {WORLD}": len(self.demos.episodes)}

    @abstractmethod
    def loss(self, model: nn.Module, batch: DemoBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """As in :class:`~vidvla.train.loop.Stage`."""

    @abstractmethod
    def preview(self, model: nn.Module) -> NDArray[np.uint8] | None:
        """As in :class:`~vidvla.train.loop.Stage`."""


class OneNetFamily(Family):
    """One net, one phase.

    Attributes:
        sizes: what the table ``model`` of its settings says.
        stage: what is trained.
    """

    sizes: ClassVar[type[DemoConfig]]
    stage: ClassVar[type[DemoStage]]

    def __init__(self, net: nn.Module, config: DemoConfig, scale: ActionScale, device: torch.device) -> None:
        self.net, self.config, self.scale, self.device = net, config, scale, device

    @classmethod
    def phases(cls, size: str = SMALL) -> list[Phase]:
        table, name = read_config(cls.name, size), cls.published["net"]
        config = cls.sizes(**table["model"])
        plan = TrainConfig(**table["train"][name.removeprefix(f"{cls.name}.")])
        return [Phase(name, lambda context: cls.stage(context, config, table["told"]), plan)]

    @classmethod
    def publish(cls, context: Context) -> None:
        scale, config = unit_actions(), cls.sizes(**read_config(cls.name, context.size)["model"])
        net, phase = config.net(len(scale.low)), cls.published["net"]
        checkpoint.load(context.weights(phase)).fill(net, "net")
        described = context.description(cls.name, WORLD, [phase], model=config.model_dump(), actions=scale.saved())
        checkpoint.save(context.checkpoints / f"{cls.name}-{WORLD}", {"net": net}, described)

    @classmethod
    def load(cls, checkpoints: Path, device: torch.device) -> Self:
        saved = checkpoint.load(checkpoints / f"{cls.name}-{WORLD}")
        config, scale = cls.sizes(**saved.config["model"]), ActionScale(**saved.config["actions"])
        net = config.net(len(scale.low))
        saved.fill(net, "net")
        family = cls(net.eval().to(device), config, scale, device)
        family.records = tuple(saved.config["trained"])
        return family

    @classmethod
    def tiny(cls) -> Self:
        config, scale = cls.sizes(), unit_actions()
        return cls(config.net(len(scale.low)).eval(), config, scale, torch.device("cpu"))

    def nets(self) -> dict[str, nn.Module]:
        return {"net": self.net}
