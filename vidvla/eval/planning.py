"""Planning to a goal picture in the dream, in the simulator itself, and what a cloned policy does instead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from vidvla import checkpoint, registry
from vidvla.eval.benchmark import tasks_and_all
from vidvla.eval.dreams import reader
from vidvla.eval.metrics import Row, mean, proportion
from vidvla.eval.rollouts import closed_loop, expert_end
from vidvla.families.wma import WorldModel
from vidvla.foundation.dreamer import DreamState
from vidvla.planning import EXECUTE, Actions, Imagine, PlanConfig, goal_cost, plan, shift, towards
from vidvla.text import phrase_book
from vidvla.types import Request
from vidvla.worlds.base import Frame
from vidvla.worlds.metaworld import MetaWorld

PLAN_TASKS = ("door-close", "button-press", "button-press-topdown", "faucet-close", "faucet-open", "handle-press")
"""Tasks whose last picture shows the way: nothing has to be grasped on it."""
PLAN_STEPS = 40
"""Control steps of an episode."""
CLONE = "bc"


@dataclass(frozen=True)
class Situation:
    """What a planner knows: frames seen and actions done so far, and the simulator's state for one that may use it."""

    frames: list[Frame]
    actions: list[Actions]
    state: object


def in_dream(family: WorldModel) -> Callable[[Situation], Imagine]:
    """Candidates are dreamed, all at once."""

    def begin(now: Situation) -> Imagine:
        done = np.stack(now.actions) if now.actions else np.zeros((0, len(family.scale.low)), np.float32)
        state = family.resume(np.stack(now.frames), done)

        def imagine(candidates: Actions) -> Frame:
            return dream_candidates(family, state, candidates)

        return imagine

    return begin


def dream_candidates(family: WorldModel, state: DreamState, candidates: Actions) -> Frame:
    """(N, H, A) actions from one dream -> (N, H, height, width, 3)."""
    many, frames = state.repeat(len(candidates)), []
    for step in range(candidates.shape[1]):
        many = family.imagine(many, candidates[:, step])
        frames.append(family.look(many))
    return np.stack(frames, axis=1)


def in_simulator(world: MetaWorld) -> Callable[[Situation], Imagine]:
    """Candidates are executed, one after the other: what planning could reach with a perfect model."""

    def begin(now: Situation) -> Imagine:
        def imagine(candidates: Actions) -> Frame:
            films = []
            for actions in candidates:
                world.restore(now.state)  # type: ignore[arg-type]
                film = []
                for action in actions:
                    world.step(action)
                    film.append(world.render())
                films.append(np.stack(film))
            return np.stack(films)

        return imagine

    return begin


def goal_picture(world: MetaWorld, task: str, seed: int) -> Frame | None:
    """What the scripted expert leaves behind, or None where it fails."""
    world.reset(task, seed)
    return expert_end(world)


def plan_episode(
    world: MetaWorld, begin: Callable[[Situation], Imagine], goal: Frame, seed: int, config: PlanConfig
) -> tuple[bool, float]:
    """Plan, execute, look, plan again from where ``world`` is -> (fulfilled, cm from the goal's hand at the end)."""
    places, generator = reader().places, np.random.default_rng(seed)
    cost, spec = goal_cost(goal, places), world.action_spec
    now, knots = Situation([world.render()], [], world.snapshot()), None
    fulfilled = False
    for _ in range(PLAN_STEPS // EXECUTE):
        guess = towards(goal, now.frames[-1], places, spec, config) if knots is None else shift(knots, EXECUTE, config)
        *_, last = plan(begin(now), cost, spec, generator, config, guess)
        knots = last.actions[0, :: config.hold]
        world.restore(now.state)  # type: ignore[arg-type]
        frames, actions = list(now.frames), list(now.actions)
        for action in last.actions[0, :EXECUTE]:
            fulfilled = world.step(action).success or fulfilled
            frames.append(world.render())
            actions.append(action)
        now = Situation(frames, actions, world.snapshot())
        if fulfilled:
            break
    place = places(np.stack([goal, now.frames[-1]]))[:, 0]
    return fulfilled, 100 * float(np.linalg.norm(place[0] - place[1]))


def measure_planning(family: WorldModel, tasks: Sequence[str], seeds: range) -> list[Row]:
    """Success within 40 control steps of planning to a goal picture.

    ``success_dream`` plans in the dream, ``success_simulator`` with the same planner in the simulator itself, and
    ``success_bc`` is behaviour cloning, which is told the task instead of being shown the goal.
    """
    chosen = [task for task in PLAN_TASKS if task in tasks]
    world, config = MetaWorld(), PlanConfig()
    clone = registry.family(CLONE).load(checkpoint.ASSETS / "checkpoints", family.device)
    success: dict[str, dict[str, list[float]]] = {}
    distance: dict[str, dict[str, list[float]]] = {}
    for seed in tqdm(seeds, desc="planning"):
        for task in chosen:
            goal = goal_picture(world, task, seed)
            if goal is None:
                continue
            planners = {"dream": in_dream(family), "simulator": in_simulator(world)}
            for name, begin in planners.items():
                world.reset(task, seed)
                done, apart = plan_episode(world, begin, goal, seed, config)
                success.setdefault(name, {t: [] for t in chosen})[task].append(float(done))
                distance.setdefault(name, {t: [] for t in chosen})[task].append(apart)
            world.reset(task, seed)
            phrase = phrase_book()[task].canonical

            def policy(frame: Frame, look: int, phrase: str = phrase, seed: int = seed) -> Actions:
                return clone.act(Request(frame, phrase, seed + look))

            *_, last = closed_loop(world, policy, world.snapshot(), steps=PLAN_STEPS)
            success.setdefault(CLONE, {t: [] for t in chosen})[task].append(float(last.success))
    world.close()
    rows = []
    for name, by_task in success.items():
        rows += tasks_and_all(
            family.name, f"success_{name}", "share", by_task, lambda v: proportion(int(sum(v)), len(v))
        )  # fmt: skip
    for name, by_task in distance.items():
        rows += tasks_and_all(family.name, f"hand_cm_{name}", "cm", by_task, mean)
    return rows
