"""Closed loops: a policy looks, acts for some steps, looks again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidvla.types import Rollout
from vidvla.worlds.base import Frame, World

Policy = Callable[[Frame, int], NDArray[np.float32]]
"""(frame, replan number) -> actions (N, A) in the world's units."""

EPISODE_STEPS = 100
"""Control steps of an episode: Meta-World's 500 physics steps."""
EXECUTE = 8
"""Actions executed before the policy looks again."""
TAIL = 1
"""Control steps that the expert goes on for after its success, before the picture of what it leaves behind."""
RANK_STEPS = 48
"""Control steps of an episode that is both dreamed and simulated."""


def expert_end(world: World) -> Frame | None:
    """What the scripted expert leaves behind when it goes on from where ``world`` stands; None where it fails."""
    for _ in range(EPISODE_STEPS):
        if world.step(world.expert()).success:
            for _ in range(TAIL):
                world.step(world.expert())
            return world.render()
    return None


@dataclass(frozen=True)
class Chunk:
    """What happened between two looks.

    Attributes:
        plan: number of the replan, from 0.
        frames: (T + 1, H, W, 3) from the frame that the policy saw on; empty of later frames where not recorded.
        actions: (T, A) executed.
        success: True if the task was fulfilled in this chunk; the loop ends then.
        steps: control steps of the episode so far.
    """

    plan: int
    frames: Frame
    actions: NDArray[np.float32]
    success: bool
    steps: int


def closed_loop(
    world: World,
    policy: Policy,
    start: Any,
    *,
    steps: int = EPISODE_STEPS,
    execute: int = EXECUTE,
    film: bool = False,
) -> Iterator[Chunk]:
    """Run ``policy`` from the snapshot ``start`` until success or ``steps``, a chunk at a time.

    The world is restored before and saved after each chunk, so that others may use it in between.

    Args:
        execute: actions executed before looking again.
        film: render after every step instead of only when the policy looks.
    """
    if execute < 1 or steps < 1:
        raise ValueError(f"expected at least 1 step and 1 executed action, got {steps} and {execute}")
    state, done, plan = start, 0, 0
    while done < steps:
        world.restore(state)
        frames = [world.render()]
        actions = policy(frames[0], plan)[: min(execute, steps - done)]
        world.restore(state)  # someone else may have moved the world while the policy thought
        success, executed = False, 0
        for action in actions:
            success = world.step(action).success
            executed += 1
            if film:
                frames.append(world.render())
            if success:
                break
        state = world.snapshot()
        done += executed
        yield Chunk(plan, np.stack(frames), actions[:executed], success, done)
        if success:
            return
        plan += 1


@dataclass(frozen=True)
class Execution:
    """Progress of a closed loop after one more chunk.

    Attributes:
        frames: (T, H, W, 3) the whole film so far.
        steps: control steps so far.
        plans: times that the family looked.
        success: True once the task is fulfilled.
        done: True when the loop has ended.
    """

    frames: Frame
    actions: NDArray[np.float32]
    steps: int
    plans: int
    success: bool
    done: bool


def filmed_loop(
    world: World, policy: Policy, start: Any, first: Frame, guard: AbstractContextManager[Any], *,
    steps: int = EPISODE_STEPS, execute: int = EXECUTE,
) -> Iterator[Execution]:  # fmt: skip
    """:func:`closed_loop` with the film so far after every chunk.

    Args:
        first: what ``start`` looks like.
        guard: held during a chunk, free between two: others may use the world then. It is entered many times.
    """
    films, actions = [first[None]], []
    chunks = closed_loop(world, policy, start, steps=steps, execute=execute, film=True)
    while True:
        with guard:
            chunk = next(chunks, None)
        if chunk is None:
            return
        films.append(chunk.frames[1:])
        actions.append(chunk.actions)
        done = chunk.success or chunk.steps >= steps
        film, executed = np.concatenate(films), np.concatenate(actions)
        yield Execution(film, executed, chunk.steps, chunk.plan + 1, chunk.success, done)


@dataclass(frozen=True)
class Look:
    """What a family saw when it looked, and what it answered.

    Attributes:
        step: control steps executed until then.
        frame: (H, W, 3), what it saw.
        rollout: what it imagined, and the actions of which the first ones were executed.
    """

    step: int
    frame: Frame
    rollout: Rollout


@dataclass(frozen=True)
class Watched:
    """A closed loop so far, beside what was imagined at every look."""

    execution: Execution
    looks: tuple[Look, ...]

    @property
    def seconds(self) -> float:
        """Wall-clock time that the family thought."""
        return sum(look.rollout.seconds["total"] for look in self.looks)


def watched_loop(
    world: World, ask: Callable[[Frame, int], Rollout], start: Any, first: Frame, guard: AbstractContextManager[Any], *,
    steps: int = EPISODE_STEPS, execute: int = EXECUTE,
) -> Iterator[Watched]:  # fmt: skip
    """:func:`filmed_loop` with the whole answer at every look; arguments as there.

    Args:
        ask: (frame, replan number) -> answer, with actions.
    """
    looks: list[Look] = []
    now: Execution | None = None

    def policy(frame: Frame, plan: int) -> NDArray[np.float32]:
        rollout = ask(frame, plan)
        if rollout.actions is None:
            raise ValueError("expected an answer with actions, got a film alone")
        looks.append(Look(0 if now is None else now.steps, frame, rollout))
        return rollout.actions

    for now in filmed_loop(world, policy, start, first, guard, steps=steps, execute=execute):
        yield Watched(now, tuple(looks))
