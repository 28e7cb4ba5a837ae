"""The one border between a world's action units and the unit scale that nets see."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vidvla.worlds.base import ActionSpec


class ActionScale:
    """Linear map of each axis from [low, high] to [-1, 1]; lives in the checkpoint as ``low`` and ``high``."""

    def __init__(self, low: Sequence[float], high: Sequence[float]) -> None:
        if len(low) != len(high) or any(a >= b for a, b in zip(low, high, strict=True)):
            raise ValueError(f"expected one low below each high, got {low} and {high}")
        self.low, self.high = np.asarray(low, np.float32), np.asarray(high, np.float32)

    @classmethod
    def of(cls, spec: ActionSpec) -> ActionScale:
        """The scale of a world's axes."""
        return cls(spec.low, spec.high)

    def saved(self) -> dict[str, list[float]]:
        """The arguments that make this scale again, as plain JSON values."""
        return {"low": self.low.tolist(), "high": self.high.tolist()}

    def to_unit(self, actions: NDArray[np.float32]) -> NDArray[np.float32]:
        """(..., A) in world units -> [-1, 1]."""
        return (2 * (actions - self.low) / (self.high - self.low) - 1).astype(np.float32)

    def to_world(self, unit: NDArray[np.float32]) -> NDArray[np.float32]:
        """(..., A) in unit scale, clipped to [-1, 1] -> world units."""
        return ((np.clip(unit, -1, 1) + 1) / 2 * (self.high - self.low) + self.low).astype(np.float32)
