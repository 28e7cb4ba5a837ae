"""What a frame of the robot world shows, and where: keypoints of learned maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidvla.nn.conv import ResBlock

SHARP = 8.0
"""Of the softmax over a map: a fresh map that is spread out evenly hardly learns where to look."""


class Sight(nn.Module):
    """Convolutions at three scales, then keypoints.

    Spatial softmax (Levine et al. 2016, arXiv 1504.00702) finds places to a part of a pixel; dense layers alone, after
    as long a training, were off by 3.5 cm.

    Args:
        width: of its layers, a multiple of 4.

    Attributes:
        size: numbers of what is seen: the keypoints' places, and last the ``overview``, of which there are so many.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        c1, c2, c3 = 2 * width, 4 * width, 8 * width
        self.overview, self.size = 16 * 64, 2 * c2 + 16 * 64
        self.fine = nn.Sequential(
            nn.Conv2d(3, c1, 4, stride=2, padding=1), nn.SiLU(), nn.Conv2d(c1, c2, 4, stride=2, padding=1), ResBlock(c2)
        )  # fmt: skip
        self.middle = nn.Sequential(nn.Conv2d(c2, c3, 4, stride=2, padding=1), ResBlock(c3))
        self.coarse = nn.Sequential(nn.Conv2d(c3, c3, 4, stride=2, padding=1), ResBlock(c3))
        self.coarse_up, self.middle_up = nn.Conv2d(c3, c3, 1), nn.Conv2d(c3, c2, 1)
        self.keypoints = nn.Sequential(ResBlock(c2), nn.GroupNorm(8, c2), nn.SiLU(), nn.Conv2d(c2, c2, 1))
        self.look = nn.Sequential(nn.SiLU(), nn.AdaptiveAvgPool2d(8), nn.Conv2d(c3, 16, 1), nn.Flatten())

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels (B, 3, H, W) in [-1, 1] -> what is seen, (B, size)."""
        fine = self.fine(pixels)
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        middle = middle + F.interpolate(self.coarse_up(coarse), scale_factor=2)
        maps = fine + F.interpolate(self.middle_up(middle), scale_factor=2)
        points = spatial_softmax(SHARP * self.keypoints(maps))
        return torch.cat([points, self.look(coarse)], dim=1)


def spatial_softmax(maps: Tensor) -> Tensor:
    """(B, C, h, w) -> where each map is large, (B, 2 * C) in [-1, 1]: the mean place under its softmax."""
    share = maps.flatten(2).softmax(dim=-1).view_as(maps)
    rows = torch.linspace(-1, 1, maps.shape[2], device=maps.device)
    columns = torch.linspace(-1, 1, maps.shape[3], device=maps.device)
    across = [(share.sum(dim=3) * rows).sum(dim=2), (share.sum(dim=2) * columns).sum(dim=2)]
    return torch.cat(across, dim=1)
