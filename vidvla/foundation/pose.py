"""The robot's pose in about unit scale: where its hand is, then its joints."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidvla.nn.arm import Camera
from vidvla.worlds.metaworld import CAMERA, DEEP, JOINT_COUNT, REACH

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


def unit_place(places: Tensor) -> Tensor:
    """(..., 3) metres -> decimetres from the middle of the hand's workspace."""
    return (places - torch.tensor(MIDDLE, device=places.device)) / DECIMETRE


def unit_height(deep: Tensor) -> Tensor:
    """Lowest heights (B, 1) that hands are sent to, where they may be sent into the table (B,) and where not."""
    low, usual = ((height - MIDDLE[2]) / DECIMETRE for height in (DEEP, REACH[0][2]))
    return torch.where(deep[:, None], low, usual)


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


def unit_camera() -> Camera:
    """The camera's projection of unit places."""
    place = np.eye(4)
    place[:3, :3] *= DECIMETRE
    place[:3, 3] = MIDDLE
    return tuple(tuple(row) for row in (np.array(CAMERA) @ place).tolist())
