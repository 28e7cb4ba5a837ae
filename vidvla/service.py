"""The one caller of the families: plain values in and out, for the CLI, the page and the API alike."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vidvla import checkpoint, registry
from vidvla.eval.metrics import psnr, ssim
from vidvla.eval.rollouts import EPISODE_STEPS, EXECUTE, closed_loop
from vidvla.families.base import Family, fit_square
from vidvla.foundation.familiar import Familiarity
from vidvla.foundation.film import check_request
from vidvla.text import phrase_book
from vidvla.types import ProgressCallback, Request, Rollout
from vidvla.worlds.base import ActionSpec, Frame
from vidvla.worlds.metaworld import AVDC_TASKS, MetaWorld, Snapshot, simulator_problem

HORIZON = 16
"""Control steps that a film covers, and the truth beside it."""
COMPARED = 4
"""Control steps between the moments at which all families' films are compared."""


@dataclass(frozen=True)
class FamilyInfo:
    """What the page and the CLI say of a family.

    Attributes:
        problem: why it cannot be asked (missing or damaged weights), or None.
        trained: the training records of its checkpoint, in their order.
    """

    name: str
    title: str
    summary: str
    source: str
    films: bool
    acts: bool
    attends: bool
    problem: str | None
    trained: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class SceneView:
    """A simulated scene as it starts.

    Attributes:
        frame: (H, W, 3) uint8.
        instruction: the task's plainest phrasing.
        state: restores the scene exactly.
    """

    task: str
    seed: int
    frame: Frame
    instruction: str
    state: Snapshot


@dataclass(frozen=True)
class Sample:
    """A shipped frame with what the simulator's expert then did.

    Attributes:
        frame: (H, W, 3) uint8.
        truth: the expert's film, one frame a control step, and its actions.
    """

    name: str
    instruction: str
    frame: Frame
    truth: Rollout


@dataclass(frozen=True)
class Execution:
    """Progress of a closed loop after one more chunk.

    Attributes:
        frames: (T, H, W, 3) the whole film so far.
        steps: control steps so far.
        plans: times that the family looked.
        success: True once the task is fulfilled.
        done: True when the loop has ended.
    """

    frames: Frame
    actions: NDArray[np.float32]
    steps: int
    plans: int
    success: bool
    done: bool


@dataclass(frozen=True)
class Quality:
    """Prediction against truth at the predicted frames' times; one entry a frame, dB and SSIM."""

    times: tuple[int, ...]
    psnr: tuple[float, ...]
    psnr_copy: tuple[float, ...]
    ssim: tuple[float, ...]
    ssim_copy: tuple[float, ...]


class Service:
    """Families, worlds and samples behind one door. Thread-safe; keeps nothing of one caller for another.

    Args:
        checkpoints: folder of published checkpoints.
        device: ``auto``, ``cpu`` or ``cuda``.
        loaded: families at hand already, such as tiny ones in tests; only these are then offered.
    """

    action_spec: ActionSpec = MetaWorld.action_spec
    steps_per_second: float = MetaWorld.steps_per_second

    def __init__(
        self, checkpoints: Path | None = None, device: str = "auto", loaded: dict[str, Family] | None = None
    ) -> None:
        self.checkpoints = checkpoints or checkpoint.ASSETS / "checkpoints"
        self.device = checkpoint.pick_device(device)
        self._offered = None if loaded is None else frozenset(loaded)
        self._loaded: dict[str, Family] = dict(loaded or {})
        self._woken: set[str] = set()
        self._loading = threading.Lock()
        self._thinking = threading.Lock()  # torch's threads are shared: two answers at once are slower than in turn
        self._world_lock = threading.RLock()

    # families

    def family(self, name: str) -> Family:
        """The loaded family; ValueError with one sentence where it is unknown or has no usable weights."""
        with self._loading:
            if name not in self._loaded:
                self._loaded[name] = registry.family(name).load(self.checkpoints, self.device)
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
        """All families that are registered, with what stands in the way of those that cannot be asked."""
        infos = []
        for name, kind in registry.families().items():
            if self._offered is not None and name not in self._offered:
                continue
            folder, problem = self.checkpoints / f"{name}-metaworld", None
            trained: tuple[dict[str, Any], ...] = ()
            try:
                config = json.loads((folder / checkpoint.CONFIG).read_text())
                trained = tuple(checkpoint.flat_records(config["trained"]))
            except (OSError, KeyError, json.JSONDecodeError):
                problem = (
                    None if name in self._loaded else f"no trained weights in {folder.name} (run: vidvla train {name})"
                )
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
                    trained,
                )
            )
        return infos

    def check(self, request: Request) -> None:
        """ValueError with one sentence where no family could answer ``request``; asks none."""
        check_request(request)

    def predict(
        self,
        name: str,
        request: Request,
        *,
        attention: bool = False,
        progress: ProgressCallback | None = None,
    ) -> Rollout:
        """Ask one family; adds a note where the frame is far from what it was trained on."""
        family = self._awake(name)
        with self._thinking, torch.inference_mode():
            rollout = family(request, attention=attention, progress=progress)
            note = self._familiarity.note(request.frame) if self._familiarity is not None else None
        if note is None:
            return rollout
        return Rollout(**{**vars(rollout), "notes": (*rollout.notes, note)})

    @functools.cached_property
    def _familiarity(self) -> Familiarity | None:
        folder = self.checkpoints / "codec"
        return Familiarity.load(folder) if (folder / checkpoint.WEIGHTS).is_file() else None

    def parameters(self, name: str) -> int:
        """Number of weights of a family."""
        return self.family(name).parameters()

    # scenes

    @functools.cached_property
    def simulator_problem(self) -> str | None:
        """None where scenes can be simulated, otherwise what to install."""
        return simulator_problem()

    @functools.cached_property
    def _world(self) -> MetaWorld:
        if self.simulator_problem is not None:
            raise ValueError(self.simulator_problem)
        return MetaWorld()

    def tasks(self) -> tuple[str, ...]:
        """Task names, those that the models trained on first."""
        if self.simulator_problem is not None:
            return AVDC_TASKS
        return self._world.tasks

    def trained_tasks(self) -> tuple[str, ...]:
        """Tasks that the shipped models trained on."""
        return AVDC_TASKS

    def phrasings(self, task: str) -> tuple[str, ...]:
        """Example instructions of a task."""
        book = phrase_book()
        if task not in book:
            raise ValueError(f"expected a task among {', '.join(book)}; got {task!r}")
        return book[task].train

    def scene(self, task: str, seed: int) -> SceneView:
        """Lay out a task; equal seeds give equal scenes."""
        with self._world_lock:
            self._world.reset(task, seed)
            frame, state = self._world.render(), self._world.snapshot()
        return SceneView(task, seed, frame, phrase_book()[task].canonical, state)

    def truth(self, scene: SceneView, steps: int = HORIZON) -> Rollout:
        """What the simulator's scripted expert does from ``scene``: one frame a control step, and its actions."""
        frames, actions = [], []
        with self._world_lock:
            self._world.restore(scene.state)
            for _ in range(steps):
                action = self._world.expert()
                self._world.step(action)
                actions.append(action)
                frames.append(self._world.render())
        return Rollout(np.stack(frames), tuple(range(1, steps + 1)), np.stack(actions))

    def play(self, scene: SceneView, actions: NDArray[np.float32]) -> Rollout:
        """What the simulator does when ``actions`` (N, A) are executed from ``scene`` without looking."""
        frames, success = [], False
        with self._world_lock:
            self._world.restore(scene.state)
            for action in actions:
                success = self._world.step(action).success or success
                frames.append(self._world.render())
        note = "The task was fulfilled." if success else "The task was not fulfilled."
        return Rollout(np.stack(frames), tuple(range(1, len(frames) + 1)), actions, notes=(note,))

    def execute(
        self, name: str, scene: SceneView, request: Request, *, execute: int = EXECUTE, limit: int = EPISODE_STEPS
    ) -> Iterator[Execution]:
        """Run a family in the simulator for at most ``limit`` control steps; yields after every chunk.

        Args:
            request: what is asked at every look, with the frame that is seen then, and another seed each time.
            execute: control steps between looks.
        """
        family = self.family(name)
        if not family.acts:
            raise ValueError(f"expected a family that acts, got {name}")

        def policy(frame: Frame, plan: int) -> NDArray[np.float32]:
            with self._thinking, torch.inference_mode():
                return family.act(replace(request, frame=frame, seed=(request.seed + plan) % 2**31))

        films, actions = [scene.frame[None]], []
        chunks = closed_loop(self._world, policy, scene.state, steps=limit, execute=execute, film=True)
        while True:
            with self._world_lock:
                chunk = next(chunks, None)
            if chunk is None:
                return
            films.append(chunk.frames[1:])
            actions.append(chunk.actions)
            done = chunk.success or chunk.steps >= limit
            yield Execution(
                np.concatenate(films),
                np.concatenate(actions),
                chunk.steps,
                chunk.plan + 1,
                chunk.success,
                done,
            )

    def quality(self, rollout: Rollout, truth: Rollout, first: Frame) -> Quality:
        """How a predicted film compares, at its size, with the true one, copying the first frame beside it."""
        side = rollout.frames.shape[1]
        true = {moment: fit_square(frame, side) for moment, frame in zip(truth.times, truth.frames, strict=True)}
        first = fit_square(first, side)
        shared = [(f, true[t], t) for f, t in zip(rollout.frames, rollout.times, strict=True) if t in true]
        return Quality(
            tuple(t for _, _, t in shared),
            tuple(psnr(f, g) for f, g, _ in shared),
            tuple(psnr(first, g) for _, g, _ in shared),
            tuple(ssim(f, g) for f, g, _ in shared),
            tuple(ssim(first, g) for _, g, _ in shared),
        )

    # samples

    @functools.cached_property
    def samples(self) -> dict[str, Sample]:
        """Shipped frames with their true futures, for machines without a simulator."""
        return {s.name: s for s in map(_read_sample, sorted(_samples_folder().glob("*.json")))}

    def make_samples(self, seeds: range) -> list[str]:
        """Write one sample a trained task into the assets; needs the simulator."""
        names = []
        for task, seed in zip(self.trained_tasks(), seeds, strict=False):
            scene = self.scene(task, seed)
            truth = self.truth(scene)
            strip = np.concatenate([scene.frame, *truth.frames], axis=1)
            folder = _samples_folder()
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(strip).save(folder / f"{task}.png", optimize=True)
            assert truth.actions is not None
            meta = {
                "instruction": scene.instruction,
                "seed": seed,
                "actions": truth.actions.round(4).tolist(),
            }
            (folder / f"{task}.json").write_text(json.dumps(meta) + "\n")
            names.append(task)
        return names


def _samples_folder() -> Path:
    return checkpoint.ASSETS / "samples"


def _read_sample(path: Path) -> Sample:
    meta = json.loads(path.read_text())
    strip = np.asarray(Image.open(path.with_suffix(".png")).convert("RGB"))
    side = strip.shape[0]
    frames = np.stack(np.split(strip, strip.shape[1] // side, axis=1))
    actions = np.asarray(meta["actions"], np.float32)
    truth = Rollout(frames[1:], tuple(range(1, len(frames))), actions)
    return Sample(path.stem, meta["instruction"], frames[0], truth)
