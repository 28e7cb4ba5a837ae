"""LPIPS (Zhang et al. 2018, arXiv 1801.03924), AlexNet version 0.1, from weights that ship: the usual packages need
torchvision or a download."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidvla import checkpoint
from vidvla.pixels import to_float
from vidvla.worlds.base import Frame

LPIPS = "lpips"
"""Folder of the weights."""
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""ImageNet's mean and deviation for pictures in [-1, 1], as the paper's code has them."""


class PerceptualNet(nn.Module):
    """AlexNet's five rectified layers, and how much a difference in each channel counts."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList([
            nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.Conv2d(64, 192, 5, padding=2),
            nn.Conv2d(192, 384, 3, padding=1), nn.Conv2d(384, 256, 3, padding=1), nn.Conv2d(256, 256, 3, padding=1),
        ])  # fmt: skip
        self.weights = nn.ParameterList([torch.ones(1, channels, 1, 1) for channels in (64, 192, 384, 256, 256)])

    def features(self, pixels: Tensor) -> list[Tensor]:
        """pixels (B, 3, H, W) in [-1, 1] -> one map a layer, of unit length at each place."""
        x = (pixels - torch.tensor(SHIFT).view(1, 3, 1, 1)) / torch.tensor(SCALE).view(1, 3, 1, 1)
        layers = []
        for index, convolution in enumerate(self.convolutions):
            if index in (1, 2):
                x = F.max_pool2d(x, 3, stride=2)
            x = convolution(x).relu()
            layers.append(x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10))
        return layers

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """Two (B, 3, H, W) in [-1, 1] -> distances (B,)."""
        pairs = zip(self.features(one), self.features(other), self.weights, strict=True)
        return torch.stack([(w * (a - b).square()).sum(dim=1).mean(dim=(1, 2)) for a, b, w in pairs]).sum(dim=0)


@functools.cache
def _net(folder: Path) -> PerceptualNet:
    net = PerceptualNet()
    checkpoint.load(folder).fill(net, "net")
    return net.eval().requires_grad_(False)


@torch.no_grad()
def lpips(predicted: Frame, true: Frame) -> float:
    """Perceptual distance of two uint8 frames of one shape (H, W, 3); 0 where they are equal."""
    if predicted.shape != true.shape:
        raise ValueError(f"expected two frames of one shape, got {predicted.shape} and {true.shape}")
    net = _net(checkpoint.ASSETS / "checkpoints" / LPIPS)
    return float(net(to_float(predicted)[None], to_float(true)[None])[0])
