"""The two shared phases of pre-training, and what families need to fork from them."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from vidvla import checkpoint
from vidvla.actions import ActionScale
from vidvla.data.films import FilmBatch, FilmData, WindowSpec
from vidvla.families.base import SMALL, Context, Phase, read_config
from vidvla.foundation.backbone import FULL_NOISE, BackboneConfig, Scene, denoise, film_loss, flatten_time
from vidvla.foundation.codec import CodecConfig, CodecStage
from vidvla.foundation.familiar import Familiarity
from vidvla.nn.codec import FrameCodec
from vidvla.nn.video_dit import VideoActionDiT
from vidvla.pixels import to_float, to_uint8
from vidvla.train.loop import TrainConfig
from vidvla.worlds.metaworld import MetaWorld

WORLD = "metaworld"
CODEC, PHYSICS, FILM = "backbone.codec", "backbone.physics", "backbone.film"
"""Names of the shared phases."""


def unit_actions() -> ActionScale:
    """The scale of the robot world's actions."""
    return ActionScale.of(MetaWorld.action_spec)


def load_codec(folder: Path) -> FrameCodec:
    """A frozen codec from its checkpoint folder."""
    saved = checkpoint.load(folder)
    codec = FrameCodec(**CodecConfig(**saved.config["model"]).model_dump())
    saved.fill(codec, "codec")
    return codec.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def fill_film_net(net: VideoActionDiT, folder: Path, *later: str) -> None:
    """Fill a film net from a checkpoint folder; parts named so that the checkpoint has none of stay as they begin."""
    saved = checkpoint.load(folder)
    for part in (".heard.", *later):
        if not any(part in name for name in saved.tensors):
            saved.tensors.update({f"net.{n}": v for n, v in net.state_dict().items() if part in f"net.{n}"})
    saved.fill(net, "net")


def load_net(folder: Path, config: BackboneConfig, action_dim: int = 0) -> VideoActionDiT:
    """A film net from a checkpoint folder; a new action head where the checkpoint has none."""
    net = config.net(action_dim)
    fill_film_net(net, folder, "net.action_")
    return net


@functools.cache
def film_data(context: Context, world: str, limit: int | None = None) -> FilmData:
    """The recorded windows of ``world``, read once a process."""
    folder = context.weights(CODEC)
    scale = unit_actions().to_unit if world == WORLD else None
    return FilmData(context.data / world, load_codec(folder), checkpoint.fingerprint(folder), scale, limit)


class FilmStage:
    """Learn futures of one world's films, and, with an action head, the actions between their frames.

    Args:
        data: the windows, read when first needed.
        spec: how windows are cut.
        start: makes the net with the weights that the stage starts from, or with its own in the given folder.
        action_weight: lambda of L = L_film + lambda L_action; 0 trains the film alone.
        full_noise: share of samples at noise level 1, where actions are read.
    """

    def __init__(
        self,
        name: str,
        context: Context,
        data: Callable[[], FilmData],
        spec: WindowSpec,
        start: Callable[[Path | None], VideoActionDiT],
        action_weight: float = 0.0,
        full_noise: float = FULL_NOISE,
    ) -> None:
        self.name, self.context, self.spec, self.start = name, context, spec, start
        self.action_weight, self.full_noise = action_weight, full_noise
        self._data = data

    @functools.cached_property
    def data(self) -> FilmData:
        return self._data()

    def build(self, own: Path | None = None) -> nn.Module:
        return JointNet(self.start(own), self.action_weight, self.full_noise)

    def cut(self, size: int, spec: WindowSpec, generator: torch.Generator) -> FilmBatch:
        """``size`` windows cut as ``spec`` says."""
        return self.data.batch(size, spec, generator)

    def batch(self, size: int, generator: torch.Generator) -> FilmBatch:
        return self.cut(size, self.spec, generator)

    def loss(self, model: nn.Module, batch: FilmBatch, generator: torch.Generator) -> dict[str, Tensor]:
        values: dict[str, Tensor] = model(batch, generator)
        return values

    def data_used(self) -> dict[str, int]:
        return {f"episodes of {self.data.store.folder.name}": len(self.data.episodes)}

    @torch.no_grad()
    def preview(self, model: nn.Module) -> NDArray[np.uint8]:
        assert isinstance(model, JointNet)
        batch = self.cut(6, WindowSpec(self.spec.frames, self.spec.stride, 0.0, 0.0), _generator(7))
        device = next(model.parameters()).device
        batch = batch.to(device)
        codec = load_codec(self.context.weights(CODEC)).to(device)
        scene = Scene(to_float(batch.pixels), batch.first, batch.text)
        *_, last = denoise(model.net, scene, batch.times, steps=2, generator=_generator(8))
        count = batch.future.shape[1]
        pixels = scene.pixels.repeat_interleave(count, dim=0)
        first = batch.first.repeat_interleave(count, dim=0)
        rows = []
        for films in (batch.future, last.clean):
            frames, _ = codec.decode(flatten_time(films), pixels, first)
            rows.append(to_uint8(frames).reshape(len(films), count, *batch.pixels.shape[1:]))
        start = batch.pixels.cpu().numpy()
        lines = []
        for i in range(len(start)):
            for row in rows:
                lines.append(np.concatenate([start[i], *row[i]], axis=1))
        return np.concatenate(lines, axis=0)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class JointNet(nn.Module):
    """A film net with its loss as ``forward``, so that every parallel wrapper of Accelerate sees one call."""

    def __init__(self, net: VideoActionDiT, action_weight: float, full_noise: float) -> None:
        super().__init__()
        self.net = net
        self.action_weight, self.full_noise = action_weight, full_noise

    def forward(self, batch: FilmBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Losses of a batch; see :func:`vidvla.foundation.backbone.film_loss`."""
        values, hidden = film_loss(self.net, batch, generator, self.full_noise)
        values["loss"] = values["film"]
        if self.action_weight:
            error = (self.net.act(hidden) - batch.actions).abs().mean(dim=-1)  # (B, K, S)
            values["action"] = (error * batch.action_mask).sum() / batch.action_mask.sum().clamp(min=1)
            values["loss"] = values["loss"] + self.action_weight * values["action"]
        return values


class ActionConfig(BaseModel, ABC):
    """Sizes of a net that finds actions beside a film net; defaults are those that tests use."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @abstractmethod
    def net(self, sizes: BackboneConfig, action_dim: int) -> nn.Module:
        """A fresh net of actions with ``action_dim`` axes, beside a film net of ``sizes``."""


class ActionStage:
    """Learn a net of actions on the robot world's films; how it is asked, and what it loses, is the subclass's own.

    Args:
        config: sizes of the net.
    """

    def __init__(self, name: str, context: Context, config: ActionConfig) -> None:
        self.name, self.context, self.config = name, context, config

    @functools.cached_property
    def data(self) -> FilmData:
        return film_data(self.context, WORLD)

    def build(self, own: Path | None = None) -> nn.Module:
        net = self.config.net(backbone_config(self.context.size), len(unit_actions().low))
        if own is not None:
            checkpoint.load(own).fill(net, "net")
        return net

    def data_used(self) -> dict[str, int]:
        return {f"episodes of {WORLD}": len(self.data.episodes)}

    def preview(self, model: nn.Module) -> None:
        return None


def backbone_config(size: str = SMALL) -> BackboneConfig:
    """The film net's sizes."""
    return BackboneConfig(**read_config("backbone", size)["model"])


def backbone_phases(size: str = SMALL) -> list[Phase]:
    """Codec, phase 1 (clips without a robot), phase 2 (robot film without actions)."""
    config = read_config("backbone", size)
    model = backbone_config(size)
    film = WindowSpec(model.frames, model.stride, **config["windows"])
    physics = WindowSpec(model.frames, model.stride, 0.0, film.drop_text)

    def codec(context: Context) -> CodecStage:
        worlds = [context.data / WORLD, context.data / "physics"]
        return CodecStage(CodecConfig(**config["codec"]), worlds, config["codec_shares"])

    return [
        Phase(CODEC, codec, TrainConfig(**config["train"]["codec"])),
        Phase(
            PHYSICS,
            lambda c: FilmStage(
                PHYSICS,
                c,
                lambda: film_data(c, "physics"),
                physics,
                lambda own: model.net() if own is None else load_net(own, model),
            ),
            TrainConfig(**config["train"]["physics"]),
            (CODEC,),
        ),
        Phase(
            FILM,
            lambda c: FilmStage(
                FILM, c, lambda: film_data(c, WORLD), film, lambda own: load_net(own or c.weights(PHYSICS), model)
            ),
            TrainConfig(**config["train"]["film"]),
            (CODEC, PHYSICS),
        ),
    ]


def publish_codec(context: Context) -> None:
    """Ship the codec that all film families decode with, and what frames it has seen look like."""
    folder = context.weights(CODEC)
    codec = load_codec(folder)
    data = film_data(context, WORLD)
    latents = np.concatenate([data.latents[episode][::17] for episode in data.episodes])
    familiar = Familiarity.fit(codec, torch.from_numpy(latents.astype(np.float32)))
    config = checkpoint.load(folder).config | {"familiar": {"limit": familiar.limit}}
    checkpoint.save(context.checkpoints / "codec", {"codec": codec, "familiar": familiar.tensors()}, config)
