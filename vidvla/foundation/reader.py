"""What a picture of the robot world tells: the robot's pose, where things are, and whether the task is fulfilled.

A yardstick for dreams, and what tells them how the robot and the scene's things stand in the true frame that they begin
with. It learns from true frames alone, and is no part of any policy.
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
from vidvla.foundation.pose import KINDS, POSE, Seen, metres, unit_links, unit_pose, unit_things
from vidvla.nn.sight import Sight
from vidvla.nn.touch import FIRST, GOAL, SECOND, THINGS, TURN
from vidvla.pixels import to_float
from vidvla.train.loop import TrainConfig
from vidvla.worlds.base import Frame

READER = "reader"
"""The phase, and the folder of its published checkpoint."""


class ReaderConfig(BaseModel):
    """Sizes of the net; ``tasks`` are those that it can tell apart, and whether they are fulfilled."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int = 128
    width: int = 8
    tasks: tuple[str, ...] = KINDS


class ReaderNet(nn.Module):
    """Heads on what is seen: the robot's pose, where things are, and of each task whether it is it and fulfilled."""

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        self.sight = Sight(config.width)
        size, overview, tasks = self.sight.size, self.sight.overview, len(config.tasks)
        self.pose = nn.Sequential(nn.Linear(size, 128), nn.SiLU(), nn.Linear(128, POSE))
        self.things = nn.Sequential(nn.Linear(size, 128), nn.SiLU(), nn.Linear(128, THINGS))
        self.kind = nn.Sequential(nn.Linear(overview, 64), nn.SiLU(), nn.Linear(64, tasks))
        self.told = nn.Sequential(nn.Linear(overview, 64), nn.SiLU(), nn.Linear(64, tasks))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """pixels (B, 3, H, W) in [-1, 1] -> the pose (B, POSE) and things (B, THINGS), unit scale, logits (B, tasks) of
        the task and of its being fulfilled."""
        seen = self.sight(pixels)
        # eight bits of a keypoint's place in bf16 would be half a pixel
        with torch.autocast(pixels.device.type, enabled=False):
            seen = seen.float()
            overview = seen[:, -self.sight.overview :]
            return self.pose(seen), self.things(seen), self.kind(overview), self.told(overview)


@dataclass(frozen=True)
class ReaderBatch:
    """B frames: ``frames`` (B, H, W, 3) uint8, ``poses`` (B, POSE) metres, then radians and metres, ``things`` (B,
    THING_COUNT) as the world has them, ``task`` (B,) index, ``fulfilled`` (B,)."""

    frames: Tensor
    poses: Tensor
    things: Tensor
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
        frames, poses, things, tasks, fulfilled = zip(*rows, strict=True)
        seen, stood, lay = (torch.from_numpy(np.stack(values)) for values in (frames, poses, things))
        return ReaderBatch(seen, stood, lay, torch.tensor(tasks), torch.tensor(fulfilled))

    def _sample(
        self, episode: StoredEpisode, generator: torch.Generator
    ) -> tuple[Frame, NDArray[np.float32], NDArray[np.float32], int, float]:
        after = np.flatnonzero(episode.fulfilled) + 1  # the frame that a step ends with shows what it did
        moment = draw(generator, len(episode.frames))
        if len(after) and float(torch.rand((), generator=generator)) < self.fulfilled:
            moment = int(after[draw(generator, len(after))])
        done = moment > 0 and bool(episode.fulfilled[moment - 1])
        task = self.config.tasks.index(episode.entry.task)
        pose = np.append(episode.hands[moment], episode.joints[moment])
        return np.asarray(episode.frames[moment]), pose, episode.things[moment], task, float(done)

    def loss(self, model: nn.Module, batch: ReaderBatch, generator: torch.Generator) -> dict[str, Tensor]:
        pose, things, kinds, logits = model(to_float(batch.frames))
        true = unit_pose(batch.poses)
        missed, where = pose - true, things - unit_things(batch.things)
        distance, joints = missed[:, :3].norm(dim=1).mean(), missed[:, 3:].abs().mean()
        # the links that are seen say where a hand beyond the picture's edge is
        links = (unit_links(pose) - unit_links(true)).norm(dim=2).mean()
        first, second, goal = (where[:, part].norm(dim=1).mean() for part in (FIRST, SECOND, GOAL))
        turn = where[:, TURN].abs().mean()
        kind = F.cross_entropy(kinds, batch.task)
        told = F.binary_cross_entropy_with_logits(logits.gather(1, batch.task[:, None])[:, 0], batch.fulfilled)
        loss = distance + joints + links + first + second + goal + turn + told + kind
        return {
            "loss": loss, "hand_cm": 10 * distance, "links_cm": 10 * links, "joints": joints,
            "thing_cm": 10 * first, "turn": turn, "goal_cm": 10 * goal, "kind": kind, "fulfilled": told,
        }  # fmt: skip

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
    def fresh(cls) -> Reader:
        """One that has learned nothing, for tests."""
        config = ReaderConfig()
        return cls(ReaderNet(config).eval(), config)

    @torch.no_grad()
    def hands(self, frames: Frame) -> NDArray[np.float32]:
        """(N, H, W, 3) -> where the hand is, (N, 3) metres."""
        return self.places(frames)[:, 0]

    @torch.no_grad()
    def places(self, frames: Frame) -> NDArray[np.float32]:
        """(N, H, W, 3) -> where the hand and the scene's first thing are, (N, 2, 3) metres."""
        seen = self.see(frames)
        return metres(torch.stack([seen.poses[:, :3], seen.things[:, FIRST]], dim=1))

    @torch.no_grad()
    def see(self, frames: Frame) -> Seen:
        """(N, H, W, 3) -> how the robot and things stand, and which scene it is."""
        pose, things, kinds, _ = self._read(frames)
        return Seen(pose, things, kinds.softmax(dim=1))

    @torch.no_grad()
    def fulfilled(self, frames: Frame, task: str) -> NDArray[np.float32]:
        """(N, H, W, 3) -> how likely each frame shows ``task`` fulfilled, (N,) in [0, 1]."""
        if task not in self.config.tasks:
            raise ValueError(f"expected a task among {', '.join(self.config.tasks)}; got {task!r}")
        *_, logits = self._read(frames)
        likely: NDArray[np.float32] = logits[:, self.config.tasks.index(task)].sigmoid().numpy()
        return likely

    def judge(self, frame: Frame, task: str) -> float:
        """What a dream asks: :data:`vidvla.worlds.dream.Judge`."""
        return float(self.fulfilled(frame[None], task)[0])

    def _read(self, frames: Frame) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        size = self.config.size
        read: tuple[Tensor, Tensor, Tensor, Tensor]
        read = self.net(to_float(np.stack([fit_square(frame, size) for frame in frames])))
        return read


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
