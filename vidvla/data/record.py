"""Recording episodes to shards: one safetensors file a task and block of seeds, and a manifest beside them."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from vidvla.data.episode import Episode, Student, kind_of, physics_episode, record_episode
from vidvla.worlds.base import Frame

TRAIN_SEEDS = range(500_000)
"""Layouts that models may learn from."""
EVAL_SEEDS = range(500_000, 900_000)
"""Layouts that the repository measures on. Seeds from 900,000 up are left for everyone else's measurements."""
BLOCK = 40
"""Episodes a shard."""
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class EpisodeEntry:
    """Where one episode lies in its shard: frames ``[frame, frame + steps]``, actions ``[step, step + steps)``."""

    task: str
    kind: str
    seed: int
    frame: int
    step: int
    steps: int
    clean_from: int
    success: int
    caption: str = ""


@dataclass(frozen=True)
class ShardEntry:
    """One shard: its file name, size in bytes, and episodes in order."""

    file: str
    bytes: int
    episodes: tuple[EpisodeEntry, ...]


WORLDS = ("metaworld", "physics")
UNSEEN = "-unseen"
"""Ends the names of folders of episodes without pictures."""


def shard_name(task: str, seeds: Sequence[int], kind: str | None) -> str:
    """The file of one task and block of seeds."""
    return f"{task}-{kind or 'mix'}-{seeds[0]:06d}-{seeds[-1] + 1:06d}.safetensors"


StudentMaker = Callable[[], Student]
"""Makes a student in the process that records; must be picklable."""


@dataclass(frozen=True)
class How:
    """How episodes are recorded.

    Attributes:
        kind: one of :data:`~vidvla.data.episode.KINDS` for all, or None for the training mix.
        size: picture side, pixels; 0 leaves pictures out, which are most of a step's time.
        steps: control steps at most, where not as many as recordings of the kind have.
        make_student: of the policy that acts in episodes of :data:`~vidvla.data.episode.POLICY_KINDS`.
    """

    kind: str | None = None
    size: int = 128
    steps: int | None = None
    make_student: StudentMaker | None = None


def _episodes(world: str, task: str, seeds: Sequence[int], how: How) -> Iterator[Episode]:
    if world == "physics":
        yield from (physics_episode(task, seed, how.size) for seed in seeds)
        return
    from vidvla.worlds.metaworld import MetaWorld, Unseen  # only recording processes need the simulator

    simulator = MetaWorld(how.size) if how.size else Unseen()
    student = None if how.make_student is None else how.make_student()
    for seed in seeds:
        yield record_episode(simulator, task, how.kind or kind_of(seed), seed, student, how.steps)
    simulator.close()


def _write_shard(out: str, world: str, task: str, seeds: Sequence[int], how: How) -> ShardEntry:
    frames: list[Frame] = []
    actions: list[NDArray[np.float32]] = []
    labels: list[NDArray[np.float32]] = []
    told: dict[str, list[NDArray[Any]]] = {"hands": [], "joints": [], "things": [], "rewards": [], "fulfilled": []}
    entries: list[EpisodeEntry] = []
    frame = step = 0
    for episode in _episodes(world, task, seeds, how):
        steps = len(episode.actions)
        entries.append(
            EpisodeEntry(
                task,
                episode.kind,
                episode.seed,
                frame,
                step,
                steps,
                episode.clean_from,
                episode.success,
                episode.caption,
            )
        )
        frames.append(episode.frames)
        actions.append(episode.actions)
        labels.append(episode.expert_actions)
        for name, rows in told.items():
            rows.append(getattr(episode, name))
        frame, step = frame + steps + 1, step + steps
    path = Path(out) / shard_name(task, seeds, how.kind)
    partial = path.with_suffix(".partial")
    tensors: dict[str, NDArray[Any]] = {
        "frames": np.concatenate(frames),
        "actions": np.concatenate(actions),
        "expert_actions": np.concatenate(labels),
        **{name: np.concatenate(rows) for name, rows in told.items()},
    }
    save_file(tensors, partial)
    partial.replace(path)  # a shard is there whole or not at all
    return ShardEntry(path.name, path.stat().st_size, tuple(entries))


def read_manifest(folder: Path) -> list[ShardEntry]:
    """The shards of ``folder``; raises ValueError where one that the manifest names is missing or cut short."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"expected recorded data with a {MANIFEST} in {folder}, got none (run: vidvla record)")
    shards = []
    for row in json.loads(path.read_text())["shards"]:
        entries = tuple(EpisodeEntry(**entry) for entry in row["episodes"])
        shards.append(ShardEntry(row["file"], row["bytes"], entries))
    for shard in shards:
        file = folder / shard.file
        found = file.stat().st_size if file.is_file() else 0
        if found != shard.bytes:
            raise ValueError(f"expected {shard.bytes} bytes in {file}, got {found}: remove {folder} and record again")
    return shards


def _write_manifest(folder: Path, world: str, size: int, shards: dict[str, ShardEntry]) -> None:
    partial = folder / f"{MANIFEST}.partial"
    rows = [asdict(shards[file]) for file in sorted(shards)]
    partial.write_text(json.dumps({"world": world, "size": size, "shards": rows}))
    partial.replace(folder / MANIFEST)


def _blocks(tasks: Sequence[str], seeds: range) -> Iterator[tuple[str, list[int]]]:
    """Blocks of seeds, every task once before any task again, so that early data covers all tasks."""
    for start in range(seeds.start, seeds.stop, BLOCK):
        for task in tasks:
            yield task, list(range(start, min(start + BLOCK, seeds.stop)))


def record(
    out: Path,
    world: str,
    tasks: Sequence[str],
    seeds: range,
    how: How = How(),
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[ShardEntry]:
    """Record ``seeds`` of ``tasks`` into ``out``; shards that are there already are kept.

    Args:
        world: one of :data:`WORLDS`; the "tasks" of ``physics`` are its kinds of clips.
        workers: processes, each with its own simulator.
        progress: called with (shards done, shards in all).
    """
    if len(seeds) == 0:
        raise ValueError("expected a range with at least one seed, got an empty one")
    if not how.size and (how.make_student is not None or world == "physics"):
        raise ValueError("expected pictures of physics clips and for a student that acts, got a size of 0")
    if world not in WORLDS:
        raise ValueError(f"expected a world among {', '.join(WORLDS)}; got {world!r}")
    if seeds.stop > TRAIN_SEEDS.stop:
        raise ValueError(f"expected training seeds below {TRAIN_SEEDS.stop}, got {seeds.stop - 1}: held out")
    out.mkdir(parents=True, exist_ok=True)
    shards = {}
    if (out / MANIFEST).is_file():
        shards = {s.file: s for s in read_manifest(out)}
        recorded = json.loads((out / MANIFEST).read_text()).get("size", 128)
        if recorded != how.size:
            raise ValueError(
                f"expected frames of {recorded} pixels as {out} holds, got {how.size}: pick another folder"
            )
    jobs = [job for job in _blocks(tasks, seeds) if shard_name(*job, how.kind) not in shards]
    # fork would copy a live GL context and a lock of the simulation thread
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures = [pool.submit(_write_shard, str(out), world, *job, how) for job in jobs]
        for done, future in enumerate(as_completed(futures), 1):
            shard = future.result()
            shards[shard.file] = shard
            _write_manifest(out, world, how.size, shards)
            progress(done, len(jobs))
    return list(shards.values())
