"""V of World Models (Ha & Schmidhuber 2018, arXiv 1803.10122, section 2.1): a convolutional VAE of whole frames."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LOGVAR_RANGE = (-10.0, 4.0)
"""Log variances are clamped to it: beyond, one careless sample would drown everything else."""


class ConvVAE(nn.Module):
    """Frames <-> a vector of Gaussian latents.

    Four strided convolutions down and four transposed ones up, as in the paper's appendix A.1, with padding so that
    each halves or doubles the side.

    Args:
        size: side of the frames in pixels, a multiple of 16.
        latent: numbers a frame.
        base: channels after the first convolution; every next one doubles them.
    """

    def __init__(self, size: int = 64, latent: int = 32, base: int = 32) -> None:
        super().__init__()
        if size % 16:
            raise ValueError(f"expected a side that is a multiple of 16 pixels, got {size}")
        self.size, self.latent = size, latent
        widths = [base, 2 * base, 4 * base, 8 * base]
        side = size // 16
        down: list[nn.Module] = []
        for before, after in zip([3, *widths], widths, strict=False):
            down += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.SiLU()]
        self.encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(widths[-1] * side * side, 2 * latent))
        up: list[nn.Module] = [nn.Linear(latent, widths[-1] * side * side), nn.SiLU()]
        up.append(nn.Unflatten(1, (widths[-1], side, side)))
        for before, after in zip(widths[::-1], [*widths[-2::-1], 3], strict=True):
            up += [nn.ConvTranspose2d(before, after, 4, stride=2, padding=1), nn.SiLU()]
        self.decoder = nn.Sequential(*up[:-1])

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """pixels (B, 3, H, W) in [-1, 1] -> mean and log variance (B, Z) of the posterior."""
        mean, logvar = self.encoder(pixels).chunk(2, dim=1)
        return mean, logvar.clamp(*LOGVAR_RANGE)

    def decode(self, latents: Tensor) -> Tensor:
        """latents (B, Z) -> pixels (B, 3, H, W), about [-1, 1]."""
        decoded: Tensor = self.decoder(latents)
        return decoded

    def forward(self, pixels: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """pixels (B, 3, H, W) and standard normal noise (B, Z) -> reconstruction, mean, log variance."""
        mean, logvar = self.encode(pixels)
        return self.decode(reparametrise(mean, logvar, noise)), mean, logvar


def reparametrise(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """A sample of the posterior from standard normal ``noise``, all (..., Z)."""
    return mean + (0.5 * logvar).exp() * noise


def kl_to_standard_normal(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, 1)) summed over the last axis, nats: (..., Z) -> (...)."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(dim=-1)


def moving_weight(frames: Tensor, references: list[Tensor], threshold: float, factor: float) -> Tensor:
    """(B, 1, H, W): ``factor`` where a pixel differs from any reference by more than ``threshold``, 1 elsewhere.

    Args:
        frames: (B, 3, H, W) in [-1, 1].
        references: each broadcasts against ``frames``.
        threshold: of the pixels' range, in [0, 1].
    """
    far = [(frames - r).abs().amax(dim=1, keepdim=True) > 2 * threshold for r in references]
    return 1 + (factor - 1) * torch.stack(far).any(dim=0).float()
