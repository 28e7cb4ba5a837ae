"""Planning towards a picture, and the pieces that dreams are measured with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vidvla.data.clips import EpisodeStore
from vidvla.eval.perceptual import lpips
from vidvla.families.base import Context, Phase
from vidvla.foundation.pose import MIDDLE, unit_pose, unit_things
from vidvla.foundation.reader import READER, Reader, ReaderConfig, ReaderStage, publish_reader
from vidvla.nn.touch import FIRST
from vidvla.planning import THING, Actions, PlanConfig, goal_cost, plan, shift, towards
from vidvla.service import Service
from vidvla.train.loop import TrainConfig
from vidvla.train.run import run_phase
from vidvla.worlds.base import Frame

SPEC = Service.action_spec
SIDE = 32
GOAL = np.array([3.0, -2.0, 1.0])
"""Where the toy's hand should end, cm."""


def picture(place: np.ndarray) -> Frame:
    """A toy's picture: the hand's place as a colour."""
    return np.full((SIDE, SIDE, 3), np.clip(128 + 4 * place, 0, 255).round().astype(np.uint8))


def places(frames: Frame) -> np.ndarray:
    """Reads the toy's pictures: (N, 2, 3) metres, of a hand and of a thing that the last pixel tells of."""
    return (frames[:, [0, -1], [0, -1]].astype(np.float32) - 128) / 400


def imagine(candidates: Actions) -> Frame:
    """The toy moves as it is told, without a lag."""
    places = np.cumsum(candidates[..., :3], axis=1) / 5
    return np.stack([np.stack([picture(p) for p in row]) for row in places])


def run(config: PlanConfig, **more: Actions) -> list[float]:
    generator = np.random.default_rng(0)
    return [float(c.costs[0]) for c in plan(imagine, goal_cost(picture(GOAL), places), SPEC, generator, config, **more)]


def test_plans_reach_the_goal() -> None:
    config = PlanConfig(candidates=64, elites=8, iterations=6, last=1.0)
    *_, last = plan(imagine, goal_cost(picture(GOAL), places), SPEC, np.random.default_rng(0), config)
    end = last.actions[0, :, :3].sum(axis=0) / 5
    assert np.abs(end - GOAL).max() < 1 and (np.diff(last.costs) >= 0).all()


def test_the_best_so_far_is_never_lost() -> None:
    costs = run(PlanConfig(iterations=5))
    assert costs == sorted(costs, reverse=True)


def test_a_guess_and_proposals_are_considered() -> None:
    config = PlanConfig(candidates=4, elites=2, iterations=1)
    good = np.zeros((config.horizon, 4), np.float32)
    good[:, :3] = GOAL * 5 / config.horizon
    plain, proposed = run(config), run(config, proposals=good[None])
    assert proposed[0] <= plain[0]
    assert run(config, guess=good[:: config.hold])[0] <= plain[0]
    with pytest.raises(ValueError, match="expected proposals"):
        run(config, proposals=good[None, :3])


def test_it_counts_where_the_thing_is() -> None:
    goal, left = picture(GOAL), picture(GOAL)
    left[-8:, -8:] = picture(np.zeros(3))[-8:, -8:]
    cost = goal_cost(goal, places)(np.stack([goal, left, picture(np.zeros(3))]))
    assert cost[0] == 0 < THING * np.linalg.norm(GOAL) / 10 * 0.9 < cost[1] < cost[2]


def test_the_first_guess_points_at_the_goal() -> None:
    guess = towards(picture(GOAL), picture(np.zeros(3)), places, SPEC, PlanConfig())
    assert (np.sign(guess[:, :3]) == np.sign(GOAL)).all() and np.abs(guess).max() <= 5


def test_a_plan_goes_on_after_what_was_executed() -> None:
    knots = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert shift(knots, 4, PlanConfig()).tolist() == [knots[1].tolist(), knots[2].tolist(), knots[2].tolist()]


@pytest.mark.parametrize("wrong", [{"hold": 5}, {"elites": 0}, {"elites": 99}, {"iterations": 0}])
def test_plans_that_make_no_sense_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected hold"):
        PlanConfig(**wrong)  # type: ignore[arg-type]


def test_perceptual_distance_orders_as_people_do(frame: Frame) -> None:
    sample = next(iter(Service().samples.values()))
    near, far = sample.truth.frames[0], sample.truth.frames[-1]
    assert lpips(sample.frame, sample.frame) == 0
    assert 0 < lpips(sample.frame, near) < lpips(sample.frame, far) < lpips(sample.frame, frame)
    with pytest.raises(ValueError, match="one shape"):
        lpips(sample.frame, frame[:64])


def test_hands_are_read_from_pictures(tmp_path: Path, robot_data: Path) -> None:
    context = Context(tmp_path / "data", tmp_path / "runs", tmp_path / "checkpoints")
    config = ReaderConfig(tasks=("handle-press",))
    phase = Phase(READER, lambda c: ReaderStage(robot_data, config, 0.25), TrainConfig(steps=120, batch=16, ema=0.9))
    run_phase(context, phase, "cpu")
    publish_reader(context)
    reader = Reader.load(context.checkpoints)
    store = EpisodeStore(robot_data)
    frames = np.concatenate([e.frames for e in store.episodes])
    places = np.concatenate([e.hands for e in store.episodes])
    error = np.linalg.norm(reader.hands(frames) - places, axis=1).mean()
    assert error < 0.5 * np.linalg.norm(places - np.array(MIDDLE), axis=1).mean()
    poses = torch.from_numpy(np.concatenate([places, np.concatenate([e.joints for e in store.episodes])], axis=1))
    joints = unit_pose(poses)[:, 3:]
    seen = reader.see(frames)
    missed = (seen.poses[:, 3:] - joints).abs().mean()
    assert missed < 0.8 * (joints.mean(dim=0) - joints).abs().mean()
    things = unit_things(torch.from_numpy(np.concatenate([e.things for e in store.episodes])))[:, FIRST]
    where = (seen.things[:, FIRST] - things).norm(dim=1).mean()
    assert where < 0.5 * things.norm(dim=1).mean() and (seen.kinds == 1).all()  # of one task
    likely = reader.fulfilled(frames[:3], "handle-press")
    assert likely.shape == (3,) and 0 <= likely.min() <= likely.max() <= 1
    with pytest.raises(ValueError, match="expected a task among handle-press"):
        reader.judge(frames[0], "door-open")


def test_frames_after_a_fulfilling_step_count(robot_data: Path) -> None:
    stage = ReaderStage(robot_data, ReaderConfig(tasks=("handle-press",)), 1.0)
    batch = stage.batch(40, torch.Generator().manual_seed(0))
    for row in range(40):
        found = [
            (e, t) for e in stage.store.episodes for t in range(len(e.frames))
            if np.array_equal(e.frames[t], batch.frames[row]) and np.allclose(e.hands[t], batch.poses[row, :3])
        ]  # fmt: skip
        assert any(float(t > 0 and e.fulfilled[t - 1]) == float(batch.fulfilled[row]) for e, t in found)
    assert batch.fulfilled.mean() > 0.3
