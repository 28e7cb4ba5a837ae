"""The socket that pages drive by: no message breaks it, and none disturbs another's drive."""

from __future__ import annotations

import base64
import json
import threading
import time
from typing import Any

import pytest
from drives import START, act, actions_of, begun, picture, reply, tiny_service
from starlette.applications import Starlette
from starlette.testclient import TestClient

from app import pictures
from app.socket import SMALL, Mailbox, Sockets
from vidvla.families.wma import WorldModel
from vidvla.service import Service
from vidvla.views import SceneView


@pytest.fixture(scope="module")
def service() -> Service:
    return tiny_service()


@pytest.fixture(scope="module")
def scene(service: Service) -> SceneView:
    return service.scene("door-open", 900_001)


@pytest.fixture
def client(service: Service) -> TestClient:
    return TestClient(Starlette(routes=Sockets(service, limit=2, silence=30).routes()))


BAD = [
    "{", "[]", "7", "null", "{}", '{"type": 3}', '{"type": "fly"}', "[" * 20_000, json.dumps({"type": "error"}),
    json.dumps({"type": "act", "more": "x" * SMALL}), json.dumps(act(1, 2)), json.dumps(act(0, 0, 0, 9)),
    '{"type": "act", "action": [NaN, 0, 0, 0]}', '{"type": "act", "action": [1e999, 0, 0, 0]}',
    '{"type": "act", "action": {"x": 1}}', '{"type": "act", "action": ["a", 0, 0, 0]}', '{"type": "act"}',
    '{"type": "act", "action": [1' + "0" * 400 + ", 0, 0, 0]}", json.dumps({**act(0, 0, 0, 0), "drive": 99}),
    '{"type": "rewind", "step": 99}', '{"type": "rewind", "step": "1"}', '{"type": "rewind"}',
    '{"type": "branch", "step": 1}', '{"type": "forget", "name": "Z"}', '{"type": "what_if", "step": 0}',
    '{"type": "uncertainty", "step": 0, "action": [0, 0, 0, 0], "seeds": 1000}', '{"type": "replay"}',
    '{"type": "replay", "file": "!"}', '{"type": "replay", "file": "AAAA"}',
    *(json.dumps({**START, **change}) for change in (
        {"task": "make-tea"}, {"task": None}, {"seed": -1}, {"seed": "x"}, {"seed": None}, {"seed": 10**30},
        {"seed": float("nan")}, {"model": "gr2"}, {"model": "unheard-of"}, {"model": None}, {"source": "Dream"},
        {"source": "Sample"}, {"source": "Upload"}, {"source": "Upload", "upload": "AAAA"},
    )),
]  # fmt: skip


def test_every_bad_message_is_one_sentence_and_the_drive_goes_on(client: TestClient) -> None:
    with client.websocket_connect("/drive") as connection:
        begun(connection)
        connection.send_json(act(1, 0, 0, -1))
        assert reply(connection)["step"] == 1
        for text in BAD:
            connection.send_text(text)
            said = reply(connection)
            assert said["type"] == "error", text[:80]
            assert said["text"][0].isupper() and said["text"].endswith(".") and "internal" not in said["text"], text
            assert len(said["text"]) < 1500
        connection.send_bytes(b"\x00")
        assert "text" in reply(connection)["text"]
        connection.send_json(act(1, 0, 0, -1))
        assert reply(connection)["step"] == 2


def test_internal_errors_show_no_details(client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    with client.websocket_connect("/drive") as connection:
        begun(connection)
        with monkeypatch.context() as patch:
            patch.setattr(service.family("wma"), "imagine", lambda *_, **__: 1 / 0)
            connection.send_json(act(0, 0, 0, 0))
            said = reply(connection)["text"]
        assert "internal error" in said and "division" not in said
        connection.send_json(act(0, 0, 0, 0))
        assert reply(connection)["step"] == 1


def test_of_a_flood_only_the_newest_action_is_answered(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    member, gate = service.family("wma"), threading.Event()
    assert isinstance(member, WorldModel)
    plain = member.imagine

    def slow(*values: Any, **more: Any) -> Any:
        gate.wait(20)
        return plain(*values, **more)

    with client.websocket_connect("/drive") as connection:
        begun(connection)
        monkeypatch.setattr(member, "imagine", slow)
        for index in range(200):
            connection.send_json(act(index / 100, 0, 0, 0))
        connection.send_text("{")  # waits behind the actions: once it is read, so are they
        threading.Timer(1.0, gate.set).start()
        found = [reply(connection) for _ in range(3)]
    assert [one["type"] for one in found] == ["moment", "moment", "error"]
    assert found[1]["action"][0] == pytest.approx(1.99)


def test_a_full_mailbox_refuses_and_a_start_empties_it() -> None:
    box = Mailbox()
    for step in range(20):
        box.put({"type": "rewind", "step": step})
    assert len(box) == 9  # eight requests and one sentence
    box.put(dict(START))
    assert len(box) == 1


def test_sockets_are_apart_and_too_many_are_told(client: TestClient, service: Service, scene: SceneView) -> None:
    actions = [[2, 0, 0, -1], [0, 2, 0, -1], [0, 0, 2, 1]]
    with client.websocket_connect("/drive") as first, client.websocket_connect("/drive") as second:
        begun(first)
        begun(second, task="hammer")
        for action in actions:
            first.send_json(act(*action))
            second.send_json(act(*(-v for v in action)))
            assert reply(first)["step"] == reply(second)["step"]
        with client.websocket_connect("/drive") as third:
            assert "at once" in reply(third)["text"]
        first.send_text("{")
        assert reply(first)["type"] == "error"
        second.send_json(act(0, 0, 0, 0))
        assert reply(second)["step"] == 4


def test_all_requests_answer_and_drives_outlast_their_socket(client: TestClient) -> None:
    with client.websocket_connect("/drive") as connection:
        token = begun(connection)
        file = base64.b64encode(json.dumps(actions_of(3).tolist()).encode()).decode()
        connection.send_json({"type": "replay", "file": file})
        assert [reply(connection)["replayed"] for _ in range(3)] == [[1, 3], [2, 3], [3, 3]]
        connection.send_json({"type": "branch", "step": 1})
        assert reply(connection) == {"type": "branched", "drive": 1, "name": "A", "step": 1, "steps": 3}
        still = [0, 0, 0, 0]
        connection.send_json({"type": "what_if", "step": 1, "action_a": still, "action_b": [1, 0, 0, 0], "count": 2})
        assert len(reply(connection)["pictures"]) == 5
        connection.send_json({"type": "uncertainty", "step": 0, "action": still, "count": 1})
        assert len(reply(connection)["pictures"]) == 5
        connection.send_json({"type": "rewind", "step": 0})
        assert reply(connection)["step"] == 0
        for kind in pictures.EXPORTS:
            assert client.get(f"/drive/export/{token}.{kind}").status_code == 200
        assert client.get(f"/drive/export/{token}.exe").status_code == 404
        assert client.get("/drive/export/guess.mp4").status_code == 404
        connection.send_json({**START, "source": "Upload", "upload": base64.b64encode(picture()).decode()})
        assert reply(connection)["simulated"] is False and len(reply(connection)["pictures"]) == 1
    assert client.get(f"/drive/export/{token}.mp4").status_code == 200
    with client.websocket_connect(f"/drive?token={token}") as connection:
        assert reply(connection) == {"type": "hello", "token": token, "kept": 2}
        connection.send_json({**act(1, 0, 0, 0), "drive": 2})
        assert reply(connection)["step"] == 1
        with client.websocket_connect(f"/drive?token={token}") as other:  # the first one is lost without a word
            assert reply(other)["kept"] == 2
            other.send_json({"type": "rewind", "step": 1, "drive": 2})
            assert reply(other) == {"type": "rewound", "drive": 2, "step": 1}
    with client.websocket_connect("/drive?token=guess") as stranger:
        assert reply(stranger)["kept"] == 0


def test_left_drives_are_forgotten_in_time(service: Service) -> None:
    with TestClient(Starlette(routes=Sockets(service, grace=0.2).routes())) as client:
        with client.websocket_connect("/drive") as connection:
            token = begun(connection)
        assert client.get(f"/drive/export/{token}.npz").status_code == 200
        time.sleep(0.5)
        assert client.get(f"/drive/export/{token}.npz").status_code == 404
        with client.websocket_connect(f"/drive?token={token}") as connection:
            assert reply(connection)["kept"] == 0


def test_silent_and_foreign_sockets_are_closed(service: Service) -> None:
    from starlette.websockets import WebSocketDisconnect

    client = TestClient(Starlette(routes=Sockets(service, silence=0.2).routes()), base_url="http://localhost")
    with client.websocket_connect("/drive") as connection:
        assert reply(connection)["type"] == "hello"
        assert "rests" in reply(connection)["text"]
        assert connection.receive()["type"] == "websocket.close"
    with (
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect("/drive", headers={"origin": "https://elsewhere.example", "host": "localhost"}),
    ):
        pass
