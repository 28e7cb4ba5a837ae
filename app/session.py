"""One person's question and what came back: pure functions over the service, without a page."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vidvla.eval.rollouts import Execution
from vidvla.images import read_upload
from vidvla.service import HORIZON, Service
from vidvla.types import Request, Rollout
from vidvla.views import Quality, SceneView
from vidvla.worlds.base import Frame

SCENE, SAMPLE, UPLOAD = "Scene", "Sample", "Upload"
"""Where a first frame comes from."""
LARGEST_SEED = 2**31 - 1
FORGOTTEN = "This answer is too old and was forgotten: predict again."
"""Said where a session's answer is no longer kept."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Form:
    """What the left panel says, as it stands; nothing in it is trusted.

    Attributes:
        seed: of the scene's layout.
        noise_seed: of the families' random draws.
    """

    source: str
    task: str | None
    seed: float | None
    sample: str | None
    upload: str | None
    instruction: str
    families: Sequence[str]
    steps: float
    guidance: float
    noise_seed: float | None


@dataclass(frozen=True)
class Start:
    """What a prediction starts from.

    Attributes:
        label: a few words for captions.
        instruction: its plainest phrasing, empty where nothing is known of it.
        scene: to execute in, where it is simulated.
        truth: what the expert does, where that is known.
    """

    label: str
    frame: Frame
    instruction: str = ""
    scene: SceneView | None = None
    truth: Rollout | None = None


@dataclass(frozen=True)
class Answer:
    """One family's answer, with everything that is needed to look at it and to execute it."""

    family: str
    start: Start
    request: Request
    rollout: Rollout
    quality: Quality | None
    parameters: int


@dataclass(frozen=True)
class Begun:
    """The question is fine; ``start`` has its truth now."""

    start: Start
    families: tuple[str, ...]


@dataclass(frozen=True)
class Asked:
    """A family is thinking."""

    family: str


@dataclass(frozen=True)
class Failed:
    """A family could not answer, and one sentence says why."""

    family: str
    sentence: str


Event = Begun | Asked | Answer | Failed
Progress = Callable[[float, str], None]


def whole(value: float | None, what: str) -> int:
    """A seed from a number field; ValueError where it is empty, no whole number, or out of range."""
    if value is None or value != value or int(value) != value or not 0 <= value <= LARGEST_SEED:
        got = "nothing" if value is None else f"{value:g}"
        raise ValueError(f"expected a {what} from 0 to {LARGEST_SEED}, got {got}")
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
        return Start(f"{task}, seed {seed}", scene.frame, scene.instruction, scene)
    if form.source == SAMPLE:
        sample = service.samples.get(form.sample or "")
        if sample is None:
            raise ValueError("expected a sample to be picked, got none")
        return Start(f"sample {sample.name}", sample.frame, sample.instruction, truth=sample.truth)
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
    """``start`` with what the expert does from it, where it is simulated."""
    if start.scene is None:
        return start
    return dataclasses.replace(start, truth=service.truth(start.scene, HORIZON))


def sentence(error: Exception) -> str:
    """An error as one line that starts with a capital and ends with a full stop."""
    text = " ".join(str(error).split())
    text = text[0].upper() + text[1:] if text else type(error).__name__
    return text if text.endswith((".", "!", "?")) else f"{text}."


def failure(error: Exception, whose: str) -> str:
    """What to show of an error: its own sentence where it was raised on purpose, else that it is ours."""
    if isinstance(error, ValueError):
        return sentence(error)
    if isinstance(error, MemoryError) or "allocate memory" in str(error) or "out of memory" in str(error):
        log.exception("%s ran out of memory", whose, exc_info=error)
        return f"{whose} ran out of memory."
    log.exception("%s failed", whose, exc_info=error)
    return f"{whose} failed with an internal error ({type(error).__name__}); the server's log has the details."


def ask(service: Service, form: Form, progress: Progress) -> Iterator[Event]:
    """Ask every chosen family in turn; one that fails does not keep the others from answering.

    Raises:
        ValueError: one sentence, before any family is asked, where the question itself is not usable.
    """
    infos = {info.name: info for info in service.comparable() if info.problem is None}
    chosen = tuple(name for name in infos if name in set(form.families))
    if not chosen:
        raise ValueError("expected at least one family to be picked, got none")
    progress(0.0, "Looking at the scene")
    start = find_start(service, form)
    seed = whole(form.noise_seed, "noise seed")
    request = Request(start.frame, form.instruction, seed, int(form.steps), float(form.guidance))
    service.check(request)
    start = with_truth(service, start)
    yield Begun(start, chosen)
    for index, name in enumerate(chosen):
        title = infos[name].title

        def tell(share: float, what: str, index: int = index, title: str = title) -> None:
            progress((index + share) / len(chosen), f"{title}: {what}")

        tell(0.0, "thinking")
        yield Asked(name)
        try:
            yield answer(service, name, start, request, tell)
        except Exception as error:  # the border of the page: one family's failure must not take the others along
            yield Failed(name, failure(error, title))
    progress(1.0, "Done")


def answer(service: Service, name: str, start: Start, request: Request, progress: Progress) -> Answer:
    """One family's answer, measured against the truth where there is one."""
    rollout = service.predict(name, request, attention=True, progress=progress)
    quality = None
    if start.truth is not None and len(rollout.frames):
        quality = service.quality(rollout, start.truth, start.frame)
    return Answer(name, start, request, rollout, quality, service.parameters(name))


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
