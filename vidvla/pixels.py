"""The one border between pictures and tensors: uint8 [0, 255] channels last <-> float [-1, 1] channels first."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_float(pixels: Tensor | NDArray[np.uint8]) -> Tensor:
    """(..., H, W, 3) uint8 in [0, 255] -> (..., 3, H, W) float32 in [-1, 1]."""
    value = pixels if isinstance(pixels, Tensor) else torch.from_numpy(np.array(pixels))  # a copy: maps are read-only
    if value.dtype != torch.uint8 or value.shape[-1] != 3:
        raise ValueError(f"expected uint8 pixels (..., H, W, 3), got {value.dtype} {tuple(value.shape)}")
    return value.movedim(-1, -3).to(torch.float32) / 127.5 - 1


def to_uint8(value: Tensor) -> NDArray[np.uint8]:
    """(..., 3, H, W) float in [-1, 1] -> (..., H, W, 3) uint8, rounded to the nearest level."""
    if value.shape[-3] != 3:
        raise ValueError(f"expected float pixels (..., 3, H, W), got {tuple(value.shape)}")
    levels = ((value.detach().float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    pixels: NDArray[np.uint8] = levels.movedim(-3, -1).contiguous().cpu().numpy()
    return pixels
