"""Training samples in pixels: first frames with what follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidvla.data.clips import EpisodeStore, draw, held_still, leave_out_words, pick_mismatch, pick_phrase
from vidvla.data.episode import CLEAN_KINDS
from vidvla.text import TextTokens, text_encoder

ToUnit = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class DemoBatch:
    """B moments of clean demonstrations and what follows.

    Attributes:
        frame: (B, H, W, 3) uint8.
        future: (B, K, H, W, 3) uint8, ``stride`` control steps apart.
        text: instruction tokens.
        actions: (B, K, S, A) unit scale, S = stride.
        action_mask: (B, K, S) bool, False after the episode's end.
    """

    frame: Tensor
    future: Tensor
    text: TextTokens
    actions: Tensor
    action_mask: Tensor

    def to(self, device: torch.device | str) -> DemoBatch:
        return DemoBatch(**{name: value.to(device) for name, value in vars(self).items()})


class Demos:
    """Clean demonstrations of one recorded folder, in pixels.

    Args:
        size: side of the frames in pixels, averaged down from what was recorded.
        drop_words: largest share of an instruction's words that are left out.
        mismatched: share of the moments that are told what their scene does not hold, and after which nothing moves.

    Raises:
        ValueError: where there are no clean demonstrations, or ``size`` does not divide the recorded side.
    """

    def __init__(
        self,
        store: EpisodeStore,
        to_unit: ToUnit,
        frames: int,
        stride: int,
        size: int,
        drop_words: float = 0.0,
        mismatched: float = 0.0,
    ) -> None:
        self.to_unit, self.frames, self.stride = to_unit, frames, stride
        self.drop_words, self.mismatched = drop_words, mismatched
        self.episodes = [
            e for e in store.episodes
            if e.entry.kind in CLEAN_KINDS and e.entry.clean_from <= e.entry.success
        ]  # fmt: skip
        if not self.episodes:
            raise ValueError(f"expected clean demonstrations in {store.folder}, got none")
        self.tasks = sorted({e.entry.task for e in self.episodes})
        side = self.episodes[0].frames.shape[1]
        if side % size:
            raise ValueError(f"expected frames recorded at a multiple of {size} pixels in {store.folder}, got {side}")
        self.shrink = side // size

    def batch(self, size: int, generator: torch.Generator) -> DemoBatch:
        """``size`` moments that ``generator`` draws, in training phrasings: their task's or, mismatched, another's."""
        frames, futures, actions, masks, captions = [], [], [], [], []
        for _ in range(size):
            episode = self.episodes[draw(generator, len(self.episodes))]
            entry = episode.entry
            start = entry.clean_from + draw(generator, entry.success - entry.clean_from + 1)
            moments = start + self.stride * np.arange(self.frames + 1)
            seen = shrink_pixels(np.asarray(episode.frames[np.minimum(moments, entry.steps)]), self.shrink)
            steps = start + np.arange(self.frames * self.stride)
            chosen = self.to_unit(episode.expert_actions[np.minimum(steps, entry.steps - 1)])
            caption = pick_mismatch(entry.task, self.tasks, self.mismatched, generator)
            if caption is None:
                caption = pick_phrase(entry.task, generator)
            else:
                seen, chosen = np.broadcast_to(seen[:1], seen.shape), held_still(chosen)
            frames.append(seen[0])
            futures.append(seen[1:])
            actions.append(chosen.reshape(self.frames, self.stride, -1))
            masks.append((steps < entry.steps).reshape(self.frames, self.stride))
            captions.append(caption)
        stacked = [torch.from_numpy(np.stack(rows)) for rows in (frames, futures, actions, masks)]
        text = text_encoder()(captions)
        heard = TextTokens(text.tokens, leave_out_words(text.mask, self.drop_words, generator))
        return DemoBatch(stacked[0], stacked[1], heard, stacked[2], stacked[3])


def shrink_pixels(frames: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """(..., H, W, 3) averaged over ``factor`` x ``factor`` blocks, rounded."""
    if factor == 1:
        return frames
    *lead, height, width, channels = frames.shape
    blocks = frames.reshape(*lead, height // factor, factor, width // factor, factor, channels)
    return np.rint(blocks.mean(axis=(-4, -2), dtype=np.float32)).astype(np.uint8)
