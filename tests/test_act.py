"""The tab Act: every family in closed loop beside what it imagined, and the leaderboard."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch
from browser import in_browser, served, visit

from app import acting, words
from app.acting import Acted, Question, Started
from app.session import Asked, Failed
from app.tabs import act, leaderboard
from app.tabs.act import Act
from vidvla.eval.rollouts import Execution, Look, Watched
from vidvla.registry import families
from vidvla.service import Service
from vidvla.types import Request, Rollout
from vidvla.worlds.metaworld import simulator_problem

NAMES = ("gr2", "bc", "vmc")
LIMIT = 12
needs_simulator = pytest.mark.skipif(simulator_problem() is not None, reason="needs the simulator")


@pytest.fixture(scope="module")
def service() -> Service:
    """Families with a film, without one, and with one task alone, at test size."""
    torch.manual_seed(0)
    return Service(loaded={name: families()[name].tiny() for name in NAMES})


@pytest.fixture
def question() -> Question:
    return Question("door-open", 900_001, "open the door", list(NAMES), 1, 1.0, 0)


@pytest.fixture(scope="module")
def page(service: Service) -> Act:
    """The tab's components and handlers, outside of a server."""
    infos = acting.actors(service)
    with gr.Blocks():
        parts = act._build_question(service, infos)
        columns = {info.name: act._build_column(info, "#000000") for info in infos}
        return Act(service, LIMIT, message=gr.HTML(), columns=columns, **parts)


# the loop


@needs_simulator
def test_what_is_watched_is_what_is_executed(service: Service) -> None:
    scene = service.scene("door-open", 900_001)
    request = Request(scene.frame, scene.instruction, seed=3, steps=1)
    *_, plain = service.execute("gr2", scene, request, limit=LIMIT)
    *_, watched = service.watch("gr2", scene, request, limit=LIMIT)
    assert (watched.execution.actions == plain.actions).all() and (watched.execution.frames == plain.frames).all()
    assert [look.step for look in watched.looks] == [0, 8] and watched.execution.plans == 2
    assert (watched.looks[1].frame == plain.frames[8]).all()
    assert watched.seconds > 0


@needs_simulator
@pytest.mark.parametrize(("k", "looks"), [("4", [0, 4, 8, 12]), ("16", [0])])
def test_a_sub_goal_is_gone_for_until_the_next_is_due(k: str, looks: list[int]) -> None:
    editing = Service(loaded={"susie": families()["susie"].tiny()})
    scene = editing.scene("door-open", 900_001)
    request = Request(scene.frame, scene.instruction, seed=3, steps=1, options={"susie.k": k})
    *_, watched = editing.watch("susie", scene, request, limit=16)
    *_, plain = editing.execute("susie", scene, request, limit=16)
    assert [look.step for look in watched.looks] == looks
    assert (watched.execution.actions == plain.actions).all()


def test_families_that_cannot_act_say_so(service: Service) -> None:
    scene: Any = dataclasses.make_dataclass("Scene", ["task"])("door-open")
    with pytest.raises(ValueError, match="expected button-press, all that World"):
        next(service.watch("vmc", scene, Request(np.zeros((64, 64, 3), np.uint8), "open the door")))


# imagined beside what came


def grey(level: int) -> np.ndarray:
    return np.full((32, 32, 3), level, np.uint8)


def watched_of(times: tuple[int, ...], steps: int = 12) -> Watched:
    """Frame t of the episode has level t; a frame imagined for t has level 100 + t; looks at 0 and 8."""
    film = np.stack([grey(t) for t in range(steps + 1)])
    frames = np.stack([grey(100 + t) for t in times]) if times else np.zeros((0, 32, 32, 3), np.uint8)
    looks = tuple(Look(s, film[s], Rollout(frames, times, np.zeros((16, 4)), seconds={"total": 0.5})) for s in (0, 8))
    return Watched(Execution(film, np.zeros((steps, 4), np.float32), steps, 2, True, True), looks)


def test_imagined_frames_stand_beside_the_steps_that_they_are_of() -> None:
    pairs = acting.pairs(watched_of((4, 8)))
    assert pairs[0].shape[1] == 2 * pairs[0].shape[0]
    left, right = ([int(pair[0, column, 0]) for pair in pairs] for column in (0, -1))
    assert left == [0] + [104] * 4 + [108] * 4 + [104] * 4
    assert right == list(range(13))
    assert [int(pair[0, -1, 0]) for pair in acting.pairs(watched_of((4, 8)), 11)] == [11, 12]


def test_a_target_image_is_shown_until_the_next_one_and_blindness_is_blank() -> None:
    assert {int(pair[0, 0, 0]) for pair in acting.pairs(watched_of((16,)))[1:]} == {116}
    assert tuple(acting.pairs(watched_of(()))[5][0, 0]) == acting.NOTHING


def test_a_target_image_without_a_film_is_what_was_imagined() -> None:
    none = np.zeros((0, 32, 32, 3), np.uint8)
    assert acting.film_of(Rollout(none, (), None))[0] == ()
    times, frames = acting.film_of(Rollout(none, (), None, target=grey(7), target_time=16))
    assert times == (16,) and (frames[0] == grey(7)).all()
    own = Rollout(grey(3)[None], (4,), None, target=grey(7), target_time=4)
    assert acting.film_of(own)[1][0, 0, 0, 0] == 3


@pytest.mark.parametrize(
    ("times", "moments", "imagined"),
    [((4, 8), (8, 12), (108, 104)), (tuple(range(1, 17)), (8, 12), (108, 104)), ((16,), (12, 12), (116, 116))],
)
def test_looks_are_compared_at_the_moment_of_the_next(
    service: Service, times: tuple[int, ...], moments: tuple[int, ...], imagined: tuple[int, ...]
) -> None:
    looks = acting.seen(service, watched_of(times))
    assert tuple(look.moment for look in looks) == moments
    assert tuple(int(look.imagined[0, 0, 0]) for look in looks if look.imagined is not None) == imagined
    assert all(int(look.came[0, 0, 0]) == look.moment for look in looks)
    assert looks[0].psnr == pytest.approx(20 * np.log10(255 / (imagined[0] - moments[0])))


def test_a_family_without_a_film_has_looks_without_a_figure(service: Service, page: Act) -> None:
    looks = acting.seen(service, watched_of(()))
    assert all(look.imagined is None and np.isnan(look.psnr) for look in looks)
    updates = act.show_look(page.columns["bc"], service, looks, 0)
    assert act.BLIND in updates[page.columns["bc"].caption]


# asking


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"instruction": ""}, "instruction"),
        ({"instruction": None}, "instruction"),
        ({"task": "make-tea"}, "tasks in the list"),
        ({"task": 5}, "tasks in the list"),
        ({"seed": None}, "scene seed from 0 to 2147483647, got nothing"),
        ({"seed": -1}, "scene seed from 0"),
        ({"seed": "many"}, "scene seed from 0 to 2147483647"),
        ({"seed": True}, "scene seed from 0"),
        ({"noise_seed": 2**31}, "noise seed from 0"),
        ({"steps": 0}, "denoising steps from 1 to 32, got 0"),
        ({"steps": 1.5}, "denoising steps from 1 to 32, got 1.5"),
        ({"steps": float("nan")}, "denoising steps from 1 to 32, got nan"),
        ({"guidance": 11}, "guidance from 0 to 10, got 11"),
        ({"guidance": float("nan")}, "guidance from 0 to 10"),
        ({"families": []}, "at least one family"),
        ({"families": ["gr2", "nobody"]}, "families among gr2, vmc, bc; got nobody"),
        ({"families": None}, "families among"),
    ],
)
@needs_simulator
def test_bad_input_is_one_sentence_and_touches_the_message_alone(
    page: Act, question: Question, change: dict[str, Any], said: str
) -> None:
    updates = list(page.act(*vars(dataclasses.replace(question, **change)).values()))
    touched = {id(component) for update in updates for component in update}
    assert touched == {id(page.message), id(page.run), id(page.stop)}
    assert said in updates[1][page.message] and "vv-error" in updates[1][page.message]
    assert updates[-1][page.run]["interactive"]


@needs_simulator
def test_one_failure_stays_in_its_column(
    service: Service, page: Act, question: Question, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(request: Request, **more: Any) -> Rollout:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    service._awake("gr2")
    monkeypatch.setattr(type(service.family("gr2")), "__call__", lambda self, request, **more: broken(request))
    events = list(acting.act(service, question, LIMIT))
    assert isinstance(events[0], Started) and events[0].families == ("gr2", "vmc", "bc")
    assert [event.family for event in events if isinstance(event, Asked)] == ["gr2", "vmc", "bc"]
    said = {event.family: event.sentence for event in events if isinstance(event, Failed)}
    assert said == {
        "gr2": "Expected memory for an answer of GR-2 style, but it ran out: free some and ask again.",
        "vmc": "Expected button-press, all that World Models (V-M-C) knows, got door-open.",
    }
    last = [event for event in events if isinstance(event, Acted)][-1]
    assert last.family == "bc" and last.watched.execution.done
    updates = list(page.act(*vars(question).values()))
    assert any("it ran out" in str(update.get(page.columns["gr2"].status)) for update in updates)
    ends = [update for update in updates if page.columns["bc"].film in update][-1]
    assert "vv-badge" in ends[page.columns["bc"].status]
    assert ends[page.columns["bc"].film].endswith(".mp4")


def test_stopping_keeps_what_is_known(page: Act) -> None:
    said = [words.badge(True, "after 8 steps"), words.busy("waiting"), words.message("It ran out of memory.")]
    updates = page.stopped(*said)
    assert [updates[column.status] for column in page.columns.values()] == [said[0], "", said[2]]


def test_forgotten_looks_say_so(service: Service, page: Act) -> None:
    column = page.columns["gr2"]
    for looks, index in ((None, 0), ((), 0), (acting.seen(service, watched_of((4, 8))), 9)):
        assert "too old" in act.show_look(column, service, looks, index)[column.caption]


# the leaderboard


def test_the_board_shows_ours_with_intervals_beside_what_others_published(service: Service, tmp_path: Path) -> None:
    def row(family: str, task: str, value: float, n: int = 10) -> dict[str, Any]:
        ends = {"low": value / 2, "high": value, "n": n, "unit": "share"}
        return {"family": family, "task": task, "metric": "success", "value": value, **ends}

    rows = [row("gr2", "hammer", 0.4), row("gr2", "all", 0.5, 110), row("bc", "hammer", 0.8), row("bc", "all", 0.9)]
    speed = [{"family": "gr2", "task": "all", "metric": "parameters", "value": 18_300_000, "unit": "count", "n": 1}]
    (tmp_path / "closed_loop.json").write_text(json.dumps({"rows": [*rows, {"odd": 1}]}))
    (tmp_path / "speed.json").write_text(json.dumps({"rows": speed}))
    theirs = {"name": "<Theirs>", "source": "a paper", "success": {"hammer": 8.0, "all": 43.1}, "data": "165 videos"}
    further = {"name": "Later", "source": "another", "success": {"all": 72.0}}
    published = {"note": "v2, not v3.", "closed_loop": [theirs, {"name": "cut"}], "closed_loop_further": [further]}
    (tmp_path / "published.json").write_text(json.dumps(published))
    ours, others, note = leaderboard.read_board(service, tmp_path)
    assert [entry.title for entry in ours] == ["Behaviour cloning", "GR-2 style"]
    assert ours[1].success == {"hammer": 40, "all": 50} and ours[1].ends["hammer"] == (20, 40)
    assert ours[1].beside["parameters"] == "18.3 M" and note == "v2, not v3."
    assert [entry.title for entry in others] == ["Later", "<Theirs>"]
    html = leaderboard.page(service, tmp_path)
    assert "<Theirs>" not in html and "&lt;Theirs&gt;" in html
    assert "<b>40</b><small>20 to 40</small>" in html and "<b>8.0</b>" in html and "165 videos" in html
    assert "110, 10 a task" in html and "v2, not v3." in html


def test_nothing_measured_says_so(service: Service, tmp_path: Path) -> None:
    (tmp_path / "closed_loop.json").write_text("{")
    assert leaderboard.NOTHING in leaderboard.page(service, tmp_path)


def test_the_shipped_board_states_versions_and_protocol(service: Service) -> None:
    html = leaderboard.page(service, act.BENCHMARKS)
    for said in ("Meta-World v2", "Meta-World v3", "AVDC", "UniPi", "mean", "replan at most 5 times"):
        assert said in html


# in a browser


@pytest.fixture(scope="module")
def address(service: Service) -> Iterator[str]:
    with served(service, episode_steps=LIMIT) as url:
        yield url


@in_browser
@needs_simulator
def test_a_person_lets_them_act_and_looks_back(address: str) -> None:
    from playwright.sync_api import expect

    with visit(address) as tab:
        tab.get_by_role("tab", name="Act", exact=True).click()
        expect(tab.locator("#card-act .vv-preview img")).to_be_visible()
        expect(tab.locator("#card-leaderboard table")).to_be_visible()
        tab.click("#vv-act")
        for name in ("gr2", "bc"):
            expect(tab.locator(f"#act-{name} .vv-badge")).to_contain_text("after 12 control steps")
            expect(tab.locator(f"#act-{name} video")).to_be_visible()
        expect(tab.locator("#vv-act")).to_have_text("Let them act")
        column = tab.locator("#act-gr2")
        expect(column.get_by_text("Look 1")).to_be_visible()
        column.locator(".vv-chips label").nth(1).click()
        expect(column.get_by_text("Look 2")).to_be_visible()
