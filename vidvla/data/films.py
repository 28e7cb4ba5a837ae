"""Training windows: a first frame, future frames as latents, the instruction, and the actions between."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import Tensor
from tqdm import tqdm

from vidvla.data.clips import (
    EpisodeStore,
    StoredEpisode,
    draw,
    held_still,
    leave_out_words,
    map_tensor,
    pick_mismatch,
    pick_phrase,
)
from vidvla.data.episode import CLEAN_KINDS
from vidvla.nn.codec import FrameCodec
from vidvla.pixels import to_float
from vidvla.text import TextTokens, phrase_book, text_encoder

Latents = NDArray[np.float16]
"""(T + 1, C, h, w): an episode's frames as the codec encodes them."""


class EncodedFrames:
    """Episodes' frames as a codec encodes them, shard by shard when first asked for.

    They are computed once a codec and shard and kept beside the data, so that adding shards costs only their own.

    Args:
        fingerprint: of the codec's weights, so that stale latents are never read.
    """

    def __init__(self, store: EpisodeStore, codec: FrameCodec, fingerprint: str) -> None:
        self.store, self.codec, self.fingerprint = store, codec, fingerprint
        self._shards: dict[str, Latents] = {}

    def __getitem__(self, episode: StoredEpisode) -> Latents:
        if episode.shard not in self._shards:
            path = self.store.folder / f"{Path(episode.shard).stem}.latents-{self.fingerprint}.safetensors"
            if not path.is_file():
                _encode_shard([e for e in self.store.episodes if e.shard == episode.shard], self.codec, path)
            self._shards[episode.shard] = map_tensor(path, "latents", np.float16)
        start = episode.entry.frame
        return self._shards[episode.shard][start : start + len(episode.frames)]

    def encode(self, episodes: Sequence[StoredEpisode]) -> None:
        """Have the shards of ``episodes`` ready."""
        for episode in tqdm({e.shard: e for e in episodes}.values(), desc="encoding frames", delay=0.5):
            self[episode]


@torch.no_grad()
def _encode_shard(episodes: list[StoredEpisode], codec: FrameCodec, path: Path, batch: int = 64) -> None:
    device = next(codec.parameters()).device
    frames = np.concatenate([e.frames for e in sorted(episodes, key=lambda e: e.entry.frame)])
    parts = [codec.encode(to_float(frames[i : i + batch]).to(device)) for i in range(0, len(frames), batch)]
    partial = path.with_suffix(".partial")
    save_file({"latents": torch.cat(parts).half().cpu().numpy()}, partial)
    partial.replace(path)


@dataclass(frozen=True)
class FilmBatch:
    """B windows of K future frames.

    Attributes:
        pixels: (B, H, W, 3) uint8, the first frame.
        first: (B, C, h, w) its latents.
        future: (B, K, C, h, w) latents of the future frames.
        times: (B, K) control steps from the first frame.
        known: (B, K) bool, True where a future frame is given rather than predicted.
        text: instruction tokens; with nothing visible where the instruction was dropped.
        actions: (B, K, S, A) unit-scale actions leading up to each future frame, S = steps between frames.
        action_mask: (B, K, S) bool, False after the episode's end or where there are no actions.
    """

    pixels: Tensor
    first: Tensor
    future: Tensor
    times: Tensor
    known: Tensor
    text: TextTokens
    actions: Tensor
    action_mask: Tensor

    def to(self, device: torch.device | str) -> FilmBatch:
        moved = {name: value.to(device) for name, value in vars(self).items()}
        return FilmBatch(**moved)


@dataclass(frozen=True)
class MotionBatch:
    """B films of consecutive control steps with the actions executed between their frames.

    Attributes:
        latents: (B, T + 1, C, h, w).
        actions: (B, T, A) unit scale.
        mask: (B, T) bool, False after the episode's end, where the last frame stands still.
    """

    latents: Tensor
    actions: Tensor
    mask: Tensor

    def to(self, device: torch.device | str) -> MotionBatch:
        return MotionBatch(self.latents.to(device), self.actions.to(device), self.mask.to(device))


@dataclass(frozen=True)
class WindowSpec:
    """How windows are cut.

    Attributes:
        frames: future frames K.
        stride: control steps between them.
        infill: share of windows of frames one step apart that give every ``stride``-th and ask for those in between.
        drop_text: share of windows without instruction, for classifier-free guidance.
        drop_words: largest share of an instruction's words that are left out, for windows to be told in other words
            than are known.
        mismatched: share of a robot's windows that are told what their scene does not hold, and in which nothing
            moves (:func:`~vidvla.data.clips.pick_mismatch`).
        starts: share of the windows of an expert's episodes that begin with the first frame: scenes as people ask
            about them, which uniform windows hardly ever show.
        weights: how often a task's episodes are drawn beside others', 1 where it is not named.
    """

    frames: int = 4
    stride: int = 4
    infill: float = 0.0
    drop_text: float = 0.1
    drop_words: float = 0.0
    mismatched: float = 0.0
    starts: float = 0.0
    weights: Mapping[str, float] = field(default_factory=dict)


class FilmData:
    """Windows of one recorded folder.

    Args:
        folder: recorded episodes.
        codec: encodes them, once.
        fingerprint: of the codec's weights, so that stale latents are never read.
        caption: gives an episode's instruction from a whole number drawn at random.
        to_unit: actions from the world's units to unit scale, or None for clips without actions.
    """

    def __init__(
        self,
        folder: Path,
        codec: FrameCodec,
        fingerprint: str,
        to_unit: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None,
        limit: int | None = None,
    ) -> None:
        self.store = EpisodeStore(folder)
        self.latents = EncodedFrames(self.store, codec, fingerprint)
        self.to_unit = to_unit
        clean = [e for e in self.store.episodes if e.entry.kind in CLEAN_KINDS and e.entry.success >= 0]
        plain = [e for e in self.store.episodes if e.entry.caption]
        self.episodes = (plain or [e for e in clean if e.entry.clean_from <= e.entry.success])[:limit]
        if not self.episodes:
            raise ValueError(f"expected episodes with a predictable future in {folder}, got none")
        self.tasks = sorted({e.entry.task for e in self.episodes})
        self.latents.encode(self.episodes)

    def caption(self, episode: StoredEpisode, generator: torch.Generator) -> str:
        """One training phrasing of the episode's task, or the clip's own caption."""
        return episode.entry.caption or pick_phrase(episode.entry.task, generator)

    def batch(self, size: int, spec: WindowSpec, generator: torch.Generator) -> FilmBatch:
        """``size`` windows drawn by ``generator`` alone."""
        for task in spec.weights.keys() - set(self.tasks) - phrase_book().keys():  # known ones may be recorded later
            raise ValueError(f"expected tasks to weigh among {', '.join(phrase_book())}; got {task!r}")
        weights = torch.tensor([float(spec.weights.get(e.entry.task, 1.0)) for e in self.episodes])
        chosen = torch.multinomial(weights, size, replacement=True, generator=generator).tolist()
        windows = [self._window(self.episodes[index], spec, generator) for index in chosen]
        pixels, latents, times, known, actions, masks, captions = zip(*windows, strict=True)
        text = text_encoder()(captions)
        seen = text.mask & (torch.rand((size, 1), generator=generator) >= spec.drop_text)
        seen = leave_out_words(seen, spec.drop_words, generator)
        stacked = torch.from_numpy(np.stack(latents).astype(np.float32))
        return FilmBatch(
            torch.from_numpy(np.stack(pixels)), stacked[:, 0], stacked[:, 1:],
            torch.tensor(np.stack(times)), torch.tensor(np.stack(known)),
            TextTokens(text.tokens, seen),
            torch.from_numpy(np.stack(actions)), torch.from_numpy(np.stack(masks)),
        )  # fmt: skip

    def _window(self, episode: StoredEpisode, spec: WindowSpec, generator: torch.Generator) -> tuple[Any, ...]:
        entry = episode.entry
        from_start = float(torch.rand((), generator=generator)) < spec.starts
        if from_start and entry.kind == "expert":
            start = 0
        elif entry.success >= 0:  # a robot: start anywhere between the first clean step and the success
            start = entry.clean_from + draw(generator, entry.success - entry.clean_from + 1)
        else:
            start = draw(generator, max(1, len(episode.frames) - spec.frames * spec.stride))
        infill = float(torch.rand((), generator=generator)) < spec.infill
        if infill:
            times = np.arange(1, spec.frames + 1)
            known = times % spec.stride == 0
        else:
            times = spec.stride * np.arange(1, spec.frames + 1)
            known = np.zeros(spec.frames, dtype=bool)
        moments = np.minimum(start + np.concatenate([[0], times]), entry.steps)
        latents = self.latents[episode][moments]
        steps = start + np.arange(spec.frames * spec.stride)
        mask = (steps < entry.steps) & (self.to_unit is not None) & (not infill)
        chosen = episode.expert_actions[np.minimum(steps, entry.steps - 1)]
        unit = self.to_unit(chosen) if self.to_unit is not None else np.zeros_like(chosen)
        caption = self.caption(episode, generator)
        mismatch = pick_mismatch(entry.task, self.tasks, spec.mismatched, generator)
        if mismatch is not None:
            caption, unit = mismatch, held_still(unit)
            latents = np.broadcast_to(latents[:1], latents.shape)
        shape = (spec.frames, spec.stride)
        return (
            np.asarray(episode.frames[start]), latents, times, known,
            unit.reshape(*shape, -1).astype(np.float32), mask.reshape(shape), caption,
        )  # fmt: skip

    def motion_batch(self, size: int, steps: int, generator: torch.Generator) -> MotionBatch:
        """``size`` films of ``steps`` actions from episodes of every kind: inverse dynamics needs diverse actions."""
        if self.to_unit is None:
            raise ValueError("expected a world with actions, got clips without")
        self.latents.encode(self.store.episodes)
        latents, actions, masks = [], [], []
        for _ in range(size):
            episode = self.store.pick(generator)
            start = draw(generator, episode.entry.steps)
            moments = np.minimum(start + np.arange(steps + 1), episode.entry.steps)
            latents.append(self.latents[episode][moments])
            actions.append(self.to_unit(episode.actions[np.minimum(moments[:-1], episode.entry.steps - 1)]))
            masks.append(start + np.arange(steps) < episode.entry.steps)
        rows = [torch.from_numpy(np.stack(values)) for values in (latents, actions, masks)]
        return MotionBatch(rows[0].float(), rows[1], rows[2])
