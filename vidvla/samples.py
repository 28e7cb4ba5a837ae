"""Shipped frames with what the simulator's expert then did, for machines without a simulator."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vidvla import checkpoint
from vidvla.types import Rollout
from vidvla.worlds.base import Frame

FOLDER = checkpoint.ASSETS / "samples"


@dataclass(frozen=True)
class Sample:
    """A shipped frame with what the simulator's expert then did.

    Attributes:
        frame: (H, W, 3) uint8.
        truth: the expert's film, one frame a control step, and its actions.
    """

    name: str
    instruction: str
    frame: Frame
    truth: Rollout


def read_samples() -> dict[str, Sample]:
    """All that ship, by name."""
    return {sample.name: sample for sample in map(_read, sorted(FOLDER.glob("*.json")))}


def write_sample(sample: Sample, seed: int) -> None:
    """Put a sample into the assets: a strip of its frames, and what was done, beside the ``seed`` of its scene."""
    assert sample.truth.actions is not None
    FOLDER.mkdir(parents=True, exist_ok=True)
    strip = np.concatenate([sample.frame, *sample.truth.frames], axis=1)
    Image.fromarray(strip).save(FOLDER / f"{sample.name}.png", optimize=True)
    meta = {"instruction": sample.instruction, "seed": seed, "actions": sample.truth.actions.round(4).tolist()}
    (FOLDER / f"{sample.name}.json").write_text(json.dumps(meta) + "\n")


def _read(path: Path) -> Sample:
    meta = json.loads(path.read_text())
    strip = np.asarray(Image.open(path.with_suffix(".png")).convert("RGB"))
    frames = np.stack(np.split(strip, strip.shape[1] // strip.shape[0], axis=1))
    actions = np.asarray(meta["actions"], np.float32)
    truth = Rollout(frames[1:], tuple(range(1, len(frames))), actions)
    return Sample(path.stem, meta["instruction"], frames[0], truth)
