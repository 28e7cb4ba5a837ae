"""The action-conditioned world model: what it learns from, and that a dream is a function of its actions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vidvla import checkpoint
from vidvla.data.clips import EpisodeStore, StoredEpisode
from vidvla.data.dreams import DreamWindows, sent
from vidvla.families.base import Context
from vidvla.families.wma import WorldModel
from vidvla.foundation.dream_stages import (
    ARM,
    HAND,
    JOINTS,
    ArmStage,
    DreamNet,
    DreamStage,
    FeedConfig,
    HandStage,
    JointStage,
    TouchStage,
    TouchWalk,
)
from vidvla.foundation.dreamer import (
    ENTRIES,
    Dreamer,
    DreamState,
    DynamicsConfig,
    rounded,
    sent_on,
    shown,
)
from vidvla.foundation.pose import (
    KINDS,
    MIDDLE,
    POSE,
    Seen,
    metres,
    unit_camera,
    unit_height,
    unit_place,
    unit_pose,
    unit_things,
)
from vidvla.foundation.reader import Reader
from vidvla.foundation.stages import unit_actions
from vidvla.nn.arm import MAPS, hand_maps, seen_at
from vidvla.nn.dynamics import ActionEntry, DynamicsNet, warp
from vidvla.nn.touch import FIRST, GOAL, MOVING, SECOND, THINGS, TURN, Met
from vidvla.pixels import to_float
from vidvla.service import Service
from vidvla.train.loop import TrainConfig, fit
from vidvla.types import Request
from vidvla.worlds.base import Frame
from vidvla.worlds.dream import Dream
from vidvla.worlds.metaworld import CAMERA, DEEP, DEEP_TASKS, REACH, THING_COUNT

NONE = np.zeros((0, 4), np.float32)
ACTIONS = np.random.default_rng(1).uniform(-1, 1, (10, 4)).astype(np.float32)


def net(entry: ActionEntry = "concat") -> DynamicsNet:
    """A net of random weights that shows what it thinks."""
    torch.manual_seed(0)
    made = DynamicsConfig(entry=entry).net(4).eval()
    torch.nn.init.normal_(made.paint.weight, std=0.3)
    for block in made.blocks:
        if block.cross is not None:  # starts at zero: as if trained a little
            torch.nn.init.normal_(block.cross.out.weight, std=0.5)
    return made


def dreamer(entry: ActionEntry = "concat") -> Dreamer:
    return Dreamer(net(entry), None, torch.device("cpu"), nowhere)


def told(pose: torch.Tensor, things: torch.Tensor, kind: int = 0) -> Callable[[Frame], Seen]:
    """Reads the same in every frame: pose (POSE,), things (THINGS,) and the kind of scene."""
    kinds = torch.eye(len(KINDS))[kind]
    return lambda frames: Seen(*(v.expand(len(frames), -1) for v in (pose, things, kinds)))


nowhere = told(torch.zeros(POSE), torch.zeros(THINGS))
"""Reads every hand in the middle of its workspace, and every joint in the middle of its range."""


def world_model() -> WorldModel:
    return WorldModel(
        net(), DynamicsConfig().touch(4), Reader.fresh(), DynamicsConfig(), unit_actions(), torch.device("cpu")
    )


@pytest.fixture(scope="module")
def windows(robot_data: Path) -> DreamWindows:
    return DreamWindows(EpisodeStore(robot_data), unit_actions().to_unit, history=2, told=3)


def test_windows_hold_the_actions_that_lead_to_each_frame(windows: DreamWindows) -> None:
    unit = unit_actions().to_unit
    batch = windows.batch(24, 2, torch.Generator().manual_seed(0))
    assert batch.frames.shape == (24, 4, 128, 128, 3) and batch.actions.shape == (24, 2, 3, 4)

    def fits(row: int, episode: StoredEpisode, now: int) -> bool:
        moments = np.clip(now + np.arange(-1, 3), 0, episode.entry.steps)
        if not np.array_equal(episode.frames[moments], batch.frames[row]):
            return False
        for step in range(2):
            for back in range(3):
                lead = now + step - back
                true = unit(episode.actions[lead]) if lead >= 0 else np.zeros(4)
                if not np.allclose(batch.actions[row, step, back], true, atol=1e-5):
                    return False
        if not np.array_equal(episode.hands[moments], batch.poses[row, :, :3]):
            return False
        if not np.array_equal(episode.joints[moments], batch.poses[row, :, 3:]):
            return False
        if not np.array_equal(episode.things[moments], batch.things[row]):
            return False
        if not np.array_equal(sent(episode.hands[0], unit(episode.actions))[moments[1:]], batch.targets[row]):
            return False
        return any(
            np.array_equal(episode.frames[t], batch.anchor[row])
            and np.array_equal(episode.joints[t], batch.anchor_pose[row, 3:])
            and np.array_equal(episode.things[t], batch.anchor_things[row])
            for t in range(now + 1)
        )

    for row in range(24):
        assert any(fits(row, e, now) for e in windows.store.episodes for now in range(e.entry.steps))


@pytest.mark.parametrize("deep", [False, True])
def test_hands_are_sent_by_their_actions_within_reach(deep: bool) -> None:
    start, actions = np.array([0.0, 0.6, 0.2], np.float32), np.array([[1, -1, 0, 1], [0, -1, 0.5, 1]] * 4, np.float32)
    downwards = np.array([[0, 0, -1, 1]] * 9, np.float32)
    places = sent(start, np.concatenate([actions, downwards]), deep)
    assert np.allclose(places[1], [0.05, 0.55, 0.2]) and np.allclose(places[2], [0.05, 0.5, 0.225])
    assert places[-1, 1] == np.float32(REACH[0][1]) and (places[:, 2] <= REACH[1][2]).all()
    assert places[-1, 2] == pytest.approx(DEEP if deep else REACH[0][2])
    target, lowest = unit_place(torch.from_numpy(start[None])), unit_height(torch.tensor([deep]))
    for action, place in zip(torch.from_numpy(np.concatenate([actions, downwards])), places[1:], strict=True):
        target = sent_on(target, action[None], lowest)
        assert np.allclose(metres(target)[0], place, atol=1e-6)


def test_the_hands_net_learns_where_the_hand_goes(tmp_path: Path, windows: DreamWindows) -> None:
    config = DynamicsConfig(told=3)
    stage = HandStage(Context(tmp_path, tmp_path, tmp_path), config, steps=4)
    stage.__dict__["windows"] = windows
    plan = TrainConfig(steps=150, batch=16, lr=3e-3, warmup=5, ema=0.9)
    model, _ = fit(stage, plan, tmp_path / "run", device="cpu", preview_every=0)
    batch = windows.moved(64, 4, torch.Generator().manual_seed(1))
    places = unit_place(batch.poses[..., :3])
    with torch.no_grad():
        after = model(places[:, :2], unit_place(batch.targets)[:, :2], batch.actions[:, 0])
    missed, still = ((place - places[:, 2]).norm(dim=1).mean() for place in (after, places[:, 1]))
    assert missed < 0.5 * still


def test_how_the_joints_follow_the_hand_is_learned(tmp_path: Path, windows: DreamWindows) -> None:
    config = DynamicsConfig(told=3)
    stage = JointStage(Context(tmp_path, tmp_path, tmp_path), config, steps=4)
    stage.__dict__["windows"] = windows
    plan = TrainConfig(steps=150, batch=16, lr=3e-3, warmup=5, ema=0.9)
    model, _ = fit(stage, plan, tmp_path / "run", device="cpu", preview_every=0)
    batch = windows.moved(64, 4, torch.Generator().manual_seed(1))
    poses = unit_pose(batch.poses)
    with torch.no_grad():
        after = model(poses[:, :2], poses[:, 2, :3], batch.actions[:, 0])
    missed, still = ((joints - poses[:, 2, 3:]).abs().mean() for joints in (after, poses[:, 1, 3:]))
    assert missed < 0.7 * still


def test_what_stops_the_hand_is_learned(tmp_path: Path, windows: DreamWindows) -> None:
    config = DynamicsConfig()
    stage = TouchStage(Context(tmp_path, tmp_path, tmp_path), config, 2)
    stage.__dict__["windows"] = DreamWindows(windows.store, windows.to_unit, config.history, config.told)
    stage.__dict__["hand"] = config.hand(4).requires_grad_(False)
    batch = stage.batch(32, torch.Generator().manual_seed(9))

    def error(model: torch.nn.Module) -> float:
        with torch.no_grad():
            return float(stage.loss(model, batch, torch.Generator().manual_seed(0))["loss"])

    plan = TrainConfig(steps=80, batch=16, lr=3e-3, warmup=5, ema=0.9)
    model, _ = fit(stage, plan, tmp_path / "run", device="cpu", preview_every=0)
    assert error(model) < 0.7 * error(stage.build())


def test_what_stops_the_hand_is_learned_as_it_is_dreamed(windows: DreamWindows) -> None:
    torch.manual_seed(0)
    config = DynamicsConfig()
    made, touch, steps = config.net(4).eval(), config.touch(4).eval(), 6
    torch.nn.init.normal_(touch.correct[2].weight, std=0.1)  # a fresh one lets the hand go where it would
    windows = DreamWindows(windows.store, windows.to_unit, config.history, config.told)
    for episode in windows.store.episodes[:3]:
        windows.store.__dict__["pick"] = lambda _, episode=episode: episode
        batch = windows.moved(1, episode.entry.steps, torch.Generator().manual_seed(0))  # from its beginning on
        with torch.no_grad():
            missed, moved = TouchWalk(touch)(batch, made.hand, torch.zeros(1, POSE + THINGS))
        poses, things = unit_pose(batch.poses), unit_things(batch.things)
        mind = Dreamer(made, touch, torch.device("cpu"), told(poses[0, 0], things[0, 0], int(batch.kind)))
        state = mind.begin(np.asarray(episode.frames[:1]), NONE)
        for step in range(steps):
            state = mind.advance(state, batch.actions[:, step, 0])
            apart = (state.poses[:, -1, :3] - poses[:, 2 + step, :3]).norm()
            assert float(apart) == pytest.approx(float(missed[0, step]), abs=1e-4)
            assert torch.allclose(state.things - things[:, 2 + step], moved[:, step], atol=1e-4)
            assert torch.equal(state.started, things[:, 0]) and torch.equal(state.things[:, GOAL], things[:, 0, GOAL])
    del windows.store.__dict__["pick"]


def test_things_are_told_without_jumps() -> None:
    rng = np.random.default_rng(0)
    turn = rng.normal(size=(50, 4))
    turn /= np.linalg.norm(turn, axis=1, keepdims=True)
    raw = np.zeros((50, THING_COUNT), np.float32)
    raw[:, :3], raw[:, 3:7], raw[:, 14:] = rng.uniform(-0.5, 0.5, (50, 3)), turn, rng.uniform(-0.5, 0.5, (50, 3))
    unit = unit_things(torch.from_numpy(raw))
    assert unit.shape == (50, THINGS) and MOVING == THINGS - 3
    assert torch.allclose(unit[:, FIRST], unit_place(torch.from_numpy(raw[:, :3]))) and not unit[:, SECOND].any()
    assert torch.allclose(unit[:, GOAL], unit_place(torch.from_numpy(raw[:, 14:])))
    columns = unit[:, TURN].view(-1, 2, 3)
    assert torch.allclose(columns @ columns.mT, torch.eye(2).expand(50, 2, 2), atol=1e-5)
    raw[:, 3:7] *= -1  # the same turn
    assert torch.allclose(unit_things(torch.from_numpy(raw)), unit, atol=1e-5)
    raw[:, 3:7] = 0  # things that never turn have no quaternion
    assert unit_things(torch.from_numpy(raw))[:, TURN].unique(dim=0).tolist() == [[1, 0, 0, 0, 1, 0]]


def test_things_are_drawn_where_they_go() -> None:
    """With the last of its sources alone, the anchor is moved as the thing moves in the picture."""
    made, frames, anchor = DynamicsConfig().net(4).eval(), torch.rand(1, 2, 3, 128, 128), torch.rand(1, 3, 128, 128)
    torch.nn.init.constant_(made.paint.bias[4 * 8 : 4 * 9], 100.0)
    made._arm = lambda *_: (torch.zeros(1, 3, 128, 128), torch.zeros(1, 1, 128, 128))  # type: ignore[method-assign]
    things, pose, none = torch.zeros(1, 3, THINGS), torch.zeros(1, POSE), torch.zeros(1, 1, 128, 128)
    things[:, 2, FIRST] = torch.tensor([0.5, -0.3, 0.2])
    given = (frames, anchor, made.behind(anchor, none), none, pose, pose, things)
    after = made(*given, torch.zeros(1, 4, 4), torch.zeros(1))
    start, end = (seen_at(things[:, i, FIRST], made.camera) for i in (0, 2))
    assert torch.allclose(after.frame, warp(anchor, (63.5 * (start - end)).view(1, 2, 1, 1).expand(1, 2, 128, 128)))


@pytest.mark.parametrize("kind", KINDS)
def test_hands_are_sent_as_deep_as_the_scene_lets_them(frame: Frame, kind: str) -> None:
    see = told(torch.zeros(POSE), torch.zeros(THINGS), KINDS.index(kind))
    mind = Dreamer(net(), None, torch.device("cpu"), see)
    state = mind.begin(frame[None], NONE)
    for _ in range(9):
        state = mind.advance(state, torch.tensor([[0.0, 0.0, -1.0, 0.0]]))
    assert metres(state.target)[0, 2] == pytest.approx(DEEP if kind in DEEP_TASKS else REACH[0][2])


def test_windows_say_where_their_episode_ends(windows: DreamWindows) -> None:
    longest = max(episode.entry.steps for episode in windows.store.episodes)
    batch = windows.moved(16, longest, torch.Generator().manual_seed(2))
    lasts = {episode.entry.steps for episode in windows.store.episodes}
    assert set(batch.within.sum(dim=1).tolist()) <= lasts and len(lasts) > 1


def test_hands_are_marked_where_they_are_seen() -> None:
    place = unit_place(torch.tensor([[0.0, 0.6, 0.15]]))
    seen = seen_at(place, torch.tensor(unit_camera()))
    x, y, depth = np.array(CAMERA) @ [0.0, 0.6, 0.15, 1.0]
    assert np.allclose(seen[0], [x / depth, y / depth], atol=1e-4)
    maps = hand_maps(seen, torch.zeros(1, 1, 64, 64))
    row, column = divmod(int(maps[0, 2].argmax()), 64)
    assert abs(column / 31.5 - 1 - float(seen[0, 0])) < 0.05 and abs(row / 31.5 - 1 - float(seen[0, 1])) < 0.05
    assert maps.shape == (1, MAPS, 64, 64)


def test_warping_moves_pictures() -> None:
    frames = torch.rand(1, 3, 16, 16)
    assert torch.allclose(warp(frames, torch.zeros(1, 2, 16, 16)), frames, atol=1e-5)
    flow = torch.tensor([2.0, -1.0]).view(1, 2, 1, 1).expand(1, 2, 16, 16)
    moved = warp(frames, flow)
    assert torch.allclose(moved[..., 1:, :-2], frames[..., :-1, 2:], atol=1e-5)


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_fresh_net_leaves_the_frame_as_it_is(entry: ActionEntry) -> None:
    frames, anchor = torch.rand(1, 2, 3, 64, 64), torch.rand(1, 3, 64, 64)
    fresh, pose = DynamicsConfig(entry=entry, size=64).net(4), torch.zeros(1, POSE)
    covered = torch.zeros(1, 1, 64, 64)
    backdrop = fresh.behind(anchor, covered)
    things = torch.zeros(1, 3, THINGS)
    after = fresh(frames, anchor, backdrop, covered, pose, pose, things, torch.rand(1, 4, 4), torch.zeros(1))
    assert (after.frame - frames[:, -1]).abs().mean() < 0.5 * (anchor - frames[:, -1]).abs().mean()


def test_the_backdrop_keeps_what_the_arm_hides() -> None:
    made, left, right = net(), torch.zeros(1, 1, 128, 128), torch.zeros(1, 1, 128, 128)
    made.room[:] = torch.rand(3, 128, 128)
    left[..., :64], right[..., 32:] = 1.0, 1.0
    frames, anchor = torch.rand(1, 2, 3, 128, 128), torch.rand(1, 3, 128, 128)
    backdrop = made.behind(anchor, right)
    assert not backdrop[:, 3, :, 32:].any() and backdrop[:, 3, :, :32].all()  # what the arm hid is not known yet
    assert torch.equal(backdrop[0, :3, :, 32:], made.room[..., 32:])  # but most of it is the empty room
    pose, things, actions = torch.zeros(1, POSE), torch.zeros(1, 3, THINGS), torch.zeros(1, 4, 4)
    after = made(frames, anchor, backdrop, left, pose, pose, things, actions, torch.zeros(1))
    assert torch.equal(after.backdrop[:, :3, :, :64], backdrop[:, :3, :, :64])
    assert torch.allclose(after.backdrop[:, :3, :, 64:], frames[:, -1, ..., 64:])
    assert after.backdrop[:, 3, :, 64:].all() and not after.backdrop[:, 3, :, 32:64].any()


def test_the_arm_is_before_the_scene() -> None:
    """A blurred scene leaves the arm as sharp as the net that draws it has it."""
    made, shape = DynamicsConfig().net(4), torch.zeros(1, 1, 128, 128)
    shape[..., 40:60, 40:60] = 1.0
    made._arm = lambda *_: (-torch.ones(1, 3, 128, 128), shape)  # type: ignore[method-assign]
    frames, anchor, pose = torch.rand(1, 2, 3, 128, 128), torch.rand(1, 3, 128, 128), torch.full((1, POSE), 0.7)
    given = (frames, anchor, made.behind(anchor, shape), shape, torch.zeros(1, POSE), pose)
    after = made(*given, torch.zeros(1, 3, THINGS), torch.zeros(1, 4, 4), torch.zeros(1))
    assert (after.frame[..., 40:60, 40:60] < -0.9).all() and (after.frame[..., :40] > -0.1).all()
    assert torch.equal(after.covered, shape) and torch.equal(after.pose, pose)


def test_how_the_arm_looks_is_learned(tmp_path: Path, windows: DreamWindows) -> None:
    config, context = DynamicsConfig(), Context(tmp_path, tmp_path, tmp_path)
    stage = ArmStage(context, config)
    stage.__dict__["windows"] = DreamWindows(windows.store, windows.to_unit, config.history, config.told)
    batch = stage.batch(16, torch.Generator().manual_seed(9))

    def error(model: torch.nn.Module) -> float:
        with torch.no_grad():
            return float(stage.loss(model, batch, torch.Generator())["loss"])

    plan = TrainConfig(steps=60, batch=8, lr=3e-3, warmup=5, ema=0.9)
    model, _ = fit(stage, plan, tmp_path / "run", device="cpu", preview_every=0)
    assert error(model) < 0.85 * error(stage.build())
    assert stage.preview(model).shape == (2 * 128, 8 * 128, 3)


@pytest.mark.parametrize("entry", ENTRIES)
def test_dreams_follow_from_their_actions_alone(frame: Frame, entry: ActionEntry) -> None:
    mind = dreamer(entry)
    start = mind.begin(frame[None], NONE)
    film, state = mind.film(start, ACTIONS)
    again, _ = mind.film(mind.begin(frame[None], NONE), ACTIONS)
    other, _ = mind.film(mind.begin(frame[None], NONE), -ACTIONS)
    assert film.shape == (10, 128, 128, 3) and film.dtype == np.uint8
    assert (film == again).all() and (film != other).any()
    assert state.frames.shape == start.frames.shape and state.actions.shape == start.actions.shape  # never grows
    assert torch.equal(state.actions[0], torch.from_numpy(ACTIONS[::-1][:4].copy()))


def test_a_dream_goes_on_from_its_state(frame: Frame) -> None:
    mind = dreamer()
    whole, _ = mind.film(mind.begin(frame[None], NONE), ACTIONS[:6])
    first, state = mind.film(mind.begin(frame[None], NONE), ACTIONS[:3])
    rest, _ = mind.film(state, ACTIONS[3:6])
    assert (np.concatenate([first, rest]) == whole).all()


def test_a_dream_goes_on_from_true_frames(frame: Frame) -> None:
    mind, after = dreamer(), np.roll(frame, 3, axis=0)
    state = mind.begin(np.stack([frame, after]), ACTIONS[:1])
    assert np.allclose(metres(state.target)[0], np.array(MIDDLE) + 0.05 * ACTIONS[0, :3], atol=1e-6)
    assert torch.equal(state.frames[0], to_float(np.stack([frame, after])))
    assert state.actions[0, 0].tolist() == ACTIONS[0].tolist() and not state.actions[0, 1:].any()
    assert torch.equal(mind.begin(frame[None], NONE).frames[0], to_float(np.stack([frame, frame])))
    long = mind.begin(np.stack([frame, frame, after]), ACTIONS)
    assert torch.equal(long.frames, state.frames) and torch.equal(long.anchor, state.anchor)


def test_several_dreams_at_once_are_those_of_each(frame: Frame) -> None:
    mind, actions = dreamer(), torch.from_numpy(ACTIONS[:3])
    together = mind.advance(mind.begin(frame[None], NONE).repeat(3), actions)
    for row in range(3):
        alone = mind.advance(mind.begin(frame[None], NONE), actions[row : row + 1])
        assert np.abs(shown(together)[row].astype(int) - shown(alone)[0]).max() <= 1
    stacked = DreamState.stack([mind.begin(frame[None], NONE), mind.begin(frame[None][:, ::-1].copy(), NONE)])
    assert (shown(stacked)[1] == frame[::-1]).all()


def test_chance_has_a_say_in_samples_alone(frame: Frame) -> None:
    model = world_model()
    state, action = model.begin(frame), np.zeros((1, 4), np.float32)
    shows = [model.look(model.sample(state, action, seed)) for seed in (1, 1, 2)]
    assert (shows[0] == shows[1]).all() and (shows[0] != shows[2]).any()
    begun = state.poses.clone(), state.things.clone()
    sampled, certain = (step(state.repeat(3), action.repeat(3, 0), 1) for step in (model.sample, model.imagine))
    apart = 100 * np.linalg.norm(model.hands(sampled) - model.hands(certain), axis=1)  # cm
    assert (apart > 0).all() and (apart < 3).all() and len(set(apart)) == 3  # dreams in one batch are led apart
    assert torch.equal(state.poses, begun[0]) and torch.equal(state.things, begun[1])
    assert (model.look(model.imagine(state, action, 1)) == model.look(model.imagine(state, action, 2))).all()


@pytest.mark.filterwarnings("ignore:Mismatch dtype")  # of norms, which bf16 leaves in fp32
def test_training_feeds_back_what_dreaming_would_show(windows: DreamWindows) -> None:
    made, mind = net(), dreamer()
    windows = DreamWindows(windows.store, windows.to_unit, made.history, made.told)
    batch = windows.batch(1, 3, torch.Generator().manual_seed(5))
    values = DreamNet(made, FeedConfig(steps=3, noise=0.0))(batch, torch.Generator().manual_seed(0))
    poses, targets, led = unit_pose(batch.poses), unit_place(batch.targets), batch.actions[:, 0].roll(-1, dims=1)
    anchor, start = to_float(batch.anchor), poses[:, :2]
    hidden, covered = made.covers(unit_pose(batch.anchor_pose)), made.covers(start[:, -1])
    started, things = unit_things(batch.anchor_things), unit_things(batch.things)
    state = DreamState(
        anchor, made.behind(anchor, hidden), covered, to_float(batch.frames[:, :2]), start, started, things[:, 1],
        torch.zeros(1, len(KINDS)), targets[:, 0], unit_height(torch.tensor([False])), led, torch.zeros(1, 0),
    )  # fmt: skip
    for step in range(3):
        goes = poses[:, 2 + step]
        mind.net.reach = lambda *_, goes=goes: goes  # in training the robot stands as it stood
        state = replace(state, things=things[:, 1 + step])  # and things lie as they lay
        mind.touch = lambda memory, *_, met=(goes[:, :3], things[:, 2 + step]): Met(*met, memory)  # type: ignore[assignment]
        before, state = state, mind.advance(state, batch.actions[:, step, 0])
    with torch.no_grad():
        assert torch.allclose(state.target, targets[:, 3], atol=1e-5)
        given = (before.frames, before.anchor, before.backdrop, before.covered, before.poses[:, -1], poses[:, -1])
        stand = torch.stack([started, things[:, 3], things[:, 4]], dim=1)
        last = made(*given, stand, batch.actions[:, 2], torch.zeros(1)).frame
    assert torch.equal(rounded(last), state.frames[:, -1])
    error = float((last - to_float(batch.frames[:, -1])).square().mean())
    assert float(values["mse_last"]) == pytest.approx(error, rel=1e-3)
    with torch.autocast("cpu", torch.bfloat16):  # what GPUs train in
        coarse = DreamNet(made, FeedConfig(steps=3, noise=0.0))(batch, torch.Generator().manual_seed(0))
    assert float(coarse["mse_last"]) == pytest.approx(error, rel=0.1)


@pytest.mark.parametrize(
    "actions",
    [np.zeros((0, 4), np.float32), np.zeros((3, 5), np.float32), np.zeros(4, np.float32),
     np.full((2, 4), np.nan, np.float32), np.zeros((5000, 4), np.float32)],
)  # fmt: skip
def test_wrong_actions_are_one_sentence(frame: Frame, actions: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected"):
        WorldModel.tiny()(Request(frame, "push", actions=actions))


def test_long_dreams_are_learned_from_in_equal_parts(windows: DreamWindows) -> None:
    made, with_gradient = net(), []
    windows = DreamWindows(windows.store, windows.to_unit, made.history, made.told)
    made.register_forward_pre_hook(lambda *_: with_gradient.append(torch.is_grad_enabled()))
    dreamed = DreamNet(made, FeedConfig(steps=3, more=6, noise=0.0))
    batch = windows.batch(2, 9, torch.Generator().manual_seed(0))
    values = dreamed(batch, torch.Generator().manual_seed(1))
    assert len(with_gradient) == 9 and [sum(with_gradient[i : i + 3]) for i in (0, 3, 6)] == [1, 1, 1]
    values["loss"].backward()
    assert made.paint.weight.grad is not None and made.paint.weight.grad.abs().max() > 0


def test_windows_with_pictures_end_before_their_episode_where_one_is_long_enough(windows: DreamWindows) -> None:
    lengths = sorted({episode.entry.steps for episode in windows.store.episodes})
    assert len(lengths) > 1
    ends = {e.frames[-1].tobytes() for e in windows.store.episodes if e.entry.steps == lengths[-1]}
    batch = windows.batch(8, lengths[-1], torch.Generator().manual_seed(3))
    assert all(row[-1].numpy().tobytes() in ends for row in batch.frames)
    assert len(windows.batch(2, lengths[-1] + 5, torch.Generator().manual_seed(3)).frames) == 2


def test_what_follows_from_actions_is_learned(tmp_path: Path, windows: DreamWindows) -> None:
    config, context = DynamicsConfig(), Context(tmp_path, tmp_path, tmp_path)
    checkpoint.save(context.weights(HAND), {"net": config.hand(4)}, {})
    checkpoint.save(context.weights(JOINTS), {"net": config.joints()}, {})
    checkpoint.save(context.weights(ARM), {"net": config.arm()}, {})
    stage = DreamStage("wma.dream", context, config, FeedConfig(steps=1, noise=0.05))
    stage.__dict__["windows"] = DreamWindows(windows.store, windows.to_unit, config.history, config.told)
    batch = stage.windows.batch(16, 1, torch.Generator().manual_seed(9))

    def error(model: torch.nn.Module) -> float:
        with torch.no_grad():
            return float(model(batch, torch.Generator().manual_seed(9))["loss"])

    plan = TrainConfig(steps=40, batch=8, lr=3e-3, warmup=5, ema=0.9)
    model, _ = fit(stage, plan, tmp_path / "run", device="cpu", preview_every=0)
    assert error(model) < 0.85 * error(stage.build())
    shown_every_fourth = stage.preview(model)  # training shows it now and then: it must not end a run
    assert shown_every_fourth.shape[1:] == (5 * 128, 3) and shown_every_fourth.shape[0] % 256 == 0


def test_a_dream_is_a_world(frame: Frame) -> None:
    class Still:
        """A world that only lays out."""

        name, tasks = "still", ("push",)
        action_spec, steps_per_second = Service.action_spec, 16.0

        def reset(self, task: str, seed: int) -> None:
            self.frame = np.roll(frame, seed, axis=0)

        def render(self) -> Frame:
            return self.frame

    model = world_model()
    dream = Dream(model, Still(), judge=lambda seen, task: float(task == "push"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="reset it first"):
        dream.render()
    runs = []
    for _ in range(2):
        dream.reset("push", 7)
        assert (dream.render() == np.roll(frame, 7, axis=0)).all()
        dream.step(np.array([5, 0, 0, 1], np.float32))
        branch = dream.snapshot()
        results = [dream.step(np.array([0, y, 0, -1], np.float32)) for y in (3, 3)]
        runs.append(dream.render())
        assert results[0].success
        dream.restore(branch)
        dream.step(np.array([0, 3, 0, -1], np.float32))
        dream.step(np.array([0, 3, 0, -1], np.float32))
        assert (dream.render() == runs[-1]).all()  # branching is exact
    assert (runs[0] == runs[1]).all()
    with pytest.raises(ValueError, match="within"):
        dream.step(np.array([50, 0, 0, 0], np.float32))
