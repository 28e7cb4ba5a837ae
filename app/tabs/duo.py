"""Two films of one start, side by side: the dream and the simulator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from app import session, show, words
from app.tabs import card as cards
from app.tabs.card import Updates
from vidvla.service import Service
from vidvla.worlds.base import Frame

SAME_START = "Both begin with this frame."


@dataclass(frozen=True)
class Side:
    """One of the two: a still while nothing runs or it runs, then its film, and how it ended."""

    live: gr.Image
    film: gr.Video
    verdict: gr.HTML


@dataclass(frozen=True)
class Duo:
    """Dream and simulator, and a sentence on both under them."""

    dream: Side
    real: Side
    said: gr.HTML

    def components(self) -> list[Any]:
        return [*vars(self.dream).values(), *vars(self.real).values(), self.said]


def build_duo(dream: str = "Dream", real: str = "Simulator") -> Duo:
    """Lay it out inside the current column."""
    with gr.Column(elem_classes="vv-duo"):
        with gr.Row(elem_classes="vv-pair"):
            sides = _build_side(dream), _build_side(real)
        said = gr.HTML(elem_classes="vv-said")
    return Duo(*sides, said)


def _build_side(label: str) -> Side:
    with gr.Column(min_width=60):
        live = cards.picture(label)
        film = cards.video(label)
        return Side(live, film, gr.HTML())


def show_start(duo: Duo, service: Service, task: str | None, seed: float | None) -> Updates:
    """The first frame of a scene on both sides, or why there is none; what was shown before goes."""
    try:
        frame = session.find_scene(service, task, seed).frame
    except Exception as error:  # the border of the page: whatever goes wrong is one sentence
        return {duo.said: words.message(session.failure(error, "The scene"))}
    caption = f'<p class="vv-caption">{SAME_START}</p>'
    return show_still(duo.dream, frame) | show_still(duo.real, frame) | {duo.said: caption}


def wire_start(tab: gr.Tab, begin: Callable[..., Updates], asked: list[Any], shown: list[Any]) -> None:
    """``begin`` fills the tab when it is opened for the first time: what was found since then stays."""
    opened = gr.State(False)

    def first(*values: Any) -> Updates:
        *asking, before = values
        return {opened: True} | ({} if before else begin(*asking))

    tab.select(first, [*asked, opened], [opened, *shown], show_progress="hidden", api_visibility="private")


def show_still(side: Side, frame: Frame, verdict: str = "") -> Updates:
    """One frame instead of a film."""
    return {side.live: show.enlarge(frame), side.film: None, side.verdict: verdict}


def show_film(side: Side, service: Service, frames: Sequence[Frame], verdict: str) -> Updates:
    """A film at the world's own speed, and how it ended."""
    film = cards.save_film(list(frames), service.steps_per_second * show.SLOWDOWN)
    return {side.live: None, side.film: film, side.verdict: verdict}


def can_ask(components: Sequence[Any], able: bool) -> Updates:
    """While something runs, nothing can be changed that what it shows depends on."""
    return {component: gr.update(interactive=able) for component in components}
