"""Phases in their order: finished ones are skipped, interrupted ones resumed, missing ones run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import nn

from vidvla import checkpoint
from vidvla.families.base import SMALL, Context, Family, Phase
from vidvla.foundation.reader import READER
from vidvla.foundation.stages import CODEC, WORLD
from vidvla.train.loop import STATE, Progress, precision, state_step

ORIGIN = "origin.json"
"""What a run began from: fingerprints of its parents, and the record of the weights that it goes on from."""


SHARED = {CODEC: ("codec", "codec"), READER: ("reader", "net")}
"""Phases that are published in a folder of their own, and what their net is called there."""


def _parents(context: Context, phase: Phase) -> dict[str, str]:
    """Fingerprints of the weights that ``phase`` builds on or learns from, of those that are here."""
    folders = {name: context.weights(name) for name in (*phase.parents, *phase.teachers)}
    return {n: checkpoint.fingerprint(f) for n, f in folders.items() if (f / checkpoint.WEIGHTS).is_file()}


def _unchanged(known: dict[str, str], now: dict[str, str]) -> bool:
    return all(now.get(name, mark) == mark for name, mark in known.items())


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return found


def is_done(context: Context, phase: Phase) -> bool:
    """True where the phase has run to the end with these settings, on the weights that its parents have now."""
    record = _read(context.weights(phase.name) / checkpoint.CONFIG)
    same = record.get("train") == phase.config.model_dump()
    return same and _unchanged(record.get("parents", {}), _parents(context, phase))


def _part(phase: Phase) -> str:
    """What a phase's weights are called in its own checkpoint."""
    return "codec" if phase.name == CODEC else "net"


def _begin(context: Context, phase: Phase) -> Path | None:
    """Get the run folder ready: the phase's own finished weights to begin with, or None to begin with its parents'.

    A state or weights that came of other parents' weights are set aside, and so is a state at whose end the teachers
    were others.
    """
    folder, final = context.runs / phase.name, context.weights(phase.name)
    record, origin, parents = _read(final / checkpoint.CONFIG), _read(folder / ORIGIN), _parents(context, phase)

    def built_on(known: dict[str, str]) -> bool:
        return _unchanged({n: mark for n, mark in known.items() if n not in phase.teachers}, parents)

    own = final if (final / checkpoint.WEIGHTS).is_file() and built_on(record.get("parents", {})) else None
    if (folder / STATE).is_file():
        known = origin.get("parents", {})
        asked, trained, plan = phase.config.steps, state_step(folder), record.get("train", {})
        if _unchanged(known, parents) or (built_on(known) and trained < asked):
            ended = trained == asked == plan.get("steps") and plan != phase.config.model_dump()
            if trained > asked or ended:
                raise ValueError(
                    f"expected more than the {trained} steps that {phase.name} has trained, got {asked}"
                    f" (to begin anew with these settings, remove {folder})"
                )
            origin = {"parents": parents, "earlier": origin.get("earlier", [])}
            (folder / ORIGIN).write_text(json.dumps(origin, indent=2) + "\n")
            return own
        (folder / STATE).replace(folder / "stale.safetensors")
    earlier = [] if own is None else [{key: value for key, value in record.items() if key != "model"}]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ORIGIN).write_text(json.dumps({"parents": parents, "earlier": earlier}, indent=2) + "\n")
    return own


def run_phase(context: Context, phase: Phase, device: str = "auto", stop_after: int | None = None) -> Progress:
    """Train one phase from wherever it stands; its averaged weights end in ``context.weights(phase.name)``.

    A phase that was finished with fewer steps goes on from its state, or from its own weights where no state is left;
    its record then keeps the earlier one. A phase whose parents were trained on since begins anew.
    """
    folder, final = context.runs / phase.name, context.weights(phase.name)
    own = _begin(context, phase) if _is_main() else None
    processes = PartialState(cpu=device == "cpu" or not torch.cuda.is_available())
    (own,) = broadcast_object_list([own]) if processes.num_processes > 1 else (own,)
    stage = phase.stage(context)
    model, progress = phase.trainer(stage, phase.config, folder, device=device, stop_after=stop_after, own=own)
    if progress.step == phase.config.steps and _is_main():
        described = {
            "phase": phase.name,
            "train": phase.config.model_dump(),
            "data": stage.data_used(),
            "seconds": round(progress.seconds),
            "precision": precision(device),
            "threads": torch.get_num_threads() * int(os.environ.get("WORLD_SIZE", "1")),
            "losses": progress.losses,
            "model": stage.config.model_dump() if hasattr(stage, "config") else {},
            **_read(folder / ORIGIN),
        }
        checkpoint.save(final, {_part(phase): _inner(model)}, described, bits=32)
    processes.wait_for_everyone()  # others read what the main process wrote
    return progress


def _is_main() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def _inner(model: nn.Module) -> nn.Module:
    """The net to keep: a wrapper around the loss is not part of the model."""
    net: nn.Module = getattr(model, "net", model)
    return net


def train(family: type[Family], context: Context, device: str = "auto") -> list[str]:
    """Run the family's missing phases, publish it, and return the names of the phases that ran.

    Optional phases that were never begun stay so.
    """
    ran = []
    for phase in family.phases(context.size):
        if phase.optional and not (context.runs / phase.name).is_dir():
            continue
        if not is_done(context, phase):
            run_phase(context, phase, device)
            ran.append(phase.name)
    if _is_main():
        family.publish(context)
    return ran


def restore(family: type[Family], context: Context) -> list[str]:
    """Take published weights as finished phases, so that training goes on from them on another machine.

    Phases whose own weights were not published (a later phase went on from them) are known by their record alone.
    What was trained here already stays.

    Returns:
        Names of the phases that are finished now.
    """
    published = checkpoint.load(context.checkpoints / f"{family.name}-{WORLD}")
    sources = {phase: (published, part) for part, phase in family.published.items()}
    records = {record["phase"]: record for record in published.config["trained"]}
    phases = {phase.name: phase for phase in family.phases(context.size)}
    for shared, (kept_in, part) in SHARED.items():
        if shared in records:
            sources[shared] = (checkpoint.load(context.checkpoints / kept_in), part)
    for name, record in records.items():
        folder = context.weights(name)
        if (folder / checkpoint.WEIGHTS).is_file():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        # published weights are rounded: what was built on them here is known by the fingerprints that they have here
        record = record | {"parents": _parents(context, phases[name])}
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
