"""Attention and its token layout -> heat maps as arrays: where a film looks, and at what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidvla.types import Attention, TokenLayout

HeatMap = NDArray[np.float32]
"""(side, side), one value a place of a frame, row by row."""


@dataclass(frozen=True)
class Gaze:
    """What tokens look at on average; everything together sums to 1, frames that the same tokens hold counted once.

    Attributes:
        frames: attention on the places of each frame, the given one first.
        words: (L,) on each of the instruction's words.
        actions: on the action tokens.
    """

    frames: tuple[HeatMap, ...]
    words: NDArray[np.float32]
    actions: float


@dataclass(frozen=True)
class LayerMass:
    """Where some of one layer's tokens look, as shares of their attention; the shares sum to 1.

    Attributes:
        within: on places of their own frame, and of others that the same tokens hold.
        across: on the other frames, the given one included.
        text: on the instruction.
        actions: on action tokens.
    """

    layer: str
    within: float
    across: float
    text: float
    actions: float


def finest_layers(attention: Attention) -> tuple[int, ...]:
    """Indices of the layers that see frames on the finest grid."""
    finest = max(layout.side for layout in attention.layouts)
    return tuple(i for i, layout in enumerate(attention.layouts) if layout.side == finest)


def future_frames(attention: Attention) -> int:
    """How many future frames the maps cover; 0 where only the given frame was looked at."""
    return len(attention.layouts[0].frames) - 1


def holds_both(attention: Attention) -> bool:
    """Whether the given frame and a predicted one are held by the same tokens, so that both are looked at in one."""
    given, *predicted = attention.layouts[0].frames
    return given in predicted


def look_from(
    attention: Attention,
    frame: int,
    place: tuple[float, float],
    layer: int | None = None,
    head: int | None = None,
) -> HeatMap:
    """Where a place of a predicted frame looks in the given frame.

    Args:
        frame: number of the predicted frame, 1 to K.
        place: (row, column) in [0, 1], from the upper left corner.
        layer: index of one layer; the mean of those with the finest grid where None.
        head: index of one head; the mean of all where None.

    Returns:
        (side, side) attention of the place on each place of the given frame; sums to that frame's share.

    Raises:
        ValueError: where ``frame``, ``place``, ``layer`` or ``head`` is out of range.
    """
    if not 1 <= frame <= future_frames(attention):
        raise ValueError(f"expected a predicted frame from 1 to {future_frames(attention)}, got {frame}")
    return place_gaze(attention, frame, place, layer, head).frames[0]


def place_gaze(
    attention: Attention,
    frame: int,
    place: tuple[float, float],
    layer: int | None = None,
    head: int | None = None,
) -> Gaze:
    """What a place of any frame looks at, in which frame.

    Args:
        frame: 0 for the given frame, 1 to K for the predicted ones; others as in :func:`look_from`.

    Raises:
        ValueError: where ``frame``, ``place``, ``layer`` or ``head`` is out of range.
    """
    if not 0 <= frame <= future_frames(attention):
        raise ValueError(f"expected a frame from 0 to {future_frames(attention)}, got {frame}")
    if not all(0 <= value <= 1 for value in place):
        raise ValueError(f"expected a place with row and column from 0 to 1, got {place}")

    def query(layout: TokenLayout) -> slice:
        row, column = (min(int(value * layout.side), layout.side - 1) for value in place)
        token = layout.frames[frame][row * layout.side + column]
        return slice(token, token + 1)

    return _gaze([(rows[query(layout)], layout) for rows, layout in _chosen(attention, layer, head)])


def action_layers(attention: Attention) -> tuple[int, ...]:
    """Indices of the layers that see action tokens; none where actions are not read from tokens."""
    return tuple(i for i, layout in enumerate(attention.layouts) if len(layout.actions))


def action_gaze(attention: Attention, layer: int | None = None, head: int | None = None) -> Gaze:
    """What the action tokens, which the action head reads, look at on average.

    Args:
        layer: index of one layer; the mean of those with action tokens where None.
        head: as in :func:`look_from`.

    Raises:
        ValueError: where ``layer`` or ``head`` is out of range, or there are no action tokens.
    """
    known = action_layers(attention)
    if not known or (layer is not None and layer not in known):
        raise ValueError(
            f"expected a layer with action tokens, {', '.join(map(str, known)) or 'none here'}; got {layer}"
        )
    chosen = [found for index in (known if layer is None else (layer,)) for found in _chosen(attention, index, head)]
    return _gaze([(rows[_slice(layout.actions)], layout) for rows, layout in chosen])


def _gaze(looks: Sequence[tuple[NDArray[np.float32], TokenLayout]]) -> Gaze:
    """The mean over layers of (queries, keys) looks with equal layouts."""
    layout = looks[0][1]
    row = np.mean([rows.mean(axis=0) for rows, _ in looks], axis=0)
    frames = tuple(_square(row[_slice(keys)], layout.side) for keys in layout.frames)
    return Gaze(frames, row[_slice(layout.text)].astype(np.float32), float(row[_slice(layout.actions)].sum()))


def word_map(
    attention: Attention, word: int, frame: int = 0, layer: int | None = None, head: int | None = None
) -> HeatMap:
    """How much each place of a frame looks at one word of the instruction.

    Args:
        word: index in ``attention.words``.
        frame: 0 for the given frame, 1 to K for the predicted ones.
        layer: as in :func:`look_from`.
        head: as in :func:`look_from`.

    Returns:
        (side, side), divided by its sum: the share of the frame's attention to the word that each place pays.

    Raises:
        ValueError: where ``word``, ``frame``, ``layer`` or ``head`` is out of range.
    """
    if not 0 <= word < len(attention.words):
        raise ValueError(f"expected a word from 0 to {len(attention.words) - 1}, got {word}")
    if not 0 <= frame <= future_frames(attention):
        raise ValueError(f"expected a frame from 0 to {future_frames(attention)}, got {frame}")
    maps = [
        _square(rows[_slice(layout.frames[frame]), layout.text[word]], layout.side)
        for rows, layout in _chosen(attention, layer, head)
    ]
    total = _mean(maps)
    return np.asarray(total / max(float(total.sum()), 1e-12), np.float32)


def mass_by_layer(attention: Attention) -> tuple[LayerMass, ...]:
    """How the future-frame tokens of each layer share their attention out.

    Raises:
        ValueError: where the attention covers no future frame.
    """
    if not future_frames(attention):
        raise ValueError("expected attention with future frames, got only the given one")
    return tuple(
        _mass(attention, index, [(t, layout.frames[t]) for t in range(1, len(layout.frames))])
        for index, layout in enumerate(attention.layouts)
    )


def action_mass_by_layer(attention: Attention) -> tuple[LayerMass, ...]:
    """How the action tokens of each layer that has some share their attention out; one belongs to a future frame."""
    return tuple(
        _mass(
            attention,
            index,
            [(t, range(token, token + 1)) for t, token in enumerate(attention.layouts[index].actions, 1)],
        )
        for index in action_layers(attention)
    )


def _mass(attention: Attention, index: int, queries: Sequence[tuple[int, range]]) -> LayerMass:
    """Shares of one layer's ``queries``, each (the frame that it belongs to, its rows), averaged evenly."""
    rows, layout = attention.maps[index].mean(axis=0, dtype=np.float64), attention.layouts[index]
    within = across = text = actions = 0.0
    for own, tokens in queries:
        looks = rows[_slice(tokens)].mean(axis=0)  # (keys,)
        by_frame = np.array([looks[_slice(keys)].sum() for keys in layout.frames])
        within += float(by_frame[own])
        across += sum(
            float(mass) for mass, keys in zip(by_frame, layout.frames, strict=True) if keys != layout.frames[own]
        )  # fmt: skip
        text += float(looks[_slice(layout.text)].sum())
        actions += float(looks[_slice(layout.actions)].sum())
    return LayerMass(attention.layers[index], *(mass / len(queries) for mass in (within, across, text, actions)))


def _chosen(attention: Attention, layer: int | None, head: int | None) -> list[tuple[NDArray[np.float32], TokenLayout]]:
    """(queries, keys) and layout of each layer that is asked for, heads averaged or one picked."""
    if layer is not None and not 0 <= layer < len(attention.maps):
        raise ValueError(f"expected a layer from 0 to {len(attention.maps) - 1}, got {layer}")
    chosen = []
    for index in finest_layers(attention) if layer is None else (layer,):
        maps = attention.maps[index]
        if head is not None and not 0 <= head < len(maps):
            raise ValueError(f"expected a head from 0 to {len(maps) - 1}, got {head}")
        rows = maps.mean(axis=0) if head is None else maps[head]
        chosen.append((rows, attention.layouts[index]))
    return chosen


def _slice(rows: range) -> slice:
    return slice(rows.start, rows.stop)


def _square(values: NDArray[np.float32], side: int) -> HeatMap:
    return values.reshape(side, side).astype(np.float32)


def _mean(maps: list[HeatMap]) -> HeatMap:
    return np.asarray(np.mean(maps, axis=0), np.float32)
