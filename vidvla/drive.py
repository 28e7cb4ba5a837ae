"""Driving a dream by hand: each action is dreamed and, where there is a simulator, executed beside it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vidvla.eval.metrics import psnr, ssim
from vidvla.eval.rollouts import expert_end
from vidvla.families.base import fit_square
from vidvla.planning import Imagine
from vidvla.worlds.base import ActionSpec, Frame, World
from vidvla.worlds.dream import Mind, Resuming

LONGEST = 600
"""Control steps of a drive, over its line and its branches."""
NEWEST, EVERY = 32, 16
"""The newest dream states are kept, and of older ones each so many-th: the steps between are dreamed again when one
goes back there. A state of the shipped world model is 0.7 MB."""
BRANCHES = 4
LONGEST_LOOK = 32
"""Control steps that one question about what would follow may cover."""
MOST_SEEDS = 8

Actions = NDArray[np.float32]
Heat = NDArray[np.float32]
"""(H, W) levels of 255 by which pixels differ."""


class Dreams:
    """A mind that many ask at once: one answer at a time, and no gradients."""

    def __init__(self, mind: Mind, turn: AbstractContextManager[Any]) -> None:
        self._mind, self._turn = mind, turn

    def begin(self, frame: Frame) -> tuple[Frame, Any]:
        """The first frame at the mind's size, and the state."""
        with self._turn, torch.inference_mode():
            state = self._mind.begin(frame)
            return self._mind.look(state)[0], state

    def resume(self, frames: Frame, actions: Actions) -> Any:
        """The state after true frames (T, H, W, 3) and actions (N, A), or after the last frame alone."""
        with self._turn, torch.inference_mode():
            if isinstance(self._mind, Resuming):
                return self._mind.resume(frames, actions)
            return self._mind.begin(frames[-1])

    def after(self, state: Any, actions: Actions, seed: int, sample: bool = False) -> tuple[Frame, Any]:
        """Frames (B, H, W, 3) and states one control step after actions (B, A); sampled, or what is likeliest."""
        with self._turn, torch.inference_mode():
            state = (self._mind.sample if sample else self._mind.imagine)(state, actions, seed)
            return self._mind.look(state), state


@dataclass(frozen=True)
class Reached:
    """Where an action led in the simulator."""

    frame: Frame
    snapshot: Any
    fulfilled: bool


class Truth:
    """A simulator that many share: every step starts from the caller's own snapshot."""

    def __init__(self, world: World, turn: AbstractContextManager[Any], pool: Executor) -> None:
        self._world, self._turn, self.pool = world, turn, pool

    def after(self, snapshot: Any, action: Actions) -> Reached:
        """One control step on from ``snapshot``."""
        with self._turn:
            self._world.restore(snapshot)
            fulfilled = self._world.step(action).success
            return Reached(self._world.render(), self._world.snapshot(), fulfilled)

    def end(self, snapshot: Any) -> Frame | None:
        """What the task's scripted expert leaves behind when it goes on from ``snapshot``; None where it fails."""
        with self._turn:
            self._world.restore(snapshot)
            return expert_end(self._world)


@dataclass(frozen=True)
class Fidelity:
    """Dream against truth, with the first frame against truth beside it; dB (infinite where equal) and SSIM."""

    psnr: float
    ssim: float
    psnr_copy: float
    ssim_copy: float


@dataclass(frozen=True)
class Moment:
    """One control step of a drive.

    Attributes:
        step: 0 is the given frame.
        dream: (H, W, 3).
        truth: what the simulator shows, at the dream's size; None where nobody knows.
        action: (A,) that led here, in world units; None at step 0.
        snapshot: of the simulator.
        fulfilled: the simulator says that the task was fulfilled in this step.
        seconds: wall clock, dream and truth together.
    """

    step: int
    dream: Frame
    truth: Frame | None = None
    action: Actions | None = None
    fidelity: Fidelity | None = None
    snapshot: Any = field(default=None, repr=False)
    fulfilled: bool = False
    seconds: float = 0.0

    @property
    def error(self) -> Heat | None:
        """By how much dream and truth differ, (H, W) levels of 255; None where nobody knows the truth."""
        return None if self.truth is None else difference(self.dream, self.truth)


@dataclass(frozen=True)
class Branch:
    """A line that was left at ``step``, whole."""

    name: str
    step: int
    moments: tuple[Moment, ...]


@dataclass(frozen=True)
class WhatIf:
    """Two films from one moment, (N, H, W, 3) each, and how far their last frames differ."""

    films: tuple[Frame, Frame]
    difference: Heat


@dataclass(frozen=True)
class Uncertainty:
    """Films of several seeds, (S, N, H, W, 3), and the standard deviation of their last frames."""

    films: Frame
    spread: Heat


@dataclass(frozen=True)
class Recording:
    """A drive to keep: dreamed frames (N + 1, H, W, 3), true ones or None, and actions (N, A) in world units."""

    dream: Frame
    truth: Frame | None
    actions: Actions


def difference(first: Frame, second: Frame) -> Heat:
    """Mean absolute difference over the channels of two frames (H, W, 3), in levels of 255."""
    return np.abs(first.astype(np.float32) - second.astype(np.float32)).mean(axis=2)


def spread(frames: Frame) -> Heat:
    """Standard deviation over frames (S, H, W, 3), channels averaged, in levels of 255."""
    return frames.astype(np.float32).std(axis=0).mean(axis=2)


class Drive:
    """One person's drive. Its line of moments grows by actions, and can be cut and branched.

    Not for two threads at once, except :meth:`export`, which may run beside the others.

    Args:
        frame: (H, W, 3) that the dream begins with.
        truth: executes the same actions; needs ``snapshot``, the simulator's state in ``frame``.
        seed: fixes chance: the same actions from the same moment give the same dream.
        notes: sentences to show beside it.
    """

    def __init__(
        self, dreams: Dreams, spec: ActionSpec, frame: Frame, *, truth: Truth | None = None, snapshot: Any = None,
        seed: int = 0, notes: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        self._dreams, self._spec, self._truth, self._seed = dreams, spec, truth, seed
        self.notes = notes
        first, state = dreams.begin(frame)
        # the mind may see it through an encoder of its own
        true = None if truth is None else fit_square(frame, first.shape[0])
        self._line = [Moment(0, first, true, snapshot=snapshot)]
        self._states = {0: state}
        self.branches: tuple[Branch, ...] = ()

    @property
    def line(self) -> tuple[Moment, ...]:
        """All moments of the present line."""
        return tuple(self._line)

    @property
    def now(self) -> Moment:
        """The newest moment."""
        return self._line[-1]

    @property
    def spec(self) -> ActionSpec:
        """The axes of its actions."""
        return self._spec

    @property
    def simulated(self) -> bool:
        """True where the truth is known."""
        return self._truth is not None

    def step(self, action: NDArray[Any]) -> Moment:
        """Dream and execute an action (A,) in world units.

        Raises:
            ValueError: where it is no action, or the drive is at its longest; nothing has changed then.
        """
        value = self._spec.check(action)
        self.check_room(1)
        start, now = time.perf_counter(), self.now
        reaching = None if self._truth is None else self._truth.pool.submit(self._reach, now, value)
        frames, state = self._dreams.after(self._states[now.step], value[None], self._chance(now.step))
        moment = Moment(now.step + 1, frames[0], action=value)
        if reaching is not None:
            moment = _beside(moment, *reaching.result())
        moment = replace(moment, seconds=time.perf_counter() - start)
        self._states[moment.step] = state
        if (moment.step - NEWEST) % EVERY:
            self._states.pop(moment.step - NEWEST, None)
        self._line.append(moment)
        return moment

    def _reach(self, now: Moment, action: Actions) -> tuple[Reached, tuple[float, float]]:
        """The next true frame at the dream's size, and how near the first frame is to it."""
        assert self._truth is not None
        reached = self._truth.after(now.snapshot, action)
        first = self._line[0].truth
        assert first is not None
        frame = fit_square(reached.frame, first.shape[0])
        return Reached(frame, reached.snapshot, reached.fulfilled), (psnr(first, frame), ssim(first, frame))

    def _chance(self, step: int) -> int:
        return int(np.random.SeedSequence([self._seed, step]).generate_state(1)[0] >> 1)

    def check_room(self, wanted: int) -> None:
        """ValueError where ``wanted`` more steps would make the drive longer than it may be."""
        kept = {id(m) for line in (self._line, *(b.moments for b in self.branches)) for m in line[1:]}
        if len(kept) + wanted > LONGEST:
            raise ValueError(
                f"expected at most {LONGEST} steps over a drive and its branches, got {len(kept) + wanted}: "
                "rewind, or start again"
            )

    def replay(self, actions: NDArray[Any]) -> Iterator[Moment]:
        """Drive actions (N, A) from now on, one after the other.

        Raises:
            ValueError: before the first step, where any of them is no action or they are too many.
        """
        if actions.ndim != 2 or len(actions) == 0:
            raise ValueError(f"expected actions (N, {len(self._spec)}) with N of at least 1, got {actions.shape}")
        checked = [self._spec.check(action) for action in actions]
        self.check_room(len(checked))
        return (self.step(action) for action in checked)

    def _check(self, step: int) -> None:
        if not 0 <= step < len(self._line):
            raise ValueError(f"expected a step from 0 to {self.now.step}, got {step}")

    def _state(self, step: int) -> Any:
        """What the model knew at ``step``; ValueError where it is unknown."""
        self._check(step)
        known = max(kept for kept in self._states if kept <= step)
        state = self._states[known]
        for moment in self._line[known + 1 : step + 1]:
            assert moment.action is not None
            _, state = self._dreams.after(state, moment.action[None], self._chance(moment.step - 1))
        return state

    def rewind(self, step: int) -> Moment:
        """Go back to ``step`` and forget what came after it; ValueError where it is unknown."""
        state = self._state(step)
        self._line = self._line[: step + 1]
        self._states = {known: kept for known, kept in self._states.items() if known < step} | {step: state}
        return self.now

    def branch(self, step: int) -> Branch:
        """Go back to ``step``, and keep the line as it was as a branch.

        Raises:
            ValueError: where the step is unknown or the newest one, or there are branches enough.
        """
        self._check(step)
        if step == self.now.step:
            raise ValueError(f"expected an earlier step to branch at, got the newest one, {step}")
        if len(self.branches) >= BRANCHES:
            raise ValueError(f"expected at most {BRANCHES} branches, got one more: forget one, or start again")
        taken = {branch.name for branch in self.branches}
        name = next(letter for letter in "ABCDEFGH" if letter not in taken)
        kept = Branch(name, step, self.line)
        self.branches = (*self.branches, kept)
        self.rewind(step)
        return kept

    def kept(self, name: str) -> Branch:
        """A branch by its name; ValueError where there is none of that name."""
        for branch in self.branches:
            if branch.name == name:
                return branch
        names = ", ".join(branch.name for branch in self.branches) or "none yet"
        raise ValueError(f"expected a branch among {names}; got {name!r}")

    def forget(self, name: str) -> None:
        """Drop a branch; ValueError where there is none of that name."""
        gone = self.kept(name)
        self.branches = tuple(branch for branch in self.branches if branch is not gone)

    def what_if(self, step: int, action_a: NDArray[Any], action_b: NDArray[Any], count: int = 8) -> WhatIf:
        """What would follow ``step`` if either action (A,) were held for ``count`` steps; the line stays."""
        state, both = self._state(step), np.stack([self._spec.check(a) for a in (action_a, action_b)])
        films = self._films(state, step, _held(both, count))
        return WhatIf((films[0], films[1]), difference(films[0, -1], films[1, -1]))

    def uncertainty(self, step: int, action: NDArray[Any], *, seeds: int = 4, count: int = 8) -> Uncertainty:
        """How far dreams of ``step`` part that differ in chance alone, an action (A,) held; the line stays."""
        if not 2 <= seeds <= MOST_SEEDS:
            raise ValueError(f"expected 2 to {MOST_SEEDS} seeds, got {seeds}")
        state, same = self._state(step), np.stack([self._spec.check(action)] * seeds)
        films = self._films(state, step, _held(same, count), sample=True)
        return Uncertainty(films, spread(films[:, -1]))

    def ahead(self) -> Imagine:
        """What would be seen from the newest moment on; the line stays.

        Where the truth is known it is looked at, as a robot would; elsewhere the drive's own dream goes on.
        """
        now, state = self.now, self._states[self.now.step]
        if self.simulated:
            done = [m.action for m in self._line if m.action is not None]
            actions = np.stack(done) if done else np.zeros((0, len(self._spec)), np.float32)
            state = self._dreams.resume(np.stack([m.truth for m in self._line if m.truth is not None]), actions)

        def imagine(candidates: Actions) -> Frame:
            return self._films(state, now.step, candidates)

        return imagine

    def end(self) -> Frame:
        """What the task's scripted expert leaves behind, from the first moment on; the line stays.

        Raises:
            ValueError: where there is no simulator beside the dream, or the expert fails in this scene.
        """
        if self._truth is None:
            raise ValueError("expected a simulated scene for the task's end, got a picture that nobody can act in")
        frame = self._truth.end(self._line[0].snapshot)
        if frame is None:
            raise ValueError("expected a scene in which the scripted expert succeeds; it fails in this one")
        return fit_square(frame, self._line[0].dream.shape[0])

    def _films(self, state: Any, step: int, actions: Actions, sample: bool = False) -> Frame:
        """B films (B, N, H, W, 3) from one state, of actions (B, N, A), dreamed as one batch."""
        states, films = state.repeat(len(actions)), []
        for ahead in range(actions.shape[1]):
            frames, states = self._dreams.after(states, actions[:, ahead], self._chance(step + ahead), sample)
            films.append(frames)
        return np.stack(films, axis=1)

    def export(self) -> Recording:
        """The present line."""
        line = self.line
        actions = [m.action for m in line if m.action is not None]
        return Recording(
            np.stack([m.dream for m in line]),
            np.stack([m.truth for m in line if m.truth is not None]) if self.simulated else None,
            np.stack(actions) if actions else np.zeros((0, len(self._spec)), np.float32),
        )


def _held(actions: Actions, count: int) -> Actions:
    """Actions (B, A), each held for ``count`` steps -> (B, count, A); ValueError where they are too many or none."""
    if not 1 <= count <= LONGEST_LOOK:
        raise ValueError(f"expected 1 to {LONGEST_LOOK} steps to look ahead, got {count}")
    return np.repeat(actions[:, None], count, axis=1)


def _beside(moment: Moment, reached: Reached, copied: tuple[float, float]) -> Moment:
    """A dreamed moment with the truth, and how near the dream and (``copied``) the first frame are to it."""
    fidelity = Fidelity(psnr(moment.dream, reached.frame), ssim(moment.dream, reached.frame), *copied)
    return replace(
        moment, truth=reached.frame, snapshot=reached.snapshot, fulfilled=reached.fulfilled, fidelity=fidelity
    )
