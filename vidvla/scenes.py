"""Scenes of the simulator, and what truly happens in them: the part of the service that asks no family."""

from __future__ import annotations

import functools
import threading

import numpy as np
from numpy.typing import NDArray

from vidvla.text import phrase_book
from vidvla.types import Rollout
from vidvla.views import SceneView
from vidvla.worlds.base import ActionSpec
from vidvla.worlds.metaworld import AVDC_TASKS, MetaWorld, simulator_problem

HORIZON = 16
"""Control steps that a film covers, and the truth beside it."""


class Scenes:
    """One simulator behind one door. Thread-safe; keeps nothing of one caller for another."""

    action_spec: ActionSpec = MetaWorld.action_spec
    steps_per_second: float = MetaWorld.steps_per_second

    def __init__(self) -> None:
        self._world_lock = threading.RLock()

    @functools.cached_property
    def simulator_problem(self) -> str | None:
        """None where scenes can be simulated, otherwise what to install."""
        return simulator_problem()

    @functools.cached_property
    def _world(self) -> MetaWorld:
        if self.simulator_problem is not None:
            raise ValueError(self.simulator_problem)
        return MetaWorld()

    def tasks(self) -> tuple[str, ...]:
        """Task names, those that the models trained on first."""
        if self.simulator_problem is not None:
            return AVDC_TASKS
        return self._world.tasks

    def trained_tasks(self) -> tuple[str, ...]:
        """Tasks that the shipped models trained on."""
        return AVDC_TASKS

    def phrasings(self, task: str) -> tuple[str, ...]:
        """Example instructions of a task."""
        book = phrase_book()
        if task not in book:
            raise ValueError(f"expected a task among {', '.join(book)}; got {task!r}")
        return book[task].train

    def scene(self, task: str, seed: int) -> SceneView:
        """Lay out a task; equal seeds give equal scenes."""
        with self._world_lock:
            self._world.reset(task, seed)
            frame, state = self._world.render(), self._world.snapshot()
        return SceneView(task, seed, frame, phrase_book()[task].canonical, state)

    def truth(self, scene: SceneView, steps: int = HORIZON) -> Rollout:
        """What the simulator's scripted expert does from ``scene``: one frame a control step, and its actions."""
        frames, actions = [], []
        with self._world_lock:
            self._world.restore(scene.state)
            for _ in range(steps):
                action = self._world.expert()
                self._world.step(action)
                actions.append(action)
                frames.append(self._world.render())
        return Rollout(np.stack(frames), tuple(range(1, steps + 1)), np.stack(actions))

    def play(self, scene: SceneView, actions: NDArray[np.float32]) -> Rollout:
        """What the simulator does when ``actions`` (N, A) are executed from ``scene`` without looking."""
        frames, success = [], False
        with self._world_lock:
            self._world.restore(scene.state)
            for action in actions:
                success = self._world.step(action).success or success
                frames.append(self._world.render())
        note = "The task was fulfilled." if success else "The task was not fulfilled."
        return Rollout(np.stack(frames), tuple(range(1, len(frames) + 1)), actions, notes=(note,))
