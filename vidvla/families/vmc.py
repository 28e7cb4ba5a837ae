"""World Models (Ha & Schmidhuber 2018, arXiv 1803.10122): V sees, M dreams, C is evolved inside the dream.

V is a VAE of whole frames, M a mixture-density RNN over its latents, C a linear controller. The rewards of the dream
are M's learned regression of Meta-World's own dense reward of the task, by
:data:`~vidvla.worlds.base.LARGEST_REWARD`: nothing but pictures and actions goes in.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from vidvla import checkpoint
from vidvla.actions import ActionScale
from vidvla.data.clips import EpisodeStore
from vidvla.data.latents import FrameBatch, LatentBatch, LatentEpisodes, TaskFrames
from vidvla.families.base import (
    CONTROLLERS,
    EVOLVED,
    EVOLVED_STEPS,
    SMALL,
    Clock,
    Context,
    Evolution,
    Family,
    Phase,
    read_config,
)
from vidvla.foundation.controllers import Controllers, ControllerSearch
from vidvla.foundation.film import check_request
from vidvla.foundation.latent_dream import (
    Chance,
    Controller,
    Dreamed,
    LatentAgent,
    LatentModel,
    Planner,
    Planning,
    advance,
    dream,
    follow,
    linear_actions,
    plan_cem,
    unroll,
)
from vidvla.foundation.stages import WORLD, unit_actions
from vidvla.nn.rnn import LatentState, MixtureDensityRNN
from vidvla.nn.vae import ConvVAE, kl_to_standard_normal, moving_weight
from vidvla.pixels import to_float, to_uint8
from vidvla.saliency import Traced
from vidvla.train.evolve import EvolveConfig, evolve
from vidvla.train.loop import TrainConfig
from vidvla.types import ProgressCallback, Request, Rollout
from vidvla.worlds.agent import Played
from vidvla.worlds.base import Frame

VAE, RNN, EVOLVE = "vmc.vae", "vmc.rnn", "vmc.evolve"
"""Names of the phases."""
HORIZON = 16
"""Control steps that C acts for in the dream where a request has no actions."""
LONGEST = 1024
"""Control steps that one request may ask for."""
MOVED, MOVED_WEIGHT = 0.06, 5.0
"""A pixel this far (of the range) from how its episode began, or from how the task usually begins, counts so much:
the hand, and the button, which lies elsewhere in every episode, are few pixels."""
REWARD_WEIGHT = 100.0
"""Of the squared error of rewards in [0, 1], beside nats a latent: before success they differ by hundredths."""
PLANNING = Planning()
"""How the latent planner beside C plans."""
DREAMS = 4
"""Dreams from each frame that a score is the mean of."""


class VmcConfig(BaseModel):
    """Sizes of V and M, and what they learn.

    Attributes:
        task: the one task.
        size: side of V's frames in pixels.
        latent: numbers a frame.
        base: channels of V's first convolution.
        hidden: width of M's LSTM.
        mixtures: Gaussians of M's outlook.
        tau: temperature of the dreams that C is evolved in.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str = "button-press"
    size: int = 64
    latent: int = 8
    base: int = 8
    hidden: int = 16
    mixtures: int = 3
    tau: float = Field(default=1.0, gt=0)

    def vae(self) -> ConvVAE:
        return ConvVAE(self.size, self.latent, self.base)

    def rnn(self, action_dim: int) -> MixtureDensityRNN:
        return MixtureDensityRNN(self.latent, action_dim, self.hidden, self.mixtures)


class LossConfig(BaseModel):
    """Weights of V's divergence (nats, beside a mean squared error in [-1, 1]) and of M's steps that fulfil a task."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kl_weight: float = Field(ge=0)
    positive_weight: float = Field(gt=0)


def _task_frames(context: Context, config: VmcConfig) -> TaskFrames:
    return TaskFrames(EpisodeStore(context.data / WORLD), config.task, config.size)


def _trained(context: Context, config: VmcConfig, phase: str) -> nn.Module:
    """V or M with the weights of its phase."""
    net = config.vae() if phase == VAE else config.rnn(len(unit_actions().low))
    checkpoint.load(context.weights(phase)).fill(net, "net")
    return net.eval().requires_grad_(False)


class VaeStage:
    """V: reconstruct frames from few numbers."""

    name = VAE

    def __init__(self, context: Context, config: VmcConfig, losses: LossConfig) -> None:
        self.context, self.config, self.losses = context, config, losses

    @functools.cached_property
    def frames(self) -> TaskFrames:
        return _task_frames(self.context, self.config)

    @functools.cached_property
    def usual(self) -> Tensor:
        return to_float(self.frames.usual())[None]

    def build(self, own: Path | None = None) -> nn.Module:
        net = self.config.vae()
        if own is not None:
            checkpoint.load(own).fill(net, "net")
        return net

    def batch(self, size: int, generator: torch.Generator) -> FrameBatch:
        return self.frames.batch(size, generator)

    def loss(self, model: nn.Module, batch: FrameBatch, generator: torch.Generator) -> dict[str, Tensor]:
        frames, first = to_float(batch.frames), to_float(batch.first)
        noise = torch.randn((len(frames), self.config.latent), generator=generator).to(frames.device)
        decoded, mean, logvar = model(frames, noise)
        weight = moving_weight(frames, [first, self.usual.to(frames.device)], MOVED, MOVED_WEIGHT)
        square = (decoded - frames).square()
        divergence = kl_to_standard_normal(mean, logvar).mean()
        loss = (weight * square).mean() + self.losses.kl_weight * divergence
        return {"loss": loss, "mse": square.mean(), "kl": divergence}

    def data_used(self) -> dict[str, int]:
        return {f"episodes of {self.config.task}": len(self.frames.episodes)}

    @torch.no_grad()
    def preview(self, model: nn.Module) -> NDArray[np.uint8]:
        """True frames above, decoded ones below."""
        batch = self.frames.batch(8, torch.Generator().manual_seed(1))
        device = next(model.parameters()).device
        decoded, _, _ = model(to_float(batch.frames).to(device), torch.zeros(8, self.config.latent, device=device))
        rows = (batch.frames.numpy(), to_uint8(decoded))
        return np.concatenate([np.concatenate(list(row), axis=1) for row in rows])


class RnnStage:
    """M: what follows from latents and actions, on sequences as long as a controller is evolved for."""

    name = RNN

    def __init__(self, context: Context, config: VmcConfig, losses: LossConfig) -> None:
        self.context, self.config, self.losses = context, config, losses

    @functools.cached_property
    def episodes(self) -> LatentEpisodes:
        vae = _trained(self.context, self.config, VAE)
        assert isinstance(vae, ConvVAE)
        return LatentEpisodes(_task_frames(self.context, self.config), vae, unit_actions().to_unit)

    def build(self, own: Path | None = None) -> nn.Module:
        net = self.config.rnn(len(unit_actions().low))
        if own is not None:
            checkpoint.load(own).fill(net, "net")
        return net

    def batch(self, size: int, generator: torch.Generator) -> LatentBatch:
        return self.episodes.batch(size, EVOLVED_STEPS, generator)

    def loss(self, model: nn.Module, batch: LatentBatch, generator: torch.Generator) -> dict[str, Tensor]:
        outlook = model(batch.latents[:, :-1], batch.actions)
        positive = torch.tensor(self.losses.positive_weight, device=batch.mask.device)
        each = {
            "nll": -outlook.following.log_prob(batch.latents[:, 1:]) / self.config.latent,
            "reward": (outlook.rewards - batch.rewards).square(),
            "fulfilled": F.binary_cross_entropy_with_logits(
                outlook.fulfilled, batch.fulfilled, pos_weight=positive, reduction="none"
            ),
        }
        values = {name: value[batch.mask].mean() for name, value in each.items()}
        return {"loss": values["nll"] + REWARD_WEIGHT * values["reward"] + values["fulfilled"], **values}

    def data_used(self) -> dict[str, int]:
        return {f"episodes of {self.config.task}": len(self.episodes.episodes)}

    def preview(self, model: nn.Module) -> None:
        return None


def _search(context: Context, config: VmcConfig) -> ControllerSearch:
    def model() -> LatentModel:
        vae, rnn = (_trained(context, config, phase) for phase in (VAE, RNN))
        assert isinstance(vae, ConvVAE) and isinstance(rnn, MixtureDensityRNN)
        return LatentModel(vae, rnn, unit_actions(), torch.device("cpu"))

    return ControllerSearch(EVOLVE, config.task, config.tau, model, lambda: _task_frames(context, config))


class WorldModels(Family):
    """The three parts at work: C acts in M's dream, which V shows."""

    name: ClassVar[str] = "vmc"
    title: ClassVar[str] = "World Models (V-M-C)"
    order: ClassVar[int] = 60
    source: ClassVar[str] = "Ha & Schmidhuber 2018, arXiv 1803.10122; planning as in PlaNet, arXiv 1811.04551"
    summary: ClassVar[str] = "A linear controller, evolved in the dream of a recurrent net over a VAE; one task only."
    films: ClassVar[bool] = True
    acts: ClassVar[bool] = True
    attends: ClassVar[bool] = False
    general: ClassVar[bool] = False
    told: ClassVar[bool] = True
    chance: ClassVar[str] = "Every seed draws from the mixture of what M holds possible, at temperature 1."
    evolved: ClassVar[bool] = True
    published: ClassVar[dict[str, str]] = {"vae": VAE, "rnn": RNN, "controllers": EVOLVE}

    def __init__(self, model: LatentModel, controllers: Controllers, config: VmcConfig) -> None:
        self.model, self.controllers, self.config = model, controllers, config
        self.tasks = (config.task,)

    @classmethod
    def sizes(cls, size: str = SMALL) -> VmcConfig:
        """Of the shipped configuration."""
        return VmcConfig(**read_config(cls.name, size)["model"])

    @classmethod
    def phases(cls, size: str = SMALL) -> list[Phase]:
        table, config = read_config(cls.name, size), cls.sizes(size)
        losses, plans = LossConfig(**table["loss"]), table["train"]
        return [
            Phase(VAE, lambda c: VaeStage(c, config, losses), TrainConfig(**plans["vae"])),
            Phase(RNN, lambda c: RnnStage(c, config, losses), TrainConfig(**plans["rnn"]), (VAE,)),
            Phase(EVOLVE, lambda c: _search(c, config), EvolveConfig(**plans["evolve"]), (VAE, RNN), evolve),
        ]

    @classmethod
    def publish(cls, context: Context) -> None:
        sizes = cls.sizes(context.size)
        kept = Controllers.load(checkpoint.load(context.weights(EVOLVE)), "net")
        config = context.description(
            cls.name, WORLD, [VAE, RNN, EVOLVE], model=sizes.model_dump(), actions=unit_actions().saved(),
            generations=kept.generations.tolist(), evolution=kept.rows(),
        )  # fmt: skip
        nets = {"vae": _trained(context, sizes, VAE), "rnn": _trained(context, sizes, RNN), "controllers": kept}
        checkpoint.save(context.checkpoints / f"{cls.name}-{WORLD}", nets, config)

    @classmethod
    def load(cls, checkpoints: Path, device: torch.device) -> WorldModels:
        saved = checkpoint.load(checkpoints / f"{cls.name}-{WORLD}")
        config, scale = VmcConfig(**saved.config["model"]), ActionScale(**saved.config["actions"])
        vae, rnn = config.vae(), config.rnn(len(scale.low))
        saved.fill(vae, "vae")
        saved.fill(rnn, "rnn")
        kept = Controllers.load(saved, "controllers").to(device)
        model = LatentModel(vae.eval().to(device), rnn.eval().to(device), scale, device)
        family = cls(model, kept, config)
        family.records = tuple(saved.config["trained"])
        return family

    @classmethod
    def tiny(cls) -> WorldModels:
        config, scale = VmcConfig(), unit_actions()
        axes = len(scale.low)
        model = LatentModel(config.vae().eval(), config.rnn(axes).eval(), scale, torch.device("cpu"))
        generator = torch.Generator().manual_seed(0)
        weights = 0.3 * torch.randn((2, axes, config.latent + config.hidden + 1), generator=generator)
        return cls(model, Controllers(weights, torch.arange(2), torch.zeros(axes), torch.zeros(2, 3)), config)

    def nets(self) -> dict[str, nn.Module]:
        return {"vae": self.model.vae, "rnn": self.model.rnn, "controllers": self.controllers}

    def begin(self, frame: Frame) -> LatentState:
        """A dream that starts with ``frame``: see :class:`vidvla.worlds.dream.Mind`."""
        return self.model.begin(frame[None])

    @torch.no_grad()
    def imagine(self, state: LatentState, actions: NDArray[np.float32], seed: int) -> LatentState:
        """One control step on at the temperature of training: actions (B, A) in the world's units.

        All B dreams have the same luck: what differs between them is what was done.
        """
        return self._on(state, actions, Chance.draw(1, 1, self.config.latent, seed).repeat(len(actions)))

    @torch.no_grad()
    def sample(self, state: LatentState, actions: NDArray[np.float32], seed: int) -> LatentState:
        """The same, each dream with luck of its own."""
        return self._on(state, actions, Chance.draw(1, len(actions), self.config.latent, seed))

    def _on(self, state: LatentState, actions: NDArray[np.float32], chance: Chance) -> LatentState:
        unit = torch.from_numpy(self.model.scale.told(actions, LONGEST)).to(self.model.device)
        after, _, _ = advance(self.model.rnn, state, unit, self.config.tau, chance.uniform[0], chance.noise[0])
        return after

    @torch.no_grad()
    def outcome(
        self, state: LatentState, actions: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """M's rewards (B,) and probabilities of success (B,): see :class:`vidvla.worlds.dream.Rewarding`."""
        unit = torch.from_numpy(self.model.scale.told(actions, LONGEST)).to(self.model.device)
        outlook, _, _ = self.model.rnn.step(state, unit)
        return outlook.rewards.clamp(0, 1).cpu().numpy(), outlook.fulfilled.sigmoid().cpu().numpy()

    def look(self, state: LatentState) -> Frame:
        """The newest frames (B, H, W, 3), at V's own size."""
        return self.model.decode(state.latents)

    def controller(self, kept: int = -1) -> Controller:
        """C as it was in one of the kept generations, the last one by default."""
        weights = self.controllers.weights[kept][None]
        return lambda state, _: linear_actions(weights, state)

    def plan_cem(self, state: LatentState, seed: int, planning: Planning = PLANNING) -> NDArray[np.float32]:
        """Actions (horizon, A) in the world's units with the best predicted score from one state."""
        unit = plan_cem(self.model.rnn, state, len(self.model.scale.low), self.config.tau, seed, planning)
        return self.model.scale.to_world(unit.numpy())

    def agent(self, controller: str = EVOLVED, seed: int = 0, kept: int = -1) -> LatentAgent:
        axes, generator = len(self.model.scale.low), torch.Generator().manual_seed(seed)
        choices: dict[str, Controller] = {
            EVOLVED: self.controller(kept),
            "random": lambda state, _: 2 * torch.rand((1, axes), generator=generator).to(state.latents) - 1,
            "constant": lambda _, __: self.controllers.constant[None],
            "cem": Planner(self.model, self.config.tau, seed, PLANNING),
        }
        if controller not in choices:
            raise ValueError(f"expected a controller among {', '.join(CONTROLLERS)}; got {controller!r}")
        return LatentAgent(self.model, choices[controller])

    def evolution(self) -> Evolution:
        kept = self.controllers
        return Evolution(self.config.task, tuple(kept.generations.tolist()), tuple(kept.rows()))

    @torch.no_grad()
    def replay(self, frame: Frame, kept: int, tau: float, seed: int) -> tuple[Frame, Played]:
        state, chance = self.begin(frame), Chance.draw(EVOLVED_STEPS, 1, self.config.latent, seed)
        dreamed = dream(self.model.rnn, state, self.controller(kept), EVOLVED_STEPS, tau, chance)
        film = self.model.decode(torch.cat([state.latents, dreamed.latents[0]]))
        return film, Played(dreamed.rewards[0].cpu().numpy(), (dreamed.fulfilled[0] > 0.5).cpu().numpy())

    def dream_scores(self, frames: Frame, tau: float, seed: int) -> NDArray[np.float32]:
        state = self.model.begin(frames).repeat(DREAMS)
        chance = Chance.draw(EVOLVED_STEPS, len(state.latents), self.config.latent, seed)
        dreamed = dream(self.model.rnn, state, self.controller(), EVOLVED_STEPS, tau, chance)
        return dreamed.scores().reshape(DREAMS, -1).mean(axis=0)

    def traced(self, request: Request) -> Traced:
        check_request(request)
        pixels = self.model.pixels(request.frame[None]).requires_grad_()
        state = self.model.rnn.begin(self.model.vae.encode(pixels)[0])
        dreamed = self._unrolled(request, state)
        return Traced(pixels, self.model.vae.decode(dreamed.latents[0]), dreamed.actions[0])

    @torch.no_grad()
    def _dreamed(self, request: Request) -> Dreamed:
        check_request(request)
        return self._unrolled(request, self.begin(request.frame))

    def _unrolled(self, request: Request, state: LatentState) -> Dreamed:
        controller, steps = self.controller(), HORIZON
        if request.actions is not None:
            unit = torch.from_numpy(self.model.scale.told(request.actions, LONGEST)).to(self.model.device)
            controller, steps = follow(unit[None]), len(unit)
        chance = Chance.draw(steps, 1, self.config.latent, request.seed)
        return unroll(self.model.rnn, state, controller, steps, self.config.tau, chance)

    def act(self, request: Request) -> NDArray[np.float32]:
        """What C does in a dream from one frame, nothing remembered; :meth:`agent` sees every frame instead."""
        return self.model.scale.to_world(self._dreamed(request).actions[0].cpu().numpy())

    def __call__(
        self, request: Request, *, attention: bool = False, progress: ProgressCallback | None = None
    ) -> Rollout:
        clock = Clock()
        with clock.part("dream"):
            dreamed = self._dreamed(request)
        if progress is not None:
            progress(0.5, "decoding")
        with clock.part("decode"):
            film = self.model.decode(dreamed.latents[0])
        actions = self.model.scale.to_world(dreamed.actions[0].cpu().numpy())
        note = f"It knows one task, {self.config.task}, whatever it is told."
        return Rollout(film, tuple(range(1, len(film) + 1)), actions, None, clock.done(), (note,))


FAMILY = WorldModels
