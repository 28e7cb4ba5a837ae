"""One family's column: its components, and what they show of an answer. Built from flags, not names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr
import numpy as np
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder

from app import show, words
from app.looking import words_of
from app.session import Answer, Varied, execute, failure
from app.tabs import variants
from vidvla.look import finest_layers, future_frames, look_from, mass_by_layer, word_map
from vidvla.service import COMPARED, Service
from vidvla.types import Attention
from vidvla.views import FamilyInfo
from vidvla.worlds.base import Frame

Updates = dict[Any, Any]
"""Component -> its new value or properties: what an event handler returns."""
Place = tuple[float, float]
KEPT_SECONDS = 2 * 60 * 60
"""Answers are forgotten after that; attention maps are large."""
IMAGINED = "Imagined"
ALL = -1
"""The choice of the finest layers, or of all heads, on average."""
MEASURES = "Both say how near the film comes to the truth: PSNR by pixels, SSIM by structure; higher is nearer."
MEASURED = '<i class="vv-measured"></i>'
"""Tells the style sheet that there is a truth to compare with."""
NO_SCENE = "Execute needs a simulated scene as the source."


@dataclass(frozen=True)
class Card:
    """The components of one family's column; those that its flags rule out stay hidden."""

    info: FamilyInfo
    colour: str
    answer: gr.State
    place: gr.State
    chosen: gr.HTML
    status: gr.HTML
    forming: gr.HTML
    film: gr.Video
    other: gr.Video
    target: gr.Image
    live: gr.Image
    executed: gr.Video
    run: gr.Button
    verdict: gr.HTML
    figures: gr.HTML
    caption: gr.HTML
    frame: gr.Image
    true_frame: gr.Image
    curves: gr.HTML
    actions: gr.Plot
    seeds: gr.HTML
    what_if: gr.HTML
    word: gr.Radio
    place_map: gr.Image
    word_map: gr.Image
    layer: gr.Dropdown
    head: gr.Dropdown
    masses: gr.Plot
    strip: gr.Image
    quality: gr.Plot
    controls: dict[str, Any]


def picture(label: str, classes: str = "", **more: Any) -> gr.Image:
    """A still that people look at."""
    return gr.Image(
        label=label,
        interactive=False,
        buttons=[],
        elem_classes=f"vv-picture {classes}",
        min_width=60,
        alt_text=label,
        format="jpeg",  # thirty times as fast as WebP
        **more,
    )


def video(label: str, classes: str = "", **more: Any) -> gr.Video:
    """A film that plays by itself, over and over."""
    return gr.Video(
        label=label, autoplay=True, loop=True, interactive=False, buttons=[], min_width=60,
        elem_classes=f"vv-film {classes}", **more,
    )  # fmt: skip


def build_card(info: FamilyInfo, colour: str) -> Card:
    """Lay the column out; ``wire_card`` brings it to life."""
    parts: Updates = {"info": info, "colour": colour, "place": gr.State(None)}
    parts["answer"] = gr.State(None, time_to_live=KEPT_SECONDS)
    with gr.Column(elem_classes="vv-card", elem_id=f"card-{info.name}"):
        gr.HTML(words.family_head(info, colour))
        parts["chosen"] = gr.HTML(words.chosen(info.problem is None and not info.told))
        parts["controls"] = variants.build_controls(info)
        parts["status"] = gr.HTML("", elem_classes="vv-status")
        parts["forming"] = gr.HTML("", elem_classes="vv-formed")
        # everything is mounted from the start, and the style sheet hides what is empty
        with gr.Column(elem_classes="vv-body"):
            with gr.Row(elem_classes="vv-pair"):
                parts["film"] = video(IMAGINED, "vv-synced")
                parts["other"] = video("What if", "vv-synced")
                parts["target"] = picture("Target")
                parts["live"] = picture("Executing")
                parts["executed"] = video("Executed")
            parts["figures"] = gr.HTML()
            parts["run"] = gr.Button(
                "Execute in the simulator", size="sm", elem_classes="vv-run", visible=predicts_actions(info)
            )
            parts["verdict"] = gr.HTML()
            # of whoever has a film, be it dreamed by another family: the style sheet shows it once there is a caption
            with gr.Column(elem_classes="vv-section vv-still"):
                parts["caption"] = gr.HTML()
                with gr.Row(elem_classes="vv-pair"):
                    parts["frame"] = picture("Predicted", "vv-click" if info.attends and info.films else "")
                    parts["true_frame"] = picture("True")
            parts["seeds"] = gr.HTML("", elem_classes="vv-varied")
            parts["what_if"] = gr.HTML("", elem_classes="vv-varied")
            with gr.Column(elem_classes="vv-section", visible=predicts_actions(info)):
                parts["curves"] = gr.HTML()
                parts["actions"] = gr.Plot(show_label=False, container=False, elem_classes="vv-plot")
            parts |= _looking(info.attends)
            with gr.Accordion("Against the truth", open=False, elem_classes="vv-against"):
                gr.HTML(words.heading("Above: true", "below: predicted"))
                parts["strip"] = gr.Image(
                    show_label=False, interactive=False, buttons=[], container=False, image_mode="RGBA", format="png",
                    elem_classes="vv-strip",
                )  # fmt: skip
                gr.HTML(words.legend([("prediction", colour), ("copying the first frame", show.TRUE_COLOUR)]))
                parts["quality"] = gr.Plot(show_label=False, container=False, elem_classes="vv-plot")
                gr.HTML(f'<p class="vv-caption">{MEASURES}</p>')
    return Card(**parts)


def predicts_actions(info: FamilyInfo) -> bool:
    """False also for families that are told the actions here, though they could act on their own."""
    return info.acts and not info.told


def _looking(visible: bool) -> Updates:
    parts: Updates = {}
    with gr.Column(elem_classes="vv-section", visible=visible):
        gr.HTML(words.heading("Attention", "over the first frame"))
        parts["word"] = gr.Radio([], label="Word", show_label=False, container=False, elem_classes="vv-chips")
        with gr.Row(elem_classes="vv-pair"):
            parts["place_map"] = picture("The ring looks at", "vv-looks")
            parts["word_map"] = picture("Looks at the word")
        with gr.Accordion("Layers and heads", open=False):
            with gr.Row():
                parts["layer"] = gr.Dropdown([("finest, mean", ALL)], value=ALL, label="Layer", min_width=80)
                parts["head"] = gr.Dropdown([("all, mean", ALL)], value=ALL, label="Head", min_width=80)
            gr.HTML(words.heading("Where the film's tokens look"))
            gr.HTML(words.legend(show.SHARES))
            parts["masses"] = gr.Plot(show_label=False, container=False, elem_classes="vv-plot")
    return parts


# what the components show


def together(first: Updates, then: Updates) -> Updates:
    """Two updates as one: of a component that is in both, the later value, or the properties of both."""

    def properties(value: Any) -> bool:
        return isinstance(value, dict) and value.get("__type__") == "update"

    both = (part for part in then if part in first and properties(first[part]) and properties(then[part]))
    return first | then | {part: first[part] | then[part] for part in both}


def save_film(frames: list[Frame], steps_per_second: float) -> str:
    """A film as a file in the page's cache, which cleans itself; equal films share one file."""
    return save_bytes_to_cache(show.film_bytes(frames, steps_per_second), "film.mp4", get_upload_folder())


def show_hidden(card: Card) -> Updates:
    """A family that is not asked this time: nothing of it stays."""
    return {card.status: "", card.figures: "", card.answer: None, card.forming: ""}


def show_waiting(card: Card) -> Updates:
    """A family whose turn comes; what it showed before stays until then, dimmed."""
    return {card.status: words.busy("waiting for its turn"), card.forming: ""}


def show_forming(card: Card, films: tuple[Frame, ...]) -> Updates:
    """A film that takes shape."""
    return {card.forming: variants.forming(films)}


def show_failure(card: Card, sentence: str) -> Updates:
    """A family that could not answer."""
    return {card.status: words.message(sentence), card.figures: "", card.answer: None, card.forming: ""}


def show_answer(
    card: Card, service: Service, answer: Answer, horizon: int, moment: int, films: tuple[Frame, ...] = ()
) -> Updates:
    """Everything of a fresh answer; ``films`` are what it was on the way."""
    acts, attention = predicts_actions(card.info), answer.rollout.attention
    can_run = acts and answer.start.scene is not None
    no_run = "" if can_run or not acts else words.message(NO_SCENE, "quiet")
    return {
        card.answer: answer,
        card.place: None,
        card.status: words.messages(answer.rollout.notes, "note"),
        card.forming: variants.formed(films, answer.rollout),
        card.figures: _figures(answer),
        card.target: _target(answer),
        card.live: None,
        card.executed: None,
        card.run: gr.update(interactive=can_run),
        card.verdict: no_run,
        **show_horizon(card, service, answer, horizon),
        **_choices(card, attention),
        **show_moment(card, service, answer, moment, None, None, ALL, ALL),
    }


def show_varied(card: Card, service: Service, varied: Varied, horizon: int, moment: int) -> Updates:
    """An answer's other seeds and other instruction; the rest of the column stays as it is."""
    if varied.problem:
        return {card.seeds: words.message(varied.problem)}
    answer = varied.answer
    return {
        card.answer: answer,
        card.seeds: variants.over_seeds(answer, moment),
        card.what_if: variants.what_if(answer, moment),
        card.other: _other(service, answer, horizon),
        **_actions(card, service, answer, horizon),
    }


def _other(service: Service, answer: Answer, horizon: int) -> str | None:
    """The film under the other instruction."""
    if answer.other is None or not len(answer.other.frames):
        return None
    return save_film(show.timeline(answer.start.frame, answer.other, horizon), service.steps_per_second)


def _actions(card: Card, service: Service, answer: Answer, horizon: int) -> Updates:
    """The action plot: predicted, of other seeds, under the other instruction, and the expert's; and what is what."""
    if answer.rollout.actions is None:
        return {}
    truth, edges, other = answer.start.truth, variants.band(answer), answer.other
    curves = [(card.info.title, card.colour, answer.rollout.actions[:horizon])]
    lines = ["solid: predicted"]
    if truth is not None and truth.actions is not None:
        lines.append("dotted: expert")
    if other is not None and other.actions is not None:
        curves.append((f"“{answer.instead}”", card.colour, other.actions[:horizon]))
        lines.append("dashed: what if")
    if edges is not None:
        lines.append(f"shade: {len(answer.seeds) + 1} seeds")
    figure = show.actions_figure(
        service.action_spec, service.steps_per_second, curves,
        None if truth is None or truth.actions is None else truth.actions[:horizon],
        None if edges is None else (edges[0][:horizon], edges[1][:horizon]),
    )  # fmt: skip
    return {card.curves: words.heading("Actions", ", ".join(lines)), card.actions: figure}


def _target(answer: Answer) -> Updates | None:
    """The picture that an answer's actions are to lead to."""
    target, time = answer.rollout.target, answer.rollout.target_time
    if target is None:
        return None
    return gr.update(value=show.enlarge(target), label="Target" if time is None else f"Target, step {time}")


def _figures(answer: Answer) -> str:
    rollout = answer.rollout
    rows = [
        (words.seconds(rollout.seconds["total"]), "to answer"),
        (words.count(answer.parameters), "weights"),
    ]
    if answer.quality is not None and answer.quality.times:
        # over moments that every family predicts, or else a family with more frames would be told apart by those
        shared = np.asarray([t % COMPARED == 0 for t in answer.quality.times])
        shared |= not shared.any()
        own, copied = (
            np.mean(np.asarray(values)[shared]) for values in (answer.quality.psnr, answer.quality.psnr_copy)
        )
        rows += [(f"{own:.1f} dB", "film PSNR"), (f"{copied:.1f} dB", "if still")]
    said = words.figures(rows, words.time_parts(rollout))
    return said if answer.quality is None or not answer.quality.times else said + MEASURED


def show_horizon(card: Card, service: Service, answer: Answer, horizon: int) -> Updates:
    """Film, actions and comparison, up to ``horizon`` control steps."""
    rollout, start, rate = answer.rollout, answer.start, service.steps_per_second
    updates: Updates = {card.film: None, card.strip: None, card.quality: None}
    if len(rollout.frames):
        film = save_film(show.timeline(start.frame, rollout, horizon), rate)
        label = f"Dreamed by {rollout.dreamed_by}" if rollout.dreamed_by else IMAGINED
        updates[card.film] = gr.update(value=film, label=label)
    updates |= {card.other: _other(service, answer, horizon), **_actions(card, service, answer, horizon)}
    if answer.quality is not None and answer.quality.times and start.truth is not None:
        true = dict(zip(start.truth.times, start.truth.frames, strict=True))
        own = dict(zip(rollout.times, rollout.frames, strict=True))
        shown = [t for t in answer.quality.times if t <= horizon] or list(answer.quality.times[:1])
        picked = [shown[i] for i in sorted({round(i) for i in np.linspace(0, len(shown) - 1, 4)})]
        updates[card.strip] = show.strip([[true[t] for t in picked], [own[t] for t in picked]])
        updates[card.quality] = show.quality_figure(answer.quality, card.colour, rate)
    return updates


def _choices(card: Card, attention: Attention | None) -> Updates:
    """The words, layers and heads that an answer's attention offers, and its bars."""
    if attention is None:
        return {}
    chips = words_of(attention.words)
    layers = [("finest, mean", ALL), *((name, i) for i, name in enumerate(attention.layers))]
    bars = show.mass_figure(mass_by_layer(attention)) if future_frames(attention) else None
    return {
        card.word: gr.update(choices=chips, value=chips[-1][1]),
        card.layer: gr.update(choices=layers, value=ALL),
        card.head: gr.update(choices=head_choices(attention, ALL), value=ALL),
        card.masses: bars,
    }


def head_choices(attention: Attention, layer: int) -> list[tuple[str, int]]:
    layers = finest_layers(attention) if layer == ALL else (layer,)
    count = min(len(attention.maps[i]) for i in layers)
    return [("all, mean", ALL), *((f"head {i + 1}", i) for i in range(count))]


def show_moment(
    card: Card,
    service: Service,
    answer: Answer,
    moment: int,
    place: Place | None,
    word: int | None,
    layer: int,
    head: int,
) -> Updates:
    """The predicted frame of a control step, the true one at the same time, and what attends to what."""
    rollout, start = answer.rollout, answer.start
    varied = {card.seeds: variants.over_seeds(answer, moment), card.what_if: variants.what_if(answer, moment)}
    if not len(rollout.frames):
        return varied | {card.caption: ""} | show_looks(card, answer, 0, (0.5, 0.5), word, layer, head)
    index = show.shown_at(rollout.times, moment)
    time, frame = rollout.times[index], rollout.frames[index]
    place = place or show.most_changed(start.frame, frame)
    true = None if start.truth is None else dict(zip(start.truth.times, start.truth.frames, strict=True)).get(time)
    attends = attended(answer, index) is not None
    caption = words.moment(time, service.steps_per_second)
    hint = "click a place to trace it" if attends else ""
    return {
        card.caption: words.heading(caption.capitalize(), hint),
        card.frame: show.mark(frame, place) if attends else show.enlarge(frame),
        card.true_frame: None if true is None else show.enlarge(true),
        **varied,
        **show_looks(card, answer, index, place, word, layer, head),
    }


def attended(answer: Answer, index: int) -> int | None:
    """Number (1 to K) of the attention's frame that covers frame ``index`` of the film, None where none does.

    A family may fill frames in between those that its attention saw; these are spread evenly over the film. Where the
    attention is of the target image alone, other frames have none, and a film that another family dreamed has none.
    """
    rollout, times = answer.rollout, answer.rollout.times
    count = future_frames(rollout.attention) if rollout.attention is not None else 0
    if not count or rollout.dreamed_by or not times:
        return None
    if rollout.target is not None and count == 1:
        return 1 if times[index] == rollout.target_time else None
    return min(max(-(-times[index] * count // times[-1]), 1), count)


def show_looks(
    card: Card, answer: Answer, index: int, place: Place, word: int | None, layer: int, head: int
) -> Updates:
    """The two heat maps over the first frame."""
    attention, first = answer.rollout.attention, answer.start.frame
    if attention is None:
        return {}
    word = words_of(attention.words)[-1][1] if word is None or not 0 <= word < len(attention.words) else word
    one_layer, one_head = (None if layer == ALL else layer), (None if head == ALL else head)
    said = attention.words[word].removeprefix("##")
    heat = show.overlay(first, word_map(attention, word, 0, one_layer, one_head))
    updates = {
        card.word_map: gr.update(value=heat, label=f"Looks at “{said}”"),
        card.place_map: None,
    }
    frame = attended(answer, index)
    if frame is not None:
        updates[card.place_map] = show.overlay(first, look_from(attention, frame, place, one_layer, one_head))
    return updates


# executing


@dataclass
class Turn:
    """How many questions a session has asked; the one thing in it that changes in place."""

    number: int = 0


def show_execution(card: Card, service: Service, answer: Answer | None, steps: int, turn: Turn) -> Iterator[Updates]:
    """Stream a closed loop: picture by picture while it runs, then its film and how it ended.

    A new question in the same session ends it quietly: its column shows another scene then.
    """
    started = turn.number
    yield {
        card.run: gr.update(interactive=False),
        card.verdict: words.busy("looking at the scene"),
        card.executed: None,
        card.live: None if answer is None else show.enlarge(answer.start.frame),
    }
    rate, shown, now = service.steps_per_second, 1, None
    try:
        for now in execute(service, answer, steps):
            for frame in now.frames[shown::2]:
                if turn.number != started:
                    return
                yield {card.live: show.enlarge(frame)}
            shown = len(now.frames)
            yield {card.live: show.enlarge(now.frames[-1]), card.verdict: words.execution(now, rate, steps)}
    except Exception as error:  # the border of the page, as in session.ask
        said = words.message(failure(error, card.info.title))
        yield {card.live: None, card.verdict: said, card.run: gr.update(interactive=True)}
        return
    assert now is not None
    yield {
        card.live: None,
        card.executed: save_film(list(now.frames), rate * show.SLOWDOWN),
        card.verdict: words.execution(now, rate, steps),
        card.run: gr.update(interactive=True, value="Execute again"),
    }
