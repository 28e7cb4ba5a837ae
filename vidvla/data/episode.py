"""One recorded episode, and how a scripted expert, its perturbed self or play makes one."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vidvla.worlds.base import Frame, World
from vidvla.worlds.physics import physics_clip

KINDS = ("expert", "recover", "noisy", "play", "student", "drive", "attempt")
"""expert: clean from the start. recover: knocked off its path for some steps, then clean. noisy: every action
perturbed. play: no task, smooth random motion. student: a trained policy acts for some steps, then the expert takes
over, so that demonstrations start where a policy really gets to (DAgger, Ross et al. 2011, arXiv 1011.0686). drive: as
a person at the keys: one axis held for a while, rests, pushes, the gripper toggled, and the expert in between, so that
things are touched too. attempt: a trained policy acts to the end, so that a world model sees how policies fail."""
POLICY_KINDS = ("student", "attempt")
"""Kinds in which a trained policy acts."""
CLEAN_KINDS = ("expert", "recover", "student")
"""Kinds whose futures, from some step on, follow from what is seen: films and policies learn from these."""

Student = Callable[[Frame, str, int], NDArray[np.float32]]
"""(frame, task, seed) -> actions (N, A) in the world's units."""
STUDENT_EXECUTES = 8
"""Actions of a student that are executed before it looks again."""

MAX_STEPS = 56
TAIL_STEPS = 5
"""Control steps recorded after the first success, so that a film also learns what 'done' looks like."""
PLAY_STEPS = 24
DRIVE_STEPS = 64
STUDENT_STEPS = (2, 28)
"""A student acts for at least the first and fewer than the second number of control steps: after that, what it knocked
over is mostly beyond what the scripted experts can pick up."""


@dataclass(frozen=True)
class Episode:
    """What one seed of one task gave.

    Attributes:
        frames: (T + 1, H, W, 3) uint8; frame t is seen before action t.
        actions: (T, A) executed, in the world's units.
        expert_actions: (T, A) what the expert would have done at frame t.
        clean_from: from this step on every executed action is the expert's own; T where none is.
        success: the first step that fulfilled the task, or -1.
        hands: (T + 1, 3) where the hand is in each frame, metres; zeros in clips without a robot.
        joints: (T + 1, J) the robot's joints in each frame, radians and metres; none in clips without a robot.
        things: (T + 1, K) where the scene's things are in each frame, as
            :data:`~vidvla.worlds.metaworld.THING_COUNT` says; none in clips without a robot.
        rewards: (T,) the world's own dense reward after each action.
        fulfilled: (T,) 1 where the step fulfilled the task, 0 elsewhere.
        caption: what happens, for clips without a task.
    """

    task: str
    kind: str
    seed: int
    frames: Frame
    actions: NDArray[np.float32]
    expert_actions: NDArray[np.float32]
    clean_from: int
    success: int
    hands: NDArray[np.float32]
    joints: NDArray[np.float32]
    things: NDArray[np.float32]
    rewards: NDArray[np.float32]
    fulfilled: NDArray[np.uint8]
    caption: str = ""


class RobotWorld(World, Protocol):
    """A world that says where its hand is, how its arm holds it there, and where things are."""

    def hand(self) -> NDArray[np.float64]:
        """(3,), metres."""

    def joints(self) -> NDArray[np.float64]:
        """(J,), radians and metres."""

    def things(self) -> NDArray[np.float64]:
        """(K,), metres and quaternions."""


def kind_of(seed: int) -> str:
    """The kind that the recorded mix gives to ``seed``: of 20 seeds 3 expert, 12 recover, 2 noisy, 3 play."""
    place = seed % 20
    return "expert" if place < 3 else "recover" if place < 15 else "noisy" if place < 17 else "play"


def _random_push(world: World, rng: np.random.Generator) -> NDArray[np.float32]:
    """A move of random direction and strength, (A,); the gripper opens or closes at random."""
    low, high = np.asarray(world.action_spec.low), np.asarray(world.action_spec.high)
    direction = rng.normal(size=len(low))
    direction[:-1] *= rng.uniform(0.3, 1.0) / np.abs(direction[:-1]).max()
    direction[-1] = rng.choice([-1.0, 1.0]) * rng.uniform(0.3, 1.0)
    return np.clip(direction * high, low, high).astype(np.float32)


class _Disturbance:
    """Says what is executed instead of the expert's action, step by step."""

    def __init__(
        self, kind: str, world: World, rng: np.random.Generator, student: Callable[[Frame], NDArray[np.float32]]
    ) -> None:
        self.kind, self.world, self.rng, self.student = kind, world, rng, student
        self.start = 0 if rng.random() < 0.5 else int(rng.integers(1, 16))
        self.stop = self.start + int(rng.integers(1, 8))
        if kind == "student":
            self.start, self.stop = 0, int(rng.integers(*STUDENT_STEPS))
        self.planned: list[NDArray[np.float32]] = []
        self.left, self.by_expert = 0, False
        self.push = _random_push(world, rng)
        self.noise_scale = rng.uniform(0.1, 0.6)

    def __call__(self, step: int, clean: NDArray[np.float32], frame: Frame) -> NDArray[np.float32]:
        low, high = np.asarray(self.world.action_spec.low), np.asarray(self.world.action_spec.high)
        if self.kind == "attempt" or (self.kind == "student" and step < self.stop):
            self.planned = self.planned or list(self.student(frame)[:STUDENT_EXECUTES])
            return np.clip(self.planned.pop(0), low, high).astype(np.float32)
        if self.kind == "recover" and self.start <= step < self.stop:
            jitter = self.rng.normal(scale=0.2, size=len(low)) * high
            return np.clip(self.push + jitter, low, high).astype(np.float32)
        if self.kind == "noisy":
            noise = self.rng.normal(scale=self.noise_scale, size=len(low)) * high
            return np.clip(clean + noise, low, high).astype(np.float32)
        if self.kind == "play":
            if step % 3 == 0 and self.rng.random() < 0.6:
                self.push = _random_push(self.world, self.rng)
            jitter = self.rng.normal(scale=0.15, size=len(low)) * high
            return np.clip(self.push + jitter, low, high).astype(np.float32)
        if self.kind == "drive":
            if self.left == 0:
                self._next_key()
            self.left -= 1
            return clean if self.by_expert else self.push
        return clean

    def _next_key(self) -> None:
        """What a person does for the next steps of a drive."""
        high, rng = np.asarray(self.world.action_spec.high), self.rng
        gripper = -self.push[-1] if rng.random() < 0.2 else self.push[-1]
        what = rng.choice(["key", "rest", "push", "expert"], p=[0.4, 0.1, 0.25, 0.25])
        self.by_expert = what == "expert"
        self.left = int(rng.integers(1, 5) if what == "rest" else rng.integers(2, 13))
        if what == "push":
            self.push = _random_push(self.world, rng)
        else:
            self.push = np.zeros(len(high), np.float32)
            if what == "key":
                axis = rng.integers(len(high) - 1)
                self.push[axis] = rng.choice([-1.0, 1.0]) * rng.uniform(0.3, 1.0) * high[axis]
        self.push[-1] = gripper

    def clean_from(self, steps: int) -> int:
        return {"expert": 0, "recover": min(self.stop, steps), "student": min(self.stop, steps)}.get(self.kind, steps)


def record_episode(
    world: RobotWorld, task: str, kind: str, seed: int, student: Student | None = None, steps: int | None = None
) -> Episode:
    """Run ``kind`` on ``task`` from layout ``seed``; equal arguments give the equal episode.

    Args:
        student: acts in episodes of :data:`POLICY_KINDS`.
        steps: control steps at most, where not as many as recordings of the kind have.
    """
    if kind not in KINDS:
        raise ValueError(f"expected a kind among {', '.join(KINDS)}; got {kind!r}")
    if (kind in POLICY_KINDS) != (student is not None):
        raise ValueError(f"expected a student exactly for the kinds {' and '.join(POLICY_KINDS)}, got kind {kind!r}")

    def plan(frame: Frame) -> NDArray[np.float32]:
        assert student is not None
        return student(frame, task, seed)

    # the task is part of it: with the seed alone, all tasks of a seed would be driven by the same commands
    rng = np.random.default_rng([seed, KINDS.index(kind), zlib.crc32(task.encode())])
    world.reset(task, seed)
    disturb = _Disturbance(kind, world, rng, plan)
    frames, actions, labels, success = [world.render()], [], [], -1
    hands, joints, things, rewards, fulfilled = [world.hand()], [world.joints()], [world.things()], [], []
    limit = {"play": PLAY_STEPS, "drive": DRIVE_STEPS, "student": disturb.stop + MAX_STEPS}.get(kind, MAX_STEPS)
    for step in range(steps or limit):
        clean = world.expert()
        action = disturb(step, clean, frames[-1])
        result = world.step(action)
        frames.append(world.render())
        actions.append(action)
        labels.append(clean)
        hands.append(world.hand())
        joints.append(world.joints())
        things.append(world.things())
        rewards.append(result.reward)
        fulfilled.append(result.success)
        if result.success and success < 0:
            success = step
        settled = kind in POLICY_KINDS or step >= disturb.stop
        if kind not in ("play", "drive") and 0 <= success <= step - TAIL_STEPS and settled:
            break
    return Episode(
        task, kind, seed, np.stack(frames), np.stack(actions), np.stack(labels),
        disturb.clean_from(len(actions)), success,
        np.stack(hands).astype(np.float32), np.stack(joints).astype(np.float32), np.stack(things).astype(np.float32),
        np.array(rewards, np.float32), np.array(fulfilled, np.uint8),
    )  # fmt: skip


def physics_episode(kind: str, seed: int, size: int, steps: int = 20) -> Episode:
    """A clip without a robot: its "task" is the kind of physics, its actions are a column of zeros."""
    clip = physics_clip(kind, seed, frames=steps + 1, size=size)
    none = np.zeros((steps, 1), np.float32)
    hands, idle = np.zeros((steps + 1, 3), np.float32), np.zeros(steps, np.uint8)
    return Episode(
        kind, "clip", seed, clip.frames, none, none, 0, -1, hands, hands[:, :0], hands[:, :0], none[:, 0], idle,
        clip.caption,
    )  # fmt: skip
