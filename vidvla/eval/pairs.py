"""One start, twice: what a policy does in a dream, and what it does in the simulator."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vidvla.eval.rollouts import Execution
from vidvla.worlds.agent import Agent, Played, play
from vidvla.worlds.base import Frame, World
from vidvla.worlds.dream import Judge


@dataclass(frozen=True)
class Both:
    """One policy in a dream and in the simulator, after one more chunk of one of them.

    Attributes:
        dream: how far it is in the dream; None before the first chunk.
        real: the same in the simulator.
        likely: the highest word of the dream's judge so far, in [0, 1].
    """

    dream: Execution | None = None
    real: Execution | None = None
    likely: float = 0.0

    @property
    def agree(self) -> bool | None:
        """Whether both end alike; None before both have ended."""
        if self.dream is None or self.real is None or not (self.dream.done and self.real.done):
            return None
        return self.dream.success == self.real.success


class Highest:
    """A judge that remembers its highest word."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self.value = 0.0

    def __call__(self, frame: Frame, task: str) -> float:
        likely = self._judge(frame, task)
        self.value = max(self.value, likely)
        return likely


def in_turn(dream: Iterator[Execution], real: Iterator[Execution], judge: Highest) -> Iterator[Both]:
    """A chunk of the dream, a chunk of the simulator, and so on; the one that takes longer ends alone."""
    now = Both()
    while now.agree is None:
        if now.dream is None or not now.dream.done:
            chunk = next(dream)
            now = replace(now, dream=chunk, likely=judge.value)  # its word on this chunk, too
            yield now
        if now.real is None or not now.real.done:
            now = replace(now, real=next(real))
            yield now


@dataclass(frozen=True)
class Run:
    """An agent's episode, to its end or until the task is fulfilled.

    Attributes:
        frames: (steps + 1, H, W, 3).
        steps: control steps.
        score: see :func:`~vidvla.worlds.agent.episode_scores`.
    """

    frames: Frame
    steps: int
    score: float
    success: bool

    @classmethod
    def of(cls, frames: Frame, played: Played) -> Run:
        """What was played, cut where the task is fulfilled."""
        steps = int(played.fulfilled.argmax()) + 1 if played.success else len(played.fulfilled)
        return cls(frames[: steps + 1], steps, played.score, played.success)


@dataclass(frozen=True)
class Replay:
    """A controller in its own dream, as the dream itself sees it, and in the simulator from the same layout."""

    dream: Run
    real: Run


class _Watched:
    """An agent, with what it saw."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self.frames: list[Frame] = []

    def reset(self) -> None:
        self._agent.reset()
        self.frames.clear()

    def step(self, frame: Frame) -> NDArray[np.float32]:
        self.frames.append(frame)
        return self._agent.step(frame)


def play_filmed(world: World, task: str, seed: int, agent: Agent, steps: int) -> Run:
    """:func:`~vidvla.worlds.agent.play` with a film."""
    watched = _Watched(agent)
    played = play(world, task, seed, watched, steps)
    return Run.of(np.stack([*watched.frames, world.render()]), played)
