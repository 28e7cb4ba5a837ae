"""GR-2-style: one transformer predicts the film and, from its hidden states, the actions."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vidvla import checkpoint
from vidvla.actions import ActionScale
from vidvla.data.films import WindowSpec
from vidvla.families.base import SMALL, Clock, Context, Family, Phase, read_config
from vidvla.foundation.backbone import BackboneConfig, denoise
from vidvla.foundation.film import GUIDANCE, FilmModel
from vidvla.foundation.stages import (
    CODEC,
    FILM,
    PHYSICS,
    WORLD,
    FilmStage,
    backbone_config,
    backbone_phases,
    film_data,
    load_codec,
    load_net,
    publish_codec,
    unit_actions,
)
from vidvla.nn.attention import capture_attention
from vidvla.nn.codec import FrameCodec
from vidvla.nn.video_dit import Hidden
from vidvla.train.loop import TrainConfig
from vidvla.types import Control, ProgressCallback, Request, Rollout

JOINT = "gr2.joint"
FIRST, LAST = "first step", "last step"
READ = Control(
    "read", "Actions read at", FIRST, choices=(FIRST, LAST),
    info="the denoising step whose hidden states the action head reads",
)  # fmt: skip
"""The first step saw pure noise: its hidden states are what the head was mostly trained on."""


class Gr2(Family):
    """Phase 3 on the shared backbone: L = L_film + lambda L_action, one chunk of actions a planned frame."""

    name: ClassVar[str] = "gr2"
    title: ClassVar[str] = "GR-2 style"
    order: ClassVar[int] = 10
    source: ClassVar[str] = "Cheang et al. 2024, arXiv 2410.06158"
    summary: ClassVar[str] = "One diffusion transformer; actions are read from the hidden states of the film."
    films: ClassVar[bool] = True
    acts: ClassVar[bool] = True
    attends: ClassVar[bool] = True
    controls: ClassVar[tuple[Control, ...]] = (GUIDANCE, READ)
    published: ClassVar[dict[str, str]] = {"net": JOINT}

    def __init__(self, model: FilmModel, scale: ActionScale) -> None:
        self.model, self.scale = model, scale

    @classmethod
    def phases(cls, size: str = SMALL) -> list[Phase]:
        config = read_config(cls.name, size)
        model = backbone_config(size)
        spec = WindowSpec(model.frames, model.stride, **config["windows"])

        def joint(context: Context) -> FilmStage:
            return FilmStage(
                JOINT, context, lambda: film_data(context, WORLD), spec,
                lambda own: load_net(own or context.weights(FILM), model, action_dim=len(unit_actions().low)),
                action_weight=config["action_weight"], full_noise=config["full_noise"],
            )  # fmt: skip

        return [*backbone_phases(size), Phase(JOINT, joint, TrainConfig(**config["train"]["joint"]), (CODEC, FILM))]

    @classmethod
    def publish(cls, context: Context) -> None:
        scale = unit_actions()
        config = context.description(
            cls.name, WORLD, [CODEC, PHYSICS, FILM, JOINT],
            model=backbone_config(context.size).model_dump(), actions=scale.saved(),
        )  # fmt: skip
        net = load_net(context.weights(JOINT), backbone_config(context.size), len(scale.low))
        checkpoint.save(context.checkpoints / f"{cls.name}-{WORLD}", {"net": net}, config)
        publish_codec(context)

    @classmethod
    def load(cls, checkpoints: Path, device: torch.device) -> Gr2:
        folder = checkpoints / f"{cls.name}-{WORLD}"
        config = checkpoint.load(folder).config
        sizes = BackboneConfig(**config["model"])
        scale = ActionScale(**config["actions"])
        net = load_net(folder, sizes, len(scale.low)).eval().to(device)
        family = cls(FilmModel(load_codec(checkpoints / "codec").to(device), net, sizes, device), scale)
        family.records = tuple(config["trained"])
        return family

    @classmethod
    def tiny(cls) -> Gr2:
        sizes, scale = BackboneConfig(), unit_actions()
        codec = FrameCodec(latent_channels=sizes.latent_channels, width=8).eval()
        return cls(FilmModel(codec, sizes.net(len(scale.low)).eval(), sizes, torch.device("cpu")), scale)

    def nets(self) -> dict[str, nn.Module]:
        return {"codec": self.model.codec, "net": self.model.net}

    @torch.no_grad()
    def __call__(
        self, request: Request, *, attention: bool = False, progress: ProgressCallback | None = None
    ) -> Rollout:
        clock, request, read = Clock(), self.own(request), self.option(request, READ.name)
        with clock.part("encode"):
            scene = self.model.scene(request)
        with capture_attention() if attention else nullcontext() as trace:
            first, last = self.model.film(scene, request, clock, progress)
        with clock.part("actions"):
            actions = self._actions((first if read == FIRST else last).hidden)
        with clock.part("decode"):
            frames = self.model.decode(last.clean, scene)
        maps = self.model.attention(trace, scene.text, request.instruction) if trace is not None else None
        return Rollout(frames, self.model.key_times(), actions, maps, clock.done())

    def _actions(self, hidden: Hidden) -> NDArray[np.float32]:
        return self.scale.to_world(self.model.net.act(hidden)[0].flatten(0, 1).float().cpu().numpy())

    @torch.no_grad()
    def act(self, request: Request) -> NDArray[np.float32]:
        request, scene = self.own(request), self.model.scene(request)
        if self.option(request, READ.name) == LAST:
            _, last = self.model.film(scene, request, Clock())
            return self._actions(last.hidden)
        generator = torch.Generator().manual_seed(request.seed)
        times = self.model.times(*self.model.key_times())
        step = next(denoise(self.model.net, scene, times, steps=1, generator=generator))
        return self._actions(step.hidden)


FAMILY = Gr2
