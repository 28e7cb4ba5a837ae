"""Light physics clips: the same for the same seed, in motion, and as their captions say."""

from __future__ import annotations

import re

import numpy as np
import pytest
from numpy.typing import NDArray

from vidvla.worlds.base import Frame
from vidvla.worlds.physics import CAPTIONS, KINDS, PhysicsClip, physics_clip
from vidvla.worlds.physics_scene import COLOURS

SEEDS = range(8)


def named_colours(text: str) -> list[str]:
    """The colour words of ``text``, in their order."""
    return [word for word in re.findall(r"[a-z]+", text) if word in COLOURS]


def mask(frame: Frame, colour: str) -> NDArray[np.bool_]:
    """(H, W): where ``frame`` shows ``colour``, as drawn without a mark, an edge or a highlight."""
    distance = np.abs(frame.astype(np.int16) - np.asarray(COLOURS[colour], np.int16)).max(axis=2)
    return np.asarray(distance <= 14)


def height_of_centre(frame: Frame, colour: str) -> float:
    """Mean row of the pixels of ``colour``: larger is lower in the picture."""
    return float(np.nonzero(mask(frame, colour))[0].mean())


def clips_saying(kind: str, words: str, count: int) -> list[PhysicsClip]:
    """The first ``count`` clips of ``kind`` whose caption has a match of the pattern ``words``."""
    found: list[PhysicsClip] = []
    for seed in range(200):
        if re.search(words, physics_clip(kind, seed, frames=1, size=16).caption):
            found.append(physics_clip(kind, seed))
            if len(found) == count:
                return found
    raise AssertionError(f"expected {count} clips of {kind} that say {words!r}, got {len(found)}")


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_depends_on_its_arguments_only(kind: str) -> None:
    first = physics_clip(kind, 5)
    physics_clip(kind, 6)
    second = physics_clip(kind, 5)
    assert first.frames.shape == (17, 128, 128, 3) and first.frames.dtype == np.uint8
    assert first.kind == kind and first.caption == second.caption
    np.testing.assert_array_equal(first.frames, second.frames)
    assert not np.array_equal(first.frames, physics_clip(kind, 6).frames)


@pytest.mark.parametrize("kind", KINDS)
def test_a_longer_clip_starts_with_the_shorter_one(kind: str) -> None:
    np.testing.assert_array_equal(physics_clip(kind, 3, frames=4).frames, physics_clip(kind, 3).frames[:4])


def test_the_frame_rate_only_changes_when_one_looks() -> None:
    fast, slow = physics_clip("fall", 2, frames=9, fps=16.0), physics_clip("fall", 2, frames=5, fps=8.0)
    np.testing.assert_array_equal(fast.frames[::2], slow.frames)


@pytest.mark.parametrize("kind", KINDS)
def test_a_size_changes_the_resolution_only(kind: str) -> None:
    small, large = physics_clip(kind, 4, frames=3, size=64), physics_clip(kind, 4, frames=3, size=128)
    assert small.caption == large.caption
    averaged = large.frames.reshape(3, 64, 2, 64, 2, 3).mean(axis=(2, 4))
    assert np.abs(averaged - small.frames).mean() < 6


@pytest.mark.parametrize("kind", KINDS)
def test_every_clip_moves(kind: str) -> None:
    for seed in SEEDS:
        frames = physics_clip(kind, seed).frames.astype(np.int16)
        change = np.abs(frames - frames[0]).mean(axis=(1, 2, 3))
        assert change[-1] > 0.4, seed
        assert change.max() > 0.8, seed
        steps = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3))
        assert (steps > 0.02).sum() >= 6, seed  # not one jump, motion over a good part of the clip


@pytest.mark.parametrize("kind", KINDS)
def test_captions_name_a_colour_of_the_first_frame(kind: str) -> None:
    for seed in SEEDS:
        clip = physics_clip(kind, seed)
        assert clip.caption and "{" not in clip.caption and clip.caption == clip.caption.lower()
        colours = named_colours(clip.caption)
        assert colours, clip.caption
        assert any(mask(clip.frames[0], colour).sum() >= 12 for colour in colours), clip.caption


def test_captions_are_varied() -> None:
    assert set(CAPTIONS) == set(KINDS)
    assert all(len(set(templates)) >= 4 for templates in CAPTIONS.values())
    for kind in KINDS:
        assert len({physics_clip(kind, seed, frames=1, size=16).caption for seed in range(30)}) > 20


def test_every_template_is_used() -> None:
    for kind in KINDS:
        captions = [physics_clip(kind, seed, frames=1, size=16).caption for seed in range(250)]
        for template in CAPTIONS[kind]:
            pattern = re.sub(r"\\{\w+\\}", ".+", re.escape(template))
            assert any(re.fullmatch(pattern, caption) for caption in captions), template


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "fly"}, "expected a kind .* got 'fly'"),
        ({"seed": -1}, "expected a seed .* got -1"),
        ({"seed": 2**31}, "expected a seed .* got 2147483648"),
        ({"size": 15}, "expected a size .* got 15"),
        ({"size": 513}, "expected a size .* got 513"),
        ({"frames": 0}, "expected at least 1 frame, got 0"),
        ({"fps": 0.0}, "expected a finite frame rate .* got 0.0"),
        ({"fps": float("nan")}, "expected a finite frame rate .* got nan"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        physics_clip(**{"kind": "fall", "seed": 0, **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize(("seed", "frames", "size"), [(0, 1, 16), (2**31 - 1, 2, 512)])
def test_the_ends_of_the_ranges_are_accepted(seed: int, frames: int, size: int) -> None:
    assert physics_clip("tool", seed, frames=frames, size=size).frames.shape == (frames, size, size, 3)


def test_what_falls_goes_down() -> None:
    for clip in clips_saying("fall", "falls|drops|lands", 6):
        colour = named_colours(clip.caption)[0]
        rows = [height_of_centre(frame, colour) for frame in clip.frames]
        assert rows[-1] - rows[0] > 12, clip.caption
        # Free fall at first: downwards in every frame, and faster and faster.
        assert np.all(np.diff(rows[:5]) > 0) and rows[4] - rows[3] > rows[1] - rows[0], clip.caption


@pytest.mark.parametrize("side", ["left", "right"])
def test_what_is_pushed_goes_where_the_caption_says(side: str) -> None:
    for clip in clips_saying("tool", f"pushes .* to the {side} along", 3):
        colour = named_colours(clip.caption)[1]  # "a red bar pushes a blue box ..."
        start, end = (np.nonzero(mask(clip.frames[t], colour))[1].mean() for t in (0, -1))
        assert (end - start) * (1 if side == "right" else -1) > 15, clip.caption


def test_what_is_lifted_goes_up() -> None:
    for clip in clips_saying("tool", "lifts", 3):
        colour = named_colours(clip.caption)[1]
        assert height_of_centre(clip.frames[0], colour) - height_of_centre(clip.frames[-1], colour) > 20


@pytest.mark.parametrize("words", ["behind|hidden by", "in front of|uncovers"])
def test_occlusion_hides_something_and_shows_it_again(words: str) -> None:
    fully = 0
    for clip in clips_saying("occlusion", words, 6):
        named = named_colours(clip.caption)
        # The cover is named first where it moves, unless the sentence is about what it hides.
        hidden = named[1] if re.match(r"an? \w+ (panel|screen)", clip.caption) else named[0]
        visible = [int(mask(frame, hidden).sum()) for frame in clip.frames]
        lowest = int(np.argmin(visible))
        assert visible[0] > 25 and 0 < lowest < 16, clip.caption
        assert visible[lowest] < 0.5 * visible[0], clip.caption
        assert max(visible[lowest:]) > 2 * visible[lowest] + 20, clip.caption
        fully += visible[lowest] <= 0.02 * visible[0]
    assert fully >= 2
