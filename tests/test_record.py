"""Recording: deterministic, resumable, and clear where a folder stops in the middle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vidvla.data.clips import EpisodeStore
from vidvla.data.episode import KINDS, MAX_STEPS, POLICY_KINDS, STUDENT_STEPS, Student, kind_of
from vidvla.data.record import MANIFEST, UNSEEN, How, read_manifest, record
from vidvla.families.base import Context
from vidvla.foundation.dream_stages import ArmStage, HandStage
from vidvla.foundation.dreamer import DynamicsConfig
from vidvla.worlds.base import Frame


def test_recording_again_keeps_finished_shards(physics_data: Path) -> None:
    before = {p.name: p.stat().st_mtime_ns for p in physics_data.glob("*.safetensors")}
    record(physics_data, "physics", ["bounce", "fall"], range(3))
    assert before == {p.name: p.stat().st_mtime_ns for p in physics_data.glob("*.safetensors")}


def test_a_store_gives_back_what_was_recorded(physics_data: Path) -> None:
    from vidvla.worlds.physics import physics_clip

    store = EpisodeStore(physics_data)
    assert len(store.episodes) == 6
    episode = next(e for e in store.episodes if e.entry.task == "fall" and e.entry.seed == 2)
    clip = physics_clip("fall", 2, frames=21)
    assert (episode.frames == clip.frames).all() and episode.entry.caption == clip.caption
    assert sorted(e.entry.frame for e in store.episodes) == [0, 0, 21, 21, 42, 42] and store.frame_count == 6 * 21


def test_robot_episodes_say_what_is_clean(robot_data: Path) -> None:
    store = EpisodeStore(robot_data)
    kinds = {e.entry.kind: e for e in store.episodes}
    assert set(kinds) == {"expert", "recover", "play"}
    expert = kinds["expert"]
    assert expert.entry.clean_from == 0 and expert.entry.success >= 0
    assert (expert.actions == expert.expert_actions).all()
    recover = kinds["recover"]
    assert (recover.actions[recover.entry.clean_from :] == recover.expert_actions[recover.entry.clean_from :]).all()
    assert (recover.actions != recover.expert_actions).any()
    assert kinds["play"].entry.clean_from == kinds["play"].entry.steps
    for episode in store.episodes:
        assert len(episode.frames) == len(episode.actions) + 1


def test_the_mix_holds_every_kind() -> None:
    kinds = [kind_of(seed) for seed in range(20)]
    assert {*kinds, *POLICY_KINDS, "drive"} == set(KINDS) and kinds.count("recover") == 12


def _idle(frame: Frame, task: str, seed: int) -> NDArray[np.float32]:
    """A student that presses down with an open gripper."""
    return np.tile(np.array([0.0, 0.0, -2.0, -1.0], np.float32), (16, 1))


def _make_idle() -> Student:
    return _idle


def test_a_student_acts_first_and_the_expert_recovers(tmp_path: Path, robot_data: Path) -> None:
    record(tmp_path, "metaworld", ["door-close"], range(3), How("student", make_student=_make_idle))
    for episode in EpisodeStore(tmp_path).episodes:
        clean = episode.entry.clean_from
        assert STUDENT_STEPS[0] <= clean < STUDENT_STEPS[1] and len(episode.actions) > clean
        assert (episode.actions[:clean] == _idle(episode.frames[0], "", 0)[0]).all()
        assert (episode.actions[clean:] == episode.expert_actions[clean:]).all()


def test_an_attempt_is_the_students_to_the_end(tmp_path: Path, robot_data: Path) -> None:
    long = How("attempt", steps=MAX_STEPS + 4, make_student=_make_idle)
    record(tmp_path, "metaworld", ["hammer"], range(1), long)
    (episode,) = EpisodeStore(tmp_path).episodes
    assert len(episode.actions) == episode.entry.clean_from == long.steps and episode.entry.success == -1
    assert (episode.actions == _idle(episode.frames[0], "", 0)[0]).all()


def test_a_student_is_given_exactly_where_one_acts(tmp_path: Path, robot_data: Path) -> None:
    for kind, student in (("student", None), ("play", _make_idle)):
        with pytest.raises(ValueError, match="expected a student exactly"):
            record(tmp_path, "metaworld", ["door-close"], range(1), How(kind, make_student=student))


def test_held_out_seeds_and_other_sizes_are_not_recorded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="training seeds below 500000, got 500000"):
        record(tmp_path, "physics", ["rope"], range(499_999, 500_001))
    record(tmp_path, "physics", ["rope"], range(1), How(size=64))
    with pytest.raises(ValueError, match=r"frames of 64 pixels .* got 128"):
        record(tmp_path, "physics", ["rope"], range(2))


def test_broken_folders_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=MANIFEST):
        read_manifest(tmp_path)
    record(tmp_path, "physics", ["rope"], range(2))
    (shard,) = tmp_path.glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(ValueError, match="record again"):
        EpisodeStore(tmp_path)
    shard.unlink()
    with pytest.raises(ValueError, match="got 0"):
        EpisodeStore(tmp_path)


def test_wrong_ranges_and_worlds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one seed"):
        record(tmp_path, "physics", ["fall"], range(0))
    with pytest.raises(ValueError, match="expected a world"):
        record(tmp_path, "moon", ["fall"], range(1))


def test_equal_seeds_record_equal_episodes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        record(tmp_path / name, "physics", ["tool"], range(5, 7))
    first, second = EpisodeStore(tmp_path / "a"), EpisodeStore(tmp_path / "b")
    for x, y in zip(first.episodes, second.episodes, strict=True):
        assert np.array_equal(x.frames, y.frames)


def test_what_happens_without_pictures_is_the_same(tmp_path: Path) -> None:
    folders = [tmp_path / "metaworld", tmp_path / f"metaworld{UNSEEN}"]
    for folder, size in zip(folders, (32, 0), strict=True):
        record(folder, "metaworld", ["handle-press"], range(2), How("drive", size, steps=6))
    seen, unseen = (EpisodeStore(folder).episodes for folder in folders)
    for one, other in zip(seen, unseen, strict=True):
        assert len(one.actions) == 6 and one.frames.shape == (7, 32, 32, 3) and not other.frames.size
        for name in ("actions", "hands", "joints", "things", "rewards", "fulfilled"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert len(EpisodeStore(*folders).episodes) == 4
    config = DynamicsConfig()
    context = Context(tmp_path, tmp_path / "runs", tmp_path / "checkpoints")
    assert HandStage(context, config).data_used() == {
        "episodes of metaworld": 2, "episodes of metaworld, without pictures": 2
    }  # fmt: skip
    assert ArmStage(context, config).data_used() == {"episodes of metaworld": 2}
    assert HandStage(context, config).batch(8, torch.Generator()).poses.shape[0] == 8
    with pytest.raises(ValueError, match="size of 0"):
        record(tmp_path, "physics", ["rope"], range(1), How(size=0))
