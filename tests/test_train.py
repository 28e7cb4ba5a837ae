"""The training loop: exact resume, Muon, and phases end to end on tiny data."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vidvla import checkpoint
from vidvla.data.clips import EpisodeStore
from vidvla.data.demos import Demos
from vidvla.data.films import FilmData, WindowSpec
from vidvla.data.record import record
from vidvla.families.base import Context, Phase
from vidvla.families.bc import BcConfig, BcNet, BcStage, BehaviourCloning
from vidvla.foundation.backbone import BackboneConfig
from vidvla.foundation.codec import CodecConfig, CodecStage
from vidvla.foundation.stages import FilmStage, load_net, unit_actions
from vidvla.nn.codec import FrameCodec
from vidvla.nn.video_dit import VideoActionDiT
from vidvla.pixels import to_float
from vidvla.registry import families
from vidvla.text import ALIKE, phrase_book, text_encoder, unrelated_tasks
from vidvla.train.loop import STATE, TrainConfig, fit, step_generator
from vidvla.train.muon import Muon, muon_groups, orthogonalize
from vidvla.train.run import is_done, restore, run_phase, train

CONFIG = TrainConfig(steps=6, batch=2, lr=1e-3, warmup=2)
CODEC = CodecConfig(latent_channels=8, width=8)


def _losses(folder: Path) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows]


def _fit(folder: Path, data: Path, stop_after: int | None = None) -> torch.nn.Module:
    stage = CodecStage(CODEC, [data], [1.0])
    model, _ = fit(stage, CONFIG, folder, device="cpu", log_every=1, preview_every=0, stop_after=stop_after)
    return model


def test_resuming_is_exact(tmp_path: Path, physics_data: Path) -> None:
    whole = _fit(tmp_path / "whole", physics_data)
    _fit(tmp_path / "parts", physics_data, stop_after=2)
    _fit(tmp_path / "parts", physics_data, stop_after=5)
    parts = _fit(tmp_path / "parts", physics_data)
    assert _losses(tmp_path / "whole") == _losses(tmp_path / "parts")
    for (name, a), (_, b) in zip(whole.state_dict().items(), parts.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


SCRIPT = """
import sys, torch
from pathlib import Path
torch.set_num_threads(1)
from vidvla.foundation.codec import CodecConfig, CodecStage
from vidvla.train.loop import TrainConfig, fit
stage = CodecStage(CodecConfig(latent_channels=8, width=8), [Path(sys.argv[1])], [1.0])
fit(stage, TrainConfig(steps=40, batch=2, lr=1e-3, warmup=2), Path(sys.argv[2]), device="cpu",
    log_every=1, preview_every=0, save_seconds=0.0)
"""


def test_a_killed_run_continues_as_if_unbroken(tmp_path: Path, physics_data: Path) -> None:
    def run(folder: Path, kill_at: int | None) -> None:
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(physics_data), str(folder)])
        while process.poll() is None:
            log = folder / "log.jsonl"
            if kill_at is not None and log.is_file() and log.read_text().count("\n") >= kill_at:
                os.kill(process.pid, signal.SIGKILL)
            time.sleep(0.01)
        assert process.returncode == (0 if kill_at is None else -signal.SIGKILL)

    run(tmp_path / "whole", None)
    run(tmp_path / "killed", 8)
    run(tmp_path / "killed", None)
    # steps between the last saved state and the kill are logged twice, with equal losses both times
    whole, killed = dict(_losses(tmp_path / "whole")), _losses(tmp_path / "killed")
    assert {step for step, _ in killed} == set(whole)
    assert all(whole[step] == loss for step, loss in killed)


def test_several_processes_train_as_one(tmp_path: Path, physics_data: Path) -> None:
    script, folder = tmp_path / "script.py", tmp_path / "run"
    script.write_text(SCRIPT.replace("steps=40", "steps=3").replace('device="cpu"', 'device="auto"'))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    subprocess.run([*launch, str(physics_data), str(folder)], check=True, capture_output=True, timeout=240)
    assert [step for step, _ in _losses(folder)] == [0, 1, 2]  # one writer, each process with half of every batch


PHASES = """
import sys
from pathlib import Path
from accelerate import PartialState
from vidvla.families.base import Context, Phase
from vidvla.foundation.codec import CodecConfig, CodecStage
from vidvla.train.loop import TrainConfig
from vidvla.train.run import is_done, run_phase
data, runs = Path(sys.argv[1]), Path(sys.argv[2])
context = Context(data.parent, runs, runs / "checkpoints")
stage = CodecStage(CodecConfig(latent_channels=8, width=8), [data], [1.0])
for steps in (2, 3):
    phase = Phase("backbone.codec", lambda c: stage, TrainConfig(steps=steps, batch=2, warmup=0))
    run_phase(context, phase, "cpu")
    assert is_done(context, phase)
PartialState().destroy_process_group()
"""


def test_several_processes_run_one_phase_after_another(tmp_path: Path, physics_data: Path) -> None:
    script, runs = tmp_path / "script.py", tmp_path / "runs"
    script.write_text(PHASES)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    done = subprocess.run([*launch, str(physics_data), str(runs)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((runs / "backbone.codec" / "final" / "config.json").read_text())["train"]["steps"] == 3


def test_every_step_draws_from_its_own_generator() -> None:
    draws = {
        float(torch.rand((), generator=step_generator(seed, step, process)))
        for seed in (0, 1) for step in (0, 1) for process in (0, 1)
    }  # fmt: skip
    assert len(draws) == 8


def test_orthogonalize_brings_singular_values_near_one() -> None:
    for shape in ((16, 40), (40, 16)):
        values = torch.linalg.svdvals(orthogonalize(torch.randn(shape, generator=torch.Generator().manual_seed(0))))
        assert values.min() > 0.5 and values.max() < 1.3


def test_muon_fits_a_linear_map() -> None:
    torch.manual_seed(0)
    net = torch.nn.ModuleDict({"mlp": torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8))})
    groups = muon_groups(net)
    assert {g["muon"] for g in groups} == {True, False}
    optimizer, x = Muon(groups, lr=0.02), torch.randn(64, 8)
    target = x @ torch.randn(8, 8)
    losses = []
    for _ in range(300):
        loss = (net["mlp"](x) - target).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.02 * losses[0]


@pytest.fixture
def robot_stage(tmp_path: Path, robot_data: Path) -> FilmStage:
    context = Context(robot_data.parent, tmp_path / "runs", tmp_path / "checkpoints")
    sizes = BackboneConfig(latent_channels=8)
    codec = CodecStage(CODEC, [robot_data], [1.0]).build().eval()
    data = FilmData(robot_data, codec, "test", unit_actions().to_unit)
    spec = WindowSpec(sizes.frames, sizes.stride, infill=0.3)
    return FilmStage("test.joint", context, lambda: data, spec, lambda own: sizes.net(4), action_weight=1.0)


def test_film_and_actions_are_learned_together(tmp_path: Path, robot_stage: FilmStage) -> None:
    batch = robot_stage.batch(64, torch.Generator().manual_seed(7))

    def losses(steps: int) -> dict[str, float]:
        """On one batch with the same noise: from one to the next they differ more than they fall in a few steps."""
        config = TrainConfig(steps=steps, batch=4, lr=3e-3, warmup=5, ema=0.9)
        net, _ = fit(robot_stage, config, tmp_path / str(steps), device="cpu", preview_every=0)
        with torch.no_grad():
            values = robot_stage.loss(net, batch, torch.Generator().manual_seed(8))
        return {name: float(value) for name, value in values.items()}

    fresh, trained = losses(1), losses(200)
    assert trained["film"] < 0.9 * fresh["film"] and trained["action"] < 0.9 * fresh["action"]


def test_windows_hold_what_they_promise(robot_stage: FilmStage) -> None:
    generator = torch.Generator().manual_seed(0)
    batch = robot_stage.data.batch(64, WindowSpec(4, 4, infill=0.5, drop_text=0.5), generator)
    assert batch.future.shape == (64, 4, 8, 8, 8) and batch.actions.shape == (64, 4, 4, 4)
    filled = batch.known.any(dim=1)
    assert 10 < filled.sum() < 54
    assert (batch.times[filled] == torch.tensor([1, 2, 3, 4])).all()
    assert (batch.times[~filled] == torch.tensor([4, 8, 12, 16])).all()
    assert (batch.known[filled] == torch.tensor([False, False, False, True])).all()
    assert not batch.action_mask[filled].any() and batch.action_mask[~filled][:, 0, 0].all()
    assert 10 < (~batch.text.mask.any(dim=1)).sum() < 54
    assert batch.actions.abs().max() <= 1


def test_windows_that_are_told_what_is_not_there_stand_still(robot_stage: FilmStage) -> None:
    robot_stage.data.tasks = ["door-open", "handle-press"]  # as if doors had been recorded as well
    plain = WindowSpec(4, 4, drop_text=0.0)
    moving = robot_stage.data.batch(64, plain, torch.Generator().manual_seed(0))
    batch = robot_stage.data.batch(64, replace(plain, mismatched=0.5, drop_words=0.6), torch.Generator().manual_seed(0))
    moves = (batch.actions[..., :3] != 0).flatten(1).any(dim=1)
    assert 15 < (~moves).sum() < 49 and (moving.actions[..., :3] != 0).flatten(1).any(dim=1).all()
    still = batch.future[~moves]
    assert torch.equal(still, batch.first[~moves][:, None].expand_as(still))
    grips = batch.actions[~moves][..., 3]
    assert torch.equal(grips, grips[:, :1, :1].expand_as(grips))
    assert batch.action_mask[~moves][:, 0, 0].all()
    words = batch.text.tokens.abs().sum(dim=-1) > 0
    assert 0.6 < batch.text.mask.sum() / words.sum() < 0.8  # of words, 30 % are left out on average


def test_demonstrations_that_are_told_what_is_not_there_stand_still(robot_data: Path) -> None:
    demos = Demos(EpisodeStore(robot_data), unit_actions().to_unit, 4, 4, 64, drop_words=0.6, mismatched=0.5)
    demos.tasks = ["door-open", "handle-press"]  # as if doors had been recorded as well
    batch = demos.batch(64, torch.Generator().manual_seed(0))
    moves = (batch.actions[..., :3] != 0).flatten(1).any(dim=1)
    assert 15 < (~moves).sum() < 49
    still = batch.future[~moves]
    assert torch.equal(still, batch.frame[~moves][:, None].expand_as(still))
    words = batch.text.tokens.abs().sum(dim=-1) > 0
    assert 0.6 < batch.text.mask.sum() / words.sum() < 0.8
    of_doors = text_encoder()(phrase_book()["door-open"].train).tokens[:, 0]  # the first token tells phrasings apart
    told_doors = (batch.text.tokens[:, :1] == of_doors).all(dim=-1).any(dim=1)
    assert torch.equal(told_doors, ~moves)


def test_tasks_are_unrelated_where_one_is_told_in_vain_in_the_other() -> None:
    assert set().union(*ALIKE) <= phrase_book().keys()
    assert unrelated_tasks("faucet-open", ["door-open", "faucet-close", "faucet-open"]) == ["door-open"]
    assert unrelated_tasks("door-open", ["door-open", "door-close"]) == ["door-close"]


def test_films_for_inverse_dynamics_hold_what_was_executed(robot_stage: FilmStage) -> None:
    batch = robot_stage.data.motion_batch(32, 16, torch.Generator().manual_seed(0))
    assert batch.latents.shape == (32, 17, 8, 8, 8) and batch.actions.shape == (32, 16, 4)
    assert batch.mask[:, 0].all() and not batch.mask.all()
    still = (batch.latents[:, 1:] == batch.latents[:, :-1]).flatten(2).all(dim=2)
    assert still[~batch.mask].all()  # past its end an episode stands still
    kinds = {e.entry.kind for e in robot_stage.data.store.episodes}
    assert "play" in kinds  # diverse actions, not experts alone


def test_new_shards_alone_are_encoded(tmp_path: Path, physics_data: Path) -> None:
    folder = tmp_path / "physics"
    record(folder, "physics", ["bounce"], range(2))
    codec = CodecStage(CODEC, [physics_data], [1.0]).build().eval()
    first = FilmData(folder, codec, "test", None)
    (old,) = folder.glob("*.latents-test.safetensors")
    written = old.stat().st_mtime_ns
    record(folder, "physics", ["fall"], range(2))
    both = FilmData(folder, codec, "test", None)
    assert old.stat().st_mtime_ns == written and len(both.store.episodes) == 4
    for data in (first, both):
        for episode in data.store.episodes:
            assert data.latents[episode].shape == (21, 8, 8, 8)
            expected = codec.encode(to_float(np.asarray(episode.frames[3:4])))[0].detach()
            assert (torch.from_numpy(data.latents[episode][3].astype(np.float32)) - expected).abs().max() < 0.02


def test_codec_keeps_what_did_not_move(physics_data: Path) -> None:
    codec = FrameCodec(latent_channels=8, width=8).eval()
    frame = torch.rand(1, 3, 64, 64) * 2 - 1
    latents = codec.encode(frame)
    assert latents.shape == (1, 8, 4, 4)
    decoded, mask = codec.decode(latents, frame, latents)
    assert decoded.shape == frame.shape and ((mask >= 0) & (mask <= 1)).all()
    with torch.no_grad():
        codec.to_pixels.bias[3::4] = -50.0  # a mask of zeros paints nothing
        codec.to_pixels.bias[12:] = -50.0
    decoded, mask = codec.decode(latents, frame, latents)
    assert torch.allclose(decoded, frame, atol=1e-5)


def test_published_weights_are_trained_on_elsewhere(tmp_path: Path, robot_data: Path) -> None:
    def phase(steps: int) -> Phase:
        config = TrainConfig(steps=steps, batch=2, lr=1e-3, warmup=0, cooldown=0.0)
        return Phase(BehaviourCloning.published["net"], lambda c: BcStage(c, BcConfig()), config)

    class Small(BehaviourCloning):
        @classmethod
        def phases(cls, size: str = "small") -> list[Phase]:
            return [phase(2)]

        @classmethod
        def publish(cls, context: Context) -> None:
            net = BcNet(BcConfig(), 4)
            checkpoint.load(context.weights("bc.clone")).fill(net, "net")
            config = context.description("bc", "metaworld", ["bc.clone"], model={}, actions=unit_actions().saved())
            checkpoint.save(context.checkpoints / "bc-metaworld", {"net": net}, config, bits=32)

    here = Context(robot_data.parent, tmp_path / "here", tmp_path / "published")
    there = Context(robot_data.parent, tmp_path / "there", tmp_path / "published")
    train(Small, here, device="cpu")
    assert restore(Small, there) == ["bc.clone"]
    (finished,) = Small.phases()
    assert is_done(there, finished)
    for name, value in checkpoint.load(here.weights("bc.clone")).tensors.items():
        assert torch.equal(checkpoint.load(there.weights("bc.clone")).tensors[name], value)

    longer = phase(3)
    assert not is_done(there, longer)
    run_phase(there, longer, device="cpu")
    record = checkpoint.load(there.weights("bc.clone")).config
    assert [r["train"]["steps"] for r in checkpoint.flat_records([record])] == [2, 3]
    # three small steps from the restored weights stay near them; fresh weights would not be
    moved = checkpoint.load(there.weights("bc.clone")).tensors["net.head.0.weight"]
    restored = checkpoint.load(here.weights("bc.clone")).tensors["net.head.0.weight"]
    assert 0 < (moved - restored).abs().max() < 0.02 and restored.abs().max() > 0.02


@pytest.mark.parametrize("name", families())
def test_shipped_weights_hold_the_phases_to_go_on_from(name: str) -> None:
    saved = checkpoint.load(checkpoint.ASSETS / "checkpoints" / f"{name}-metaworld")
    trained = {record["phase"] for record in saved.config["trained"]}
    assert set(families()[name].published.values()) <= trained
    assert all(saved.part(part) for part in families()[name].published)


@pytest.mark.parametrize(("bits", "bytes_kept"), [(32, 4), (16, 2), (8, 1)])
def test_weights_are_kept_in_as_many_bits_as_asked(tmp_path: Path, bits: int, bytes_kept: int) -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(32, 64, 3), torch.nn.Linear(64, 4))
    checkpoint.save(tmp_path, {"net": net}, {}, bits=bits)
    large = net[0].weight.numel()
    assert large * bytes_kept < (tmp_path / checkpoint.WEIGHTS).stat().st_size < large * bytes_kept + 4096
    again = torch.nn.Sequential(torch.nn.Conv2d(32, 64, 3), torch.nn.Linear(64, 4))
    checkpoint.load(tmp_path).fill(again, "net")
    for (name, value), read in zip(net.state_dict().items(), again.state_dict().values(), strict=True):
        rows = value.flatten(1) if value.dim() > 1 else value[:, None]
        step = rows.abs().amax(dim=1) / {32: 2**24, 16: 2**10, 8: 2 * 127}[bits]
        assert ((rows - read.view_as(rows)).abs() <= 1.01 * step[:, None]).all(), name
    small = (net[1].weight - again[1].weight).abs().max()
    assert small <= net[1].weight.abs().max() / 2**10


SIZES = BackboneConfig(latent_channels=8)


@pytest.fixture
def film_phase(robot_stage: FilmStage) -> Callable[..., Phase]:
    """A tiny film phase by name, number of steps and parent."""

    def make(name: str, steps: int, parent: str = "", lr: float = 1e-3) -> Phase:
        def start(context: Context, own: Path | None) -> VideoActionDiT:
            folder = own or (context.weights(parent) if parent else None)
            return SIZES.net() if folder is None else load_net(folder, SIZES)

        def stage(context: Context) -> FilmStage:
            spec = WindowSpec(SIZES.frames, SIZES.stride)
            return FilmStage(name, context, lambda: robot_stage.data, spec, lambda own: start(context, own))

        config = TrainConfig(steps=steps, batch=2, lr=lr, warmup=0, cooldown=0.0)
        return Phase(name, stage, config, (parent,) if parent else ())

    return make


def test_optional_phases_run_where_they_were_begun(tmp_path: Path, film_phase: Callable[..., Phase]) -> None:
    class Small(BehaviourCloning):
        @classmethod
        def phases(cls, size: str = "small") -> list[Phase]:
            return [film_phase("a.net", 1), replace(film_phase("a.extra", 1), optional=True)]

        @classmethod
        def publish(cls, context: Context) -> None:
            checkpoint.save(context.checkpoints / "a", {}, {})

    context = Context(tmp_path, tmp_path / "runs", tmp_path / "checkpoints")
    assert train(Small, context, device="cpu") == ["a.net"]
    (context.runs / "a.extra").mkdir()
    assert train(Small, context, device="cpu") == ["a.extra"]
    assert train(Small, context, device="cpu") == []


def _record(context: Context, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((context.weights(name) / checkpoint.CONFIG).read_text())
    return found


def test_a_phase_goes_on_from_its_own_weights_alone(tmp_path: Path, film_phase: Callable[..., Phase]) -> None:
    context = Context(tmp_path, tmp_path / "runs", tmp_path / "checkpoints")
    run_phase(context, film_phase("a.parent", 1), device="cpu")
    run_phase(context, film_phase("a.child", 2, "a.parent"), device="cpu")
    # as after `vidvla restore`: no states, and nothing but the record of phases that others went on from
    (context.runs / "a.child" / STATE).unlink()
    (context.weights("a.parent") / checkpoint.WEIGHTS).unlink()
    longer = film_phase("a.child", 3, "a.parent")
    assert not is_done(context, longer)
    run_phase(context, longer, device="cpu", stop_after=1)
    run_phase(context, longer, device="cpu")  # an interruption does not lose the earlier record
    assert is_done(context, longer)
    record = _record(context, "a.child")
    assert [r["train"]["steps"] for r in checkpoint.flat_records([record])] == [2, 3]


def test_a_phase_begins_anew_once_its_parent_was_trained_on(tmp_path: Path, film_phase: Callable[..., Phase]) -> None:
    context = Context(tmp_path, tmp_path / "runs", tmp_path / "checkpoints")
    child = film_phase("a.child", 2, "a.parent")
    run_phase(context, film_phase("a.parent", 1), device="cpu")
    run_phase(context, child, device="cpu")
    assert is_done(context, child)
    run_phase(context, film_phase("a.parent", 2), device="cpu")
    assert not is_done(context, child)
    run_phase(context, child, device="cpu")
    assert is_done(context, child)
    record = _record(context, "a.child")
    assert record["parents"] == {"a.parent": checkpoint.fingerprint(context.weights("a.parent"))}
    assert record["earlier"] == []
    assert (context.runs / "a.child" / "stale.safetensors").is_file()  # nothing is lost


def test_a_phase_goes_on_from_its_own_weights_once_its_teacher_was_trained_on(
    tmp_path: Path, film_phase: Callable[..., Phase]
) -> None:
    context = Context(tmp_path, tmp_path / "runs", tmp_path / "checkpoints")

    def pupil(steps: int) -> Phase:
        return replace(film_phase("a.child", steps), teachers=("a.parent",))

    run_phase(context, film_phase("a.parent", 1), device="cpu")
    run_phase(context, pupil(2), device="cpu")
    run_phase(context, film_phase("a.parent", 2), device="cpu")
    assert not is_done(context, pupil(2)) and not is_done(context, pupil(3))
    assert run_phase(context, pupil(3), device="cpu").step == 3  # goes on from its state
    assert is_done(context, pupil(3)) and _record(context, "a.child")["earlier"] == []
    run_phase(context, film_phase("a.parent", 3), device="cpu")
    run_phase(context, pupil(3), device="cpu")  # as long once more, from its own weights
    assert is_done(context, pupil(3))
    assert [r["train"]["steps"] for r in checkpoint.flat_records([_record(context, "a.child")])] == [3, 3]


def test_settings_that_ask_for_no_more_steps_are_refused(tmp_path: Path, film_phase: Callable[..., Phase]) -> None:
    context = Context(tmp_path, tmp_path / "runs", tmp_path / "checkpoints")
    run_phase(context, film_phase("a.parent", 2), device="cpu")
    for steps in (2, 1):
        with pytest.raises(
            ValueError, match=rf"expected more than the 2 steps that a\.parent has trained, got {steps}"
        ):
            run_phase(context, film_phase("a.parent", steps, lr=5e-4), device="cpu")
    assert _record(context, "a.parent")["train"]["lr"] == 1e-3


def test_a_run_that_ended_before_it_was_saved_is_saved(tmp_path: Path, film_phase: Callable[..., Phase]) -> None:
    context = Context(tmp_path, tmp_path / "runs", tmp_path / "checkpoints")
    run_phase(context, film_phase("a.parent", 1), device="cpu")
    kept = tmp_path / "kept"
    shutil.copytree(context.weights("a.parent"), kept)
    longer = film_phase("a.parent", 2)
    run_phase(context, longer, device="cpu")
    shutil.rmtree(context.weights("a.parent"))
    shutil.copytree(kept, context.weights("a.parent"))  # the state is that of two steps, the record of one
    run_phase(context, longer, device="cpu")
    assert is_done(context, longer)


def test_tasks_are_drawn_as_often_as_asked(physics_data: Path) -> None:
    codec = CodecStage(CODEC, [physics_data], [1.0]).build().eval()
    data, generator = FilmData(physics_data, codec, "test", None), torch.Generator().manual_seed(0)
    tasks = sorted({e.entry.task for e in data.episodes})
    assert len(tasks) >= 2
    batch = data.batch(32, WindowSpec(4, 4, weights=dict.fromkeys(tasks[1:], 0.0)), generator)
    only = [e for e in data.episodes if e.entry.task == tasks[0]]
    seen = {np.asarray(frame).tobytes() for e in only for frame in e.frames}
    assert all(first.numpy().tobytes() in seen for first in batch.pixels)
    with pytest.raises(ValueError, match=r"expected tasks to weigh among .*; got 'juggle'"):
        data.batch(1, WindowSpec(4, 4, weights={"juggle": 2.0}), generator)
