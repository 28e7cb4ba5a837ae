"""One task's episodes for World Models: single small frames for V, and sequences of their latents for M."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidvla.data.clips import EpisodeStore, StoredEpisode, draw
from vidvla.data.demos import ToUnit, shrink_pixels
from vidvla.nn.vae import ConvVAE, reparametrise
from vidvla.pixels import to_float
from vidvla.worlds.base import LARGEST_REWARD

ENCODED = 64
"""Frames encoded at once."""
FROM_START = 0.5
"""Share of sequences that begin with an episode, as every dream of a controller does."""


@dataclass(frozen=True)
class FrameBatch:
    """B frames of one task.

    Attributes:
        frames: (B, H, W, 3) uint8.
        first: (B, H, W, 3) uint8, how their episodes began.
    """

    frames: Tensor
    first: Tensor

    def to(self, device: torch.device | str) -> FrameBatch:
        return FrameBatch(self.frames.to(device), self.first.to(device))


class TaskFrames:
    """All episodes of one task, of every kind, in frames of ``size`` pixels a side.

    Raises:
        ValueError: where there is none, or ``size`` does not divide the recorded side.
    """

    def __init__(self, store: EpisodeStore, task: str, size: int) -> None:
        self.episodes = [e for e in store.episodes if e.entry.task == task]
        if not self.episodes:
            raise ValueError(f"expected episodes of {task} in {store.folder}, got none")
        side = self.episodes[0].frames.shape[1]
        if side % size:
            raise ValueError(f"expected frames recorded at a multiple of {size} pixels in {store.folder}, got {side}")
        self.shrink = side // size

    def small(self, episode: StoredEpisode, moments: slice) -> NDArray[np.uint8]:
        """Some of an episode's frames, averaged down: (N, H, W, 3)."""
        return shrink_pixels(np.asarray(episode.frames[moments]), self.shrink)

    def usual(self) -> NDArray[np.uint8]:
        """(H, W, 3): the mean of how episodes begin."""
        first = [self.small(e, slice(0, 1))[0] for e in self.episodes]
        return np.rint(np.mean(first, axis=0)).astype(np.uint8)

    def batch(self, size: int, generator: torch.Generator) -> FrameBatch:
        """``size`` frames, all episodes and then all their frames alike likely."""
        frames, first = [], []
        for _ in range(size):
            episode = self.episodes[draw(generator, len(self.episodes))]
            moment = draw(generator, len(episode.frames))
            frames.append(self.small(episode, slice(moment, moment + 1))[0])
            first.append(self.small(episode, slice(0, 1))[0])
        return FrameBatch(torch.from_numpy(np.stack(frames)), torch.from_numpy(np.stack(first)))


@dataclass(frozen=True)
class LatentBatch:
    """B sequences of T control steps.

    Attributes:
        latents: (B, T + 1, Z) sampled from V's posterior.
        actions: (B, T, A) unit scale.
        rewards: (B, T) in [0, 1]: the world's dense reward, by :data:`~vidvla.worlds.base.LARGEST_REWARD`.
        fulfilled: (B, T) 1.0 where the step fulfilled the task.
        mask: (B, T) bool, False after the episode's end.
    """

    latents: Tensor
    actions: Tensor
    rewards: Tensor
    fulfilled: Tensor
    mask: Tensor

    def to(self, device: torch.device | str) -> LatentBatch:
        return LatentBatch(**{name: value.to(device) for name, value in vars(self).items()})


class LatentEpisodes:
    """What V makes of every frame of one task, kept in memory, with actions and rewards.

    Args:
        frames: of the task.
        vae: on the CPU.
        to_unit: world actions to unit scale.
    """

    def __init__(self, frames: TaskFrames, vae: ConvVAE, to_unit: ToUnit) -> None:
        self.episodes = frames.episodes
        self.posteriors = [self._encode(frames, vae, e) for e in self.episodes]
        self.actions = [torch.from_numpy(to_unit(e.actions)) for e in self.episodes]

    @staticmethod
    @torch.no_grad()
    def _encode(frames: TaskFrames, vae: ConvVAE, episode: StoredEpisode) -> Tensor:
        """(2, T + 1, Z): mean and log variance."""
        parts = []
        for start in range(0, len(episode.frames), ENCODED):
            small = frames.small(episode, slice(start, start + ENCODED))
            parts.append(torch.stack(vae.encode(to_float(small))))
        return torch.cat(parts, dim=1)

    def starts(self) -> Tensor:
        """(N, Z): means of the frames that episodes begin with."""
        return torch.stack([p[0, 0] for p in self.posteriors])

    def batch(self, size: int, length: int, generator: torch.Generator) -> LatentBatch:
        """``size`` sequences of ``length`` control steps, drawn by ``generator`` alone."""
        rows = [self._sequence(length, generator) for _ in range(size)]
        return LatentBatch(*(torch.stack(column) for column in zip(*rows, strict=True)))

    def _sequence(self, length: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        index = draw(generator, len(self.episodes))
        episode, steps = self.episodes[index], self.episodes[index].entry.steps
        from_start = float(torch.rand((), generator=generator)) < FROM_START
        start = 0 if from_start else draw(generator, max(steps - length, 0) + 1)
        moments = torch.arange(start, start + length + 1)
        mean, logvar = self.posteriors[index][:, moments.clamp(max=steps)]
        latents = reparametrise(mean, logvar, torch.randn(mean.shape, generator=generator))
        last = moments[:-1].clamp(max=steps - 1)
        rewards = torch.from_numpy(episode.rewards)[last] / LARGEST_REWARD
        fulfilled = torch.from_numpy(episode.fulfilled)[last].float()
        return latents, self.actions[index][last], rewards, fulfilled, moments[:-1] < steps
