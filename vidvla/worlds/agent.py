"""Agents act in a world one control step at a time, and are scored alike wherever they act."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vidvla.worlds.base import LARGEST_REWARD, Frame, World


class Agent(Protocol):
    """Looks at every frame; may remember what it saw and did since :meth:`reset`."""

    def reset(self) -> None:
        """Forget everything: a new episode begins."""

    def step(self, frame: Frame) -> NDArray[np.float32]:
        """(H, W, 3) uint8 -> the action (A,) for this control step, in the world's units."""


@dataclass(frozen=True)
class Played:
    """What an episode gave.

    Attributes:
        rewards: (T,) in [0, 1] (the world's own, by :data:`LARGEST_REWARD`).
        fulfilled: (T,) bool, whether the step fulfilled the task.
    """

    rewards: NDArray[np.float32]
    fulfilled: NDArray[np.bool_]

    @property
    def score(self) -> float:
        """See :func:`episode_scores`."""
        return float(episode_scores(self.rewards, self.fulfilled))

    @property
    def success(self) -> bool:
        return bool(self.fulfilled.any())


def episode_scores(rewards: NDArray[np.float32], fulfilled: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Mean over the steps of the reward, or of 1 from the first step that fulfils the task: (..., T) -> (...).

    In [0, 1] where rewards are; early success is best.
    """
    done = np.logical_or.accumulate(fulfilled, axis=-1)
    scores: NDArray[np.float32] = np.where(done, 1, np.clip(rewards, 0, 1)).mean(axis=-1, dtype=np.float32)
    return scores


def play(world: World, task: str, seed: int, agent: Agent, steps: int) -> Played:
    """Let ``agent`` act for ``steps`` control steps, to the end or until the task is fulfilled."""
    world.reset(task, seed)
    agent.reset()
    rewards, fulfilled = np.zeros(steps, np.float32), np.zeros(steps, np.bool_)
    for step in range(steps):
        result = world.step(agent.step(world.render()))
        rewards[step], fulfilled[step] = result.reward / LARGEST_REWARD, result.success
        if result.success:
            break
    return Played(rewards, fulfilled)
