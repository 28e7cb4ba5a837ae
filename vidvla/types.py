"""What goes into a family and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vidvla.worlds.base import Frame

DENOISING_STEPS = 2
"""What a film is made with unless someone asks otherwise: on the page, in the CLI and in every figure."""


@dataclass(frozen=True)
class Request:
    """What a person asks of a family.

    Attributes:
        frame: (H, W, 3) uint8, the scene as it is now.
        instruction: what to do, in plain English.
        seed: of every random draw of the answer.
        steps: denoising steps a film; 1 gives the mean future, more give a sample.
        guidance: weight of the instruction (classifier-free guidance); 1 is plain conditioning.
        actions: (N, A) in the world's units, what the robot will do, for families that are told; it holds still
            where None.
        horizon: control steps ahead that a target image shows, for families that imagine one; their own where None.
        image_guidance: weight of the given frame, for families that edit it; 1 is plain conditioning.
        head: the action head that answers, for families with several; their own where None.
    """

    frame: Frame
    instruction: str
    seed: int = 0
    steps: int = DENOISING_STEPS
    guidance: float = 1.0
    actions: NDArray[np.float32] | None = None
    horizon: int | None = None
    image_guidance: float = 1.0
    head: str | None = None


@dataclass(frozen=True)
class TokenLayout:
    """Which rows of a token sequence are what.

    Attributes:
        text: instruction tokens.
        frames: for each frame, first the given one, its grid's tokens row by row.
        actions: one token a future frame, empty where no action is read.
        side: tokens a side of a frame's square grid.
    """

    text: range
    frames: tuple[range, ...]
    actions: range
    side: int

    def __len__(self) -> int:
        return len(self.text) + sum(len(f) for f in self.frames) + len(self.actions)


@dataclass(frozen=True)
class Attention:
    """Attention maps of one answer, layer by layer.

    Attributes:
        maps: one (heads, queries, keys) float32 array a layer; rows sum to 1.
        layouts: which rows and columns of each map are what.
        layers: a name for each layer.
        words: the instruction's tokens as text, in the order of ``layout.text``.
    """

    maps: tuple[NDArray[np.float32], ...]
    layouts: tuple[TokenLayout, ...]
    layers: tuple[str, ...]
    words: tuple[str, ...]


@dataclass(frozen=True)
class Rollout:
    """What a family answered.

    Attributes:
        frames: (K, H, W, 3) uint8 predicted future frames.
        times: control steps from the given frame to each predicted one.
        actions: (N, A) in the world's units, one a control step from now on; None where none is predicted.
        attention: maps, where asked for and the family attends.
        seconds: wall-clock time of each part by name, with "total".
        notes: what the person should know, one sentence each.
        target: (H, W, 3) uint8, what the scene should look like ``target_time`` control steps from now; None where
            the family imagines no single image.
        target_time: control steps from the given frame to ``target``; 0 without one.
        dreamed_by: the family that dreamed ``frames`` from ``actions``, where the answering one predicts none itself.
    """

    frames: Frame
    times: tuple[int, ...]
    actions: NDArray[np.float32] | None
    attention: Attention | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    target: Frame | None = None
    target_time: int = 0
    dreamed_by: str | None = None


ProgressCallback = Callable[[float, str], None]
"""Called with the share done in [0, 1] and what is being done."""
