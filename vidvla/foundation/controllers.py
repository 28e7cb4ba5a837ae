"""Linear controllers of a latent model, evolved in its dreams (Ha & Schmidhuber 2018, arXiv 1803.10122)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vidvla import checkpoint
from vidvla.checkpoint import Checkpoint
from vidvla.data.latents import TaskFrames
from vidvla.families.base import EVOLVED_STEPS
from vidvla.foundation.latent_dream import Chance, LatentAgent, LatentModel, dream, linear_actions
from vidvla.train.evolve import EvolveConfig, Weights, maximise, spaced
from vidvla.worlds.agent import play
from vidvla.worlds.metaworld import MetaWorld

ROLLOUTS = 16
"""Dreams that a candidate is rated by."""
KEPT = 12
"""Generations whose controller is kept, to replay the evolution."""
CHECKED = 4
"""Training layouts on which the evolving controller is measured in the simulator."""
CONSTANT = EvolveConfig(steps=40, batch=16, sigma=0.5)
"""The search for the best constant action."""


class Controllers(nn.Module):
    """What is kept of an evolution.

    Attributes:
        weights: (G, A, Z + H + 1) controllers of some generations, the bias last; the last one is the family's.
        generations: (G,) which generations they are the middle of.
        constant: (A,) unit scale, the constant action that is best in the dream.
        history: (N, 3) of every generation, the best and the mean score in the dream, and the score in the simulator
            on training layouts (NaN where it was not measured).
    """

    NAMES = ("weights", "generations", "constant", "history")
    weights: Tensor
    generations: Tensor
    constant: Tensor
    history: Tensor

    def __init__(self, weights: Tensor, generations: Tensor, constant: Tensor, history: Tensor) -> None:
        super().__init__()
        for name, value in zip(self.NAMES, (weights, generations, constant, history), strict=True):
            self.register_buffer(name, value)

    @classmethod
    def load(cls, saved: Checkpoint, prefix: str) -> Controllers:
        """Those of a checkpoint's part; their shapes are whatever it holds."""
        part = saved.part(prefix)
        net = cls(*(torch.zeros_like(part.get(name, torch.zeros(0))) for name in cls.NAMES))
        saved.fill(net, prefix)
        return net

    def rows(self) -> list[dict[str, Any]]:
        """The history as plain values, one row a generation; ``real`` is of training layouts."""
        names = ("best", "mean", "real")
        return [
            {"generation": g}
            | {n: round(v, 4) for n, v in zip(names, row, strict=True) if not math.isnan(v)}
            for g, row in enumerate(self.history.tolist())
        ]  # fmt: skip


class ControllerSearch:
    """C: evolved in M's dreams alone.

    A candidate is rated by its mean score over :data:`ROLLOUTS` dreams of
    :data:`~vidvla.families.base.EVOLVED_STEPS` control steps, which begin as recorded training episodes do. All
    candidates of a generation dream from the same starts with the same chance, in one batch.

    Args:
        name: of the phase.
        task: what the dreams are of.
        tau: temperature of the dreams.
        model: makes V and M, on the CPU, when first needed.
        frames: finds the recorded episodes of the task.
    """

    def __init__(
        self, name: str, task: str, tau: float, model: Callable[[], LatentModel], frames: Callable[[], TaskFrames]
    ) -> None:
        self.name, self.task, self.tau = name, task, tau
        self._model, self._frames = model, frames

    @functools.cached_property
    def model(self) -> LatentModel:
        return self._model()

    @functools.cached_property
    def frames(self) -> TaskFrames:
        return self._frames()

    @functools.cached_property
    def starts(self) -> Tensor:
        """(N, Z) of how recorded episodes begin."""
        return torch.cat([self.model.encode(np.asarray(e.frames[:1])) for e in self.frames.episodes])

    @functools.cached_property
    def _world(self) -> MetaWorld:
        return MetaWorld()

    @property
    def _shape(self) -> tuple[int, int]:
        """Actions, and what each is a linear map of."""
        return len(self.model.scale.low), self.model.rnn.latent + self.model.rnn.hidden + 1

    def _shaped(self, flat: Weights) -> Tensor:
        """(P, D) or (D,) -> (P, A, Z + H + 1)."""
        return torch.from_numpy(np.atleast_2d(flat)).float().unflatten(1, self._shape)

    def start(self, own: Path | None = None) -> Weights:
        if own is None:
            return np.zeros(math.prod(self._shape))
        kept = Controllers.load(checkpoint.load(own), "net")
        return kept.weights[-1].flatten().double().numpy()

    def rate(self, candidates: Weights, seed: int) -> Weights:
        weights, count = self._shaped(candidates), len(candidates)
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randint(len(self.starts), (ROLLOUTS,), generator=generator)
        state = self.model.rnn.begin(self.starts[chosen]).repeat(count)
        chance = Chance.draw(EVOLVED_STEPS, ROLLOUTS, self.model.rnn.latent, seed).repeat(count)
        dreamed = dream(self.model.rnn, state, lambda s, _: linear_actions(weights, s), EVOLVED_STEPS, self.tau, chance)
        return dreamed.scores().reshape(count, ROLLOUTS).mean(axis=1).astype(np.float64)

    def check(self, weights: Weights) -> float:
        one = self._shaped(weights)
        agent = LatentAgent(self.model, lambda state, _: linear_actions(one, state))
        seeds = sorted({e.entry.seed for e in self.frames.episodes})[:CHECKED]
        return float(np.mean([play(self._world, self.task, s, agent, EVOLVED_STEPS).score for s in seeds]))

    def result(self, means: Weights, rows: list[dict[str, Any]]) -> Controllers:
        kept = spaced(len(means), KEPT)
        history = [[row["best"], row["mean"], row.get("real", math.nan)] for row in rows]
        return Controllers(
            self._shaped(means[kept]), torch.tensor(kept), self._constant(), torch.tensor(history)
        )  # fmt: skip

    def _constant(self) -> Tensor:
        """The best constant action: a search among controllers that are their bias alone."""

        def rate(biases: Weights, seed: int) -> Weights:
            whole = np.zeros((len(biases), *self._shape))
            whole[..., -1] = biases
            return self.rate(whole.reshape(len(biases), -1), seed)

        bias = maximise(rate, CONSTANT, np.zeros(self._shape[0]))
        return torch.from_numpy(bias).float().tanh()

    def data_used(self) -> dict[str, int]:
        return {f"starts of {self.task}": len(self.starts)}
