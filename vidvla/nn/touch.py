"""What the robot's hand and the scene's things do to each other."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vidvla.nn.arm import PLACE_DIM, features, motion

FIRST, TURN, SECOND, GOAL = slice(0, 3), slice(3, 9), slice(9, 12), slice(12, 15)
"""Of what is told of things: where the first one is, how it is turned, where the second one is, and where the goal."""
THINGS, MOVING = 15, 12
"""Numbers of things, and how many of them can change: the goal stays."""


class Met(NamedTuple):
    """What a control step does.

    Attributes:
        place: (B, 3) where the hand goes.
        things: (B, THINGS) where things are then.
        memory: (B, hidden) what is remembered.
    """

    place: Tensor
    things: Tensor
    memory: Tensor


class TouchNet(nn.Module):
    """Corrects where :class:`~vidvla.nn.arm.HandNet` has the hand go by what stands in its way, and moves that.

    It knows where things are, and remembers from step to step what the hand met: from where it is and goes alone, a
    hand that is held looks like one that is about to start.

    Args:
        told: actions that are told, newest first.
        action_dim: A.
        pose: numbers of the robot's pose.
        kinds: of scenes, K.
        hidden: numbers that it remembers.
    """

    def __init__(self, told: int, action_dim: int, pose: int, kinds: int, hidden: int = 256) -> None:
        super().__init__()
        self.first = nn.Linear(pose + THINGS + kinds, hidden)
        moves = 5 * 3 + told * action_dim + 3 + 2 + THINGS + kinds + 5 * PLACE_DIM
        self.enter = nn.Sequential(
            nn.Linear(moves, hidden), nn.LayerNorm(hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU()
        )
        self.remember = nn.GRUCell(hidden, hidden)
        self.correct = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.SiLU(), nn.Linear(hidden, 3 + MOVING))
        last = self.correct[2]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)  # begins with nothing in the way, and all at rest
        nn.init.zeros_(last.bias)

    def begin(self, pose: Tensor, things: Tensor, kinds: Tensor) -> Tensor:
        """What is remembered before the first step, (B, hidden): all that is told then, as in :meth:`forward`."""
        out: Tensor = self.first(torch.cat([pose, things, kinds], dim=1)).tanh()
        return out

    def forward(
        self, memory: Tensor, things: Tensor, kinds: Tensor, place: Tensor, places: Tensor, targets: Tensor,
        lowest: Tensor, actions: Tensor,
    ) -> Met:  # fmt: skip
        """One control step on, in which nothing changes by more than one unit: fed back without a bound, errors grew
        beyond all measure in training.

        Args:
            memory: (B, hidden) after the step before.
            things: (B, THINGS) where they are, about unit scale.
            kinds: (B, K) how likely the scene is of each kind.
            place: (B, 3) where the hand would go if nothing were in the way.
            places, targets, actions: as those of :class:`~vidvla.nn.arm.HandNet`.
            lowest: (B, 1) height that the hand may be sent to.
        """
        now, first, second, goal = places[:, -1], things[:, FIRST], things[:, SECOND], things[:, GOAL]
        near = [features(v) for v in (now, first - place, second - place, goal - place, first - goal)]
        moves = [motion(places, targets, actions), place - now, lowest, lowest - now[:, 2:]]
        met = self.enter(torch.cat([*moves, things, kinds, *near], dim=1))
        memory = self.remember(met, memory)
        by, moved = self.correct(torch.cat([met, memory], dim=1)).tanh().split([3, MOVING], dim=1)
        return Met(place + by, torch.cat([things[:, :MOVING] + moved, goal], dim=1), memory)
