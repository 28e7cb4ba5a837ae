"""Compare: controls, seeds, what-if, films that take shape, targets, and failures that stay in their own column."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch
from browser import in_browser, served, visit
from PIL import Image

from app import session, show
from app.blocks import Blocks
from app.session import SAMPLE, UPLOAD, Answer, Asked, Begun, Event, Failed, Form, Forming, Varied
from app.tabs import card as cards
from app.tabs import compare, panel, variants
from app.tabs.card import Updates
from vidvla import checkpoint
from vidvla.families.bc import BehaviourCloning
from vidvla.families.gr2 import Gr2
from vidvla.registry import families
from vidvla.samples import Sample
from vidvla.service import Service
from vidvla.types import Control, Request, Rollout

TARGET_STEP = 12


class Aiming(Gr2):
    """Plans a target picture, and lets another family dream its film."""

    def __call__(self, request: Request, **more: Any) -> Rollout:
        rollout = super().__call__(request, **more)
        target = np.full((128, 128, 3), 200, np.uint8)
        return dataclasses.replace(rollout, target=target, target_time=TARGET_STEP, dreamed_by="World model")


class Greedy(BehaviourCloning):
    """Asks for more memory than there is."""

    def __call__(self, request: Request, **more: Any) -> Rollout:
        torch.empty(1 << 60)
        return super().__call__(request, **more)


def lively(member: Gr2) -> Gr2:
    """A fresh net predicts that nothing changes, whatever it is told; this one predicts nonsense that depends on it."""
    with torch.no_grad():
        member.model.net.film_head.weight.normal_(generator=torch.Generator().manual_seed(0))
    return member


def aiming() -> Aiming:
    tiny = lively(Gr2.tiny())
    return Aiming(tiny.model, tiny.scale)


def sampled(service: Service) -> Service:
    """A service with one stored sample: nothing needs to be simulated."""
    frames = np.random.default_rng(0).integers(0, 256, (16, 128, 128, 3), dtype=np.uint8)
    truth = Rollout(frames, tuple(range(1, 17)), np.full((16, 4), 0.5, np.float32))
    service.__dict__["samples"] = {"door": Sample("door", "open the door", frames[0], truth)}
    return service


@pytest.fixture(scope="module")
def service() -> Service:
    """Three families at test size: one with film, actions and a target, one that is told actions, one without film."""
    return sampled(
        Service(loaded={"gr2": aiming(), "wma": families()["wma"].tiny(), "bc": BehaviourCloning.tiny()})
    )  # fmt: skip


@pytest.fixture
def form() -> Form:
    """A question that can be asked."""
    return Form(SAMPLE, None, None, "door", None, "open the door", ("gr2", "bc"), 3, 1.0, 0)


def asked(service: Service, form: Form) -> list[Event]:
    return list(session.ask(service, form, lambda share, what: None))


def page_of(service: Service) -> compare.Compare:
    """The tab's components and handlers, outside of a server."""
    with gr.Blocks():
        question, moment = panel.build_panel(service), gr.Slider(1, 16, 16)
        truth = compare._build_truth()
        built = {info.name: cards.build_card(info, "#000000") for info in service.families()}
    return compare.Compare(service, question, moment, truth, built, gr.State(cards.Turn()), 8)


def predicted(page: compare.Compare, form: Form, **controls: Any) -> list[Updates]:
    """What the page shows after the button, one update after the other."""
    values = {key: part.value for key, part in page.controls().items()} | controls
    return list(
        page.predict(lambda share, what: None, cards.Turn(), 16, 16, *list(vars(form).values())[:-1], *values.values())
    )


# the order of things


def test_films_take_shape_before_the_answer_and_variations_come_last(service: Service, form: Form) -> None:
    events = asked(service, dataclasses.replace(form, seeds=3, other="close the door"))
    assert isinstance(events[0], Begun) and events[0].start.truth is not None
    kinds = [type(event) for event in events]
    film = [type(e) for e in events if isinstance(e, Asked | Forming | Answer) and e.family == "gr2"]
    assert film == [Asked, Forming, Forming, Answer]  # asked for three steps, of which the last one's is the answer
    assert kinds[-2:] == [Varied, Varied] and kinds.count(Answer) == 2
    assert [len(event.films) for event in events if isinstance(event, Forming)] == [1, 2]


def test_two_families_think_at_once(service: Service, form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    together, predict = threading.Barrier(2, timeout=60), Service.predict

    def met(self: Service, name: str, *args: Any, **more: Any) -> Rollout:
        with self._thinking:
            together.wait()  # breaks where one waits for the other
            return predict(self, name, *args, **more)

    monkeypatch.setattr(Service, "predict", met)
    events = asked(service, form)
    assert {e.family for e in events if isinstance(e, Answer)} == {"gr2", "bc"}
    assert not [e for e in events if isinstance(e, Failed)]


def test_updates_of_one_component_keep_all_of_its_properties() -> None:
    first = {"a": gr.update(visible=True), "b": 1, "c": gr.update(value=1)}
    then = {"a": gr.update(value=2), "b": gr.update(value=3), "c": None, "d": 4}
    assert cards.together(first, then) == {
        "a": gr.update(visible=True, value=2),
        "b": gr.update(value=3),
        "c": None,
        "d": 4,
    }


# told families


def test_told_families_follow_the_expert(service: Service, form: Form, tmp_path: Path) -> None:
    (answer,) = [e for e in asked(service, dataclasses.replace(form, families=("wma",))) if isinstance(e, Answer)]
    assert answer.request.actions is not None and (answer.request.actions == 0.5).all()
    assert session.TOLD in answer.rollout.notes and answer.rollout.actions is None and len(answer.rollout.frames) == 16
    path = tmp_path / "picture.png"
    Image.new("RGB", (64, 64), "teal").save(path)
    *_, failed = asked(service, dataclasses.replace(form, families=("wma",), source=UPLOAD, upload=str(path)))
    assert isinstance(failed, Failed) and "nobody knows" in failed.sentence


# seeds and the other instruction


def test_seeds_part_and_the_band_holds_them_all(service: Service, form: Form) -> None:
    events = asked(service, dataclasses.replace(form, seeds=4, noise_seed=2**31 - 1))
    varied = {event.answer.family: event.answer for event in events if isinstance(event, Varied)}
    gr2, bc = varied["gr2"], varied["bc"]
    assert len(gr2.seeds) == 3 and (edges := variants.band(gr2)) is not None
    for rollout in (gr2.rollout, *gr2.seeds):
        assert (edges[0] <= rollout.actions).all() and (rollout.actions <= edges[1]).all()
    assert (edges[1] > edges[0]).any()
    html = variants.over_seeds(gr2, 16)
    assert "Over 4 seeds" in html and html.count("<img") == 4 and variants.SAME not in html  # of target and film
    assert variants.SAME in variants.over_seeds(bc, 16) and "<img" not in variants.over_seeds(bc, 16)
    (first,) = [event for event in events if isinstance(event, Answer) and event.family == "gr2"]
    assert variants.over_seeds(first, 16) == "" and variants.band(first) is None


def test_two_instructions_are_told_apart(service: Service, form: Form) -> None:
    events = asked(service, dataclasses.replace(form, other="close <b>it</b>"))
    varied = {event.answer.family: event.answer for event in events if isinstance(event, Varied)}
    answer = varied["gr2"]
    alone = service.predict("gr2", dataclasses.replace(answer.request, instruction="close <b>it</b>"))
    assert answer.other is not None and (answer.other.frames == alone.frames).all()
    assert (answer.other.frames != answer.rollout.frames).any() and answer.seeds == ()
    html = variants.what_if(answer, 16)
    assert html.count("<img") == 6 and "<b>it" not in html and "difference" in html
    assert "dashed" in variants.what_if(varied["bc"], 16)


def test_target_images_part_too(form: Form) -> None:
    planning = sampled(Service(loaded={"groot": families()["groot"].tiny()}))
    events = asked(planning, dataclasses.replace(form, families=("groot",), seeds=3, other="close it"))
    answers = [event.answer for event in events if isinstance(event, Varied)]
    html = variants.over_seeds(answers[-1], 16)
    assert html.count("<img") == 2 and "target: spread" in html and "of 255" in html
    told = variants.what_if(answers[-1], 16)
    assert told.count("<img") == 3 and "target: difference" in told


def test_action_plots_shade_seeds_and_dash_the_other_instruction() -> None:
    low, high = np.zeros((16, 4), np.float32), np.ones((16, 4), np.float32)
    curves = [("a", "#123456", low), ("b", "#123456", high)]
    figure = show.actions_figure(Service.action_spec, 16.0, curves, band=(low, high))
    shaded = [trace for trace in figure.data if trace.name == "seeds"]
    assert len(shaded) == 8 and [trace.fill for trace in shaded] == [None, "tonexty"] * 4
    assert {trace.line.dash for trace in figure.data if trace.name == "b"} == {"dash"}
    assert {trace.line.dash for trace in figure.data if trace.name == "a"} == {"solid"}


def test_action_plots_say_what_their_lines_are(service: Service, form: Form) -> None:
    page = page_of(service)
    card = page.cards["bc"]
    updates = predicted(page, dataclasses.replace(form, families=("bc",), seeds=2, other="close the door"))
    said = [update[card.curves] for update in updates if card.curves in update]
    assert "solid: predicted, dotted: expert<" in said[0]
    assert "solid: predicted, dotted: expert, dashed: what if, shade: 2 seeds<" in said[-1]


# controls


def test_controls_are_built_from_what_families_declare() -> None:
    choice = Control("head", "Head", "a", choices=("a", "b"))
    number, inherited = Control("k", "Ahead", 4, low=1, high=8, step=1), Control("guidance", "Guidance", high=10)
    with gr.Blocks():
        parts = [variants.build_control(control) for control in (choice, number, inherited)]
    assert [type(part) for part in parts] == [gr.Radio, gr.Slider, gr.Textbox]
    assert [part.value for part in parts] == ["a", 4, ""]
    assert parts[1].preprocess(99) == 99  # the question is refused as a whole, with the range
    read = variants.read_control
    assert read(parts[2], " ") is None and read(parts[2], "2.5") == 2.5 and read(parts[2], "much") == "much"
    assert read(parts[0], "b") == "b" and read(parts[1], 3) == 3


def test_controls_reach_their_family_alone(service: Service, form: Form) -> None:
    page = page_of(service)
    assert list(page.controls()) == ["gr2.guidance", "gr2.read"]
    updates = predicted(page, form, **{"gr2.guidance": "3", "gr2.read": "last step"})
    answers = [update[card.answer] for update in updates for card in page.cards.values() if card.answer in update]
    asked_with = {answer.family: answer.request.options for answer in answers if answer is not None}
    assert asked_with["gr2"] == {"gr2.guidance": 3.0, "gr2.read": "last step"}
    answer = next(answer for answer in answers if answer is not None and answer.family == "gr2")
    plain = service.predict("gr2", Request(answer.start.frame, "open the door", 0, 3, 3.0))
    assert (answer.rollout.frames == plain.frames).all()


@pytest.mark.parametrize(("value", "got"), [("11", "11"), ("nan", "nan"), ("much", "much")])
def test_controls_out_of_range_are_refused_beside_the_button(
    service: Service, form: Form, value: str, got: str
) -> None:
    page = page_of(service)
    updates = predicted(page, form, **{"gr2.guidance": value})
    said = next(update[page.panel.message] for update in reversed(updates) if page.panel.message in update)
    assert "expected Guidance of GR-2 style from 0 to 10; got" in said.replace("Expected", "expected") and got in said
    assert {id(part) for update in updates for part in update} == {id(page.panel.message), id(page.panel.predict)}


def test_chosen_families_show_their_columns(service: Service) -> None:
    page = page_of(service)
    assert {part for part, mark in page.choose(["wma"]).items() if mark} == {page.cards["wma"].chosen}
    assert page.panel.families.value == ["gr2", "bc"]  # a told family is there to be picked
    assert [name for _, name in page.panel.families.choices] == ["gr2", "wma", "bc"]


def test_parts_are_there_from_the_start(service: Service, form: Form) -> None:
    """Whether a part shows hangs on what it holds: the style sheet hides empty ones."""
    page = page_of(service)
    for update in predicted(page, form):
        for part, value in update.items():
            assert part is page.moment or not (isinstance(value, dict) and "visible" in value), part
    for card in page.cards.values():
        parts = [card.film, card.other, card.target, card.live, card.executed, card.frame, card.true_frame]
        assert all(part.visible is True for part in parts)


def test_what_an_answer_leaves_alone_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with Blocks() as page:
        parts = [gr.HTML() for _ in range(3)]
        button = gr.Button()
        button.click(lambda: {parts[1]: "new"}, None, parts)
    made: list[gr.HTML] = []
    monkeypatch.setattr(gr.HTML, "__init__", lambda self, *_, **__: made.append(self))
    (handler,) = page.fns.values()
    shown = asyncio.run(page.postprocess_data(handler, {parts[1]: "new"}, None))
    assert shown == [gr.skip(), "new", gr.skip()] and made == []
    with pytest.raises(ValueError, match="not specified as output"):
        asyncio.run(page.postprocess_data(handler, {button: "new"}, None))


def test_what_streams_is_sent_whole() -> None:
    """Gradio's page would change a picture's value in place before it is drawn."""
    with Blocks() as page:
        picture, text = gr.Image(), gr.HTML()
        gr.Button().click(lambda: None, None, [picture, text])
    (handler,) = page.fns.values()
    first, second, still = {"path": "a.png", "url": "a"}, {"__type__": "update"}, "same"

    def told(picture: dict[str, str], final: bool = False) -> list[Any]:
        return page.handle_streaming_diffs(handler, [dict(picture), still], "session", "run", final)

    assert told(first) == [first, still]
    assert told(second) == [[["replace", [], second]], []]
    assert told(first) == [[["replace", [], first]], []]
    assert told(first, final=True) == [first, still]


# targets


def test_targets_are_shown_and_dreamers_are_named(service: Service, form: Form) -> None:
    page = page_of(service)
    card, other = page.cards["gr2"], page.cards["bc"]
    updates = predicted(page, form)
    last = next(update for update in reversed(updates) if card.target in update)
    assert last[card.target]["value"] is not None and last[card.target]["label"] == f"Target, step {TARGET_STEP}"
    assert last[card.film]["label"] == "Dreamed by World model"
    assert last[card.forming].count("<li ") == 3 and "<details" in last[card.forming]
    last = next(update for update in reversed(updates) if other.target in update)
    assert last[other.target] is None


def test_stills_are_shown_of_whoever_has_a_film(service: Service, form: Form) -> None:
    page = page_of(service)
    captions = {card.info.name: u[card.caption] for u in predicted(page, form) for card in page.cards.values()
                if card.caption in u}  # fmt: skip
    assert "Step " in captions["gr2"] and captions["bc"] == ""


# films that grow


def test_sub_goals_join_those_before_them_as_they_take_shape(form: Form) -> None:
    editing = sampled(Service(loaded={"susie": families()["susie"].tiny()}))
    events = asked(editing, dataclasses.replace(form, families=("susie",), steps=2))
    *_, last = [event.films for event in events if isinstance(event, Forming)]
    (answer,) = [event for event in events if isinstance(event, Answer)]
    assert [len(film) for film in last] == [1, 2] and (last[-1][0] == answer.rollout.frames[0]).all()
    html = variants.formed(last, answer.rollout)
    assert html.count("--part: 0.5") == 1 and html.count("--part: 1") == 2
    assert variants.forming(last[:1]).count("--part: 0.5") == 1 and variants.forming(()) == ""
    assert variants.formed((), answer.rollout) == ""


# failures


def test_failures_stay_in_their_own_columns(form: Form, tmp_path: Path) -> None:
    config = {"model": {}, "actions": {"low": [-1] * 4, "high": [1] * 4}, "trained": []}
    checkpoint.save(tmp_path / "bc-metaworld", BehaviourCloning.tiny().nets(), config)
    checkpoint.save(tmp_path / "baseline-metaworld", families()["baseline"].tiny().nets(), config)
    weights = tmp_path / "baseline-metaworld" / checkpoint.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:1000])
    service = sampled(Service(tmp_path, device="cpu"))
    events = asked(service, dataclasses.replace(form, families=("gr2", "baseline", "bc")))
    said = {event.family: event.sentence for event in events if isinstance(event, Failed)}
    assert set(said) == {"gr2", "baseline"}
    assert "o trained weights" in said["gr2"] and "damaged" in said["baseline"]
    assert [event.family for event in events if isinstance(event, Answer)] == ["bc"]
    page = page_of(service)
    updates = predicted(page, dataclasses.replace(form, families=("gr2", "baseline", "bc")))
    shown = {card.info.name: u[card.status] for u in updates for card in page.cards.values() if card.status in u}
    assert "vv-error" in shown["gr2"] and "vv-error" in shown["baseline"] and "vv-error" not in shown["bc"]


def test_running_out_of_memory_stays_in_its_own_column(form: Form) -> None:
    tiny = BehaviourCloning.tiny()
    greedy = Greedy(tiny.net, tiny.config, tiny.scale, tiny.device)
    service = sampled(Service(loaded={"gr2": Gr2.tiny(), "bc": greedy}))
    events = asked(service, dataclasses.replace(form, seeds=2))
    (failed,) = [event for event in events if isinstance(event, Failed)]
    assert failed.family == "bc" and "ran out" in failed.sentence and "Traceback" not in failed.sentence
    assert [event.answer.family for event in events if isinstance(event, Varied)] == ["gr2"]


# in a browser


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The page with one family that answers and one that runs out of memory."""
    tiny = BehaviourCloning.tiny()
    greedy = Greedy(tiny.net, tiny.config, tiny.scale, tiny.device)
    with served(sampled(Service(loaded={"gr2": aiming(), "bc": greedy})), episode_steps=8) as url:
        yield url


@pytest.mark.parametrize("door", ["/predict", "/look_inside", "/act"])
def test_the_api_refuses_what_is_out_of_range_with_the_range(address: str, door: str) -> None:
    from gradio_client import Client

    client = Client(address, verbose=False)
    found = client.view_api(print_info=False, return_format="dict")["named_endpoints"][door]["parameters"]
    names = {entry["label"]: entry["parameter_name"] for entry in reversed(found)}  # the panel's come first
    empty = {entry["parameter_name"]: None for entry in found if not entry["parameter_has_default"]}
    for label, value, said in (
        ("Guidance", 50, "guidance from 0 to 10, got 50"), ("Denoising steps", 400, "from 1 to 32, got 400"),
        ("Seeds", 99, "from 1 to 8, got 99"), ("Noise seed", 1.5, "noise seed from 0 to 2147483647, got 1.5"),
    ):  # fmt: skip
        if label not in names:
            continue
        job = client.submit(**empty | {names[label]: value}, api_name=door)
        job.result(timeout=240)
        assert said in str(job.outputs()), label


def unfold(page: Any, fold: Any) -> None:
    """Open a fold and give it two frames: in the next one Gradio sets what it mounts to its first values once more."""
    fold.click()
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


@in_browser
def test_a_person_varies_a_question(address: str) -> None:
    from playwright.sync_api import expect

    with visit(address, height=900) as page:
        page.locator(".vv-segments").get_by_text("Sample").click()
        expect(page.get_by_label("Instruction")).to_have_value("open the door")
        card = page.locator("#card-gr2")
        unfold(page, card.get_by_text("Controls"))
        guidance = card.get_by_label("Guidance")
        expect(guidance).to_have_attribute("placeholder", variants.INHERITED)
        guidance.fill("12")
        page.click("#vv-predict")
        expect(page.locator("#vv-message .vv-error")).to_contain_text("from 0 to 10")
        guidance.fill("2")
        page.get_by_label("What if").fill("close the door")
        unfold(page, page.get_by_role("button", name="Sampling"))
        seeds = page.get_by_label("number input for Seeds")
        seeds.fill("2")
        seeds.press("Tab")
        page.click("#vv-predict")
        expect(card.get_by_text("Over 2 seeds")).to_be_visible()
        expect(card.locator(".vv-film video:visible")).to_have_count(2)
        expect(card.locator(".vv-stills img")).to_have_count(10)  # of the target and of the film
        expect(card.get_by_text(f"Target, step {TARGET_STEP}")).to_be_visible()
        card.get_by_text("Denoising, step by step").click()
        expect(card.locator(".vv-forming img")).to_have_count(2)
        expect(page.locator("#card-bc .vv-error")).to_contain_text("ran out")
        expect(page.locator("#vv-predict")).to_have_text("Predict")
        page.set_viewport_size({"width": 390, "height": 844})  # cards that stood side by side stand below one another
        page.wait_for_function(
            "new Set([...document.querySelectorAll('#vv-cards > *')].filter((card) => card.offsetHeight)"
            ".map((card) => card.offsetLeft)).size === 1"
        )
