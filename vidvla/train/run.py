"""Phases in their order: finished ones are skipped, interrupted ones resumed, missing ones run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch

from vidvla import checkpoint
from vidvla.families.base import SMALL, Context, Family, Phase
from vidvla.train.loop import Progress, fit


def is_done(context: Context, phase: Phase) -> bool:
    """True where the phase has run to the end with these settings."""
    path = context.weights(phase.name) / checkpoint.CONFIG
    if not path.is_file():
        return False
    done: bool = json.loads(path.read_text())["train"] == phase.config.model_dump()
    return done


def run_phase(context: Context, phase: Phase, device: str = "auto", stop_after: int | None = None) -> Progress:
    """Train one phase from wherever it stands; its averaged weights end in ``context.weights(phase.name)``."""
    stage = phase.stage(context)
    folder = context.runs / phase.name
    model, progress = fit(stage, phase.config, folder, device=device, stop_after=stop_after)
    if progress.step == phase.config.steps and int(os.environ.get("RANK", "0")) == 0:
        saved = getattr(model, "net", model)  # a wrapper around the loss is not part of the model
        part = "codec" if phase.name.endswith(".codec") else "net"
        described = {
            "phase": phase.name,
            "train": phase.config.model_dump(),
            "data": stage.data_used(),
            "seconds": round(progress.seconds),
            "threads": torch.get_num_threads() * int(os.environ.get("WORLD_SIZE", "1")),
            "losses": progress.losses,
            "model": stage.config.model_dump() if hasattr(stage, "config") else {},
        }
        checkpoint.save(context.weights(phase.name), {part: saved}, described, half=False)
    return progress


def train(family: type[Family], context: Context, device: str = "auto") -> list[str]:
    """Run the family's missing phases, publish it, and return the names of the phases that ran."""
    ran = []
    for phase in family.phases(context.size):
        if not is_done(context, phase):
            run_phase(context, phase, device)
            ran.append(phase.name)
    family.publish(context)
    return ran


def default_context(root: Path, size: str = SMALL) -> Context:
    """Data and runs under ``root / "runs"``; the small size publishes among the assets, others beside their runs."""
    if size == SMALL:
        return Context(root / "runs" / "data", root / "runs" / "train", checkpoint.ASSETS / "checkpoints")
    runs = root / "runs" / size
    return Context(runs / "data", runs / "train", runs / "checkpoints", size)
