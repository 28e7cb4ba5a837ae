"""Single images of what is to come, and policies that get there: what the families with a target image share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from vidvla import checkpoint
from vidvla.data.clips import draw
from vidvla.data.films import FilmBatch, WindowSpec
from vidvla.families.base import SMALL, Clock, Context, Phase, read_config
from vidvla.foundation.backbone import BackboneConfig, Scene, denoise
from vidvla.foundation.stages import (
    CODEC,
    FILM,
    WORLD,
    ActionConfig,
    ActionStage,
    FilmStage,
    backbone_config,
    backbone_phases,
    film_data,
)
from vidvla.foundation.two_nets import TwoNetFamily
from vidvla.nn.goal_policy import GoalPolicy
from vidvla.nn.video_dit import VideoActionDiT
from vidvla.pixels import to_float
from vidvla.saliency import Traced
from vidvla.text import TextTokens
from vidvla.train.loop import TrainConfig
from vidvla.types import DENOISING_STEPS, Control, ProgressCallback, Request

GREY = 128
"""Every pixel of a picture that shows nothing; its latents are zero."""


def one_frame(config: BackboneConfig) -> BackboneConfig:
    """The film net's sizes for a single future frame: its weights do not hang on how many there are."""
    return config.model_copy(update={"frames": 1, "stride": 1})


def film_windows(config: BackboneConfig, drop_text: float, table: dict[str, object]) -> WindowSpec:
    """Windows of whole films, whose frames are goals at different horizons."""
    return WindowSpec(config.frames, config.stride, 0.0, drop_text, **table)  # type: ignore[arg-type]


def check_horizons(horizons: Sequence[int], config: BackboneConfig) -> tuple[int, ...]:
    """``horizons`` where a film has a frame at each of them; ValueError otherwise."""
    known = [config.stride * (k + 1) for k in range(config.frames)]
    if not horizons or not set(horizons) <= set(known):
        raise ValueError(f"expected horizons among {', '.join(map(str, known))}; got {list(horizons)}")
    return tuple(horizons)


def pick_goals(films: FilmBatch, horizons: Sequence[int], generator: torch.Generator) -> FilmBatch:
    """One frame of each film, at a horizon drawn by ``generator``; all actions of the film, (B, 1, N, A)."""
    asked = torch.tensor([horizons[draw(generator, len(horizons))] for _ in range(len(films.times))])
    index = (films.times == asked[:, None]).int().argmax(dim=1)
    rows = torch.arange(len(asked))
    return replace(
        films,
        future=films.future[rows, index][:, None],
        times=asked[:, None],
        known=films.known[:, :1],
        actions=films.actions.flatten(1, 2)[:, None],
        action_mask=films.action_mask.flatten(1, 2)[:, None],
    )


def drop_images(batch: FilmBatch, share: float, generator: torch.Generator) -> FilmBatch:
    """``share`` of the windows without their first frame, for guidance by it."""
    dropped = torch.rand(len(batch.first), generator=generator) < share
    pixels = torch.where(dropped[:, None, None, None], torch.full_like(batch.pixels, GREY), batch.pixels)
    return replace(batch, pixels=pixels, first=batch.first * ~dropped[:, None, None, None])


class GoalStage(FilmStage):
    """Learn single images of what is to come, as far ahead as one of ``horizons`` says.

    Args:
        horizons: control steps ahead, drawn alike often.
        drop_image: share of windows without the given frame.
    """

    def __init__(
        self,
        name: str,
        context: Context,
        spec: WindowSpec,
        start: Callable[[Path | None], VideoActionDiT],
        full_noise: float,
        horizons: Sequence[int],
        drop_image: float = 0.0,
    ) -> None:
        super().__init__(name, context, lambda: film_data(context, WORLD), spec, start, full_noise=full_noise)
        self.horizons, self.drop_image = horizons, drop_image

    def cut(self, size: int, spec: WindowSpec, generator: torch.Generator) -> FilmBatch:
        return pick_goals(super().cut(size, spec, generator), self.horizons, generator)

    def batch(self, size: int, generator: torch.Generator) -> FilmBatch:
        return drop_images(super().batch(size, generator), self.drop_image, generator)


def imagine(
    net: VideoActionDiT,
    scene: Scene,
    horizon: Tensor,
    generator: torch.Generator,
    *,
    steps: int = DENOISING_STEPS,
) -> Tensor:
    """Latents (B, C, h, w) of the scenes ``horizon`` (B,) control steps from now."""
    *_, last = denoise(net, scene, horizon[:, None], steps=steps, generator=generator)
    return last.clean[:, 0]


class PolicyConfig(ActionConfig):
    """Sizes of the policy that gets to a goal; defaults are those that tests use."""

    head: str = "flow"
    width: int = Field(default=16, gt=0, multiple_of=8)
    d_model: int = Field(default=32, gt=0)
    n_layers: int = Field(default=1, gt=0)
    n_heads: int = Field(default=2, gt=0)

    def net(self, sizes: BackboneConfig, action_dim: int) -> GoalPolicy:
        """The policy, its chunk as long as a film of ``sizes``."""
        return GoalPolicy(
            sizes.grid, sizes.latent_channels, action_dim, sizes.frames * sizes.stride,
            stem=sizes.fine_dim if sizes.fine_layers else sizes.d_model, **self.model_dump(),
        )  # fmt: skip


class PolicyStage(ActionStage):
    """Learn the actions that lead to frames of demonstrations, true ones and those that the goal net imagines.

    A policy that has only seen true goals meets others in use. So part of the goals are what the goal net makes of the
    frame and the instruction, and the others are disturbed.

    Args:
        spec: of the windows, whose films are as long as a chunk.
        horizons: control steps ahead of the goals.
        goal_net: the trained goal net.
        imagined: share of goals that it imagines.
        noise: largest deviation of the noise on goals, of a latent's unit scale.
    """

    def __init__(
        self,
        name: str,
        context: Context,
        config: PolicyConfig,
        spec: WindowSpec,
        horizons: Sequence[int],
        goal_net: Callable[[], VideoActionDiT],
        imagined: float,
        noise: float,
    ) -> None:
        super().__init__(name, context, config)
        self.spec, self.horizons, self.goal_net, self.imagined, self.noise = spec, horizons, goal_net, imagined, noise

    @functools.cached_property
    def _goal_net(self) -> VideoActionDiT:
        return self.goal_net().eval().requires_grad_(False)

    def build(self, own: Path | None = None) -> nn.Module:
        policy = super().build(own)
        assert isinstance(policy, GoalPolicy)
        if own is None:  # how the film net looks at pixels took longer to learn than this phase lasts
            checkpoint.load(self.context.weights(FILM)).fill(policy.stem, "net.stem")
        return policy

    def batch(self, size: int, generator: torch.Generator) -> FilmBatch:
        return pick_goals(self.data.batch(size, self.spec, generator), self.horizons, generator)

    def loss(self, model: nn.Module, batch: FilmBatch, generator: torch.Generator) -> dict[str, Tensor]:
        device, count = batch.first.device, len(batch.first)
        goal, horizon, pixels = batch.future[:, 0], batch.times[:, 0], to_float(batch.pixels)
        level = self.noise * torch.rand((count, 1, 1, 1), generator=generator)
        goal = goal + (level * torch.randn(goal.shape, generator=generator)).to(device)
        some = round(self.imagined * count)  # windows are drawn at random: the first ones are as good as any
        if some:
            text = TextTokens(batch.text.tokens[:some], batch.text.mask[:some])
            scene = Scene(pixels[:some], batch.first[:some], text)
            with torch.no_grad():
                goal = torch.cat([imagine(self._goal_net.to(device), scene, horizon[:some], generator), goal[some:]])
        error = model(pixels, batch.first, goal, horizon, batch.actions[:, 0], generator)
        mask = batch.action_mask[:, 0]
        return {"loss": (error * mask).sum() / mask.sum().clamp(min=1)}


class GoalFamily(TwoNetFamily):
    """Imagines single images of what is to come; a goal-conditioned policy gets there.

    Attributes:
        horizons: control steps ahead that an image can show, as :attr:`targets` lets people choose.
    """

    sizes: ClassVar[type[PolicyConfig]] = PolicyConfig
    targets: ClassVar[Control]
    horizons: ClassVar[tuple[int, ...]]
    actor: GoalPolicy

    @classmethod
    def film_sizes(cls, sizes: BackboneConfig) -> BackboneConfig:
        return one_frame(sizes)

    @classmethod
    def phases(cls, size: str = SMALL) -> list[Phase]:
        """The goal net, begun with the shared film net; then the policy, which needs the goals that it imagines."""
        table, sizes = read_config(cls.name, size), backbone_config(size)
        horizons, config, single = check_horizons(cls.horizons, sizes), cls.sizes(**table[cls.part]), one_frame(sizes)
        imagining, reaching = cls.published["net"], cls.published[cls.part]

        def goal_stage(context: Context) -> GoalStage:
            return GoalStage(
                imagining, context, film_windows(sizes, table["drop_text"], table["windows"]),
                lambda own: cls.film_net(single, own or context.weights(FILM)), table["full_noise"], horizons,
                table.get("drop_image", 0.0),  # set for nets that are to be guided by the given frame too
            )  # fmt: skip

        def policy_stage(context: Context) -> PolicyStage:
            windows = table["windows"] | {"mismatched": table["kept"]}
            return PolicyStage(
                reaching, context, config, film_windows(sizes, 0.0, windows), horizons,
                lambda: cls.film_net(single, context.weights(imagining)), table["imagined"], table["noise"],
            )  # fmt: skip

        plans = {f"{cls.name}.{phase}": TrainConfig(**plan) for phase, plan in table["train"].items()}
        return [
            *backbone_phases(size),
            Phase(imagining, goal_stage, plans[imagining], (CODEC, FILM)),
            Phase(reaching, policy_stage, plans[reaching], (CODEC, FILM), teachers=(imagining,)),
        ]

    def horizon(self, request: Request) -> int:
        """Control steps ahead that ``request`` asks an image for."""
        return int(self.option(request, self.targets.name))

    def image_guidance(self, request: Request) -> float:
        """The weight of the given frame that ``request`` asks for; 1 where the goal net has not learned without it."""
        return 1.0

    def goal(
        self,
        scene: Scene,
        request: Request,
        clock: Clock,
        progress: ProgressCallback | None = None,
        over: Scene | None = None,
    ) -> Tensor:
        """Latents (1, C, h, w) of the image to get to; arguments as in :meth:`FilmModel.denoise`."""
        *_, last = self.model.denoise(
            scene, [self.horizon(request)], request, clock, progress,
            image_guidance=self.image_guidance(request), over=over,
        )  # fmt: skip
        return last.clean[:, 0]

    def reach(self, scene: Scene, goal: Tensor, request: Request) -> Tensor:
        """Unit-scale actions (N, A) that lead from ``scene`` to ``goal``."""
        horizon = torch.tensor([self.horizon(request)], device=self.model.device)
        generator = torch.Generator().manual_seed(request.seed)
        return self.actor.sample(scene.pixels, scene.latents, goal, horizon, generator)[0]

    @torch.no_grad()
    def act(self, request: Request) -> NDArray[np.float32]:
        request = self.own(request)
        scene = self.model.scene(request)
        return self.to_world(self.reach(scene, self.goal(scene, request, Clock()), request))

    def traced(self, request: Request) -> Traced:
        """The actions alone, from the frame and the goal: attention says what the goal looks at."""
        request = self.own(request)
        with torch.no_grad():
            scene = self.model.scene(request)
            goal = self.goal(scene, request, Clock())
        reads = torch.cat([scene.latents, goal]).requires_grad_()
        actions = self.reach(Scene(scene.pixels, reads[:1], scene.text), reads[1:], request)
        return Traced(scene.pixels, scene.pixels[:0], actions, reads)
