"""Planning from the page: a drive goes to a goal picture, driven as by a person, and ends when somebody asks."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drives import START, act, begun, picture, reply, tiny_service
from starlette.applications import Starlette
from starlette.testclient import TestClient

from app.socket import Sockets
from vidvla.drive import Drive
from vidvla.families.wma import WorldModel
from vidvla.planning import EXECUTE, PlanConfig
from vidvla.service import Service
from vidvla.steering import PROPOSALS, Event, Planned, Thought, fitted, frame_of, steer
from vidvla.types import Request
from vidvla.views import SceneView

SMALL = PlanConfig(horizon=8, hold=4, candidates=4, elites=2, iterations=2)


@pytest.fixture(scope="module")
def service() -> Service:
    return tiny_service()


@pytest.fixture(scope="module")
def scene(service: Service) -> SceneView:
    return service.scene("door-open", 900_001)


@pytest.fixture
def drive(service: Service, scene: SceneView) -> Drive:
    return service.drive("wma", scene.frame, scene)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans of the test's size, whoever asks for one."""
    monkeypatch.setattr("vidvla.steering.PlanConfig", lambda: SMALL)


def to_goal(service: Service, drive: Drive, **more: Any) -> list[Event]:
    goal = fitted(drive, np.full((128, 128, 3), 90, np.uint8))
    return list(steer(drive, goal, service.places, config=SMALL, **more))


def test_the_best_plans_first_actions_are_driven_and_nothing_else(
    service: Service, scene: SceneView, drive: Drive
) -> None:
    events = to_goal(service, drive, plans=2, seed=3)
    order = [type(event).__name__ for event in events]
    assert order == 2 * (["Thought"] * 2 + ["Driven"] * EXECUTE) + ["Planned"]
    planned = [e.considered.actions[0, :EXECUTE] for e in events if isinstance(e, Thought) and e.considered.iteration]
    driven = np.stack([m.action for m in drive.line[1:] if m.action is not None])
    assert np.array_equal(driven, np.concatenate(planned))
    truth = service.play(scene, driven).frames
    assert all(np.array_equal(m.truth, frame) for m, frame in zip(drive.line[1:], truth, strict=True))
    end = events[-1]
    assert isinstance(end, Planned) and end.fulfilled is False and (end.plans, end.steps) == (2, 2 * EXECUTE)
    assert end.apart >= 0 and end.thinking > 0
    again = service.drive("wma", scene.frame, scene)
    to_goal(service, again, plans=2, seed=3)
    assert np.array_equal(again.export().actions, driven)


def test_plans_are_imagined_from_what_is_seen(service: Service, scene: SceneView, drive: Drive) -> None:
    alone, actions = service.drive("wma", scene.frame), np.array([[[1, 2, 0, 0], [0, 0, -3, 1]]], np.float32)
    for held in (alone, drive):
        for _ in range(3):
            held.step(np.array([4, 0, 0, 0], np.float32))
    film = alone.ahead()(actions)[0]
    assert all(np.array_equal(f, alone.step(a).dream) for f, a in zip(film, actions[0], strict=True))
    model, line = service.family("wma"), drive.line
    assert isinstance(model, WorldModel)
    with torch.inference_mode():
        done = np.stack([m.action for m in line if m.action is not None])
        state = model.resume(np.stack([m.truth for m in line if m.truth is not None]), done)
        first = model.look(model.imagine(state, actions[:, 0]))
    assert np.array_equal(drive.ahead()(actions)[:, 0], first) and drive.line == line


def test_a_policys_proposals_are_considered(service: Service, scene: SceneView, drive: Drive) -> None:
    act = service.policy("bc", Request(scene.frame, scene.instruction))
    asked: list[int] = []

    def policy(frame: np.ndarray, look: int) -> np.ndarray:
        asked.append(look)
        return act(frame, look)[: 3 + look % 2]

    thoughts = [e for e in to_goal(service, drive, policy=policy, plans=2) if isinstance(e, Thought)]
    assert asked == list(range(2 * PROPOSALS))
    first = thoughts[0]
    assert first.proposed.sum() >= 1 and len(first.considered.costs) == SMALL.candidates + first.proposed.sum()
    held = first.considered.actions[first.proposed]
    assert (held[:, 4:] == held[:, 4:5]).all()  # as long as a plan, its last action held on
    with pytest.raises(ValueError, match="acts on instructions"):
        service.policy("wma", Request(scene.frame, ""))


def test_goals_come_from_the_end_steps_branches_and_pictures(service: Service, scene: SceneView, drive: Drive) -> None:
    for x in (3, -3, 3):
        drive.step(np.array([x, 0, 0, 0], np.float32))
    before = drive.line
    end = drive.end()
    assert end.shape == (128, 128, 3) and (end != scene.frame).any() and drive.line == before
    assert np.array_equal(drive.step(np.zeros(4)).truth, service.play(scene, drive.export().actions).frames[-1])
    drive.branch(1)
    assert np.array_equal(frame_of(drive, 1), before[1].dream)
    assert np.array_equal(frame_of(drive, 3, branch="A", true=True), before[3].truth)
    assert fitted(drive, np.zeros((200, 300, 3), np.uint8)).shape == (128, 128, 3)
    alone = service.drive("wma", scene.frame)
    for bad, said in (
        (lambda: frame_of(drive, 2), "from 0 to 1"), (lambda: frame_of(drive, 0, branch="B"), "among A; got 'B'"),
        (lambda: frame_of(alone, 0, true=True), "only dreamed"), (alone.end, "simulated scene"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            bad()


# the socket


@pytest.fixture
def client(service: Service) -> TestClient:
    return TestClient(Starlette(routes=Sockets(service, limit=2, silence=60).routes()))


def asked(connection: Any, **message: Any) -> dict[str, Any]:
    connection.send_json(message)
    return reply(connection)


def upload() -> dict[str, str]:
    return {"from": "upload", "upload": base64.b64encode(picture()).decode()}


def test_a_plan_streams_and_leaves_other_sockets_alone(client: TestClient, service: Service, scene: SceneView) -> None:
    with client.websocket_connect("/drive") as first, client.websocket_connect("/drive") as second:
        begun(first)
        begun(second, task="hammer", seed=5)
        assert asked(first, type="goal", **{"from": "end"})["label"] == "the task's end"
        assert asked(second, **act(1, 0, 0, 0))["step"] == 1
        first.send_json({"type": "plan", "candidates": "bc", "replans": 2, "seed": 1})
        seen = []
        for step in range(2, 8):
            mine = asked(second, **act(0, 1, 0, 0))
            assert mine["step"] == step
            seen.append(reply(first))
        while seen[-1]["type"] != "planned":
            seen.append(reply(first))
        other = service.scene("hammer", 5)
        driven = np.array([[1, 0, 0, 0]] + [[0, 1, 0, 0]] * 6, np.float32)
        alone = service.drive("wma", other.frame, other, seed=5)
        last = [alone.step(action) for action in driven][-1]
    assert last.fidelity is not None and mine["psnr"] == round(last.fidelity.psnr, 4)
    rounds = 2 * (["considered"] * SMALL.iterations + ["moment"] * EXECUTE)
    assert [message["type"] for message in seen] == [*rounds, "planned"]
    assert len(seen[0]["pictures"]) == 3 * SMALL.horizon and seen[0]["costs"] == sorted(seen[0]["costs"])
    assert seen[-2]["plan"] == [2, 2] and "not fulfilled after 2 plans, 8 steps" in seen[-1]["text"]


def test_whatever_is_asked_ends_a_plan_and_the_drive_goes_on(client: TestClient) -> None:
    with client.websocket_connect("/drive") as connection:
        begun(connection)
        asked(connection, type="goal", **upload())
        for message, answer in (({"type": "stop"}, "stopped"), (act(0, 0, 0, 0), "moment")):
            connection.send_json({"type": "plan", "replans": 10})
            connection.send_json(message)
            kinds = [reply(connection)["type"] for _ in range(2)]
            assert kinds == ["considered", answer]
        assert asked(connection, **act(0, 0, 0, 0))["step"] == 2


def test_bad_plans_are_one_sentence_and_keep_the_goal(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plan = {"type": "plan", "candidates": "random", "replans": 1, "seed": 0}
    with client.websocket_connect("/drive") as connection:
        assert reply(connection)["type"] == "hello"
        for message in (plan, {"type": "goal", "from": "end"}):
            assert "start one first" in asked(connection, **message)["text"]
        connection.send_json(START)
        assert [reply(connection)["type"] for _ in range(2)] == ["started", "moment"]
        assert "goal picture" in asked(connection, **plan)["text"]
        assert asked(connection, type="goal", **{"from": "step"}, step=0, true=True)["label"] == "step 0, simulated"
        bad: list[tuple[dict[str, Any], str]] = [
            ({"type": "goal", "from": "there"}, "end, step or upload"), ({"type": "goal"}, "end, step or upload"),
            ({"type": "goal", "from": "step", "step": 9}, "from 0 to 0"), ({"type": "goal", "from": "step"}, "whole"),
            ({"type": "goal", "from": "step", "step": 0, "branch": "Q"}, "none yet"),
            ({"type": "goal", "from": "upload", "upload": "AAAA"}, "picture"),
            ({"type": "goal", "from": "upload", "upload": "!"}, "base64"), ({**plan, "replans": 0}, "1 to 10"),
            ({**plan, "replans": 11}, "1 to 10"), ({**plan, "replans": "2"}, "whole number"),
            ({**plan, "seed": -1}, "seed"), ({**plan, "seed": 2**40}, "seed"), ({**plan, "candidates": "wma"}, "bc"),
            ({**plan, "candidates": None}, "random, gr2"), ({**plan, "candidates": ["bc"]}, "random, gr2"),
        ]  # fmt: skip
        for message, expected in bad:
            said = asked(connection, **message)
            assert said["type"] == "error" and expected in said["text"], message
            assert said["text"].endswith(".") and "internal" not in said["text"]
        with monkeypatch.context() as patch:
            patch.delitem(service.__dict__, "_reader")
            patch.setattr(service, "checkpoints", tmp_path)
            assert "no weights yet" in asked(connection, **plan)["text"]
        with monkeypatch.context() as patch:
            patch.setattr("vidvla.drive.LONGEST", 3)
            assert "at most 3 steps" in asked(connection, **plan)["text"]
        assert asked(connection, **plan)["type"] == "considered"
        connection.send_json({**START, "source": "Upload", "upload": upload()["upload"]})
        while reply(connection)["type"] != "started":
            pass
        assert reply(connection)["step"] == 0
        assert "simulated scene" in asked(connection, type="goal", **{"from": "end"})["text"]
        assert asked(connection, type="goal", **upload())["label"] == "your picture"
        assert "picture without one" in asked(connection, **{**plan, "candidates": "bc"})["text"]
        connection.send_text(json.dumps(plan))
        while (last := reply(connection))["type"] != "planned":
            pass
        assert "No simulator can say" in last["text"]
