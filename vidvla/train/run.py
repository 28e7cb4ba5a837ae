"""Phases in their order: finished ones are skipped, interrupted ones resumed, missing ones run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vidvla import checkpoint
from vidvla.families.base import SMALL, Context, Family, Phase
from vidvla.foundation.stages import CODEC, WORLD
from vidvla.train.loop import STATE, Progress, fit


def is_done(context: Context, phase: Phase) -> bool:
    """True where the phase has run to the end with these settings."""
    path = context.weights(phase.name) / checkpoint.CONFIG
    if not path.is_file():
        return False
    done: bool = json.loads(path.read_text())["train"] == phase.config.model_dump()
    return done


def _part(phase: Phase) -> str:
    """What a phase's weights are called in its own checkpoint."""
    return "codec" if phase.name == CODEC else "net"


def run_phase(context: Context, phase: Phase, device: str = "auto", stop_after: int | None = None) -> Progress:
    """Train one phase from wherever it stands; its averaged weights end in ``context.weights(phase.name)``.

    A phase that was finished with other settings goes on from its own weights, and its record keeps the earlier one.
    """
    stage, folder, final = phase.stage(context), context.runs / phase.name, context.weights(phase.name)
    earlier: list[dict[str, Any]] = []
    start = None
    if not (folder / STATE).is_file() and (final / checkpoint.WEIGHTS).is_file():
        start = checkpoint.load(final)
        earlier = [{key: value for key, value in start.config.items() if key != "model"}]

    def begin(model: nn.Module) -> None:
        if start is not None:
            start.fill(_inner(model), _part(phase))

    model, progress = fit(stage, phase.config, folder, device=device, stop_after=stop_after, begin=begin)
    if progress.step == phase.config.steps and int(os.environ.get("RANK", "0")) == 0:
        described = {
            "phase": phase.name,
            "train": phase.config.model_dump(),
            "data": stage.data_used(),
            "seconds": round(progress.seconds),
            "threads": torch.get_num_threads() * int(os.environ.get("WORLD_SIZE", "1")),
            "losses": progress.losses,
            "model": stage.config.model_dump() if hasattr(stage, "config") else {},
            "earlier": earlier,
        }
        checkpoint.save(final, {_part(phase): _inner(model)}, described, half=False)
    return progress


def _inner(model: nn.Module) -> nn.Module:
    """The net to keep: a wrapper around the loss is not part of the model."""
    net: nn.Module = getattr(model, "net", model)
    return net


def train(family: type[Family], context: Context, device: str = "auto") -> list[str]:
    """Run the family's missing phases, publish it, and return the names of the phases that ran."""
    ran = []
    for phase in family.phases(context.size):
        if not is_done(context, phase):
            run_phase(context, phase, device)
            ran.append(phase.name)
    family.publish(context)
    return ran


def restore(family: type[Family], context: Context) -> list[str]:
    """Take published weights as finished phases, so that training goes on from them on another machine.

    Phases whose own weights were not published (a later phase went on from them) are known by their record alone.

    Returns:
        Names of the phases that are finished now.
    """
    published = checkpoint.load(context.checkpoints / f"{family.name}-{WORLD}")
    sources = {phase: (published, part) for part, phase in family.published.items()}
    records = {record["phase"]: record for record in published.config["trained"]}
    if CODEC in records:
        sources[CODEC] = (checkpoint.load(context.checkpoints / "codec"), "codec")
    for name, record in records.items():
        folder = context.weights(name)
        folder.mkdir(parents=True, exist_ok=True)
        if name in sources:
            saved, part = sources[name]
            kept = "codec" if name == CODEC else "net"
            checkpoint.write(folder, {f"{kept}.{key}": value for key, value in saved.part(part).items()}, record)
        elif not (folder / checkpoint.CONFIG).is_file():
            checkpoint.write(folder, {}, record)
    return list(records)


def default_context(root: Path, size: str = SMALL) -> Context:
    """Data and runs under ``root / "runs"``; the small size publishes among the assets, others beside their runs."""
    if size == SMALL:
        return Context(root / "runs" / "data", root / "runs" / "train", checkpoint.ASSETS / "checkpoints")
    runs = root / "runs" / size
    return Context(runs / "data", runs / "train", runs / "checkpoints", size)
