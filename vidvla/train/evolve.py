"""Evolution of what no gradient reaches: CMA-ES (Hansen 2016, arXiv 1604.00772) by the ``cma`` package.

The covariance is kept diagonal (sep-CMA-ES, Ros & Hansen 2008): a linear controller has over a thousand weights, where
a full matrix takes as many generations to learn anything, and a hundred times the time of a generation to update.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import PartialState
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm

from vidvla.train.loop import STATE, Progress

EVOLUTION = "evolution.json"
"""One row a generation, in the run's folder."""

Weights = NDArray[np.float64]


class EvolveConfig(BaseModel):
    """How long and how a search evolves.

    Attributes:
        steps: generations.
        batch: candidates a generation.
        sigma: standard deviation of the first generation's weights.
        check_every: generations between measurements in the real world, which the search does not see.
        seed: of candidates and of what they are tried on.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(gt=0)
    batch: int = Field(default=32, gt=3)
    sigma: float = Field(default=0.1, gt=0)
    check_every: int = Field(default=10, gt=0)
    seed: int = 0


class Search(Protocol):
    """What is evolved."""

    name: str

    def start(self, own: Path | None = None) -> Weights:
        """(D,) the middle of the first generation: fresh, or what an earlier run in ``own`` ended with."""

    def rate(self, candidates: Weights, seed: int) -> Weights:
        """Candidates (P, D) -> returns (P,), more is better; ``seed`` fixes chance, alike for all of them."""

    def check(self, weights: Weights) -> float:
        """The return of (D,) in the real world, on layouts that may be trained on; for the log alone."""

    def result(self, means: Weights, rows: list[dict[str, Any]]) -> nn.Module:
        """What is kept of an evolution: the middle of every generation (G, D), and its log."""

    def data_used(self) -> dict[str, int]:
        """What the search learns from, counted, for the training record."""


class Strategy:
    """Separable CMA-ES that maximises; a pure function of its start, its seed and what it was told."""

    def __init__(self, start: Weights, sigma: float, population: int, seed: int) -> None:
        with warnings.catch_warnings():  # the package warns on import where matplotlib is missing
            warnings.simplefilter("ignore", UserWarning)
            import cma
        generator = np.random.default_rng(seed)
        options = {
            "popsize": population,
            "CMA_diagonal": True,
            "randn": lambda *shape: generator.standard_normal(shape),
            "seed": math.nan,  # leaves numpy's global generator alone
            "verbose": -9,
            "verb_log": 0,
        }
        self._strategy = cma.CMAEvolutionStrategy(start, sigma, options)

    @property
    def mean(self) -> Weights:
        """(D,) the middle of the coming generation."""
        return np.array(self._strategy.mean)

    def ask(self) -> Weights:
        """The next candidates (P, D)."""
        return np.stack(self._strategy.ask())

    def tell(self, candidates: Weights, returns: Weights) -> None:
        """How good the candidates (P, D) are, (P,)."""
        self._strategy.tell(list(candidates), (-returns).tolist())  # the package minimises


def generation_seed(seed: int, generation: int) -> int:
    """The seed of one generation's chance: a pure function, so that resuming replays nothing of it."""
    return int(np.random.SeedSequence([seed, generation]).generate_state(1)[0] >> 1)


def maximise(rate: Callable[[Weights, int], Weights], config: EvolveConfig, start: Weights) -> Weights:
    """A short evolution that leaves nothing behind -> the last middle (D,); ``rate`` as of :class:`Search`."""
    strategy = Strategy(start, config.sigma, config.batch, config.seed)
    for generation in range(config.steps):
        candidates = strategy.ask()
        strategy.tell(candidates, rate(candidates, generation_seed(config.seed, generation)))
    return strategy.mean


def evolve(
    search: Search,
    config: EvolveConfig,
    folder: Path,
    *,
    device: str = "auto",
    save_seconds: float = 30.0,
    stop_after: int | None = None,
    own: Path | None = None,
) -> tuple[nn.Module, Progress]:
    """Evolve ``search`` in ``folder``, from wherever it stands there; arguments as of :func:`vidvla.train.loop.fit`.

    Its state is where it started and every return so far: told the same returns again, the strategy is where it was,
    bit for bit, and no part of it has to be pickled.

    Args:
        device: takes no part: a search knows where its nets are.
    """
    told, begun, before, rows = _load(folder)
    start = search.start(own) if begun is None else begun
    strategy, means, returns = Strategy(start, config.sigma, config.batch, config.seed), [], list(told)
    for known in told:
        strategy.tell(strategy.ask(), known)
        means.append(strategy.mean)
    started, saved = time.monotonic() - before, time.monotonic()
    last = min(config.steps, stop_after or config.steps)
    main = PartialState().is_main_process
    bar = tqdm(range(len(told), last), initial=len(told), total=last, desc=search.name, disable=not main)
    for generation in bar:
        candidates = strategy.ask()
        returns.append(search.rate(candidates, generation_seed(config.seed, generation)))
        strategy.tell(candidates, returns[-1])
        means.append(strategy.mean)
        row: dict[str, Any] = {
            "generation": generation,
            "best": round(float(returns[-1].max()), 4),
            "mean": round(float(returns[-1].mean()), 4),
        }
        if generation % config.check_every == 0 or generation + 1 == config.steps:
            row["real"] = round(search.check(means[-1]), 4)
        rows.append(row)
        bar.set_postfix(row)
        if main and (time.monotonic() - saved > save_seconds or generation + 1 == last):
            _save(folder, start, returns, rows, time.monotonic() - started)
            saved = time.monotonic()
    progress = Progress(last, time.monotonic() - started, _newest(rows))
    return search.result(np.stack(means), rows), progress


def _newest(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The newest value of every column."""
    return {name: value for row in rows for name, value in row.items() if name != "generation"}


def _save(
    folder: Path, start: Weights, returns: list[Weights], rows: list[dict[str, Any]], seconds: float
) -> None:  # fmt: skip
    """Write what the next generation depends on; a kill in the middle leaves the last whole state."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / EVOLUTION).write_text("[\n " + ",\n ".join(json.dumps(row) for row in rows) + "\n]\n")
    partial = folder / "state.partial"
    tensors = {"start": torch.from_numpy(start), "returns": torch.from_numpy(np.stack(returns))}
    meta = {"step": str(len(returns)), "seconds": str(seconds), "rows": json.dumps(rows)}
    save_file(tensors, partial, metadata=meta)
    partial.replace(folder / STATE)


def _load(folder: Path) -> tuple[list[Weights], Weights | None, float, list[dict[str, Any]]]:
    """Returns told so far, the start, seconds and the log, all of them empty in a new folder."""
    path = folder / STATE
    if not path.is_file():
        return [], None, 0.0, []
    with safe_open(path, framework="pt") as file:
        meta = file.metadata()
    tensors = load_file(path)
    return list(tensors["returns"].numpy()), tensors["start"].numpy(), float(meta["seconds"]), json.loads(meta["rows"])


def spaced(count: int, kept: int) -> list[int]:
    """At most ``kept`` of ``count`` generations, evenly spaced, the first and the last among them."""
    return sorted({round(place) for place in np.linspace(0, count - 1, kept)})
