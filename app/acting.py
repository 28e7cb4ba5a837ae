"""One scene, one instruction, every family in turn: pure functions over the service, without a page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from app import show
from app.session import Asked, Failed, failure, find_scene, read_request
from vidvla.eval.rollouts import Execution, Look, Watched
from vidvla.service import Service
from vidvla.types import Rollout
from vidvla.views import FamilyInfo, SceneView
from vidvla.worlds.base import Frame

NOTHING = (226, 232, 240)
"""Colour of what a family that predicts no film imagines."""


@dataclass(frozen=True)
class Question:
    """What the form says, as it stands; nothing in it is trusted.

    Attributes:
        seed: of the scene's layout.
        noise_seed: of the families' random draws.
    """

    task: Any
    seed: Any
    instruction: Any
    families: Any
    steps: Any
    guidance: Any
    noise_seed: Any


@dataclass(frozen=True)
class Started:
    """The question is fine: ``families`` will act in ``scene``, one after the other."""

    scene: SceneView
    families: tuple[str, ...]


@dataclass(frozen=True)
class Acted:
    """A family's loop after one more chunk."""

    family: str
    watched: Watched


Event = Started | Asked | Acted | Failed


@dataclass(frozen=True)
class Seen:
    """One look beside what came of it.

    Attributes:
        step: control steps executed until the look.
        moment: the control step that ``imagined`` and ``came`` show.
        saw: what the family looked at.
        imagined: what it expected, or None where it predicts no film.
        came: what the simulator showed then.
        psnr: of ``imagined`` against ``came``, dB.
        psnr_still: of ``saw`` against ``came``.
    """

    step: int
    moment: int
    saw: Frame
    imagined: Frame | None
    came: Frame
    psnr: float
    psnr_still: float


def actors(service: Service) -> list[FamilyInfo]:
    """Families that act, those without weights included."""
    return [info for info in service.families() if info.acts]


def chosen(infos: Sequence[FamilyInfo], names: Any) -> tuple[str, ...]:
    """The families asked for, in the order of the columns; ValueError lists the known ones."""
    known = [info.name for info in infos]
    wanted = names if isinstance(names, list | tuple) else [names]
    if unknown := [str(name)[:40] for name in wanted if name not in known]:
        raise ValueError(f"expected families among {', '.join(known)}; got {', '.join(unknown)}")
    if not wanted:
        raise ValueError("expected at least one family to be picked, got none")
    return tuple(name for name in known if name in wanted)


def act(service: Service, question: Question, limit: int) -> Iterator[Event]:
    """Let every chosen family act from the same scene; one that fails does not keep the others from acting.

    Args:
        limit: control steps at most.

    Raises:
        ValueError: one sentence, before any family acts, where the question itself is not usable.
    """
    infos = {info.name: info for info in actors(service)}
    names = chosen(list(infos.values()), question.families)
    scene = find_scene(service, str(question.task or ""), question.seed)
    request = read_request(
        service, scene.frame, str(question.instruction or ""), question.noise_seed, question.steps, question.guidance
    )
    yield Started(scene, names)
    for name in names:
        yield Asked(name)
        try:
            for watched in service.watch(name, scene, request, limit=limit):
                yield Acted(name, watched)
        except Exception as error:  # the border of the page: one family's failure must not take the others along
            yield Failed(name, failure(error, infos[name].title))


# what was imagined beside what came


def imagined(look: Look, ahead: int) -> Frame | None:
    """What was imagined for ``ahead`` control steps after a look: the next predicted frame, or else the last one."""
    times, frames = film_of(look.rollout)
    if not times:
        return None
    return frames[next((i for i, time in enumerate(times) if time >= ahead), len(times) - 1)]


def film_of(rollout: Rollout) -> tuple[tuple[int, ...], Frame]:
    """The frames that a family imagined, a target image included, and the control steps ahead that they show."""
    if not rollout.times and rollout.target is not None and rollout.target_time is not None:
        return (rollout.target_time,), rollout.target[None]
    return rollout.times, rollout.frames


def pairs(watched: Watched, start: int = 0) -> list[Frame]:
    """Imagined and simulated side by side, (H, 2 H, 3) a control step, from step ``start`` on."""
    film = enumerate(watched.execution.frames)
    return [beside(_latest(watched.looks, step), step, came) for step, came in film if step >= start]


def beside(look: Look, step: int, came: Frame) -> Frame:
    """What ``look`` imagined for control step ``step`` of the episode, and what came."""
    right = show.enlarge(came)
    left = imagined(look, step - look.step) if step else look.frame
    blank = np.broadcast_to(np.asarray(NOTHING, np.uint8), right.shape)
    return np.concatenate([blank if left is None else show.enlarge(left), right], axis=1)


def _latest(looks: Sequence[Look], step: int) -> Look:
    """The look whose actions led to ``step``."""
    return [look for look in looks if look.step < max(step, 1)][-1]


def seen(service: Service, watched: Watched) -> tuple[Seen, ...]:
    """Every look with what it imagined for the moment of the next one, beside what came.

    A picture of a later moment, as target images are, stands beside that moment, or beside the end.
    """
    steps = [*(look.step for look in watched.looks[1:]), watched.execution.steps]
    return tuple(_seen(service, watched.execution, *pair) for pair in zip(watched.looks, steps, strict=True))


def _seen(service: Service, execution: Execution, look: Look, until: int) -> Seen:
    times, frames = film_of(look.rollout)
    if not times:
        return Seen(look.step, until, look.frame, None, execution.frames[until], math.nan, math.nan)
    index = show.shown_at(times, until - look.step)
    moment = min(look.step + times[index], execution.steps)
    frame, came = frames[index], execution.frames[moment]
    expected, true = (Rollout(picture[None], (1,), None) for picture in (frame, came))
    quality = service.quality(expected, true, look.frame)
    return Seen(look.step, moment, look.frame, frame, came, quality.psnr[0], quality.psnr_copy[0])
