"""The tab Dreams: figures read from a file, runs in a dream and in the simulator, and sentences for bad input."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch
from browser import in_browser, served, visit

from app.main import build
from app.tabs import dreams, evolution
from app.tabs.dreams import Live
from app.tabs.evolution import Evolving
from vidvla.eval.pairs import Both, Highest, Run, in_turn
from vidvla.eval.rollouts import Execution
from vidvla.foundation.reader import Reader, ReaderConfig, ReaderNet
from vidvla.registry import families
from vidvla.service import Service
from vidvla.worlds.agent import Played
from vidvla.worlds.metaworld import AVDC_TASKS, simulator_problem

NAMES = ("baseline", "wma", "vmc")
needs_simulator = pytest.mark.skipif(simulator_problem() is not None, reason="needs the simulator")


def tiny_reader() -> Reader:
    """The judge with random weights."""
    torch.manual_seed(0)
    config = ReaderConfig(size=32, tasks=AVDC_TASKS)
    return Reader(ReaderNet(config).eval(), config)


@pytest.fixture(scope="module")
def service() -> Service:
    """A policy, a world model and an evolved controller at test size, with a judge."""
    torch.manual_seed(0)
    found = Service(loaded={name: families()[name].tiny() for name in NAMES})
    found.__dict__["_reader"] = tiny_reader()
    return found


def live_of(service: Service, limit: int = 4) -> Live:
    """The first card's components and handler, outside of a server."""
    with gr.Blocks():
        live = dreams._build_live(service, service.families(), limit)
    assert live is not None
    return live


def evolving_of(service: Service) -> Evolving:
    with gr.Blocks():
        parts = evolution._build_chart([("V", "vmc")]) | evolution._build_replay(service)
    return Evolving(service=service, **parts)


# what was measured


def ranking_file(folder: Path) -> Path:
    def row(metric: str, value: float, task: str = "all", n: int = 55) -> dict[str, Any]:
        ends = {"low": value - 0.1, "high": value + 0.1, "n": n, "unit": "share"}
        return {"family": "wma", "task": task, "metric": metric, "value": value, **ends}

    rows = [row("real: baseline", 0.5), row("dream: baseline", 0.4), row("real: baseline", 0.9, "hammer")]
    rows += [row("real: baseline with 30% noise", 0.2), row("dream: baseline with 30% noise", 0.3)]
    rows += [row("pearson", 0.8, n=2), row("spearman", float("nan"), n=2), {"family": "wma"}]
    (folder / "ranking.json").write_text(json.dumps({"meta": {}, "rows": rows}))
    return folder / "ranking.json"


def test_the_ranking_is_one_point_a_policy(tmp_path: Path) -> None:
    (found,) = dreams.read_ranking(ranking_file(tmp_path), {"baseline": "Base"})
    assert [name for name, _, _ in found.points] == ["Base", "Base with 30% noise"]
    assert found.points[0][1:] == ((0.5, 0.4, 0.6), (0.4, 0.30000000000000004, 0.5))
    said = dreams.caption(found)
    assert "Pearson r 0.80 (0.70 to 0.90)" in said and "rank correlation undefined," in said
    assert "n = 2 policies" in said and "55 runs" in said
    figure = dreams.show.agreement_figure(found.points)
    assert [trace.line.dash for trace in figure.data] == ["dash", None, None]
    assert figure.data[1].x == (50.0,) and figure.data[1].y == (40.0,)
    assert figure.data[1].error_x.array == (10.0,)


def test_what_is_not_measured_says_so(tmp_path: Path, service: Service) -> None:
    (tmp_path / "damaged.json").write_text("{")
    for name in ("missing.json", "damaged.json"):
        assert dreams.read_ranking(tmp_path / name, {}) == []
    with gr.Blocks() as page:
        dreams._build_ranking(service.families(), tmp_path / "missing.json")
    assert dreams.NOT_MEASURED in str(page.config["components"])


def test_evolutions_are_lines_with_marked_checks() -> None:
    rows = [{"generation": 0, "best": 0.2, "mean": 0.1, "real": 0.05}, {"generation": 1, "best": 0.4, "mean": 0.2}]
    best, mean, real = dreams.show.evolution_figure(rows, 1).data
    assert (best.y, mean.y, real.x, real.y) == ((0.2, 0.4), (0.1, 0.2), (0,), (0.05,))
    assert best.mode == "lines" and real.mode == "markers" and "training" in real.name


# runs in both


def execution(steps: int, success: bool, done: bool) -> Execution:
    return Execution(
        np.zeros((steps + 1, 8, 8, 3), np.uint8), np.zeros((steps, 4), np.float32), steps, 1, success, done
    )


def test_two_loops_take_turns_and_the_longer_one_ends_alone() -> None:
    dream = iter([execution(2, True, True)])
    real = iter([execution(2, False, False), execution(4, False, True)])
    seen = list(in_turn(dream, real, Highest(lambda frame, task: 0.0)))
    steps = [(b.dream and b.dream.steps, b.real and b.real.steps) for b in seen]
    assert steps == [(2, None), (2, 2), (2, 4)]
    assert [both.agree for both in seen] == [None, None, False]
    assert "fulfilled in the dream, not in the simulator" in dreams.agreement(seen[-1])
    alike = Both(execution(2, False, True), execution(2, False, True))
    assert "in neither" in dreams.agreement(alike)


def test_runs_are_cut_where_the_task_is_fulfilled() -> None:
    played = Played(np.zeros(4, np.float32), np.array([False, True, False, False]))
    run = Run.of(np.zeros((5, 8, 8, 3), np.uint8), played)
    assert (len(run.frames), run.steps, run.success) == (3, 2, True) and run.score == 0.75


@needs_simulator
def test_a_run_in_both_streams_and_ends_in_two_films(service: Service) -> None:
    live = live_of(service)
    updates = list(live.evaluate("baseline", "wma", "door-open", 900_001))
    duo, last = live.duo, updates[-2]
    for side in (duo.dream, duo.real):
        assert any(side.live in update for update in updates[1:-2])
        assert last[side.film].endswith(".mp4") and "vv-badge" in last[side.verdict]
    assert dreams.JUDGED in last[duo.dream.verdict] and "% likely" in last[duo.dream.verdict]
    assert "gree: fulfilled in" in last[duo.said]
    assert updates[-1][live.run]["interactive"] and updates[0][live.run]["interactive"] is False


@needs_simulator
def test_a_policy_of_one_task_runs_in_that(service: Service) -> None:
    *_, last = service.evaluate("vmc", "wma", "button-press", 900_001, limit=4)
    assert last.dream is not None and last.real is not None
    assert (last.dream.actions == last.real.actions)[0].all()


@needs_simulator
def test_both_begin_alike_and_the_judge_alone_ends_dreams(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    *_, last = service.evaluate("baseline", "wma", "door-open", 900_001, limit=4)
    assert last.dream is not None and last.real is not None
    assert (last.dream.frames[0] == last.real.frames[0]).all()
    monkeypatch.setattr(Reader, "judge", lambda self, frame, task: 0.9)
    *_, sure = service.evaluate("baseline", "wma", "door-open", 900_001, limit=4)
    assert sure.dream is not None and sure.dream.success and sure.dream.steps == 1 and sure.likely == 0.9


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"policy": "unheard-of"}, "family among"),
        ({"policy": None}, "family among"),
        ({"policy": "wma"}, "family that acts, got wma"),
        ({"policy": "vmc"}, "button-press, all that"),
        ({"mind": "baseline"}, "dreams every task"),
        ({"mind": "vmc"}, "dreams every task"),
        ({"task": "make-tea"}, "task among"),
        ({"task": None}, "task among"),
        ({"seed": float("nan")}, "scene seed"),
        ({"seed": None}, "scene seed"),
        ({"seed": -1}, "scene seed"),
    ],
)
def test_bad_questions_touch_the_message_alone(service: Service, change: dict[str, Any], said: str) -> None:
    live = live_of(service)
    asked = {"policy": "baseline", "mind": "wma", "task": "door-open", "seed": 900_001} | change
    updates = list(live.evaluate(**asked))
    touched = {component for update in updates for component in update}
    assert touched <= {live.message, *live.asked()}
    assert "vv-error" in updates[-2][live.message] and said in updates[-2][live.message]
    assert updates[-1][live.run]["interactive"]


def test_missing_weights_judges_and_simulators_are_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = Service(tmp_path)
    with pytest.raises(ValueError, match="trained weights"):
        next(bare.evaluate("baseline", "wma", "door-open", 0))
    with gr.Blocks():
        assert dreams._build_live(bare, bare.families(), 4) is None
    build(bare)
    ready = Service(tmp_path, loaded={name: families()[name].tiny() for name in NAMES})
    live = live_of(ready)
    (_, refused, _) = live.evaluate("baseline", "wma", "door-open", 0)
    assert "tells fulfilled tasks from pictures" in refused[live.message] and not live.run.interactive
    ready.__dict__["_reader"] = tiny_reader()
    monkeypatch.setitem(ready.__dict__, "simulator_problem", "Install the simulator.")
    (_, refused, _) = live_of(ready).evaluate("baseline", "wma", "door-open", 0)
    assert "Install the simulator." in str(refused)
    (_, ended) = evolving_of(ready).replay("vmc", 0, 500_000, 1.0)
    assert "Install the simulator." in str(ended)


# evolution


@needs_simulator
def test_generations_are_replayed_in_their_dream_and_in_the_simulator(service: Service) -> None:
    card = evolving_of(service)
    opened = card.begin("vmc", 500_000)
    assert [value for _, value in opened[card.generation]["choices"]] == [0, 1]
    assert "begin with" in opened[card.duo.said]
    shown, end = list(card.replay("vmc", 0, 500_000, 0.5))[1:]
    for side in (card.duo.dream, card.duo.real):
        assert shown[side.film].endswith(".mp4") and "score" in shown[side.verdict]
    assert end[card.message] == "" and end[card.run]["interactive"]
    played = [update[card.generation]["value"] for update in list(card.evolve("vmc", 500_000, 0.5))[1:-1]]
    assert played == [0, 1]


@needs_simulator
def test_a_generation_is_its_own_controller_and_a_temperature_its_own_dream(service: Service) -> None:
    first, again, later, warm = (
        service.evolved("vmc", g, 500_000, t) for g, t in ((0, 0.1), (0, 0.1), (1, 0.1), (0, 1.5))
    )
    assert (first.dream.frames == again.dream.frames).all() and (first.real.frames == again.real.frames).all()
    assert not np.array_equal(first.real.frames, later.real.frames)
    assert not np.array_equal(first.dream.frames, warm.dream.frames)
    assert np.array_equal(first.real.frames, warm.real.frames)  # the world knows no temperature
    assert first.dream.frames.shape == (first.dream.steps + 1, 64, 64, 3)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("unheard-of", 0, 500_000, 1.0), "family among"),
        ((None, 0, 500_000, 1.0), "family among"),
        (("baseline", 0, 500_000, 1.0), "evolved controller"),
        (("vmc", 99, 500_000, 1.0), "kept generation, 0, 1; got 99"),
        (("vmc", None, 500_000, 1.0), "generation"),
        (("vmc", 0, float("nan"), 1.0), "scene seed"),
        (("vmc", 0, 500_000, 1.6), "temperature from 0.1 to 1.5"),
        (("vmc", 0, 500_000, float("nan")), "temperature from 0.1 to 1.5"),
        (("vmc", 0, 500_000, None), "temperature from 0.1 to 1.5"),
    ],
)
def test_bad_replays_touch_the_message_alone(service: Service, asked: tuple[Any, ...], said: str) -> None:
    card = evolving_of(service)
    updates = list(card.replay(*asked))
    assert {component for update in updates for component in update} <= {card.message, *card.asked()}
    assert "vv-error" in updates[-1][card.message] and said in updates[-1][card.message]


def test_families_that_know_only_some_tasks_say_so() -> None:
    for kind in families().values():
        assert kind.general == (not kind.tiny().tasks), kind.name


# in a browser


@pytest.fixture
def address(service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The page, served with short runs and a small figure file."""
    monkeypatch.setattr(dreams.build, "__defaults__", (4, ranking_file(tmp_path)))
    with served(service, episode_steps=4) as url:
        yield url


@needs_simulator
@in_browser
def test_a_person_runs_both_cards(address: str) -> None:
    from playwright.sync_api import expect

    with visit(address) as page:
        page.get_by_role("tab", name="Dreams").click()
        for name in ("policies", "evolution"):
            card = page.locator(f"#card-{name}")
            expect(card.locator(".vv-picture img")).to_have_count(2)
            expect(card.locator(".js-plotly-plot")).to_be_visible()
            card.get_by_role("button", name="Run in both").click()
            expect(card.locator(".vv-film video")).to_have_count(2)
            expect(card.locator(".vv-badge")).to_have_count(2)
            expect(card.locator(".vv-said p")).to_be_visible()
            expect(card.locator(".vv-error")).to_have_count(0)
        page.get_by_role("tab", name="Models").click()
        page.get_by_role("tab", name="Dreams").click()
        page.wait_for_timeout(1500)  # what a tab does when it is opened again would come by now
        expect(page.locator(".vv-dreams .vv-badge")).to_have_count(4)
