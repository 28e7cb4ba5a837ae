"""Behaviour cloning: image and instruction straight to actions, with no film in between."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from vidvla.data.demos import DemoBatch
from vidvla.families.base import Clock, fit_square
from vidvla.families.baseline import mean_token
from vidvla.foundation.film import check_request
from vidvla.foundation.one_net import DemoConfig, DemoStage, OneNetFamily
from vidvla.nn.conv import ResBlock
from vidvla.pixels import to_float
from vidvla.saliency import Traced
from vidvla.text import TEXT_DIM, TextTokens, text_encoder
from vidvla.types import ProgressCallback, Request, Rollout

TRAIN = "bc.clone"


class BcConfig(DemoConfig):
    """Sizes of the policy net; ``horizon`` actions come from one look at a frame of ``size`` pixels a side."""

    size: int = 128
    horizon: int = 16
    base: int = 8
    hidden: int = 32

    def window(self) -> tuple[int, int]:
        return 1, self.horizon

    def net(self, action_dim: int) -> BcNet:
        return BcNet(self, action_dim)


class BcNet(nn.Module):
    """Convolutions modulated by the instruction (FiLM, Perez et al. 2018, arXiv 1709.07871), then a chunk."""

    def __init__(self, config: BcConfig, action_dim: int) -> None:
        super().__init__()
        c1, c2, c3 = config.base, 2 * config.base, 4 * config.base
        self.action_dim = action_dim
        self.features = nn.Sequential(
            nn.Conv2d(3, c1, 4, stride=2, padding=1), ResBlock(c1),
            nn.Conv2d(c1, c2, 4, stride=2, padding=1), ResBlock(c2),
            nn.Conv2d(c2, c3, 4, stride=2, padding=1), ResBlock(c3),
        )  # fmt: skip
        self.modulate = nn.Sequential(nn.LayerNorm(TEXT_DIM), nn.Linear(TEXT_DIM, 2 * c3))
        self.mix = nn.Sequential(ResBlock(c3), nn.AdaptiveAvgPool2d(8), nn.Conv2d(c3, 16, 1))
        self.head = nn.Sequential(
            nn.Linear(16 * 64, config.hidden), nn.SiLU(), nn.Linear(config.hidden, config.hidden), nn.SiLU(),
            nn.Linear(config.hidden, config.horizon * action_dim),
        )  # fmt: skip

    def forward(self, pixels: Tensor, text: TextTokens) -> Tensor:
        """pixels (B, 3, H, W) in [-1, 1] -> unit-scale actions (B, horizon, A)."""
        scale, shift = self.modulate(mean_token(text))[:, :, None, None].chunk(2, dim=1)
        x = self.mix(self.features(pixels) * (1 + scale) + shift)
        return self.head(x.flatten(1)).unflatten(-1, (-1, self.action_dim))


class BcStage(DemoStage):
    """Clone the expert's next actions on clean demonstrations."""

    name = TRAIN

    def loss(self, model: nn.Module, batch: DemoBatch, generator: torch.Generator) -> dict[str, Tensor]:
        error = (model(to_float(batch.frame), batch.text) - batch.actions[:, 0]).abs().mean(dim=-1)
        mask = batch.action_mask[:, 0]
        return {"loss": (error * mask).sum() / mask.sum().clamp(min=1)}

    def preview(self, model: nn.Module) -> None:
        return None


class BehaviourCloning(OneNetFamily):
    """The direct route that video prediction has to beat."""

    name: ClassVar[str] = "bc"
    title: ClassVar[str] = "Behaviour cloning"
    order: ClassVar[int] = 90
    source: ClassVar[str] = "course notes: direct prediction, image -> action"
    summary: ClassVar[str] = "A convolutional policy from image and instruction to actions; predicts no film."
    films: ClassVar[bool] = False
    acts: ClassVar[bool] = True
    attends: ClassVar[bool] = False
    sizes: ClassVar[type[BcConfig]] = BcConfig
    stage: ClassVar[type[BcStage]] = BcStage
    published: ClassVar[dict[str, str]] = {"net": TRAIN}
    net: BcNet
    config: BcConfig

    def traced(self, request: Request) -> Traced:
        instruction = check_request(request)
        text = text_encoder()([instruction]).to(self.device)
        words = text.tokens.clone().requires_grad_()
        pixels = to_float(fit_square(request.frame, self.config.size))[None].to(self.device).requires_grad_()
        actions = self.net(pixels, TextTokens(words, text.mask))[0]
        return Traced(pixels, pixels[:0], actions, None, words, text_encoder().words(instruction))

    @torch.no_grad()
    def __call__(
        self, request: Request, *, attention: bool = False, progress: ProgressCallback | None = None
    ) -> Rollout:
        clock, instruction, size = Clock(), check_request(request), self.config.size
        with clock.part("actions"):
            pixels = to_float(fit_square(request.frame, size))[None].to(self.device)
            unit = self.net(pixels, text_encoder()([instruction]).to(self.device))[0]
            actions = self.scale.to_world(unit.float().cpu().numpy())
        return Rollout(np.zeros((0, size, size, 3), np.uint8), (), actions, None, clock.done())


FAMILY = BehaviourCloning
