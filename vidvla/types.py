"""What goes into a family and what comes out of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vidvla.worlds.base import Frame

DENOISING_STEPS = 2
"""What a film is made with unless someone asks otherwise: on the page, in the CLI and in every figure."""


@dataclass(frozen=True)
class Control:
    """Something that a person can set of one family: a number within a range, or one of some choices.

    Attributes:
        name: unique within its family; a request sets it as ``family.name``.
        label: what people read.
        default: what holds where nobody sets it; None where the request's field of the same name holds.
        low, high: ends of the range, both allowed.
        step: of the slider; where it is an int only whole numbers are allowed.
        choices: of which one is picked; the range means nothing then.
        info: a few words on what it does.
    """

    name: str
    label: str
    default: float | str | None = None
    low: float = 0.0
    high: float = 1.0
    step: float = 0.05
    choices: tuple[str, ...] = ()
    info: str = ""

    @property
    def allowed(self) -> str:
        """The allowed values as words: ``from 0 to 10``, ``among first step, last step``."""
        if self.choices:
            return f"among {', '.join(self.choices)}"
        return f"from {self.low:g} to {self.high:g}{', a whole number' if isinstance(self.step, int) else ''}"

    def check(self, value: object, whose: str) -> float | str:
        """``value`` where it is allowed.

        Raises:
            ValueError: one sentence with the allowed values, and ``whose`` control it is.
        """
        if self.choices:
            # a number is as good as its text: the command line knows no difference
            text = f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else value
            if isinstance(text, str) and text in self.choices:
                return text
        elif isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high:
            whole = math.floor(value) == value
            if whole or not isinstance(self.step, int):
                return value
        raise ValueError(f"expected {self.label} of {whose} {self.allowed}; got {str(value)[:40]!r}")


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
        options: ``family.control`` -> value, for the families' own :class:`Control`; defaults hold for the others.
    """

    frame: Frame
    instruction: str
    seed: int = 0
    steps: int = DENOISING_STEPS
    guidance: float = 1.0
    actions: NDArray[np.float32] | None = None
    options: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class TokenLayout:
    """Which rows of a token sequence are what.

    Attributes:
        text: instruction tokens.
        frames: for each frame, first the given one, its grid's tokens row by row. Frames whose ranges are the same are
            held by the same tokens.
        actions: one token a future frame, empty where no action is read.
        side: tokens a side of a frame's square grid.
    """

    text: range
    frames: tuple[range, ...]
    actions: range
    side: int

    def __len__(self) -> int:
        return len(self.text) + sum(len(f) for f in set(self.frames)) + len(self.actions)


@dataclass(frozen=True)
class Attention:
    """Attention maps of one answer, layer by layer.

    Attributes:
        maps: one (heads, queries, keys) float32 array a layer; rows sum to 1, or to 0 of tokens that look at nothing.
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
        target: (H, W, 3) uint8, the picture that the actions are to lead to, for families that plan one.
        target_time: control steps from the given frame to ``target``; None where it is not meant for a moment.
        dreamed_by: title of the other family that dreamed the frames from the actions; empty where the family itself
            predicted them.
        notes: what the person should know, one sentence each.
    """

    frames: Frame
    times: tuple[int, ...]
    actions: NDArray[np.float32] | None
    attention: Attention | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    target: Frame | None = None
    target_time: int | None = None
    dreamed_by: str = ""


Glimpse = Callable[[], Frame]
"""Makes the film (K, H, W, 3) visible as it is so far; good until the callback that gets it returns."""


class ProgressCallback(Protocol):
    """Called with the share done in [0, 1], what is being done, and where a film takes shape, how to see it."""

    def __call__(self, share: float, what: str, glimpse: Glimpse | None = None, /) -> None: ...
