"""Light 2-D physics clips with captions: what phase 1 of pre-training sees before any robot or action."""

from __future__ import annotations

import math
import string
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidvla.worlds.physics_layouts import LAYOUTS
from vidvla.worlds.physics_scene import Scene

KINDS: tuple[str, ...] = ("bounce", "fall", "stack", "occlusion", "rope", "tool")
"""The kinds of clip."""
CAPTIONS: dict[str, tuple[str, ...]] = {
    "bounce": (
        "{thing} is thrown to the {side} and bounces off the wall",
        "{thing} flies to the {side}, hits the wall and bounces back",
        "{thing} drops and bounces on the {surface}",
        "{thing} falls down and bounces back up from the {surface}",
        "{thing} slides {way} across the table and bounces off the edges, seen from above",
        "{thing} moves {way} and bounces around, seen from above",
    ),
    "fall": (
        "{thing} falls onto the {surface}",
        "{thing} falls down and lands on the {surface}",
        "{things} fall onto the {surface}",
        "{things} drop to the {surface}",
        "{thing} falls onto {other}",
        "{thing} drops down and hits {other}",
        "{thing} falls onto the ramp and moves down it to the {side}",
        "{thing} lands on the ramp and goes down to the {side}",
    ),
    "stack": (
        "{thing} rolls to the {side} and knocks over the stack of boxes",
        "{thing} rolls to the {side} into the boxes, which fall",
        "{thing} rolls to the {side} into {pile} and pushes it along",
        "{thing} rolls to the {side} and pushes {pile}",
        "{thing} falls onto the stack of boxes",
        "{thing} drops on top of the stacked boxes",
        "the leaning stack with {top} on top topples to the {side}",
        "the leaning tower of boxes, {top} at its top, collapses to the {side}",
    ),
    "occlusion": (
        "{thing} {moves} to the {side} behind {cover} and comes out again",
        "{thing} {moves} to the {side} and passes behind {cover}",
        "{thing} falls behind {cover} and lands on the {surface}",
        "{thing} drops, is hidden by {cover} and comes down to the {surface}",
        "{cover} slides to the {side} in front of {thing}",
        "{cover} moves to the {side}, hides {thing} and uncovers it",
    ),
    "rope": (
        "{thing} on a rope swings down to the {side}",
        "{thing} hangs on a rope and swings to the {side}",
        "{thing} on a rope swings to the {side} and hits {other}",
        "{rope} is let go at its {side} end and swings down",
        "the {side} end of {rope} comes loose and falls",
        "{thing} falls onto {rope} between two posts",
        "{rope} between two posts catches {thing} that falls on it",
        "{rope} pulls {thing} to the {side} along the {surface}",
    ),
    "tool": (
        "{tool} pushes {thing} to the {side} along the {surface}",
        "{thing} is pushed to the {side} over the {surface} by {tool}",
        "{tool} lifts {thing}",
        "{thing} is lifted up by {tool}",
        "{tool} tilts and {thing} goes down it to the {side}",
        "{tool} slides to the {side} under {thing} and raises it along {post}",
        "{tool} pushes {thing} {way} across the table, seen from above",
    ),
}
"""Caption templates of each kind; a clip uses one whose fields are exactly the words that are true of it."""


@dataclass(frozen=True)
class PhysicsClip:
    """One clip.

    Attributes:
        frames: (T, H, W, 3) uint8 in [0, 255], RGB.
        caption: one lower-case sentence without a full stop that says what moves, and where to.
        kind: one of :data:`KINDS`.
    """

    frames: NDArray[np.uint8]
    caption: str
    kind: str


def _caption(scene: Scene, kind: str) -> str:
    """A template of ``kind`` whose fields are exactly the scene's words, filled in."""
    words = set(scene.words)
    fitting = [
        template
        for template in CAPTIONS[kind]
        if {field for _, field, _, _ in string.Formatter().parse(template) if field} == words
    ]
    return fitting[int(scene.rng.integers(len(fitting)))].format(**scene.words)


def physics_clip(kind: str, seed: int, frames: int = 17, size: int = 128, fps: float = 16.0) -> PhysicsClip:
    """Simulate and draw one clip.

    Args:
        kind: one of :data:`KINDS`.
        seed: 0 to 2**31 - 1; the clip depends on nothing but the arguments.
        frames: pictures to make, at least 1; the first shows the scene before anything has moved.
        size: height and width of a picture in pixels, 16 to 512; a seed shows the same scene at any size.
        fps: pictures a second of simulated time.

    Raises:
        ValueError: an argument is out of range.
    """
    if kind not in KINDS:
        raise ValueError(f"expected a kind out of {', '.join(KINDS)}, got {kind!r}")
    if not 0 <= seed < 2**31:
        raise ValueError(f"expected a seed within 0 to {2**31 - 1}, got {seed}")
    if frames < 1:
        raise ValueError(f"expected at least 1 frame, got {frames}")
    if not 16 <= size <= 512:
        raise ValueError(f"expected a size within 16 to 512 pixels, got {size}")
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"expected a finite frame rate above 0, got {fps}")
    scene = LAYOUTS[kind](np.random.default_rng((KINDS.index(kind), seed)))
    caption = _caption(scene, kind)
    background = scene.background(2 * size)  # drawn at twice the size and averaged, for smooth edges
    clip = np.empty((frames, size, size, 3), np.uint8)
    for index in range(frames):
        if index:
            scene.advance(1 / fps)
        clip[index] = scene.frame(background, size)
    return PhysicsClip(clip, caption, kind)
