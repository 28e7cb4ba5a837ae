"""Every registered family keeps every promise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vidvla import checkpoint
from vidvla.eval.suite import Job, measure_phrasings
from vidvla.families.base import SIZES, Context, Family, read_config
from vidvla.families.unipi import InverseConfig, UniPi
from vidvla.foundation.backbone import BackboneConfig
from vidvla.foundation.film import FilmModel
from vidvla.nn.attention import capture_attention
from vidvla.registry import families, family
from vidvla.service import Service
from vidvla.train.run import SHARED, is_done
from vidvla.types import Request
from vidvla.worlds.base import Frame
from vidvla.worlds.metaworld import simulator_problem

NAMES = list(families())


@pytest.fixture(scope="module", params=NAMES)
def member(request: pytest.FixtureRequest) -> Family:
    return families()[request.param].tiny()


def _ask(member: Family, frame: Frame, seed: int = 0, attention: bool = False):  # type: ignore[no-untyped-def]
    return member(Request(frame, "open the door", seed=seed, steps=2), attention=attention)


def test_answers_have_the_promised_shapes(member: Family, frame: Frame) -> None:
    rollout = _ask(member, frame)
    assert rollout.frames.dtype == np.uint8 and rollout.frames.ndim == 4
    assert rollout.frames.shape[1:] in ((128, 128, 3), (64, 64, 3))  # a latent of the whole frame holds no more
    assert len(rollout.frames) == len(rollout.times)
    assert bool(len(rollout.frames)) == member.films
    assert list(rollout.times) == sorted(set(rollout.times))
    assert (rollout.actions is not None) == member.acts
    assert rollout.seconds["total"] > 0
    assert (rollout.target is not None) == (member.targets is not None)
    assert rollout.target is None or rollout.target.shape == (128, 128, 3)
    assert rollout.target_time == (None if member.targets is None else int(str(member.targets.default)))
    assert member.targets is None or member.targets in member.controls
    if rollout.actions is not None:
        spec = Service.action_spec
        assert rollout.actions.shape == (16, len(spec))
        assert (np.abs(rollout.actions) <= np.asarray(spec.high) + 1e-5).all()


def test_answers_are_functions_of_request_and_seed(member: Family, frame: Frame) -> None:
    first, again = _ask(member, frame), _ask(member, frame)
    assert (first.frames == again.frames).all()
    assert first.actions is None or (first.actions == again.actions).all()


def test_looking_changes_no_answer(member: Family, frame: Frame) -> None:
    plain, seen = _ask(member, frame), _ask(member, frame, attention=True)
    assert (plain.frames == seen.frames).all()
    assert (seen.attention is not None) == member.attends
    if seen.attention is not None:
        maps, layouts = seen.attention.maps, seen.attention.layouts
        assert len(maps) == len(layouts) == len(seen.attention.layers)
        for found, layout in zip(maps, layouts, strict=True):
            assert found.shape[1:] == (len(layout), len(layout))
            looked = np.ones(len(layout), bool)
            if found[:, layout.text].sum() == 0:  # words that are no part of the sequence look at nothing
                looked[layout.text] = False
            assert np.allclose(found.sum(axis=-1)[:, looked], 1, atol=1e-4)
            assert len(layout.text) == len(seen.attention.words)


def test_frames_of_any_size_are_taken(member: Family) -> None:
    rng = np.random.default_rng(0)
    for shape in ((64, 64, 3), (200, 140, 3)):
        _ask(member, rng.integers(0, 256, shape, dtype=np.uint8))


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0}, {"steps": 1000}, {"guidance": -1.0}, {"guidance": float("nan")}, {"seed": -1},
        {"instruction": ""},
    ],
)  # fmt: skip
def test_bad_requests_are_refused_in_one_sentence(member: Family, frame: Frame, change: dict[str, object]) -> None:
    asked = {"frame": frame, "instruction": "open the door"} | change
    with pytest.raises(ValueError, match="expected") as caught:
        member(Request(**asked))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_acting_matches_the_action_shape(member: Family, frame: Frame) -> None:
    if member.acts:
        actions = member.act(Request(frame, "open the door", steps=1))
        assert actions.ndim == 2 and actions.shape[1] == 4 and len(actions) >= 8


def test_inverse_dynamics_gives_one_action_a_step(member: Family) -> None:
    frames = np.random.default_rng(1).integers(0, 256, (6, 128, 128, 3), dtype=np.uint8)
    if not member.inverts:
        with pytest.raises(ValueError, match="inverse dynamics"):
            member.between(frames)
        return
    actions = member.between(frames)
    assert actions.shape == (5, 4) and np.isfinite(actions).all()
    assert (member.between(frames[:2])[0] != actions[0]).any()  # a film says more of a step than its pair of frames


def test_phases_are_named_once_and_end_with_the_familys_own(member: Family) -> None:
    for size in SIZES:
        names = [phase.name for phase in type(member).phases(size)]
        assert len(set(names)) == len(names)
        assert names[-1].startswith(f"{member.name}.")


def test_no_phase_of_an_empty_folder_counts_as_done(member: Family, tmp_path: Path) -> None:
    context = Context(tmp_path, tmp_path, tmp_path)
    assert not any(is_done(context, phase) for phase in type(member).phases())


def test_published_nets_name_the_phase_behind_them(member: Family) -> None:
    own = {name: net for name, net in member.nets().items() if name not in {folder for folder, _ in SHARED.values()}}
    assert {part.partition(".")[0] for part in member.published} == set(own)
    for part in member.published:  # a part of a net, where a phase of its own trained that
        name, _, inner = part.partition(".")
        assert own[name].get_submodule(inner).state_dict()
    assert set(member.published.values()) <= {phase.name for phase in type(member).phases()}


def test_missing_weights_are_one_sentence(member: Family, tmp_path: Path) -> None:
    with pytest.raises(checkpoint.CheckpointError, match="expected a trained checkpoint"):
        type(member).load(tmp_path, torch.device("cpu"))


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(ValueError, match="gr2"):
        family("gr3")
    with pytest.raises(ValueError, match="small"):
        read_config("gr2", "huge")


def test_nothing_is_captured_after_an_answer(frame: Frame) -> None:
    member = families()["gr2"].tiny()
    _ask(member, frame, attention=True)
    with capture_attention() as trace:
        pass
    _ask(member, frame)
    assert trace.maps == []


def test_attention_under_guidance_is_of_the_instructed_pass(frame: Frame) -> None:
    member = families()["gr2"].tiny()
    seen = member(Request(frame, "open the door", steps=2, guidance=2.0), attention=True).attention
    assert seen is not None
    for found, layout in zip(seen.maps, seen.layouts, strict=True):
        if len(layout.text):
            assert found[..., layout.text[1:]].sum() > 0  # the pass without instruction looks at no word


@pytest.mark.parametrize(("frames", "stride"), [(4, 4), (8, 2)])
def test_unipi_fills_in_films_of_any_stride(frame: Frame, frames: int, stride: int) -> None:
    sizes, tiny = BackboneConfig(frames=frames, stride=stride), UniPi.tiny()
    model = FilmModel(tiny.model.codec, sizes.net().eval(), sizes, torch.device("cpu"))
    member = UniPi(model, InverseConfig().net(sizes, 4).eval(), tiny.scale)
    with torch.no_grad():
        scene = model.scene(Request(frame, "open the door"))
        keys = torch.randn(1, frames, *scene.latents.shape[1:])
        film = member._fill_in(scene, keys, Request(frame, "open the door"))
    assert film.shape[1] == 16 and torch.equal(film[:, stride - 1 :: stride], keys)
    assert member(Request(frame, "open the door", steps=1)).times == tuple(range(1, 17))
    with pytest.raises(ValueError, match="multiple of stride"):
        BackboneConfig(frames=frames, stride=3)


@pytest.mark.parametrize("steps", [1, 5, 16, 37])
def test_inverse_dynamics_reads_films_of_any_length(steps: int) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (steps + 1, 128, 128, 3), dtype=np.uint8)
    member = UniPi.tiny()
    actions = member.between(frames)
    assert actions.shape == (steps, 4)
    if steps >= 16:  # whole windows are read as the films they are
        assert np.allclose(actions[-16:], member.between(frames[-17:]), atol=1e-5)


def test_phrasings_are_told_apart_from_every_trained_task() -> None:
    if simulator_problem() is not None:
        pytest.skip(str(simulator_problem()))
    job = Job(["door-open"], range(500_000, 500_001), {"door-open": ["open the door"]}, 8, 1)
    rows = measure_phrasings(families()["bc"].tiny(), job)
    assert {(row.metric, row.n) for row in rows} == {(m, 1) for m in ("understood", "nearest", "told_apart", "still")}


def test_gpu_sizes_take_a_step_forward_and_backward_at_reduced_depth() -> None:
    table = read_config("backbone", "gpu")["model"]
    full = BackboneConfig(**table)
    net = BackboneConfig(**table | {"n_layers": 1, "fine_layers": 1}).net(4)
    size = full.grid * 16
    assert size == 256
    latents = torch.randn(1, full.latent_channels, full.grid, full.grid)
    futures = torch.randn(1, full.frames, full.latent_channels, full.grid, full.grid)
    film, actions = net(
        latents, futures, torch.tensor([500.0]), torch.randn(1, 4, 384),
        torch.zeros(1), pixels=torch.zeros(1, 3, size, size),
    )  # fmt: skip
    assert actions is not None and actions.shape == (1, full.frames, full.stride, 4)
    (film.square().mean() + actions.square().mean()).backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in net.blocks.parameters())


def test_damaged_weights_are_one_sentence(tmp_path: Path) -> None:
    member = families()["bc"].tiny()
    folder = tmp_path / "bc-metaworld"
    config = {"model": {}, "actions": {"low": [-1] * 4, "high": [1] * 4}, "trained": []}
    checkpoint.save(folder, member.nets(), config)
    assert type(member).load(tmp_path, torch.device("cpu")).parameters() == member.parameters()
    weights = folder / checkpoint.WEIGHTS
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(checkpoint.CheckpointError, match="damaged"):
        checkpoint.load(folder)
    weights.write_bytes(whole)
    (folder / checkpoint.CONFIG).write_text(json.dumps(config | {"model": {"hidden": 64}}))
    with pytest.raises(checkpoint.CheckpointError, match="fit"):
        type(member).load(tmp_path, torch.device("cpu"))
    (folder / checkpoint.CONFIG).write_text("{")
    with pytest.raises(checkpoint.CheckpointError, match="JSON"):
        checkpoint.load(folder)
