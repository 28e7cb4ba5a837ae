"""What ``vidvla eval`` can measure, each written to its own figure file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from vidvla import checkpoint, registry
from vidvla.data.episode import record_episode
from vidvla.eval.benchmark import (
    Phrasings,
    canonical_phrasings,
    check_seeds,
    held_out_phrasings,
    measure_closed_loop,
    measure_film,
    tasks_and_all,
    write_benchmark,
)
from vidvla.eval.controllers import measure_controllers
from vidvla.eval.dreams import measure_conditioning, measure_following, measure_rollout
from vidvla.eval.metrics import Estimate, Row, mean, proportion
from vidvla.eval.planning import measure_planning
from vidvla.eval.ranking import measure_ranking
from vidvla.eval.rollouts import EXECUTE
from vidvla.eval.targets import measure_heads, measure_target, trained_heads
from vidvla.families.base import Family
from vidvla.families.wma import WorldModel
from vidvla.foundation.stages import WORLD
from vidvla.text import phrase_book, unrelated_tasks
from vidvla.types import DENOISING_STEPS, Request
from vidvla.worlds.base import Frame
from vidvla.worlds.metaworld import AVDC_TASKS, MetaWorld


@dataclass(frozen=True)
class Job:
    """What to measure with."""

    tasks: Sequence[str]
    seeds: range
    phrasings: Phrasings
    execute: int
    steps: int


def _closed_loop(family: Family, job: Job) -> list[Row]:
    # a family that knows a few tasks alone has figures of its own: means over all tasks would not compare
    return _acting(family, job) if family.acts and not family.tasks else []


def _acting(family: Family, job: Job) -> list[Row]:
    return measure_closed_loop(family, job.tasks, job.seeds, job.phrasings, job.execute, job.steps)


def _film(family: Family, job: Job) -> list[Row]:
    known = family.films and not family.told  # told ones film what they are told: see the rollouts
    return measure_film(family, job.tasks, job.seeds, job.phrasings, job.steps) if known else []


def _target(family: Family, job: Job) -> list[Row]:
    known = (family.targets is not None or family.films) and not family.told and not family.tasks
    return measure_target(family, job.tasks, job.seeds, job.phrasings, job.steps) if known else []


def _heads(family: Family, job: Job) -> list[Row]:
    if not trained_heads(family):
        return []
    return measure_heads(family, job.tasks, job.seeds, job.phrasings, job.execute, job.steps)


def _dream(family: Family, job: Job) -> list[Row]:
    return measure_controllers(family, family.tasks, job.seeds) if family.evolved else []


def measure_inverse(family: Family, job: Job) -> list[Row]:
    """Error of actions read from true neighbouring frames: cm of the hand's move, and open / close agreement."""
    if not family.inverts:
        return []
    world = MetaWorld()
    values: dict[str, dict[str, list[float]]] = {}
    for seed in tqdm(job.seeds, desc=f"inverse dynamics {family.name}"):
        for task in job.tasks:
            for kind in ("expert", "play"):
                episode = record_episode(world, task, kind, seed)
                error = family.between(episode.frames) - episode.actions
                distance = float(np.linalg.norm(error[:, :3], axis=1).mean())
                agree = float(np.mean(np.sign(error[:, 3] + episode.actions[:, 3]) == np.sign(episode.actions[:, 3])))
                for metric, value in (("error_cm", distance), ("gripper_agreement", agree)):
                    for name in (metric, f"{metric}_{kind}"):
                        values.setdefault(name, {t: [] for t in job.tasks})[task].append(value)
    world.close()
    rows = []
    for metric, by_task in values.items():
        unit = "cm per control step" if metric.startswith("error") else "share"
        rows += tasks_and_all(family.name, metric, unit, by_task, mean)
    return rows


def measure_phrasings(family: Family, job: Job) -> list[Row]:
    """Share of held-out phrasings that make the family act as on the task's own training phrases.

    In a scene of the task, the actions under the held-out phrasing are compared with those under the canonical phrase
    of every trained task.

    ``understood``: the nearest are the task's own, rivals that are not told apart left aside. A rival is not told apart
    where its actions are as near to the task's own as those under the task's training phrasings are: where a scene
    leaves one thing to do, a family does it whatever it is told, and which of equal actions is nearest is chance. Where
    no rival is told apart, the actions have to be as near as those.
    ``nearest``: the same with every rival, chance included.
    ``told_apart``: share of rivals that are told apart, that is, how much the instruction matters.
    ``still``: share of the rivals that ask for nothing in the scene (:func:`~vidvla.text.unrelated_tasks`) under which
    the hand goes less than half as far as under the task's own phrase.
    """
    if not family.acts or family.tasks:
        return []
    world, book, rivals = MetaWorld(), phrase_book(), sorted({*AVDC_TASKS, *job.tasks})
    values: dict[str, dict[str, list[float]]] = {
        metric: {task: [] for task in job.tasks} for metric in ("understood", "nearest", "told_apart", "still")
    }
    for seed in tqdm(job.seeds, desc=f"phrasings {family.name}"):
        for task in job.tasks:
            world.reset(task, seed)
            frame = world.render()

            def act(phrase: str, frame: Frame = frame, seed: int = seed) -> NDArray[np.float32]:
                return family.act(Request(frame, phrase, seed, job.steps))

            own = {t: act(book[t].canonical) for t in rivals}
            first = book[task].train[:FIRST_PHRASES]
            spread = max(_apart(act(p), own[task]) for p in first[1:][:: len(first) // TOLD])
            others = [t for t in rivals if t != task]
            apart = [t for t in others if _apart(own[t], own[task]) > spread]
            values["told_apart"][task].append(len(apart) / len(others))
            half = _reach(own[task]) / 2
            values["still"][task].append(float(np.mean([_reach(own[t]) < half for t in unrelated_tasks(task, rivals)])))
            for phrase in job.phrasings[task]:
                actions = act(phrase)
                far = {t: _apart(actions, o) for t, o in own.items()}
                values["nearest"][task].append(float(all(far[task] < far[t] for t in others)))
                near = all(far[task] < far[t] for t in apart) if apart else far[task] <= spread
                values["understood"][task].append(float(near))
    world.close()

    def share(of: list[float]) -> Estimate:
        return proportion(int(sum(of)), len(of))

    rows = tasks_and_all(family.name, "understood", "share", values["understood"], share)
    rows += tasks_and_all(family.name, "nearest", "share", values["nearest"], share)
    for metric in ("told_apart", "still"):
        rows += tasks_and_all(family.name, metric, "share", values[metric], mean)
    return rows


FIRST_PHRASES = 24
"""Training phrasings that a family's own spread is taken from; those that came later do not move the yardstick."""
TOLD = 8
"""Training phrasings, about, that say how much actions vary between phrasings of one task."""


def _apart(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(np.abs(one - other).mean())


def _reach(actions: NDArray[np.float32]) -> float:
    """How far the hand is sent by actions (N, A), cm."""
    return float(np.linalg.norm(actions[:, :3].sum(axis=0)))


def measure_speed(family: Family, job: Job) -> list[Row]:
    """Seconds a whole answer takes, encoding to decoded film, after a warm-up."""
    frame = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    seconds = []
    for trial in range(22):
        start = time.perf_counter()
        family(Request(frame, "open the door", trial, job.steps))
        if trial >= 2:
            seconds.append(time.perf_counter() - start)
    return [
        Row.of(family.name, "all", "seconds_per_film", "s", mean(seconds)),
        *(_step_speed(family, frame) if isinstance(family, WorldModel) else []),
    ]


def measure_size(family: Family, job: Job) -> list[Row]:
    """Weights, and what their training cost: the same on every machine, unlike speed."""
    found = {
        ("parameters", "count"): family.parameters(), ("core_hours_trained", "h"): core_hours(family),
        ("episodes", "count"): episodes(family),
    }  # fmt: skip
    return [
        Row.of(family.name, "all", metric, unit, _exact(value))
        for (metric, unit), value in found.items()
        if value is not None
    ]


def _step_speed(family: WorldModel, frame: Frame) -> list[Row]:
    """Control steps a second that one dream is driven at, from an action to a uint8 picture."""
    state, rates = family.begin(frame), []
    for step in range(100):
        start = time.perf_counter()
        state = family.imagine(state, np.zeros((1, len(family.scale.low)), np.float32), step)
        family.look(state)
        if step >= 10:
            rates.append(1 / (time.perf_counter() - start))
    return [Row.of(family.name, "all", "steps_per_second", "1/s", mean(rates))]


def _exact(value: float) -> Estimate:
    return Estimate(value, 1, value, value)


def core_hours(family: Family) -> float | None:
    """Core-hours of all phases behind a family's weights, shared ones included; None where no record says them."""
    records = checkpoint.flat_records(list(family.records))
    return sum(r["seconds"] * r["threads"] / 3600 for r in records) or None


def episodes(family: Family) -> int | None:
    """The most robot episodes that any phase behind a family's weights saw; None where no record says them."""
    records = checkpoint.flat_records(list(family.records))
    return max((r.get("data", {}).get(f"episodes of {WORLD}", 0) for r in records), default=0) or None


@dataclass(frozen=True)
class Measure:
    """A measurement: its file name, its function, and which phrasings and seeds the published figures are of.

    Attributes:
        worded: it hangs on the phrasings, and on how often families look and in how many steps they denoise.
    """

    file: str
    run: Callable[[Family, Job], list[Row]]
    phrasings: Callable[[], Phrasings] = canonical_phrasings
    seeds: range = range(500_000, 500_010)
    worded: bool = True


def _dreaming(run: Callable[[WorldModel, Job], list[Row]]) -> Callable[[Family, Job], list[Row]]:
    """A measurement of world models alone."""
    return lambda family, job: run(family, job) if isinstance(family, WorldModel) else []


MEASURES = {
    "closed-loop": Measure("closed_loop.json", _closed_loop, seeds=range(500_000, 500_025)),  # AVDC: 25 each
    "film": Measure("film.json", _film),
    "target": Measure("target.json", _target),
    "heads": Measure("heads.json", _heads, seeds=range(500_000, 500_003)),
    "inverse-dynamics": Measure("inverse_dynamics.json", measure_inverse, worded=False),
    "phrasings": Measure("phrasings.json", measure_phrasings, held_out_phrasings, range(500_000, 500_005)),
    "speed": Measure("speed.json", measure_speed),
    "size": Measure("speed.json", measure_size, worded=False),
    "rollout": Measure(
        "rollout.json", _dreaming(lambda f, j: measure_rollout(f, j.tasks, j.seeds)),
        seeds=range(500_000, 500_003), worded=False,
    ),
    "following": Measure(
        "following.json", _dreaming(lambda f, j: measure_following(f, j.tasks, j.seeds)),
        seeds=range(500_000, 500_040), worded=False,
    ),
    "conditioning": Measure(
        "conditioning.json", _dreaming(lambda f, j: measure_conditioning(f, j.tasks, j.seeds)), worded=False
    ),
    "planning": Measure(
        "planning.json", _dreaming(lambda f, j: measure_planning(f, j.tasks, j.seeds)),
        seeds=range(500_000, 500_003), worded=False,
    ),
    "policy-ranking": Measure(
        "policy_ranking.json", _dreaming(lambda f, j: measure_ranking(f, j.tasks, j.seeds)),
        seeds=range(500_000, 500_006), worded=False,
    ),
    "dream": Measure("dream.json", _dream, seeds=range(500_000, 500_040), worded=False),
}  # fmt: skip


def measure(
    what: str,
    names: Iterable[str],
    tasks: Sequence[str],
    seeds: range | None,
    *,
    phrasings: Phrasings | None,
    out: Path | None,
    execute: int,
    steps: int,
    device: str,
    command: str,
) -> list[Row]:
    """Run one measurement over families and write its figure file after each of them.

    Raises:
        ValueError: where seeds are trained on, phrasings are of unknown tasks, something is set that the measurement
            does not hang on, or a measurement on other cases than the published ones would overwrite those.
    """
    chosen = MEASURES[what]
    for task in (phrasings or {}).keys() - phrase_book().keys():
        raise ValueError(f"expected phrasings of tasks among {', '.join(phrase_book())}; got {task!r}")
    if not chosen.worded and (phrasings, execute, steps) != (None, EXECUTE, DENOISING_STEPS):
        raise ValueError(
            f"expected no phrasings, and the usual looks and denoising steps: {what} hangs on none of them"
        )
    cases = chosen.seeds if seeds is None else check_seeds(seeds)
    published = (set(AVDC_TASKS), chosen.seeds, None, EXECUTE, DENOISING_STEPS)
    if out is None and (set(tasks), cases, phrasings, execute, steps) != published:
        raise ValueError(f"expected --out for figures of your own: {chosen.file} keeps the published ones")
    said = chosen.phrasings() | (phrasings or {})
    job = Job(tasks, cases, said, execute, steps)
    path = out or checkpoint.ASSETS / "benchmarks" / chosen.file
    every: list[Row] = []
    for name in names:
        family = registry.load(name, checkpoint.ASSETS / "checkpoints", checkpoint.pick_device(device))
        with torch.inference_mode():
            rows = chosen.run(family, job)
        if rows:
            write_benchmark(path, rows, command, cases, "metaworld")
        else:
            tqdm.write(f"{what} does not apply to {family.title}: nothing was measured")
        every += rows
    return every
