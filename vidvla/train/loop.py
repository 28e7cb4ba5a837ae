"""The one gradient loop: any stage, on CPUs or GPUs, one machine or several, resumed exactly after a kill."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from vidvla.train.muon import Muon, muon_groups

STATE = "state.safetensors"
"""What an interrupted run goes on from."""


class TrainConfig(BaseModel):
    """How long and how a stage trains.

    Attributes:
        steps: optimiser steps in all.
        batch: samples a step over all processes.
        lr: peak learning rate.
        warmup: steps of linear warm-up.
        cooldown: share of the steps at the end over which the rate falls linearly to a tenth.
        clip: largest gradient norm.
        ema: decay of the averaged weights.
        seed: of batches and noise; with the step it fixes every random draw.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(gt=0)
    batch: int = Field(default=32, gt=0)
    lr: float = Field(default=1e-3, gt=0)
    warmup: int = Field(default=100, ge=0)
    cooldown: float = Field(default=0.3, ge=0, le=1)
    clip: float = Field(default=1.0, gt=0)
    ema: float = Field(default=0.999, ge=0, lt=1)
    seed: int = 0

    def rate(self, step: int) -> float:
        """The learning rate of ``step``."""
        start = self.steps * (1 - self.cooldown)
        fall = 1.0 if step < start else 1 - 0.9 * (step - start) / max(self.steps - start, 1)
        return self.lr * min(1.0, (step + 1) / max(self.warmup, 1)) * fall


class Stage(Protocol):
    """One thing to train: a net, its batches and its loss."""

    name: str

    def build(self, own: Path | None = None) -> nn.Module:
        """The net, with the weights that the stage starts from, or with its ``own`` of an earlier run."""

    def batch(self, size: int, generator: torch.Generator) -> Any:
        """A batch of ``size`` samples, drawn by ``generator`` alone. Has ``to(device)``."""

    def loss(self, model: nn.Module, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Scalars; the one under ``loss`` is minimised, the others are logged."""

    def data_used(self) -> dict[str, int]:
        """What the stage learns from, counted, for the training record."""

    def preview(self, model: nn.Module) -> NDArray[np.uint8] | None:
        """A picture (H, W, 3) for the log, predicted beside true, or None."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands."""

    step: int
    seconds: float
    losses: dict[str, float]


def _state_tensors(model: nn.Module, ema: EMAModel, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors = {f"model.{name}": value.detach() for name, value in model.state_dict().items()}
    tensors |= {f"ema.{i}": value for i, value in enumerate(ema.shadow_params)}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    return {name: value.contiguous().clone() for name, value in tensors.items()}


def save_state(
    folder: Path, model: nn.Module, ema: EMAModel, optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    """Write everything that the next step depends on; a kill in the middle leaves the last whole state."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "state.partial"
    meta = {
        "step": str(progress.step),
        "seconds": str(progress.seconds),
        "losses": json.dumps(progress.losses),
    }
    save_file(_state_tensors(model, ema, optimizer), partial, metadata=meta)
    partial.replace(folder / STATE)


def load_state(folder: Path, model: nn.Module, ema: EMAModel, optimizer: torch.optim.Optimizer) -> Progress:
    """Continue from :func:`save_state`; a folder without a state starts at step 0."""
    path = folder / STATE
    if not path.is_file():
        return Progress(0, 0.0, {})
    with safe_open(path, framework="pt") as file:
        meta = file.metadata()
    tensors = load_file(path)
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    ema.shadow_params = [tensors[f"ema.{i}"].to(p.device) for i, p in enumerate(ema.shadow_params)]
    ema.optimization_step = int(meta["step"])
    states: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            states.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": states})
    return Progress(int(meta["step"]), float(meta["seconds"]), json.loads(meta["losses"]))


def state_step(folder: Path) -> int:
    """Steps behind the saved state in ``folder``; 0 where there is none."""
    path = folder / STATE
    if not path.is_file():
        return 0
    with safe_open(path, framework="pt") as file:
        return int(file.metadata()["step"])


def step_generator(seed: int, step: int, process: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The generator of one step on one process: a pure function, so that resuming replays nothing."""
    mixed = int(np.random.SeedSequence([seed, step, process]).generate_state(1, np.uint64)[0] >> np.uint64(1))
    return torch.Generator(device).manual_seed(mixed)


def _append(folder: Path, row: dict[str, Any]) -> None:
    with (folder / "log.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def _on_gpu(device: str) -> bool:
    return device != "cpu" and torch.cuda.is_available()


def precision(device: str) -> str:
    """What the layers are run in, as Accelerate names it: GPUs take bf16, CPUs what the environment says, or fp32."""
    return "bf16" if _on_gpu(device) else os.environ.get("ACCELERATE_MIXED_PRECISION", "no")


def fit(
    stage: Stage,
    config: TrainConfig,
    folder: Path,
    *,
    device: str = "auto",
    save_seconds: float = 120.0,
    log_every: int = 25,
    preview_every: int = 250,
    stop_after: int | None = None,
    own: Path | None = None,
) -> tuple[nn.Module, Progress]:
    """Train ``stage`` in ``folder``, from wherever it stands there, and return the averaged net.

    Args:
        device: ``auto`` (Accelerate's choice), ``cpu`` or ``cuda``; GPUs train in bf16, and so do CPUs where the
            environment says ``ACCELERATE_MIXED_PRECISION=bf16``: worth it for those with bf16 units.
        save_seconds: time between saved states.
        own: finished weights of an earlier run of the stage, to begin with them.
        stop_after: stop cleanly at this step, as if killed after saving (for tests and time limits).
    """
    on_gpu = _on_gpu(device)
    accelerator = Accelerator(
        cpu=not on_gpu,  # must be said: several processes without a GPU would each train alone otherwise
        mixed_precision=precision(device),
        log_with="tensorboard",
        project_dir=str(folder),
    )
    with accelerator.local_main_process_first():  # what the first process derives from the data, others read
        with torch.random.fork_rng():  # fresh weights depend on the seed alone; the caller's generator stays as it is
            torch.manual_seed(config.seed)
            model = stage.build(own).train()
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # convolutions on CPUs want it
        stage.batch(1, step_generator(config.seed, 0, 0))
    optimizer: Any = Muon(muon_groups(model), lr=config.lr)
    ema = EMAModel(model.parameters(), decay=config.ema, use_ema_warmup=True, power=0.75)
    progress = load_state(folder, model, ema, optimizer)
    net, optimizer = accelerator.prepare(model, optimizer)
    ema.to(accelerator.device)
    accelerator.init_trackers(stage.name)
    share, process = config.batch // accelerator.num_processes, accelerator.process_index
    started, saved = time.monotonic() - progress.seconds, time.monotonic()
    last = min(config.steps, stop_after or config.steps)
    main = accelerator.is_main_process
    bar = tqdm(range(progress.step, last), initial=progress.step, total=last, desc=stage.name, disable=not main)
    losses: dict[str, float] = progress.losses
    for step in bar:
        generator = step_generator(config.seed, step, process)
        batch = stage.batch(share, generator).to(accelerator.device)
        with accelerator.autocast():
            values = stage.loss(net, batch, generator)
        accelerator.backward(values["loss"])
        norm = accelerator.clip_grad_norm_(net.parameters(), config.clip)
        for group in optimizer.param_groups:
            group["lr"] = config.rate(step)
        optimizer.step()
        optimizer.zero_grad()
        ema.step(model.parameters())
        if main:
            now = {name: float(value.detach()) for name, value in values.items()}
            losses = {n: 0.98 * losses.get(n, v) + 0.02 * v for n, v in now.items()}
            if step % log_every == 0:
                bar.set_postfix({n: f"{v:.4f}" for n, v in losses.items()})
                accelerator.log({**now, "lr": config.rate(step), "grad_norm": float(norm)}, step=step)
                _append(folder, {"step": step, "seconds": round(time.monotonic() - started, 1), **now})
            if preview_every and (step + 1) % preview_every == 0:
                _preview(accelerator, stage, model, ema, step)
            if time.monotonic() - saved > save_seconds or step + 1 == last:
                done = Progress(step + 1, time.monotonic() - started, losses)
                save_state(folder, model, ema, optimizer, done)
                saved = time.monotonic()
    for tracker in accelerator.trackers:  # not end_training(): the processes are needed together for the next phase
        tracker.finish()
    ema.copy_to(model.parameters())
    return model.eval(), Progress(last, time.monotonic() - started, losses)


def _preview(accelerator: Accelerator, stage: Stage, model: nn.Module, ema: EMAModel, step: int) -> None:
    ema.store(model.parameters())
    ema.copy_to(model.parameters())
    model.eval()
    with torch.no_grad():
        picture = stage.preview(model)
    model.train()
    ema.restore(model.parameters())
    if picture is not None:
        from PIL import Image

        accelerator.get_tracker("tensorboard").log_images({stage.name: picture[None]}, step=step, dataformats="NHWC")
        Image.fromarray(picture).save(Path(accelerator.project_dir) / "preview.png")
