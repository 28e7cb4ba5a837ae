"""Convolutional pieces used by more than one net."""

from __future__ import annotations

from torch import Tensor, nn


class ResBlock(nn.Module):
    """Two 3x3 convolutions around a skip, group-normalised: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, groups: int = 8) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.GroupNorm(groups, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(groups, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.net(x)
