"""Act: one scene and instruction, every family in closed loop, beside what it imagined at each look."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from app import acting, session, show, words
from app.acting import Question, Seen
from app.session import Asked, Failed
from app.tabs import card as cards
from app.tabs import leaderboard
from app.tabs.card import Updates
from app.tabs.compare import MODELS
from app.tabs.models import BENCHMARKS
from app.tabs.panel import FIRST_TASK, FRESH_SEED, examples_of, task_choices
from app.tabs.variants import build_sampling, open_number
from vidvla.data.record import EVAL_SEEDS
from vidvla.eval.rollouts import EPISODE_STEPS, EXECUTE, Watched
from vidvla.service import Service
from vidvla.views import FamilyInfo

ABOUT = (
    "Every family acts in the same scene, one after the other: it looks, imagines what follows, executes {execute} "
    "control steps in the simulator, and looks again, until the task is fulfilled or {limit} steps are over."
)
IMAGINED, BLIND = "imagined", "imagines no film"
WAITING, STOPPED = "waiting for its turn", "Stopped."


@dataclass(frozen=True)
class Column:
    """One family's column.

    Attributes:
        looks: what was seen, imagined and came at every look of its last run.
        live: imagined and simulated side by side while it acts; ``film`` once it is done.
        look: which look the three pictures show.
    """

    info: FamilyInfo
    looks: gr.State
    status: gr.HTML
    live: gr.Image
    film: gr.Video
    figures: gr.HTML
    look: gr.Radio
    caption: gr.HTML
    saw: gr.Image
    imagined: gr.Image
    came: gr.Image

    def components(self) -> list[Any]:
        return [value for value in vars(self).values() if isinstance(value, gr.blocks.Block)]


@dataclass(frozen=True)
class Act:
    """The tab's components, and its handlers over them."""

    service: Service
    limit: int
    preview: gr.Image
    task: gr.Dropdown
    seed: gr.Number
    dice: gr.Button
    instruction: gr.Textbox
    examples: gr.Dataset
    families: gr.CheckboxGroup
    steps: gr.Slider
    guidance: gr.Slider
    noise_seed: gr.Number
    run: gr.Button
    stop: gr.Button
    message: gr.HTML
    columns: dict[str, Column]

    def question(self) -> list[Any]:
        """The inputs of :class:`Question`, in its order."""
        return [
            self.task, self.seed, self.instruction, self.families, self.steps, self.guidance, self.noise_seed,
        ]  # fmt: skip

    def every(self) -> list[Any]:
        return [part for column in self.columns.values() for part in column.components()]

    def look(self, task: str | None, seed: float | None) -> Updates:
        """The scene as it starts, or why there is none."""
        try:
            frame = session.find_scene(self.service, task, seed).frame
        except Exception as error:  # the border of the page: whatever goes wrong is one sentence
            return {self.message: words.message(session.failure(error, "The scene"))}
        return {self.preview: show.enlarge(frame), self.message: ""}

    def pick_task(self, task: str | None) -> Updates:
        """Phrasings of another task."""
        rows = examples_of(self.service, task)
        updates: Updates = {self.examples: gr.Dataset(samples=rows)}
        return updates | ({self.instruction: self.service.phrasings(task or "")[0]} if rows else {})

    def act(self, *values: Any) -> Iterator[Updates]:
        """Stream every family's loop. Bad input touches nothing but the message."""
        yield {self.message: "", **self._busy(True)}
        shown = 0
        try:
            for event in acting.act(self.service, Question(*values), self.limit):
                match event:
                    case acting.Started(scene, names):
                        yield {self.preview: show.enlarge(scene.frame)} | self._begin(names)
                    case Asked(name):
                        shown = 0
                        yield {self.columns[name].status: words.busy("looking at the scene")}
                    case acting.Acted(name, watched):
                        yield from show_progress(self.columns[name], self.service, watched, shown, self.limit)
                        shown = len(watched.execution.frames)
                        if watched.execution.done:
                            yield show_end(self.columns[name], self.service, watched)
                    case Failed(name, sentence):
                        yield show_failure(self.columns[name], sentence)
        except Exception as error:  # the border of the page: what went wrong is one sentence under the button
            yield {self.message: words.message(session.failure(error, "The run"))}
        yield self._busy(False)

    def stopped(self, *statuses: str | None) -> Updates:
        """After a run was cut short: films and verdicts so far stay, and nobody waits any more.

        Args:
            statuses: what the columns say.
        """
        return {self.message: words.message(STOPPED, "quiet"), **self._busy(False)} | {
            column.status: words.settled(said) for column, said in zip(self.columns.values(), statuses, strict=True)
        }

    def _busy(self, running: bool) -> Updates:
        said = "Acting ..." if running else "Let them act"
        return {self.run: gr.update(interactive=not running, value=said), self.stop: gr.update(interactive=running)}

    def _begin(self, names: Sequence[str]) -> Updates:
        updates: Updates = {}
        for name, column in self.columns.items():
            updates |= {
                column.status: words.busy(WAITING) if name in names else "",
                column.figures: "", column.looks: None, column.live: None, column.film: None,
                column.look: gr.update(choices=[], value=None),
            }  # fmt: skip
        return updates


# what a column shows


def _figures(watched: Watched) -> str:
    now, spent = watched.execution, watched.seconds
    rows = [
        (str(now.steps), "steps"),
        (str(now.plans - 1), "replans" if now.plans != 2 else "replan"),
        (words.seconds(spent), "thinking"),
        (words.seconds(spent / now.plans), "a look"),
    ]
    return words.figures(rows, "")


def show_progress(
    column: Column, service: Service, watched: Watched, shown: int, limit: int
) -> Iterator[Updates]:  # fmt: skip
    """The steps of one more chunk of at most ``limit``, every second one a picture, after the first ``shown``."""
    now = watched.execution
    yield {column.figures: _figures(watched)}
    for frame in acting.pairs(watched, shown)[::2]:
        yield {column.live: frame}
    rate = service.steps_per_second
    yield {column.live: acting.pairs(watched, now.steps)[0], column.status: words.execution(now, rate, limit)}


def show_end(column: Column, service: Service, watched: Watched) -> Updates:
    """The film of the episode, how it ended, and all looks."""
    looks, rate = acting.seen(service, watched), service.steps_per_second
    film = cards.save_film(acting.pairs(watched), rate * show.SLOWDOWN)
    choices = [(str(index + 1), index) for index in range(len(looks))]
    return {
        column.looks: looks,
        column.status: words.badge(watched.execution.success, _how_long(watched, rate)),
        column.live: None,
        column.film: film,
        column.look: gr.update(choices=choices, value=0),
        **show_look(column, service, looks, 0),
    }


def _how_long(watched: Watched, rate: float) -> str:
    steps = watched.execution.steps
    return f"after {words.control_steps(steps)} ({steps / rate:.1f} s)"


def show_look(column: Column, service: Service, looks: Sequence[Seen] | None, index: int | None) -> Updates:
    """What a look saw, what it imagined for the next one, and what came."""
    if not looks or index is None or not 0 <= index < len(looks):
        return {column.caption: words.message(session.FORGOTTEN, "quiet")}
    look, rate = looks[index], service.steps_per_second
    said = f"Look {index + 1} · " + words.moment(look.step, rate)
    hint = f"imagined for step {look.moment}"
    if np.isfinite(look.psnr):
        hint += f": {look.psnr:.1f} dB (still {look.psnr_still:.1f})"
    expected = None if look.imagined is None else show.enlarge(look.imagined)
    return {
        column.caption: words.heading(said, BLIND if expected is None else hint),
        column.saw: show.enlarge(look.saw),
        column.imagined: expected,
        column.came: show.enlarge(look.came),
    }


def show_failure(column: Column, sentence: str) -> Updates:
    """A family that could not act, or not to the end."""
    return {column.status: words.message(sentence), column.figures: "", column.live: None}


# the tab


def _build_column(info: FamilyInfo, colour: str) -> Column:
    parts: dict[str, Any] = {"info": info, "looks": gr.State(None, time_to_live=cards.KEPT_SECONDS)}
    with gr.Column(elem_classes="vv-card", elem_id=f"act-{info.name}"):
        gr.HTML(words.family_head(info, colour))
        parts["status"] = gr.HTML("", elem_classes="vv-status")
        with gr.Column(elem_classes="vv-body"):  # always there, hidden by the style sheet: see card.build_card
            gr.HTML(words.heading(IMAGINED.capitalize() if info.films else BLIND.capitalize(), "in the simulator"))
            parts["live"] = cards.picture("Acting", "vv-wide", show_label=False)
            parts["film"] = cards.video("Acted", "vv-wide", show_label=False)
            parts["figures"] = gr.HTML()
            parts["look"] = gr.Radio([], label="Looks", show_label=False, container=False, elem_classes="vv-chips")
            parts["caption"] = gr.HTML()
            with gr.Row(elem_classes="vv-pair"):
                parts["saw"] = cards.picture("Saw")
                parts["imagined"] = cards.picture("Imagined", visible=info.films or info.targets)
                parts["came"] = cards.picture("Came")
    return Column(**parts)


def _build_question(service: Service, infos: Sequence[FamilyInfo]) -> Updates:
    usable = [info for info in infos if info.problem is None]
    parts: Updates = {}
    with gr.Row(elem_classes="vv-question"):
        parts["preview"] = cards.picture("The scene", "vv-preview", show_label=False, container=False)
        with gr.Column(elem_classes="vv-where"):
            with gr.Row(elem_classes="vv-asked"):
                parts["task"] = gr.Dropdown(task_choices(service), value=FIRST_TASK, label="Task", min_width=100)
                with gr.Row(elem_classes="vv-seed"):
                    parts["seed"] = open_number(FRESH_SEED, "Scene seed", min_width=70)
                    parts["dice"] = gr.Button("New scene", size="sm", min_width=60, elem_classes="vv-dice")
                parts["instruction"] = gr.Textbox(
                    service.phrasings(FIRST_TASK)[0], label="Instruction", lines=1, max_lines=1,
                    placeholder="open the door",
                )  # fmt: skip
                with gr.Row(elem_classes="vv-do"):
                    parts["run"] = gr.Button(
                        "Let them act", variant="primary", elem_classes="vv-primary", elem_id="vv-act", min_width=80,
                        interactive=bool(usable) and service.simulator_problem is None,
                    )  # fmt: skip
                    parts["stop"] = gr.Button("Stop", size="sm", min_width=50, elem_classes="vv-dice",
                                              interactive=False)  # fmt: skip
            parts["examples"] = gr.Dataset(
                components=[gr.Textbox(visible=False)], samples=examples_of(service, FIRST_TASK), show_label=False,
                layout="gallery", elem_classes="vv-examples", container=False,
            )  # fmt: skip
            parts["families"] = gr.CheckboxGroup(
                [words.choice(info) for info in infos], value=[info.name for info in usable if info.general],
                label="Families", show_label=False, container=False, elem_classes="vv-families",
            )  # fmt: skip
            with gr.Accordion("Sampling", open=False), gr.Row(elem_classes="vv-asked"):
                parts |= build_sampling()
            gr.HTML(f'<p class="vv-scope">Layouts from seed {EVAL_SEEDS.start:,} up are unseen in training.</p>')
    return parts


def build(service: Service, tab: gr.Tab, limit: int = EPISODE_STEPS, benchmarks: Path = BENCHMARKS) -> None:
    """Lay out the tab inside the current blocks and wire it.

    Args:
        limit: control steps that an episode may take.
        benchmarks: folder of the leaderboard's figure files.
    """
    infos = acting.actors(service)
    with gr.Column(elem_classes="vv-dreams"):
        with gr.Column(elem_classes="vv-card", elem_id="card-act"):
            gr.HTML(words.head("Let them act", ABOUT.format(execute=EXECUTE, limit=limit), show.COLOURS[0]))
            if service.simulator_problem is not None:
                gr.HTML(words.message(f"Nobody can act here: {service.simulator_problem}", "note"))
            parts = _build_question(service, infos)
            message = gr.HTML(elem_classes="vv-status", elem_id="vv-act-message")
        with gr.Row(elem_classes="vv-columns vv-grid"):
            columns = {
                info.name: _build_column(info, show.COLOURS[index % len(show.COLOURS)])
                for index, info in enumerate(infos)
            }
        with gr.Column(elem_classes="vv-card", elem_id="card-leaderboard"):
            gr.HTML(leaderboard.page(service, benchmarks))
    _wire(Act(service, limit, message=message, columns=columns, **parts), tab)


def _wire(page: Act, tab: gr.Tab) -> None:
    quiet: Any = {"show_progress": "hidden", "api_visibility": "private"}
    page.dice.click(None, None, page.seed, js=f"() => {FRESH_SEED} + Math.floor(Math.random() * 1e6)", **quiet)
    page.task.input(page.pick_task, page.task, [page.examples, page.instruction], **quiet)
    page.examples.click(lambda row: row[0], page.examples, page.instruction, **quiet)
    if page.service.simulator_problem is None:
        gr.on(
            [tab.select, page.task.input, page.seed.change], page.look, [page.task, page.seed],
            [page.preview, page.message], trigger_mode="always_last", **quiet,
        )  # fmt: skip
    buttons = [page.message, page.run, page.stop]
    running = gr.on(
        [page.run.click, page.instruction.submit], page.act, page.question(),
        [*buttons, page.preview, *page.every()], concurrency_id=MODELS, concurrency_limit=2,
        show_progress="hidden", api_name="act", preprocess=False,  # the handler says what is wrong with a value
    )  # fmt: skip
    statuses = [column.status for column in page.columns.values()]
    page.stop.click(page.stopped, statuses, [*buttons, *statuses], cancels=[running], **quiet)
    for column in page.columns.values():
        shown = [column.caption, column.saw, column.imagined, column.came]
        column.look.input(
            functools.partial(show_look, column, page.service), [column.looks, column.look], shown,
            trigger_mode="always_last", **quiet,
        )  # fmt: skip
