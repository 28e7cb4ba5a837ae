"""Action heads behind one interface: regression, tokens, diffusion and flow matching.

All read the same features, one vector a control step, with the same small transformer over the steps of a chunk. They
differ in what they predict and how that becomes an action. Where the actions of demonstrations go two ways, regression
answers with something in between; the others choose one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from vidvla.nn.dit import DiTBlock, sinusoidal

LEVELS = 1000
"""Noise levels of training, as diffusers' schedulers count them."""


class ActionHead(nn.Module, ABC):
    """Chunks of actions (B, N, A) of unit scale from features (B, N, F).

    Args:
        features: width F of what is read.
        action_dim: numbers A of an action.
        width: of the transformer over a chunk; a multiple of ``n_heads``.
        n_layers: its layers.
        n_heads: its heads.
    """

    kind: ClassVar[str]
    title: ClassVar[str]
    outputs: ClassVar[int] = 1
    """Numbers predicted for each number of an action."""

    def __init__(self, features: int, action_dim: int, width: int = 32, n_layers: int = 1, n_heads: int = 2) -> None:
        super().__init__()
        self.action_dim = action_dim
        self.read = nn.Sequential(nn.LayerNorm(features), nn.Linear(features, width))
        self.level = nn.Linear(64, width)
        self.noisy = nn.Linear(action_dim, width)
        self.blocks = nn.ModuleList(DiTBlock(width, n_heads, width, label=f"actions {i + 1}") for i in range(n_layers))
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, action_dim * self.outputs))

    def decode(self, features: Tensor, noisy: Tensor, level: Tensor) -> Tensor:
        """features (B, N, F), noisy actions (B, N, A), level (B,) in [0, 1000] -> (B, N, A * outputs)."""
        read = self.read(features)
        moments = torch.arange(read.shape[1], device=read.device)
        cond = read + self.level(sinusoidal(level, 64))[:, None]
        tokens = cond + self.noisy(noisy) + sinusoidal(moments, read.shape[-1], longest=100.0)
        for block in self.blocks:
            tokens = block(tokens, cond)
        predicted: Tensor = self.out(tokens)
        return predicted

    def _answer(self, features: Tensor) -> Tensor:
        """What is predicted in one pass from the features alone."""
        nothing = torch.zeros(*features.shape[:2], self.action_dim, device=features.device)
        return self.decode(features, nothing, torch.zeros(len(features), device=features.device))

    @abstractmethod
    def forward(self, features: Tensor, actions: Tensor, generator: torch.Generator) -> Tensor:
        """Loss (B, N) of each of the actions (B, N, A) of unit scale."""

    @abstractmethod
    def sample(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Actions (B, N, A) in [-1, 1]; what is open is drawn by ``generator``."""


class Regression(ActionHead):
    """The median action, by the absolute error."""

    kind: ClassVar[str] = "regression"
    title: ClassVar[str] = "Regression"

    def forward(self, features: Tensor, actions: Tensor, generator: torch.Generator) -> Tensor:
        return (self._answer(features) - actions).abs().mean(dim=-1)

    def sample(self, features: Tensor, generator: torch.Generator) -> Tensor:
        return self._answer(features).clamp(-1, 1)


class Bins(ActionHead):
    """One of 256 equal bins for each number, the likeliest (RT-2, Brohan et al. 2023, arXiv 2307.15818).

    The numbers of an action are predicted side by side, not one after the other as words of a language model.
    """

    kind: ClassVar[str] = "bins"
    title: ClassVar[str] = "256 bins (RT-2)"
    outputs: ClassVar[int] = 256

    def _logits(self, features: Tensor) -> Tensor:
        return self._answer(features).unflatten(-1, (self.action_dim, self.outputs))

    def forward(self, features: Tensor, actions: Tensor, generator: torch.Generator) -> Tensor:
        bins = ((actions.clamp(-1, 1) + 1) / 2 * self.outputs).long().clamp(max=self.outputs - 1)
        return F.cross_entropy(self._logits(features).movedim(-1, 1), bins, reduction="none").mean(dim=-1)

    def sample(self, features: Tensor, generator: torch.Generator) -> Tensor:
        middle = self._logits(features).argmax(dim=-1) + 0.5
        return 2 * middle / self.outputs - 1


class Diffusion(ActionHead):
    """Denoised from noise with a squared-cosine schedule (Octo, 2024, arXiv 2405.12213).

    Octo predicts the noise and takes 20 ancestral steps; this predicts the velocity (Salimans and Ho 2022, arXiv
    2202.00512), which is well posed at both ends, and takes deterministic ones (DDIM).
    """

    kind: ClassVar[str] = "diffusion"
    title: ClassVar[str] = "Diffusion (Octo)"
    steps: ClassVar[int] = 10

    def _scheduler(self) -> DDIMScheduler:
        return DDIMScheduler(
            LEVELS, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", timestep_spacing="trailing"
        )

    def forward(self, features: Tensor, actions: Tensor, generator: torch.Generator) -> Tensor:
        scheduler = self._scheduler()
        level = torch.randint(LEVELS, (len(actions),), generator=generator).to(actions.device)
        noise = torch.randn(actions.shape, generator=generator).to(actions.device)
        velocity = self.decode(features, scheduler.add_noise(actions, noise, level), level)
        return (velocity - scheduler.get_velocity(actions, noise, level)).square().mean(dim=-1)

    def sample(self, features: Tensor, generator: torch.Generator) -> Tensor:
        scheduler = self._scheduler()
        scheduler.set_timesteps(self.steps)
        actions = torch.randn(*features.shape[:2], self.action_dim, generator=generator).to(features.device)
        for level in scheduler.timesteps:
            velocity = self.decode(features, actions, level.expand(len(actions)).to(actions.device))
            actions = scheduler.step(velocity, level, actions, return_dict=False)[0]
        return actions.clamp(-1, 1)


class Flow(ActionHead):
    """Carried from noise along a straight flow (pi-0, Black et al. 2024, arXiv 2410.24164).

    As there the velocity is predicted, noisy moments are drawn more often, and ten Euler steps are taken.
    """

    kind: ClassVar[str] = "flow"
    title: ClassVar[str] = "Flow matching (pi-0)"
    steps: ClassVar[int] = 10

    def forward(self, features: Tensor, actions: Tensor, generator: torch.Generator) -> Tensor:
        # Beta(1, 1.5) of the share of the action, by its inverse distribution
        share = 1 - torch.rand(len(actions), generator=generator).pow(1 / 1.5)
        noise = torch.randn(actions.shape, generator=generator).to(actions.device)
        level = (1 - share).to(actions.device)
        mix = level[:, None, None]
        velocity = self.decode(features, (1 - mix) * actions + mix * noise, LEVELS * level)
        return (velocity - (noise - actions)).square().mean(dim=-1)

    def sample(self, features: Tensor, generator: torch.Generator) -> Tensor:
        scheduler = FlowMatchEulerDiscreteScheduler(LEVELS)
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1.0 / self.steps, self.steps))
        actions = torch.randn(*features.shape[:2], self.action_dim, generator=generator).to(features.device)
        for level in scheduler.timesteps:
            velocity = self.decode(features, actions, level.expand(len(actions)).to(actions.device))
            actions = scheduler.step(velocity, level, actions, return_dict=False)[0]
        return actions.clamp(-1, 1)


HEADS: dict[str, type[ActionHead]] = {head.kind: head for head in (Regression, Bins, Diffusion, Flow)}
"""All heads by their kind."""


def make_head(kind: str, features: int, action_dim: int, **sizes: int) -> ActionHead:
    """A fresh head; ValueError lists the known kinds."""
    if kind not in HEADS:
        raise ValueError(f"expected an action head among {', '.join(HEADS)}; got {kind!r}")
    return HEADS[kind](features, action_dim, **sizes)
