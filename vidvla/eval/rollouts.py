"""Closed loops: a policy looks, acts for some steps, looks again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidvla.worlds.base import Frame, World

Policy = Callable[[Frame, int], NDArray[np.float32]]
"""(frame, replan number) -> actions (N, A) in the world's units."""

EPISODE_STEPS = 100
"""Control steps of an episode: Meta-World's 500 physics steps."""
EXECUTE = 8
"""Actions executed before the policy looks again."""


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
