"""Windows of consecutive control steps that an action-conditioned world model learns from, in pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidvla.data.clips import EpisodeStore, StoredEpisode, draw
from vidvla.data.demos import ToUnit
from vidvla.worlds.base import Frame
from vidvla.worlds.metaworld import AVDC_TASKS, DEEP, DEEP_TASKS, REACH

LARGEST_MOVE = 0.05
"""Metres that a full action sends the hand, an axis."""

PLATE_FRAMES = 15
"""Of an episode, that its plate is made of."""
ROOM_FRAMES = 1000
"""Of all episodes, that the picture of the empty room is made of."""


def sent(start: NDArray[np.float32], unit: NDArray[np.float32], deep: bool = False) -> NDArray[np.float32]:
    """Where the hand is sent by unit-scale actions (T, A) from ``start`` (3,), metres: (T + 1, 3), the start first.

    Args:
        deep: it may be sent into the table.
    """
    low, high = np.asarray(REACH, np.float32)
    low[2] = DEEP if deep else low[2]
    targets = [start]
    for action in unit:
        targets.append(np.clip(targets[-1] + LARGEST_MOVE * action[:3], low, high))
    return np.stack(targets).astype(np.float32)


@dataclass(frozen=True)
class MoveBatch:
    """B windows of how the robot stands, is sent and is told; fields as in :class:`DreamBatch`.

    Attributes:
        kind: (B,) index of the task.
        within: (B, T) bool, False for control steps after the episode's end.
    """

    poses: Tensor
    things: Tensor
    targets: Tensor
    actions: Tensor
    kind: Tensor
    within: Tensor

    def to(self, device: torch.device | str) -> MoveBatch:
        return MoveBatch(**{name: value.to(device) for name, value in vars(self).items()})


@dataclass(frozen=True)
class DreamBatch:
    """B windows of ``history`` given frames and the T that follow.

    Attributes:
        frames: (B, history + T, H, W, 3) uint8 in the order of time.
        anchor: (B, H, W, 3) uint8, an earlier frame of the episode.
        anchor_pose: (B, 3 + J) of the robot in that earlier frame: where its hand is, metres, and its joints, radians
            and metres.
        anchor_things: (B, K) where things are in it, as the world has them.
        poses: (B, history + T, 3 + J), the robot's of each frame.
        things: (B, history + T, K), those of each frame.
        targets: (B, T + 1, 3) metres, where the hand had been sent by the newest given frame and each of the T.
        actions: (B, T, told, A) unit scale: those that led to each of the T frames, newest first.
    """

    frames: Tensor
    anchor: Tensor
    anchor_pose: Tensor
    anchor_things: Tensor
    poses: Tensor
    things: Tensor
    targets: Tensor
    actions: Tensor

    def to(self, device: torch.device | str) -> DreamBatch:
        return DreamBatch(**{name: value.to(device) for name, value in vars(self).items()})


Moment = tuple[StoredEpisode, int]
"""A frame of an episode."""


class DreamWindows:
    """Windows of one recorded folder, of episodes of every kind: a world model has to know what failure looks like.

    Args:
        to_unit: actions from the world's units to unit scale.
        history: frames that are given.
        told: actions that each following frame is told; zeros before an episode's first.
    """

    def __init__(self, store: EpisodeStore, to_unit: ToUnit, history: int, told: int) -> None:
        self.store, self.to_unit, self.history, self.told = store, to_unit, history, told
        self.longest = max(episode.entry.steps for episode in store.episodes)
        self._plates: dict[int, Frame] = {}
        self.targets = {id(e): sent(e.hands[0], to_unit(e.actions), _deep(e)) for e in store.episodes}

    def batch(self, size: int, steps: int, generator: torch.Generator, *, plates: bool = False) -> DreamBatch:
        """``size`` windows with ``steps`` following frames, drawn by ``generator`` alone.

        Args:
            plates: give episodes' :meth:`plate` as anchors.
        """
        rows = []
        for _ in range(size):
            episode, now = self._place(steps, generator, fits=True)
            earlier = draw(generator, now + 1)
            anchor = self.plate(episode) if plates else np.asarray(episode.frames[earlier])
            frames = np.asarray(episode.frames[self._moments(episode, now, steps)])
            pose = _poses(episode, np.array([earlier]))[0]
            rows.append((frames, anchor, pose, episode.things[earlier], *self._moves(episode, now, steps)))
        return DreamBatch(*(torch.from_numpy(np.stack(values)) for values in zip(*rows, strict=True)))

    def moved(self, size: int, steps: int, generator: torch.Generator, around: Sequence[Moment] = ()) -> MoveBatch:
        """The same without pictures: many at once cost nothing.

        Args:
            around: half of the windows have one of these among their following frames.
        """
        places = []
        for _ in range(size):
            episode, now = self._place(steps, generator)
            if around and draw(generator, 2):
                episode, moment = around[draw(generator, len(around))]
                now = min(max(moment - 1 - draw(generator, steps), 0), max(episode.entry.steps - steps, 0))
            places.append((episode, now))
        return self._stacked(places, steps)

    def moves(self, episode: StoredEpisode) -> MoveBatch:
        """All steps of an episode, each as a window with one following frame."""
        return self._stacked([(episode, now) for now in range(episode.entry.steps)], 1)

    def _stacked(self, places: Sequence[Moment], steps: int) -> MoveBatch:
        """Windows from their newest given frames on."""
        moves = zip(*(self._moves(episode, now, steps) for episode, now in places), strict=True)
        kinds = [AVDC_TASKS.index(episode.entry.task) for episode, _ in places]
        within = np.stack([now + np.arange(steps) < episode.entry.steps for episode, now in places])
        poses, things, targets, actions = (torch.from_numpy(np.stack(values)) for values in moves)
        return MoveBatch(poses, things, targets, actions, torch.tensor(kinds), torch.from_numpy(within))

    def plate(self, episode: StoredEpisode) -> Frame:
        """The episode's scene, as far as its arm ever leaves it free, (H, W, 3).

        The arm is red and black. So of all that a pixel showed, about the greenest is the scene: not the very greenest,
        which the fingers are when they pass.
        """
        if id(episode) not in self._plates:
            moments = np.linspace(0, episode.entry.steps, PLATE_FRAMES).astype(int)
            frames = np.asarray(episode.frames[moments])
            chosen = np.argsort(frames[..., 1], axis=0)[-1 - PLATE_FRAMES // 5]
            self._plates[id(episode)] = np.take_along_axis(frames, chosen[None, ..., None], axis=0)[0]
        return self._plates[id(episode)]

    def room(self) -> Frame:
        """The empty room, (H, W, 3): the colour that most frames of all episodes show in a place.

        Renderings have no noise: what is not hidden has the same colour in every one of them. So has the arm where
        episodes begin, and where it is lit evenly: it is red, and left aside.
        """
        episodes = self.store.episodes[:: -(-len(self.store.episodes) // ROOM_FRAMES)]
        frames = np.stack([e.frames[e.entry.steps * (4 + i % 4) // 7] for i, e in enumerate(episodes)]).astype(np.int32)
        red, green, blue = np.moveaxis(frames, -1, 0)
        none = -1 - np.arange(len(frames))[:, None, None]  # each another one
        colours = np.sort(np.where(red > 2 * green, none, red << 16 | green << 8 | blue), axis=0)
        best, longest, run = colours[0], np.zeros(colours.shape[1:]), np.zeros(colours.shape[1:])
        for before, now in zip([colours[0], *colours], colours, strict=False):
            run = np.where(now == before, run + 1, 1)
            best, longest = np.where(run > longest, now, best), np.maximum(run, longest)
        return np.stack([best >> 16, best >> 8 & 255, best & 255], axis=-1).astype(np.uint8)

    def _place(self, steps: int, generator: torch.Generator, *, fits: bool = False) -> tuple[StoredEpisode, int]:
        """An episode, and the newest given frame of a window in it.

        Args:
            fits: the window does not go on past the episode's end, where any is long enough.
        """
        episode = self.store.pick(generator)
        while fits and episode.entry.steps < min(steps, self.longest):
            episode = self.store.pick(generator)
        return episode, draw(generator, max(episode.entry.steps - steps, 0) + 1)

    def _moments(self, episode: StoredEpisode, now: int, steps: int) -> NDArray[np.int64]:
        return np.clip(now + np.arange(1 - self.history, steps + 1), 0, episode.entry.steps)

    def _moves(self, episode: StoredEpisode, now: int, steps: int) -> tuple[NDArray[np.float32], ...]:
        """Poses, things, targets and actions of a window."""
        moments = self._moments(episode, now, steps)
        lead = now + np.arange(steps)[:, None] - np.arange(self.told)
        actions = self.to_unit(episode.actions[np.clip(lead, 0, episode.entry.steps - 1)])
        actions[lead < 0] = 0
        newest = moments[self.history - 1 :]
        return _poses(episode, moments), episode.things[moments], self.targets[id(episode)][newest], actions


def _deep(episode: StoredEpisode) -> bool:
    return episode.entry.task in DEEP_TASKS


def _poses(episode: StoredEpisode, moments: NDArray[np.int64]) -> NDArray[np.float32]:
    """(len(moments), 3 + J): where the hand is, metres, then the joints, radians and metres."""
    return np.concatenate([episode.hands[moments], episode.joints[moments]], axis=1)
