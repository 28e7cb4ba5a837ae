"""What one person's drive answers to each request: plain functions over the service, without a socket."""

from __future__ import annotations

import base64
import binascii
import json
import math
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app import pictures, session
from app.session import SCENE, UPLOAD, Form, Start
from vidvla import steering
from vidvla.actions import read_actions
from vidvla.drive import Drive, Moment
from vidvla.eval.rollouts import Policy
from vidvla.images import read_picture
from vidvla.service import Service
from vidvla.steering import Driven, Planned, Thought
from vidvla.types import Request
from vidvla.views import FamilyInfo
from vidvla.worlds.base import Frame

Message = dict[str, Any]
Reply = str | bytes
ERROR_TOP, SPREAD_TOP = 64.0, 32.0
"""Levels of 255 that are brightest in maps of errors and of spread."""
RANDOM = "random"
"""Candidates of plans that no policy proposes."""
SHOWN = 3
"""Films of each iteration of a plan, best first."""
ANOTHER = "This drive has ended, as another one was started."


def proposing(service: Service) -> list[FamilyInfo]:
    """Families that can propose candidates to a planner, those without weights included."""
    return [info for info in service.families() if info.acts and info.general]


class Driving:
    """One socket's drive: a request in, replies out. Nothing of it is shared, and a refused request changes nothing."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.drive: Drive | None = None
        self.number = 0
        self._begun: Start | None = None
        self._goal: Frame | None = None
        self._turn = threading.Lock()
        self._answers = {
            "start": self._start, "act": self._act, "rewind": self._rewind, "branch": self._branch,
            "forget": self._forget, "what_if": self._what_if, "uncertainty": self._uncertainty,
            "replay": self._replay, "goal": self._choose, "plan": self._plan, "stop": self._stop,
        }  # fmt: skip

    def next(self, replies: Iterator[Reply]) -> Reply | None:
        """The next of an answer's replies, or None. One at a time: a socket may take over while another's is made."""
        with self._turn:
            return next(replies, None)

    def answer(self, message: Message) -> Iterator[Reply]:
        """Replies to a message; whatever goes wrong is one sentence."""
        try:
            kind = message["type"]
            if kind not in self._answers:
                raise ValueError(f"expected a message of a type among {', '.join(self._answers)}; got {kind[:40]!r}")
            if kind != "start" and "drive" in message and message["drive"] != self.number:
                raise ValueError(ANOTHER)
            yield from self._answers[kind](message)
        except Exception as error:  # the border of the page: whatever goes wrong is one sentence
            yield error_text(session.failure(error, "The drive"))

    def _start(self, message: Message) -> Iterator[Reply]:
        model, start = message.get("model"), self._first(message)
        known = {info.name: info for info in self.service.drivable()}
        if not isinstance(model, str) or model not in known:
            raise ValueError(f"expected a model among {', '.join(known) or 'none'}; got {str(model)[:40]!r}")
        if (problem := known[model].problem) is not None:
            raise ValueError(f"{known[model].title}: {problem}")
        seed = 0 if start.scene is None else start.scene.seed
        drive = self.service.drive(
            model, start.frame, start.scene, seed=seed, task=start.task
        )  # fmt: skip
        self.drive, self.number = drive, self.number + 1
        self._begun, self._goal = start, None
        yield _text(
            "started", drive=self.number, title=known[model].title, label=start.label, notes=drive.notes,
            simulated=drive.simulated, chance=self.service.family(model).chance,
        )  # fmt: skip
        yield self._shown(drive.now)

    def _first(self, message: Message) -> Start:
        """What the drive starts from."""
        source = message.get("source")
        if source == UPLOAD:
            return Start("your picture", read_picture(_bytes_of(message, "upload", "a picture")))
        task, seed, sample = message.get("task"), message.get("seed"), message.get("sample")
        if source == SCENE:
            if isinstance(seed, bool) or not isinstance(seed, int | float):
                raise ValueError(f"expected a scene seed, got {str(seed)[:40]!r}")
            seed = float(seed) if abs(seed) < 1e18 else math.nan
        task, sample = (value if isinstance(value, str) else None for value in (task, sample))
        form = Form(str(source)[:40], task, seed, sample, None, "", (), 1, 1.0, 0)
        return session.find_start(self.service, form)

    def _driven(self) -> Drive:
        if self.drive is None:
            raise ValueError("expected a drive that has begun: start one first")
        return self.drive

    def _act(self, message: Message) -> Iterator[Reply]:
        drive = self._driven()
        yield self._shown(drive.step(_action(message, "action", len(self.service.action_spec))))

    def _rewind(self, message: Message) -> Iterator[Reply]:
        now = self._driven().rewind(_whole(message, "step"))
        yield _text("rewound", drive=self.number, step=now.step)

    def _branch(self, message: Message) -> Iterator[Reply]:
        branch = self._driven().branch(_whole(message, "step"))
        steps = len(branch.moments) - 1
        yield _text("branched", drive=self.number, name=branch.name, step=branch.step, steps=steps)

    def _forget(self, message: Message) -> Iterator[Reply]:
        name = str(message.get("name"))[:40]
        self._driven().forget(name)
        yield _text("forgotten", drive=self.number, name=name)

    def _what_if(self, message: Message) -> Iterator[Reply]:
        axes, drive = len(self.service.action_spec), self._driven()
        found = drive.what_if(
            _whole(message, "step"), _action(message, "action_a", axes), _action(message, "action_b", axes),
            _whole(message, "count", 8),
        )  # fmt: skip
        films = [(name, frame) for name, film in zip("ab", found.films, strict=True) for frame in film]
        header = {"type": "what_if", "drive": self.number, "mean": round(float(found.difference.mean()), 3)}
        yield pictures.message(header, [*films, ("map", pictures.heat(found.difference, ERROR_TOP))])

    def _uncertainty(self, message: Message) -> Iterator[Reply]:
        action = _action(message, "action", len(self.service.action_spec))
        found = self._driven().uncertainty(
            _whole(message, "step"), action, seeds=_whole(message, "seeds", 4),
            count=_whole(message, "count", 8),
        )  # fmt: skip
        films = [("abcdefgh"[seed], frame) for seed, film in enumerate(found.films) for frame in film]
        header = {"type": "uncertainty", "drive": self.number, "mean": round(float(found.spread.mean()), 3)}
        yield pictures.message(header, [*films, ("map", pictures.heat(found.spread, SPREAD_TOP))])

    def _replay(self, message: Message) -> Iterator[Reply]:
        """Drive a file's actions; the caller stops asking for more where something else is asked meanwhile."""
        drive = self._driven()
        actions = read_actions(_bytes_of(message, "file", "a file of actions"), self.service.action_spec)
        for done, moment in enumerate(drive.replay(actions), 1):
            yield self._shown(moment, replayed=[done, len(actions)])

    # planning

    def _choose(self, message: Message) -> Iterator[Reply]:
        """Choose a goal picture. It is kept, so that the drive may go back from a step that is the goal."""
        drive, source = self._driven(), message.get("from")
        if source == "end":
            goal, label = drive.end(), "the task's end"
        elif source == "step":
            step, branch, true = _whole(message, "step"), message.get("branch"), message.get("true") is True
            name = None if branch is None else str(branch)[:40]
            goal = steering.frame_of(drive, step, branch=name, true=true)
            where = f"step {step}" if name is None else f"branch {name}, step {step}"
            label = f"{where}, {'simulated' if true else 'dreamed'}"
        elif source == "upload":
            picture = read_picture(_bytes_of(message, "upload", "a picture"))
            goal, label = steering.fitted(drive, picture), "your picture"
        else:
            raise ValueError(f"expected a goal from end, step or upload; got {str(source)[:40]!r}")
        self._goal = goal
        yield pictures.message({"type": "goal", "drive": self.number, "label": label}, [("goal", goal)])

    def _plan(self, message: Message) -> Iterator[Reply]:
        """Drive to the goal; the caller stops asking for more where something else is asked meanwhile."""
        drive = self._driven()
        if self._goal is None:
            raise ValueError("expected a goal picture to plan to: choose one first")
        policy, plans = self._policy(message.get("candidates", RANDOM)), _whole(message, "replans", 1)
        events = steering.steer(
            drive, self._goal, self.service.places, policy=policy, plans=plans, seed=_whole(message, "seed", 0)
        )
        for event in events:
            if isinstance(event, Thought):
                yield self._considered(event, plans)
            elif isinstance(event, Driven):
                yield self._shown(event.moment, plan=[event.plan, plans])
            else:
                yield _text("planned", drive=self.number, text=_outcome(event))

    def _policy(self, name: Any) -> Policy | None:
        """Who proposes candidates; None where nobody does."""
        if name == RANDOM:
            return None
        known = {info.name: info for info in proposing(self.service)}
        if not isinstance(name, str) or name not in known:
            raise ValueError(f"expected candidates from {', '.join([RANDOM, *known])}; got {str(name)[:40]!r}")
        if (problem := known[name].problem) is not None:
            raise ValueError(f"{known[name].title}: {problem}")
        assert self._begun is not None
        if not self._begun.instruction:
            raise ValueError(
                f"expected a scene or a sample for {known[name].title} to be told its task, got a picture without one"
            )
        return self.service.policy(name, Request(self._begun.frame, self._begun.instruction))

    def _considered(self, thought: Thought, plans: int) -> bytes:
        """One iteration: the films of its best candidates, and what each would cost."""
        found = thought.considered
        header = {
            "type": "considered", "drive": self.number, "plan": [thought.plan, plans],
            "iteration": found.iteration + 1, "costs": found.costs[:SHOWN].round(4).tolist(),
            "candidates": len(found.costs), "proposed": thought.proposed[:SHOWN].tolist(),
            "seconds": round(thought.seconds, 2),
        }  # fmt: skip
        films = [(name, frame) for name, film in zip("abc", found.films, strict=False) for frame in film]
        return pictures.message(header, films)

    def _stop(self, message: Message) -> Iterator[Reply]:
        """Whatever ran has ended by now, as for every message."""
        yield _text("stopped", drive=self.number)

    def _shown(self, moment: Moment, **more: Any) -> bytes:
        """A moment with its pictures."""
        fidelity = {} if moment.fidelity is None else vars(moment.fidelity)
        header = {
            "type": "moment", "drive": self.number, "step": moment.step, "fulfilled": moment.fulfilled,
            "action": None if moment.action is None else moment.action.round(4).tolist(),
            "seconds": round(moment.seconds, 4), **more,
            **{name: round(value, 4) if math.isfinite(value) else None for name, value in fidelity.items()},
        }  # fmt: skip
        shown = [("dream", moment.dream)]
        if moment.truth is not None and (error := moment.error) is not None:
            shown += [("truth", moment.truth), ("error", pictures.heat(error, ERROR_TOP))]
        return pictures.message(header, shown)


def _outcome(end: Planned) -> str:
    """How a drive to a goal ended, in one sentence."""
    verdicts = {
        True: "Task fulfilled",
        False: "Task not fulfilled",
        None: "No simulator can say whether it is fulfilled",
    }
    made = f"{end.plans} plan{'s' if end.plans != 1 else ''}, {end.steps} steps, {end.thinking:.1f} s of thinking"
    return (
        f"{verdicts[end.fulfilled]} after {made}; the hand is {end.apart:.1f} cm from the goal's hand, as a net reads "
        "both pictures."
    )


def _text(kind: str, **values: Any) -> str:
    return json.dumps({"type": kind, **values}, allow_nan=False)


def error_text(sentence: str) -> str:
    """The reply that says a sentence."""
    return _text("error", text=sentence)


def _whole(message: Message, name: str, default: int | None = None) -> int:
    value = message.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"expected {name} as a whole number, got {str(value)[:40]!r}")
    return value


def _action(message: Message, name: str, axes: int) -> NDArray[np.float32]:
    """A list of numbers as an array; its length and range are the drive's to check."""
    value = message.get(name)
    if not isinstance(value, list) or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in value):
        raise ValueError(f"expected {name} as a list of {axes} numbers, got {str(value)[:40]!r}")
    # A number beyond float32 becomes infinite, and is refused as such.
    with np.errstate(over="ignore"):
        return np.asarray([float(v) if abs(v) < 1e38 else math.inf for v in value], np.float32)


def _bytes_of(message: Message, name: str, what: str) -> bytes:
    value = message.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(f"expected {what} in base64, got nothing")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"expected {what} in base64, got something else") from error
