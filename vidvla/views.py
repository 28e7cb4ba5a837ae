"""What the service hands out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vidvla.types import Control
from vidvla.worlds.base import Frame
from vidvla.worlds.metaworld import Snapshot


@dataclass(frozen=True)
class FamilyInfo:
    """What the page and the CLI say of a family.

    Attributes:
        problem: why it cannot be asked (missing or damaged weights), or None.
        trained: the training records of its checkpoint, in their order.
        told: its dream can be driven by actions.
        general: True where it knows more than a fixed task.
        evolved: True where a controller was evolved in its dream.
        targets: it imagines a single image of what is to come.
        differs: how it departs from what its name stands for.
        controls: what a request can set of it alone, as far as its weights are here.
    """

    name: str
    title: str
    summary: str
    source: str
    films: bool
    acts: bool
    attends: bool
    problem: str | None
    trained: tuple[dict[str, Any], ...]
    general: bool
    told: bool
    evolved: bool
    targets: bool = False
    differs: str = ""
    controls: tuple[Control, ...] = ()


@dataclass(frozen=True)
class SceneView:
    """A simulated scene as it starts.

    Attributes:
        frame: (H, W, 3) uint8.
        instruction: the task's plainest phrasing.
        state: restores the scene exactly.
    """

    task: str
    seed: int
    frame: Frame
    instruction: str
    state: Snapshot


@dataclass(frozen=True)
class Quality:
    """Prediction against truth at the predicted frames' times; one entry a frame, dB and SSIM."""

    times: tuple[int, ...]
    psnr: tuple[float, ...]
    psnr_copy: tuple[float, ...]
    ssim: tuple[float, ...]
    ssim_copy: tuple[float, ...]
