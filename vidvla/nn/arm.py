"""The robot in a dream: where its hand goes, how the joints follow, and how its arm looks then."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidvla.nn.conv import ResBlock

Camera = tuple[tuple[float, float, float, float], ...]
"""Rows of a (3, 4) projection: ``camera @ (place, 1) = (x d, y d, d)``, x to the right, y downwards, from -1 to 1."""

Links = Callable[[Tensor], Tensor]
"""Poses (B, 3 + J), about unit scale -> where the arm's links are, (B, LINKS, 3), in the units of places."""
LINKS = 5
"""Links whose places are marked for the picture of the arm, beside the hand."""

RATES = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Radians a unit (a decimetre of a place, half a radian of a joint) of the waves that a pose is told by: the fastest
tell a centimetre apart."""
WAVES = 1 + 2 * len(RATES)
"""Features of one number."""
PLACE_DIM = 3 * WAVES

MAPS = 3
"""Maps of :func:`hand_maps`."""
NEAR = 0.2
"""Radius, in half pictures, of the spot that marks a hand."""


def features(values: Tensor) -> Tensor:
    """(B, D) -> (B, D * WAVES): places or joints themselves, and waves of them."""
    angle = (values[:, :, None] * torch.tensor(RATES, device=values.device)).flatten(1)
    return torch.cat([values, angle.sin(), angle.cos()], dim=1)


def seen_at(place: Tensor, camera: Tensor) -> Tensor:
    """Where places (B, 3) lie in the picture of ``camera`` (3, 4), (B, 2): x and y from -1 to 1."""
    place = F.pad(place, (0, 1), value=1.0)
    x, y, depth = (place[:, None] * camera).sum(dim=2).unbind(dim=1)  # no matrix product: half precision is too coarse
    return torch.stack([x, y], dim=1) / depth[:, None].clamp(min=0.05)


def hand_maps(hand: Tensor, like: Tensor) -> Tensor:
    """How far every place of the picture lies from the hand: (B, MAPS, h, w), of the size of ``like``.

    Args:
        hand: (B, 2) where it is seen, x and y from -1 to 1.
    """
    height, width = like.shape[-2:]
    ys = torch.linspace(-1, 1, height, device=like.device).view(1, 1, height, 1)
    xs = torch.linspace(-1, 1, width, device=like.device).view(1, 1, 1, width)
    x, y = hand.clamp(-3, 3).view(-1, 2, 1, 1).split(1, dim=1)
    across, down = (xs - x).expand(-1, -1, height, -1), (ys - y).expand(-1, -1, -1, width)
    return torch.cat([across, down, torch.exp(-(across.square() + down.square()) / (2 * NEAR**2))], dim=1)


def motion(places: Tensor, targets: Tensor, actions: Tensor) -> Tensor:
    """How the hand moves and is sent, (B, 15 + told * A)."""
    now = places[:, -1]
    ahead = [now, now - places[:, -2], targets[:, 0] - now, targets[:, 1] - now, targets[:, 1]]
    return torch.cat([*ahead, actions.flatten(1)], dim=1)


class HandNet(nn.Module):
    """Where the hand goes next: it follows, with a lag, where it has been sent.

    Args:
        told: actions that are told, newest first.
        action_dim: A.
        hidden: width of its layers.
    """

    def __init__(self, told: int, action_dim: int, hidden: int = 256) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(5 * 3 + told * action_dim, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(),
            nn.Linear(hidden, 3),
        )  # fmt: skip

    def forward(self, places: Tensor, targets: Tensor, actions: Tensor) -> Tensor:
        """The next place (B, 3) after places (B, history, 3), targets (B, 2, 3) and actions (B, told, A)."""
        return places[:, -1] + self.layers(motion(places, targets, actions))


class JointNet(nn.Module):
    """How the arm follows its hand: seven joints can hold a hand in a place in more than one way.

    Args:
        joints: J.
        told: actions that are told, newest first: the last entry of each is the gripper's.
        hidden: width of its layers.
    """

    def __init__(self, joints: int, told: int, hidden: int = 256) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2 * (3 + joints) + 6 + told, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(),
            nn.Linear(hidden, joints),
        )  # fmt: skip

    def forward(self, poses: Tensor, place: Tensor, actions: Tensor) -> Tensor:
        """The next joints (B, J) after poses (B, history, 3 + J), for a hand that goes to ``place`` (B, 3).

        Args:
            poses, place: about unit scale, as the joints that are returned.
            actions: (B, told, A) unit scale.
        """
        now = poses[:, -1]
        moves = [now, now - poses[:, -2], place, place - now[:, :3], actions[:, :, -1]]
        return now[:, 3:] + self.layers(torch.cat(moves, dim=1))


class Level(nn.Module):
    """One level of :class:`ArmNet`: twice as fine, told where hand and links are seen and what the arm does."""

    def __init__(self, coarse: int, channels: int, told: int) -> None:
        super().__init__()
        self.up = nn.Sequential(nn.Conv2d(coarse, 4 * channels, 1), nn.PixelShuffle(2))
        self.mix = nn.Conv2d(channels + (1 + LINKS) * MAPS, channels, 3, padding=1)
        self.tell = nn.Linear(told, 2 * channels)
        self.block = ResBlock(channels)

    def forward(self, x: Tensor, told: Tensor, marks: Sequence[Tensor]) -> Tensor:
        """x (B, coarse, h, w), told (B, T), each of marks (B, 2) -> (B, channels, 2 h, 2 w)."""
        x = self.up(x)
        x = self.mix(torch.cat([x, *(hand_maps(mark, x) for mark in marks)], dim=1))
        scale, shift = self.tell(told)[:, :, None, None].chunk(2, dim=1)
        out: Tensor = self.block(x * (1 + scale) + shift)
        return out


class ArmNet(nn.Module):
    """Draws the arm, and nothing else, from its pose.

    Drawn from that rather than from earlier frames it stays as sharp in a dream's last frame as in its first. Where its
    links are follows from the joints by the robot's own geometry, and is marked in the picture: where the hand is out
    of it, nothing else says where to draw.

    Args:
        side: of the coarsest level, a sixteenth of the picture's.
        joints: J.
        width: channels of the finest level.
        camera: projects places to the picture.
        links: the robot's forward kinematics.
    """

    camera: Tensor

    def __init__(self, side: int, joints: int, width: int = 16, *, camera: Camera, links: Links) -> None:
        super().__init__()
        c1, c2, c3, hidden = width, 3 * width, 6 * width, 16 * width
        self.side, self.links = side, links
        self.register_buffer("camera", torch.tensor(camera), persistent=False)
        self.told = nn.Sequential(
            nn.Linear((3 + joints) * WAVES, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU()
        )
        self.grid = nn.Linear(hidden, c3 * side**2)
        self.level_16, self.level_32, self.level_64 = (
            Level(c3, c3, hidden),
            Level(c3, c2, hidden),
            Level(c2, c1, hidden),
        )
        self.out = nn.Sequential(nn.GroupNorm(8, c1), nn.SiLU(), nn.Conv2d(c1, 4 * 4, 3, padding=1), nn.PixelShuffle(2))
        last = self.out[2]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        nn.init.constant_(last.bias[12:], -2.0)  # begins with what lies behind

    def forward(self, pose: Tensor) -> tuple[Tensor, Tensor]:
        """Its colours (B, 3, H, W), and as a logit where it covers what lies behind it (B, 1, H, W).

        Args:
            pose: (B, 3 + J) the hand's place, then the joints, about unit scale.
        """
        told = self.told(features(pose))
        places = torch.cat([pose[:, None, :3], self.links(pose)], dim=1)
        marks = [seen_at(place, self.camera) for place in places.unbind(dim=1)]
        x = self.grid(told).unflatten(1, (-1, self.side, self.side))
        for level in (self.level_16, self.level_32, self.level_64):
            x = level(x, told, marks)
        colours, covers = self.out(x).split([3, 1], dim=1)
        return colours, covers
