"""Driving a dream: truth is the simulator's, lines rewind and branch exactly, and no socket disturbs another."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import re
import socket as sockets
import threading
import time
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from starlette.applications import Starlette
from starlette.testclient import TestClient
from test_app import CHROMIUM, CHROMIUM_OPTIONS

from app import pictures
from app.main import launch
from app.socket import SMALL, Mailbox, Sockets
from app.speed import drive_speed
from app.tabs import drive as drive_tab
from vidvla import drive as driving
from vidvla.actions import read_actions
from vidvla.drive import Drive
from vidvla.eval.metrics import psnr
from vidvla.families.base import fit_square
from vidvla.families.wma import WorldModel
from vidvla.foundation.reader import Reader, ReaderConfig, ReaderNet
from vidvla.registry import families
from vidvla.service import Service
from vidvla.views import SceneView

START = {"type": "start", "source": "Scene", "task": "door-open", "seed": 900_001, "model": "wma"}


def tiny_service() -> Service:
    """A world model at test size whose dreams follow its actions, policies that know nothing, and a reader for them."""
    model = WorldModel.tiny()
    torch.manual_seed(0)
    for weights in model.net.parameters():  # fresh nets end in zeros, and would dream the same of everything
        weights.data.add_(0.05 * torch.randn_like(weights))
    made = Service(loaded={"wma": model, "gr2": families()["gr2"].tiny(), "bc": families()["bc"].tiny()})
    config = ReaderConfig(tasks=("door-open",))
    made.__dict__["_reader"] = Reader(ReaderNet(config).eval(), config)
    if made.simulator_problem is not None:
        pytest.skip(made.simulator_problem)
    return made


@pytest.fixture(scope="module")
def service() -> Service:
    return tiny_service()


@pytest.fixture(scope="module")
def scene(service: Service) -> SceneView:
    return service.scene("door-open", 900_001)


@pytest.fixture
def drive(service: Service, scene: SceneView) -> Drive:
    return service.drive("wma", scene.frame, scene, seed=1)


def actions_of(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Actions (count, 4) within the limits."""
    spec = Service.action_spec
    return np.random.default_rng(seed).uniform(spec.low, spec.high, (count, 4)).astype(np.float32)


# the drive


def test_truth_is_what_the_simulator_does(service: Service, scene: SceneView, drive: Drive) -> None:
    actions = actions_of(5)
    moments = [drive.step(action) for action in actions]
    plain = service.play(scene, actions)
    assert all(np.array_equal(m.truth, frame) for m, frame in zip(moments, plain.frames, strict=True))
    last = moments[-1]
    assert last.fidelity is not None and 0 < last.fidelity.psnr < 100 and -1 <= last.fidelity.ssim <= 1
    assert last.error is not None and last.error.shape == (128, 128) and last.error.max() > 0


def test_rewinding_and_branching_reproduce_exactly(drive: Drive) -> None:
    actions = actions_of(5)
    before = [drive.step(action) for action in actions]
    kept = drive.branch(2)
    assert kept.moments[-1] is before[-1] and drive.now is before[1]
    again = [drive.step(action) for action in actions[2:]]
    for old, new in zip(before[2:], again, strict=True):
        assert np.array_equal(old.dream, new.dream) and np.array_equal(old.truth, new.truth)
    assert drive.branches == (kept,) and len(kept.moments) == 6
    drive.rewind(0)
    assert np.array_equal(drive.step(actions[0]).dream, before[0].dream)
    drive.forget("A")
    for bad in (lambda: drive.branch(1), lambda: drive.rewind(7), lambda: drive.rewind(-1), lambda: drive.forget("A")):
        with pytest.raises(ValueError, match="expected"):
            bad()


def test_drives_do_not_disturb_each_other(service: Service, scene: SceneView, drive: Drive) -> None:
    other_scene = service.scene("faucet-open", 900_002)
    other = service.drive("wma", other_scene.frame, other_scene)
    actions = actions_of(4)
    seen = []
    for action in actions:
        seen.append(drive.step(action))
        other.step(-action)
    assert all(np.array_equal(m.truth, f) for m, f in zip(seen, service.play(scene, actions).frames, strict=True))
    assert np.array_equal(other.export().truth[1:], service.play(other_scene, -actions).frames)


def test_what_is_not_kept_is_dreamed_again(drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driving, "NEWEST", 2)
    monkeypatch.setattr(driving, "EVERY", 3)
    actions = actions_of(9)
    line = [drive.step(action) for action in actions]
    assert set(drive._states) == {0, 3, 6, 8, 9}
    assert drive.rewind(5).step == 5
    again = [drive.step(action) for action in actions[5:]]
    for first, second in zip(line[5:], again, strict=True):
        assert np.array_equal(first.dream, second.dream) and np.array_equal(first.truth, second.truth)


def test_full_drives_are_one_sentence(drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driving, "LONGEST", 6)
    for action in actions_of(4):
        drive.step(action)
    drive.branch(3)
    drive.step(actions_of(1)[0])
    with pytest.raises(ValueError, match="at most 6 steps"):
        drive.replay(actions_of(2))
    drive.step(actions_of(1)[0])
    with pytest.raises(ValueError, match="at most 6 steps"):
        drive.step(actions_of(1)[0])
    assert drive.now.step == 5
    assert drive.rewind(0).step == 0


def test_questions_change_nothing(drive: Drive) -> None:
    a, b = actions_of(2)
    drive.step(a)
    line = drive.line
    found = drive.what_if(1, a, b, count=3)
    assert found.films[0].shape == (3, 128, 128, 3) and found.difference.max() > 0
    same = drive.what_if(1, a, a, count=2)
    assert same.difference.max() <= 1  # rounding: both are dreamed in one batch
    spread = drive.uncertainty(1, a, seeds=3, count=2)
    assert spread.films.shape == (3, 2, 128, 128, 3) and spread.spread.shape == (128, 128) and spread.spread.max() > 0
    assert same.films[0].shape == same.films[1].shape and drive.line == line
    with pytest.raises(ValueError, match="look ahead"):
        drive.what_if(1, a, b, count=1000)


def test_chance_is_the_same_for_both_of_what_if(frame: np.ndarray) -> None:
    dreams = Service(loaded={"vmc": families()["vmc"].tiny()})
    drive = dreams.drive("vmc", frame)
    (a,) = actions_of(1)
    drive.step(a)
    assert drive.what_if(1, a, a, count=3).difference.max() == 0
    assert drive.uncertainty(1, a, seeds=3, count=3).spread.max() > 0


def test_what_a_mind_sees_through_its_encoder_is_not_the_truth(scene: SceneView) -> None:
    dreams = Service(loaded={"vmc": families()["vmc"].tiny()})
    drive = dreams.drive("vmc", scene.frame, dreams.scene(scene.task, scene.seed))
    first = drive.now
    assert first.truth is not None and np.array_equal(first.truth, fit_square(scene.frame, 64))
    moment = drive.step(np.zeros(4))
    assert moment.fidelity is not None and moment.truth is not None
    assert moment.fidelity.psnr_copy == pytest.approx(psnr(first.truth, moment.truth))
    assert any("has not trained on" in note for note in dreams.drive("vmc", scene.frame, task="hammer").notes)


def test_pictures_without_a_simulator_say_so(service: Service) -> None:
    drive = service.drive("wma", np.zeros((200, 200, 3), np.uint8))
    moment = drive.step(np.zeros(4))
    assert moment.truth is None and moment.error is None and moment.dream.shape == (128, 128, 3)
    assert "Nobody knows" in drive.notes[0] and drive.export().truth is None
    with pytest.raises(ValueError, match="told actions"):
        service.drive("gr2", np.zeros((128, 128, 3), np.uint8))


@pytest.mark.parametrize("bad", [[0, 0, 0], [0, 0, 0, np.nan], [9, 0, 0, 0], [[0, 0, 0, 0]]])
def test_bad_actions_change_nothing(drive: Drive, bad: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        drive.step(np.asarray(bad, np.float32))
    assert drive.now.step == 0


# files


def saved(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def test_action_files_read_the_same_in_every_format() -> None:
    actions, npy = actions_of(3).round(2), io.BytesIO()
    np.save(npy, actions)
    csv = "x,y,z,gripper\n" + "\n".join(",".join(map(str, row)) for row in actions.tolist())
    rows = json.dumps(actions.tolist())
    for data in (
        saved(actions=actions),
        npy.getvalue(),
        csv.encode(),
        rows.encode(),
        f'{{"actions": {rows}}}'.encode(),
    ):
        assert np.allclose(read_actions(data, Service.action_spec), actions)


def test_bad_action_files_are_one_sentence() -> None:
    bad = [
        b"", b"PK\x03\x04", b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff{", b"\xff\xfe", b"[[1, 2]]", b"[1, 2, 3, 4]",
        b"[" * 100_000, b"1,2,3,nan", b"1,2,3,99", b"{}", b"x,y", saved(other=np.zeros(4)), b"a" * 2_000_000,
        saved(actions=np.zeros((5000, 4))), saved(actions=np.array([None] * 4, object).reshape(1, 4)),
    ]  # fmt: skip
    packed = io.BytesIO()
    np.savez_compressed(packed, actions=np.zeros((8, 4)))
    damaged = bytearray(packed.getvalue())
    begin = damaged.index(b"actions.npy") + len("actions.npy") + int.from_bytes(damaged[28:30], "little")
    damaged[begin : begin + 8] = b"\xff" * 8
    bad.append(bytes(damaged))
    for data in bad:
        with pytest.raises(ValueError, match="expected"):
            read_actions(data, Service.action_spec)


def test_exports_decode(drive: Drive) -> None:
    for action in actions_of(3):
        drive.step(action)
    files = {kind: make(drive.export(), 16.0) for kind, (_, make) in pictures.EXPORTS.items()}
    with av.open(io.BytesIO(files["mp4"])) as container:
        assert len(list(container.decode(video=0))) == 4
    image = Image.open(io.BytesIO(files["gif"]))
    assert getattr(image, "n_frames", 1) == 4 and image.size == (256, 144)
    with np.load(io.BytesIO(files["npz"])) as kept:
        assert kept["truth"].shape == kept["dream"].shape == (4, 128, 128, 3)
    assert read_actions(saved(actions=drive.export().actions), Service.action_spec).shape == (3, 4)


# the socket


@pytest.fixture
def client(service: Service) -> TestClient:
    return TestClient(Starlette(routes=Sockets(service, limit=2, silence=30).routes()))


def reply(connection: Any) -> dict[str, Any]:
    """The next message, its pictures decoded."""
    event = connection.receive()
    if event.get("text") is not None:
        return json.loads(event["text"])
    data = event["bytes"]
    size = int.from_bytes(data[:4], "big")
    header, at = json.loads(data[4 : 4 + size]), 4 + size
    for _, length in header["pictures"]:
        assert Image.open(io.BytesIO(data[at : at + length])).size == (128, 128)
        at += length
    assert at == len(data)
    return header


def begun(connection: Any, **change: Any) -> str:
    """Start a drive; returns the socket's token."""
    token: str = reply(connection)["token"]
    connection.send_json({**START, **change})
    assert reply(connection)["type"] == "started" and reply(connection)["step"] == 0
    return token


def act(*values: float) -> dict[str, Any]:
    return {"type": "act", "action": list(values)}


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


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (90, 60), "teal").save(buffer, "JPEG")
    return buffer.getvalue()


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


# in a browser


@pytest.fixture(scope="module")
def address(service: Service) -> Iterator[str]:
    with sockets.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    page, url = launch(service, "127.0.0.1", port, block=False)
    yield url
    page.close()


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_the_pages_own_speed_is_counted() -> None:
    (row,) = drive_speed(tiny_service(), "wma", seconds=3)
    assert row.metric == "drive_steps_per_second" and row.n == 3 and row.value > 0


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.skipif(importlib.util.find_spec("websockets") is None, reason="needs websockets")
@pytest.mark.timeout(1200)
def test_a_person_drives_rewinds_branches_and_exports(address: str) -> None:
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=240_000)
    outside: list[str] = []
    complaints: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(CHROMIUM_OPTIONS), timeout=240_000)
        page = browser.new_page(viewport={"width": 1366, "height": 768})
        page.set_default_timeout(240_000)
        inside = (address, address.replace("http", "ws"), "data:", "blob:")
        page.on("request", lambda r: None if r.url.startswith(inside) else outside.append(r.url))
        page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: complaints.append(str(e)))
        page.add_init_script(
            "window.sockets = []; window.WebSocket = class extends WebSocket {"
            " constructor(...values) { super(...values); window.sockets.push(this); } };"
        )
        page.goto(address)
        page.get_by_role("tab", name="Drive").click()
        step = page.locator("[data-step]")
        expect(page.locator("[data-do=hold]")).to_be_enabled()
        pixels = "(n) => document.querySelector(`[data-screen=${n}] canvas`).toDataURL()"
        before = [page.evaluate(pixels, name) for name in ("dream", "truth")]

        codes = [code for key in drive_tab.KEYS for code in key.codes]
        moves = [key.move for key in drive_tab.KEYS for _ in key.codes]
        for number, code in enumerate(codes, 1):
            page.keyboard.press(code)
            expect(step).to_have_text(f"step {number} of {number}")
        page.get_by_label("x", exact=True).fill("5")
        expect(step).to_have_text(f"step {len(codes) + 1} of {len(codes) + 1}")
        page.click("[data-do=step]")
        expect(step).to_have_text(f"step {len(codes) + 2} of {len(codes) + 2}")
        with page.expect_download() as download:
            page.click("[data-export=npz]")
        driven = np.load(download.value.path())["actions"]
        assert (np.sign(driven[: len(codes), :3]) == moves).all()
        np.testing.assert_allclose(driven[len(codes) :, 0], 5)
        page.click("[data-do=hold]")
        page.wait_for_function("document.querySelector('[data-timeline]').max >= 14")
        page.click("[data-do=hold]")
        page.wait_for_timeout(1500)
        assert all(page.evaluate(pixels, name) != old for name, old in zip(("dream", "truth"), before, strict=True))
        assert page.locator("[data-chart] svg path").count() == 4

        page.get_by_label("Moment").fill("3")
        page.click("[data-do=branch]")
        expect(step).to_have_text("step 3 of 3")
        expect(page.locator("[data-screen^=branch]:visible")).to_have_count(3)
        driven_now = page.locator("[data-driven]")
        expect(driven_now).to_have_text(re.compile("World model dreams .*, seed \\d+\\.$"))
        task = page.locator("[data-task]").input_value()
        page.select_option("[data-task]", "hammer")
        expect(driven_now).to_contain_text("after Start")
        page.select_option("[data-task]", task)
        expect(driven_now).not_to_contain_text("after Start")
        expect(page.locator(".vd-chip")).to_contain_text("Branch A")
        page.get_by_label("Moment").fill("1")
        page.click("[data-do=rewind]")
        expect(step).to_have_text("step 1 of 1")
        page.click("[data-do=what_if]")
        expect(page.locator("[data-answer] figure")).to_have_count(3)
        page.click("[data-do=uncertainty]")
        expect(page.locator("[data-answer] figure")).to_have_count(5)
        expect(page.locator("[data-answered]")).to_contain_text("every seed adds noise")
        expect(page.locator("[data-do=plan]")).to_be_disabled()
        page.click("[data-do=goal_end]")
        expect(page.locator("[data-goal] figcaption")).to_have_text("the task's end")
        page.select_option("[data-candidates]", "bc")
        page.get_by_label("Plans at most").fill("1")
        page.click("[data-do=plan]")
        expect(page.locator("[data-films] figure")).to_have_count(3)
        expect(page.locator("[data-planned]")).to_contain_text("not fulfilled after 1 plan, 4 steps")
        expect(step).to_have_text("step 5 of 5")
        page.get_by_label("Plans at most").fill("10")
        page.click("[data-do=plan]")
        page.click("[data-do=stop]")
        expect(page.locator("[data-planned]")).to_contain_text("Stopped")
        page.click("[data-do=reset]")
        expect(step).to_have_text("step 0")
        for kind in pictures.EXPORTS:
            with page.expect_download() as download:
                page.click(f"[data-export={kind}]")
            assert download.value.path().stat().st_size > 500
        page.set_input_files("[data-actions]", {"name": "a.csv", "mimeType": "text/csv", "buffer": b"1,0,0,0\n0,1,0,0"})
        expect(step).to_have_text("step 2 of 2")
        page.evaluate("sockets.at(-1).close()")
        expect(page.locator("[data-say] .vv-error")).to_contain_text("The connection was lost")
        page.keyboard.press(codes[0])
        expect(step).to_have_text("step 3 of 3")
        rows = b"\n".join([b"1,0,0,0"] * 400)
        page.set_input_files("[data-actions]", {"name": "a.csv", "mimeType": "text/csv", "buffer": rows})
        page.click("[data-do=halt]")
        expect(page.locator("[data-do=halt]")).to_be_hidden()
        page.wait_for_timeout(500)
        assert page.evaluate("document.querySelector('[data-timeline]').max") != "403"
        page.set_input_files("[data-actions]", {"name": "a.csv", "mimeType": "text/csv", "buffer": b"what"})
        expect(page.locator("[data-say] .vv-error")).to_contain_text("Expected actions")
        browser.close()
    assert outside == []
    assert complaints == []
