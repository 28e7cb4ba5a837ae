"""UniPi-style: a film planned from text and first frame, coarse then filled in, and inverse dynamics on it."""

from __future__ import annotations

import functools
from contextlib import nullcontext
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from vidvla import checkpoint
from vidvla.actions import ActionScale
from vidvla.data.clips import EpisodeStore
from vidvla.data.pairs import PairBatch, pair_batch
from vidvla.families.base import SMALL, Clock, Context, Family, Phase, read_config
from vidvla.foundation.backbone import BackboneConfig, Scene, denoise
from vidvla.foundation.film import FilmModel
from vidvla.foundation.stages import (
    CODEC,
    FILM,
    PHYSICS,
    WORLD,
    backbone_config,
    backbone_phases,
    load_codec,
    load_net,
    publish_codec,
    unit_actions,
)
from vidvla.nn.attention import capture_attention
from vidvla.nn.codec import FrameCodec
from vidvla.nn.predictor import InverseDynamics
from vidvla.pixels import to_float, to_uint8
from vidvla.text import TextTokens
from vidvla.train.loop import TrainConfig
from vidvla.types import ProgressCallback, Request, Rollout
from vidvla.worlds.base import Frame

INVERSE = "unipi.inverse"


class InverseConfig(BaseModel):
    """Sizes of the inverse-dynamics net."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hidden: int = 64
    base: int = 8

    def net(self, action_dim: int) -> InverseDynamics:
        return InverseDynamics(3, action_dim, self.hidden, base=self.base)


class InverseStage:
    """Learn the action between two neighbouring frames, half of them as the codec would show them."""

    name = INVERSE

    def __init__(self, context: Context, config: InverseConfig) -> None:
        self.context, self.config = context, config

    @functools.cached_property
    def store(self) -> EpisodeStore:
        return EpisodeStore(self.context.data / WORLD)

    @functools.cached_property
    def codec(self) -> FrameCodec:
        return load_codec(self.context.weights(CODEC))

    def build(self) -> nn.Module:
        return self.config.net(len(unit_actions().low))

    def batch(self, size: int, generator: torch.Generator) -> PairBatch:
        return pair_batch(self.store, size, generator, unit_actions().to_unit)

    def loss(self, model: nn.Module, batch: PairBatch, generator: torch.Generator) -> dict[str, Tensor]:
        before, after = to_float(batch.before), to_float(batch.after)
        half = len(before) // 2
        shown = self._as_decoded(torch.cat([before[:half], after[:half]]), batch.reference[:half], generator)
        before = torch.cat([shown[:half], before[half:]])
        after = torch.cat([shown[half:], after[half:]])
        error = (model(before, after) - batch.actions).abs()
        return {"loss": error.mean(), "move": error[:, :3].mean(), "gripper": error[:, 3].mean()}

    @torch.no_grad()
    def _as_decoded(self, frames: Tensor, reference: Tensor, generator: torch.Generator) -> Tensor:
        codec = self.codec.to(frames.device)
        seen = to_float(reference)
        known = codec.encode(seen)
        latents = codec.encode(frames)
        noise = 0.1 * torch.randn(latents.shape, generator=generator).to(frames.device)
        decoded, _ = codec.decode(latents + noise, torch.cat([seen, seen]), torch.cat([known, known]))
        return decoded

    def data_used(self) -> dict[str, int]:
        return {f"transitions of {WORLD}": self.store.frame_count - len(self.store.episodes)}

    def preview(self, model: nn.Module) -> None:
        return None


class UniPi(Family):
    """A video plan is the policy: key frames, the frames between them, the actions between those."""

    name: ClassVar[str] = "unipi"
    title: ClassVar[str] = "UniPi style"
    order: ClassVar[int] = 20
    source: ClassVar[str] = "Du et al. 2023, arXiv 2302.00111"
    summary: ClassVar[str] = "Plans key frames, fills in the frames between, reads actions by inverse dynamics."
    films: ClassVar[bool] = True
    acts: ClassVar[bool] = True
    attends: ClassVar[bool] = True
    inverts: ClassVar[bool] = True
    published: ClassVar[dict[str, str]] = {"net": FILM, "inverse": INVERSE}

    def __init__(self, model: FilmModel, inverse: InverseDynamics, scale: ActionScale) -> None:
        self.model, self.inverse, self.scale = model, inverse, scale

    @classmethod
    def phases(cls, size: str = SMALL) -> list[Phase]:
        config = read_config(cls.name, size)
        sizes = InverseConfig(**config["inverse"])
        inverse = Phase(INVERSE, lambda c: InverseStage(c, sizes), TrainConfig(**config["train"]["inverse"]))
        return [*backbone_phases(size), inverse]

    @classmethod
    def publish(cls, context: Context) -> None:
        scale, sizes = unit_actions(), InverseConfig(**read_config(cls.name, context.size)["inverse"])
        inverse = sizes.net(len(scale.low))
        checkpoint.load(context.weights(INVERSE)).fill(inverse, "net")
        config = context.description(
            cls.name, WORLD, [CODEC, PHYSICS, FILM, INVERSE],
            model=backbone_config(context.size).model_dump(), inverse=sizes.model_dump(), actions=scale.saved(),
        )  # fmt: skip
        nets = {"net": load_net(context.weights(FILM), backbone_config(context.size)), "inverse": inverse}
        checkpoint.save(context.checkpoints / f"{cls.name}-{WORLD}", nets, config)
        publish_codec(context)

    @classmethod
    def load(cls, checkpoints: Path, device: torch.device) -> UniPi:
        folder = checkpoints / f"{cls.name}-{WORLD}"
        saved = checkpoint.load(folder)
        sizes, scale = BackboneConfig(**saved.config["model"]), ActionScale(**saved.config["actions"])
        inverse = InverseConfig(**saved.config["inverse"]).net(len(scale.low))
        saved.fill(inverse, "inverse")
        net = load_net(folder, sizes).eval().to(device)
        model = FilmModel(load_codec(checkpoints / "codec").to(device), net, sizes, device)
        family = cls(model, inverse.eval().to(device), scale)
        family.records = tuple(saved.config["trained"])
        return family

    @classmethod
    def tiny(cls) -> UniPi:
        sizes, scale = BackboneConfig(), unit_actions()
        codec = FrameCodec(latent_channels=sizes.latent_channels, width=8).eval()
        model = FilmModel(codec, sizes.net().eval(), sizes, torch.device("cpu"))
        return cls(model, InverseConfig().net(len(scale.low)).eval(), scale)

    def nets(self) -> dict[str, nn.Module]:
        return {"codec": self.model.codec, "net": self.model.net, "inverse": self.inverse}

    @torch.no_grad()
    def __call__(
        self, request: Request, *, attention: bool = False, progress: ProgressCallback | None = None
    ) -> Rollout:
        clock = Clock()
        with clock.part("encode"):
            scene = self.model.scene(request)
        with capture_attention() if attention else nullcontext() as trace:
            _, last = self.model.film(scene, request, clock, progress)
        with clock.part("decode"):
            keys = self.model.decode(last.clean, scene)
        with clock.part("fill in"):
            frames = self._fill_in(scene, keys, last.clean, request.seed)
        with clock.part("actions"):
            actions = self.between(np.concatenate([_first(scene), frames]))
        maps = self.model.attention(trace, scene.text, request.instruction) if trace is not None else None
        return Rollout(frames, tuple(range(1, len(frames) + 1)), actions, maps, clock.done())

    def _fill_in(self, scene: Scene, keys: Frame, latents: Tensor, seed: int, segments: int | None = None) -> Frame:
        """Key frames (K, H, W, 3) with latents (1, K, C, h, w) -> all (K * stride, H, W, 3) frames."""
        count, stride = segments or len(keys), self.model.config.stride
        pixels = torch.cat([scene.pixels, to_float(keys[: count - 1]).to(scene.pixels.device)])
        starts = torch.cat([scene.latents, latents[0, : count - 1]])
        tokens, mask = scene.text.tokens, scene.text.mask
        text = TextTokens(tokens.expand(count, -1, -1), mask.expand(count, -1))
        times = self.model.times(*range(1, stride + 1)).expand(count, -1)
        known = (times == stride).expand(count, -1)
        given = torch.zeros(count, stride, *latents.shape[2:], device=latents.device)
        given[:, -1] = latents[0, :count]
        segment = Scene(pixels, starts, text)
        generator = torch.Generator().manual_seed(seed)
        (step,) = denoise(self.model.net, segment, times, steps=1, generator=generator, known=known, given=given)
        # every in-between frame is painted over the first frame, whose pixels are true
        return self.model.decode(step.clean.flatten(0, 1)[None], scene)

    @torch.no_grad()
    def between(self, frames: Frame) -> NDArray[np.float32]:
        pixels = to_float(frames).to(self.model.device)
        return self.scale.to_world(self.inverse(pixels[:-1], pixels[1:]).float().cpu().numpy())

    @torch.no_grad()
    def act(self, request: Request) -> NDArray[np.float32]:
        clock, scene = Clock(), self.model.scene(request)
        _, last = self.model.film(scene, request, clock)
        half = (self.model.config.frames + 1) // 2
        keys = self.model.decode(last.clean[:, :half], scene)
        frames = self._fill_in(scene, keys, last.clean, request.seed, half)
        return self.between(np.concatenate([_first(scene), frames]))


def _first(scene: Scene) -> Frame:
    return to_uint8(scene.pixels)


FAMILY = UniPi
