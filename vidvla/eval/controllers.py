"""Controllers evolved in a dream: what they score in it, and what is left of that in the simulator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from vidvla.eval.benchmark import tasks_and_all
from vidvla.eval.metrics import Row, mean, proportion
from vidvla.families.base import CONTROLLERS, EVOLVED, EVOLVED_STEPS, Family
from vidvla.worlds.agent import play
from vidvla.worlds.metaworld import MetaWorld

TAUS = (0.1, 0.5, 1.0, 1.3)
"""Temperatures of the dreams: a controller that exploits a sure dream is found out in an unsure one (Ha & Schmidhuber
2018, section 4.4)."""
OWN_TAU = 1.0
"""The temperature whose score stands for the dream's."""


def measure_controllers(family: Family, tasks: Sequence[str], seeds: range) -> list[Row]:
    """Scores in [0, 1] a control step over :data:`~vidvla.families.base.EVOLVED_STEPS`, in dreams and in the simulator.

    Both are counted by :func:`~vidvla.worlds.agent.episode_scores`. ``dream_score`` is of dreams that begin as the
    held-out layouts do; ``real_score`` and ``real_success`` are of the simulator, the evolved controller without a
    suffix, others of :data:`~vidvla.families.base.CONTROLLERS` beside it on the same layouts.
    """
    world = MetaWorld()
    scores: dict[str, dict[str, list[float]]] = {}
    successes: dict[str, dict[str, list[float]]] = {}
    for task in tasks:
        frames = []
        for seed in seeds:
            world.reset(task, seed)
            frames.append(world.render())
        for tau in TAUS:
            found = family.dream_scores(np.stack(frames), tau, seed=seeds.start).tolist()
            scores.setdefault(f"dream_score_tau_{tau:g}", {})[task] = found
            if tau == OWN_TAU:
                scores.setdefault("dream_score", {})[task] = found
        for controller in CONTROLLERS:
            suffix = "" if controller == EVOLVED else f"_{controller}"
            played = [
                play(world, task, seed, family.agent(controller, seed), EVOLVED_STEPS)
                for seed in tqdm(seeds, desc=f"{controller} controller of {family.name}")
            ]
            scores.setdefault(f"real_score{suffix}", {})[task] = [p.score for p in played]
            successes.setdefault(f"real_success{suffix}", {})[task] = [float(p.success) for p in played]
    world.close()
    rows = []
    for metric, by_task in scores.items():
        rows += tasks_and_all(family.name, metric, "score a control step", by_task, mean)
    for metric, by_task in successes.items():
        rows += tasks_and_all(family.name, metric, "share", by_task, lambda v: proportion(int(sum(v)), len(v)))
    return rows
