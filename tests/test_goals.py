"""Target images, goal-conditioned policies and action heads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vidvla import checkpoint, registry
from vidvla.data.films import FilmBatch
from vidvla.eval.targets import trained_heads
from vidvla.families.gr2 import Gr2
from vidvla.families.groot import Groot
from vidvla.families.susie import Susie, edit_net, load_editor
from vidvla.families.wma import WorldModel
from vidvla.foundation.backbone import BackboneConfig, Scene, denoise, film_loss
from vidvla.foundation.goals import PolicyConfig, check_horizons, drop_images, one_frame, pick_goals
from vidvla.foundation.stages import load_net
from vidvla.nn.heads import HEADS, make_head
from vidvla.nn.video_dit import VideoActionDiT
from vidvla.registry import families
from vidvla.saliency import action_saliency
from vidvla.service import Service
from vidvla.text import TEXT_DIM, TextTokens
from vidvla.types import Request
from vidvla.worlds.base import Frame
from vidvla.worlds.metaworld import MetaWorld, simulator_problem

SIZES = BackboneConfig()


@pytest.fixture
def films() -> FilmBatch:
    """Six films of noise whose every frame and action says when it is."""
    times = torch.tensor([4, 8, 12, 16]).expand(6, -1)
    future = torch.zeros(6, 4, 48, 8, 8) + times[:, :, None, None, None]
    actions = torch.arange(16.0).view(1, 4, 4, 1).expand(6, -1, -1, 4) / 16
    text = TextTokens(torch.randn(6, 5, TEXT_DIM), torch.ones(6, 5, dtype=torch.bool))
    return FilmBatch(
        torch.randint(256, (6, 128, 128, 3), dtype=torch.uint8), torch.ones(6, 48, 8, 8), future, times,
        torch.zeros(6, 4, dtype=torch.bool), text, actions, torch.ones(6, 4, 4, dtype=torch.bool),
    )  # fmt: skip


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scene_of(batch: FilmBatch) -> Scene:
    return Scene(torch.zeros(len(batch.first), 3, 128, 128), batch.first, batch.text)


def test_goals_are_the_frames_at_their_horizon(films: FilmBatch) -> None:
    goals = pick_goals(films, (8, 16), generator())
    assert goals.future.shape == (6, 1, 48, 8, 8) and set(goals.times.flatten().tolist()) == {8, 16}
    assert (goals.future.mean(dim=(2, 3, 4)) == goals.times).all()
    assert goals.actions.shape == (6, 1, 16, 4) and goals.action_mask.shape == (6, 1, 16)
    assert torch.equal(goals.actions[0, 0, :, 0], torch.arange(16.0) / 16)
    assert check_horizons([16, 8], SIZES) == (16, 8)
    with pytest.raises(ValueError, match="horizons among 4, 8, 12, 16"):
        check_horizons([10], SIZES)


def test_dropped_images_show_nothing_and_the_loss_still_learns(films: FilmBatch) -> None:
    goals = drop_images(pick_goals(films, (8, 16), generator()), 1.0, generator())
    assert not goals.first.any() and len(goals.pixels.unique()) == 1
    net = edit_net(SIZES)
    values, _ = film_loss(net, goals, generator())
    values["film"].backward()
    assert net.film_head.weight.grad is not None and net.film_head.weight.grad.abs().sum() > 0


def test_an_editor_begins_with_a_film_nets_weights(tmp_path: Path, films: FilmBatch) -> None:
    film = one_frame(SIZES).net()
    checkpoint.save(tmp_path, {"net": film}, {}, bits=32)
    editor = load_editor(tmp_path, SIZES)
    same = film.state_dict()
    assert all(torch.equal(value, same[name]) for name, value in editor.state_dict().items() if ".cross" not in name)
    checkpoint.save(tmp_path, {"net": editor}, {}, bits=32)
    again = load_editor(tmp_path, SIZES)
    assert all(torch.equal(value, editor.state_dict()[name]) for name, value in again.state_dict().items())


@torch.no_grad()
def test_nets_that_listened_by_attention_alone_go_on_as_they_were(tmp_path: Path, films: FilmBatch) -> None:
    net = one_frame(SIZES).net().eval()
    torch.nn.init.normal_(net.film_head.weight)
    checkpoint.save(tmp_path, {"net": net}, {}, bits=32)
    older = {name: value for name, value in checkpoint.load(tmp_path).tensors.items() if ".heard." not in name}
    checkpoint.write(tmp_path, older, {})
    again = load_net(tmp_path, one_frame(SIZES)).eval()

    def told(net: VideoActionDiT, plainly: bool) -> torch.Tensor:
        scene = scene_of(films)
        words = scene.text if plainly else replace(scene.text, mask=torch.zeros_like(scene.text.mask))
        (step,) = denoise(net, replace(scene, text=words), torch.full((6, 1), 8), steps=1, generator=generator())
        return step.clean

    assert torch.equal(told(again, True), told(net, True))
    before = told(again, False)
    torch.nn.init.normal_(again.heard[2].weight)
    for block in (*again.fine_in, *again.blocks, *again.fine_out):  # a condition that counts, as after some training
        torch.nn.init.normal_(block.gates.weight, std=0.1)
    assert not torch.allclose(told(again, True) - told(again, False), told(net, True) - before)


@torch.no_grad()
def test_each_guidance_weighs_what_it_is_named_after(films: FilmBatch) -> None:
    net = edit_net(SIZES).eval()
    for parameter in net.parameters():
        parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator()))
    scene, times = scene_of(films), torch.full((6, 1), 8)

    def clean(guidance: float, image_guidance: float) -> torch.Tensor:
        (step,) = denoise(
            net, scene, times, steps=1, guidance=guidance, image_guidance=image_guidance, generator=generator()
        )
        return step.clean

    told, silent, blind = clean(1, 1), clean(0, 1), clean(0, 0)
    assert (told - silent).abs().max() > 1e-3 and (silent - blind).abs().max() > 1e-3
    expected = blind + 2 * (silent - blind) + 3 * (told - silent)
    torch.testing.assert_close(clean(3, 2), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", HEADS)
def test_heads_learn_a_chunk_of_actions(kind: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = make_head(kind, 4, 2)
    optimizer, draws = torch.optim.Adam(head.parameters(), lr=5e-3), generator()
    for _ in range(120):
        features = torch.rand(32, 4, 4, generator=draws) * 2 - 1
        loss = head(features, 0.8 * features[..., :2].sign(), draws)
        assert loss.shape == (32, 4)
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    with torch.no_grad():
        features = torch.tensor([[1.0, -1.0, 0.3, 0.3], [-1.0, 1.0, 0.3, 0.3]])[None].expand(8, 2, -1, -1).flatten(0, 1)
        actions = head.sample(features, generator(1))
        assert torch.equal(actions, head.sample(features, generator(1)))
    assert actions.shape == (16, 2, 2) and actions.abs().max() <= 1
    right = torch.tensor([[0.8, -0.8], [-0.8, 0.8]])
    assert (actions.sign() == right.sign()).float().mean() > 0.9


def test_unknown_heads_list_the_known() -> None:
    with pytest.raises(ValueError, match="regression, bins, diffusion, flow"):
        make_head("magic", 4, 2)


@pytest.mark.parametrize("kind", HEADS)
def test_policies_learn_with_every_head(kind: str, films: FilmBatch) -> None:
    policy, goals = PolicyConfig(head=kind).net(SIZES, 4), pick_goals(films, (8,), generator())
    given = (torch.zeros(6, 3, 128, 128), goals.first, goals.future[:, 0], goals.times[:, 0])
    policy(*given, goals.actions[:, 0], generator()).mean().backward()
    unreached = [n for n, p in policy.named_parameters() if p.grad is None and ".noisy" not in n and ".level" not in n]
    assert unreached == []
    with torch.no_grad():
        assert policy.sample(*given, generator()).shape == (6, 16, 4)


@pytest.mark.parametrize("kind", [Groot, Susie])
def test_target_images_are_asked_for_by_horizon(kind: type[Groot | Susie], frame: Frame) -> None:
    member = kind.tiny()
    assert kind.targets is not None
    key = f"{kind.name}.{kind.targets.name}"
    for choice in kind.targets.choices:
        rollout = member(Request(frame, "open the door", steps=1, options={key: choice}))
        assert rollout.target_time == int(choice) and rollout.target is not None
        assert rollout.actions is not None and len(rollout.actions) == 16
    assert member(Request(frame, "open the door", steps=1, options={key: 8.0})).target_time == 8
    with pytest.raises(ValueError, match=r"ahead of .* among .*8.*got '5'"):
        member(Request(frame, "open the door", options={key: 5}))


def test_sub_goals_follow_each_other_and_acting_ends_at_the_next(frame: Frame) -> None:
    member = Susie.tiny()
    assert member(Request(frame, "open the door", options={"susie.k": "4"})).times == (4, 8, 12, 16)
    for k in (4, 8, 16):
        assert len(member.act(Request(frame, "open the door", options={"susie.k": k}))) == k


def test_susie_weighs_the_frame_too(frame: Frame) -> None:
    member = Susie.tiny()
    with torch.no_grad():  # a fresh net predicts that nothing changes
        member.model.net.film_head.weight.normal_(generator=generator())
    plain = Request(frame, "open the door", steps=1)
    weighed = member(replace(plain, options={"susie.image_guidance": 3}))
    assert (weighed.frames != member(plain).frames).any()
    for wrong in (11, float("nan")):
        with pytest.raises(ValueError, match="Image guidance of SuSIE style from 0 to 10"):
            member(replace(plain, options={"susie.image_guidance": wrong}))


@pytest.mark.parametrize("kind", [Groot, Susie])
def test_own_guidance_stands_in_for_the_requests(kind: type[Groot | Susie], frame: Frame) -> None:
    member, plain = kind.tiny(), Request(frame, "open the door", steps=1)
    with torch.no_grad():
        for name, weight in member.model.net.named_parameters():
            if not weight.any():  # what begins at zero hides the instruction
                weight.normal_(std=0.1, generator=generator(len(name)))
    own = member(replace(plain, options={f"{kind.name}.guidance": 4}))
    same = member(replace(plain, guidance=4))
    assert own.target is not None and np.array_equal(own.target, same.target)
    assert not np.array_equal(own.target, member(plain).target)


def test_the_actors_actions_are_traced_to_frame_and_target(frame: Frame) -> None:
    member, request = Groot.tiny(), Request(frame, "open the door", steps=1)
    traced, actions = member.traced(request), member(request).actions
    assert actions is not None and traced.reads is not None and len(traced.reads) == 2
    assert np.allclose(member.scale.to_world(traced.actions.detach().numpy()), actions, atol=1e-5)
    assert action_saliency(traced).shape == (2, 8, 8) and action_saliency(traced).sum() == pytest.approx(1)


def test_heads_answer_when_asked_for(frame: Frame) -> None:
    member, request = Gr2.tiny(), Request(frame, "open the door", steps=1)
    assert trained_heads(member) == ("joint", *HEADS)
    asked = {head: replace(request, options={"gr2.head": head}) for head in trained_heads(member)}
    actions = {head: member.act(one) for head, one in asked.items()}
    assert all(found.shape == (16, 4) for found in actions.values())
    assert (member.act(request) == actions["joint"]).all()
    assert all((found != actions["joint"]).any() for head, found in actions.items() if head != "joint")
    with pytest.raises(ValueError, match="Action head of GR-2 style among joint, regression"):
        member.act(replace(request, options={"gr2.head": "magic"}))


def test_heads_without_weights_are_not_offered_and_say_how_to_train_them(frame: Frame) -> None:
    member = Gr2.tiny()
    alone = Gr2(member.model, member.scale)
    assert trained_heads(alone) == () and Gr2.offered({}) == alone.controls
    assert Gr2.offered({"head": {}}) == member.controls
    asked = Request(frame, "open the door", options={"gr2.head": "bins"})
    with pytest.raises(ValueError, match=r"among joint; got 'bins' .*--phase gr2\.heads.*publish gr2"):
        Service(loaded={"gr2": alone}).predict("gr2", asked)


def test_actions_without_a_film_are_dreamed(frame: Frame) -> None:
    request = Request(frame, "open the door", steps=1)
    service = Service(loaded={"groot": Groot.tiny(), "wma": WorldModel.tiny()})
    rollout = service.predict("groot", request)
    assert rollout.dreamed_by == "World model" and rollout.times == tuple(range(1, 17)) and rollout.target is not None
    told = service.predict("wma", replace(request, actions=rollout.actions))
    assert np.array_equal(rollout.frames, told.frames)
    others = {"groot": Groot.tiny(), "vmc": families()["vmc"].tiny()}  # that one knows its own task alone
    alone = Service(loaded=others).predict("groot", request)
    assert not alone.dreamed_by and not len(alone.frames)
    assert "not dreamed" in " ".join(alone.notes)


def test_families_without_weights_say_how_to_train_them(tmp_path: Path, frame: Frame) -> None:
    service = Service(tmp_path)
    for info in service.families():
        assert info.problem is not None and f"vidvla train {info.name}" in info.problem
        with pytest.raises(ValueError, match=f"vidvla train {info.name}") as caught:
            service.predict(info.name, Request(frame, "open the door"))
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="vidvla train groot"):
        registry.load("groot", tmp_path, torch.device("cpu"))


@pytest.mark.parametrize("name", ["groot", "susie"])
def test_shipped_planners_listen(name: str) -> None:
    if simulator_problem() is not None:
        pytest.skip(str(simulator_problem()))
    world, service = MetaWorld(), Service()
    world.reset("door-open", 500_000)
    frame = world.render()
    world.close()

    def said(instruction: str) -> str:
        return " ".join(service.predict(name, Request(frame, instruction)).notes)

    assert "Hardly moves" not in said("swing the safe door open")
    assert "Hardly moves" in said("could you get the water running")
