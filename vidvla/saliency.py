"""Gradient saliency: what an answer depends on, for families that have no attention to show.

The size of the gradient of an output with respect to each place of an input (Simonyan et al. 2013, arXiv 1312.6034).
It says what a small change would matter for, not what the family looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

CELLS = 16
"""Places a side of a map; coarser where the input is."""


@dataclass(frozen=True)
class Traced:
    """One answer as tensors that still know where they came from.

    Attributes:
        pixels: (1, 3, H, W) of the given frame.
        film: (K, 3, h, w) predicted frames; none of them where attention says what they look at.
        actions: (N, A) in unit scale; none where none are predicted.
        reads: (T, C, h, w) what the actions are read from, the given frame first; None: from ``pixels`` alone.
        words: (1, L, D) tokens of the instruction; None where the family is not told any.
        labels: those tokens as text.
    """

    pixels: Tensor
    film: Tensor
    actions: Tensor
    reads: Tensor | None = None
    words: Tensor | None = None
    labels: tuple[str, ...] = ()


def place_saliency(traced: Traced, frame: int, place: tuple[float, float]) -> NDArray[np.float32]:
    """How much the colours around a place of a predicted frame depend on each place of the given one.

    Args:
        frame: number of the predicted frame, 1 to K.
        place: (row, column) in [0, 1], from the upper left corner.

    Returns:
        (side, side) shares that sum to 1, or zeros where it depends on none.

    Raises:
        ValueError: where ``frame`` or ``place`` is out of range.
    """
    if not 1 <= frame <= len(traced.film):
        raise ValueError(f"expected a predicted frame from 1 to {len(traced.film)}, got {frame}")
    if not all(0 <= value <= 1 for value in place):
        raise ValueError(f"expected a place with row and column from 0 to 1, got {place}")
    picture = traced.film[frame - 1]
    (top, bottom), (left, right) = (_cell(value, side) for value, side in zip(place, picture.shape[-2:], strict=True))
    return _shares(_gradient(picture[:, top:bottom, left:right].sum(), traced.pixels))[0]


def word_saliency(traced: Traced, word: int) -> NDArray[np.float32]:
    """How much each place of the predicted frames changes as one word grows: the derivative along its own vector.

    Returns:
        (K, side, side) shares that sum to 1 over all frames, or zeros where nothing changes.

    Raises:
        ValueError: where ``word`` is out of range, or no words or no film are there.
    """
    if traced.words is None or not 0 <= word < traced.words.shape[1]:
        count = 0 if traced.words is None else traced.words.shape[1]
        raise ValueError(f"expected a word from 0 to {count - 1}, got {word}")
    if not len(traced.film):
        raise ValueError("expected an answer with a film, got none")
    along = torch.zeros_like(traced.words)
    along[:, word] = traced.words.detach()[:, word]
    # a forward derivative by two backward ones: the gradient is linear in what it is seeded with
    seed = torch.zeros_like(traced.film, requires_grad=True)
    (backward,) = torch.autograd.grad(traced.film, traced.words, seed, create_graph=True)
    (forward,) = torch.autograd.grad(backward, seed, along, retain_graph=True)
    return _shares(forward)


def action_saliency(traced: Traced) -> NDArray[np.float32]:
    """How much the actions depend on each place of what they are read from, over all axes.

    Returns:
        (T, side, side) shares that sum to 1 over all frames, or zeros where they depend on none.

    Raises:
        ValueError: where no actions are there.
    """
    source = traced.pixels if traced.reads is None else traced.reads
    return _shares(torch.stack([_gradient(axis, source).abs() for axis in _axes(traced)]).sum(dim=0))


def word_shares(traced: Traced) -> NDArray[np.float32]:
    """How much the actions depend on each word, (L,): gradient times token; shares that sum to 1.

    Raises:
        ValueError: where no actions or no words are there.
    """
    if traced.words is None:
        raise ValueError("expected an answer to an instruction, got one that is told none")
    words = traced.words
    parts = [(_gradient(axis, words) * words.detach()).sum(dim=-1)[0].abs() for axis in _axes(traced)]
    total = torch.stack(parts).sum(dim=0)
    shares: NDArray[np.float32] = (total / total.sum().clamp(min=1e-12)).cpu().numpy()
    return shares


def _axes(traced: Traced) -> Iterator[Tensor]:
    """Each axis of the actions, summed over their time."""
    if not len(traced.actions):
        raise ValueError("expected an answer with actions, got none")
    yield from traced.actions.sum(dim=0)


def _gradient(output: Tensor, source: Tensor) -> Tensor:
    """d output / d source, zeros where it does not depend on it; the history stays for further questions."""
    if not output.requires_grad:
        return torch.zeros_like(source)
    (found,) = torch.autograd.grad(output, source, retain_graph=True, allow_unused=True)
    return torch.zeros_like(source) if found is None else found.detach()


def _cell(value: float, side: int) -> tuple[int, int]:
    """The pixels (from, to) of the cell that holds a place in [0, 1]."""
    cells = min(CELLS, side)
    index = min(int(value * cells), cells - 1)
    return index * side // cells, (index + 1) * side // cells


def _shares(gradient: Tensor) -> NDArray[np.float32]:
    """(T, C, h, w) -> (T, side, side) sizes of the gradient as shares of all."""
    sizes = F.adaptive_avg_pool2d(gradient.detach().abs().sum(dim=1), min(CELLS, *gradient.shape[-2:]))
    shares: NDArray[np.float32] = (sizes / sizes.sum().clamp(min=1e-12)).cpu().numpy()
    return shares
