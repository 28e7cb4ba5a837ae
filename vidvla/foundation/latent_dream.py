"""Dreams in latent space: a linear controller evolved in them, and planning by the cross-entropy method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidvla.actions import ActionScale
from vidvla.data.demos import shrink_pixels
from vidvla.families.base import fit_square
from vidvla.nn.rnn import LatentState, MixtureDensityRNN
from vidvla.nn.vae import ConvVAE
from vidvla.pixels import to_float, to_uint8
from vidvla.worlds.agent import episode_scores
from vidvla.worlds.base import Frame

Controller = Callable[[LatentState, int], Tensor]
"""(state, step) -> unit-scale actions (B, A)."""


@dataclass(frozen=True)
class Chance:
    """All that is random in B dreams of T steps.

    Attributes:
        uniform: (T, B) in [0, 1), which component of the mixture.
        noise: (T, B, Z) standard normal, where within it.
    """

    uniform: Tensor
    noise: Tensor

    @classmethod
    def draw(cls, steps: int, count: int, latent: int, seed: int) -> Chance:
        """Fixed by ``seed``."""
        generator = torch.Generator().manual_seed(seed)
        uniform = torch.rand((steps, count), generator=generator)
        return cls(uniform, torch.randn((steps, count, latent), generator=generator))

    def repeat(self, count: int) -> Chance:
        """The same chance for ``count`` groups of B dreams: what differs between them is then not luck."""
        return Chance(self.uniform.repeat(1, count), self.noise.repeat(1, count, 1))


@dataclass(frozen=True)
class Dreamed:
    """B dreams of T steps.

    Attributes:
        latents: (B, T, Z) after each step.
        actions: (B, T, A) unit scale.
        rewards: (B, T) as predicted, in [0, 1].
        fulfilled: (B, T) probability of the task being fulfilled in the step.
    """

    latents: Tensor
    actions: Tensor
    rewards: Tensor
    fulfilled: Tensor

    def scores(self) -> NDArray[np.float32]:
        """(B,), counted as in the world itself: :func:`~vidvla.worlds.agent.episode_scores`."""
        return episode_scores(self.rewards.cpu().numpy(), (self.fulfilled > 0.5).cpu().numpy())


def advance(
    rnn: MixtureDensityRNN, state: LatentState, actions: Tensor, tau: float, uniform: Tensor, noise: Tensor
) -> tuple[LatentState, Tensor, Tensor]:
    """One step on after unit-scale actions (B, A): the state, rewards (B,) and probabilities of success (B,)."""
    outlook, hidden, cell = rnn.step(state, actions)
    latents = outlook.following.pick(tau, uniform.to(actions.device), noise.to(actions.device))
    return LatentState(latents, hidden, cell), outlook.rewards.clamp(0, 1), outlook.fulfilled.sigmoid()


@torch.no_grad()
def dream(
    rnn: MixtureDensityRNN, state: LatentState, controller: Controller, steps: int, tau: float, chance: Chance
) -> Dreamed:
    """B dreams of ``steps`` control steps from ``state``, at temperature ``tau``."""
    return unroll(rnn, state, controller, steps, tau, chance)


def unroll(
    rnn: MixtureDensityRNN, state: LatentState, controller: Controller, steps: int, tau: float, chance: Chance
) -> Dreamed:
    """:func:`dream` with gradients."""
    rows = []
    for step in range(steps):
        actions = controller(state, step)
        state, rewards, fulfilled = advance(rnn, state, actions, tau, chance.uniform[step], chance.noise[step])
        rows.append((state.latents, actions, rewards, fulfilled))
    return Dreamed(*(torch.stack(column, dim=1) for column in zip(*rows, strict=True)))


def linear_actions(weights: Tensor, state: LatentState) -> Tensor:
    """C: tanh of a linear map of [z, h], for P controllers that share the B dreams of ``state`` evenly.

    Args:
        weights: (P, A, Z + H + 1), the bias last.

    Returns:
        Unit-scale actions (B, A); the first B / P are the first controller's.
    """
    seen = torch.cat([state.latents, state.hidden], dim=-1).unflatten(0, (len(weights), -1))
    return torch.baddbmm(weights[:, None, :, -1], seen, weights[:, :, :-1].mT).tanh().flatten(0, 1)


@dataclass(frozen=True)
class Planning:
    """The cross-entropy method as in PlaNet (Hafner et al. 2018, arXiv 1811.04551, algorithm 2).

    Attributes:
        horizon: control steps planned ahead.
        population: candidate plans an iteration.
        elites: of them, to which the next iteration's Gaussian is fitted.
        iterations: fits.
        replan: control steps executed before planning again.
    """

    horizon: int = 12
    population: int = 128
    elites: int = 16
    iterations: int = 4
    replan: int = 4


def plan_cem(
    rnn: MixtureDensityRNN, state: LatentState, action_dim: int, tau: float, seed: int, planning: Planning
) -> Tensor:
    """The plan (horizon, A) of the best predicted score from one state (1, ...), in unit scale.

    All candidates share their chance, so that the best of them is not merely the luckiest.
    """
    generator = torch.Generator().manual_seed(seed)
    mean = torch.zeros(planning.horizon, action_dim)
    std = torch.ones(planning.horizon, action_dim)
    many = state.repeat(planning.population)
    device = state.latents.device
    for iteration in range(planning.iterations):
        noise = torch.randn((planning.population, *mean.shape), generator=generator)
        plans = (mean + std * noise).clamp(-1, 1)
        chance = Chance.draw(planning.horizon, 1, rnn.latent, seed + iteration).repeat(planning.population)
        dreamed = dream(rnn, many, follow(plans.to(device)), planning.horizon, tau, chance)
        best = np.argsort(-dreamed.scores(), kind="stable")[: planning.elites]
        elites = plans[torch.from_numpy(best.copy())]
        mean, std = elites.mean(dim=0), elites.std(dim=0, correction=0)
    return mean


def follow(plans: Tensor) -> Controller:
    """Carries out plans (B, T, A), one a dream, whatever happens."""
    return lambda _, step: plans[:, step]


@dataclass(frozen=True)
class LatentModel:
    """V and M, and the borders to pictures and world actions around them."""

    vae: ConvVAE
    rnn: MixtureDensityRNN
    scale: ActionScale
    device: torch.device

    @torch.no_grad()
    def encode(self, frames: Frame) -> Tensor:
        """Frames (B, H, W, 3) of any size -> posterior means (B, Z)."""
        mean, _ = self.vae.encode(self.pixels(frames))
        return mean

    def pixels(self, frames: Frame) -> Tensor:
        """Frames (B, H, W, 3) of any size as V sees them, (B, 3, side, side)."""
        side = self.vae.size
        # as in training: averaged down from twice the side
        small = np.stack([shrink_pixels(fit_square(frame, 2 * side), 2) for frame in frames])
        return to_float(small).to(self.device)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Frame:
        """(B, Z) -> frames (B, H, W, 3) uint8 at V's own size."""
        return to_uint8(self.vae.decode(latents))

    def begin(self, frames: Frame) -> LatentState:
        """Dreams that begin with frames (B, H, W, 3), nothing remembered."""
        return self.rnn.begin(self.encode(frames))


class LatentAgent:
    """Acts in a world by what V sees, while M remembers what was seen and done.

    Args:
        controller: (state of one dream, step) -> unit-scale action (1, A).
    """

    def __init__(self, model: LatentModel, controller: Controller) -> None:
        self._model, self._controller = model, controller
        self.reset()

    def reset(self) -> None:
        self._before: tuple[LatentState, Tensor] | None = None
        self._steps = 0

    @torch.no_grad()
    def step(self, frame: Frame) -> NDArray[np.float32]:
        state = self._model.begin(frame[None])
        if self._before is not None:
            _, hidden, cell = self._model.rnn.step(*self._before)
            state = LatentState(state.latents, hidden, cell)
        action = self._controller(state, self._steps)
        self._before, self._steps = (state, action), self._steps + 1
        return self._model.scale.to_world(action[0].float().cpu().numpy())


class Planner:
    """A controller that plans afresh every few steps, see :func:`plan_cem`."""

    def __init__(self, model: LatentModel, tau: float, seed: int, planning: Planning) -> None:
        self._model, self._tau, self._seed, self._planning = model, tau, seed, planning
        self._plan = torch.zeros(0)

    def __call__(self, state: LatentState, step: int) -> Tensor:
        place = step % self._planning.replan
        if place == 0:
            axes, seed = len(self._model.scale.low), self._seed + step * self._planning.iterations
            self._plan = plan_cem(self._model.rnn, state, axes, self._tau, seed, self._planning)
        return self._plan[place : place + 1].to(state.latents.device)
