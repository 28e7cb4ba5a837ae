"""Measured, not guessed: how far a frame is from the pictures that the models were trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from vidvla import checkpoint
from vidvla.families.base import fit_square
from vidvla.foundation.codec import CodecConfig
from vidvla.nn.codec import FrameCodec
from vidvla.pixels import to_float
from vidvla.worlds.base import Frame

QUANTILE = 0.999
"""Share of training frames that count as familiar."""
COMPONENTS = 8
"""Leading latent channels that are compared: the coarse look of each place."""


def distance(latents: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """(B, C, h, w) -> (B,): root mean square of standard scores, place by place."""
    scores = (latents[:, :COMPONENTS] - mean) / deviation
    return scores.square().mean(dim=(1, 2, 3)).sqrt()


@dataclass(frozen=True)
class Familiarity:
    """Mean and deviation of the leading latents at each place of training frames, and the largest usual distance.

    Attributes:
        mean: (C, h, w).
        deviation: (C, h, w).
        limit: the distance that 99.9 % of training frames stay below.
    """

    codec: FrameCodec
    mean: Tensor
    deviation: Tensor
    limit: float

    @classmethod
    def fit(cls, codec: FrameCodec, latents: Tensor) -> Familiarity:
        """From latents (N, C, h, w) of training frames."""
        leading = latents[:, :COMPONENTS].float()
        mean, deviation = leading.mean(dim=0), leading.std(dim=0) + 0.1
        limit = float(torch.quantile(distance(leading, mean, deviation), QUANTILE))
        return cls(codec, mean, deviation, limit)

    @classmethod
    def load(cls, folder: Path) -> Familiarity | None:
        """From the published codec; None where its checkpoint says nothing of training frames."""
        saved = checkpoint.load(folder)
        if "familiar" not in saved.config:
            return None
        codec = FrameCodec(**CodecConfig(**saved.config["model"]).model_dump())
        saved.fill(codec, "codec")
        part = saved.part("familiar")
        return cls(codec.eval(), part["mean"], part["deviation"], saved.config["familiar"]["limit"])

    def tensors(self) -> nn.Module:
        """Mean and deviation as a module, for a checkpoint."""
        module = nn.Module()
        module.register_buffer("mean", self.mean)
        module.register_buffer("deviation", self.deviation)
        return module

    def measure(self, frame: Frame) -> float:
        """The distance of one frame as a multiple of the limit; above 1 is out of the training distribution."""
        size = self.mean.shape[-1] * self.codec.patch
        with torch.no_grad():
            latents = self.codec.encode(to_float(fit_square(frame, size))[None])
        return float(distance(latents, self.mean, self.deviation)[0]) / self.limit

    def note(self, frame: Frame) -> str | None:
        """A sentence for frames out of the training distribution, otherwise None."""
        found = self.measure(frame)
        if found <= 1:
            return None
        return (
            f"This frame is out of the models' training distribution (distance {found:.1f} times that of "
            "99.9 % of the simulator frames they learned from): expect a poor film and meaningless actions."
        )
