"""Attention: where a place or a word leads, in which frame, by layer and head; and what the action head reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from app import looking, session, show, words
from app.looking import Inspection, Row
from app.session import SAMPLE, SCENE, Form
from app.tabs import card as cards
from app.tabs.card import ALL, Updates
from app.tabs.compare import MODELS
from app.tabs.panel import FIRST_TASK, FRESH_SEED, examples_of, first_sample, task_choices
from app.tabs.variants import build_sampling, open_number
from vidvla.look import action_mass_by_layer, future_frames, mass_by_layer
from vidvla.service import Service
from vidvla.views import FamilyInfo

ABOUT = (
    "Click a place in any frame and see what it looks at, in which frame; pick a word and see its pixels. A family "
    "without attention shows gradients instead: what its answer would change with."
)
BY_LAYER = (
    words.heading("By layer: where the film's tokens look") + words.legend(show.SHARES)
    + '<p class="vv-caption">A token is a patch of a frame. Layers from the first, on top, to the last.</p>'
)  # fmt: skip
BY_ATTENTION, BY_GRADIENT = "attention", "gradient saliency"


@dataclass(frozen=True)
class View:
    """What is looked into, and where; kept for one session.

    Attributes:
        column: which shown frame the ring is in.
        layer: index, or :data:`ALL`; so is ``head``.
    """

    seen: Inspection
    column: int
    place: looking.Place
    word: int
    layer: int = ALL
    head: int = ALL

    @property
    def which(self) -> tuple[int | None, int | None]:
        """Layer and head, None for the mean."""
        return None if self.layer == ALL else self.layer, None if self.head == ALL else self.head


@dataclass(frozen=True)
class Maps:
    """A row of heat maps on the page: its heading, its captions, its picture."""

    heading: gr.HTML
    picture: gr.Image
    captions: gr.HTML


@dataclass(frozen=True)
class Inspector:
    """The tab's components, and its handlers over them."""

    service: Service
    view: gr.State
    preview: gr.Image
    task: gr.Dropdown
    seed: gr.Number
    dice: gr.Button
    instruction: gr.Textbox
    examples: gr.Dataset
    family: gr.Radio
    guidance: gr.Slider
    steps: gr.Slider
    noise_seed: gr.Number
    run: gr.Button
    message: gr.HTML
    frames: Maps
    place: Maps
    word: gr.Radio
    said: Maps
    actions: Maps
    layer: gr.Dropdown
    head: gr.Dropdown
    masses: gr.Plot
    reading: gr.Plot
    charts: gr.HTML
    reads: gr.HTML

    def rows(self) -> list[Any]:
        return [part for row in (self.frames, self.place, self.said, self.actions) for part in vars(row).values()]

    def question(self) -> list[Any]:
        return [
            self.family, self.task, self.seed, self.instruction, self.steps, self.guidance, self.noise_seed,
        ]  # fmt: skip

    def form(
        self, task: str | None, seed: float | None, instruction: str = "", steps: float = 1, guidance: float = 1,
        noise_seed: float | None = 0,
    ) -> Form:  # fmt: skip
        """The question as a form: a scene, or on machines without a simulator a sample."""
        source = SCENE if self.service.simulator_problem is None else SAMPLE
        return Form(source, task, seed, task, None, instruction, (), steps, guidance, noise_seed)

    def pick(self, task: str | None, seed: float | None) -> Updates:
        """The first frame of another scene or sample."""
        try:
            frame = session.find_start(self.service, self.form(task, seed)).frame
        except Exception as error:  # the border of the page: whatever goes wrong is one sentence
            return {self.message: words.message(session.failure(error, "The scene"))}
        return {self.preview: show.enlarge(frame), self.message: ""}

    def pick_task(self, task: str | None) -> Updates:
        """Phrasings of another task."""
        rows = examples_of(self.service, task)
        updates: Updates = {self.examples: gr.Dataset(samples=rows)}
        return updates | ({self.instruction: self.service.phrasings(task or "")[0]} if rows else {})

    def look(
        self, family: str, task: str | None, seed: float | None, instruction: str, steps: float, guidance: float,
        noise_seed: float | None,
    ) -> Updates:  # fmt: skip
        """Ask the family and show everything. Bad input touches the message alone."""
        try:
            form = self.form(task, seed, instruction, steps, guidance, noise_seed)
            seen = looking.inspect(self.service, family, form)
            column, place = seen.first_place
            chips = looking.words_of(seen.labels)
            view = View(seen, column, place, chips[-1][1] if chips else 0)
            attention = seen.attention
            layers = [] if attention is None else [(name, i) for i, name in enumerate(attention.layers)]
            return {
                self.message: "",
                self.preview: show.enlarge(seen.pictures[0]),
                self.word: gr.update(choices=chips, value=view.word if chips else None),
                self.layer: gr.update(choices=[("finest, mean", ALL), *layers], value=ALL, visible=bool(layers)),
                self.head: gr.update(choices=self._heads(view), value=ALL, visible=bool(layers)),
                **self._place(view), **self._said(view), **self._actions(view), **self._charts(view),
            }  # fmt: skip
        except Exception as error:  # the border of the page: what went wrong is one sentence under the button
            return {self.message: words.message(session.failure(error, "The look"))}

    def click(self, view: View | None, event: gr.SelectData) -> Updates:
        """Another place, in any frame."""
        if view is None:
            return {self.message: words.message(session.FORGOTTEN)}
        x, y = event.index
        column, place = looking.pointed(x, y, len(view.seen.pictures))
        return self._shown(lambda: self._place(replace(view, column=column, place=place)))

    def pick_word(self, view: View | None, word: int) -> Updates:
        if view is None:
            return {self.message: words.message(session.FORGOTTEN)}
        return self._shown(lambda: self._said(replace(view, word=word)))

    def pick_layer(self, view: View | None, layer: int) -> Updates:
        """Another layer, all of its heads."""
        if view is None:
            return {self.message: words.message(session.FORGOTTEN)}
        chosen = replace(view, layer=layer, head=ALL)
        heads: Updates = {self.head: gr.update(choices=self._heads(chosen), value=ALL)}
        return heads | self._all(chosen)

    def pick_head(self, view: View | None, head: int) -> Updates:
        if view is None:
            return {self.message: words.message(session.FORGOTTEN)}
        return self._all(replace(view, head=head))

    def _all(self, view: View) -> Updates:
        return self._shown(lambda: self._place(view) | self._said(view) | self._actions(view))

    def _shown(self, rows: Any) -> Updates:
        """``rows()``, or why they cannot be shown."""
        try:
            return {self.message: "", **rows()}
        except Exception as error:  # the border of the page, as above
            return {self.message: words.message(session.failure(error, "The look"))}

    def _heads(self, view: View) -> list[tuple[str, int]]:
        attention = view.seen.attention
        return [("all, mean", ALL)] if attention is None else cards.head_choices(attention, view.layer)

    def _place(self, view: View) -> Updates:
        seen = view.seen
        row = looking.from_place(self.service, seen, view.column, view.place, *view.which)
        by = BY_ATTENTION if seen.attention is not None else BY_GRADIENT
        does = "The ring looks at" if seen.attention is not None else "The ring depends on"
        rate = self.service.steps_per_second
        times = ["now" if not time else words.moment(time, rate) for time in seen.times]
        return {
            self.view: view,
            self.frames.heading: words.heading(
                f"{seen.family.title}: the frames", "click a place in any of them" if seen.clickable else ""
            ),
            self.frames.picture: looking.marked(seen, view.column, view.place),
            self.frames.captions: _captions(times),
            **self._row(self.place, f"{does} ({by})", seen, row),
        }

    def _said(self, view: View) -> Updates:
        seen = view.seen
        row = looking.from_word(self.service, seen, view.word, *view.which)
        by = BY_ATTENTION if seen.attention is not None else BY_GRADIENT
        word = seen.labels[view.word].removeprefix("##") if seen.labels else ""
        does = "Looks at" if seen.attention is not None else "Changes with"
        return {self.view: view, **self._row(self.said, f"{does} “{word}” ({by})" if word else "Words", seen, row)}

    def _actions(self, view: View) -> Updates:
        seen, row = view.seen, looking.from_actions(self.service, view.seen, *view.which)
        by = BY_ATTENTION if looking.reads_tokens(seen) else BY_GRADIENT
        does = "Action tokens look at" if looking.reads_tokens(seen) else "Actions depend on"
        return {**self._row(self.actions, f"{does} ({by})" if seen.family.acts else "Actions", seen, row)}

    def _row(self, maps: Maps, title: str, seen: Inspection, row: Row) -> Updates:
        known = any(heat is not None for heat in row.maps)
        return {
            maps.heading: words.heading(title, row.said if known else ""),
            maps.picture: looking.heated(seen, row) if known else None,
            maps.captions: _captions([looking.percent(share) for share in row.shares]) if known
            else words.message(row.said, "quiet"),
        }  # fmt: skip

    def _charts(self, view: View) -> Updates:
        attention = view.seen.attention
        film = attention is not None and future_frames(attention) > 0
        tokens = looking.reads_tokens(view.seen)
        none = "It has no attention to share out between frames: every map here is a gradient."
        updates: Updates = {
            self.reads: "",
            self.charts: BY_LAYER if film else words.message(none, "note"),
            self.masses: None,
            self.reading: None,
        }
        if attention is not None and film:
            updates[self.masses] = show.mass_figure(mass_by_layer(attention))
        if attention is not None and tokens:
            updates[self.reading] = show.mass_figure(action_mass_by_layer(attention))
            updates[self.reads] = words.heading("By layer: where action tokens look")
        return updates


def _captions(texts: Sequence[str]) -> str:
    """One caption a shown frame, under it."""
    cells = "".join(f"<span>{text}</span>" for text in texts)
    return (
        f'<div class="vv-under" style="grid-template-columns:repeat({looking.COLUMNS},1fr)">{cells}</div>'
        if texts
        else ""
    )


# the tab


def _maps(kind: str, clickable: bool = False) -> Maps:
    heading = gr.HTML()
    picture = gr.Image(
        show_label=False, interactive=False, buttons=[], container=False, image_mode="RGBA", format="png",
        elem_classes=f"vv-strip vv-look-{kind}{' vv-click' if clickable else ''}",
    )  # fmt: skip
    return Maps(heading, picture, gr.HTML())


def _build_question(service: Service, infos: Sequence[FamilyInfo]) -> Updates:
    simulated = service.simulator_problem is None
    tasks: list[Any] = task_choices(service) if simulated else list(service.samples)
    first = FIRST_TASK if simulated else first_sample(service) or None
    usable = [(info.title, info.name) for info in infos if info.problem is None]
    examples = examples_of(service, first)
    parts: Updates = {}
    with gr.Row(elem_classes="vv-question"):
        parts["preview"] = cards.picture("First frame", "vv-preview", show_label=False, container=False)
        with gr.Column(elem_classes="vv-where"):
            with gr.Row(elem_classes="vv-asked"):
                parts["task"] = gr.Dropdown(tasks, value=first, label="Task" if simulated else "Sample", min_width=100)
                with gr.Row(elem_classes="vv-seed", visible=simulated):
                    parts["seed"] = open_number(FRESH_SEED, "Scene seed", min_width=70)
                    parts["dice"] = gr.Button("New scene", size="sm", min_width=60, elem_classes="vv-dice")
                parts["instruction"] = gr.Textbox(
                    examples[0][0] if examples else "", label="Instruction", lines=1, max_lines=1,
                    placeholder="open the door",
                )  # fmt: skip
                parts["run"] = gr.Button(
                    "Look inside", variant="primary", elem_classes="vv-primary", elem_id="vv-look", min_width=80,
                    interactive=bool(usable) and first is not None,
                )  # fmt: skip
            parts["examples"] = gr.Dataset(
                components=[gr.Textbox(visible=False)], samples=examples, show_label=False, layout="gallery",
                elem_classes="vv-examples", container=False,
            )  # fmt: skip
            parts["family"] = gr.Radio(
                usable, value=usable[0][1] if usable else None, label="Family", show_label=False, container=False,
                elem_classes="vv-chips",
            )  # fmt: skip
            missing = [f"{info.title}: {info.problem}." for info in infos if info.problem is not None]
            gr.HTML(words.messages(missing, "quiet"), visible=bool(missing))
            with gr.Accordion("Sampling", open=False), gr.Row(elem_classes="vv-asked"):
                parts |= build_sampling()
    return parts


def build_inspector(service: Service) -> Inspector:
    """Lay the tab out inside the current blocks; :func:`build` brings it to life."""
    view = gr.State(None, time_to_live=cards.KEPT_SECONDS)
    with gr.Column(elem_classes="vv-dreams"):
        with gr.Column(elem_classes="vv-card", elem_id="card-attention"):
            gr.HTML(words.head("Look inside", ABOUT, show.COLOURS[2]))
            parts = _build_question(service, service.families())
            parts["message"] = gr.HTML(elem_classes="vv-status", elem_id="vv-look-message")
        with gr.Row(elem_classes="vv-inspect"):
            with gr.Column(elem_classes="vv-card"):
                parts["frames"] = _maps("frames", clickable=True)
                parts["place"] = _maps("place")
                parts["word"] = gr.Radio([], label="Word", show_label=False, container=False, elem_classes="vv-chips")
                parts["said"], parts["actions"] = _maps("word"), _maps("actions")
            with gr.Column(elem_classes="vv-card vv-layers"):
                with gr.Row():
                    parts["layer"] = gr.Dropdown([], label="Layer", min_width=80, visible=False)
                    parts["head"] = gr.Dropdown([], label="Head", min_width=80, visible=False)
                parts["charts"] = gr.HTML()
                bare: Any = {"show_label": False, "container": False}
                parts["masses"] = gr.Plot(elem_classes="vv-plot vv-masses", **bare)
                parts["reads"] = gr.HTML()
                parts["reading"] = gr.Plot(elem_classes="vv-plot vv-reading", **bare)
    return Inspector(service, view, **parts)


def build(service: Service, tab: gr.Tab) -> None:
    """Lay out the tab inside the current blocks and wire it."""
    page = build_inspector(service)
    quiet: Any = {"show_progress": "hidden", "api_visibility": "private"}
    turning: Any = {**quiet, "trigger_mode": "always_last", "concurrency_id": MODELS}
    page.dice.click(None, None, page.seed, js=f"() => {FRESH_SEED} + Math.floor(Math.random() * 1e6)", **quiet)
    page.task.input(page.pick_task, page.task, [page.examples, page.instruction], **quiet)
    page.examples.click(lambda row: row[0], page.examples, page.instruction, **quiet)
    gr.on(
        [tab.select, page.task.input, page.seed.change], page.pick, [page.task, page.seed],
        [page.preview, page.message], trigger_mode="always_last", **quiet,
    )  # fmt: skip
    charts = [page.word, page.layer, page.head, page.charts, page.masses, page.reads, page.reading]
    gr.on(
        [page.run.click, page.instruction.submit, page.family.input], page.look, page.question(),
        [page.message, page.view, page.preview, *page.rows(), *charts], concurrency_id=MODELS, concurrency_limit=2,
        show_progress="minimal", show_progress_on=page.message, api_name="look_inside",
    )  # fmt: skip
    shown = [page.message, page.view, *page.rows()]
    page.frames.picture.select(page.click, page.view, shown, **turning)
    page.word.input(page.pick_word, [page.view, page.word], shown, **turning)
    page.layer.input(page.pick_layer, [page.view, page.layer], [*shown, page.head], **turning)
    page.head.input(page.pick_head, [page.view, page.head], shown, **turning)
