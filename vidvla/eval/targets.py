"""Target images and action heads, measured on expert films of held-out layouts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from tqdm import tqdm

from vidvla.eval.benchmark import Phrasings, expert_film, measure_closed_loop, tasks_and_all
from vidvla.eval.metrics import Row, mean, psnr, ssim
from vidvla.eval.perceptual import lpips
from vidvla.eval.rollouts import EXECUTE
from vidvla.families.base import Family
from vidvla.types import DENOISING_STEPS, Request
from vidvla.worlds.base import Frame
from vidvla.worlds.metaworld import MetaWorld

FILM_MOMENTS = (8, 16)
"""Control steps at which films are measured beside target images."""
HEAD_WINDOWS = (0, 8, 16, 24)
"""Control steps of an expert's episode from which heads are asked."""
UNITS = {"psnr": "dB", "ssim": "1", "lpips": "1", "error": "cm per control step", "gripper": "share", "seconds": "s"}
HEAD = "head"
"""The control that chooses an action head."""
Values = dict[str, dict[str, list[float]]]


def _rows(family: Family, values: Values) -> list[Row]:
    return [
        row for metric, by_task in values.items()
        for row in tasks_and_all(family.name, metric, UNITS[metric.split("_")[0]], by_task, mean)
    ]  # fmt: skip


def images_ahead(family: Family, request: Request) -> dict[int, Frame]:
    """What a family imagines by control steps ahead: its target image at each horizon, or frames of its film."""
    if family.targets is not None:
        key = f"{family.name}.{family.targets.name}"
        answers = [family(replace(request, options={key: choice})) for choice in family.targets.choices]
        return {r.target_time: r.target for r in answers if r.target is not None and r.target_time is not None}
    rollout = family(request)
    return {t: f for t, f in zip(rollout.times, rollout.frames, strict=True) if t in FILM_MOMENTS}


def measure_target(
    family: Family, tasks: Sequence[str], seeds: range, phrasings: Phrasings, steps: int = DENOISING_STEPS
) -> list[Row]:
    """PSNR, SSIM and LPIPS of target images against the true frame at their horizon, the first frame beside.

    ``psnr_h8`` is of the image 8 control steps ahead, ``psnr_copy_h8`` of the first frame in its place. Of families
    that film, frames at the same moments are measured, to compare.
    """
    world, values = MetaWorld(), dict[str, dict[str, list[float]]]()
    for seed in tqdm(seeds, desc=f"target {family.name}"):
        for task in tasks:
            world.reset(task, seed)
            request = Request(world.render(), phrasings[task][seed % len(phrasings[task])], seed, steps)
            images = images_ahead(family, request)
            true, _ = expert_film(world, max(images))
            for horizon, image in images.items():
                for what, shown in (("", image), ("copy_", true[0])):
                    for metric, score in (("psnr", psnr), ("ssim", ssim), ("lpips", lpips)):
                        value = score(shown, true[horizon])
                        if np.isfinite(value):
                            name = f"{metric}_{what}h{horizon}"
                            values.setdefault(name, {t: [] for t in tasks})[task].append(value)
    world.close()
    return _rows(family, values)


def trained_heads(family: Family) -> tuple[str, ...]:
    """The action heads that a family can be asked for; none where it has one alone."""
    return next((control.choices for control in family.controls if control.name == HEAD), ())


def measure_heads(
    family: Family,
    tasks: Sequence[str],
    seeds: range,
    phrasings: Phrasings,
    execute: int = EXECUTE,
    steps: int = DENOISING_STEPS,
) -> list[Row]:
    """Every action head of a family beside the others.

    ``error_cm_<head>``: how far its moves are from the expert's, over the actions that are executed before the next
    look, from frames along the expert's episode. ``gripper_<head>``: share of these steps where it opens and closes as
    the expert does. ``seconds_<head>``: what an answer takes. ``success_<head>``: closed loop.
    """
    world, values = MetaWorld(), dict[str, dict[str, list[float]]]()
    chosen = {head: {f"{family.name}.{HEAD}": head} for head in trained_heads(family)}
    for seed in tqdm(seeds, desc=f"heads {family.name}"):
        for task in tasks:
            world.reset(task, seed)
            frames, true = expert_film(world, max(HEAD_WINDOWS) + execute)
            phrase = phrasings[task][seed % len(phrasings[task])]
            for head, options in chosen.items():
                for start in HEAD_WINDOWS:
                    begun = time.perf_counter()
                    actions = family.act(Request(frames[start], phrase, seed, steps, options=options))[:execute]
                    spent = time.perf_counter() - begun
                    expert = true[start : start + len(actions)]
                    found = {
                        "error_cm": float(np.linalg.norm(actions[:, :3] - expert[:, :3], axis=1).mean()),
                        "gripper": float(np.mean(np.sign(actions[:, 3]) == np.sign(expert[:, 3]))),
                        "seconds": spent,
                    }
                    for metric, value in found.items():
                        values.setdefault(f"{metric}_{head}", {t: [] for t in tasks})[task].append(value)
    world.close()
    rows = _rows(family, values)
    for head, options in chosen.items():
        looped = measure_closed_loop(family, tasks, seeds, phrasings, execute, steps, options)
        rows += [replace(row, metric=f"{row.metric}_{head}") for row in looped if row.metric == "success"]
    return rows
