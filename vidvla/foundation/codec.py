"""Training the frame codec that every film family shares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from vidvla import checkpoint
from vidvla.data.clips import EpisodeStore, FramePairs, sample_crops
from vidvla.nn.codec import FrameCodec
from vidvla.pixels import to_float, to_uint8


class CodecConfig(BaseModel):
    """Sizes of :class:`~vidvla.nn.codec.FrameCodec`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    patch: int = 16
    latent_channels: int = 48
    width: int = 32


class CodecStage:
    """Reconstruct frames from disturbed latents and another frame of the same scene.

    Args:
        data: recorded folders.
        shares: how likely a sample comes from each of them.
    """

    name = "codec"

    def __init__(self, config: CodecConfig, data: list[Path], shares: list[float]) -> None:
        self.config = config
        self.stores = [EpisodeStore(folder) for folder in data]
        self.shares = shares

    def build(self, own: Path | None = None) -> FrameCodec:
        codec = FrameCodec(**self.config.model_dump())
        if own is not None:
            checkpoint.load(own).fill(codec, "codec")
            return codec
        generator = torch.Generator().manual_seed(0)
        # crops at 16-pixel steps hold whole patches, so the base sees the same grid as in use
        codec.fit_basis(to_float(sample_crops(self.stores, self.shares, 4000, generator).frames))
        return codec

    def batch(self, size: int, generator: torch.Generator) -> FramePairs:
        return sample_crops(self.stores, self.shares, size, generator)

    def loss(self, model: nn.Module, batch: FramePairs, generator: torch.Generator) -> dict[str, Tensor]:
        frames, reference = to_float(batch.frames), to_float(batch.reference)
        side = frames.shape[-1] // self.config.patch
        shape = (len(frames), self.config.latent_channels, side, side)
        level = 0.25 * torch.rand((len(frames), 1, 1, 1), generator=generator)
        noise = (level * torch.randn(shape, generator=generator)).to(frames.device)
        decoded, mask, latents = model(frames, reference, noise)
        moved = ((frames - reference).abs().amax(dim=1, keepdim=True) > 0.06).float()
        weight = 1 + 4 * moved
        error = decoded - frames
        square = (weight * error.square()).mean()
        absolute = (weight * error.abs()).mean()
        painted = (mask * (1 - moved)).mean()  # paint only what moved
        loss = square + 0.1 * absolute + 0.003 * painted + 1e-4 * latents.square().mean()
        mse = (error.square() * moved).sum() / (3 * moved.sum() + 1)
        return {"loss": loss, "mse_moved": mse, "mse": error.square().mean()}

    def data_used(self) -> dict[str, int]:
        return {f"frames of {store.folder.name}": store.frame_count for store in self.stores}

    @torch.no_grad()
    def preview(self, model: nn.Module) -> NDArray[np.uint8]:
        pairs = sample_crops(self.stores, self.shares, 8, torch.Generator().manual_seed(1), crop=128)
        device = next(model.parameters()).device
        frames, reference = to_float(pairs.frames).to(device), to_float(pairs.reference).to(device)
        noise = torch.zeros(len(frames), self.config.latent_channels, 8, 8, device=device)
        decoded, mask, _ = model(frames, reference, noise)
        rows = [pairs.frames.numpy(), to_uint8(decoded), to_uint8(mask.expand(-1, 3, -1, -1) * 2 - 1)]
        return np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
