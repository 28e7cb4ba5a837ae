"""What can be told from a picture of the robot world: the robot's pose, and whether the task is fulfilled.

A yardstick for dreams, and what tells them how the robot stands in the true frame that they begin with. It learns from
true frames alone, and is no part of any policy.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from vidvla import checkpoint
from vidvla.data.clips import EpisodeStore, StoredEpisode, draw
from vidvla.families.base import Context, Phase, fit_square, read_config
from vidvla.foundation.pose import POSE, metres, unit_pose
from vidvla.nn.sight import Sight
from vidvla.pixels import to_float
from vidvla.train.loop import TrainConfig
from vidvla.worlds.base import Frame

READER = "reader"
"""The phase, and the folder of its published checkpoint."""


class ReaderConfig(BaseModel):
    """Sizes of the net; ``tasks`` are those whose fulfilment it can tell."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int = 128
    width: int = 8
    tasks: tuple[str, ...] = ()


class ReaderNet(nn.Module):
    """Two heads on what is seen: the robot's pose and a logit a task."""

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        self.sight = Sight(config.width)
        self.pose = nn.Sequential(nn.Linear(self.sight.size, 128), nn.SiLU(), nn.Linear(128, POSE))
        self.told = nn.Sequential(nn.Linear(self.sight.overview, 64), nn.SiLU(), nn.Linear(64, len(config.tasks)))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """pixels (B, 3, H, W) in [-1, 1] -> the pose (B, POSE) in unit scale, logits (B, tasks)."""
        _, seen = self.sight(pixels)
        return self.pose(seen), self.told(seen[:, -self.sight.overview :])


@dataclass(frozen=True)
class ReaderBatch:
    """B frames: ``frames`` (B, H, W, 3) uint8, ``poses`` (B, POSE) metres, then radians and metres, ``task`` (B,)
    index, ``fulfilled`` (B,)."""

    frames: Tensor
    poses: Tensor
    task: Tensor
    fulfilled: Tensor

    def to(self, device: torch.device | str) -> ReaderBatch:
        return ReaderBatch(**{name: value.to(device) for name, value in vars(self).items()})


class ReaderStage:
    """Learn to read frames of recorded episodes of every kind.

    Args:
        fulfilled: share of samples that show a fulfilled task, where the drawn episode has such a frame.
    """

    name = READER

    def __init__(self, folder: Path, config: ReaderConfig, fulfilled: float) -> None:
        self.folder, self.config, self.fulfilled = folder, config, fulfilled

    @functools.cached_property
    def store(self) -> EpisodeStore:
        return EpisodeStore(self.folder)

    def build(self, own: Path | None = None) -> nn.Module:
        net = ReaderNet(self.config)
        if own is not None:
            checkpoint.load(own).fill(net, "net")
        return net

    def batch(self, size: int, generator: torch.Generator) -> ReaderBatch:
        rows = [self._sample(self.store.pick(generator), generator) for _ in range(size)]
        frames, poses, tasks, fulfilled = zip(*rows, strict=True)
        return ReaderBatch(
            torch.from_numpy(np.stack(frames)), torch.from_numpy(np.stack(poses)), torch.tensor(tasks),
            torch.tensor(fulfilled),
        )  # fmt: skip

    def _sample(
        self, episode: StoredEpisode, generator: torch.Generator
    ) -> tuple[Frame, NDArray[np.float32], int, float]:
        after = np.flatnonzero(episode.fulfilled) + 1  # the frame that a step ends with shows what it did
        moment = draw(generator, len(episode.frames))
        if len(after) and float(torch.rand((), generator=generator)) < self.fulfilled:
            moment = int(after[draw(generator, len(after))])
        done = moment > 0 and bool(episode.fulfilled[moment - 1])
        task = self.config.tasks.index(episode.entry.task)
        pose = np.append(episode.hands[moment], episode.joints[moment])
        return np.asarray(episode.frames[moment]), pose, task, float(done)

    def loss(self, model: nn.Module, batch: ReaderBatch, generator: torch.Generator) -> dict[str, Tensor]:
        pose, logits = model(to_float(batch.frames))
        missed = pose - unit_pose(batch.poses)
        distance, joints = missed[:, :3].norm(dim=1), missed[:, 3:].abs().mean()
        told = F.binary_cross_entropy_with_logits(logits.gather(1, batch.task[:, None])[:, 0], batch.fulfilled)
        loss = distance.mean() + joints + told
        return {"loss": loss, "hand_cm": 10 * distance.mean(), "joints": joints, "fulfilled": told}

    def data_used(self) -> dict[str, int]:
        return {f"episodes of {self.folder.name}": len(self.store.episodes)}

    def preview(self, model: nn.Module) -> None:
        return None


@dataclass(frozen=True)
class Reader:
    """A trained reader."""

    net: ReaderNet
    config: ReaderConfig

    @classmethod
    def load(cls, checkpoints: Path) -> Reader:
        """The published one, from the folder of published checkpoints."""
        saved = checkpoint.load(checkpoints / READER)
        config = ReaderConfig(**saved.config["model"])
        net = ReaderNet(config)
        saved.fill(net, "net")
        return cls(net.eval(), config)

    @classmethod
    def fresh(cls, tasks: tuple[str, ...] = ("any",)) -> Reader:
        """One that has learned nothing, for tests."""
        config = ReaderConfig(tasks=tasks)
        return cls(ReaderNet(config).eval(), config)

    @torch.no_grad()
    def hands(self, frames: Frame) -> NDArray[np.float32]:
        """(N, H, W, 3) -> where the hand is, (N, 3) metres."""
        return metres(self.poses(frames)[:, :3])

    @torch.no_grad()
    def poses(self, frames: Frame) -> Tensor:
        """(N, H, W, 3) -> the robot's poses, (N, POSE) in unit scale."""
        return self._read(frames)[0]

    @torch.no_grad()
    def fulfilled(self, frames: Frame, task: str) -> NDArray[np.float32]:
        """(N, H, W, 3) -> how likely each frame shows ``task`` fulfilled, (N,) in [0, 1]."""
        if task not in self.config.tasks:
            raise ValueError(f"expected a task among {', '.join(self.config.tasks)}; got {task!r}")
        _, logits = self._read(frames)
        likely: NDArray[np.float32] = logits[:, self.config.tasks.index(task)].sigmoid().numpy()
        return likely

    def judge(self, frame: Frame, task: str) -> float:
        """What a dream asks: :data:`vidvla.worlds.dream.Judge`."""
        return float(self.fulfilled(frame[None], task)[0])

    def _read(self, frames: Frame) -> tuple[Tensor, Tensor]:
        size = self.config.size
        pixels = to_float(np.stack([fit_square(frame, size) for frame in frames]))
        pose, logits = self.net(pixels)
        return pose, logits


def reader_phase(size: str, world: str, tasks: tuple[str, ...]) -> Phase:
    """The phase that trains the reader on episodes of ``world``."""
    config = read_config(READER, size)
    sizes = ReaderConfig(**config["model"], tasks=tasks)

    def stage(context: Context) -> ReaderStage:
        return ReaderStage(context.data / world, sizes, config["fulfilled"])

    return Phase(READER, stage, TrainConfig(**config["train"]))


def publish_reader(context: Context) -> None:
    """Write the reader among the published checkpoints, with the record of its training."""
    final = context.weights(READER)
    saved = checkpoint.load(final)
    net = ReaderNet(ReaderConfig(**saved.config["model"]))
    saved.fill(net, "net")
    config = {"model": saved.config["model"], "trained": [saved.config]}
    checkpoint.save(context.checkpoints / READER, {"net": net}, config)
