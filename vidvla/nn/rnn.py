"""M of World Models (Ha & Schmidhuber 2018, arXiv 1803.10122, section 2.2): an LSTM with mixture-density outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOG_STD_RANGE = (-5.0, 2.0)
"""Log standard deviations are clamped to it: a component that collapses onto one sample gains likelihood for free."""


@dataclass(frozen=True)
class Mixture:
    """K diagonal Gaussians a place.

    Attributes:
        log_weights: (..., K) normalised.
        means: (..., K, Z).
        log_stds: (..., K, Z).
    """

    log_weights: Tensor
    means: Tensor
    log_stds: Tensor

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of ``value`` (..., Z), nats: (...)."""
        scaled = (value.unsqueeze(-2) - self.means) * (-self.log_stds).exp()
        each = -0.5 * (scaled.square() + math.log(2 * math.pi)) - self.log_stds
        return (self.log_weights + each.sum(dim=-1)).logsumexp(dim=-1)

    def pick(self, tau: float, uniform: Tensor, noise: Tensor) -> Tensor:
        """Samples (..., Z) at temperature ``tau``: log weights are divided by it, variances multiplied (section 4.3).

        Args:
            tau: above 0; near 0 the likeliest component's mean is picked.
            uniform: (...) in [0, 1), which component.
            noise: (..., Z) standard normal, where within it.
        """
        if tau <= 0:
            raise ValueError(f"expected a temperature above 0, got {tau:g}")
        shares = (self.log_weights / tau).softmax(dim=-1).cumsum(dim=-1)
        chosen = (uniform.unsqueeze(-1) >= shares[..., :-1]).sum(dim=-1)
        index = chosen[..., None, None].expand(*chosen.shape, 1, self.means.shape[-1])
        mean, log_std = (v.gather(-2, index).squeeze(-2) for v in (self.means, self.log_stds))
        return mean + math.sqrt(tau) * log_std.exp() * noise


@dataclass(frozen=True)
class LatentState:
    """B dreams as they stand; never changed in place.

    Attributes:
        latents: (B, Z) what is seen.
        hidden: (B, H) and
        cell: (B, H) what the LSTM remembers of everything before.
    """

    latents: Tensor
    hidden: Tensor
    cell: Tensor

    def repeat(self, count: int) -> LatentState:
        """All B dreams, ``count`` times one after another: (count * B, ...)."""
        return LatentState(*(v.repeat(count, 1) for v in vars(self).values()))


@dataclass(frozen=True)
class Outlook:
    """What is expected to follow.

    Attributes:
        following: of the next latents.
        rewards: (...) of the step, in the unit that was trained.
        fulfilled: (...) logit of the task being fulfilled in the step.
    """

    following: Mixture
    rewards: Tensor
    fulfilled: Tensor


class MixtureDensityRNN(nn.Module):
    """(z_t, a_t) and everything before -> the distribution of z_{t+1}, the reward, and whether the task is fulfilled.

    The reward is a learned regression of the world's own dense reward after action t, as it was recorded. The paper's
    second experiment predicts the end of an episode in the same way.
    """

    def __init__(self, latent: int, action_dim: int, hidden: int = 256, mixtures: int = 5) -> None:
        super().__init__()
        self.latent, self.hidden, self.mixtures = latent, hidden, mixtures
        self.lstm = nn.LSTM(latent + action_dim, hidden, batch_first=True)
        # z_t beside h: most of a scene stays where it is, and copying it through the LSTM would have to be learned
        self.mixture = nn.Linear(hidden + latent, mixtures * (1 + 2 * latent))
        self.judge = nn.Sequential(nn.Linear(hidden + latent, hidden), nn.SiLU(), nn.Linear(hidden, 2))

    def forward(self, latents: Tensor, actions: Tensor) -> Outlook:
        """latents (B, T, Z) and unit-scale actions (B, T, A) from the beginning -> the outlook after each, (B, T)."""
        hidden, _ = self.lstm(torch.cat([latents, actions], dim=-1))
        return self._outlook(hidden, latents)

    def begin(self, latents: Tensor) -> LatentState:
        """Dreams that begin with latents (B, Z), nothing remembered."""
        nothing = latents.new_zeros(len(latents), self.hidden)
        return LatentState(latents, nothing, nothing)

    def step(self, state: LatentState, actions: Tensor) -> tuple[Outlook, Tensor, Tensor]:
        """One step on after actions (B, A): the outlook (B,), and the LSTM's hidden and cell state (B, H) by then."""
        told = torch.cat([state.latents, actions], dim=-1)[:, None]
        seen, (hidden, cell) = self.lstm(told, (state.hidden[None], state.cell[None]))
        return self._outlook(seen[:, 0], state.latents), hidden[0], cell[0]

    def _outlook(self, hidden: Tensor, latents: Tensor) -> Outlook:
        known = torch.cat([hidden, latents], dim=-1)
        weights, gaussians = self.mixture(known).split(
            [self.mixtures, 2 * self.mixtures * self.latent], dim=-1
        )  # fmt: skip
        means, log_stds = gaussians.unflatten(-1, (2, self.mixtures, self.latent)).unbind(dim=-3)
        rewards, fulfilled = self.judge(known).unbind(dim=-1)
        mixture = Mixture(F.log_softmax(weights, dim=-1), means, log_stds.clamp(*LOG_STD_RANGE))
        return Outlook(mixture, rewards, fulfilled)
