"""A dream as a world: what a model imagines is reset, acted on, looked at and branched like the simulator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from vidvla.worlds.base import LARGEST_REWARD, ActionSpec, Frame, StepResult, World

Judge = Callable[[Frame, str], float]
"""(frame, task) -> how likely the task is fulfilled in the frame, in [0, 1]."""


@runtime_checkable
class Mind(Protocol):
    """A model that dreams one control step at a time; its states are values that are never changed in place."""

    def begin(self, frame: Frame) -> Any:
        """The state of a dream that begins with a true frame (H, W, 3) uint8."""

    def imagine(self, state: Any, actions: NDArray[np.float32], seed: int) -> Any:
        """The state after actions (B, A) in the world's units, each of B dreams its own; ``seed`` fixes chance."""

    def sample(self, state: Any, actions: NDArray[np.float32], seed: int) -> Any:
        """The same with chance having its say: dreams of several seeds part where the model is unsure."""

    def look(self, state: Any) -> Frame:
        """What is seen in a state, (B, H, W, 3)."""


@runtime_checkable
class Resuming(Mind, Protocol):
    """A mind that can look again: its dream goes on from several true frames."""

    def resume(self, frames: Frame, actions: NDArray[np.float32]) -> Any:
        """The state after true frames (T, H, W, 3) and the actions (N, A), world units, up to the last of them."""


@runtime_checkable
class Rewarding(Mind, Protocol):
    """A mind that predicts what its world would reward."""

    def outcome(self, state: Any, actions: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Of actions (B, A) in the world's units, in a state: rewards (B,) in [0, 1], the world's own by
        :data:`~vidvla.worlds.base.LARGEST_REWARD`, and how likely they fulfil the task, (B,) in [0, 1]."""


@dataclass(frozen=True)
class Moment:
    """A dream as it stands: what :meth:`Dream.snapshot` returns."""

    task: str
    seed: int
    steps: int
    frame: Frame
    state: Any


class Dream:
    """Only the first frame is true: it comes from ``world``, and everything after it from ``mind``.

    Args:
        mind: dreams on from frames and actions.
        world: lays tasks out; is not stepped.
        judge: tells fulfilled tasks from pictures, and its word is the reward; without one it is the mind that says
            what is rewarded and fulfilled, where it is :class:`Rewarding`, and nothing ever is where it is not.
        threshold: of their word, above which a step counts as success.
    """

    def __init__(self, mind: Mind, world: World, judge: Judge | None = None, threshold: float = 0.5) -> None:
        self.name = f"dream of {world.name}"
        self.action_spec: ActionSpec = world.action_spec
        self.steps_per_second = world.steps_per_second
        self._mind, self._world, self._judge, self._threshold = mind, world, judge, threshold
        self._now: Moment | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        return self._world.tasks

    def _moment(self) -> Moment:
        if self._now is None:
            raise ValueError("expected a dream that has begun: reset it first")
        return self._now

    def reset(self, task: str, seed: int) -> None:
        self._world.reset(task, seed)
        self.begin(self._world.render(), task, seed)

    def begin(self, frame: Frame, task: str = "", seed: int = 0) -> None:
        """Dream on from any frame, such as an uploaded one; it is shown as the mind sees it, at the mind's size."""
        state = self._mind.begin(frame)
        self._now = Moment(task, seed, 0, self._mind.look(state)[0], state)

    def step(self, action: NDArray[np.float32]) -> StepResult:
        now = self._moment()
        chance = int(np.random.SeedSequence([now.seed, now.steps]).generate_state(1)[0] >> 1)
        checked = self.action_spec.check(action)[None]
        state = self._mind.imagine(now.state, checked, chance)
        frame = self._mind.look(state)[0]
        self._now = Moment(now.task, now.seed, now.steps + 1, frame, state)
        reward = likely = 0.0
        if self._judge is not None:
            reward = likely = self._judge(frame, now.task)
        elif isinstance(self._mind, Rewarding):
            reward, likely = (float(value[0]) for value in self._mind.outcome(now.state, checked))
        return StepResult(LARGEST_REWARD * reward, likely > self._threshold)

    def render(self) -> Frame:
        return self._moment().frame.copy()

    def expert(self) -> NDArray[np.float32]:
        raise ValueError("expected the simulator: a scripted expert cannot see where things are in a dream")

    def snapshot(self) -> Moment:
        return self._moment()

    def restore(self, snapshot: Moment) -> None:
        self._now = snapshot

    def close(self) -> None:
        self._now = None
