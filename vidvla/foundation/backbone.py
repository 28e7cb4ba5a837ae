"""The film model that families fork: its loss, its sampler, and its two phases of pre-training.

Flow matching (Lipman et al. 2023, arXiv 2210.02747) on codec latents: a noisy future z_s = (1 - s) z + s n, the
net predicts the clean future as a change of the first frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from einops import rearrange
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from vidvla.data.films import FilmBatch
from vidvla.nn.video_dit import Hidden, VideoActionDiT
from vidvla.pixels import to_float
from vidvla.text import TEXT_DIM, TextTokens

TRAIN_TIMESTEPS = 1000
"""Noise level 1 in the units that the net and diffusers' schedulers share."""
FULL_NOISE = 0.5
"""Share of training samples at noise level 1."""
SMALLEST_LEVEL = 0.05
"""The loss weighs no level more than this one."""
CHANGE_DEVIATION = 0.9
"""Standard deviation of the latents' change from a film's first frame to a later one, measured on robot films."""


class BackboneConfig(BaseModel):
    """Sizes of the film net; defaults are those that tests use.

    Attributes:
        grid: latents a side of a frame.
        latent_channels: numbers a latent.
        frames: future frames a film.
        stride: control steps between a film's frames; divides ``frames``, so that as many frames one step apart
            begin and end at frames of a film.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    grid: int = Field(default=8, gt=0)
    latent_channels: int = Field(default=48, gt=0)
    frames: int = Field(default=4, gt=0)
    stride: int = Field(default=4, gt=0)
    d_model: int = Field(default=32, gt=0)
    n_heads: int = Field(default=2, gt=0)
    n_layers: int = Field(default=1, gt=0)
    fine_dim: int = Field(default=32, gt=0)
    fine_layers: int = Field(default=1, ge=0)

    @model_validator(mode="after")
    def _fills_in(self) -> BackboneConfig:
        if self.frames % self.stride:
            raise ValueError(f"expected frames to be a multiple of stride, got {self.frames} and {self.stride}")
        return self

    def net(self, action_dim: int = 0) -> VideoActionDiT:
        """The film net, with an action head for ``action_dim`` axes where that is not 0."""
        return VideoActionDiT(
            self.grid, 1, self.frames, self.d_model, self.n_heads, self.n_layers, TEXT_DIM, action_dim,
            channels=self.latent_channels, fine_dim=self.fine_dim, fine_layers=self.fine_layers,
            action_chunk=self.stride, action_tokens=True, pixel_stem=True,
        )  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """What a film starts from.

    Attributes:
        pixels: (B, 3, H, W) in [-1, 1].
        latents: (B, C, h, w) of the same frame.
        text: instruction tokens.
    """

    pixels: Tensor
    latents: Tensor
    text: TextTokens


def precondition(level: Tensor) -> tuple[Tensor, Tensor]:
    """(skip, out) of a level in [0, 1]: clean = first + skip (noisy - (1 - level) first) + out * net.

    The exact posterior mean and deviation where a change of the first frame is Gaussian (Karras et al. 2022, arXiv
    2206.00364, table 1, for this flow): what noise leaves visible passes by the net, which predicts unit-scale rest.
    """
    signal = (1 - level) * CHANGE_DEVIATION
    total = signal.square() + level.square()
    return signal * CHANGE_DEVIATION / total, level * CHANGE_DEVIATION / total.sqrt()


def predict_clean(
    net: VideoActionDiT, scene: Scene, noisy: Tensor, level: Tensor, times: Tensor
) -> tuple[Tensor, Hidden]:
    """The net's guess of the clean futures (B, K, C, h, w) from noisy ones at ``level`` (B, K) in [0, 1]."""
    hidden, cond = net.hidden(
        scene.latents, noisy, level * TRAIN_TIMESTEPS, scene.text.tokens,
        lang_mask=scene.text.mask, times=times, pixels=scene.pixels,
    )  # fmt: skip
    first, shape = scene.latents[:, None], (*level.shape, 1, 1, 1)
    skip, out = (value.view(shape) for value in precondition(level))
    rest = net.unpatchify(net.film(hidden, cond))
    return first + skip * (noisy - (1 - level.view(shape)) * first) + out * rest, hidden


def noise_levels(batch: int, full: float, generator: torch.Generator) -> Tensor:
    """(B,) in (0, 1]: the share ``full`` at 1, where one-step films and actions are read, the rest logit-normal."""
    level = torch.sigmoid(0.5 + torch.randn(batch, generator=generator))
    return torch.where(torch.rand(batch, generator=generator) < full, torch.ones(batch), level)


def film_loss(
    net: VideoActionDiT, batch: FilmBatch, generator: torch.Generator, full_noise: float = FULL_NOISE
) -> tuple[dict[str, Tensor], Hidden]:
    """Flow-matching loss of the futures that are not given, and the hidden states for other heads.

    Returns:
        ``film`` (what to minimise) and ``mean_film`` (plain latent error at full noise), and the hidden states.
    """
    device = batch.first.device
    level = noise_levels(len(batch.first), full_noise, generator).to(device)
    noise = torch.randn(batch.future.shape, generator=generator).to(device)
    levels = level[:, None] * (~batch.known)
    mix = levels[:, :, None, None, None]
    scene = Scene(to_float(batch.pixels), batch.first, batch.text)
    clean, hidden = predict_clean(net, scene, (1 - mix) * batch.future + mix * noise, levels, batch.times)
    error = (clean - batch.future).square().mean(dim=2)  # (B, K, h, w)
    moved = ((batch.future - batch.first[:, None]).abs().mean(dim=2) > 0.15).float()
    asked = (~batch.known).float()[:, :, None, None]
    _, out = precondition(level.clamp(min=SMALLEST_LEVEL))
    weight = asked * (1 + 2 * moved) / out.square()[:, None, None, None]  # the net's unit-scale error
    full = ((level == 1).float()[:, None, None, None] * asked).expand_as(error)
    return {
        "film": (weight * error).mean(),
        "mean_film": (error * full).sum() / full.sum().clamp(min=1),
    }, hidden


@dataclass(frozen=True)
class FilmStep:
    """One denoising step: the guess of the clean futures (B, K, C, h, w), and the hidden states behind it."""

    step: int
    clean: Tensor
    hidden: Hidden


def denoise(
    net: VideoActionDiT,
    scene: Scene,
    times: Tensor,
    *,
    steps: int,
    guidance: float = 1.0,
    image_guidance: float = 1.0,
    generator: torch.Generator,
    known: Tensor | None = None,
    given: Tensor | None = None,
) -> Iterator[FilmStep]:
    """Euler steps of the flow from noise to film (diffusers' FlowMatchEulerDiscreteScheduler), one at a time.

    Args:
        times: (B, K) control steps from the first frame.
        steps: number of network calls (twice that with guidance, three times with guidance by the first frame).
        guidance: classifier-free guidance weight (Ho and Salimans 2022); 1 asks the net once a step.
        image_guidance: the same for the first frame (InstructPix2Pix, arXiv 2211.09800), for nets that have learned
            without it.
        known: (B, K) bool, futures that are given in ``given`` (B, K, C, h, w) and kept.
    """
    if steps < 1:
        raise ValueError(f"expected at least 1 denoising step, got {steps}")
    batch, frames = times.shape
    shape = (batch, frames, *scene.latents.shape[1:])
    sample = torch.randn(shape, generator=generator).to(scene.latents.device)
    free = torch.ones_like(times, dtype=torch.bool) if known is None else ~known
    select = free[:, :, None, None, None]
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=TRAIN_TIMESTEPS, shift=2.0)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1.0 / steps, steps), device=sample.device)
    silence = TextTokens(scene.text.tokens, torch.zeros_like(scene.text.mask))
    silent = Scene(scene.pixels, scene.latents, silence)
    blind = Scene(torch.zeros_like(scene.pixels), torch.zeros_like(scene.latents), silence)
    for index, timestep in enumerate(scheduler.timesteps):
        if given is not None:
            sample = torch.where(select, sample, given)
        sigma = scheduler.sigmas[index]
        # the instructed call comes last: a trace of attention shows the last one
        asked = [silent] * (guidance != 1 or image_guidance != 1) + [blind] * (image_guidance != 1)
        plain = [predict_clean(net, other, sample, sigma * free, times)[0] for other in asked]
        clean, hidden = predict_clean(net, scene, sample, sigma * free, times)
        if plain:
            clean = plain[0] + guidance * (clean - plain[0])
        if image_guidance != 1:
            clean = clean + (image_guidance - 1) * (plain[0] - plain[1])
        yield FilmStep(index, clean if given is None else torch.where(select, clean, given), hidden)
        sample = scheduler.step((sample - clean) / sigma, timestep, sample, return_dict=False)[0]


def flatten_time(films: Tensor) -> Tensor:
    """(B, K, C, h, w) -> (B * K, C, h, w)."""
    return rearrange(films, "b k c h w -> (b k) c h w")
