"""GR00T-style: a slow planner imagines one target image, a fast actor gets there.

The dual system as the course has it. Planner: a transformer over the frame's places, the instruction's words and the
target's places, forked from the shared film net. Actor: flow matching over a chunk of actions, from the frame and the
target alone.
"""

from __future__ import annotations

import functools
from contextlib import nullcontext
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vidvla import checkpoint
from vidvla.actions import ActionScale
from vidvla.families.base import SMALL, Clock, Context, Family, Phase, read_config
from vidvla.foundation.backbone import BackboneConfig, Scene, denoise
from vidvla.foundation.film import GUIDANCE, FilmModel
from vidvla.foundation.goals import GoalStage, PolicyConfig, PolicyStage, check_horizons, film_windows, one_frame
from vidvla.foundation.stages import (
    CODEC,
    FILM,
    PHYSICS,
    WORLD,
    backbone_config,
    backbone_phases,
    load_codec,
    load_net,
    publish_codec,
    unit_actions,
)
from vidvla.nn.attention import capture_attention
from vidvla.nn.codec import FrameCodec
from vidvla.nn.goal_policy import GoalPolicy
from vidvla.saliency import Traced
from vidvla.train.loop import TrainConfig
from vidvla.types import Control, ProgressCallback, Request, Rollout

TARGET, ACT = "groot.target", "groot.act"
HORIZONS = (16, 8)
"""Control steps ahead that a target image can show; the first is its own choice."""
HORIZON = Control(
    "horizon", "Target ahead", str(HORIZONS[0]), choices=tuple(map(str, sorted(HORIZONS))),
    info="control steps until the scene is to look like the target image",
)  # fmt: skip


class Groot(Family):
    """One image of what should be so, then the actions that make it so."""

    name: ClassVar[str] = "groot"
    title: ClassVar[str] = "GR00T style"
    order: ClassVar[int] = 30
    source: ClassVar[str] = "course notes; GR00T N1, Bjorck et al. 2025, arXiv 2503.14734"
    summary: ClassVar[str] = "A planner imagines one target image, a flow-matching actor the actions that get there."
    differs: ClassVar[str] = (
        "The real GR00T N1 imagines no picture: System 2, a pretrained vision-language model, hands its hidden features"
        " to System 1, a diffusion transformer that makes the actions by flow matching. A target image in between is"
        " the course's reading; planner and actor here are trained apart and are a hundred times smaller."
    )
    films: ClassVar[bool] = False
    acts: ClassVar[bool] = True
    attends: ClassVar[bool] = True
    targets: ClassVar[Control | None] = HORIZON
    controls: tuple[Control, ...] = (GUIDANCE, HORIZON)
    published: ClassVar[dict[str, str]] = {"net": TARGET, "actor": ACT}

    def __init__(self, model: FilmModel, actor: GoalPolicy, scale: ActionScale) -> None:
        self.model, self.actor, self.scale = model, actor, scale

    @classmethod
    def phases(cls, size: str = SMALL) -> list[Phase]:
        table, sizes = read_config(cls.name, size), backbone_config(size)
        horizons, planner = check_horizons(HORIZONS, sizes), one_frame(sizes)
        actor = PolicyConfig(**table["actor"])

        def target(context: Context) -> GoalStage:
            return GoalStage(
                TARGET, context, film_windows(sizes, table["drop_text"], table["windows"]),
                lambda own: load_net(own or context.weights(FILM), planner), table["full_noise"], horizons,
            )  # fmt: skip

        def act(context: Context) -> PolicyStage:
            return PolicyStage(
                ACT, context, actor, film_windows(sizes, 0.0, table["windows"]), horizons,
                lambda: load_net(context.weights(TARGET), planner), table["imagined"], table["noise"],
            )  # fmt: skip

        plans = {name: TrainConfig(**plan) for name, plan in table["train"].items()}
        return [
            *backbone_phases(size),
            Phase(TARGET, target, plans["target"], (CODEC, FILM)),
            Phase(ACT, act, plans["act"], (CODEC, FILM, TARGET)),
        ]

    @classmethod
    def publish(cls, context: Context) -> None:
        table, sizes, scale = read_config(cls.name, context.size), backbone_config(context.size), unit_actions()
        config = PolicyConfig(**table["actor"])
        actor = config.net(sizes, len(scale.low))
        checkpoint.load(context.weights(ACT)).fill(actor, "net")
        described = context.description(
            cls.name, WORLD, [CODEC, PHYSICS, FILM, TARGET, ACT], model=sizes.model_dump(),
            actor=config.model_dump(), actions=scale.saved(),
        )  # fmt: skip
        nets = {"net": load_net(context.weights(TARGET), one_frame(sizes)), "actor": actor}
        checkpoint.save(context.checkpoints / f"{cls.name}-{WORLD}", nets, described)
        publish_codec(context)

    @classmethod
    def load(cls, checkpoints: Path, device: torch.device) -> Groot:
        folder = checkpoints / f"{cls.name}-{WORLD}"
        saved = checkpoint.load(folder)
        sizes, scale = BackboneConfig(**saved.config["model"]), ActionScale(**saved.config["actions"])
        actor = PolicyConfig(**saved.config["actor"]).net(sizes, len(scale.low))
        saved.fill(actor, "actor")
        net = load_net(folder, one_frame(sizes)).eval().to(device)
        model = FilmModel(load_codec(checkpoints / "codec").to(device), net, one_frame(sizes), device)
        family = cls(model, actor.eval().to(device), scale)
        family.records = tuple(saved.config["trained"])
        return family

    @classmethod
    def tiny(cls) -> Groot:
        sizes, scale = BackboneConfig(), unit_actions()
        codec = FrameCodec(latent_channels=sizes.latent_channels, width=8).eval()
        model = FilmModel(codec, one_frame(sizes).net().eval(), one_frame(sizes), torch.device("cpu"))
        return cls(model, PolicyConfig().net(sizes, len(scale.low)).eval(), scale)

    def nets(self) -> dict[str, nn.Module]:
        return {"codec": self.model.codec, "net": self.model.net, "actor": self.actor}

    @torch.no_grad()
    def __call__(
        self, request: Request, *, attention: bool = False, progress: ProgressCallback | None = None
    ) -> Rollout:
        clock, request, horizon = Clock(), self.own(request), self._horizon(request)
        with clock.part("encode"):
            scene = self.model.scene(request)
        with capture_attention() if attention else nullcontext() as trace, clock.part("target"):
            target = self._target(scene, request, horizon, clock, progress)
        with clock.part("actions"):
            actions = self._to_world(self._reach(scene, target, horizon, request.seed))
        with clock.part("decode"):
            (picture,) = self.model.decode(target[:, None], scene)
        maps = self.model.attention(trace, scene.text, request.instruction) if trace is not None else None
        none = np.zeros((0, *picture.shape), np.uint8)
        return Rollout(none, (), actions, maps, clock.done(), target=picture, target_time=horizon)

    def _horizon(self, request: Request) -> int:
        return int(self.option(request, HORIZON.name))

    def _target(
        self, scene: Scene, request: Request, horizon: int, clock: Clock, progress: ProgressCallback | None = None
    ) -> Tensor:
        """Latents (1, C, h, w) of the target image."""
        for step in denoise(
            self.model.net, scene, self.model.times(horizon), steps=request.steps, guidance=request.guidance,
            generator=torch.Generator().manual_seed(request.seed),
        ):  # fmt: skip
            if progress is not None:
                share, what = (step.step + 1) / request.steps, f"denoising {step.step + 1}/{request.steps}"
                with clock.aside():
                    progress(share, what, functools.partial(self.model.decode, step.clean, scene))
        return step.clean[:, 0]

    def _reach(self, scene: Scene, target: Tensor, horizon: int, seed: int) -> Tensor:
        """Unit-scale actions (N, A) that lead to the target."""
        asked = torch.tensor([horizon], device=self.model.device)
        generator = torch.Generator().manual_seed(seed)
        return self.actor.sample(scene.pixels, scene.latents, target, asked, generator)[0]

    def _to_world(self, unit: Tensor) -> NDArray[np.float32]:
        return self.scale.to_world(unit.float().cpu().numpy())

    @torch.no_grad()
    def act(self, request: Request) -> NDArray[np.float32]:
        request, horizon = self.own(request), self._horizon(request)
        scene = self.model.scene(request)
        target = self._target(scene, request, horizon, Clock())
        return self._to_world(self._reach(scene, target, horizon, request.seed))

    def traced(self, request: Request) -> Traced:
        """The actions alone, from the frame and the target: attention says what the target looks at."""
        request, horizon = self.own(request), self._horizon(request)
        with torch.no_grad():
            scene = self.model.scene(request)
            target = self._target(scene, request, horizon, Clock())
        reads = torch.cat([scene.latents, target]).requires_grad_()
        actions = self._reach(Scene(scene.pixels, reads[:1], scene.text), reads[1:], horizon, request.seed)
        return Traced(scene.pixels, scene.pixels[:0], actions, reads)


FAMILY = Groot
