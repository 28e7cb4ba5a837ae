"""Behaviour cloning: image and instruction straight to actions, with no film in between."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from vidvla import checkpoint
from vidvla.actions import ActionScale
from vidvla.data.clips import EpisodeStore
from vidvla.data.demos import DemoBatch, Demos
from vidvla.families.base import SMALL, Clock, Context, Family, Phase, fit_square, read_config
from vidvla.families.baseline import mean_token
from vidvla.foundation.film import check_request
from vidvla.foundation.stages import WORLD, unit_actions
from vidvla.nn.conv import ResBlock
from vidvla.pixels import to_float
from vidvla.saliency import Traced
from vidvla.text import TEXT_DIM, TextTokens, text_encoder
from vidvla.train.loop import TrainConfig
from vidvla.types import ProgressCallback, Request, Rollout

TRAIN = "bc.clone"


class BcConfig(BaseModel):
    """Sizes of the policy net; ``horizon`` actions come from one look at a frame of ``size`` pixels a side."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int = 128
    horizon: int = 16
    base: int = 8
    hidden: int = 32


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


class BcStage:
    """Clone the expert's next actions on clean demonstrations."""

    name = TRAIN

    def __init__(self, context: Context, config: BcConfig) -> None:
        self.context, self.config = context, config

    @functools.cached_property
    def demos(self) -> Demos:
        store = EpisodeStore(self.context.data / WORLD)
        return Demos(store, unit_actions().to_unit, 1, self.config.horizon, self.config.size)

    def build(self, own: Path | None = None) -> nn.Module:
        net = BcNet(self.config, len(unit_actions().low))
        if own is not None:
            checkpoint.load(own).fill(net, "net")
        return net

    def batch(self, size: int, generator: torch.Generator) -> DemoBatch:
        return self.demos.batch(size, generator)

    def loss(self, model: nn.Module, batch: DemoBatch, generator: torch.Generator) -> dict[str, Tensor]:
        error = (model(to_float(batch.frame), batch.text) - batch.actions[:, 0]).abs().mean(dim=-1)
        mask = batch.action_mask[:, 0]
        return {"loss": (error * mask).sum() / mask.sum().clamp(min=1)}

    def data_used(self) -> dict[str, int]:
        return {f"episodes of {WORLD}": len(self.demos.episodes)}

    def preview(self, model: nn.Module) -> None:
        return None


class BehaviourCloning(Family):
    """The direct route that video prediction has to beat."""

    name: ClassVar[str] = "bc"
    title: ClassVar[str] = "Behaviour cloning"
    order: ClassVar[int] = 90
    source: ClassVar[str] = "course notes: direct prediction, image -> action"
    summary: ClassVar[str] = "A convolutional policy from image and instruction to actions; predicts no film."
    films: ClassVar[bool] = False
    acts: ClassVar[bool] = True
    attends: ClassVar[bool] = False
    published: ClassVar[dict[str, str]] = {"net": TRAIN}

    def __init__(self, net: BcNet, config: BcConfig, scale: ActionScale, device: torch.device) -> None:
        self.net, self.config, self.scale, self.device = net, config, scale, device

    @classmethod
    def phases(cls, size: str = SMALL) -> list[Phase]:
        config = read_config(cls.name, size)
        sizes = BcConfig(**config["model"])
        return [Phase(TRAIN, lambda c: BcStage(c, sizes), TrainConfig(**config["train"]["clone"]))]

    @classmethod
    def publish(cls, context: Context) -> None:
        scale, sizes = unit_actions(), BcConfig(**read_config(cls.name, context.size)["model"])
        net = BcNet(sizes, len(scale.low))
        checkpoint.load(context.weights(TRAIN)).fill(net, "net")
        config = context.description(cls.name, WORLD, [TRAIN], model=sizes.model_dump(), actions=scale.saved())
        checkpoint.save(context.checkpoints / f"{cls.name}-{WORLD}", {"net": net}, config)

    @classmethod
    def load(cls, checkpoints: Path, device: torch.device) -> BehaviourCloning:
        saved = checkpoint.load(checkpoints / f"{cls.name}-{WORLD}")
        scale = ActionScale(**saved.config["actions"])
        sizes = BcConfig(**saved.config["model"])
        net = BcNet(sizes, len(scale.low))
        saved.fill(net, "net")
        family = cls(net.eval().to(device), sizes, scale, device)
        family.records = tuple(saved.config["trained"])
        return family

    @classmethod
    def tiny(cls) -> BehaviourCloning:
        sizes, scale = BcConfig(), unit_actions()
        return cls(BcNet(sizes, len(scale.low)).eval(), sizes, scale, torch.device("cpu"))

    def nets(self) -> dict[str, nn.Module]:
        return {"net": self.net}

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
