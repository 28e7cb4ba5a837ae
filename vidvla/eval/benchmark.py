"""The measurements behind every published figure, and the file format that they share."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from vidvla.data.record import EVAL_SEEDS, TRAIN_SEEDS
from vidvla.eval.metrics import Estimate, Row, mean, proportion, psnr, ssim
from vidvla.eval.rollouts import EXECUTE, Policy, closed_loop
from vidvla.families.base import Family
from vidvla.text import phrase_book
from vidvla.types import DENOISING_STEPS, Request
from vidvla.worlds.base import Frame
from vidvla.worlds.metaworld import MetaWorld

Phrasings = dict[str, list[str]]


def check_seeds(seeds: range) -> range:
    """``seeds`` if none of them is a training seed; ValueError otherwise."""
    if len(seeds) == 0:
        raise ValueError("expected a range with at least one seed, got an empty one")
    if seeds.start < TRAIN_SEEDS.stop:
        raise ValueError(f"expected held-out seeds from {EVAL_SEEDS.start} up, got {seeds.start}: trained on")
    return seeds


def canonical_phrasings() -> Phrasings:
    """The plainest training phrasing of every task."""
    return {task: [phrases.canonical] for task, phrases in phrase_book().items()}


def held_out_phrasings() -> Phrasings:
    """The phrasings that no model trained on."""
    return {task: list(phrases.test) for task, phrases in phrase_book().items()}


def expert_film(world: MetaWorld, steps: int) -> tuple[Frame, np.ndarray]:
    """The expert's next ``steps``: frames (steps + 1, H, W, 3) and actions (steps, A)."""
    frames, actions = [world.render()], []
    for _ in range(steps):
        action = world.expert()
        world.step(action)
        actions.append(action)
        frames.append(world.render())
    return np.stack(frames), np.stack(actions)


def tasks_and_all(
    family: str,
    metric: str,
    unit: str,
    by_task: dict[str, list[float]],
    estimate: Callable[[list[float]], Estimate],
) -> list[Row]:
    rows = [Row.of(family, task, metric, unit, estimate(values)) for task, values in by_task.items() if values]
    everything = [value for values in by_task.values() for value in values]
    return [*rows, Row.of(family, "all", metric, unit, estimate(everything))] if everything else rows


def _policy(family: Family, phrase: str, seed: int, steps: int, options: Mapping[str, float | str]) -> Policy:
    return lambda frame, plan: family.act(Request(frame, phrase, seed + plan, steps, options=options))


def measure_closed_loop(
    family: Family,
    tasks: Sequence[str],
    seeds: range,
    phrasings: Phrasings,
    execute: int = EXECUTE,
    steps: int = DENOISING_STEPS,
    options: Mapping[str, float | str] | None = None,
) -> list[Row]:
    """Share of episodes fulfilled within 500 physics steps, replanning every ``execute`` control steps.

    Args:
        options: what is set of the family's own controls, as in a request.
    """
    world = MetaWorld()
    outcomes: dict[str, list[float]] = {task: [] for task in tasks}
    replans: dict[str, list[float]] = {task: [] for task in tasks}
    with tqdm(total=len(tasks) * len(seeds), desc=f"closed loop {family.name}") as bar:
        for seed in seeds:
            for task in tasks:
                policy = _policy(family, phrasings[task][seed % len(phrasings[task])], seed, steps, options or {})
                world.reset(task, seed)
                *_, last = closed_loop(world, policy, world.snapshot(), execute=execute)
                outcomes[task].append(float(last.success))
                replans[task].append(last.plan)
                bar.update()
                bar.set_postfix(success=f"{np.mean([v for o in outcomes.values() for v in o]):.2f}")
    world.close()
    return [
        *tasks_and_all(family.name, "success", "share", outcomes, lambda v: proportion(int(sum(v)), len(v))),
        *tasks_and_all(family.name, "replans", "count", replans, mean),
    ]


def measure_film(
    family: Family, tasks: Sequence[str], seeds: range, phrasings: Phrasings, steps: int = DENOISING_STEPS
) -> list[Row]:
    """PSNR and SSIM of each predicted frame against the expert's film, copying the first frame beside it.

    Frames are numbered t1 ... tK in the family's own order; ``time_tk`` gives their control steps.
    """
    world = MetaWorld()
    values: dict[str, dict[str, list[float]]] = {}
    for seed in tqdm(seeds, desc=f"film {family.name}"):
        for task in tasks:
            world.reset(task, seed)
            request = Request(world.render(), phrasings[task][seed % len(phrasings[task])], seed, steps)
            rollout = family(request)
            true, _ = expert_film(world, max(rollout.times))
            for k, (frame, moment) in enumerate(zip(rollout.frames, rollout.times, strict=True), 1):
                found = {
                    f"psnr_t{k}": psnr(frame, true[moment]),
                    f"psnr_copy_t{k}": psnr(true[0], true[moment]),
                    f"ssim_t{k}": ssim(frame, true[moment]),
                    f"ssim_copy_t{k}": ssim(true[0], true[moment]),
                    f"time_t{k}": float(moment),
                }
                for metric, value in found.items():
                    if np.isfinite(value):
                        values.setdefault(metric, {t: [] for t in tasks})[task].append(value)
    world.close()
    units = {"psnr": "dB", "ssim": "1", "time": "control steps"}
    return [
        row for metric, by_task in values.items()
        for row in tasks_and_all(family.name, metric, units[metric.split("_")[0]], by_task, mean)
    ]  # fmt: skip


def read_benchmark(path: Path) -> dict[str, Any]:
    """A figure file, or an empty one where there is none yet."""
    if not path.is_file():
        return {"meta": {}, "rows": []}
    data: dict[str, Any] = json.loads(path.read_text())
    return data


def _families(command: str, every: set[str]) -> set[str]:
    """The families that a command measured, among ``every``."""
    named = re.search(r"--family[ =](\S+)", command)
    return every if named is None or named[1] == "all" else set(named[1].split(","))


def write_benchmark(path: Path, rows: list[Row], command: str, seeds: range | None, world: str) -> None:
    """Put ``rows`` into the figure file ``path``; rows of other families or metrics that it holds stay."""
    new = {(row.family, row.metric) for row in rows}
    old = read_benchmark(path)
    kept = [row for row in old["rows"] if (row["family"], row["metric"]) not in new]
    left = {row["family"] for row in kept}
    commands = [c for c in old["meta"].get("command", "").split(" && ") if c and _families(c, left) & left]
    meta = {
        "command": " && ".join(dict.fromkeys([*commands, command])),
        "date": date.today().isoformat(),
        "versions": {name: version(name) for name in ("torch", "diffusers", "transformers", "metaworld", "mujoco")},
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, "
        + (torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"),
        "world": world,
        "seeds": f"{seeds.start}:{seeds.stop}" if seeds is not None else "none",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n  ".join(json.dumps(row) for row in [*kept, *(asdict(row) for row in rows)])
    path.write_text(f'{{"meta": {json.dumps(meta, indent=1)},\n "rows": [\n  {lines}\n ]}}\n')
