"""Planning beside a person: a drive goes to a goal picture by itself, one plan after the other, for all to see.

Each plan is found by imagination (:mod:`vidvla.planning`) from the newest moment of a drive, its first actions are
driven like a person's, then it looks and plans again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidvla.drive import Drive, Moment
from vidvla.eval.rollouts import Policy
from vidvla.families.base import fit_square
from vidvla.planning import (
    EXECUTE,
    Actions,
    Considered,
    Places,
    PlanConfig,
    goal_cost,
    plan,
    shift,
    towards,
)
from vidvla.worlds.base import ActionSpec, Frame

MOST_PLANS = 10
LARGEST_SEED = 2**31 - 1
PROPOSALS = 4
"""Chunks of actions, of different seeds, that a policy proposes to each plan."""


@dataclass(frozen=True)
class Thought:
    """One iteration of one plan.

    Attributes:
        plan: from 1.
        proposed: which of the candidates are a policy's, (N,) in the order of ``considered``.
        seconds: wall clock of this iteration.
    """

    plan: int
    considered: Considered
    proposed: NDArray[np.bool_]
    seconds: float


@dataclass(frozen=True)
class Driven:
    """A control step that a plan led to."""

    plan: int
    moment: Moment


@dataclass(frozen=True)
class Planned:
    """How it ended.

    Attributes:
        fulfilled: the simulator's word; None where there is none.
        apart: cm from the hand to the goal's hand, both read from pictures by a net.
        plans: made.
        steps: driven.
        thinking: seconds of wall clock that the plans took.
    """

    fulfilled: bool | None
    apart: float
    plans: int
    steps: int
    thinking: float


Event = Thought | Driven | Planned


def frame_of(drive: Drive, step: int, *, branch: str | None = None, true: bool = False) -> Frame:
    """The frame of a step of the present line or of a branch, dreamed or true.

    Raises:
        ValueError: where there is no such step or branch, or nobody knows its truth.
    """
    line = drive.line if branch is None else drive.kept(branch).moments
    if not 0 <= step < len(line):
        raise ValueError(f"expected a step from 0 to {len(line) - 1} as the goal, got {step}")
    frame = line[step].truth if true else line[step].dream
    if frame is None:
        raise ValueError("expected a simulated scene for a true frame, got a picture that is only dreamed on")
    return frame


def fitted(drive: Drive, picture: Frame) -> Frame:
    """A picture of any size at the size of the drive's frames."""
    return fit_square(picture, drive.now.dream.shape[0])


def steer(
    drive: Drive, goal: Frame, places: Places, *, policy: Policy | None = None, plans: int = 1, seed: int = 0,
    config: PlanConfig | None = None,
) -> Iterator[Event]:  # fmt: skip
    """Drive to a goal picture until the simulator says fulfilled, or so many plans were made.

    Stops where its caller stops asking: after an iteration or a control step, and the drive is then as far as it came.

    Args:
        goal: (H, W, 3) at the size of the drive's frames.
        policy: proposes candidates to each plan's first iteration; without one they are all drawn at random.
        plans: from 1 to :data:`MOST_PLANS`.
        seed: fixes chance.

    Raises:
        ValueError: before anything is imagined, where an argument is not usable or the drive has too little room.
    """
    if not 1 <= plans <= MOST_PLANS:
        raise ValueError(f"expected 1 to {MOST_PLANS} plans, got {plans}")
    if not 0 <= seed <= LARGEST_SEED:
        raise ValueError(f"expected a seed from 0 to {LARGEST_SEED}, got {seed}")
    if goal.shape != drive.now.dream.shape:
        raise ValueError(f"expected a goal picture {drive.now.dream.shape}, got {goal.shape}")
    drive.check_room(plans * EXECUTE)
    return _steer(drive, goal, places, policy, plans, seed, config or PlanConfig())


def _steer(
    drive: Drive, goal: Frame, places: Places, policy: Policy | None, plans: int, seed: int, config: PlanConfig
) -> Iterator[Event]:
    cost, generator, knots = goal_cost(goal, places), np.random.default_rng(seed), None
    thinking, steps, fulfilled = 0.0, 0, False
    for number in range(1, plans + 1):
        start, now = time.perf_counter(), _seen(drive)
        guess = towards(goal, now, places, drive.spec, config) if knots is None else shift(knots, EXECUTE, config)
        first = seed + (number - 1) * PROPOSALS
        proposals = None if policy is None else _proposed(policy, now, first, drive.spec, config)
        best = guess
        for considered in plan(drive.ahead(), cost, drive.spec, generator, config, guess, proposals):
            seconds, best = time.perf_counter() - start, considered.actions[0]
            thinking += seconds
            yield Thought(number, considered, _among(considered.actions, proposals), seconds)
            start = time.perf_counter()
        knots = best.reshape(-1, config.hold, len(drive.spec)).mean(axis=1)
        for action in best[:EXECUTE]:
            moment = drive.step(action)
            steps += 1
            fulfilled = fulfilled or moment.fulfilled
            yield Driven(number, moment)
        if fulfilled:
            break
    place = places(np.stack([goal, _seen(drive)]))[:, 0]
    apart = 100 * float(np.linalg.norm(place[0] - place[1]))
    yield Planned(fulfilled if drive.simulated else None, apart, number, steps, thinking)


def _seen(drive: Drive) -> Frame:
    """What a planner sees now: the truth where it is known."""
    return drive.now.dream if drive.now.truth is None else drive.now.truth


def _proposed(policy: Policy, now: Frame, first: int, spec: ActionSpec, config: PlanConfig) -> Actions:
    """(P, horizon, A) what a policy would do now, each with a seed of its own; cut, or its last action held on."""
    chunks = []
    for look in range(first, first + PROPOSALS):
        actions = np.clip(policy(now, look), spec.low, spec.high).astype(np.float32)[: config.horizon]
        missing = config.horizon - len(actions)
        chunks.append(np.concatenate([actions, np.repeat(actions[-1:], missing, axis=0)]))
    return np.unique(np.stack(chunks), axis=0)


def _among(actions: Actions, proposals: Actions | None) -> NDArray[np.bool_]:
    """Which of (N, H, A) actions are proposals."""
    if proposals is None:
        return np.zeros(len(actions), bool)
    return np.array([(row == proposals).all(axis=(1, 2)).any() for row in actions])
