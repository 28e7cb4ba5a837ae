"""UniPi-style: a film planned from text and first frame, coarse then filled in, and inverse dynamics on it."""

from __future__ import annotations

from contextlib import nullcontext
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vidvla.data.films import MotionBatch
from vidvla.families.base import SMALL, Clock, Context, Phase, read_config
from vidvla.foundation.backbone import BackboneConfig, Scene, denoise
from vidvla.foundation.film import GUIDANCE
from vidvla.foundation.stages import (
    CODEC,
    FILM,
    WORLD,
    ActionConfig,
    ActionStage,
    backbone_config,
    backbone_phases,
)
from vidvla.foundation.two_nets import TwoNetFamily
from vidvla.nn.attention import capture_attention
from vidvla.nn.conv import ResBlock
from vidvla.nn.dit import DiTBlock, sinusoidal
from vidvla.pixels import to_float
from vidvla.saliency import Traced
from vidvla.text import TextTokens
from vidvla.train.loop import TrainConfig
from vidvla.types import Control, ProgressCallback, Request, Rollout
from vidvla.worlds.base import Frame

INVERSE = "unipi.inverse"
FILL = Control(
    "fill", "Steps to fill in", 1, low=1, high=8, step=1, info="denoising steps of the frames between key frames"
)


class InverseConfig(ActionConfig):
    """Sizes of the inverse-dynamics net."""

    width: int = 16
    d_model: int = 32
    n_layers: int = 1
    n_heads: int = 2

    def net(self, sizes: BackboneConfig, action_dim: int) -> FilmInverse:
        return FilmInverse(self, sizes, action_dim)


class FilmInverse(nn.Module):
    """Actions between neighbouring frames of a film, read from the latents of all of it.

    A pair of frames shows how far the hand moved, not how far it was told to: it follows its target with a lag. Its
    motion before and after says more of the command, so every transition also looks at the others.

    Args:
        sizes: of the latents.
        action_dim: numbers A of an action.
    """

    def __init__(self, config: InverseConfig, sizes: BackboneConfig, action_dim: int) -> None:
        super().__init__()
        width, kept = config.width, 16
        self.features = nn.Sequential(
            nn.Conv2d(2 * sizes.latent_channels, width, 3, padding=1), ResBlock(width), ResBlock(width),
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, kept, 1),
        )  # fmt: skip
        # places are kept: in perspective a pixel is a longer way far from the camera than near it
        self.to_token = nn.Linear(kept * sizes.grid**2, config.d_model)
        self.condition = nn.Linear(64, config.d_model)
        self.blocks = nn.ModuleList(
            DiTBlock(config.d_model, config.n_heads, config.d_model, label=f"inverse {i + 1}")
            for i in range(config.n_layers)
        )
        self.head = nn.Sequential(nn.LayerNorm(config.d_model), nn.Linear(config.d_model, action_dim))

    def forward(self, latents: Tensor) -> Tensor:
        """latents (B, T + 1, C, h, w) -> unit-scale actions (B, T, A)."""
        before, after = latents[:, :-1], latents[:, 1:]
        pairs = torch.cat([before, after - before], dim=2)  # (B, T, 2C, h, w)
        tokens = self.to_token(self.features(pairs.flatten(0, 1)).flatten(1)).unflatten(0, pairs.shape[:2])
        moments = torch.arange(tokens.shape[1], device=latents.device).expand(len(latents), -1)
        cond = self.condition(sinusoidal(moments, 64, longest=100.0))
        tokens = tokens + cond
        for block in self.blocks:
            tokens = block(tokens, cond)
        actions: Tensor = self.head(tokens)
        return actions


class InverseStage(ActionStage):
    """Learn the actions between the frames of true films, disturbed as planned ones are."""

    def __init__(self, context: Context, config: InverseConfig, sizes: BackboneConfig, noise: float) -> None:
        super().__init__(INVERSE, context, config)
        self.sizes, self.noise = sizes, noise

    def batch(self, size: int, generator: torch.Generator) -> MotionBatch:
        return self.data.motion_batch(size, self.sizes.frames * self.sizes.stride, generator)

    def loss(self, model: nn.Module, batch: MotionBatch, generator: torch.Generator) -> dict[str, Tensor]:
        level = self.noise * torch.rand((len(batch.latents), 1, 1, 1, 1), generator=generator)
        noise = (level * torch.randn(batch.latents.shape, generator=generator)).to(batch.latents.device)
        noise[:, 0] = 0  # the first frame of a plan is a true one
        error = (model(batch.latents + noise) - batch.actions).abs() * batch.mask[..., None]
        mean = error.sum(dim=(0, 1)) / batch.mask.sum().clamp(min=1)  # (A,)
        return {"loss": mean.mean(), "move": mean[:-1].mean(), "gripper": mean[-1]}

    def data_used(self) -> dict[str, int]:
        return {f"transitions of {WORLD}": self.data.store.frame_count - len(self.data.store.episodes)}


class UniPi(TwoNetFamily):
    """A video plan is the policy: key frames, the frames between them, the actions between those."""

    name: ClassVar[str] = "unipi"
    title: ClassVar[str] = "UniPi style"
    order: ClassVar[int] = 20
    source: ClassVar[str] = "Du et al. 2023, arXiv 2302.00111"
    summary: ClassVar[str] = "Plans key frames, fills in the frames between, reads actions by inverse dynamics."
    films: ClassVar[bool] = True
    acts: ClassVar[bool] = True
    attends: ClassVar[bool] = True
    inverts: ClassVar[bool] = True
    controls: tuple[Control, ...] = (GUIDANCE, FILL)
    part: ClassVar[str] = "inverse"
    sizes: ClassVar[type[InverseConfig]] = InverseConfig
    published: ClassVar[dict[str, str]] = {"net": FILM, "inverse": INVERSE}
    actor: FilmInverse

    @classmethod
    def phases(cls, size: str = SMALL) -> list[Phase]:
        config = read_config(cls.name, size)
        sizes, noise = InverseConfig(**config["inverse"]), config["noise"]

        def inverse(context: Context) -> InverseStage:
            return InverseStage(context, sizes, backbone_config(size), noise)

        return [*backbone_phases(size), Phase(INVERSE, inverse, TrainConfig(**config["train"]["inverse"]), (CODEC,))]

    @torch.no_grad()
    def __call__(
        self, request: Request, *, attention: bool = False, progress: ProgressCallback | None = None
    ) -> Rollout:
        clock, request = Clock(), self.own(request)
        with clock.part("encode"):
            scene = self.model.scene(request)
        with capture_attention() if attention else nullcontext() as trace:
            _, last = self.model.film(scene, request, clock, progress)
        with clock.part("fill in"):
            latents = self._fill_in(scene, last.clean, request)
        with clock.part("actions"):
            actions = self._read(torch.cat([scene.latents[:, None], latents], dim=1))
        with clock.part("decode"):
            # every frame is painted over the first one, whose pixels are true
            frames = self.model.decode(latents, scene)
        maps = self.model.attention(trace, scene.text, request.instruction)
        return Rollout(frames, tuple(range(1, len(frames) + 1)), actions, maps, clock.done())

    def traced(self, request: Request) -> Traced:
        """The actions alone, from the plan that they are read from: attention says what the plan looks at."""
        request = self.own(request)
        with torch.no_grad():
            scene = self.model.scene(request)
            _, last = self.model.film(scene, request, Clock())
            plan = self._fill_in(scene, last.clean, request)
        reads = torch.cat([scene.latents, plan[0]]).requires_grad_()
        return Traced(scene.pixels, scene.pixels[:0], self.actor(reads[None])[0], reads)

    def _fill_in(self, scene: Scene, keys: Tensor, request: Request) -> Tensor:
        """Latents of key frames (1, K, C, h, w) -> of all frames (1, K * stride, C, h, w).

        Segments of K control steps, each from one key frame to another, are filled in together.
        """
        frames, stride = keys.shape[1], self.model.config.stride
        count = stride  # K * stride control steps in segments of K
        given_keys = keys[0].unflatten(0, (count, -1))
        ends = given_keys[:-1, -1]
        starts = torch.cat([scene.latents, ends])
        # what a segment begins with, as a picture: the net looks at the given frame's pixels too
        pixels = torch.cat([scene.pixels, to_float(self.model.decode(ends[None], scene)).to(scene.pixels.device)])
        tokens, mask = scene.text.tokens, scene.text.mask
        text = TextTokens(tokens.expand(count, -1, -1), mask.expand(count, -1))
        times = self.model.times(*range(1, frames + 1)).expand(count, -1)
        known = times % stride == 0
        given = torch.zeros(count, frames, *keys.shape[2:], device=keys.device)
        given[known] = keys[0]
        segment = Scene(pixels, starts, text)
        generator = torch.Generator().manual_seed(request.seed)
        *_, last = denoise(
            self.model.net, segment, times, steps=int(self.option(request, FILL.name)), generator=generator,
            known=known, given=given,
        )  # fmt: skip
        return last.clean.flatten(0, 1)[None]

    def _read(self, latents: Tensor) -> NDArray[np.float32]:
        return self.to_world(self.actor(latents)[0])

    @torch.no_grad()
    def between(self, frames: Frame) -> NDArray[np.float32]:
        pixels = to_float(frames).to(self.model.device)
        latents = self.model.codec.encode(pixels)
        # films of the length that the net learned from: the last one reaches back, a short one stands still at its end
        length, count = self.model.config.frames * self.model.config.stride, len(frames) - 1
        still = latents[-1:].expand(max(length - count, 0), -1, -1, -1)
        latents = torch.cat([latents, still])
        actions = np.zeros((len(latents) - 1, len(self.scale.low)), np.float32)
        for start in [*range(0, len(actions) - length, length), len(actions) - length]:
            actions[start : start + length] = self._read(latents[None, start : start + length + 1])
        return actions[:count]

    @torch.no_grad()
    def act(self, request: Request) -> NDArray[np.float32]:
        request = self.own(request)
        scene = self.model.scene(request)
        _, last = self.model.film(scene, request, Clock())
        latents = self._fill_in(scene, last.clean, request)
        return self._read(torch.cat([scene.latents[:, None], latents], dim=1))


FAMILY = UniPi
