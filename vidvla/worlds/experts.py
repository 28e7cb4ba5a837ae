"""Scripted experts for what has to be grasped, in place of the package's own.

The package's scripts close the gripper while they still descend and never look whether it holds anything: at 16
control steps a second many grasps miss, and once a hand stands on top of an object they push down for ever. These
hover, descend, and go on only once the gripper has closed at the object; if it is lost, they begin again. They read
the observation alone and keep no state, so that they can take over from anyone at any moment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

OPEN, CLOSE = -1.0, 1.0
ASIDE = 0.12
"""Within this distance, metres, a low hand goes up before it goes sideways: it would knock the object over."""
ROLLING = 0.06
"""An object whose centre is lower than this lies on the table, metres."""


@dataclass(frozen=True)
class Seen:
    """What an expert reads from Meta-World's observation (39,); metres."""

    hand: Vector
    opening: float
    """Of the gripper, 1 when open."""
    thing: Vector
    motion: Vector
    """How far the object moves in a control step."""
    goal: Vector


def see(observation: Vector) -> Seen:
    """Name the parts of an observation; its second half is the physics step before."""
    before = observation[18:36]
    motion = 5 * (observation[4:7] - before[4:7])  # five physics steps make a control step
    return Seen(observation[:3], float(observation[3]), observation[4:7], motion, observation[-3:])


def _up(height: float) -> Vector:
    return np.array([0.0, 0.0, height])


Carry = Callable[[Seen], Vector]
"""Where to go with the object held, (3,) metres."""


@dataclass(frozen=True)
class Grasp:
    """How one task's object is grasped and where it is carried; metres.

    Attributes:
        offset: from the object's place to where the hand grips it.
        carry: where to go once it is held.
        hold: gripper command while carrying.
        closed: a gripper less open than this, at the object, holds it.
        low: height over the grip below which the gripper closes.
        hover: height over the object from which the hand descends.
        align: horizontal error within which it descends; ``fix`` that which it keeps once it is lower than ``near``.
        lead: control steps by which a rolling object is led.
        gain: of the hand's command, full speed at 1 / gain.
    """

    offset: tuple[float, float, float]
    carry: Carry
    hold: float
    closed: float = 0.6
    low: float = 0.035
    hover: float = 0.1
    align: float = 0.02
    near: float = 0.0
    fix: float = 0.03
    lead: float = 0.0
    gain: float = 10.0

    def __call__(self, observation: Vector) -> Vector:
        """The command (4,): the hand's move and the gripper, each in [-1, 1]."""
        seen = see(observation)
        grip = seen.thing + np.array(self.offset)
        if self.lead and seen.thing[2] < ROLLING and seen.opening > 0.9:
            grip = grip + self.lead * np.array([*seen.motion[:2], 0.0])
        target, gripper = self._next(seen, grip)
        return np.append(np.clip(self.gain * (target - seen.hand), -1, 1), gripper)

    def _next(self, seen: Seen, grip: Vector) -> tuple[Vector, float]:
        aside, height = float(np.linalg.norm((seen.hand - grip)[:2])), float(seen.hand[2] - grip[2])
        within = self.align if height > self.near else self.fix
        if aside > within:
            if height < self.hover - 0.02 and aside < ASIDE:
                return np.array([*seen.hand[:2], grip[2] + self.hover + 0.02]), OPEN
            return grip + _up(self.hover), OPEN
        if height >= self.low:
            return grip - _up(0.01), OPEN
        if seen.opening >= self.closed:
            return grip, CLOSE
        return self.carry(seen), self.hold


def _to_nail(seen: Seen) -> Vector:
    x, z = 0.05, 0.16
    if np.hypot(seen.hand[0] - x, seen.hand[2] - z) > 0.03:
        return np.array([x, seen.hand[1], z])
    return np.array([x, 0.81, z])


def _over_peg(seen: Seen) -> Vector:
    over = seen.goal + np.array([0.12, 0.0, 0.14])
    if np.linalg.norm((seen.hand - over)[:2]) <= 0.02:
        return over - _up(0.2)
    if seen.hand[2] < over[2] - 0.04:
        return np.array([*seen.hand[:2], over[2] + 0.02])
    return over


def _to_hoop(seen: Seen) -> Vector:
    if seen.hand[2] < 0.32:
        return np.array([*seen.hand[:2], 0.36])
    return np.array([seen.goal[0], 0.875, 0.35])


def _into_shelf(seen: Seen) -> Vector:
    if seen.hand[2] < 0.28:
        return np.array([*seen.hand[:2], 0.33])
    if abs(seen.hand[0] - seen.goal[0]) > 0.02:
        return np.array([seen.goal[0], seen.hand[1], 0.31])
    return seen.hand + np.array([0.0, 0.05, 0.0])


EXPERTS: dict[str, Grasp] = {
    "hammer": Grasp((-0.04, 0.0, -0.01), _to_nail, hold=0.8),
    "assembly": Grasp((-0.02, 0.0, 0.0), _over_peg, hold=0.6),
    "basketball": Grasp(
        (0.0, 0.0, 0.01),
        _to_hoop,
        hold=0.6,
        closed=0.75,
        low=0.025,
        hover=0.12,
        align=0.012,
        near=0.07,
        lead=2,
        gain=15,
    ),
    "shelf-place": Grasp((-0.005, 0.0, 0.015), _into_shelf, hold=0.7, closed=0.8, low=0.03, hover=0.12, gain=15),
}
"""By task name; other tasks keep the package's scripts."""
