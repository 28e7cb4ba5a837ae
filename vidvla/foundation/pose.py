"""How the robot stands and where things are, in about unit scale."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from vidvla.nn.arm import LINKS, Camera
from vidvla.worlds.metaworld import AVDC_TASKS, CAMERA, DEEP, DEEP_TASKS, JOINT_COUNT, REACH
from vidvla.worlds.metaworld import LINKS as ROBOT

DECIMETRE = 0.1
"""Metres; places are told in decimetres."""
MIDDLE = (0.0, 0.6, 0.2)
"""Of the hand's workspace, metres."""
ANGLES = (1.8, -0.55, -0.7, 1.5, 0.8, 1.1, 2.4)
"""About the middle of the arm's joints, radians."""
FINGERS = (0.02, -0.015)
"""The same of the fingers, metres."""
TURN, SLIDE = 0.5, 0.02
"""Units of joints, radians, and of fingers, metres: each moves something about a decimetre."""
POSE = 3 + JOINT_COUNT
"""Numbers of a pose: where the hand is, then the joints."""
TURNS = Rotation.from_quat([turn for _, turn in ROBOT], scalar_first=True).as_matrix().astype(np.float32)
"""How the arm's links are turned in those before them, (7, 3, 3)."""
KINDS = AVDC_TASKS
"""Kinds of scenes: what is in them, and how deep the hand may be sent, is the task's."""


class Seen(NamedTuple):
    """What N pictures say.

    Attributes:
        poses: (N, POSE) how the robot stands, unit scale.
        things: (N, THINGS) where things are, as :func:`unit_things` has them.
        kinds: (N, len(KINDS)) how likely the scene is of each kind.
    """

    poses: Tensor
    things: Tensor
    kinds: Tensor


def unit_place(places: Tensor) -> Tensor:
    """(..., 3) metres -> decimetres from the middle of the hand's workspace."""
    return (places - torch.tensor(MIDDLE, device=places.device)) / DECIMETRE


def is_deep(kinds: Tensor) -> Tensor:
    """(B, len(KINDS)) -> whether the hand may be sent into the table in the likeliest kind of scene, (B,) bool."""
    deep = torch.tensor([kind in DEEP_TASKS for kind in KINDS], device=kinds.device)
    return deep[kinds.argmax(dim=1)]


def unit_height(deep: Tensor) -> Tensor:
    """Lowest heights (B, 1) that hands are sent to, where they may be sent into the table (B,) and where not."""
    low, usual = ((height - MIDDLE[2]) / DECIMETRE for height in (DEEP, REACH[0][2]))
    return torch.where(deep[:, None], low, usual)


def unit_things(things: Tensor) -> Tensor:
    """(..., THING_COUNT) of :meth:`~vidvla.worlds.metaworld.MetaWorld.things` -> (..., THINGS) about unit scale.

    Quaternions become two columns of a rotation, which jump nowhere (Zhou et al. 2019, arXiv 1812.07035); of the second
    thing its place is all that ever changes. What is not there is in the middle, and not turned.
    """
    place, turn, second, _, goal = things.split([3, 4, 3, 4, 3], dim=-1)
    w, x, y, z = (turn / turn.norm(dim=-1, keepdim=True).clamp(min=1e-6)).unbind(dim=-1)
    columns = [
        1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y),
        2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x),
    ]  # fmt: skip
    there = [unit_place(v) * (v != 0).any(dim=-1, keepdim=True) for v in (place, second, goal)]
    return torch.cat([there[0], torch.stack(columns, dim=-1), *there[1:]], dim=-1)


def metres(places: Tensor) -> NDArray[np.float32]:
    """The inverse of :func:`unit_place`."""
    found: NDArray[np.float32] = (places.cpu() * DECIMETRE + torch.tensor(MIDDLE)).numpy()
    return found


def unit_pose(poses: Tensor) -> Tensor:
    """(..., POSE) metres of the hand, then radians and metres of :meth:`~vidvla.worlds.metaworld.MetaWorld.joints` ->
    unit scale."""
    middle = torch.tensor((*MIDDLE, *ANGLES, *FINGERS), device=poses.device)
    unit = torch.tensor((*[DECIMETRE] * 3, *[TURN] * len(ANGLES), *[SLIDE] * len(FINGERS)), device=poses.device)
    return (poses - middle) / unit


def unit_links(poses: Tensor) -> Tensor:
    """Where the arm's last links are in poses (B, POSE) of unit scale, (B, LINKS, 3) in unit places: forward
    kinematics."""
    angles = poses[:, 3 : 3 + len(ANGLES)] * TURN + torch.tensor(ANGLES, device=poses.device)
    offsets = torch.tensor([offset for offset, _ in ROBOT], device=poses.device)
    fixed = torch.from_numpy(TURNS).to(poses.device)
    place, turn, found = poses.new_zeros(len(poses), 3), torch.eye(3, device=poses.device).expand(len(poses), 3, 3), []
    for link, angle in enumerate(angles.unbind(dim=1)):
        place = place + (turn * offsets[link]).sum(dim=2)
        cos, sin, none = angle.cos(), angle.sin(), torch.zeros_like(angle)
        about = torch.stack([cos, -sin, none, sin, cos, none, none, none, none + 1], dim=1).view(-1, 3, 3)
        # sums, no matrix products: half precision is too coarse
        for factor in (fixed[link].expand_as(about), about):
            turn = (turn[:, :, :, None] * factor[:, None]).sum(dim=2)
        found.append(place)
    return unit_place(torch.stack(found[-LINKS:], dim=1))


def unit_camera() -> Camera:
    """The camera's projection of unit places."""
    place = np.eye(4)
    place[:3, :3] *= DECIMETRE
    place[:3, 3] = MIDDLE
    return tuple(tuple(row) for row in (np.array(CAMERA) @ place).tolist())
