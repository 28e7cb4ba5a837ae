"""Driving a dream: truth is the simulator's, lines rewind and branch exactly."""

from __future__ import annotations

import io
import json
from typing import Any

import av
import numpy as np
import pytest
from drives import actions_of, tiny_service
from PIL import Image

from app import pictures
from vidvla import drive as driving
from vidvla.actions import read_actions
from vidvla.drive import Drive
from vidvla.eval.metrics import psnr
from vidvla.families.base import fit_square
from vidvla.registry import families
from vidvla.service import Service
from vidvla.views import SceneView


@pytest.fixture(scope="module")
def service() -> Service:
    return tiny_service()


@pytest.fixture(scope="module")
def scene(service: Service) -> SceneView:
    return service.scene("door-open", 900_001)


@pytest.fixture
def drive(service: Service, scene: SceneView) -> Drive:
    return service.drive("wma", scene.frame, scene, seed=1)


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
