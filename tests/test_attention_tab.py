"""The tab Attention: every family can be looked into, by attention or by gradients, and says which."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch
from browser import in_browser, served, visit

from app import looking
from app.looking import Inspection
from app.session import SAMPLE, Form
from app.tabs import attention
from app.tabs.attention import Inspector, View
from vidvla.look import mass_by_layer
from vidvla.registry import families
from vidvla.service import Service
from vidvla.worlds.metaworld import simulator_problem

NAMES = ("gr2", "unipi", "baseline", "bc", "wma")


@pytest.fixture(scope="module")
def service() -> Service:
    """Families of every kind at test size."""
    torch.manual_seed(0)
    return Service(loaded={name: families()[name].tiny() for name in NAMES})


@pytest.fixture(scope="module")
def inspections(service: Service) -> dict[str, Inspection]:
    return {name: looking.inspect(service, name, form()) for name in NAMES}


def form(**change: Any) -> Form:
    """A question that needs no simulator."""
    return Form(**{**vars(Form(SAMPLE, None, None, "door-open", None, "open the door", (), 1, 1.0, 0)), **change})


@pytest.fixture(scope="module")
def page(service: Service) -> Inspector:
    """The tab's components and handlers, outside of a server."""
    with gr.Blocks():
        return attention.build_inspector(service)


# rows


def test_what_is_shown_spreads_over_the_film(inspections: dict[str, Inspection]) -> None:
    assert {name: seen.times for name, seen in inspections.items()} == {
        "gr2": (0, 4, 8, 12, 16), "unipi": (0, 4, 8, 12, 16), "baseline": (0, 4, 8, 12, 16), "bc": (0,),
        "wma": (0, 4, 8, 12, 16),
    }  # fmt: skip
    assert all(len(seen.numbers) == len(seen.pictures) for seen in inspections.values())
    for seen in inspections.values():
        copy.deepcopy(seen)  # sessions keep it


def test_attention_says_in_which_frame(service: Service, inspections: dict[str, Inspection]) -> None:
    for name in ("gr2", "unipi"):
        for column in range(5):
            row = looking.from_place(service, inspections[name], column, (0.5, 0.5), None, None)
            assert len(row.shares) == 5 and 0 < sum(row.shares) < 1 and "on words" in row.said
        one = looking.from_place(service, inspections[name], 4, (0.5, 0.5), 0, 0)
        assert (one.maps[0] != row.maps[0]).any()
        assert all(heat is not None for heat in looking.from_word(service, inspections[name], 2, None, None).maps)


def test_gradients_stand_in_where_there_is_no_attention(service: Service, inspections: dict[str, Inspection]) -> None:
    for name in ("baseline", "wma"):
        row = looking.from_place(service, inspections[name], 2, (0.5, 0.5), None, None)
        assert row.maps[0] is not None and row.maps[1:] == (None,) * 4 and row.shares == ()
        assert "click a later frame" in looking.from_place(service, inspections[name], 0, (0, 0), None, None).said
    changed = looking.from_word(service, inspections["baseline"], 1, None, None)
    assert changed.maps[0] is None and all(heat is not None for heat in changed.maps[1:])
    assert "not told any words" in looking.from_word(service, inspections["wma"], 0, None, None).said
    assert "“open” by" in looking.from_word(service, inspections["bc"], 1, None, None).said


def test_what_the_action_head_reads(service: Service, inspections: dict[str, Inspection]) -> None:
    rows = {name: looking.from_actions(service, seen, None, None) for name, seen in inspections.items()}
    assert looking.reads_tokens(inspections["gr2"]) and not looking.reads_tokens(inspections["unipi"])
    assert len(rows["gr2"].shares) == 5 and sum(rows["gr2"].shares) < 1
    for name in ("unipi", "baseline"):
        assert len(rows[name].shares) == 5 and sum(rows[name].shares) == pytest.approx(1)
    assert len(rows["bc"].maps) == 1 and rows["bc"].shares == ()
    assert "told them" in rows["wma"].said
    fine = looking.from_actions(service, inspections["gr2"], 0, None)  # a layer without action tokens
    assert fine.shares == rows["gr2"].shares and "mean of their own layers" in fine.said


def test_the_target_image_stands_in_for_a_film_that_another_family_dreamed() -> None:
    aiming = Service(loaded={name: families()[name].tiny() for name in ("groot", "wma")})
    seen = looking.inspect(aiming, "groot", form())
    target = aiming.predict("groot", seen.request).target
    assert seen.times == (0, 16) and target is not None and (seen.pictures[1] == target).all()
    gaze = looking.from_place(aiming, seen, 1, (0.5, 0.5), None, None)
    assert len(gaze.shares) == 2 and "on words" in gaze.said
    read = looking.from_actions(aiming, seen, None, None)  # of its own inputs, by their gradients
    assert not looking.reads_tokens(seen) and len(read.shares) == 2 and sum(read.shares) == pytest.approx(1)


def test_an_edit_is_looked_into_as_its_first_sub_goal() -> None:
    editing = Service(loaded={"susie": families()["susie"].tiny()})
    seen = looking.inspect(editing, "susie", form())
    target = editing.predict("susie", seen.request).target
    assert seen.times == (0, 8) and target is not None and (seen.pictures[1] == target).all()
    assert seen.attention is not None
    names = seen.attention.layers
    assert [name for name in names if name.endswith(", words")] == list(names[1::2])
    row = looking.from_place(editing, seen, 1, (0.5, 0.5), None, None)
    now, then = row.maps
    assert now is not None and then is not None and (now == then).all() and "hold both" in row.said
    at_places = looking.from_place(editing, seen, 1, (0.5, 0.5), 0, None)
    assert at_places.shares[1] == pytest.approx(1, abs=1e-4) and "0 % on words" in at_places.said
    assert looking.from_place(editing, seen, 1, (0.5, 0.5), 1, None).shares == (0, 0)  # at words alone
    assert looking.from_word(editing, seen, 1, None, None).maps[1] is not None
    assert "no words" in looking.from_word(editing, seen, 1, 0, None).said
    within, of_words = mass_by_layer(seen.attention)[:2]
    assert (within.within, within.text) == (pytest.approx(1, abs=1e-4), 0)
    assert (of_words.within, of_words.text) == (0, pytest.approx(1, abs=1e-4))
    read = looking.from_actions(editing, seen, None, None)  # of its own inputs, by their gradients
    assert not looking.reads_tokens(seen) and len(read.shares) == 2 and sum(read.shares) == pytest.approx(1)


@pytest.mark.parametrize(("count", "shown", "groups"), [
    (17, 5, [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16]]), (5, 5, [[0], [1], [2], [3], [4]]),
    (1, 1, [[0]]), (1, 5, [[0]]), (3, 1, [[0, 1, 2]]), (2, 2, [[0], [1]]),
])  # fmt: skip
def test_what_is_read_is_grouped_by_the_shown_frames(count: int, shown: int, groups: list[list[int]]) -> None:
    assert [list(group) for group in looking._groups(count, shown)] == groups


def test_clicks_find_their_frame(inspections: dict[str, Inspection]) -> None:
    step = looking.SIDE + looking.GAP
    assert looking.pointed(0, 0, 5) == (0, (0.0, 0.0))
    assert looking.pointed(2 * step + looking.SIDE / 2, looking.SIDE / 4, 5) == (2, (0.25, 0.5))
    assert looking.pointed(step - 1, 5000, 5) == (0, (1.0, 1.0))
    assert looking.pointed(9 * step, -3, 5)[0] == 4
    picture = looking.marked(inspections["gr2"], 3, (0.5, 0.5))
    assert picture.shape == (looking.SIDE, 5 * step - looking.GAP, 4)
    alone = looking.marked(inspections["bc"], 0, (0.5, 0.5))  # one frame keeps its size, beside nothing
    assert alone.shape == picture.shape and not alone[:, step:].any() and not inspections["bc"].clickable


def test_maps_of_one_gaze_share_a_scale(inspections: dict[str, Inspection]) -> None:
    seen = inspections["gr2"]
    strong, weak = np.zeros((8, 8), np.float32), np.zeros((8, 8), np.float32)
    strong[4, 4], weak[4, 4] = 0.5, 0.01
    row = looking.Row((strong, weak, None, None, None), (0.5, 0.01, 0, 0, 0))
    shown = looking.heated(seen, row)[..., :3].astype(int)
    step, middle = looking.SIDE + looking.GAP, looking.SIDE * 9 // 16
    assert np.abs(shown[middle, middle] - (240, 249, 33)).mean() < 60  # the brightest colour of the scale
    assert np.abs(shown[middle, step + middle] - (240, 249, 33)).mean() > 60


@pytest.mark.parametrize(
    ("family", "change", "said"),
    [
        ("nobody", {}, "a family among"),
        ("gr2", {"instruction": ""}, "instruction"),
        ("gr2", {"sample": None}, "sample"),
        ("gr2", {"noise_seed": -1}, "noise seed"),
        ("gr2", {"steps": 99}, "denoising steps"),
        ("gr2", {"guidance": 99}, "guidance"),
    ],
)
def test_bad_questions_are_one_sentence(service: Service, family: str, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        looking.inspect(service, family, form(**change))


# the page's handlers


def test_bad_input_touches_the_message_alone(page: Inspector) -> None:
    updates = page.look("gr2", "door-open", 900_001, "", 1, 1, 0)
    assert list(updates) == [page.message] and "vv-error" in updates[page.message]
    for forgotten in (page.pick_word(None, 1), page.pick_layer(None, 0), page.pick_head(None, 0)):
        assert "too old" in forgotten[page.message]


@pytest.mark.skipif(simulator_problem() is not None, reason="needs the simulator")
@pytest.mark.parametrize("name", ["gr2", "baseline"])
def test_looking_names_attention_and_gradients_as_such(page: Inspector, name: str) -> None:
    updates = page.look(name, "door-open", 900_001, "open the door", 1, 1, 0)
    assert updates[page.message] == ""
    by = attention.BY_ATTENTION if name == "gr2" else attention.BY_GRADIENT
    for maps in (page.place, page.said, page.actions):
        assert by in updates[maps.heading] and updates[maps.picture] is not None
    assert [updates[part] is not None for part in (page.masses, page.reading)] == 2 * [name == "gr2"]
    view: View = updates[page.view]
    last = page.pick_layer(view, 0) if name == "gr2" else page.pick_word(view, 1)
    assert last[page.message] == ""
    wrong = page.pick_word(view, 999)
    assert name == "baseline" or "vv-error" in wrong[page.message]


# in a browser


@pytest.fixture(scope="module")
def address(service: Service) -> Iterator[str]:
    with served(service) as url:
        yield url


@in_browser
def test_a_person_looks_inside(address: str) -> None:
    from playwright.sync_api import expect

    with visit(address) as tab:
        tab.get_by_role("tab", name="Attention").click()
        expect(tab.locator("#card-attention .vv-preview img")).to_be_visible()
        tab.click("#vv-look")
        for kind in ("frames", "place", "word", "actions"):
            expect(tab.locator(f".vv-look-{kind} img")).to_be_visible()
        expect(tab.locator(".vv-masses .js-plotly-plot")).to_be_visible()
        looks = tab.locator(".vv-look-place img")
        before = looks.get_attribute("src")
        tab.locator(".vv-look-frames img").click(position={"x": 30, "y": 30})
        expect(looks).not_to_have_attribute("src", before or "")
        said = tab.locator(".vv-look-word img")
        before = said.get_attribute("src")
        tab.locator(".vv-inspect .vv-chips label").first.click()
        expect(said).not_to_have_attribute("src", before or "")
        tab.locator("#card-attention .vv-chips label", has_text="Baseline").click()
        expect(tab.locator(".vv-inspect").get_by_text("gradient saliency").first).to_be_visible()
