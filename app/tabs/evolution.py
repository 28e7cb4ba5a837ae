"""Evolution inside a dream: a controller's generations, each replayed in its own dream and in the simulator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from app import session, show, words
from app.tabs import duo as pairs
from app.tabs.card import Updates
from app.tabs.compare import MODELS
from app.tabs.duo import Duo
from app.tabs.variants import open_number
from vidvla.data.record import EVAL_SEEDS
from vidvla.eval.pairs import Run
from vidvla.service import TAU, Service
from vidvla.views import FamilyInfo

ABOUT = (
    "World Models (Ha & Schmidhuber 2018): one task, one linear controller, evolved only in the dream of a recurrent "
    "net. It never met the simulator: all that it does there, the dream taught it."
)
SCORES = (
    "Score: mean reward a control step from 0 to 1, and 1 from the step on that fulfils the task. In the dream, "
    "reward and success are the dream's own word."
)
EXPLOITED = (
    "A high score in the dream beside a low one in the simulator is an exploited dream: the controller found what the "
    "dream rewards and the world does not. Raise the temperature: an exploit of a sure dream tends to lose its score "
    "in an unsure one, and what works in the world keeps it."
)
NOTHING = "Nothing was evolved here yet: no weights of a family with a controller."


@dataclass(frozen=True)
class Evolving:
    """The card's components, and its handlers over them."""

    service: Service
    family: gr.Dropdown
    chart: gr.Plot
    generation: gr.Radio
    seed: gr.Number
    dice: gr.Button
    tau: gr.Slider
    run: gr.Button
    play: gr.Button
    message: gr.HTML
    duo: Duo

    def asked(self) -> list[Any]:
        return [self.family, self.generation, self.seed, self.dice, self.tau, self.run, self.play]

    def shown(self) -> list[Any]:
        return [*self.asked(), self.chart, self.message, *self.duo.components()]

    def begin(self, name: str | None, seed: float | None) -> Updates:
        """The chart and the generations of a family, and the first frame of the scene."""
        try:
            found = self.service.evolution(name or "")
        except Exception as error:  # the border of the page: whatever goes wrong is one sentence
            return {self.message: words.message(session.failure(error, "The evolution"))}
        choices, last = [(str(g), g) for g in found.kept], found.kept[-1]
        return {
            self.message: "",
            self.chart: show.evolution_figure(found.rows, last),
            self.generation: gr.update(choices=choices, value=last),
            **pairs.show_start(self.duo, self.service, found.task, seed),
        }

    def mark(self, name: str | None, generation: int | None) -> Updates:
        """Mark another generation in the chart."""
        try:
            return {self.chart: show.evolution_figure(self.service.evolution(name or "").rows, generation)}
        except Exception as error:  # the border of the page, as above
            return {self.message: words.message(session.failure(error, "The evolution"))}

    def look(self, name: str | None, seed: float | None) -> Updates:
        """The first frame of another scene."""
        try:
            task = self.service.evolution(name or "").task
        except Exception as error:  # the border of the page, as above
            return {self.message: words.message(session.failure(error, "The scene"))}
        return pairs.show_start(self.duo, self.service, task, seed)

    def replay(
        self, name: str | None, generation: float | None, seed: float | None, tau: float | None
    ) -> Iterator[Updates]:  # fmt: skip
        """One generation in both worlds. Bad input touches the message alone."""
        yield from self._run(name, [generation], seed, tau)

    def evolve(self, name: str | None, seed: float | None, tau: float | None) -> Iterator[Updates]:
        """All kept generations in both worlds, one after the other."""
        yield from self._run(name, None, seed, tau)

    def _run(
        self, name: str | None, generations: Sequence[float | None] | None, seed: float | None, tau: float | None
    ) -> Iterator[Updates]:  # fmt: skip
        yield {self.message: words.busy("dreaming, then acting"), **pairs.can_ask(self.asked(), False)}
        said = ""
        try:
            found = self.service.evolution(name or "")
            for number in found.kept if generations is None else generations:
                generation, scene = session.whole(number, "generation"), session.whole(seed, "scene seed")
                warmth = float("nan") if tau is None else float(tau)
                both = self.service.evolved(name or "", generation, scene, warmth)
                yield {
                    self.generation: gr.update(value=generation),
                    self.chart: show.evolution_figure(found.rows, generation),
                    **pairs.show_film(self.duo.dream, self.service, list(both.dream.frames), ended(both.dream)),
                    **pairs.show_film(self.duo.real, self.service, list(both.real.frames), ended(both.real)),
                    self.duo.said: _told(f"Generation {generation}, temperature {warmth:.1f}, scene {scene}."),
                }
        except Exception as error:  # the border of the page: what went wrong is one sentence under the buttons
            said = words.message(session.failure(error, "The replay"))
        yield {self.message: said, **pairs.can_ask(self.asked(), True)}


def ended(run: Run) -> str:
    """A run's score and how it ended."""
    return words.badge(run.success, f"score {run.score:.2f}, after {words.control_steps(run.steps)}")


def _told(text: str) -> str:
    return f'<p class="vv-caption">{text}</p>'


def build(service: Service, tab: gr.Tab, infos: Sequence[FamilyInfo]) -> None:
    """Lay the card out and wire it; its figures are read when ``tab`` is opened, as that loads weights."""
    evolved = [info for info in infos if info.evolved]
    usable = [(info.title, info.name) for info in evolved if info.problem is None]
    with gr.Column(elem_classes="vv-card", elem_id="card-evolution"):
        gr.HTML(words.head("Evolution inside a dream", ABOUT, show.COLOURS[2]))
        if not usable:
            missing = [f"{info.title}: {info.problem}." for info in evolved if info.problem is not None]
            gr.HTML(words.messages([NOTHING, *missing], "quiet"))
            return
        with gr.Row(elem_classes="vv-halves"):
            parts = _build_chart(usable) | _build_replay(service)
    _wire(Evolving(service=service, **parts), tab)


def _build_chart(usable: list[tuple[str, str]]) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    with gr.Column():
        parts["family"] = gr.Dropdown(usable, value=usable[0][1], label="Family", visible=len(usable) > 1)
        gr.HTML(words.heading("Score by generation"))
        parts["chart"] = gr.Plot(show_label=False, container=False, elem_classes="vv-plot")
        gr.HTML(words.legend([(name, colour) for _, name, colour in (*show.EVOLVING, show.CHECKED)]))
        gr.HTML(_told(SCORES))
        gr.HTML(_told(EXPLOITED))
    return parts


def _build_replay(service: Service) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    with gr.Column():
        parts["generation"] = gr.Radio([], label="Generation to replay", elem_classes="vv-chips vv-generations")
        with gr.Row(elem_classes="vv-asked"):
            with gr.Row(elem_classes="vv-seed"):
                parts["seed"] = open_number(EVAL_SEEDS.start, "Scene seed", min_width=70)
                parts["dice"] = gr.Button("New scene", size="sm", min_width=60, elem_classes="vv-dice")
            parts["tau"] = gr.Slider(
                *TAU, 1.0, step=0.1, label="Temperature of the dream", buttons=[], min_width=200
            )  # fmt: skip
        with gr.Row(elem_classes="vv-asked"):
            parts["run"] = gr.Button("Run in both", variant="primary", elem_classes="vv-primary", min_width=80)
            parts["play"] = gr.Button("Play all generations", elem_classes="vv-primary vv-run", min_width=80)
        if service.simulator_problem is not None:
            gr.HTML(words.message(session.sentence(ValueError(service.simulator_problem)), "note"))
        parts["message"] = gr.HTML(elem_classes="vv-status")
        parts["duo"] = pairs.build_duo("Its dream")
    return parts


def _wire(card: Evolving, tab: gr.Tab) -> None:
    quiet: Any = {"show_progress": "hidden", "api_visibility": "private"}
    running: Any = {"concurrency_id": MODELS, "concurrency_limit": 2, "show_progress": "hidden"}
    running["preprocess"] = False  # the handlers say what is wrong with a value
    dice = f"() => {EVAL_SEEDS.start} + Math.floor(Math.random() * {len(EVAL_SEEDS)})"
    card.dice.click(None, None, card.seed, js=dice, **quiet)
    pairs.wire_start(tab, card.begin, [card.family, card.seed], card.shown())
    card.family.input(card.begin, [card.family, card.seed], card.shown(), **quiet)
    card.generation.input(card.mark, [card.family, card.generation], card.shown(), **quiet)
    card.seed.change(card.look, [card.family, card.seed], card.shown(), trigger_mode="always_last", **quiet)
    asked = [card.family, card.generation, card.seed, card.tau]
    card.run.click(card.replay, asked, card.shown(), api_name="replay", **running)
    card.play.click(card.evolve, [asked[0], *asked[2:]], card.shown(), api_visibility="private", **running)
