"""Do policies rank in the dream as they do in the simulator?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap, pearsonr, spearmanr
from tqdm import tqdm

from vidvla import checkpoint, registry
from vidvla.eval.benchmark import tasks_and_all
from vidvla.eval.dreams import reader
from vidvla.eval.metrics import Estimate, Row, proportion
from vidvla.eval.rollouts import RANK_STEPS, Policy, closed_loop
from vidvla.families.base import Family
from vidvla.families.wma import WorldModel
from vidvla.foundation.stages import WORLD
from vidvla.text import phrase_book
from vidvla.types import DENOISING_STEPS, Request
from vidvla.worlds.base import Frame, World
from vidvla.worlds.dream import Dream
from vidvla.worlds.metaworld import MetaWorld

Shares = NDArray[np.float64]

NOISES = (0.3, 0.6, 1.0)
"""Weaker versions of the first policy: this share of the way from its actions to uniformly random ones."""


@dataclass(frozen=True)
class Contender:
    """One policy: ``make`` gives it for a task's phrase and a seed."""

    name: str
    make: Callable[[str, int], Policy]


def contenders() -> list[Contender]:
    """Every family with weights that acts on instructions, and the first one, spoiled by more and more noise."""
    folder, device = checkpoint.ASSETS / "checkpoints", checkpoint.pick_device("auto")
    kinds = [kind for kind in registry.families().values() if kind.acts]
    acting = (kind.load(folder, device) for kind in kinds if (folder / f"{kind.name}-{WORLD}").is_dir())
    found = [family for family in acting if not family.tasks]
    plain = [Contender(family.name, _of(family, 0.0)) for family in found]
    return [*plain, *(Contender(f"{found[0].name} with {n:.0%} noise", _of(found[0], n)) for n in NOISES)]


def _of(family: Family, noise: float) -> Callable[[str, int], Policy]:
    def make(phrase: str, seed: int) -> Policy:
        low, high = (np.asarray(v, np.float32) for v in (MetaWorld.action_spec.low, MetaWorld.action_spec.high))

        def act(frame: Frame, look: int) -> NDArray[np.float32]:
            actions = family.act(Request(frame, phrase, seed + look, DENOISING_STEPS))
            anything = np.random.default_rng([seed, look]).uniform(low, high, actions.shape)
            return ((1 - noise) * actions + noise * anything).astype(np.float32)

        return act

    return make


def measure_ranking(family: WorldModel, tasks: Sequence[str], seeds: range) -> list[Row]:
    """Success of every contender in the dream and in the simulator, from the same scenes, and how the two agree.

    ``pearson`` and ``spearman`` are over contenders (success over all tasks); ``pearson_cells`` over contenders x
    tasks. Intervals are bootstrapped over what is correlated.
    """
    world = MetaWorld()
    judged = Dream(family, world, judge=reader().judge)
    rows: list[Row] = []
    shares: dict[str, dict[str, list[float]]] = {"real": {}, "dream": {}}
    for contender in contenders():
        outcomes: dict[str, dict[str, list[float]]] = {kind: {t: [] for t in tasks} for kind in shares}
        for seed in tqdm(seeds, desc=f"ranking {contender.name}"):
            for task in tasks:
                policy = contender.make(phrase_book()[task].canonical, seed)
                for kind, where in (("real", world), ("dream", judged)):
                    outcomes[kind][task].append(_success(where, policy, task, seed))
        for kind, by_task in outcomes.items():
            rows += tasks_and_all(
                family.name, f"{kind}: {contender.name}", "share", by_task, lambda v: proportion(int(sum(v)), len(v))
            )  # fmt: skip
            shares[kind][contender.name] = [float(np.mean(v)) for v in by_task.values()]
    world.close()
    real, dream = (np.array(list(shares[kind].values())) for kind in ("real", "dream"))  # (contenders, tasks)
    pairs = {
        "pearson": (pearsonr, real.mean(axis=1), dream.mean(axis=1)),
        "spearman": (spearmanr, real.mean(axis=1), dream.mean(axis=1)),
        "pearson_cells": (pearsonr, real.ravel(), dream.ravel()),
    }
    for metric, (statistic, one, other) in pairs.items():
        rows.append(Row.of(family.name, "all", metric, "1", _correlation(statistic, one, other)))
    return rows


def _success(world: World, policy: Policy, task: str, seed: int) -> float:
    world.reset(task, seed)
    *_, last = closed_loop(world, policy, world.snapshot(), steps=RANK_STEPS)
    return float(last.success)


def _correlation(
    statistic: Callable[..., tuple[float, float]], one: NDArray[np.float64], other: NDArray[np.float64]
) -> Estimate:
    def value(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
        return float(statistic(a, b)[0])

    found = bootstrap(
        (one, other), value, paired=True, vectorized=False, n_resamples=2000, method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return Estimate(value(one, other), len(one), float(found.low), float(found.high))
