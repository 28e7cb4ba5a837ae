"""Attention and its token layout -> heat maps as arrays: where a film looks, and at what."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidvla.types import Attention, TokenLayout

HeatMap = NDArray[np.float32]
"""(side, side), one value a place of a frame, row by row."""


@dataclass(frozen=True)
class LayerMass:
    """Where one layer's future-frame tokens look, as shares of their attention; the shares sum to 1.

    Attributes:
        within: on places of their own frame.
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
    if not all(0 <= value <= 1 for value in place):
        raise ValueError(f"expected a place with row and column from 0 to 1, got {place}")
    maps = []
    for rows, layout in _chosen(attention, layer, head):
        row, column = (min(int(value * layout.side), layout.side - 1) for value in place)
        query = layout.frames[frame][row * layout.side + column]
        maps.append(_square(rows[query, _slice(layout.frames[0])], layout.side))
    return _mean(maps)


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
    masses = []
    for name, maps, layout in zip(attention.layers, attention.maps, attention.layouts, strict=True):
        rows = maps.mean(axis=0, dtype=np.float64)  # (queries, keys)
        by_frame = np.zeros((len(layout.frames), len(layout.frames)))
        text, actions = 0.0, 0.0
        future = range(1, len(layout.frames))
        for t in future:
            looks = rows[_slice(layout.frames[t])].mean(axis=0)  # (keys,)
            by_frame[t] = [looks[_slice(keys)].sum() for keys in layout.frames]
            text += looks[_slice(layout.text)].sum() / len(future)
            actions += looks[_slice(layout.actions)].sum() / len(future)
        within = float(np.trace(by_frame)) / len(future)
        across = float(by_frame.sum()) / len(future) - within
        masses.append(LayerMass(name, within, across, float(text), float(actions)))
    return tuple(masses)


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
