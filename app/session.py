"""One person's question and what came back: pure functions over the service, without a page."""

from __future__ import annotations

import contextvars
import dataclasses
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.stream import Send, streamed
from vidvla.drive import MOST_SEEDS
from vidvla.eval.rollouts import Execution
from vidvla.foundation.film import MAX_STEPS
from vidvla.images import read_upload
from vidvla.service import HORIZON, Service, ran_out
from vidvla.turns import SEATS
from vidvla.types import Glimpse, Request, Rollout
from vidvla.views import FamilyInfo, Quality, SceneView
from vidvla.worlds.base import Frame

SCENE, SAMPLE, UPLOAD = "Scene", "Sample", "Upload"
"""Where a first frame comes from."""
LARGEST_SEED = 2**31 - 1
FORGOTTEN = "This answer is too old and was forgotten: predict again."
"""Said where a session's answer is no longer kept."""
TOLD = "It was told the expert's actions: what the others have to imagine, it only has to follow."
UNTOLD = "it dreams what follows from the robot's actions, and nobody knows those in an uploaded picture"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Form:
    """What the left panel says, as it stands; nothing in it is trusted.

    Attributes:
        seed: of the scene's layout.
        noise_seed: of the families' random draws.
        seeds: how many noise seeds are asked, from ``noise_seed`` on.
        other: another instruction for the same frame; empty for none.
        options: the families' own controls, ``family.control`` -> value; None where the control is left alone.
    """

    source: str
    task: str | None
    seed: float | None
    sample: str | None
    upload: str | None
    instruction: str
    families: Sequence[str]
    steps: float | None
    guidance: float | None
    noise_seed: float | None
    seeds: float | None = 1
    other: str | None = ""
    options: Mapping[str, float | str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Start:
    """What a prediction starts from.

    Attributes:
        label: a few words for captions.
        task: that it shows, empty where nobody knows.
        instruction: its plainest phrasing, empty where nothing is known of it.
        scene: to execute in, where it is simulated.
        truth: what the expert does, where that is known.
        still: how near the first frame stays to that, as :meth:`~vidvla.service.Service.still` tells.
    """

    label: str
    frame: Frame
    task: str = ""
    instruction: str = ""
    scene: SceneView | None = None
    truth: Rollout | None = None
    still: Mapping[int, tuple[float, float]] | None = None


@dataclass(frozen=True)
class Answer:
    """One family's answer, with everything that is needed to look at it and to execute it.

    Attributes:
        seeds: what it answers with the noise seeds that follow the request's.
        other: what it answers to ``instead``, another instruction, with the request's seed.
    """

    family: str
    start: Start
    request: Request
    rollout: Rollout
    quality: Quality | None
    parameters: int
    seeds: tuple[Rollout, ...] = ()
    instead: str = ""
    other: Rollout | None = None


@dataclass(frozen=True)
class Question:
    """A form that was read and found fine.

    Attributes:
        families: those that were chosen, in their order.
        seeds: how many noise seeds are asked.
        other: another instruction, or empty.
    """

    start: Start
    request: Request
    families: tuple[FamilyInfo, ...]
    seeds: int
    other: str

    @property
    def asked(self) -> int:
        """How often each family is asked."""
        return self.seeds + bool(self.other)


@dataclass(frozen=True)
class Begun:
    """The question is fine. The truth of a simulated ``start`` is still to come: :class:`Known`."""

    start: Start
    families: tuple[str, ...]


@dataclass(frozen=True)
class Known:
    """What truly happens from the simulated ``start`` is known now."""

    start: Start


@dataclass(frozen=True)
class Asked:
    """A family is thinking."""

    family: str


@dataclass(frozen=True)
class Forming:
    """A family's film takes shape: what it was after each denoising step until now, (K, H, W, 3) each; the last step's
    is the answer."""

    family: str
    films: tuple[Frame, ...]


@dataclass(frozen=True)
class Varied:
    """An answer again, with its other seeds and its other instruction; or a sentence on why without."""

    answer: Answer
    problem: str = ""


@dataclass(frozen=True)
class Failed:
    """A family could not answer, and one sentence says why."""

    family: str
    sentence: str


Event = Begun | Known | Asked | Forming | Answer | Varied | Failed
Progress = Callable[[float, str], None]


def is_number(value: object) -> bool:
    """True of plain numbers; the API lets anything through."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def whole(value: float | None, what: str, low: int = 0, high: int = LARGEST_SEED) -> int:
    """A whole number from a field; ValueError where it is empty, no whole number, or out of range."""
    number = is_number(value)
    if value is None or not number or not low <= value <= high or int(value) != value:
        got = "nothing" if value is None else f"{value:g}" if number else repr(value)[:40]
        raise ValueError(f"expected a {what} from {low} to {high}, got {got}")
    return int(value)


def find_start(service: Service, form: Form) -> Start:
    """Lay out the scene, fetch the sample, or read the upload, without its truth.

    Raises:
        ValueError: one sentence, where the source, task, seed, sample or file is not usable.
    """
    if form.source == SCENE:
        if service.simulator_problem is not None:
            raise ValueError(service.simulator_problem)
        task, seed = form.task or "", whole(form.seed, "scene seed")
        if task not in service.tasks():
            raise ValueError(f"expected one of the {len(service.tasks())} tasks in the list, got {task[:60]!r}")
        scene = service.scene(task, seed)
        return Start(f"{task}, seed {seed}", scene.frame, task, scene.instruction, scene)
    if form.source == SAMPLE:
        sample = service.samples.get(form.sample or "")
        if sample is None:
            raise ValueError("expected a sample to be picked, got none")
        return Start(f"sample {sample.name}", sample.frame, sample.name, sample.instruction, truth=sample.truth)
    if form.source == UPLOAD:
        if not form.upload:
            raise ValueError("expected a picture to be uploaded, got none")
        return Start("your picture", read_upload(Path(form.upload)))
    raise ValueError(f"expected a source among {SCENE}, {SAMPLE}, {UPLOAD}; got {form.source!r}")


def find_scene(service: Service, task: str | None, seed: float | None) -> SceneView:
    """Lay out a task; ValueError with one sentence where that cannot be done."""
    scene = find_start(service, Form(SCENE, task, seed, None, None, "", (), steps=1, guidance=1, noise_seed=0)).scene
    assert scene is not None
    return scene


def with_truth(service: Service, start: Start) -> Start:
    """``start`` with what the expert does from it, where it is simulated, and how near its frame stays to that."""
    truth = start.truth if start.scene is None else service.truth(start.scene, HORIZON)
    still = None if truth is None else service.still(truth, start.frame)
    return dataclasses.replace(start, truth=truth, still=still)


def sentence(error: Exception) -> str:
    """An error as one line that starts with a capital and ends with a full stop."""
    text = " ".join(str(error).split())
    text = text[0].upper() + text[1:] if text else type(error).__name__
    return text if text.endswith((".", "!", "?")) else f"{text}."


def failure(error: Exception, whose: str) -> str:
    """What to show of an error: its own sentence where it was raised on purpose, else that it is ours."""
    if isinstance(error, ValueError):
        return sentence(error)
    if ran_out(error):
        log.exception("%s ran out of memory", whose, exc_info=error)
        return f"{whose} ran out of memory."
    log.exception("%s failed", whose, exc_info=error)
    return f"{whose} failed with an internal error ({type(error).__name__}); the server's log has the details."


def read_request(
    service: Service,
    frame: Frame,
    instruction: str,
    noise_seed: float | None,
    steps: float | None,
    guidance: float | None,
    options: Mapping[str, float | str | None] | None = None,
) -> Request:
    """What a form's values ask about ``frame``; no family is asked yet.

    Raises:
        ValueError: one sentence, where no family could be asked.
    """
    count, seed = whole(steps, "number of denoising steps", 1, MAX_STEPS), whole(noise_seed, "noise seed")
    weight = math.nan if guidance is None or not is_number(guidance) else float(guidance)
    chosen = {key: value for key, value in (options or {}).items() if value is not None}
    request = Request(frame, instruction, seed, count, weight, options=chosen)
    service.check(request)
    return request


def read_form(service: Service, form: Form) -> Question:
    """The question that a form asks; no family is asked yet.

    Raises:
        ValueError: one sentence, where it cannot be asked.
    """
    chosen = tuple(info for info in service.families() if info.name in set(form.families))
    if not chosen:
        raise ValueError("expected at least one family to be picked, got none")
    start = find_start(service, form)
    request = read_request(
        service, start.frame, form.instruction, form.noise_seed, form.steps, form.guidance, form.options
    )
    seeds, other = whole(form.seeds, "number of seeds", 1, MOST_SEEDS), (form.other or "").strip()
    if other:
        try:
            service.check(dataclasses.replace(request, instruction=other))
        except ValueError as error:
            raise ValueError(f"in the other instruction: {error}") from error
    return Question(start, request, chosen, seeds, other)


def ask(service: Service, form: Form, progress: Progress) -> Iterator[Event]:
    """Ask every chosen family, so many at once as may think; one that fails does not keep the others from answering.

    The simulator finds out what truly happens meanwhile. Once everybody has answered, the other seeds and the other
    instruction follow. Nobody waits for what is done with an event: the next family thinks already.

    Raises:
        ValueError: one sentence, before any family is asked, where the question itself is not usable.
    """
    progress(0.0, "Looking at the scene")
    question = read_form(service, form)
    yield Begun(question.start, tuple(info.name for info in question.families))

    def work(send: Send[Event]) -> None:
        _answers(service, question, progress, send)

    for burst in streamed(work):
        yield from burst
    progress(1.0, "Done")


def _answers(service: Service, question: Question, progress: Progress, send: Send[Event]) -> None:
    """Everything that is to be said to ``question``."""

    def find_truth() -> Start:
        start = with_truth(service, question.start)
        if start.scene is not None:  # a sample comes with its truth, a picture has none
            send(Known(start))
        return start

    rounds = len(question.families) * question.asked
    shares = dict.fromkeys((info.name for info in question.families), 0.0)

    def answer(info: FamilyInfo) -> tuple[FamilyInfo, Answer | Failed]:
        def tell(share: float, what: str) -> None:
            shares[info.name] = share
            progress(sum(shares.values()) / rounds, f"{info.title}: {what}")

        tell(0.0, "thinking")
        send(Asked(info.name))
        event = _first(service, question, info, truth.result, tell, send)
        shares[info.name] = 1.0
        send(event)
        return info, event

    with (
        ThreadPoolExecutor(max_workers=1, thread_name_prefix="vidvla-truth") as simulator,
        ThreadPoolExecutor(max_workers=SEATS, thread_name_prefix="vidvla-family") as thinking,
    ):
        truth = simulator.submit(find_truth)
        asked = [thinking.submit(contextvars.copy_context().run, answer, info) for info in question.families]
        told = [one.result() for one in asked]
    answered = [(info, event) for info, event in told if isinstance(event, Answer)]
    for index, (info, given) in enumerate(answered if question.asked > 1 else ()):
        done = len(question.families) + index * (question.asked - 1)
        progress(done / rounds, f"{info.title}: asked again")
        send(_varied(service, info, given, question))


def _first(
    service: Service,
    question: Question,
    info: FamilyInfo,
    truth: Callable[[], Start],
    tell: Progress,
    send: Send[Event],
) -> Answer | Failed:
    """One family's answer, or why there is none; its film is sent as it takes shape."""
    films: list[Frame] = []

    def look(share: float, what: str, glimpse: Glimpse | None = None, /) -> None:
        tell(share, what)
        if glimpse is not None:
            films.append(glimpse())
            send(Forming(info.name, tuple(films)))

    try:
        if info.problem is not None:
            raise ValueError(info.problem)
        request = question.request
        if info.told:
            request = dataclasses.replace(request, actions=_expert(truth()))
        rollout = service.predict(info.name, request, attention=True, progress=look)
        return _answer(service, info, truth(), request, rollout)
    except Exception as error:  # the border of the page: one family's failure must not take the others along
        return Failed(info.name, failure(error, info.title))


def _expert(start: Start) -> NDArray[np.float32]:
    """The expert's actions (N, A) from ``start``; ValueError where nobody knows them."""
    if start.truth is None or start.truth.actions is None:
        raise ValueError(UNTOLD)
    return start.truth.actions


def _answer(service: Service, info: FamilyInfo, start: Start, request: Request, rollout: Rollout) -> Answer:
    """A family's answer, measured against the truth where there is one."""
    quality = None
    if start.truth is not None and len(rollout.frames):
        quality = service.quality(rollout, start.truth, start.frame, start.still)
    if info.told:
        rollout = dataclasses.replace(rollout, actions=None, notes=(TOLD, *rollout.notes))
    return Answer(info.name, start, request, rollout, quality, service.parameters(info.name))


def _varied(service: Service, info: FamilyInfo, given: Answer, question: Question) -> Varied:
    """An answer with what the same family says with other seeds, and to the other instruction."""
    asked = given.request
    try:
        seeds = tuple(
            service.predict(info.name, dataclasses.replace(asked, seed=(asked.seed + more) % (LARGEST_SEED + 1)))
            for more in range(1, question.seeds)
        )
        other = None
        if question.other:
            other = service.predict(info.name, dataclasses.replace(asked, instruction=question.other))
        return Varied(dataclasses.replace(given, seeds=seeds, instead=question.other, other=other))
    except Exception as error:  # the border of the page, as in _first
        return Varied(given, failure(error, info.title))


def execute(service: Service, given: Answer | None, limit: int) -> Iterator[Execution]:
    """Run an answer's family in the simulator from the answer's own scene, as it was asked.

    Raises:
        ValueError: where the answer is no longer kept, or does not start from a simulated scene.
    """
    if given is None:
        raise ValueError(FORGOTTEN)
    if given.start.scene is None:
        raise ValueError("expected a simulated scene to execute in, got a picture")
    yield from service.execute(given.family, given.start.scene, given.request, limit=limit)
