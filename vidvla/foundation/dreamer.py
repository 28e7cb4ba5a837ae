"""Steps of a dream: from the last frames, how robot and things stand, and an action to the next frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from vidvla.data.dreams import LARGEST_MOVE, sent
from vidvla.foundation.pose import (
    DECIMETRE,
    KINDS,
    POSE,
    Seen,
    is_deep,
    metres,
    unit_camera,
    unit_height,
    unit_links,
    unit_place,
)
from vidvla.nn.arm import ArmNet, HandNet, JointNet
from vidvla.nn.dynamics import ActionEntry, DynamicsNet
from vidvla.nn.touch import Met, TouchNet
from vidvla.pixels import to_float, to_uint8
from vidvla.types import ProgressCallback
from vidvla.worlds.base import Frame
from vidvla.worlds.metaworld import JOINT_COUNT, REACH

ENTRIES: tuple[ActionEntry, ...] = get_args(ActionEntry)
"""Ways for actions to enter; each has a first phase of its own."""


class DynamicsConfig(BaseModel):
    """Sizes of the net; defaults are those that tests use.

    Attributes:
        size: side of its frames in pixels.
        history: frames that it looks at.
        told: actions that each frame is told: the hand lags behind its commands, so that where it goes next hangs on
            earlier ones too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int = Field(default=128, gt=0, multiple_of=16)
    history: int = Field(default=2, gt=0)
    told: int = Field(default=4, gt=0)
    width: int = Field(default=8, gt=0, multiple_of=8)
    layers: int = Field(default=1, gt=0)
    entry: ActionEntry = "concat"

    def hand(self, action_dim: int) -> HandNet:
        return HandNet(self.told, action_dim)

    def touch(self, action_dim: int) -> TouchNet:
        return TouchNet(self.told, action_dim, POSE, len(KINDS))

    def arm(self) -> ArmNet:
        return ArmNet(self.size // 16, JOINT_COUNT, self.width, camera=unit_camera(), links=unit_links)

    def joints(self) -> JointNet:
        return JointNet(JOINT_COUNT, self.told)

    def net(self, action_dim: int) -> DynamicsNet:
        return DynamicsNet(
            self.history, self.told, action_dim, self.width, self.layers, self.entry,
            joints=JOINT_COUNT, size=self.size, camera=unit_camera(), links=unit_links,
        )  # fmt: skip


def sent_on(target: Tensor, actions: Tensor, lowest: Tensor) -> Tensor:
    """Targets (B, 3) one action (B, A) of unit scale later: :func:`~vidvla.data.dreams.sent` in unit places.

    Args:
        lowest: (B, 1) height that the hand may be sent to.
    """
    low, high = (unit_place(torch.tensor(limit, device=target.device)) for limit in REACH)
    low = torch.cat([low[:2].expand(len(target), -1), lowest], dim=1)
    return torch.clamp(target + LARGEST_MOVE / DECIMETRE * actions[:, :3], low, high)


def rounded(pixels: Tensor) -> Tensor:
    """Pixels (..., 3, H, W) as a uint8 picture would show them, without a gradient."""
    return to_float(torch.from_numpy(to_uint8(pixels))).to(pixels.device)


@dataclass(frozen=True)
class DreamState:
    """B dreams as they stand; never changed in place.

    Attributes:
        anchor: (B, 3, H, W) the true frame that the dream began with.
        backdrop: (B, 4, H, W) what was last seen where the arm was not in the way, and where that is.
        covered: (B, 1, H, W) what the arm covers in the newest frame, from 0 to 1.
        frames: (B, history, 3, H, W) the newest ones, oldest first.
        poses: (B, history, POSE) of the robot in them: its hand's place first.
        started: (B, THINGS) where things were in the anchor.
        things: (B, THINGS) where they are in the newest frame.
        kinds: (B, KINDS) how likely the scene is of each kind.
        target: (B, 3) where the hand has been sent, in the units of its place.
        lowest: (B, 1) height that it may be sent to.
        actions: (B, told, A) unit scale, newest first.
        memory: (B, M) what :class:`~vidvla.nn.touch.TouchNet` remembers; empty without one.
    """

    anchor: Tensor
    backdrop: Tensor
    covered: Tensor
    frames: Tensor
    poses: Tensor
    started: Tensor
    things: Tensor
    kinds: Tensor
    target: Tensor
    lowest: Tensor
    actions: Tensor
    memory: Tensor

    @classmethod
    def stack(cls, states: Sequence[DreamState]) -> DreamState:
        """Several dreams as one."""
        return cls(*(torch.cat(values) for values in zip(*(vars(s).values() for s in states), strict=True)))

    def repeat(self, count: int) -> DreamState:
        """One dream, ``count`` times."""
        return DreamState(*(v.expand(count, *v.shape[1:]) for v in vars(self).values()))


class Dreamer:
    """Steps of a dream.

    Args:
        touch: says what stops the hand, and what that moves; without it nothing is.
        see: reads true frames (N, H, W, 3).
    """

    def __init__(
        self, net: DynamicsNet, touch: TouchNet | None, device: torch.device, see: Callable[[Frame], Seen]
    ) -> None:
        self.net, self.touch, self.device, self.see = net, touch, device, see

    @torch.no_grad()
    def begin(self, frames: Frame, actions: NDArray[np.float32]) -> DreamState:
        """A dream that goes on from true frames (T, H, W, 3) and the unit-scale actions (T - 1, A) between them.

        Before the first of them nothing moved.
        """
        count, told = self.net.history, self.net.told
        seen = to_float(frames[-count:]).to(self.device)
        read = Seen(*(v.to(self.device) for v in self.see(np.concatenate([frames[:1], frames[-count:]]))))
        start, poses = metres(read.poses[0, :3]), read.poses[1:]
        things, kinds = read.things[-1:], read.kinds[-1:]
        missing = count - len(seen)
        seen = torch.cat([seen[:1].expand(missing, -1, -1, -1), seen])
        poses = torch.cat([poses[:1].expand(missing, -1), poses])
        led = torch.zeros(told, self.net.action_dim, device=self.device)
        newest = torch.from_numpy(actions[::-1][:told].copy()).to(self.device)
        led[: len(newest)] = newest
        covered = self.net.covers(poses[-1:])
        anchor = seen[-1:]
        memory = torch.zeros(1, 0, device=self.device)
        if self.touch is not None:
            memory = self.touch.begin(poses[-1:], things, kinds)
        deep = is_deep(kinds)
        target = unit_place(torch.from_numpy(sent(start, actions, bool(deep))[-1:])).to(self.device)
        return DreamState(
            anchor, self.net.behind(anchor, covered), covered, seen[None], poses[None], things, things, kinds, target,
            unit_height(deep), led[None], memory,
        )  # fmt: skip

    @torch.no_grad()
    def advance(
        self, state: DreamState, actions: Tensor, noise: float = 0.0, generator: torch.Generator | None = None
    ) -> DreamState:
        """The dreams one control step later, after actions (B, A) in unit scale.

        Args:
            noise: deviation of what ``generator`` adds to the frames that are seen.
        """
        return self.follow(state, actions, noise, generator, seen=rounded)

    def follow(
        self, state: DreamState, actions: Tensor, noise: float = 0.0, generator: torch.Generator | None = None, *,
        seen: Callable[[Tensor], Tensor],
    ) -> DreamState:  # fmt: skip
        """:meth:`advance` with gradients; ``seen`` is what the dream sees of a new frame (B, 3, H, W)."""
        led = torch.cat([actions[:, None], state.actions[:, :-1]], dim=1)
        frames = state.frames
        if noise:
            frames = frames + noise * torch.randn(frames.shape, generator=generator).to(self.device)
        level = torch.full((len(actions),), noise, device=self.device)
        target = sent_on(state.target, actions, state.lowest)
        targets = torch.stack([state.target, target], dim=1)
        places = state.poses[..., :3]
        met = Met(self.net.hand(places, targets, led), state.things, state.memory)
        if self.touch is not None:
            free = met.place
            met = self.touch(met.memory, met.things, state.kinds, free, places, targets, state.lowest, led)
        pose = self.net.reach(state.poses, met.place, led)
        things = torch.stack([state.started, state.things, met.things], dim=1)
        after = self.net(
            frames, state.anchor, state.backdrop, state.covered, state.poses[:, -1], pose, things, led, level
        )  # fmt: skip
        return replace(
            state,
            backdrop=after.backdrop,
            covered=after.covered,
            frames=torch.cat([state.frames[:, 1:], seen(after.frame)[:, None]], dim=1),
            poses=torch.cat([state.poses[:, 1:], after.pose[:, None]], dim=1),
            things=met.things,
            target=target,
            actions=led,
            memory=met.memory,
        )

    def film(
        self, state: DreamState, actions: NDArray[np.float32], progress: ProgressCallback | None = None
    ) -> tuple[Frame, DreamState]:
        """Dream (N, A) unit-scale actions from one state -> (N, H, W, 3) frames and the state after them."""
        frames = []
        for action in torch.from_numpy(actions).to(self.device):
            state = self.advance(state, action[None])
            frames.append(shown(state)[0])
            if progress is not None:
                progress(len(frames) / len(actions), "dreaming")
        return np.stack(frames), state


def shown(state: DreamState) -> Frame:
    """The newest frames (B, H, W, 3)."""
    return to_uint8(state.frames[:, -1])
