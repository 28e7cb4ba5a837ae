"""Meta-World (Yu et al. 2019, arXiv 1910.10897; package version 3) as a :class:`~vidvla.worlds.base.World`.

The picture is AVDC's (Ko et al. 2023, arXiv 2310.08576): camera ``corner``, its centre crop, upright.
One control step holds an action for five physics steps (16 Hz control over 80 Hz physics).
"""

from __future__ import annotations

import atexit
import copy
import functools
import math
import os
import re
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from vidvla.worlds.base import ActionSpec, Frame, StepResult
from vidvla.worlds.experts import EXPERTS

PHYSICS_STEPS = 5
"""Physics steps of 1/80 s that one control step holds its action for."""
CM_PER_STEP = 5.0
"""Largest move of the hand's target in one control step, cm an axis: 1 cm a physics step."""
EPISODE_PHYSICS_STEPS = 500
"""Meta-World's episode length; a success after it does not count."""
AVDC_TASKS = (
    "door-open",
    "door-close",
    "basketball",
    "shelf-place",
    "button-press",
    "button-press-topdown",
    "faucet-close",
    "faucet-open",
    "handle-press",
    "hammer",
    "assembly",
)
"""The 11 tasks of AVDC's table 1, in its order."""
AVDC_CROP = 128 / 240
"""AVDC crops the middle 128 rows of a 240-row picture; narrowing the view by it gives the same framing."""

CAMERA = (
    (-0.70711, 0.70711, 0.0, -0.49497),
    (-0.19245, -0.19245, -0.96225, 0.28868),
    (0.15031, 0.15031, -0.06013, 0.26154),
)
"""Where a place (x, y, z), metres, is seen: ``CAMERA @ (x, y, z, 1) = (u d, v d, d)``, u to the right and v downwards
from -1 to 1 over the picture. The same in every task; a test compares it with the simulator's own camera."""

FINGERS = ("rightclaw", "rightpad", "leftclaw", "leftpad")
"""Bodies of the simulator's robot."""
REACH = ((-0.5, 0.4, 0.05), (0.5, 1.0, 0.5))
"""Lowest and highest place that the hand is ever sent to, metres."""
DEEP, DEEP_TASKS = -0.15, ("faucet-close", "faucet-open")
"""Lowest height, metres, in a few of the tasks: there it is sent into the table, and comes back later."""

JOINT_COUNT = 9
"""The seven of the arm, radians, then those of the fingers, metres: closing, the first rises and the second falls."""

LINKS = (
    ((0.0, 0.0, 0.08), (1.0, 0.0, 0.0, 0.0)),
    ((0.081, 0.05, 0.237), (0.5, -0.5, 0.5, 0.5)),
    ((0.0, -0.14, 0.1425), (0.7071068, 0.7071068, 0.0, 0.0)),
    ((0.0, -0.042, 0.26), (0.7071068, -0.7071068, 0.0, 0.0)),
    ((0.0, -0.125, -0.1265), (0.7071068, 0.7071068, 0.0, 0.0)),
    ((0.0, 0.031, 0.275), (0.7071068, -0.7071068, 0.0, 0.0)),
    ((0.0, -0.11, 0.1053), (0.0616248, 0.06163, -0.7044161, 0.7044161)),
)
"""Where each of the arm's seven links begins in the one before, metres, and how it is turned there, a quaternion (w, x,
y, z), while its joint, about its own third axis, is at zero. A test compares them with the simulator's."""

THING_COUNT = 17
"""Of two things that a scene holds, place (3), metres, and quaternion (4); then the place (3) of its goal, the hoop,
peg or shelf. All as the package observes them: zeros where there is no second thing, or none that turns."""

P = ParamSpec("P")
T = TypeVar("T")


class SimulatorMissing(RuntimeError):
    """The machine has no simulator or no software GL; the message says what to install."""


@functools.cache
def _sim_thread() -> ThreadPoolExecutor:
    """The one thread that may touch the simulator: software GL contexts belong to the thread that made them."""
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="vidvla-sim")
    atexit.register(executor.shutdown, wait=False, cancel_futures=True)
    return executor


_ABANDONED: deque[dict[str, _Scene]] = deque()
"""Scenes of worlds that were dropped without ``close``, until the simulation thread next has something to do.

The garbage collector runs on any thread, and a GL context that another thread frees takes the process with it. A deque
is all that a finaliser may touch: it can run in the middle of anything, whatever locks are held.
"""


def _free_abandoned() -> None:
    while _ABANDONED:
        scenes = _ABANDONED.popleft()
        while scenes:
            scenes.popitem()[1].free()


def _on_sim_thread(method: Callable[P, T]) -> Callable[P, T]:
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        _free_abandoned()
        return method(*args, **kwargs)

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return _sim_thread().submit(run, *args, **kwargs).result()

    return call


@functools.cache
def _load_metaworld() -> tuple[Any, Any, Any]:
    """Import the simulator with software GL chosen first: (mujoco, environments, expert policies)."""
    # LP_NUM_THREADS=0 keeps llvmpipe on the calling thread: its own pool hangs after a fork and gains nothing here.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    os.environ.setdefault("MUJOCO_GL", "osmesa")
    try:
        import mujoco
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS
        from metaworld.policies import ENV_POLICY_MAP
    except (ImportError, AttributeError, OSError) as error:
        raise SimulatorMissing(
            "expected the simulator (pip install 'vidvla[sim]') and software GL "
            f"(apt-get install libosmesa6), got: {error}"
        ) from error
    return mujoco, ALL_V3_ENVIRONMENTS, ENV_POLICY_MAP


@functools.cache
def simulator_problem() -> str | None:
    """None where Meta-World can run and draw, otherwise one sentence that says what to install."""
    try:
        world = MetaWorld()
        world.reset("reach", seed=0)
        world.render()
        world.close()
    except SimulatorMissing as error:
        return str(error)
    return None


def decimate(model: Any, cells: int = 26, above: int = 1500) -> None:
    """Draw each mesh of more than ``above`` faces with fewer, by clustering its vertices on a grid.

    Only the drawn faces of an ``mjModel`` change, before a renderer uploads them; vertices, hulls and physics
    stay bit for bit. ``cells`` is the number of grid cells along a mesh's longest side.
    """
    for mesh in range(model.nmesh):
        count = int(model.mesh_facenum[mesh])
        if count <= above:
            continue
        first_face, first_vert = int(model.mesh_faceadr[mesh]), int(model.mesh_vertadr[mesh])
        faces = model.mesh_face[first_face : first_face + count].copy()  # (F, 3) vertex indices within the mesh
        vertices = model.mesh_vert[first_vert : first_vert + int(model.mesh_vertnum[mesh])]
        size = float(np.ptp(vertices, axis=0).max()) / cells
        cell = np.floor((vertices - vertices.min(axis=0)) / size).astype(np.int64)
        _, representative, label = np.unique(cell, axis=0, return_index=True, return_inverse=True)
        merged = representative[label.reshape(-1)][faces]
        kept = (merged[:, 0] != merged[:, 1]) & (merged[:, 1] != merged[:, 2]) & (merged[:, 0] != merged[:, 2])
        _, first = np.unique(np.sort(merged[kept], axis=1), axis=0, return_index=True)
        kept_faces = np.flatnonzero(kept)[np.sort(first)]
        rows = slice(first_face, first_face + len(kept_faces))
        model.mesh_facenormal[rows] = model.mesh_facenormal[first_face + kept_faces]
        model.mesh_facetexcoord[rows] = model.mesh_facetexcoord[first_face + kept_faces]
        model.mesh_face[rows] = merged[kept_faces]
        model.mesh_facenum[mesh] = len(kept_faces)


@dataclass(frozen=True)
class Snapshot:
    """Everything that a Meta-World scene's future depends on."""

    task: str
    physics: NDArray[np.float64]
    body_pos: NDArray[np.float64]
    body_quat: NDArray[np.float64]
    site_pos: NDArray[np.float64]
    attributes: dict[str, Any] = field(repr=False)


class _Scene:
    """One task's environment, expert and renderer. Lives on the simulation thread."""

    def __init__(self, task: str, size: int) -> None:
        mujoco, environments, policies = _load_metaworld()
        self.mujoco = mujoco
        self.env = environments[f"{task}-v3"]()
        self.env._partially_observable = False
        # The bounds that observations are clipped to were cached while goals were still hidden.
        self.env.__dict__.pop("sawyer_observation_space", None)
        self.env._set_task_called = True
        self.policy = policies[f"{task}-v3"]()
        self.observation: NDArray[np.float64] = np.zeros(39)
        model = self.env.model
        decimate(model)
        camera = model.camera("corner").id
        narrow = math.tan(math.radians(model.cam_fovy[camera]) / 2) * AVDC_CROP
        model.cam_fovy[camera] = math.degrees(2 * math.atan(narrow))
        try:
            self.renderer = mujoco.Renderer(model, size, size)
        except Exception as error:  # the GL back ends raise their own, unrelated exception types
            raise SimulatorMissing(
                f"expected software GL (apt-get install libosmesa6; MUJOCO_GL=osmesa), got: {error}"
            ) from error
        # The 4096-pixel shadow map costs four times the rest of the picture.
        self.renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        self.renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0

    def free(self) -> None:
        """Give its GL objects back while their context is current: the renderer's own ``close`` frees that first, and
        would then delete objects of equal numbers in whichever context is current instead."""
        context, objects = self.renderer._gl_context, self.renderer._mjr_context
        if context is not None and objects is not None:
            context.make_current()
            objects.free()
            self.renderer._mjr_context = None
        self.renderer.close()

    def plain_attributes(self) -> dict[str, Any]:
        plain = (bool, int, float, str, type(None), np.ndarray, np.generic, list, tuple, dict)
        skipped = {"_ezpickle_args", "_ezpickle_kwargs"}
        return {
            name: copy.deepcopy(value)
            for name, value in vars(self.env).items()
            if isinstance(value, plain) and name not in skipped
        }


class MetaWorld:
    """The 50 Meta-World tasks by their plain names (``door-open`` ...). Safe to call from any thread.

    Args:
        size: side of the square picture, pixels.
    """

    name = "metaworld"
    steps_per_second = 80 / PHYSICS_STEPS
    action_spec = ActionSpec(
        names=("x", "y", "z", "gripper"),
        units=("cm/step", "cm/step", "cm/step", "open -1 ... +1 closed"),
        low=(-CM_PER_STEP, -CM_PER_STEP, -CM_PER_STEP, -1.0),
        high=(CM_PER_STEP, CM_PER_STEP, CM_PER_STEP, 1.0),
    )

    def __init__(self, size: int = 128) -> None:
        if not 16 <= size <= 1024:
            raise ValueError(f"expected a picture side from 16 to 1024 pixels, got {size}")
        self.size = size
        self._scenes: dict[str, _Scene] = {}
        self._scene: _Scene | None = None
        self._task = ""
        weakref.finalize(self, _ABANDONED.append, self._scenes).atexit = False

    @functools.cached_property
    def tasks(self) -> tuple[str, ...]:
        """All task names, AVDC's eleven first."""
        _, environments, _ = _load_metaworld()
        every = sorted(re.sub(r"-v3$", "", name) for name in environments)
        return AVDC_TASKS + tuple(name for name in every if name not in AVDC_TASKS)

    @property
    def task(self) -> str:
        """The task that the last ``reset`` or ``restore`` laid out."""
        return self._task

    @_on_sim_thread
    def reset(self, task: str, seed: int) -> None:
        if task not in self.tasks:
            raise ValueError(f"expected a task among {', '.join(self.tasks)}; got {task!r}")
        if not isinstance(seed, int) or not 0 <= seed < 2**31:
            raise ValueError(f"expected a seed from 0 to {2**31 - 1}, got {seed!r}")
        scene = self._enter(task)
        env = scene.env
        # The package's reset(seed=...) ignores its seed; this is the way that it samples a layout reproducibly.
        env._freeze_rand_vec = False
        env.seeded_rand_vec = True
        env.seed(seed)
        observation, _ = env.reset()
        env._freeze_rand_vec = True
        scene.observation = observation

    def _enter(self, task: str) -> _Scene:
        if task not in self._scenes:
            self._scenes[task] = _Scene(task, self.size)
        self._scene = self._scenes[task]
        self._task = task
        return self._scene

    def _now(self) -> _Scene:
        if self._scene is None:
            raise ValueError("expected reset() before anything else")
        return self._scene

    @_on_sim_thread
    def step(self, action: NDArray[np.float32]) -> StepResult:
        value = self.action_spec.check(action)
        scene = self._now()
        command = np.append(value[:3] / CM_PER_STEP, value[3])
        scene.env.curr_path_length = 0  # the runner counts steps; the package would refuse the 501st
        reward, success = 0.0, False
        for _ in range(PHYSICS_STEPS):
            observation, step_reward, _, _, info = scene.env.step(command)
            scene.observation = observation
            reward, success = float(step_reward), success or bool(info["success"])
        return StepResult(reward, success)

    @_on_sim_thread
    def render(self) -> Frame:
        scene = self._now()
        scene.renderer.update_scene(scene.env.data, camera="corner")
        picture: Frame = scene.renderer.render()
        return np.ascontiguousarray(picture[::-1])  # the package's corner cameras are upside down

    @_on_sim_thread
    def expert(self) -> NDArray[np.float32]:
        scene, own = self._now(), EXPERTS.get(self._task)
        # Some scripted policies edit the observation that they are given.
        act = scene.policy.get_action if own is None else own
        command = np.clip(np.asarray(act(scene.observation.copy()), np.float32), -1, 1)
        return np.append(command[:3] * CM_PER_STEP, command[3]).astype(np.float32)

    @_on_sim_thread
    def hand(self) -> NDArray[np.float64]:
        """Where the hand is, (3,), metres."""
        return np.array(self._now().env.get_endeff_pos())

    @_on_sim_thread
    def joints(self) -> NDArray[np.float64]:
        """The robot's joints, (JOINT_COUNT,): an arm of seven can hold its hand in a place in more than one way."""
        return np.array(self._now().env.data.qpos[:JOINT_COUNT])

    @_on_sim_thread
    def things(self) -> NDArray[np.float64]:
        """Where the scene's things and its goal are, (THING_COUNT,)."""
        seen = self._now().observation
        return np.concatenate([seen[4:18], seen[36:39]])

    @_on_sim_thread
    def projection(self) -> NDArray[np.float64]:
        """The scene's own camera, (3, 4), in the form of :data:`CAMERA`."""
        env = self._now().env
        camera = env.model.camera("corner").id
        right, up, back = env.data.cam_xmat[camera].reshape(3, 3).T
        half, eye = math.tan(math.radians(env.model.cam_fovy[camera]) / 2), env.data.cam_xpos[camera]
        rows = (right, up, -half * back)  # up is down, as the picture is turned over
        return np.stack([np.append(row, -row @ eye) for row in rows])

    @_on_sim_thread
    def fingers_shown(self) -> int:
        """How many of the picture's pixels show the robot's fingers: none where they are outside, or behind the arm."""
        scene = self._now()
        model, renderer = scene.env.model, scene.renderer
        renderer.enable_segmentation_rendering()
        try:
            renderer.update_scene(scene.env.data, camera="corner")
            number, kind = np.moveaxis(renderer.render(), -1, 0)
        finally:
            renderer.disable_segmentation_rendering()
        bodies = model.geom_bodyid[number[kind == int(scene.mujoco.mjtObj.mjOBJ_GEOM)]]
        return int(np.isin(bodies, [model.body(name).id for name in FINGERS]).sum())

    @_on_sim_thread
    def snapshot(self) -> Snapshot:
        scene = self._now()
        model, data = scene.env.model, scene.env.data
        spec = scene.mujoco.mjtState.mjSTATE_INTEGRATION
        physics = np.empty(scene.mujoco.mj_stateSize(model, spec))
        scene.mujoco.mj_getState(model, data, physics, spec)
        attributes = scene.plain_attributes() | {"__observation__": scene.observation.copy()}
        return Snapshot(
            self._task,
            physics,
            model.body_pos.copy(),
            model.body_quat.copy(),
            model.site_pos.copy(),
            attributes,
        )

    @_on_sim_thread
    def restore(self, snapshot: Snapshot) -> None:
        scene = self._enter(snapshot.task)
        model, data = scene.env.model, scene.env.data
        model.body_pos[:], model.body_quat[:] = snapshot.body_pos, snapshot.body_quat
        model.site_pos[:] = snapshot.site_pos
        attributes = copy.deepcopy(snapshot.attributes)
        scene.observation = attributes.pop("__observation__")
        vars(scene.env).update(attributes)
        spec = scene.mujoco.mjtState.mjSTATE_INTEGRATION
        scene.mujoco.mj_setState(model, data, snapshot.physics, spec)
        scene.mujoco.mj_forward(model, data)

    @_on_sim_thread
    def close(self) -> None:
        for scene in self._scenes.values():
            scene.free()
        self._scenes.clear()
        self._scene = None


class Unseen(MetaWorld):
    """The same without pictures, which are most of a recorded step's time."""

    def render(self) -> Frame:
        return np.zeros((0, 0, 3), np.uint8)
