"""What stops the robot's hand, and what it takes along: told by the scene, and by where the hand has been."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidvla.nn.arm import PLACE_DIM, Camera, features, motion, seen_at
from vidvla.nn.sight import Sight

AROUND = 0.32
"""Half the side, in half pictures, of what is looked at around the hand."""
POINTS = 5
"""Points a side at which it is looked at."""
NEAR, FAR = 16, 96
"""Numbers a point, and of the scene as a whole."""


class TouchNet(nn.Module):
    """Corrects where :class:`~vidvla.nn.arm.HandNet` has the hand go by what stands around it.

    It looks once, at the true frame that a dream begins with, and remembers from step to step what the hand met: from
    where it is and goes alone, a hand that is held looks like one that is about to start.

    Args:
        told: actions that are told, newest first.
        action_dim: A.
        width: of its :class:`~vidvla.nn.sight.Sight`.
        hidden: numbers that it remembers.
    """

    camera: Tensor
    around: Tensor

    def __init__(self, told: int, action_dim: int, width: int, hidden: int = 192, *, camera: Camera) -> None:
        super().__init__()
        self.register_buffer("camera", torch.tensor(camera), persistent=False)
        line = torch.linspace(-AROUND, AROUND, POINTS)
        ys, xs = torch.meshgrid(line, line, indexing="ij")
        self.register_buffer("around", torch.stack([xs, ys], dim=-1), persistent=False)
        self.sight = Sight(width)
        # what is seen is told in other scales than moves are: unnormalised it drowned them, and nothing was learned
        self.near = nn.Sequential(nn.GroupNorm(8, self.sight.channels), nn.Conv2d(self.sight.channels, NEAR, 1))
        self.far = nn.Sequential(nn.LayerNorm(self.sight.size), nn.Linear(self.sight.size, FAR), nn.SiLU())
        self.sent_deep = nn.Linear(FAR, 1)
        moves = 5 * 3 + told * action_dim + 3 + 2 + 2 * PLACE_DIM
        told_of = NEAR * POINTS**2 + FAR + moves
        self.enter = nn.Sequential(nn.Linear(told_of, hidden), nn.LayerNorm(hidden), nn.SiLU())
        self.first = nn.Linear(FAR, hidden)
        self.remember = nn.GRUCell(hidden, hidden)
        self.correct = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.SiLU(), nn.Linear(hidden, 3))
        last = self.correct[2]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)  # begins with nothing in the way
        nn.init.zeros_(last.bias)

    def look(self, frame: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A frame (B, 3, H, W) in [-1, 1] -> maps of it (B, NEAR, H / 4, W / 4), the scene as a whole (B, FAR), and
        what is remembered before the first step (B, hidden)."""
        maps, seen = self.sight(frame)
        scene = self.far(seen)
        return self.near(maps), scene, self.first(scene).tanh()

    def deep(self, scene: Tensor) -> Tensor:
        """Whether the hand may be sent into the table, as logits (B,), in scenes (B, FAR) of :meth:`look`."""
        return self.sent_deep(scene)[:, 0]

    def forward(
        self, maps: Tensor, scene: Tensor, memory: Tensor, place: Tensor, places: Tensor, targets: Tensor,
        lowest: Tensor, actions: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Where the hand goes (B, 3), and what is remembered then (B, hidden).

        Args:
            maps, scene: of :meth:`look`.
            memory: (B, hidden) after the step before.
            place: (B, 3) where it would go if nothing were in the way.
            places, targets, actions: as those of :class:`~vidvla.nn.arm.HandNet`.
            lowest: (B, 1) height that the hand may be sent to.
        """
        now = places[:, -1]
        points = seen_at(now, self.camera)[:, None, None] + self.around
        around = F.grid_sample(maps, points, padding_mode="border", align_corners=False).flatten(1)
        moves = [motion(places, targets, actions), place - now, lowest, lowest - now[:, 2:]]
        met = self.enter(torch.cat([around, scene, *moves, features(now), features(place)], dim=1))
        memory = self.remember(met, memory)
        return place + self.correct(torch.cat([met, memory], dim=1)), memory
