"""vidvla: a world-model playground over trained video and action models.

The building blocks below are fetched at their first use, so that what needs no net (recording episodes in the
simulator, reading the registry) does not load PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vidvla.nn.dit import AdaLayerNorm, DiTBlock
    from vidvla.nn.predictor import InverseDynamics, VideoPredictor, VideoToActionPipeline
    from vidvla.nn.video_dit import VideoActionDiT

__all__ = [
    "AdaLayerNorm",
    "DiTBlock",
    "InverseDynamics",
    "VideoActionDiT",
    "VideoPredictor",
    "VideoToActionPipeline",
]

_HOME = {
    "AdaLayerNorm": "vidvla.nn.dit",
    "DiTBlock": "vidvla.nn.dit",
    "InverseDynamics": "vidvla.nn.predictor",
    "VideoActionDiT": "vidvla.nn.video_dit",
    "VideoPredictor": "vidvla.nn.predictor",
    "VideoToActionPipeline": "vidvla.nn.predictor",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
