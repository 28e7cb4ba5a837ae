"""What to do to get from one frame to another: a goal-conditioned policy over a chunk of actions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vidvla.nn.conv import ResBlock
from vidvla.nn.dit import sinusoidal
from vidvla.nn.heads import make_head
from vidvla.nn.video_dit import PixelStem

KEPT = 16
"""Channels that keep where they are up to the last convolution."""


class GoalPolicy(nn.Module):
    """Chunks of actions from a frame, as pixels and latents, and the latents of the frame to get to.

    It is not told the instruction: the goal picture says what to do.

    Args:
        grid: latents a side of a frame.
        channels: channels of a latent.
        action_dim: numbers A of an action.
        steps: control steps N of a chunk.
        stem: width of the features of the frame's pixels; those of a film net's stem can be taken over.
        width: channels of the convolutions, a multiple of 8.
        d_model: width of what the head reads, and of its own layers.
        head: kind of the action head, see :data:`~vidvla.nn.heads.HEADS`.
        n_layers: layers of the head.
        n_heads: attention heads of these.
    """

    def __init__(
        self,
        grid: int,
        channels: int,
        action_dim: int,
        steps: int,
        *,
        stem: int,
        width: int = 16,
        d_model: int = 32,
        head: str = "flow",
        n_layers: int = 1,
        n_heads: int = 2,
    ) -> None:
        super().__init__()
        self.steps, self.grid = steps, grid
        self.stem = PixelStem(grid, stem)
        self.features = nn.Sequential(
            nn.Conv2d(2 * channels + stem, width, 3, padding=1), ResBlock(width), ResBlock(width),
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, KEPT, 1),
        )  # fmt: skip
        self.to_vector = nn.Linear(KEPT * grid**2, d_model)
        self.horizon = nn.Linear(64, d_model)
        self.head = make_head(head, d_model, action_dim, width=d_model, n_layers=n_layers, n_heads=n_heads)

    def read(self, pixels: Tensor, now: Tensor, goal: Tensor, horizon: Tensor) -> Tensor:
        """What the head reads, (B, N, d_model).

        Args:
            pixels: (B, 3, H, W) in [-1, 1], the frame.
            now: (B, C, h, w) its latents.
            goal: (B, C, h, w) latents of the frame to get to.
            horizon: (B,) control steps until then.
        """
        seen = self.stem(pixels).transpose(1, 2).unflatten(2, (self.grid, self.grid))
        places = self.features(torch.cat([seen, now, goal - now], dim=1))
        vector = self.to_vector(places.flatten(1)) + self.horizon(sinusoidal(horizon, 64, longest=200.0))
        return vector[:, None].expand(-1, self.steps, -1)

    def forward(
        self, pixels: Tensor, now: Tensor, goal: Tensor, horizon: Tensor, actions: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The head's loss (B, N) of each of the actions (B, N, A) of unit scale."""
        loss: Tensor = self.head(self.read(pixels, now, goal, horizon), actions, generator)
        return loss

    def sample(self, pixels: Tensor, now: Tensor, goal: Tensor, horizon: Tensor, generator: torch.Generator) -> Tensor:
        """Actions (B, N, A) in [-1, 1]; what is open is drawn by ``generator``."""
        return self.head.sample(self.read(pixels, now, goal, horizon), generator)
