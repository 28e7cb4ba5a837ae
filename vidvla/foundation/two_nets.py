"""Families of two nets: one pictures what is to come, the other finds the actions that lead there."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vidvla import checkpoint
from vidvla.actions import ActionScale
from vidvla.families.base import Context, Family, read_config
from vidvla.foundation.backbone import BackboneConfig
from vidvla.foundation.film import FilmModel
from vidvla.foundation.stages import (
    CODEC,
    FILM,
    PHYSICS,
    WORLD,
    ActionConfig,
    backbone_config,
    load_codec,
    load_net,
    publish_codec,
    unit_actions,
)
from vidvla.nn.codec import FrameCodec
from vidvla.nn.video_dit import VideoActionDiT


class TwoNetFamily(Family):
    """A film net, and a net of its own for the actions.

    Attributes:
        part: the second net's name: of its table in the settings, in the checkpoint, and in :attr:`published`.
        sizes: what that table says.
    """

    part: ClassVar[str]
    sizes: ClassVar[type[ActionConfig]]
    actor: nn.Module

    def __init__(self, model: FilmModel, actor: nn.Module, scale: ActionScale) -> None:
        self.model, self.actor, self.scale = model, actor, scale

    @classmethod
    def film_sizes(cls, sizes: BackboneConfig) -> BackboneConfig:
        """Sizes of the family's film net, where those of the shared one are ``sizes``."""
        return sizes

    @classmethod
    def film_net(cls, sizes: BackboneConfig, folder: Path | None = None) -> VideoActionDiT:
        """The film net of :meth:`film_sizes`, fresh or from the checkpoint in ``folder``."""
        return sizes.net() if folder is None else load_net(folder, sizes)

    @classmethod
    def publish(cls, context: Context) -> None:
        sizes, scale = backbone_config(context.size), unit_actions()
        config = cls.sizes(**read_config(cls.name, context.size)[cls.part])
        actor = config.net(sizes, len(scale.low))
        checkpoint.load(context.weights(cls.published[cls.part])).fill(actor, "net")
        net = cls.film_net(cls.film_sizes(sizes), context.weights(cls.published["net"]))
        phases = dict.fromkeys([CODEC, PHYSICS, FILM, *cls.published.values()])
        described = context.description(
            cls.name, WORLD, list(phases), model=sizes.model_dump(), **{cls.part: config.model_dump()},
            actions=scale.saved(),
        )  # fmt: skip
        nets = {"net": net, cls.part: actor}
        checkpoint.save(context.checkpoints / f"{cls.name}-{WORLD}", nets, described, bits=8)
        publish_codec(context)

    @classmethod
    def load(cls, checkpoints: Path, device: torch.device) -> Self:
        folder = checkpoints / f"{cls.name}-{WORLD}"
        saved = checkpoint.load(folder)
        sizes, scale = BackboneConfig(**saved.config["model"]), ActionScale(**saved.config["actions"])
        actor = cls.sizes(**saved.config[cls.part]).net(sizes, len(scale.low))
        saved.fill(actor, cls.part)
        sizes = cls.film_sizes(sizes)
        net = cls.film_net(sizes, folder).eval().to(device)
        model = FilmModel(load_codec(checkpoints / "codec").to(device), net, sizes, device)
        family = cls(model, actor.eval().to(device), scale)
        family.records = tuple(saved.config["trained"])
        return family

    @classmethod
    def tiny(cls) -> Self:
        shared, scale = BackboneConfig(), unit_actions()
        sizes = cls.film_sizes(shared)
        codec = FrameCodec(latent_channels=sizes.latent_channels, width=8).eval()
        model = FilmModel(codec, cls.film_net(sizes).eval(), sizes, torch.device("cpu"))
        return cls(model, cls.sizes().net(shared, len(scale.low)).eval(), scale)

    def nets(self) -> dict[str, nn.Module]:
        return {"codec": self.model.codec, "net": self.model.net, self.part: self.actor}

    def to_world(self, unit: Tensor) -> NDArray[np.float32]:
        """Actions (N, A) of unit scale -> in the world's units."""
        return self.scale.to_world(unit.float().cpu().numpy())
