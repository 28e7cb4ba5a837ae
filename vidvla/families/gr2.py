"""GR-2-style: one transformer predicts the film and, from its hidden states, the actions.

Beside the head that is trained with the film, others read the same hidden states of the finished net, to compare what
they are good for (:mod:`vidvla.nn.heads`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from vidvla import checkpoint
from vidvla.actions import ActionScale
from vidvla.data.films import FilmBatch, WindowSpec
from vidvla.families.base import SMALL, Clock, Context, Family, Phase, read_config
from vidvla.foundation.backbone import BackboneConfig, Scene, denoise
from vidvla.foundation.film import GUIDANCE, FilmModel
from vidvla.foundation.stages import (
    CODEC,
    FILM,
    PHYSICS,
    WORLD,
    ActionConfig,
    ActionStage,
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
from vidvla.nn.heads import HEADS, ActionHead, make_head
from vidvla.nn.video_dit import Hidden, VideoActionDiT
from vidvla.pixels import to_float
from vidvla.train.loop import TrainConfig
from vidvla.types import Control, ProgressCallback, Request, Rollout

JOINT = "gr2.joint"
HEADS_PHASE = "gr2.heads"
"""The phase that trains the other heads, all of them on the same hidden states of the same windows."""
JOINT_HEAD = "joint"
"""The head that is trained with the film, and answers unless another one is asked for."""
FIRST, LAST = "first step", "last step"
READ = Control(
    "read", "Actions read at", FIRST, choices=(FIRST, LAST),
    info="the denoising step whose hidden states the action head reads",
)  # fmt: skip
"""The first step saw pure noise: its hidden states are what the head was mostly trained on."""
CHOSEN = Control(
    "head", "Action head", JOINT_HEAD, choices=(JOINT_HEAD, *HEADS),
    info="joint was trained with the film, others after it",
)  # fmt: skip


class HeadConfig(ActionConfig):
    """Sizes of the heads that are trained afterwards; defaults are those that tests use."""

    width: int = Field(default=32, gt=0)
    n_layers: int = Field(default=1, gt=0)
    n_heads: int = Field(default=2, gt=0)

    def net(self, sizes: BackboneConfig, action_dim: int) -> ActionHeads:
        """Fresh heads of every kind over the film net's hidden states."""
        made = {kind: make_head(kind, 2 * sizes.d_model, action_dim, **self.model_dump()) for kind in HEADS}
        return ActionHeads(made)


class ActionHeads(nn.Module):
    """Heads of several kinds that read the same features and know nothing of each other."""

    def __init__(self, heads: Mapping[str, ActionHead]) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(heads)

    def forward(self, features: Tensor, actions: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Losses (B, N) of the actions (B, N, A) of unit scale, by the head's kind."""
        return {kind: head(features, actions, generator) for kind, head in self.heads.items()}

    def sample(self, kind: str, features: Tensor, generator: torch.Generator) -> Tensor:
        """Actions (B, N, A) in [-1, 1] of one head."""
        return cast(ActionHead, self.heads[kind]).sample(features, generator)


def read_steps(net: VideoActionDiT, hidden: Hidden) -> Tensor:
    """What heads read of each control step, (B, K * chunk, 2 d_model): the hidden states of the frame it leads to."""
    return net.read(hidden).repeat_interleave(net.action_chunk, dim=1)


class HeadStage(ActionStage):
    """Learn heads of every kind on the hidden states of the finished net, which stays as it is.

    Args:
        spec: how windows are cut.
        start: the finished net.
    """

    def __init__(
        self, context: Context, config: HeadConfig, spec: WindowSpec, start: Callable[[], VideoActionDiT]
    ) -> None:
        super().__init__(HEADS_PHASE, context, config)
        self.spec, self.start = spec, start

    @functools.cached_property
    def net(self) -> VideoActionDiT:
        return self.start().eval().requires_grad_(False)

    def batch(self, size: int, generator: torch.Generator) -> FilmBatch:
        return self.data.batch(size, self.spec, generator)

    def loss(self, model: nn.Module, batch: FilmBatch, generator: torch.Generator) -> dict[str, Tensor]:
        net, scene = self.net.to(batch.first.device), Scene(to_float(batch.pixels), batch.first, batch.text)
        with torch.no_grad():  # as in use: the hidden states behind the first denoising step
            step = next(denoise(net, scene, batch.times, steps=1, generator=generator))
            features = read_steps(net, step.hidden)
        mask = batch.action_mask.flatten(1, 2)
        errors = model(features, batch.actions.flatten(1, 2), generator)
        losses = {kind: (error * mask).sum() / mask.sum().clamp(min=1) for kind, error in errors.items()}
        return {"loss": torch.stack(list(losses.values())).sum(), **{k: v.detach() for k, v in losses.items()}}


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
    controls: tuple[Control, ...] = (GUIDANCE, READ, CHOSEN)
    published: ClassVar[dict[str, str]] = {"net": JOINT, "heads": HEADS_PHASE}

    def __init__(self, model: FilmModel, scale: ActionScale, heads: ActionHeads | None = None) -> None:
        self.model, self.scale, self.heads = model, scale, heads
        self.controls = self.offered({} if heads is None else {"head": {}})

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

        plain, sizes = replace(spec, drop_text=0.0), HeadConfig(**config["head"])

        def heads(context: Context) -> HeadStage:
            start = functools.partial(load_net, context.weights(JOINT), model, len(unit_actions().low))
            return HeadStage(context, sizes, plain, start)

        plans = {name: TrainConfig(**plan) for name, plan in config["train"].items()}
        return [
            *backbone_phases(size),
            Phase(JOINT, joint, plans["joint"], (CODEC, FILM)),
            Phase(HEADS_PHASE, heads, plans["heads"], (CODEC, JOINT), optional=True),
        ]

    @classmethod
    def publish(cls, context: Context) -> None:
        scale, sizes = unit_actions(), backbone_config(context.size)
        nets: dict[str, nn.Module] = {"net": load_net(context.weights(JOINT), sizes, len(scale.low))}
        phases, parts = [CODEC, PHYSICS, FILM, JOINT], {"model": sizes.model_dump(), "actions": scale.saved()}
        if (context.weights(HEADS_PHASE) / checkpoint.WEIGHTS).is_file():
            sizes_of_heads = HeadConfig(**read_config(cls.name, context.size)["head"])
            nets["heads"] = sizes_of_heads.net(sizes, len(scale.low))
            checkpoint.load(context.weights(HEADS_PHASE)).fill(nets["heads"], "net")
            phases, parts = [*phases, HEADS_PHASE], parts | {"head": sizes_of_heads.model_dump()}
        described = context.description(cls.name, WORLD, phases, **parts)
        checkpoint.save(context.checkpoints / f"{cls.name}-{WORLD}", nets, described, bits=8)
        publish_codec(context)

    @classmethod
    def load(cls, checkpoints: Path, device: torch.device) -> Gr2:
        folder = checkpoints / f"{cls.name}-{WORLD}"
        saved = checkpoint.load(folder)
        config, sizes = saved.config, BackboneConfig(**saved.config["model"])
        scale = ActionScale(**config["actions"])
        net = load_net(folder, sizes, len(scale.low)).eval().to(device)
        heads = None
        if "head" in config:
            heads = HeadConfig(**config["head"]).net(sizes, len(scale.low))
            saved.fill(heads, "heads")
            heads.eval().to(device)
        family = cls(FilmModel(load_codec(checkpoints / "codec").to(device), net, sizes, device), scale, heads)
        # figures are of its own head: what the others cost is no part of it
        family.records = tuple(record for record in config["trained"] if record["phase"] != HEADS_PHASE)
        return family

    @classmethod
    def tiny(cls) -> Gr2:
        sizes, scale = BackboneConfig(), unit_actions()
        codec = FrameCodec(latent_channels=sizes.latent_channels, width=8).eval()
        heads = HeadConfig().net(sizes, len(scale.low)).eval()
        return cls(FilmModel(codec, sizes.net(len(scale.low)).eval(), sizes, torch.device("cpu")), scale, heads)

    def nets(self) -> dict[str, nn.Module]:
        nets = {"codec": self.model.codec, "net": self.model.net}
        return nets if self.heads is None else nets | {"heads": self.heads}

    @classmethod
    def offered(cls, config: Mapping[str, Any]) -> tuple[Control, ...]:
        """Which action head answers, where others than its own were trained."""
        return tuple(control for control in cls.controls if control is not CHOSEN or "head" in config)

    def _asked(self, request: Request) -> str:
        """The head that a request asks for; ValueError where it is unknown or not trained."""
        kind = str(self.option(request, CHOSEN.name))
        if kind not in (known := (JOINT_HEAD, *(HEADS if self.heads is not None else ()))):
            raise ValueError(
                f"expected a trained action head of {self.title} among {', '.join(known)}; got {kind!r}"
                f" (run: vidvla train {self.name} --phase {HEADS_PHASE}, then: vidvla publish {self.name})"
            )
        return kind

    @torch.no_grad()
    def __call__(
        self, request: Request, *, attention: bool = False, progress: ProgressCallback | None = None
    ) -> Rollout:
        clock, request, kind = Clock(), self.own(request), self._asked(request)
        with clock.part("encode"):
            scene = self.model.scene(request)
        with capture_attention() if attention else nullcontext() as trace:
            first, last = self.model.film(scene, request, clock, progress)
        with clock.part("actions"):
            read = first if self.option(request, READ.name) == FIRST else last
            actions = self._actions(read.hidden, kind, request.seed)
        with clock.part("decode"):
            frames = self.model.decode(last.clean, scene)
        maps = self.model.attention(trace, scene.text, request.instruction)
        return Rollout(frames, self.model.key_times(), actions, maps, clock.done())

    def _actions(self, hidden: Hidden, kind: str, seed: int) -> NDArray[np.float32]:
        net = self.model.net
        if self.heads is None or kind == JOINT_HEAD:
            unit = net.act(hidden).flatten(1, 2)
        else:
            unit = self.heads.sample(kind, read_steps(net, hidden), torch.Generator().manual_seed(seed))
        return self.scale.to_world(unit[0].float().cpu().numpy())

    @torch.no_grad()
    def act(self, request: Request) -> NDArray[np.float32]:
        request, kind = self.own(request), self._asked(request)
        scene = self.model.scene(request)
        if self.option(request, READ.name) == LAST:
            _, last = self.model.film(scene, request, Clock())
            return self._actions(last.hidden, kind, request.seed)
        generator = torch.Generator().manual_seed(request.seed)
        times = self.model.times(*self.model.key_times())
        step = next(denoise(self.model.net, scene, times, steps=1, generator=generator))
        return self._actions(step.hidden, kind, request.seed)


FAMILY = Gr2
