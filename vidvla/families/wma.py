"""Action-conditioned world model: the last frames and what the robot is told -> the next frame, as far as one likes.

Interactive simulation as in UniSim (Yang et al. 2023, arXiv 2310.06114) and Genie 2; the two ways for an action to
enter are those of UnifoLM-WMA-0 (cross-attention) and of token streams (concatenation). The net is
:class:`~vidvla.nn.dynamics.DynamicsNet`: told its actions, what follows is certain, and a net that moves what it sees
learns that from far fewer windows than a film net that denoises it (``assets/log.md``).
"""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from vidvla import checkpoint
from vidvla.actions import ActionScale
from vidvla.data.clips import EpisodeStore
from vidvla.data.dreams import DreamBatch, DreamWindows, HandBatch
from vidvla.families.base import SMALL, Clock, Context, Family, Phase, fit_square, read_config
from vidvla.foundation.dreamer import (
    ENTRIES,
    Dreamer,
    DreamState,
    DynamicsConfig,
    metres,
    rounded,
    shown,
    unit_place,
)
from vidvla.foundation.film import check_request
from vidvla.foundation.reader import READER, Reader, publish_reader, reader_phase
from vidvla.foundation.stages import WORLD, unit_actions
from vidvla.nn.dynamics import ActionEntry, DynamicsNet
from vidvla.pixels import to_float, to_uint8
from vidvla.saliency import Traced
from vidvla.train.loop import TrainConfig
from vidvla.types import ProgressCallback, Request, Rollout
from vidvla.worlds.base import Frame
from vidvla.worlds.metaworld import AVDC_TASKS

HAND, ARM, DREAM = "wma.hand", "wma.arm", "wma.dream"
HORIZON = 16
"""Control steps that a request without actions is dreamed for."""
LONGEST = 1024
"""Control steps that one request may ask for."""
MOVED, MOVED_WEIGHT = 0.06, 5.0
"""A pixel whose colour changes by more than this share of half the range counts so many times."""
UNSURE = 0.05
"""Deviation of the noise that a sampled step sees, of half the range of a pixel."""
MISREAD = 0.15
"""Decimetres that the hand is off by in half of the windows: it is read from a picture where dreams begin."""
ABSOLUTE = 0.3
"""Weight of the absolute error beside the squared one: blur costs more."""


class FeedConfig(BaseModel):
    """How training meets the model's own mistakes.

    Attributes:
        steps: following frames of a window; from the second on they are predicted from predicted ones.
        noise: largest deviation of noise in given frames, of half the range; half of the windows have none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(default=2, gt=0)
    noise: float = Field(default=0.1, ge=0)


class DreamNet(nn.Module):
    """A net with its loss over several steps as ``forward`` (one call for every parallel wrapper)."""

    def __init__(self, net: DynamicsNet, feed: FeedConfig) -> None:
        super().__init__()
        self.net, self.feed = net, feed

    def forward(self, batch: DreamBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Errors of the frames that follow, each fed back as a picture: rounded to uint8, without a gradient."""
        true, anchor = to_float(batch.frames), to_float(batch.anchor)
        count, history, device = len(true), self.net.history, true.device
        noisy = torch.rand(count, generator=generator) < 0.5
        level = (self.feed.noise * noisy * torch.rand(count, generator=generator)).to(device)
        where, targets = unit_place(batch.places), unit_place(batch.targets)
        off = MISREAD * (level > 0)[:, None, None] * torch.randn((count, 1, 3), generator=generator).to(device)
        where, targets = where + off, targets + off
        seen, places, backdrop = true[:, :history], where[:, :history], anchor
        losses, errors, missed = [], [], []
        for step in range(batch.actions.shape[1]):
            noise = torch.randn(seen.shape, generator=generator).to(device)
            given = seen + level[:, None, None, None, None] * noise
            after, place, backdrop = self.net(
                given, anchor, backdrop.detach(), places, targets[:, step : step + 2], batch.actions[:, step], level
            )
            target = true[:, history + step]
            before = true[:, history + step - 1]
            changed = torch.maximum((target - before).abs(), (seen[:, -1] - target).abs())
            weight = 1 + (MOVED_WEIGHT - 1) * (changed.amax(dim=1, keepdim=True) > 2 * MOVED)
            error = after - target
            losses.append((weight * (error.square() + ABSOLUTE * error.abs())).mean())
            errors.append(error.detach().square().mean())
            missed.append((place.detach() - where[:, history + step]).norm(dim=1).mean())
            seen = torch.cat([seen[:, 1:], rounded(after)[:, None]], dim=1)
            places = torch.cat([places[:, 1:], place.detach()[:, None]], dim=1)
        hand_cm = 10 * torch.stack(missed).mean()
        return {
            "loss": torch.stack(losses).mean(), "mse_first": errors[0], "mse_last": errors[-1], "hand_cm": hand_cm,
        }  # fmt: skip


class HandStage:
    """Learn where the hand goes, without a picture: the net that draws it then knows from its first step on."""

    name = HAND

    def __init__(self, context: Context, config: DynamicsConfig, steps: int) -> None:
        self.context, self.config, self.steps = context, config, steps

    @functools.cached_property
    def windows(self) -> DreamWindows:
        return dream_windows(self.context, self.config)

    def build(self, own: Path | None = None) -> nn.Module:
        net = self.config.hand(len(unit_actions().low))
        if own is not None:
            checkpoint.load(own).fill(net, "net")
        return net

    def batch(self, size: int, generator: torch.Generator) -> HandBatch:
        return self.windows.hands(size, self.steps, generator)

    def loss(self, model: nn.Module, batch: HandBatch, generator: torch.Generator) -> dict[str, Tensor]:
        true, targets, history = unit_place(batch.places), unit_place(batch.targets), self.config.history
        off = MISREAD * torch.randn((len(true), 1, 3), generator=generator).to(true.device)
        true, targets = true + off, targets + off
        places, missed = true[:, :history], []
        for step in range(self.steps):
            place = model(places, targets[:, step : step + 2], batch.actions[:, step])
            missed.append((place - true[:, history + step]).norm(dim=1).mean())
            places = torch.cat([places[:, 1:], place.detach()[:, None]], dim=1)
        error = torch.stack(missed).mean()
        return {"loss": error, "first_cm": 10 * missed[0], "last_cm": 10 * missed[-1]}

    def data_used(self) -> dict[str, int]:
        return {f"episodes of {WORLD}": len(self.windows.store.episodes)}

    def preview(self, model: nn.Module) -> None:
        return None


class ArmStage:
    """Learn how the arm looks, from single frames: what differs from another frame of the episode is the arm's.

    The arm is drawn over an earlier frame. With the absolute error what an earlier arm covered there is no reason to
    draw: most earlier frames show it.
    """

    name = ARM

    def __init__(self, context: Context, config: DynamicsConfig) -> None:
        self.context, self.config = context, config

    @functools.cached_property
    def windows(self) -> DreamWindows:
        return dream_windows(self.context, self.config)

    def build(self, own: Path | None = None) -> nn.Module:
        net = self.config.arm()
        if own is not None:
            checkpoint.load(own).fill(net, "net")
        return net

    def batch(self, size: int, generator: torch.Generator) -> DreamBatch:
        return self.windows.batch(size, 1, generator)

    def loss(self, model: nn.Module, batch: DreamBatch, generator: torch.Generator) -> dict[str, Tensor]:
        true, behind = to_float(batch.frames[:, -1]), to_float(batch.anchor)
        places, target, grips = unit_place(batch.places), unit_place(batch.targets[:, -1]), batch.actions[:, 0, :-1, -1]
        colours, covers = model(places[:, -1], places[:, -2], target, grips)
        shape = covers.sigmoid()
        error = shape * colours + (1 - shape) * behind - true
        return {"loss": error.abs().mean(), "mse": error.detach().square().mean(), "covers": shape.detach().mean()}

    def data_used(self) -> dict[str, int]:
        return {f"episodes of {WORLD}": len(self.windows.store.episodes)}

    @torch.no_grad()
    def preview(self, model: nn.Module) -> NDArray[np.uint8]:
        """Eight frames above, and below them the arms alone."""
        batch = self.batch(8, torch.Generator().manual_seed(0))
        places, target, grips = unit_place(batch.places), unit_place(batch.targets[:, -1]), batch.actions[:, 0, :-1, -1]
        device = next(model.parameters()).device
        given = (value.to(device) for value in (places[:, -1], places[:, -2], target, grips))
        colours, covers = model(*given)
        shape = covers.sigmoid()
        arms = to_uint8(shape * colours + (1 - shape))
        rows: NDArray[np.uint8] = np.concatenate([batch.frames[:, -1].numpy(), arms], axis=1)
        return np.concatenate(list(rows), axis=1)


def dream_windows(context: Context, config: DynamicsConfig) -> DreamWindows:
    """Windows of the robot world's recorded episodes."""
    store = EpisodeStore(context.data / WORLD)
    return DreamWindows(store, unit_actions().to_unit, config.history, config.told)


class DreamStage:
    """Learn the frames that follow from what the robot does, on episodes of every kind.

    Args:
        parent: phase whose weights the stage begins with, or None to begin anew, with the hand's alone.
    """

    def __init__(
        self, name: str, context: Context, config: DynamicsConfig, feed: FeedConfig, parent: str | None = None
    ) -> None:
        self.name, self.context, self.config, self.feed, self.parent = name, context, config, feed, parent

    @functools.cached_property
    def windows(self) -> DreamWindows:
        return dream_windows(self.context, self.config)

    def build(self, own: Path | None = None) -> nn.Module:
        start = own or (None if self.parent is None else self.context.weights(self.parent))
        net = load_dynamics(start, self.config)
        if start is None:
            checkpoint.load(self.context.weights(HAND)).fill(net.hand, "net")
            checkpoint.load(self.context.weights(ARM)).fill(net.arm, "net")
        # Both are as good as they get, the arm would be half of a step's time, and what few windows say of the hand
        # ruins what many said.
        net.arm.requires_grad_(False)
        net.hand.requires_grad_(False)
        return DreamNet(net, self.feed)

    def batch(self, size: int, generator: torch.Generator) -> DreamBatch:
        return self.windows.batch(size, self.feed.steps, generator)

    def loss(self, model: nn.Module, batch: DreamBatch, generator: torch.Generator) -> dict[str, Tensor]:
        values: dict[str, Tensor] = model(batch, generator)
        return values

    def data_used(self) -> dict[str, int]:
        return {f"episodes of {WORLD}": len(self.windows.store.episodes)}

    @torch.no_grad()
    def preview(self, model: nn.Module) -> NDArray[np.uint8]:
        """Six episodes: true frames above, dreamed ones below, every fourth of 16 control steps."""
        assert isinstance(model, DreamNet)
        none = np.zeros((0, len(unit_actions().low)), np.float32)
        long = [e for e in self.windows.store.episodes if e.entry.steps >= HORIZON]
        rows = []
        for episode in long[:: max(len(long) // 6, 1)][:6]:
            unit = unit_actions().to_unit(episode.actions[:HORIZON])
            start = episode.hands[:1]
            dreamer = Dreamer(
                model.net, next(model.parameters()).device, lambda seen, start=start: start.repeat(len(seen), axis=0)  # type: ignore[misc]
            )  # fmt: skip
            film, _ = dreamer.film(dreamer.begin(np.asarray(episode.frames[:1]), none), unit)
            times = range(3, HORIZON, 4)
            rows.append(np.concatenate([episode.frames[0], *(episode.frames[t + 1] for t in times)], axis=1))
            rows.append(np.concatenate([episode.frames[0], *(film[t] for t in times)], axis=1))
        return np.concatenate(rows)


def load_dynamics(folder: Path | None, config: DynamicsConfig) -> DynamicsNet:
    """The net of a checkpoint folder, or a fresh one."""
    net = config.net(len(unit_actions().low))
    if folder is not None:
        checkpoint.load(folder).fill(net, "net")
    return net


class WorldModel(Family):
    """Dreams what follows from actions, frame after frame."""

    name: ClassVar[str] = "wma"
    title: ClassVar[str] = "World model"
    order: ClassVar[int] = 50
    source: ClassVar[str] = "UniSim, Yang et al. 2023, arXiv 2310.06114; UnifoLM-WMA-0; Genie 2"
    summary: ClassVar[str] = "Dreams what follows from actions that it is told, frame after frame."
    films: ClassVar[bool] = True
    acts: ClassVar[bool] = False
    attends: ClassVar[bool] = False
    told: ClassVar[bool] = True
    published: ClassVar[dict[str, str]] = {"net": DREAM}

    def __init__(
        self, net: DynamicsNet, reader: Reader, config: DynamicsConfig, scale: ActionScale, device: torch.device
    ) -> None:
        self.net, self.reader, self.config, self.scale, self.device = net, reader, config, scale, device
        self.dreamer = Dreamer(net, device, reader.hands)

    @classmethod
    def sizes(cls, size: str = SMALL, entry: ActionEntry | None = None) -> DynamicsConfig:
        """Of the shipped configuration; ``entry`` is how actions enter, if not as configured."""
        config = DynamicsConfig(**read_config(cls.name, size)["model"])
        return config if entry is None else config.model_copy(update={"entry": entry})

    @classmethod
    def phases(cls, size: str = SMALL) -> list[Phase]:
        table, chosen = read_config(cls.name, size), cls.sizes(size)
        feed = {name: FeedConfig(**values) for name, values in table["feed"].items()}

        def first(entry: ActionEntry) -> Phase:
            name, config = f"wma.{entry}", cls.sizes(size, entry)
            return Phase(name, lambda c: DreamStage(name, c, config, feed["first"]), plans[entry], (HAND, ARM))

        plans, parent = {name: TrainConfig(**plan) for name, plan in table["train"].items()}, f"wma.{chosen.entry}"
        return [
            reader_phase(size, WORLD, AVDC_TASKS),
            Phase(HAND, lambda c: HandStage(c, chosen, feed["hand"].steps), plans["hand"]),
            Phase(ARM, lambda c: ArmStage(c, chosen), plans["arm"]),
            *(first(entry) for entry in ENTRIES),
            Phase(DREAM, lambda c: DreamStage(DREAM, c, chosen, feed["dream"], parent), plans["dream"], (parent,)),
        ]

    @classmethod
    def publish(cls, context: Context) -> None:
        config = cls.sizes(context.size)
        behind = [READER, HAND, ARM, f"wma.{config.entry}", DREAM]
        described = context.description(
            cls.name, WORLD, behind, model=config.model_dump(), actions=unit_actions().saved()
        )  # fmt: skip
        net = load_dynamics(context.weights(DREAM), config)
        checkpoint.save(context.checkpoints / f"{cls.name}-{WORLD}", {"net": net}, described)
        publish_reader(context)

    @classmethod
    def load(cls, checkpoints: Path, device: torch.device) -> WorldModel:
        folder = checkpoints / f"{cls.name}-{WORLD}"
        saved = checkpoint.load(folder).config
        config = DynamicsConfig(**saved["model"])
        net = load_dynamics(folder, config).eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        family = cls(net, Reader.load(checkpoints), config, ActionScale(**saved["actions"]), device)
        family.records = tuple(saved["trained"])
        return family

    @classmethod
    def of_phase(cls, context: Context, phase: str, entry: ActionEntry) -> WorldModel:
        """The family with the weights of one of its phases, to compare them."""
        config = cls.sizes(context.size, entry)
        net = load_dynamics(context.weights(phase), config).eval()
        return cls(net, Reader.load(context.checkpoints), config, unit_actions(), torch.device("cpu"))

    @classmethod
    def tiny(cls) -> WorldModel:
        config, scale = DynamicsConfig(), unit_actions()
        return cls(config.net(len(scale.low)).eval(), Reader.fresh(), config, scale, torch.device("cpu"))

    def begin(self, frame: Frame) -> DreamState:
        """A dream that starts with ``frame``: see :class:`vidvla.worlds.dream.Mind`."""
        return self.resume(frame[None], np.zeros((0, len(self.scale.low)), np.float32))

    def resume(self, frames: Frame, actions: NDArray[np.float32]) -> DreamState:
        """A dream that goes on from true frames (T, H, W, 3) and the actions (T - 1, A), world units, between them."""
        seen = np.stack([fit_square(frame, self.config.size) for frame in frames])
        return self.dreamer.begin(seen, self.scale.to_unit(actions))

    def imagine(self, state: DreamState, actions: NDArray[np.float32], seed: int = 0) -> DreamState:
        """One control step on: actions (B, A) in the world's units. What follows is certain, whatever the seed."""
        return self.dreamer.advance(state, torch.from_numpy(self._unit(actions)).to(self.device))

    def sample(self, state: DreamState, actions: NDArray[np.float32], seed: int) -> DreamState:
        """The same from frames that ``seed`` makes noisy: dreams of several seeds part where the model is unsure."""
        unit = torch.from_numpy(self._unit(actions)).to(self.device)
        return self.dreamer.advance(state, unit, UNSURE, torch.Generator().manual_seed(seed))

    def look(self, state: DreamState) -> Frame:
        """The newest frames (B, H, W, 3)."""
        return shown(state)

    def hands(self, state: DreamState) -> NDArray[np.float32]:
        """Where the dream has the hand in its newest frames, (B, 3) metres."""
        return metres(state.places[:, -1])

    def nets(self) -> dict[str, nn.Module]:
        return {"net": self.net, "reader": self.reader.net}

    @torch.no_grad()
    def __call__(
        self, request: Request, *, attention: bool = False, progress: ProgressCallback | None = None
    ) -> Rollout:
        clock = Clock()
        check_request(request)
        unit = self._unit(request.actions)
        with clock.part("dream"):
            film, _ = self.dreamer.film(self.begin(request.frame), unit, progress)
        return Rollout(film, tuple(range(1, len(film) + 1)), None, None, clock.done())

    def traced(self, request: Request) -> Traced:
        """The film, not rounded between its steps: rounding has no gradient."""
        check_request(request)
        state = self.begin(request.frame)
        pixels = state.anchor.clone().requires_grad_()
        state = replace(state, anchor=pixels, backdrop=pixels, frames=pixels[:, None].expand_as(state.frames))
        film = []
        for action in torch.from_numpy(self._unit(request.actions)).to(self.device):
            state = self.dreamer.follow(state, action[None], seen=lambda frames: frames)
            film.append(state.frames[:, -1])
        return Traced(pixels, torch.cat(film), pixels.new_zeros(0, len(self.scale.low)))

    def _unit(self, actions: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """(N, A) in unit scale; ValueError where they are not actions."""
        if actions is None:
            actions = np.zeros((HORIZON, len(self.scale.low)), np.float32)
        return self.scale.told(actions, LONGEST)


FAMILY = WorldModel
