"""Recorded episodes as memory-mapped frames and in-memory actions, ready to sample from."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidvla.data.record import EpisodeEntry, read_manifest
from vidvla.text import phrase_book, unrelated_tasks
from vidvla.worlds.base import Frame

T = TypeVar("T", bound=np.generic)


def map_tensor(path: Path, name: str, dtype: type[T]) -> NDArray[T]:
    """A read-only memory map of one tensor of a safetensors file; ValueError where that has none of the name."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    if name not in header:
        raise ValueError(f"expected {name} in {path}, got {', '.join(header)}")
    entry = header[name]
    offset = 8 + length + entry["data_offsets"][0]
    if 0 in entry["shape"]:  # maps of nothing are refused
        return np.zeros(entry["shape"], dtype)
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=tuple(entry["shape"]))


def draw(generator: torch.Generator, high: int) -> int:
    """A uniform whole number in [0, high)."""
    return int(torch.randint(high, (1,), generator=generator))


def pick_phrase(task: str, generator: torch.Generator) -> str:
    """One of the training phrasings of ``task``."""
    phrases = phrase_book()[task].train
    return phrases[draw(generator, len(phrases))]


def pick_mismatch(task: str, among: Sequence[str], share: float, generator: torch.Generator) -> str | None:
    """For ``share`` of the calls, a training phrasing of what scenes of ``task`` do not hold; None for the others.

    Samples that are told so stand still (:func:`held_still`): where a scene leaves one thing to do, a net would learn
    not to listen.

    Args:
        among: the tasks whose phrasings may be told.
        share: of the calls, 0 to 1; nothing is drawn from ``generator`` where it is 0.
    """
    strange = unrelated_tasks(task, among) if share else []
    if not strange or float(torch.rand((), generator=generator)) >= share:
        return None
    return pick_phrase(strange[draw(generator, len(strange))], generator)


def held_still(actions: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, A) unit-scale actions that move nothing: zeros, and the grip, which comes last, as it is in the first."""
    return np.broadcast_to(np.append(np.zeros_like(actions[0, :-1]), actions[0, -1]), actions.shape)


def leave_out_words(shown: Tensor, most: float, generator: torch.Generator) -> Tensor:
    """The mask ``shown`` (B, L) without some tokens, so that instructions are heard in other words than are known.

    Args:
        most: the largest share of a row's tokens that is left out, 0 to 1; each row's own is uniform up to it, and
            nothing is drawn from ``generator`` where it is 0.
    """
    if not most:
        return shown
    share = most * torch.rand((len(shown), 1), generator=generator)
    return shown & (torch.rand(shown.shape, generator=generator) >= share)


@dataclass(frozen=True)
class StoredEpisode:
    """One episode: ``frames`` (T + 1, H, W, 3) uint8 on disk, the rest as in :class:`~vidvla.data.episode.Episode`."""

    entry: EpisodeEntry
    frames: Frame
    actions: NDArray[np.float32]
    expert_actions: NDArray[np.float32]
    hands: NDArray[np.float32]
    joints: NDArray[np.float32]
    things: NDArray[np.float32]
    rewards: NDArray[np.float32]
    fulfilled: NDArray[np.uint8]
    shard: str
    """File that holds the episode."""


class EpisodeStore:
    """All episodes of recorded folders.

    Args:
        folder: written by :func:`vidvla.data.record.record`.
        more: others that are read after it.
    """

    def __init__(self, folder: Path, *more: Path) -> None:
        self.folder = folder
        self.episodes: list[StoredEpisode] = []
        self.frame_count = 0
        for path, shard in ((f / shard.file, shard) for f in (folder, *more) for shard in read_manifest(f)):
            frames = map_tensor(path, "frames", np.uint8)
            actions = np.array(map_tensor(path, "actions", np.float32))
            labels = np.array(map_tensor(path, "expert_actions", np.float32))
            hands = np.array(map_tensor(path, "hands", np.float32))
            joints = np.array(map_tensor(path, "joints", np.float32))
            things = np.array(map_tensor(path, "things", np.float32))
            rewards = np.array(map_tensor(path, "rewards", np.float32))
            fulfilled = np.array(map_tensor(path, "fulfilled", np.uint8))
            for entry in shard.episodes:
                rows = slice(entry.step, entry.step + entry.steps)
                moments = slice(entry.frame, entry.frame + entry.steps + 1)
                self.episodes.append(
                    StoredEpisode(
                        entry, frames[moments], actions[rows], labels[rows], hands[moments], joints[moments],
                        things[moments], rewards[rows], fulfilled[rows], shard.file,
                    )
                )  # fmt: skip
            self.frame_count += len(frames)
        if not self.episodes:
            raise ValueError(f"expected at least one episode in {folder}, got none")

    def pick(self, generator: torch.Generator) -> StoredEpisode:
        """One episode, all alike likely."""
        return self.episodes[draw(generator, len(self.episodes))]


@dataclass(frozen=True)
class FramePairs:
    """Crops at the same place of two frames of one episode.

    Attributes:
        frames: (B, H, W, 3) uint8.
        reference: (B, H, W, 3) uint8, another moment of the same episode.
    """

    frames: Tensor
    reference: Tensor

    def to(self, device: torch.device | str) -> FramePairs:
        return FramePairs(self.frames.to(device), self.reference.to(device))


def sample_crops(
    stores: list[EpisodeStore], shares: list[float], size: int, generator: torch.Generator, crop: int = 64
) -> FramePairs:
    """Crops of ``crop`` pixels on the 16-pixel grid, mostly where something moved between the two frames."""
    frames, references = [], []
    chosen = torch.multinomial(torch.tensor(shares), size, replacement=True, generator=generator)
    for which in chosen.tolist():
        episode = stores[which].pick(generator)
        count = len(episode.frames)
        first, second = draw(generator, count), draw(generator, count)
        frame, reference = episode.frames[first], episode.frames[second]
        places = (frame.shape[0] - crop) // 16 + 1
        options = [(16 * draw(generator, places), 16 * draw(generator, places)) for _ in range(3)]
        change = np.abs(frame[::4, ::4].astype(np.int16) - reference[::4, ::4]).mean(axis=2)
        top, left = max(
            options,
            key=lambda p: change[p[0] // 4 : (p[0] + crop) // 4, p[1] // 4 : (p[1] + crop) // 4].sum(),
        )
        frames.append(frame[top : top + crop, left : left + crop])
        references.append(reference[top : top + crop, left : left + crop])
    return FramePairs(torch.from_numpy(np.stack(frames)), torch.from_numpy(np.stack(references)))
