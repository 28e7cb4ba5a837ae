"""The one caller of the families: plain values in and out, for the CLI, the page and the API alike."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray

from vidvla import checkpoint, registry
from vidvla.actions import stillness
from vidvla.drive import Dreams, Drive, Truth
from vidvla.eval.metrics import psnr, ssim
from vidvla.eval.pairs import Both, Highest, Replay, Run, in_turn, play_filmed
from vidvla.eval.rollouts import (
    EPISODE_STEPS,
    EXECUTE,
    RANK_STEPS,
    Execution,
    Policy,
    Watched,
    filmed_loop,
    watched_loop,
)
from vidvla.families.base import EVOLVED_STEPS, Evolution, Family, fit_square
from vidvla.foundation.familiar import Familiarity
from vidvla.foundation.film import check_request
from vidvla.foundation.reader import READER, Reader
from vidvla.saliency import Traced
from vidvla.samples import Sample, read_samples, write_sample
from vidvla.scenes import HORIZON as HORIZON
from vidvla.scenes import Scenes
from vidvla.turns import Turns
from vidvla.types import DENOISING_STEPS, ProgressCallback, Request, Rollout
from vidvla.views import FamilyInfo, Quality, SceneView
from vidvla.worlds.base import Frame
from vidvla.worlds.dream import Dream, Mind

T = TypeVar("T")
TAU = (0.1, 1.5)
"""Temperatures of a dream that a controller can be replayed in."""
COMPARED = 4
"""Control steps between the moments at which all families' films are compared."""
UNKNOWN_UPLOAD = "Nobody knows what happens in an uploaded picture: the dream has no truth beside it."
UNKNOWN_SAMPLE = "A stored picture cannot be simulated: the dream has no truth beside it."


def ran_out(error: Exception) -> bool:
    """Whether ``error`` is for want of memory, on a CPU or a GPU."""
    told = ("out of memory", "not enough memory", "can't allocate memory")  # the last two: torch on a CPU
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in told)


@contextmanager
def enough_memory(title: str) -> Iterator[None]:
    """ValueError with one sentence where memory runs out while ``title`` is at work."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        said = f"expected memory for an answer of {title}, but it ran out: free some and ask again"
        raise ValueError(said) from error


class Service(Scenes):
    """Families, worlds and samples behind one door. Thread-safe; keeps nothing of one caller for another.

    Args:
        checkpoints: folder of published checkpoints.
        device: ``auto``, ``cpu`` or ``cuda``.
        loaded: families at hand already, such as tiny ones in tests; only these are then offered.
    """

    def __init__(
        self, checkpoints: Path | None = None, device: str = "auto", loaded: dict[str, Family] | None = None
    ) -> None:
        super().__init__()
        self.checkpoints = checkpoints or checkpoint.ASSETS / "checkpoints"
        self.device = checkpoint.pick_device(device)
        self._offered = None if loaded is None else frozenset(loaded)
        self._loaded: dict[str, Family] = dict(loaded or {})
        self._woken: set[str] = set()
        self._loading = threading.Lock()
        self._thinking = Turns()

    # families

    def family(self, name: str) -> Family:
        """The loaded family; ValueError with one sentence where it is unknown or has no usable weights."""
        with self._loading:
            if name not in self._loaded:
                self._loaded[name] = registry.load(name, self.checkpoints, self.device)
            return self._loaded[name]

    def _awake(self, name: str) -> Family:
        """The loaded family, asked once before: what a first answer loads is not part of the time that it says."""
        family = self.family(name)
        with self._thinking, torch.inference_mode():
            if name not in self._woken:
                family(Request(np.zeros((64, 64, 3), np.uint8), "wake up", steps=1))
                self._woken.add(name)
        return family

    def families(self) -> list[FamilyInfo]:
        """All families that are registered; at the end those that cannot be asked, with what stands in the way."""
        infos = []
        for name, kind in registry.families().items():
            if self._offered is not None and name not in self._offered:
                continue
            member, path = self._loaded.get(name), self.checkpoints / f"{name}-metaworld" / checkpoint.CONFIG
            problem = None if member is not None else registry.missing(name, self.checkpoints)
            config: dict[str, Any] = {}
            try:
                config = json.loads(path.read_text()) if path.is_file() else {}
            except json.JSONDecodeError:
                problem = problem or f"damaged weights in {path.parent.name} (run: vidvla train {name})"
            infos.append(
                FamilyInfo(
                    name,
                    kind.title,
                    kind.summary,
                    kind.source,
                    kind.films,
                    kind.acts,
                    kind.attends,
                    problem,
                    tuple(checkpoint.flat_records(config.get("trained", []))),
                    general=kind.general,
                    told=kind.told,
                    evolved=kind.evolved,
                    targets=kind.targets is not None,
                    differs=kind.differs,
                    controls=kind.offered(config) if member is None else member.controls,
                )
            )
        return sorted(infos, key=lambda info: info.problem is not None)

    def check(self, request: Request) -> None:
        """ValueError with one sentence where no family could answer ``request``; asks none."""
        check_request(request)
        kinds = registry.families()
        for key in request.options:
            if (name := key.partition(".")[0]) not in kinds:
                known = ", ".join(kinds)
                raise ValueError(f"expected controls as family.control of {known}; got {key[:40]!r} of {name[:40]!r}")
        for kind in kinds.values():
            kind.check_options(request)

    def predict(
        self,
        name: str,
        request: Request,
        *,
        attention: bool = False,
        progress: ProgressCallback | None = None,
    ) -> Rollout:
        """Ask one family; adds notes where it hardly moves, and where the frame is far from what it was trained on.

        Actions without a film are dreamed by a world model, where there is one.

        Raises:
            ValueError: one sentence, where the request cannot be answered, weights are missing or memory runs out.
        """
        self.check(request)
        with enough_memory(registry.family(name).title):
            family = self._awake(name)
            with self._thinking, torch.inference_mode():
                rollout = family(request, attention=attention, progress=progress)
                if family.targets is not None and not family.films:
                    rollout = self._dreamed(rollout, request)
                still = None if rollout.actions is None else stillness(rollout.actions)
                strange = None if self._familiarity is None else self._familiarity.note(request.frame)
        return replace(rollout, notes=(*rollout.notes, *(note for note in (still, strange) if note is not None)))

    def _dreamed(self, rollout: Rollout, request: Request) -> Rollout:
        """``rollout`` with the film that a world model dreams from its actions, or a note on why without."""
        problems = []
        for info in (known for known in self.drivable() if known.general):  # others would dream their own task
            try:
                film = self._awake(info.name)(replace(request, actions=rollout.actions))
            except checkpoint.CheckpointError:
                problems.append(f" {info.title}: {info.problem or 'its weights do not fit'}.")
                continue
            spent, total = film.seconds["total"], rollout.seconds["total"] + film.seconds["total"]
            return replace(
                rollout, frames=film.frames, times=film.times, dreamed_by=info.title,
                seconds={**rollout.seconds, "dream": spent, "total": total},
            )  # fmt: skip
        said = f"What its actions lead to is not dreamed here.{''.join(problems)}"
        return replace(rollout, notes=(*rollout.notes, said))

    def gradients(self, name: str, request: Request, ask: Callable[[Traced], T]) -> T:
        """What ``ask`` (of :mod:`vidvla.saliency`) finds in a family's answer; ValueError where it has no gradients."""
        family = self.family(name)
        with self._thinking:
            return ask(family.traced(request))

    @functools.cached_property
    def _familiarity(self) -> Familiarity | None:
        folder = self.checkpoints / "codec"
        return Familiarity.load(folder) if (folder / checkpoint.WEIGHTS).is_file() else None

    def parameters(self, name: str) -> int:
        """Number of weights of a family."""
        return self.family(name).parameters()

    # acting

    def execute(
        self, name: str, scene: SceneView, request: Request, *, limit: int = EPISODE_STEPS
    ) -> Iterator[Execution]:
        """Run a family in the simulator for at most ``limit`` control steps; yields after every chunk.

        Args:
            request: what is asked at every look, with the frame that is seen then, and another seed each time.
            limit: control steps at most; between two looks there are as many as the family asks for, or 8.
        """
        family = self.family(name)
        _check_actor(family, scene.task)
        stride = family.commits(request) or EXECUTE
        with enough_memory(family.title):
            yield from filmed_loop(
                self._world, self._policy(family, request), scene.state, scene.frame, self._world_lock, steps=limit,
                execute=stride,
            )  # fmt: skip

    def watch(self, name: str, scene: SceneView, request: Request, *, limit: int = EPISODE_STEPS) -> Iterator[Watched]:
        """:meth:`execute`, with the whole answer at every look: what was imagined, and how long it took.

        Raises:
            ValueError: one sentence, where the family is unknown, has no weights, does not act, or does not know the
                scene's task.
        """
        family = self._awake(name)
        _check_actor(family, scene.task)

        def ask(frame: Frame, plan: int) -> Rollout:
            with self._thinking, torch.inference_mode():
                return family(_again(request, frame, plan))

        stride = family.commits(request) or EXECUTE
        with enough_memory(family.title):
            yield from watched_loop(
                self._world, ask, scene.state, scene.frame, self._world_lock, steps=limit, execute=stride
            )

    def _policy(self, family: Family, request: Request) -> Policy:
        """What ``family`` does at every look: asked as in ``request``, with what is seen then and another seed."""

        def act(frame: Frame, plan: int) -> NDArray[np.float32]:
            with self._thinking, torch.inference_mode():
                return family.act(_again(request, frame, plan))

        return act

    # dreams

    @functools.cached_property
    def _reader(self) -> Reader:
        if (problem := self.judge_problem) is not None:
            raise ValueError(problem)
        return Reader.load(self.checkpoints)

    @property
    def judge_problem(self) -> str | None:
        """None where fulfilled tasks can be told from dreamed pictures, otherwise what is missing."""
        if "_reader" in self.__dict__ or (self.checkpoints / READER / checkpoint.WEIGHTS).is_file():
            return None
        return f"expected the net that reads hands and tells fulfilled tasks from pictures ({READER}); no weights yet"

    def places(self, frames: Frame) -> NDArray[np.float32]:
        """Where hand and thing are in frames (N, H, W, 3), (N, 2, 3) metres; ValueError where the reader is missing."""
        with self._thinking, torch.inference_mode():
            return self._reader.places(frames)

    def policy(self, name: str, request: Request) -> Policy:
        """What a family does at every look, asked as in ``request``; ValueError where it acts on no instructions."""
        actor = self.family(name)
        if not actor.acts or actor.tasks:
            raise ValueError(f"expected a policy that acts on instructions, got {name}")
        return self._policy(self._awake(name), request)

    def evaluate(self, policy: str, mind: str, task: str, seed: int, *, limit: int = RANK_STEPS) -> Iterator[Both]:
        """Run one policy from one first frame in a dream and in the simulator, a chunk of each in turn.

        Both loops ask the task's plainest phrase, with ``seed`` for the scene and for the policy's chance: as in
        :func:`~vidvla.eval.ranking.measure_ranking`.

        Args:
            limit: control steps at most.

        Raises:
            ValueError: one sentence, where a family, the judge, the task or the simulator cannot serve.
        """
        actor, dreamer, reader = self.family(policy), self.family(mind), self._reader
        _check_actor(actor, task)
        if not isinstance(dreamer, Mind) or dreamer.tasks:
            raise ValueError(f"expected a world model that dreams every task, got {mind}")
        if task not in reader.config.tasks:
            raise ValueError(f"expected a task among {', '.join(reader.config.tasks)}; got {task[:60]!r}")
        scene = self.scene(task, seed)
        ask = self._policy(actor, Request(scene.frame, scene.instruction, seed, DENOISING_STEPS))
        judge = Highest(reader.judge)
        dream = Dream(dreamer, self._world, judge)
        with self._thinking:
            dream.begin(scene.frame, task, seed)
        dreamed = filmed_loop(dream, ask, dream.snapshot(), scene.frame, self._thinking, steps=limit)
        real = filmed_loop(self._world, ask, scene.state, scene.frame, self._world_lock, steps=limit)
        yield from in_turn(dreamed, real, judge)

    def evolution(self, name: str) -> Evolution:
        """How the controller of a family came to be."""
        return self.family(name).evolution()

    def evolved(self, name: str, generation: int, seed: int, tau: float) -> Replay:
        """Run a generation's controller from the scene of ``seed`` in its own dream and in the simulator.

        Args:
            generation: one of those that :meth:`evolution` says are kept.
            tau: temperature of the dream.

        Raises:
            ValueError: one sentence, where the family has no controller, the generation is not kept, ``tau`` is not
                within :data:`TAU`, or the simulator is missing.
        """
        family = self.family(name)
        kept = family.evolution().kept
        if generation not in kept:
            raise ValueError(f"expected a kept generation, {', '.join(map(str, kept))}; got {generation}")
        if not TAU[0] <= tau <= TAU[1]:
            raise ValueError(f"expected a temperature from {TAU[0]} to {TAU[1]}, got {tau}")
        place, scene = kept.index(generation), self.scene(family.tasks[0], seed)
        with self._thinking:
            film, dreamed = family.replay(scene.frame, place, tau, seed)
        with self._world_lock:
            real = play_filmed(self._world, scene.task, seed, family.agent(kept=place), EVOLVED_STEPS)
        return Replay(Run.of(film, dreamed), real)

    def still(self, truth: Rollout, first: Frame) -> dict[int, tuple[float, float]]:
        """PSNR and SSIM of copying the first frame, by the moments of the true film."""
        first = fit_square(first, truth.frames.shape[1])
        return {t: (psnr(first, frame), ssim(first, frame)) for t, frame in zip(truth.times, truth.frames, strict=True)}

    def quality(
        self, rollout: Rollout, truth: Rollout, first: Frame, still: Mapping[int, tuple[float, float]] | None = None
    ) -> Quality:
        """How a predicted film compares, at its size, with the true one, copying the first frame beside it.

        Args:
            still: what :meth:`still` has found, where it is known.
        """
        side = rollout.frames.shape[1]
        if still is None or side != truth.frames.shape[1]:
            truth = replace(truth, frames=np.stack([fit_square(frame, side) for frame in truth.frames]))
            still = self.still(truth, first)
        true = dict(zip(truth.times, truth.frames, strict=True))
        shared = [(t, f, true[t]) for t, f in zip(rollout.times, rollout.frames, strict=True) if t in true]
        return Quality(
            tuple(t for t, _, _ in shared),
            tuple(psnr(f, g) for _, f, g in shared),
            tuple(still[t][0] for t, _, _ in shared),
            tuple(ssim(f, g) for _, f, g in shared),
            tuple(still[t][1] for t, _, _ in shared),
        )

    # driving

    def comparable(self) -> list[FamilyInfo]:
        """Families that answer an instruction, those without weights included."""
        return [info for info in self.families() if not info.told]

    def drivable(self) -> list[FamilyInfo]:
        """Families whose dreams can be driven, those without weights included."""
        return [info for info in self.families() if info.told]

    @functools.cached_property
    def _truths(self) -> ThreadPoolExecutor:
        """Where the simulator steps while a dream is dreamed; one thread, as there is one simulator."""
        return ThreadPoolExecutor(max_workers=1, thread_name_prefix="vidvla-truth")

    def drive(self, name: str, frame: Frame, scene: SceneView | None = None, *, seed: int = 0, task: str = "") -> Drive:
        """Let a person drive a family's dream that begins with ``frame``, the simulator beside it in a scene.

        Args:
            scene: the scene that ``frame`` shows, where it can be simulated.
            seed: fixes chance.
            task: that ``frame`` shows where it has no scene, and comes from the simulator all the same.

        Raises:
            ValueError: where the family is unknown, has no weights, or is not told actions.
        """
        family = self.family(name)
        if not family.told:
            raise ValueError(f"expected a family that is told actions, got {name}")
        notes: tuple[str, ...] = ()
        if scene is not None:
            task = scene.task
        else:
            notes = (UNKNOWN_SAMPLE,) if task else (UNKNOWN_UPLOAD,)
        if task and task not in (family.tasks or self.trained_tasks()):
            notes += (f"{family.title} has not trained on {task}: see how far its dream carries over.",)
        if self._familiarity is not None:
            with self._thinking, torch.inference_mode():
                far = self._familiarity.note(frame)
            notes = notes if far is None else (*notes, far)
        truth = None if scene is None else Truth(self._world, self._world_lock, self._truths)
        return Drive(
            Dreams(cast(Mind, family), self._thinking), self.action_spec, frame, truth=truth,
            snapshot=None if scene is None else scene.state, seed=seed, notes=notes,
        )  # fmt: skip

    # samples

    @functools.cached_property
    def samples(self) -> dict[str, Sample]:
        """Shipped frames with their true futures, for machines without a simulator."""
        return read_samples()

    def make_samples(self, seeds: range) -> list[str]:
        """Write one sample a trained task into the assets; needs the simulator."""
        names = []
        for task, seed in zip(self.trained_tasks(), seeds, strict=False):
            scene = self.scene(task, seed)
            truth = self.truth(scene)
            write_sample(Sample(task, scene.instruction, scene.frame, truth), seed)
            names.append(task)
        return names


def _check_actor(family: Family, task: str) -> None:
    """ValueError where ``family`` does not act, or not in ``task``."""
    if not family.acts:
        raise ValueError(f"expected a family that acts, got {family.name}")
    if family.tasks and task not in family.tasks:
        raise ValueError(f"expected {' or '.join(family.tasks)}, all that {family.title} knows, got {task[:60]}")


def _again(request: Request, frame: Frame, plan: int) -> Request:
    """``request`` at a later look: with what is seen then, and another seed."""
    return replace(request, frame=frame, seed=(request.seed + plan) % 2**31)
