"""Planning by imagination: which actions lead to a goal picture, in whatever imagines what actions lead to.

The cross-entropy method with model-predictive control (Chua et al. 2018, arXiv 1805.12114; visual goals as in visual
foresight, Finn and Levine 2017, arXiv 1610.00696). Candidates may come from a policy too: decision mode, as in
UnifoLM-WMA-0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidvla.worlds.base import ActionSpec, Frame

Actions = NDArray[np.float32]
Imagine = Callable[[Actions], Frame]
"""Candidates (N, H, A) in the world's units -> what is seen after each action, (N, H, height, width, 3)."""
Cost = Callable[[Frame], NDArray[np.float64]]
"""Frames (N, height, width, 3) -> how far each is from the goal, (N,)."""
Places = Callable[[Frame], NDArray[np.float32]]
"""Frames (N, height, width, 3) -> where the hand and the scene's thing are in each, (N, 2, 3) metres."""

CELL = 8
"""Pixels a side of the cells that pictures are compared by."""
THING = 2.0
"""Weight of how far the thing is from where it should be, beside the hand."""
EXECUTE = 4
"""Control steps executed of each plan, before looking and planning again."""


@dataclass(frozen=True)
class PlanConfig:
    """How hard to think.

    Attributes:
        horizon: control steps imagined.
        hold: control steps that each sampled command is held for; divides ``horizon``.
        candidates: action sequences an iteration.
        elites: best ones that the next iteration is drawn around.
        iterations: rounds of sampling.
        spread: first standard deviation of commands, as a share of each axis' half range.
        last: weight of the last frame's cost beside the mean over all frames, in [0, 1].
    """

    horizon: int = 12
    hold: int = 4
    candidates: int = 16
    elites: int = 4
    iterations: int = 3
    spread: float = 0.5
    last: float = 0.6

    def __post_init__(self) -> None:
        if self.horizon % self.hold or not 0 < self.elites <= self.candidates or self.iterations < 1:
            raise ValueError(f"expected hold to divide horizon, and 0 < elites <= candidates, got {self}")


@dataclass(frozen=True)
class Considered:
    """One iteration: what was imagined, best candidate first.

    Attributes:
        iteration: from 0.
        actions: (N, H, A) in the world's units.
        films: (N, H, height, width, 3).
        costs: (N,) rising.
    """

    iteration: int
    actions: Actions
    films: Frame
    costs: NDArray[np.float64]


def goal_cost(goal: Frame, places: Places) -> Cost:
    """Distance to a goal picture: the hand's and the thing's, in decimetres, and the picture's, cell by cell.

    A picture says nothing of the way while the arm is somewhere else in it; the hand's place does. Once it is there,
    what it should have moved is told by where the thing is, and by the rest of the picture.
    """
    there, cells = places(goal[None])[0], _cells(goal[None])[0]

    def cost(frames: Frame) -> NDArray[np.float64]:
        apart = 10 * np.linalg.norm(places(frames) - there, axis=2) @ (1, THING)
        differing = np.abs(_cells(frames) - cells).mean(axis=(1, 2, 3)) * 10
        return np.asarray(apart + differing, np.float64)

    return cost


def _cells(frames: Frame) -> NDArray[np.float32]:
    """(N, H, W, 3) -> (N, H / CELL, W / CELL, 3) means in [0, 1]."""
    count, height, width, _ = frames.shape
    shape = (count, height // CELL, CELL, width // CELL, CELL, 3)
    return frames.reshape(shape).mean(axis=(2, 4), dtype=np.float32) / 255


def towards(goal: Frame, now: Frame, places: Places, spec: ActionSpec, config: PlanConfig) -> Actions:
    """A first guess (horizon / hold, A): straight to where the hand is in the goal picture, the gripper closed."""
    target, place = places(np.stack([goal, now]))[:, 0]
    command = np.zeros(len(spec), np.float32)
    command[:3] = 100 * (target - place) / config.horizon * 1.5  # the hand lags behind its commands
    command[-1] = spec.high[-1]
    knots = np.tile(command, (config.horizon // config.hold, 1))
    return np.clip(knots, spec.low, spec.high).astype(np.float32)


def shift(knots: Actions, executed: int, config: PlanConfig) -> Actions:
    """The rest of a plan (K, A) after ``executed`` control steps, its last command held on."""
    gone = executed // config.hold
    return np.concatenate([knots[gone:], np.repeat(knots[-1:], gone, axis=0)])


def plan(
    imagine: Imagine,
    cost: Cost,
    spec: ActionSpec,
    generator: np.random.Generator,
    config: PlanConfig,
    guess: Actions | None = None,
    proposals: Actions | None = None,
) -> Iterator[Considered]:
    """Cross-entropy method, an iteration at a time; the best of the last one is the plan.

    Args:
        guess: (horizon / hold, A) commands to begin around; standing still where None.
        proposals: (P, horizon, A) candidates of someone else for the first iteration.

    Raises:
        ValueError: where proposals have another shape.
    """
    low, high = np.asarray(spec.low, np.float32), np.asarray(spec.high, np.float32)
    knots, half = config.horizon // config.hold, (high - low) / 2
    mean = np.zeros((knots, len(spec)), np.float32) if guess is None else guess
    deviation = np.tile(config.spread * half, (knots, 1)).astype(np.float32)
    if proposals is not None and proposals.shape[1:] != (config.horizon, len(spec)):
        raise ValueError(f"expected proposals (P, {config.horizon}, {len(spec)}), got {proposals.shape}")
    kept: tuple[Actions, Frame, NDArray[np.float64]] | None = None  # the best so far is never lost, nor imagined again
    for iteration in range(config.iterations):
        drawn = mean + deviation * generator.standard_normal((config.candidates, *mean.shape), dtype=np.float32)
        if iteration == 0:
            drawn[0] = mean
        sequences = np.repeat(np.clip(drawn, low, high), config.hold, axis=1)
        if iteration == 0 and proposals is not None:
            sequences = np.concatenate([sequences, np.clip(proposals, low, high).astype(np.float32)])
        films = imagine(sequences)
        count, steps = films.shape[:2]
        each = cost(films.reshape(count * steps, *films.shape[2:])).reshape(count, steps)
        costs = config.last * each[:, -1] + (1 - config.last) * each.mean(axis=1)
        if kept is not None:
            sequences, films = np.concatenate([kept[0], sequences]), np.concatenate([kept[1], films])
            costs = np.concatenate([kept[2], costs])
        order = np.argsort(costs)
        sequences, films, costs = sequences[order], films[order], costs[order]
        yield Considered(iteration, sequences, films, costs)
        kept = (sequences[:1], films[:1], costs[:1])
        elites = sequences[: config.elites].reshape(-1, knots, config.hold, len(spec)).mean(axis=2)
        mean = elites.mean(axis=0)
        deviation = elites.std(axis=0) + 0.05 * half  # never so sure that nothing else is tried
