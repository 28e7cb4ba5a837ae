"""The simulator: reproducible, branchable, and clear about bad input."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch

from vidvla.eval.rollouts import closed_loop
from vidvla.foundation.pose import metres, unit_links, unit_pose
from vidvla.nn.arm import LINKS as MARKED
from vidvla.worlds.experts import EXPERTS
from vidvla.worlds.metaworld import (
    AVDC_TASKS,
    CAMERA,
    DEEP,
    DEEP_TASKS,
    JOINT_COUNT,
    LINKS,
    REACH,
    THING_COUNT,
    MetaWorld,
    simulator_problem,
)

pytestmark = pytest.mark.skipif(simulator_problem() is not None, reason=str(simulator_problem()))


@pytest.fixture(scope="module")
def world() -> MetaWorld:
    return MetaWorld()


def test_fifty_tasks_with_the_trained_ones_first(world: MetaWorld) -> None:
    assert len(world.tasks) == 50
    assert world.tasks[:11] == AVDC_TASKS


def test_equal_seeds_give_equal_worlds(world: MetaWorld) -> None:
    pictures = []
    for seed in (7, 8, 7):
        world.reset("door-open", seed)
        world.step(world.expert())
        pictures.append(world.render())
    assert (pictures[0] == pictures[2]).all()
    assert (pictures[0] != pictures[1]).any()
    assert pictures[0].shape == (128, 128, 3) and pictures[0].dtype == np.uint8


def test_branching_is_exact(world: MetaWorld) -> None:
    world.reset("hammer", 3)
    for _ in range(6):
        world.step(world.expert())
    start = world.snapshot()
    runs = []
    for _ in range(2):
        world.restore(start)
        for _ in range(8):
            world.step(world.expert())
        runs.append((world.hand(), world.render()))
        world.reset("hammer", 4)  # something else happens in between
        world.step(world.expert())
    assert np.abs(runs[0][0] - runs[1][0]).max() < 1e-12
    assert (runs[0][1] == runs[1][1]).all()


def test_a_dropped_world_frees_its_drawing_where_it_was_made(world: MetaWorld) -> None:
    world.reset("reach", 0)
    picture = world.render()
    dropped = MetaWorld(64)
    dropped.reset("reach", 0)
    assert dropped._scene is not None
    renderer = dropped._scene.renderer
    del dropped
    gc.collect()
    assert renderer._gl_context is not None  # this thread is not the one
    assert (world.render() == picture).all()
    assert renderer._gl_context is None and renderer._mjr_context is None


@pytest.mark.parametrize("task", AVDC_TASKS)
def test_experts_fulfil_their_tasks(world: MetaWorld, task: str) -> None:
    world.reset(task, 1)
    assert any(world.step(world.expert()).success for _ in range(44))


def test_one_unit_of_action_moves_the_hand_in_centimetres(world: MetaWorld) -> None:
    world.reset("reach", 0)
    before = world.hand()
    for _ in range(3):
        world.step(np.asarray([2.0, 0, 0, 0], np.float32))
    for _ in range(3):
        world.step(np.zeros(4, np.float32))
    moved = 100 * (world.hand() - before)
    assert moved[0] == pytest.approx(6, abs=1)
    assert np.abs(moved[1:]).max() < 1.5


@pytest.mark.parametrize("task", AVDC_TASKS)
def test_the_robots_joints_come_first(world: MetaWorld, task: str) -> None:
    world.reset(task, 0)
    model = world._now().env.model
    arm = [f"right_j{i}" for i in range(7)]
    assert [model.joint(i).name for i in range(JOINT_COUNT)] == [*arm, "r_close", "l_close"]
    before = world.joints()
    for _ in range(3):
        world.step(np.asarray([0, 0, 0, 1.0], np.float32))
    moved = world.joints() - before
    assert moved[7] > 0.005 and moved[8] < -0.005  # the fingers close


@pytest.mark.parametrize("task", AVDC_TASKS)
def test_things_are_where_they_are_seen(world: MetaWorld, task: str) -> None:
    world.reset(task, 3)
    before = world.things()
    assert before.shape == (THING_COUNT,)
    across, down, depth = world.projection() @ np.append(before[:3], 1.0)
    assert depth > 0 and max(abs(across), abs(down)) < depth  # within the picture
    for _ in range(40):
        world.step(world.expert())
    after = world.things()
    assert np.linalg.norm(after[:3] - before[:3]) > 0.03 and (after[14:] == before[14:]).all()  # the goal stays


@pytest.mark.parametrize("task, seed", [("fly", 0), ("reach", -1), ("reach", 2**31)])
def test_unknown_tasks_and_seeds_are_refused(world: MetaWorld, task: str, seed: int) -> None:
    with pytest.raises(ValueError, match="expected a"):
        world.reset(task, seed)


@pytest.mark.parametrize("action", [[0, 0, 0], [0, 0, 0, np.nan], [9, 0, 0, 0]])
def test_wrong_actions_are_refused_and_nothing_moves(world: MetaWorld, action: list[float]) -> None:
    world.reset("reach", 0)
    before = world.hand()
    with pytest.raises(ValueError, match="expected"):
        world.step(np.asarray(action, np.float32))
    assert (world.hand() == before).all()


def test_closed_loop_with_the_expert_succeeds_and_others_may_use_the_world(world: MetaWorld) -> None:
    world.reset("button-press", 2)
    start = world.snapshot()
    simulator = MetaWorld()
    simulator.reset("button-press", 2)

    def policy(frame: np.ndarray, plan: int) -> np.ndarray:
        world.reset("door-open", plan)  # another caller moves the shared world while this one thinks
        actions = []
        branch = simulator.snapshot()
        for _ in range(8):
            actions.append(simulator.expert())
            simulator.step(actions[-1])
        simulator.restore(branch)
        for action in actions[:4]:
            simulator.step(action)
        return np.stack(actions)

    *_, last = closed_loop(world, policy, start, execute=4, film=True)
    assert last.success and last.steps < 40


@pytest.mark.parametrize("task", sorted(EXPERTS))
def test_own_experts_grasp_and_try_again(world: MetaWorld, task: str) -> None:
    """From the start, and after a hand that pressed down on the wrong place with a closed gripper."""
    for disturbed in (0, 6):
        world.reset(task, 40_000)
        for step in range(60):
            clean = world.expert()
            pressing = np.array([-1.0, -1.0, -4.0, 1.0], np.float32)
            if world.step(pressing if step < disturbed else clean).success:
                break
        else:
            pytest.fail(f"{task} was not fulfilled after {disturbed} disturbed steps")


def test_own_experts_keep_no_state(world: MetaWorld) -> None:
    world.reset("hammer", 40_002)
    for _ in range(5):
        world.step(world.expert())
    middle, wanted = world.snapshot(), world.expert()
    world.reset("hammer", 40_003)
    world.expert()
    world.restore(middle)
    assert (world.expert() == wanted).all()


def test_fingers_are_shown_where_nothing_hides_them(world: MetaWorld) -> None:
    world.reset("basketball", 3)
    before = world.render()
    assert 50 < world.fingers_shown() < 500
    assert (world.render() == before).all()  # counting leaves the pictures as they are
    for _ in range(20):
        world.step(np.asarray([5, -5, 5, -1], np.float32))
    assert world.fingers_shown() == 0


def test_the_camera_is_the_one_that_is_written_down(world: MetaWorld) -> None:
    for task in AVDC_TASKS:
        world.reset(task, 1)
        assert np.allclose(world.projection(), CAMERA, atol=1e-4)


def test_the_arms_links_are_where_its_joints_say(world: MetaWorld) -> None:
    rng, (low, high) = np.random.default_rng(0), (world.action_spec.low, world.action_spec.high)
    for task in AVDC_TASKS:
        world.reset(task, 1)
        for _ in range(4):
            world.step(rng.uniform(low, high).astype(np.float32))
        data = world._now().env.data
        true = np.stack([data.body(f"right_l{link}").xpos for link in range(len(LINKS))])[-MARKED:]
        pose = unit_pose(torch.from_numpy(np.append(world.hand(), world.joints())).float())
        assert np.allclose(metres(unit_links(pose[None])[0]), true, atol=1e-4)


def test_the_hand_is_sent_where_it_is_written_down(world: MetaWorld) -> None:
    for task in AVDC_TASKS:
        world.reset(task, 1)
        env = world._now().env
        low = (*REACH[0][:2], DEEP if task in DEEP_TASKS else REACH[0][2])
        assert np.allclose(env.mocap_low, low) and np.allclose(env.mocap_high, REACH[1])
