"""Action-conditioned world model: the last frames and what the robot is told -> the next frame, as far as one likes.

Interactive simulation as in UniSim (Yang et al. 2023, arXiv 2310.06114) and Genie 2; the two ways for an action to
enter are those of UnifoLM-WMA-0 (cross-attention) and of token streams (concatenation). The net is
:class:`~vidvla.nn.dynamics.DynamicsNet`: told its actions, what follows is certain, and a net that moves what it sees
learns that from far fewer windows than a film net that denoises it (``assets/log.md``).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vidvla import checkpoint
from vidvla.actions import ActionScale
from vidvla.families.base import SMALL, Clock, Context, Family, Phase, fit_square, read_config
from vidvla.foundation.dream_stages import (
    ARM,
    DREAM,
    HAND,
    HORIZON,
    JOINTS,
    TOUCH,
    ArmStage,
    DreamStage,
    FeedConfig,
    HandStage,
    JointStage,
    TouchStage,
    load_dynamics,
    load_touch,
)
from vidvla.foundation.dreamer import ENTRIES, Dreamer, DreamState, DynamicsConfig, shown
from vidvla.foundation.film import check_request
from vidvla.foundation.pose import DECIMETRE, metres
from vidvla.foundation.reader import READER, Reader, publish_reader, reader_phase
from vidvla.foundation.stages import WORLD, unit_actions
from vidvla.nn.dynamics import ActionEntry, DynamicsNet
from vidvla.nn.touch import FIRST, SECOND, TouchNet
from vidvla.saliency import Traced
from vidvla.train.loop import TrainConfig
from vidvla.types import ProgressCallback, Request, Rollout
from vidvla.worlds.base import Frame
from vidvla.worlds.metaworld import AVDC_TASKS

LONGEST = 1024
"""Control steps that one request may ask for."""
UNSURE = 0.05
"""Deviation of the noise that a sampled step sees, of half the range of a pixel."""
ASTRAY = 0.0015
"""Metres: deviation of what a sampled step moves hand and things by, along each axis. Eight steps add up to about what
a dream's hand is off by after a second (``vidvla eval following``)."""


class WorldModel(Family):
    """Dreams what follows from actions, frame after frame."""

    name: ClassVar[str] = "wma"
    title: ClassVar[str] = "World model"
    order: ClassVar[int] = 50
    source: ClassVar[str] = "UniSim, Yang et al. 2023, arXiv 2310.06114; UnifoLM-WMA-0; Genie 2"
    summary: ClassVar[str] = "Dreams what follows from actions that it is told, frame after frame."
    differs: ClassVar[str] = (
        "They generate video by diffusion, or by sampling tokens, and learn from the world's videos; this one keeps"
        " the robot's pose and the places of things beside the picture, and moves, uncovers and paints pixels in one"
        " pass a control step, without sampling: quick enough to be driven on two cores, and far from as general."
        " It shares no weights with the film net: begun as a fork of it, its dreams were blurred."
    )
    films: ClassVar[bool] = True
    acts: ClassVar[bool] = False
    attends: ClassVar[bool] = False
    told: ClassVar[bool] = True
    chance: ClassVar[str] = (
        "The model itself is certain: every seed adds noise to what it sees, and leads hand and things astray by as"
        " much as a dream is off by after a second. Where small errors would grow, they part."
    )
    published: ClassVar[dict[str, str]] = {
        "net": DREAM, "touch": TOUCH, "net.hand": HAND, "net.joints": JOINTS, "net.arm": ARM,
    }  # fmt: skip

    def __init__(
        self, net: DynamicsNet, touch: TouchNet, reader: Reader, config: DynamicsConfig, scale: ActionScale,
        device: torch.device,
    ) -> None:  # fmt: skip
        self.net, self.touch, self.reader, self.config, self.scale = net, touch, reader, config, scale
        self.device = device
        self.dreamer = Dreamer(net, touch, device, reader.see)

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
            return Phase(
                name,
                lambda c: DreamStage(name, c, config, feed["first"]),
                plans[entry],
                (ARM,),
                teachers=(HAND, JOINTS),
            )

        plans, parent = {name: TrainConfig(**plan) for name, plan in table["train"].items()}, f"wma.{chosen.entry}"
        return [
            reader_phase(size, WORLD, AVDC_TASKS),
            Phase(HAND, lambda c: HandStage(c, chosen, feed["hand"].steps), plans["hand"]),
            Phase(
                TOUCH,
                lambda c: TouchStage(c, chosen, feed["touch"].steps),
                plans["touch"],
                (HAND,),
            ),
            Phase(JOINTS, lambda c: JointStage(c, chosen, feed["joints"].steps), plans["joints"]),
            Phase(ARM, lambda c: ArmStage(c, chosen), plans["arm"]),
            *(first(entry) for entry in ENTRIES),
            Phase(
                DREAM,
                lambda c: DreamStage(DREAM, c, chosen, feed["dream"], parent),
                plans["dream"],
                (parent,),
                teachers=(HAND, JOINTS, ARM),
            ),
        ]

    @classmethod
    def publish(cls, context: Context) -> None:
        config = cls.sizes(context.size)
        behind = [READER, HAND, TOUCH, JOINTS, ARM, f"wma.{config.entry}", DREAM]
        described = context.description(
            cls.name, WORLD, behind, model=config.model_dump(), actions=unit_actions().saved()
        )  # fmt: skip
        nets = {
            "net": load_dynamics(context.weights(DREAM), config), "touch": load_touch(context.weights(TOUCH), config)
        }  # fmt: skip
        checkpoint.save(context.checkpoints / f"{cls.name}-{WORLD}", nets, described)
        publish_reader(context)

    @classmethod
    def load(cls, checkpoints: Path, device: torch.device) -> WorldModel:
        folder = checkpoints / f"{cls.name}-{WORLD}"
        saved = checkpoint.load(folder).config
        config = DynamicsConfig(**saved["model"])
        net = load_dynamics(folder, config).eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        touch = load_touch(folder, config, "touch").eval().to(device)
        family = cls(net, touch, Reader.load(checkpoints), config, ActionScale(**saved["actions"]), device)
        family.records = tuple(saved["trained"])
        return family

    @classmethod
    def of_phase(cls, context: Context, phase: str, entry: ActionEntry) -> WorldModel:
        """The family with the weights of one of its phases, to compare them."""
        config = cls.sizes(context.size, entry)
        net = load_dynamics(context.weights(phase), config).eval()
        touch = load_touch(context.weights(TOUCH), config).eval()
        return cls(net, touch, Reader.load(context.checkpoints), config, unit_actions(), torch.device("cpu"))

    @classmethod
    def tiny(cls) -> WorldModel:
        config, scale = DynamicsConfig(), unit_actions()
        net, touch = config.net(len(scale.low)).eval(), config.touch(len(scale.low)).eval()
        return cls(net, touch, Reader.fresh(), config, scale, torch.device("cpu"))

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
        """The same, but ``seed`` makes the frames noisy and leads hand and things a little astray.

        Dreams of several seeds part where the model is unsure of what a picture shows, and where a small difference
        in where the hand and the things are becomes a large one.
        """
        unit, generator = torch.from_numpy(self._unit(actions)).to(self.device), torch.Generator().manual_seed(seed)
        poses, things = state.poses.clone(), state.things.clone()
        for places in (poses[:, -1, :3], things[:, FIRST], things[:, SECOND]):
            places += ASTRAY / DECIMETRE * torch.randn(places.shape, generator=generator).to(self.device)
        return self.dreamer.advance(replace(state, poses=poses, things=things), unit, UNSURE, generator)

    def look(self, state: DreamState) -> Frame:
        """The newest frames (B, H, W, 3)."""
        return shown(state)

    def hands(self, state: DreamState) -> NDArray[np.float32]:
        """Where the dream has the hand in its newest frames, (B, 3) metres."""
        return metres(state.poses[:, -1, :3])

    def nets(self) -> dict[str, nn.Module]:
        return {"net": self.net, "touch": self.touch, "reader": self.reader.net}

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
        backdrop = self.net.behind(pixels, state.covered)
        state = replace(state, anchor=pixels, backdrop=backdrop, frames=pixels[:, None].expand_as(state.frames))
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
