"""World Models: V, M and C by closed forms, evolution in dreams, and the three phases end to end."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

from vidvla import checkpoint
from vidvla.eval.controllers import TAUS, measure_controllers
from vidvla.eval.rollouts import filmed_loop
from vidvla.families.base import CONTROLLERS, EVOLVED_STEPS, Context, Family, Phase
from vidvla.families.vmc import LossConfig, RnnStage, VaeStage, VmcConfig, WorldModels, _search
from vidvla.foundation.latent_dream import Chance, Planning, dream, linear_actions, plan_cem
from vidvla.nn.rnn import Mixture, MixtureDensityRNN
from vidvla.nn.vae import ConvVAE, kl_to_standard_normal, moving_weight
from vidvla.service import Service
from vidvla.train.evolve import EVOLUTION, EvolveConfig, Strategy, Weights, evolve, spaced
from vidvla.train.loop import TrainConfig
from vidvla.train.run import is_done, restore, train
from vidvla.types import Request
from vidvla.worlds.agent import episode_scores, play
from vidvla.worlds.base import Frame, StepResult
from vidvla.worlds.dream import Dream

ACTIONS = np.random.default_rng(1).uniform(-1, 1, (5, 4)).astype(np.float32)


def _noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_frames_pass_through_few_numbers() -> None:
    vae = ConvVAE(size=64, latent=8, base=8)
    decoded, mean, logvar = vae(_noise(2, 3, 64, 64), _noise(2, 8))
    assert decoded.shape == (2, 3, 64, 64) and mean.shape == logvar.shape == (2, 8)
    with pytest.raises(ValueError, match="multiple of 16"):
        ConvVAE(size=40)


def test_divergence_is_the_closed_form() -> None:
    mean, logvar = _noise(5, 8), _noise(5, 8, seed=1)
    true = kl_divergence(Normal(mean, (0.5 * logvar).exp()), Normal(0.0, 1.0)).sum(dim=-1)
    assert torch.allclose(kl_to_standard_normal(mean, logvar), true, atol=1e-5)
    assert kl_to_standard_normal(torch.zeros(8), torch.zeros(8)) == 0


def test_pixels_that_moved_count_more() -> None:
    frames, still = torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    frames[0, 1, 0, 0], frames[0, 0, 1, 1] = 0.2, 0.1  # a tenth and a twentieth of the range
    assert moving_weight(frames, [still, frames], 0.06, 5.0).flatten().tolist() == [5, 1, 1, 1]


def _mixture(seed: int = 0) -> Mixture:
    return Mixture(_noise(4, 3, seed=seed).log_softmax(dim=-1), _noise(4, 3, 6, seed=seed + 1), _noise(4, 3, 6) / 3)


def test_mixture_density_is_that_of_torch() -> None:
    mixture, value = _mixture(), _noise(4, 6, seed=9)
    gaussians = Independent(Normal(mixture.means, mixture.log_stds.exp()), 1)
    true = MixtureSameFamily(Categorical(logits=mixture.log_weights), gaussians)
    assert torch.allclose(mixture.log_prob(value), true.log_prob(value), atol=1e-4)


def test_cold_dreams_take_the_mode_and_warm_ones_follow_the_mixture() -> None:
    mixture = _mixture()
    best = mixture.means[torch.arange(4), mixture.log_weights.argmax(dim=-1)]
    cold = mixture.pick(1e-6, torch.rand(4, generator=torch.Generator().manual_seed(0)), _noise(4, 6))
    assert torch.allclose(cold, best, atol=1e-2)
    with pytest.raises(ValueError, match="temperature"):
        mixture.pick(0.0, torch.zeros(4), torch.zeros(4, 6))
    many = Mixture(*(v[0].expand(40_000, *v.shape[1:]) for v in vars(mixture).values()))
    uniform = torch.rand(40_000, generator=torch.Generator().manual_seed(1))
    seen = many.pick(1.0, uniform, _noise(40_000, 6, seed=2)).mean(dim=0)
    mean = (mixture.log_weights[0].exp()[:, None] * mixture.means[0]).sum(dim=0)
    assert torch.allclose(seen, mean, atol=0.05)


def test_stepping_is_the_sequence() -> None:
    torch.manual_seed(0)
    rnn = MixtureDensityRNN(latent=6, action_dim=4, hidden=16, mixtures=3)
    latents, actions = _noise(2, 5, 6), _noise(2, 5, 4, seed=1)
    whole, state = rnn(latents, actions), rnn.begin(latents[:, 0])
    for t in range(5):
        outlook, hidden, cell = rnn.step(replace(state, latents=latents[:, t]), actions[:, t])
        state = replace(state, hidden=hidden, cell=cell)
        assert torch.allclose(outlook.rewards, whole.rewards[:, t], atol=1e-5)
        assert torch.allclose(outlook.following.means, whole.following.means[:, t], atol=1e-5)


def test_several_controllers_dream_as_each_alone() -> None:
    torch.manual_seed(0)
    rnn = MixtureDensityRNN(latent=6, action_dim=4, hidden=16, mixtures=3).eval()
    weights, starts, chance = _noise(3, 4, 23), _noise(2, 6), Chance.draw(8, 2, 6, seed=5)
    together = dream(
        rnn, rnn.begin(starts).repeat(3), lambda s, _: linear_actions(weights, s), 8, 1.0, chance.repeat(3)
    )  # fmt: skip
    for index in range(3):
        one = weights[index : index + 1]
        alone = dream(rnn, rnn.begin(starts), lambda s, _, one=one: linear_actions(one, s), 8, 1.0, chance)
        assert torch.allclose(together.latents[2 * index : 2 * index + 2], alone.latents, atol=1e-3)


def test_scores_reward_early_success() -> None:
    rewards = np.array([[0.2, 0.4, 0.5, 2.0], [0.2, 0.4, 0.5, 0.5]], np.float32)
    fulfilled = np.array([[0, 0, 0, 0], [0, 1, 0, 0]], bool)
    assert episode_scores(rewards, fulfilled) == pytest.approx([2.1 / 4, 3.2 / 4])


class Bowl:
    """A dream whose return is highest at one point."""

    name = "test.bowl"
    target = np.linspace(-1, 1, 12)

    def start(self, own: Path | None = None) -> Weights:
        return np.zeros(12)

    def rate(self, candidates: Weights, seed: int) -> Weights:
        luck = np.random.default_rng(seed).normal(scale=1e-3)
        return -np.square(candidates - self.target).sum(axis=1) + luck

    def check(self, weights: Weights) -> float:
        return -float(np.square(weights - self.target).sum())

    def result(self, means: Weights, rows: list[dict[str, Any]]) -> nn.Module:
        net = nn.Module()
        net.register_buffer("means", torch.from_numpy(means))
        return net

    def data_used(self) -> dict[str, int]:
        return {"bowls": 1}


def test_evolution_finds_the_best_and_resumes_exactly(tmp_path: Path) -> None:
    config = EvolveConfig(steps=60, batch=12, sigma=0.3)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    whole, progress = evolve(Bowl(), config, tmp_path / "whole")
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    assert progress.step == 60 and progress.losses["real"] > -0.05
    evolve(Bowl(), config, tmp_path / "parts", stop_after=7)
    evolve(Bowl(), config, tmp_path / "parts", stop_after=31)
    parts, _ = evolve(Bowl(), config, tmp_path / "parts")
    assert torch.equal(whole.means, parts.means)
    rows = [json.loads((tmp_path / name / EVOLUTION).read_text()) for name in ("whole", "parts")]
    assert rows[0] == rows[1] and len(rows[0]) == 60
    assert [row["generation"] for row in rows[0] if "real" in row] == [0, 10, 20, 30, 40, 50, 59]


def test_generations_kept_are_spaced_evenly() -> None:
    assert spaced(100, 12)[0] == 0 and spaced(100, 12)[-1] == 99 and len(spaced(100, 12)) == 12
    assert spaced(3, 12) == [0, 1, 2]
    assert Strategy(np.zeros(3), 0.1, 5, seed=1).ask().shape == (5, 3)


@pytest.fixture(scope="module")
def family() -> WorldModels:
    torch.manual_seed(0)
    return WorldModels.tiny()


def test_answers_with_and_without_actions(family: WorldModels, frame: Frame) -> None:
    own = family(Request(frame, "press"))
    assert own.frames.shape == (16, 64, 64, 3) and own.actions is not None and own.actions.shape == (16, 4)
    assert own.actions.std() > 0 and "one task" in own.notes[0]
    assert np.array_equal(family.act(Request(frame, "press")), own.actions)
    told = family(Request(frame, "press", actions=ACTIONS))
    assert told.times == (1, 2, 3, 4, 5) and told.actions == pytest.approx(ACTIONS, abs=1e-5)
    assert (told.frames != family(Request(frame, "press", actions=-ACTIONS)).frames).any()
    assert (told.frames != family(Request(frame, "press", seed=1, actions=ACTIONS)).frames).any()
    with pytest.raises(ValueError, match="expected actions"):
        family(Request(frame, "press", actions=np.zeros((2, 3), np.float32)))


class Still:
    """A world in which nothing moves and the third step fulfils the task."""

    name, tasks = "still", ("push",)
    action_spec, steps_per_second = Service.action_spec, 16.0

    def reset(self, task: str, seed: int) -> None:
        self.frame, self.steps = np.random.default_rng(seed).integers(0, 256, (128, 128, 3), dtype=np.uint8), 0

    def step(self, action: np.ndarray) -> StepResult:
        self.action_spec.check(action)
        self.steps += 1
        return StepResult(5.0, self.steps == 3)

    def render(self) -> Frame:
        return self.frame


def test_a_dream_over_latents_is_a_world(family: WorldModels) -> None:
    world = Dream(family, Still())  # type: ignore[arg-type]
    runs = []
    for _ in range(2):
        world.reset("push", 7)
        world.step(np.array([5, 0, 0, 1], np.float32))
        branch = world.snapshot()
        world.step(np.array([0, 3, 0, -1], np.float32))
        seen = world.render()
        assert seen.shape == (64, 64, 3)
        world.restore(branch)
        world.step(np.array([0, 3, 0, -1], np.float32))
        assert (world.render() == seen).all()
        runs.append(seen)
    assert (runs[0] == runs[1]).all()


def test_a_dream_over_latents_is_rewarded_and_filmed(family: WorldModels) -> None:
    world = Dream(family, Still())  # type: ignore[arg-type]
    played = play(world, "push", 7, family.agent("constant"), steps=4)
    assert 0 < played.rewards[0] <= 1
    world.reset("push", 7)
    state, action = world.snapshot(), np.zeros(4, np.float32)
    (reward,), (likely,) = family.outcome(state.state, action[None])
    result = world.step(action)
    assert result.reward == pytest.approx(10 * reward) and result.success == (likely > 0.5)
    idle = np.zeros((2, 4), np.float32)
    *_, last = filmed_loop(world, lambda frame, look: idle, state, state.frame, nullcontext(), steps=4)
    assert last.frames.shape == (last.steps + 1, 64, 64, 3)


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_agents_are_functions_of_what_they_saw(family: WorldModels, controller: str) -> None:
    played = [play(Still(), "push", 3, family.agent(controller, seed=5), steps=8) for _ in range(2)]  # type: ignore[arg-type]
    assert played[0].score == played[1].score == pytest.approx((0.5 + 0.5 + 6) / 8)
    assert played[0].success
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (6, 128, 128, 3), dtype=np.uint8)
    agent, other = family.agent(controller, seed=5), family.agent(controller, seed=5)
    for seen in frames:
        assert np.array_equal(agent.step(seen), other.step(seen))


def test_agents_remember_until_they_are_reset(family: WorldModels, frame: Frame) -> None:
    agent = family.agent()
    first, second = agent.step(frame), agent.step(frame)
    agent.reset()
    assert not np.array_equal(first, second) and np.array_equal(agent.step(frame), first)
    with pytest.raises(ValueError, match="expected a controller among"):
        family.agent("expert")


def test_planning_finds_what_the_dream_rewards() -> None:
    torch.manual_seed(0)
    rnn = MixtureDensityRNN(latent=4, action_dim=2, hidden=8, mixtures=1).eval()

    class Rewarding(MixtureDensityRNN):
        def step(self, state: Any, actions: torch.Tensor) -> Any:
            outlook, hidden, cell = super().step(state, actions)
            reward = 1 - (actions - torch.tensor([0.5, -0.5])).square().sum(dim=-1)
            return replace(outlook, rewards=reward, fulfilled=torch.full_like(reward, -9.0)), hidden, cell

    rnn.__class__ = Rewarding
    plan = plan_cem(rnn, rnn.begin(torch.zeros(1, 4)), 2, 1.0, 0, Planning(horizon=4, iterations=8))
    assert plan.shape == (4, 2)
    assert torch.allclose(plan, torch.tensor([0.5, -0.5]).expand(4, 2), atol=0.15)


def test_other_families_say_that_they_have_no_controller(frame: Frame) -> None:
    from vidvla.families.bc import BehaviourCloning

    other: Family = BehaviourCloning.tiny()
    with pytest.raises(ValueError, match="evolved controller"):
        other.agent()
    with pytest.raises(ValueError, match="evolved controller"):
        other.dream_scores(frame[None], 1.0, 0)


def test_three_phases_are_trained_published_and_measured(tmp_path: Path, robot_data: Path) -> None:
    config, losses = VmcConfig(task="handle-press"), LossConfig(kl_weight=1e-5, positive_weight=2.0)
    plan = TrainConfig(steps=3, batch=2, warmup=0)
    stages = {"vmc.vae": VaeStage, "vmc.rnn": RnnStage}

    class Small(WorldModels):
        @classmethod
        def phases(cls, size: str = "small") -> list[Phase]:
            vae, rnn = (
                Phase(n, lambda c, kind=kind: kind(c, config, losses), plan, tuple(stages)[:i])  # type: ignore[misc]
                for i, (n, kind) in enumerate(stages.items())
            )
            search = EvolveConfig(steps=2, batch=4)
            return [vae, rnn, Phase("vmc.evolve", lambda c: _search(c, config), search, tuple(stages), evolve)]

        @classmethod
        def sizes(cls, size: str = "small") -> VmcConfig:
            return config

    here = Context(robot_data.parent, tmp_path / "here", tmp_path / "published")
    assert train(Small, here, device="cpu") == ["vmc.vae", "vmc.rnn", "vmc.evolve"]
    assert train(Small, here, device="cpu") == []
    published = json.loads((tmp_path / "published" / "vmc-metaworld" / "config.json").read_text())
    assert published["generations"] == [0, 1] and [r["generation"] for r in published["evolution"]] == [0, 1]
    assert {"best", "mean", "real"} <= set(published["evolution"][-1])
    weights = checkpoint.load(tmp_path / "published" / "vmc-metaworld").tensors["controllers.weights"]
    assert weights.shape == (2, 4, config.latent + config.hidden + 1)
    records = {record["phase"]: record for record in published["trained"]}
    assert records["vmc.evolve"]["train"]["steps"] == 2 and set(records["vmc.evolve"]["parents"]) == set(stages)

    there = Context(robot_data.parent, tmp_path / "there", tmp_path / "published")
    assert restore(Small, there) == list(records)
    assert all(is_done(there, phase) for phase in Small.phases())

    member = Small.load(tmp_path / "published", torch.device("cpu"))
    assert member.tasks == ("handle-press",)
    rows = measure_controllers(member, member.tasks, range(500_000, 500_002))
    named = {row.metric: row for row in rows if row.task == "all"}
    assert {f"real_score_{c}" for c in CONTROLLERS[1:]} | {f"dream_score_tau_{t:g}" for t in TAUS} <= set(named)
    assert {"dream_score", "real_score", "real_success"} <= set(named)
    assert all(row.n == 2 and math.isfinite(row.value) for row in rows) and EVOLVED_STEPS == 32
