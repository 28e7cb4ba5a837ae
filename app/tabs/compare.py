"""Compare: one question, several families side by side, the simulator's truth beside them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from app import session, show, words
from app.session import Answer, Form, Start
from app.stream import Send, streamed
from app.tabs import card as cards
from app.tabs import variants
from app.tabs.card import Card, Turn, Updates, together
from app.tabs.panel import Panel, build_panel, wire_panel
from vidvla.eval.rollouts import EPISODE_STEPS
from vidvla.service import HORIZON, Service
from vidvla.worlds.base import Frame

MODELS = "models"
"""Events that ask families share this queue."""
BEGIN = (
    "Pick a first frame, say what to do, and press Predict: every family imagines the second that follows, "
    "beside what truly happens."
)
NO_TRUTH = "Nobody knows what happens next in an uploaded picture: there is no truth to compare with."


@dataclass(frozen=True)
class Truth:
    """The simulator's own column."""

    start: gr.State
    column: gr.Column
    status: gr.HTML
    film: gr.Video
    caption: gr.HTML
    first: gr.Image
    frame: gr.Image


def _build_truth() -> Truth:
    parts: Updates = {"start": gr.State(None)}
    with gr.Column(elem_classes="vv-card", elem_id="card-truth") as parts["column"]:
        gr.HTML(words.head("Truth", "What the simulator's scripted expert does from the same frame.", show.TRUE_COLOUR))
        parts["status"] = gr.HTML("", elem_classes="vv-status")
        parts["film"] = cards.video("True", "vv-synced")
        with gr.Column(elem_classes="vv-section vv-still"):
            parts["caption"] = gr.HTML()
            with gr.Row(elem_classes="vv-pair"):
                parts["first"] = cards.picture("First frame")
                parts["frame"] = cards.picture("True")
    return Truth(**parts)


# what the truth's column shows


def show_truth(truth: Truth, service: Service, start: Start, horizon: int, moment: int) -> Updates:
    """The expert's film, or why there is none."""
    updates: Updates = {truth.start: start, **show_true_moment(truth, service, start, moment)}
    if start.truth is None:
        pending = start.scene is not None
        return {
            **updates,
            truth.status: words.busy("the expert is at work") if pending else words.message(NO_TRUTH, "quiet"),
            truth.film: None,
        }
    film = cards.save_film(show.timeline(start.frame, start.truth, horizon), service.steps_per_second)
    return {**updates, truth.status: "", truth.film: film}


def show_true_moment(truth: Truth, service: Service, start: Start, moment: int) -> Updates:
    """The first frame, and the true one at a control step."""
    updates: Updates = {truth.first: show.enlarge(start.frame)}
    if start.truth is None:
        return updates | {truth.caption: words.heading("The first frame"), truth.frame: None}
    index = show.shown_at(start.truth.times, moment)
    caption = words.moment(start.truth.times[index], service.steps_per_second).capitalize()
    return updates | {truth.caption: words.heading(caption), truth.frame: show.enlarge(start.truth.frames[index])}


# the tab


@dataclass(frozen=True)
class Compare:
    """The tab's components, and its handlers over them."""

    service: Service
    panel: Panel
    moment: gr.Slider
    truth: Truth
    cards: dict[str, Card]
    turn: gr.State
    episode_steps: int

    def predict(
        self, progress: session.Progress, turn: Turn, moment: int, horizon: int, *values: Any
    ) -> Iterator[Updates]:
        """Ask the chosen families, showing each as it answers. Bad input touches nothing but the message.

        ``values`` are those of the panel's form, then those of the families' controls.
        """
        panel, done = self.panel, False
        form, forming = self._form(values), dict[str, tuple[Frame, ...]]()
        yield {panel.message: "", panel.predict: gr.update(interactive=False, value="Predicting ...")}
        try:
            for event in session.ask(self.service, form, progress):
                if isinstance(event, session.Begun):
                    turn.number += 1
                if isinstance(event, session.Forming):
                    forming[event.family] = event.films
                yield self._show(event, form, forming, horizon, moment)
            done = True
        except Exception as error:  # the border of the page: what went wrong is one sentence beside the button
            yield {panel.message: words.message(session.failure(error, "The prediction"))}
        finally_shown: Updates = {panel.predict: gr.update(interactive=True, value="Predict")}
        yield finally_shown | ({panel.message: ""} if done else {})

    def _show(
        self, event: session.Event, form: Form, forming: dict[str, tuple[Frame, ...]], horizon: int, moment: int
    ) -> Updates:
        """What an event changes; ``forming`` has the films so far."""
        service = self.service
        match event:
            case session.Begun(start, chosen):
                return self._begin(start, chosen, horizon, moment)
            case session.Known(start):
                return show_truth(self.truth, service, start, horizon, moment)
            case session.Asked(name):
                return {self.cards[name].status: words.busy("thinking")}
            case session.Forming(name, films):
                return cards.show_forming(self.cards[name], films)
            case session.Answer(name):
                card = self.cards[name]
                updates = cards.show_answer(card, service, event, horizon, moment, forming.get(name, ()))
                if form.other or form.seeds != 1:
                    updates[card.seeds] = words.busy("asked again once all have answered")
                return updates
            case session.Varied(varied):
                return cards.show_varied(self.cards[varied.family], service, event, horizon, moment)
            case session.Failed(name, sentence):
                return cards.show_failure(self.cards[name], sentence)

    def controls(self) -> dict[str, Any]:
        """All families' own controls by ``family.control``."""
        return {key: part for card in self.cards.values() for key, part in card.controls.items()}

    def _form(self, values: tuple[Any, ...]) -> Form:
        fields, parts = len(self.panel.form()), self.controls()
        said = zip(parts.items(), values[fields:], strict=True)
        options = {key: variants.read_control(part, value) for (key, part), value in said}
        return dataclasses.replace(Form(*values[:fields]), options=options)

    def choose(self, chosen: list[str]) -> Updates:
        """Show the columns of the chosen families, where their controls are."""
        return {card.chosen: words.chosen(name in chosen) for name, card in self.cards.items()}

    def _begin(self, start: Start, chosen: tuple[str, ...], horizon: int, moment: int) -> Updates:
        updates = show_truth(self.truth, self.service, start, horizon, moment)
        updates[self.moment] = gr.update(visible=True, maximum=horizon)
        for name, card in self.cards.items():
            updates |= cards.show_waiting(card) if name in chosen else cards.show_hidden(card)
        return updates

    def change_horizon(self, horizon: int, moment: int, start: Start | None, *answers: Answer | None) -> Updates:
        """Show more or less of what was predicted."""
        updates: Updates = {self.moment: gr.update(maximum=horizon, value=min(moment, horizon))}
        if start is not None:
            updates |= show_truth(self.truth, self.service, start, horizon, min(moment, horizon))
        for card, answer in zip(self.cards.values(), answers, strict=True):
            if answer is not None:
                updates |= cards.show_horizon(card, self.service, answer, horizon)
        return updates

    def change_moment(self, moment: int, start: Start | None, *rest: Any) -> Updates:
        """Show another moment in every column; ``rest`` is (answer, place, word, layer, head) a column."""
        updates: Updates = {self.moment: gr.skip()}
        if start is not None:
            updates |= show_true_moment(self.truth, self.service, start, moment)
        for index, card in enumerate(self.cards.values()):
            answer, place, word, layer, head = rest[5 * index : 5 * index + 5]
            if answer is not None:
                updates |= cards.show_moment(card, self.service, answer, moment, place, word, layer, head)
        return updates


def build(service: Service, episode_steps: int = EPISODE_STEPS) -> None:
    """Lay out the tab inside the current blocks and wire it; ``episode_steps`` limits Execute."""
    infos = service.families()
    with gr.Row(elem_id="vv-workspace"):
        panel = build_panel(service)
        with gr.Column(elem_id="vv-stage"):
            gr.HTML(words.message(BEGIN, "quiet"), elem_classes="vv-begin")
            moment = gr.Slider(
                1, HORIZON, HORIZON, step=1, label="Moment", info="control step",
                visible=False, elem_id="vv-moment", buttons=[],
            )  # fmt: skip
            with gr.Row(elem_id="vv-cards", elem_classes="vv-grid"):
                truth = _build_truth()
                built = {
                    info.name: cards.build_card(info, show.COLOURS[index % len(show.COLOURS)])
                    for index, info in enumerate(infos)
                }
    tab = Compare(service, panel, moment, truth, built, gr.State(Turn()), episode_steps)
    wire_panel(panel, service)
    _wire_stage(tab)


def _wire_stage(tab: Compare) -> None:
    panel, truth, built = tab.panel, tab.truth, list(tab.cards.values())

    def predict(*values: Any, progress: gr.Progress = gr.Progress()) -> Iterator[Updates]:  # noqa: B008
        def work(send: Send[Updates]) -> None:
            for updates in tab.predict(lambda share, what: progress(share, desc=what), *values):
                send(updates)

        for burst in streamed(work):  # each update costs the page as much, however little it says
            yield functools.reduce(together, burst)

    for card in built:
        _wire_card(tab, card)
    outputs = [
        panel.message,
        panel.predict,
        tab.moment,
        *_components(truth),
        *(c for k in built for c in _components(k)),
    ]
    inputs = [tab.turn, tab.moment, panel.horizon, *panel.form(), *tab.controls().values()]
    gr.on(
        [panel.predict.click, panel.instruction.submit], predict, inputs, outputs,
        concurrency_id=MODELS, concurrency_limit=2, show_progress="full", show_progress_on=panel.progress,
        api_name="predict",
    )  # fmt: skip
    quiet: Any = {"show_progress": "hidden", "api_visibility": "private", "trigger_mode": "always_last"}
    answers = [card.answer for card in built]
    shown = [tab.moment, *_components(truth), *(c for k in built for c in _components(k))]
    panel.families.change(tab.choose, panel.families, [card.chosen for card in built], **quiet)
    panel.horizon.input(tab.change_horizon, [panel.horizon, tab.moment, truth.start, *answers], shown, **quiet)
    looks = [part for k in built for part in (k.answer, k.place, k.word, k.layer, k.head)]
    tab.moment.change(tab.change_moment, [tab.moment, truth.start, *looks], shown, **quiet)


def _wire_card(tab: Compare, card: Card) -> None:
    """The column's own events."""
    service = tab.service

    def look(answer: Answer | None, moment: int, place: Any, word: Any, layer: int, head: int) -> Updates:
        if answer is None:
            return {card.verdict: words.message(session.FORGOTTEN, "quiet")}
        return cards.show_moment(card, service, answer, moment, place, word, layer, head)

    def click(answer: Answer | None, moment: int, word: Any, layer: int, head: int, event: gr.SelectData) -> Updates:
        x, y = event.index
        place = (min(max(y / show.SIDE, 0.0), 1.0), min(max(x / show.SIDE, 0.0), 1.0))
        return {card.place: place} | look(answer, moment, place, word, layer, head)

    def pick_layer(answer: Answer | None, moment: int, place: Any, word: Any, layer: int) -> Updates:
        updates = look(answer, moment, place, word, layer, cards.ALL)
        if answer is not None and answer.rollout.attention is not None:
            heads = cards.head_choices(answer.rollout.attention, layer)
            updates[card.head] = gr.update(choices=heads, value=cards.ALL)
        return updates

    quiet: Any = {"show_progress": "hidden", "api_visibility": "private", "trigger_mode": "always_last"}
    inputs = [card.answer, tab.moment, card.place, card.word, card.layer, card.head]
    shown = _components(card)
    if card.info.attends:
        if card.info.films:
            card.frame.select(click, [*inputs[:2], *inputs[3:]], shown, **quiet)
        gr.on([card.word.input, card.head.input], look, inputs, shown, **quiet)
        card.layer.input(pick_layer, inputs[:-1], shown, **quiet)

    def run(answer: Answer | None, turn: Turn) -> Iterator[Updates]:
        yield from cards.show_execution(card, service, answer, tab.episode_steps, turn)

    card.run.click(
        run, [card.answer, tab.turn], [card.run, card.verdict, card.live, card.executed], concurrency_id=MODELS,
        concurrency_limit=2, show_progress="hidden", api_visibility="private",
    )  # fmt: skip


def _components(parts: Any) -> list[Any]:
    """The Gradio components among a dataclass's fields."""
    return [value for value in vars(parts).values() if isinstance(value, gr.blocks.Block)]
