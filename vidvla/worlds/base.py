"""What every world offers: the simulator, light physics clips, or a model's dream of either."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]
"""One picture: (H, W, 3) uint8 in [0, 255], RGB, upright."""
LARGEST_REWARD = 10.0
"""Meta-World's dense rewards are in [0, 10]; scores divide by it."""


@dataclass(frozen=True)
class ActionSpec:
    """The axes of a world's action vector, one entry an axis.

    Attributes:
        names: what each axis moves.
        units: the unit of each axis, for labels.
        low: smallest value allowed, in that unit.
        high: largest value allowed, in that unit.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.names)

    def check(self, action: NDArray[Any]) -> NDArray[np.float32]:
        """Return ``action`` as float32 (A,); raise ValueError on a wrong shape, a NaN, or a value out of range."""
        value = np.asarray(action, dtype=np.float32)
        if value.shape != (len(self),):
            raise ValueError(f"expected an action of shape ({len(self)},), got {value.shape}")
        if not np.isfinite(value).all():
            raise ValueError("expected finite action values, got NaN or infinity")
        low, high = np.asarray(self.low, np.float32), np.asarray(self.high, np.float32)
        if ((value < low - 1e-4) | (value > high + 1e-4)).any():
            raise ValueError(f"expected actions within {self.low} to {self.high}, got {value.tolist()}")
        return np.clip(value, low, high)


@dataclass(frozen=True)
class StepResult:
    """What one control step did.

    Attributes:
        reward: the world's own dense reward after the step.
        success: True if the task was fulfilled at any moment during this step.
    """

    reward: float
    success: bool


class World(Protocol):
    """A scene that can be reset, acted on, looked at, and branched exactly."""

    name: str
    action_spec: ActionSpec
    steps_per_second: float

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names that ``reset`` takes."""

    def reset(self, task: str, seed: int) -> None:
        """Lay out ``task`` as ``seed`` says; equal seeds give equal worlds, bit for bit."""

    def step(self, action: NDArray[np.float32]) -> StepResult:
        """Hold ``action`` (A,), in the units of ``action_spec``, for one control step."""

    def render(self) -> Frame:
        """The picture of the world as it is now."""

    def expert(self) -> NDArray[np.float32]:
        """The action (A,) that the task's scripted expert would take now."""

    def snapshot(self) -> Any:
        """The whole state; ``restore`` continues from it exactly."""

    def restore(self, snapshot: Any) -> None:
        """Go back to ``snapshot``."""

    def close(self) -> None:
        """Free the simulator and its renderer."""
