"""How well an action-conditioned world model dreams: fidelity over long rollouts, and whether it does as it is told."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vidvla import checkpoint
from vidvla.data.episode import Episode, record_episode
from vidvla.eval.benchmark import tasks_and_all
from vidvla.eval.metrics import Row, mean, psnr, ssim
from vidvla.eval.perceptual import lpips
from vidvla.families.wma import WorldModel
from vidvla.foundation.dreamer import ENTRIES, DreamState
from vidvla.foundation.reader import Reader
from vidvla.train.run import default_context
from vidvla.worlds.base import Frame
from vidvla.worlds.metaworld import MetaWorld

ROLLOUT_STEPS = 192
MOMENTS = (1, 16, 64, 192)
"""Control steps at which rollouts are compared, Interactive World Simulator's."""
EVERY = 4
"""Of a rollout's steps, those that its mean is taken over."""
FOLLOW_STEPS = 16
"""Random actions after which the hand's place is compared."""
SHOWN = 8
"""Pixels of the fingers in a picture that shows the hand."""
TOGETHER = 11
"""Dreams in one batch."""

FIDELITY = {"psnr": (psnr, "dB"), "ssim": (ssim, "1"), "lpips": (lpips, "1")}


@functools.cache
def reader() -> Reader:
    """The published yardstick."""
    return Reader.load(checkpoint.ASSETS / "checkpoints")


def true_episodes(tasks: Sequence[str], seeds: range, kind: str, steps: int) -> list[Episode]:
    """What the simulator does, ``steps`` control steps a task and seed."""
    world = MetaWorld()
    cases = [(task, seed) for seed in seeds for task in tasks]
    episodes = [record_episode(world, task, kind, seed, steps=steps) for task, seed in tqdm(cases, desc="truth")]
    world.close()
    return episodes


@dataclass(frozen=True)
class Dreamt:
    """An episode's dream: ``film`` (T + 1, H, W, 3), its first frame true, and where it has the hand, (T + 1, 3)."""

    film: Frame
    hands: NDArray[np.float32]


def dream_episodes(family: WorldModel, episodes: Sequence[Episode]) -> list[Dreamt]:
    """The same actions from the same first frames, dreamed."""
    dreams: list[Dreamt] = []
    for start in tqdm(range(0, len(episodes), TOGETHER), desc=f"dreams of {family.name}"):
        part = episodes[start : start + TOGETHER]
        state = DreamState.stack([family.begin(e.frames[0]) for e in part])
        frames, hands = [family.look(state)], [family.hands(state)]
        for actions in np.stack([e.actions for e in part], axis=1):
            state = family.imagine(state, actions)
            frames.append(family.look(state))
            hands.append(family.hands(state))
        dreams += map(Dreamt, np.stack(frames, axis=1), np.stack(hands, axis=1))
    return dreams


@dataclass(frozen=True)
class Values:
    """Values by metric and task, on their way to rows."""

    tasks: Sequence[str]
    found: dict[str, dict[str, list[float]]]
    units: dict[str, str]

    @classmethod
    def of(cls, tasks: Sequence[str]) -> Values:
        return cls(tasks, {}, {})

    def add(self, metric: str, task: str, value: float, unit: str) -> None:
        """One trial's value; infinite ones (equal pictures) are left out."""
        if np.isfinite(value):
            self.found.setdefault(metric, {t: [] for t in self.tasks})[task].append(float(value))
            self.units[metric] = unit

    def rows(self, family: str) -> list[Row]:
        return [
            row for metric, by_task in self.found.items()
            for row in tasks_and_all(family, metric, self.units[metric], by_task, mean)
        ]  # fmt: skip


def measure_rollout(family: WorldModel, tasks: Sequence[str], seeds: range) -> list[Row]:
    """Fidelity of 192 dreamed steps under held-out drives, at steps 1, 16, 64 and 192 and on average.

    Beside it ``copy_first`` (the frame that the dream began with) and ``copy_last`` (the true frame one step before,
    which a dream never sees); equal pictures count as 60 dB in averages. ``hand_cm``: where the hand is seen in the
    dream, against where the simulator has it; ``probe_cm``: the reader's own error, on the true frame; ``place_cm``:
    where the dream itself has it.
    """
    episodes = true_episodes(tasks, seeds, "drive", ROLLOUT_STEPS)
    values = Values.of(tasks)
    for episode, dream in zip(episodes, dream_episodes(family, episodes), strict=True):
        film = dream.film
        for name, (metric, unit) in FIDELITY.items():
            shown = {"": film, "_copy_first": None, "_copy_last": None}
            for kind in shown:
                curve = {}
                for t in {*MOMENTS, *range(EVERY, ROLLOUT_STEPS + 1, EVERY)}:
                    other = {"": film[t], "_copy_first": episode.frames[0], "_copy_last": episode.frames[t - 1]}[kind]
                    curve[t] = metric(other, episode.frames[t])
                for t in MOMENTS:
                    values.add(f"{name}{kind}_s{t}", episode.task, curve[t], unit)
                average = np.mean([min(v, 60.0) for t, v in curve.items() if t % EVERY == 0])
                values.add(f"{name}{kind}_mean", episode.task, float(average), unit)
        seen = {
            name: reader().hands(shown[list(MOMENTS)]) for name, shown in (("hand", film), ("probe", episode.frames))
        }
        for i, t in enumerate(MOMENTS):
            for name, places in seen.items():
                values.add(f"{name}_cm_s{t}", episode.task, _apart_cm(places[i], episode.hands[t]), "cm")
            values.add(f"place_cm_s{t}", episode.task, _apart_cm(dream.hands[t], episode.hands[t]), "cm")
    return values.rows(family.name)


def _apart_cm(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return 100 * float(np.linalg.norm(one - other))


def _in_view(episodes: Sequence[Episode]) -> list[bool]:
    """True for those whose last picture shows the hand's fingers."""
    world, seen = MetaWorld(), []
    for episode in episodes:
        world.reset(episode.task, episode.seed)
        for action in episode.actions:
            world.step(action)
        seen.append(world.fingers_shown() >= SHOWN)
    world.close()
    return seen


def measure_following(family: WorldModel, tasks: Sequence[str], seeds: range, suffix: str = "") -> list[Row]:
    """Where the hand is in the dream after 16 random actions, against the simulator, cm.

    ``hand_cm`` reads the dreamed frame; ``place_cm`` is where the dream itself has the hand; ``probe_cm`` is the
    reader's own error, on the true frame; ``apart_cm`` how far apart the reader sees the hand in the two. These also
    over those trials alone whose true picture shows the fingers at the end (``in_view``): above its edge, and behind
    the arm, there is nothing to read. ``still_cm`` is how far the hand went, the error of a dream in which nothing
    moves.
    """
    episodes = true_episodes(tasks, seeds, "play", FOLLOW_STEPS)
    values, dreams = Values.of(tasks), dream_episodes(family, episodes)
    for episode, dream, in_view in zip(episodes, dreams, _in_view(episodes), strict=True):
        film, true = dream.film, episode.hands[-1]
        dreamed, seen = reader().hands(np.stack([film[-1], episode.frames[-1]]))
        errors = {
            "hand_cm": _apart_cm(dreamed, true),
            "probe_cm": _apart_cm(seen, true),
            "apart_cm": _apart_cm(dreamed, seen),
        }
        for name, error in errors.items():
            for of in ("", "_in_view") if in_view else ("",):
                values.add(f"{name}{of}{suffix}", episode.task, error, "cm")
        values.add(f"place_cm{suffix}", episode.task, _apart_cm(dream.hands[-1], true), "cm")
        values.add(f"still_cm{suffix}", episode.task, _apart_cm(episode.hands[0], true), "cm")
        values.add(f"psnr{suffix}", episode.task, psnr(film[-1], episode.frames[-1]), "dB")
    return values.rows(family.name)


def measure_conditioning(family: WorldModel, tasks: Sequence[str], seeds: range) -> list[Row]:
    """:func:`measure_following` of both ways for actions to enter, from their equally long first phases.

    Needs their weights, which are not published: train them here first.
    """
    context, rows = default_context(Path()), []
    for given in ENTRIES:
        phase = WorldModel.of_phase(context, f"wma.{given}", given)
        rows += measure_following(phase, tasks, seeds, f"_{given}")
    return rows
