"""Pure functions of arrays: image quality, intervals, and the one row format of every figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from skimage.metrics import structural_similarity

from vidvla.worlds.base import Frame

Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""


def psnr(predicted: Frame, true: Frame) -> float:
    """Peak signal-to-noise ratio of two uint8 frames of one shape, dB; infinite where they are equal."""
    if predicted.shape != true.shape:
        raise ValueError(f"expected two frames of one shape, got {predicted.shape} and {true.shape}")
    error = float(np.mean((predicted.astype(np.float64) - true.astype(np.float64)) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def ssim(predicted: Frame, true: Frame) -> float:
    """Structural similarity (scikit-image, 7-pixel window, channels averaged) of two uint8 frames."""
    return float(structural_similarity(predicted, true, channel_axis=2, data_range=255))


@dataclass(frozen=True)
class Estimate:
    """A mean over ``n`` trials with its 95 % interval."""

    value: float
    n: int
    low: float
    high: float


def proportion(successes: int, n: int) -> Estimate:
    """Share of successes with Wilson's interval."""
    if n < 1:
        raise ValueError("expected at least one trial, got none")
    share, z2 = successes / n, Z95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return Estimate(share, n, min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half)))


def mean(values: Sequence[float]) -> Estimate:
    """Mean with the normal approximation's interval; a single value is its own interval."""
    if not values:
        raise ValueError("expected at least one value, got none")
    array = np.asarray(values, np.float64)
    middle = float(array.mean())
    half = Z95 * float(array.std(ddof=1)) / math.sqrt(len(array)) if len(array) > 1 else 0.0
    return Estimate(middle, len(array), middle - half, middle + half)


@dataclass(frozen=True)
class Row:
    """One figure: what was measured, of which family, on which task ("all" for the mean over tasks)."""

    family: str
    task: str
    metric: str
    value: float
    unit: str
    n: int
    low: float
    high: float

    @classmethod
    def of(cls, family: str, task: str, metric: str, unit: str, estimate: Estimate) -> Row:
        """A row from an estimate, rounded to what it can bear."""
        value, low, high = (round(v, 4) for v in (estimate.value, estimate.low, estimate.high))
        return cls(family, task, metric, value, unit, estimate.n, low, high)
