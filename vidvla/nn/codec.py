"""Frames <-> a small grid of latents: patch PCA as the linear base, a learned convolutional residual on both sides.

Decoding keeps what did not move: the decoder sees a reference frame with its latents and blends its own picture
over the reference by a mask that it predicts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidvla.nn.conv import ResBlock


class FrameCodec(nn.Module):
    """(B, 3, H, W) in [-1, 1] <-> (B, latent_channels, H / patch, W / patch), about unit scale.

    Args:
        patch: side of a patch in pixels; a multiple of 16.
        latent_channels: numbers a patch.
        width: channels at the finest learned scale.
    """

    basis: Tensor
    center: Tensor
    scale: Tensor

    def __init__(self, patch: int = 16, latent_channels: int = 48, width: int = 32) -> None:
        super().__init__()
        if patch != 16:
            raise ValueError(f"expected a patch of 16 pixels, got {patch}")
        self.patch = patch
        self.latent_channels = latent_channels
        pixels = 3 * patch * patch
        self.register_buffer("basis", torch.eye(latent_channels, pixels))  # orthonormal rows
        self.register_buffer("center", torch.zeros(pixels))
        self.register_buffer("scale", torch.ones(latent_channels))
        c1, c2, c3, c4 = width, 2 * width, 4 * width, 6 * width
        self.residual_encoder = nn.Sequential(
            nn.Conv2d(3, c2, 4, stride=4), ResBlock(c2),
            nn.Conv2d(c2, c3, 3, stride=2, padding=1), ResBlock(c3),
            nn.Conv2d(c3, c4, 3, stride=2, padding=1), ResBlock(c4),
            nn.GroupNorm(8, c4), nn.SiLU(), nn.Conv2d(c4, latent_channels, 1),
        )  # fmt: skip
        self.reference_64 = nn.Conv2d(6, c1, 4, stride=2, padding=1)
        self.reference_32 = nn.Conv2d(c1, c2, 4, stride=2, padding=1)
        self.up_8 = nn.Sequential(nn.Conv2d(2 * latent_channels, c4, 3, padding=1), ResBlock(c4), ResBlock(c4))
        self.up_16 = nn.Sequential(nn.Conv2d(c4, 4 * c3, 1), nn.PixelShuffle(2), ResBlock(c3))
        self.up_32 = nn.Sequential(nn.Conv2d(c3, 4 * c2, 1), nn.PixelShuffle(2))
        self.mix_32 = nn.Sequential(nn.Conv2d(2 * c2, c2, 3, padding=1), ResBlock(c2), ResBlock(c2))
        self.up_64 = nn.Sequential(nn.Conv2d(c2, 4 * c1, 1), nn.PixelShuffle(2))
        self.mix_64 = nn.Sequential(nn.Conv2d(2 * c1, c1, 3, padding=1), ResBlock(c1))
        self.to_pixels = nn.Conv2d(c1, 4 * 4, 3, padding=1)
        for last in (self.residual_encoder[-1], self.to_pixels):
            assert isinstance(last, nn.Conv2d) and last.bias is not None
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def _patches(self, frames: Tensor) -> Tensor:
        return F.unfold(frames, self.patch, stride=self.patch)  # (B, 3 * p * p, P)

    @torch.no_grad()
    def fit_basis(self, frames: Tensor) -> None:
        """Set the linear base to the principal components of the patches of ``frames`` (N, 3, H, W)."""
        patches = self._patches(frames).transpose(1, 2).flatten(0, 1)
        center = patches.mean(dim=0)
        covariance = torch.cov((patches - center).T)
        variance, directions = torch.linalg.eigh(covariance.double())
        top = variance.flip(0)[: self.latent_channels].clamp(min=1e-8)
        self.basis.copy_(directions.flip(1)[:, : self.latent_channels].T)
        self.center.copy_(center)
        # The square root of the deviations: full whitening would give noise in the fine components too much weight.
        deviation = top.sqrt()
        self.scale.copy_(deviation.sqrt() * deviation.sqrt().mean())

    def encode(self, frames: Tensor) -> Tensor:
        """frames (B, 3, H, W) in [-1, 1] -> latents (B, C, h, w)."""
        height, width = frames.shape[-2] // self.patch, frames.shape[-1] // self.patch
        linear = torch.einsum("cp,bpn->bcn", self.basis, self._patches(frames) - self.center[:, None])
        linear = (linear / self.scale[:, None]).unflatten(2, (height, width))
        return linear + self.residual_encoder(frames)

    def linear_decode(self, latents: Tensor) -> Tensor:
        """latents (B, C, h, w) -> the linear base's picture (B, 3, H, W)."""
        flat = (latents * self.scale[:, None, None]).flatten(2)
        patches = torch.einsum("cp,bcn->bpn", self.basis, flat) + self.center[:, None]
        side = (latents.shape[-2] * self.patch, latents.shape[-1] * self.patch)
        return F.fold(patches, side, self.patch, stride=self.patch)

    def decode(self, latents: Tensor, reference: Tensor, reference_latents: Tensor) -> tuple[Tensor, Tensor]:
        """Picture of ``latents`` (B, C, h, w), given a frame of the same scene (B, 3, H, W) and its latents.

        Returns:
            frames (B, 3, H, W), and the mask (B, 1, H, W) in [0, 1] of what was painted over the reference.
        """
        base = self.linear_decode(latents)
        fine = self.reference_64(torch.cat([reference, base], dim=1))
        coarse = self.reference_32(F.silu(fine))
        x = self.up_8(torch.cat([latents, latents - reference_latents], dim=1))
        x = self.up_32(self.up_16(x))
        x = self.mix_32(torch.cat([x, coarse], dim=1))
        x = self.mix_64(torch.cat([self.up_64(x), fine], dim=1))
        out = F.pixel_shuffle(self.to_pixels(x), 2)
        mask = torch.sigmoid(out[:, 3:])
        return mask * (base + out[:, :3]) + (1 - mask) * reference, mask

    def forward(self, frames: Tensor, reference: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode, disturb the latents by ``noise`` (B, C, h, w), decode -> (decoded, mask, clean latents)."""
        latents = self.encode(frames)
        decoded, mask = self.decode(latents + noise, reference, self.encode(reference))
        return decoded, mask, latents
